/* pack_names.c - where a model's packs lie, and how a changed model is known. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/cache/pack_names.h"

#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <xxhash.h>

#define PACK_SUFFIX ".espalier-pack"
enum { SETTLED_SECONDS = 2, WORDS_BYTES = 128 };

/* --- identity -------------------------------------------------------------------------------- */

static bool is_young(const struct stat *status) {
    struct timespec now;
    return clock_gettime(CLOCK_REALTIME, &now) != 0 ||
           status->st_ctim.tv_sec + SETTLED_SECONDS >= now.tv_sec;
}

/* Not the device, whose number may be another after the next boot. */
static void add_file(pack_identity *sum, const char *path, const char *name) {
    struct stat status;
    if (stat(path, &status) != 0 || !S_ISREG(status.st_mode)) return;
    uint64_t facts[] = {(uint64_t)status.st_ino,         (uint64_t)status.st_size,
                        (uint64_t)status.st_mtim.tv_sec, (uint64_t)status.st_mtim.tv_nsec,
                        (uint64_t)status.st_ctim.tv_sec, (uint64_t)status.st_ctim.tv_nsec,
                        XXH3_64bits(name, strlen(name))};
    sum->of_files += XXH3_64bits(facts, sizeof facts);
    if (is_young(&status)) sum->settled = false;
}

/* Of a folder's files, in any order; packs that lie there are none of the model. */
static void add_folder(pack_identity *sum, const char *path) {
    DIR *folder = opendir(path);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char file[PATH_MAX];
        bool packed = strstr(entry->d_name, PACK_SUFFIX) != NULL;
        int bytes = snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        if (!packed && bytes < (int)sizeof file) add_file(sum, file, entry->d_name);
    }
    closedir(folder);
}

pack_identity pack_identity_of(const char *path) {
    pack_identity sum = {.settled = true};
    struct stat status;
    char copy[PATH_MAX];
    if (stat(path, &status) != 0) return (pack_identity){0};
    if (S_ISDIR(status.st_mode)) {
        add_folder(&sum, path);
    } else if (strstr(path, "-of-")) { /* a part of a split model has the others beside it */
        snprintf(copy, sizeof copy, "%s", path);
        add_folder(&sum, dirname(copy));
    } else {
        snprintf(copy, sizeof copy, "%s", path);
        add_file(&sum, path, basename(copy));
    }
    return sum;
}

/* --- places ---------------------------------------------------------------------------------- */

/* "cpu-tiles-1" -> "cpu-tiles"; what is no letter, digit or '-' becomes '+'. */
static void print_layout(char out[WORDS_BYTES], const char *layout) {
    size_t used = 0;
    for (; *layout && used < WORDS_BYTES - 1; layout++) {
        size_t digits = *layout == '-' ? strspn(layout + 1, "0123456789") : 0;
        bool ends = digits > 0 && (layout[1 + digits] == 0 || layout[1 + digits] == ',');
        bool plain = *layout == '-' || (*layout >= 'a' && *layout <= 'z') ||
                     (*layout >= '0' && *layout <= '9');
        if (ends)
            layout += digits;
        else
            out[used++] = plain ? *layout : '+';
    }
    out[used] = 0;
}

/* ".q8_0.cpu-tiles.espalier-pack" */
static void print_suffix(char out[WORDS_BYTES * 2], const char *format, const char *layout) {
    char words[WORDS_BYTES];
    print_layout(words, layout);
    snprintf(out, WORDS_BYTES * 2, "%s%.32s.%s" PACK_SUFFIX, format[0] ? "." : "", format, words);
}

static bool is_folder(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

bool pack_name_beside(char out[PATH_MAX], const char *model_path, const char *format,
                      const char *layout) {
    char real[PATH_MAX], suffix[WORDS_BYTES * 2];
    out[0] = 0;
    if (!realpath(model_path, real)) return false;
    print_suffix(suffix, format, layout);
    const char *inside = is_folder(real) ? "/model" : "";
    return snprintf(out, PATH_MAX, "%s%s%s", real, inside, suffix) < PATH_MAX;
}

bool pack_name_in(char out[PATH_MAX], const char *folder, const char *model_path,
                  const char *format, const char *layout) {
    char real[PATH_MAX], copy[PATH_MAX], suffix[WORDS_BYTES * 2];
    out[0] = 0;
    if (!realpath(model_path, real)) return false;
    memcpy(copy, real, sizeof copy);
    print_suffix(suffix, format, layout);
    return snprintf(out, PATH_MAX, "%s/%s.%016llx%s", folder, basename(copy),
                    (unsigned long long)XXH3_64bits(real, strlen(real)), suffix) < PATH_MAX;
}

void pack_make_folder(const char *path) {
    char above[PATH_MAX];
    snprintf(above, sizeof above, "%s", path);
    if (mkdir(path, 0700) == 0 || errno != ENOENT) return;
    mkdir(dirname(above), 0700);
    mkdir(path, 0700);
}

mode_t pack_mode_of(const char *model_path) {
    struct stat status;
    return stat(model_path, &status) == 0 ? (status.st_mode & 0444) | 0200 : 0600;
}
