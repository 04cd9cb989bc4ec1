/* new_folder.c - made aside, filled, synced, renamed. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/new_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/model/model.h"

static esp_code fail_system(const char *what, const char *path, esp_error *err) {
    char shown[96];
    int number = errno;
    file_show_name(shown, sizeof shown, path);
    esp_code code = number == ENOSPC || number == EDQUOT                     ? ESP_EXHAUSTED
                    : number == EACCES || number == EPERM || number == EROFS ? ESP_DENIED
                                                                             : ESP_INVALID;
    return esp_fail_field(err, code, "--out", "%s: cannot %s: %s", shown, what, strerror(number));
}

static esp_code join(char out[PATH_MAX], const char *folder, const char *name, esp_error *err) {
    if (snprintf(out, PATH_MAX, "%s/%s", folder, name) < PATH_MAX) return ESP_OK;
    return esp_fail_field(err, ESP_INVALID, "--out", "the path of the folder is too long");
}

/* ---- files ---- */

esp_code new_folder_file(const new_folder *folder, const char *name, new_folder_writer writer,
                         void *arg, esp_error *err) {
    char path[PATH_MAX];
    esp_code code = join(path, folder->made, name, err);
    if (code) return code;
    FILE *file = fopen(path, "wbx");
    if (!file) return fail_system("make the file", path, err);
    code = writer(arg, file, err);
    if (!code && (ferror(file) || fflush(file) != 0 || fsync(fileno(file)) != 0))
        code = fail_system("write", path, err);
    if (fclose(file) != 0 && !code) code = fail_system("write", path, err);
    return code;
}

typedef struct byte_run {
    const void *bytes;
    size_t count;
} byte_run;

static esp_code write_run(void *arg, FILE *file, esp_error *err) {
    const byte_run *run = arg;
    (void)err;
    fwrite(run->bytes, 1, run->count, file);
    return ESP_OK;
}

esp_code new_folder_bytes(const new_folder *folder, const char *name, const void *bytes,
                          size_t count, esp_error *err) {
    byte_run run = {bytes, count};
    return new_folder_file(folder, name, write_run, &run, err);
}

/* ---- the folder ---- */

static void remove_folder(const char *folder) {
    DIR *dir = opendir(folder);
    char path[PATH_MAX];
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (entry->d_name[0] != '.' && !join(path, folder, entry->d_name, NULL)) unlink(path);
    if (dir) closedir(dir);
    rmdir(folder);
}

static esp_code sync_folder(const char *folder, esp_error *err) {
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return fail_system("open the folder", folder, err);
    esp_code code = fsync(fd) == 0 ? ESP_OK : fail_system("write", folder, err);
    close(fd);
    return code;
}

/* The name of `out` without slashes at its end, and that of the folder around it. */
static esp_code split_out(new_folder *folder, const char *out, esp_error *err) {
    size_t bytes = strlen(out);
    while (bytes > 1 && out[bytes - 1] == '/')
        bytes--;
    if (bytes == 0 || bytes + 32 >= PATH_MAX)
        return esp_fail_field(err, ESP_INVALID, "--out", "wanted the path of a folder to make");
    snprintf(folder->path, PATH_MAX, "%.*s", (int)bytes, out);
    const char *slash = strrchr(folder->path, '/');
    snprintf(folder->around, PATH_MAX, "%.*s",
             slash > folder->path ? (int)(slash - folder->path) : 1, slash ? folder->path : ".");
    return ESP_OK;
}

esp_code new_folder_begin(new_folder *folder, const char *out, esp_error *err) {
    struct stat status;
    esp_code code = split_out(folder, out, err);
    if (code) return code;
    if (lstat(folder->path, &status) == 0)
        return esp_fail_field(err, ESP_EXISTS, "--out",
                              "something lies there already; wanted the path of a folder to make");
    snprintf(folder->made, PATH_MAX, "%.*s.XXXXXX", PATH_MAX - 16, folder->path);
    if (!mkdtemp(folder->made)) return fail_system("make a folder beside it", folder->path, err);
    if (chmod(folder->made, 0755) == 0) return ESP_OK;
    return new_folder_end(folder, fail_system("make", folder->made, err), err);
}

esp_code new_folder_opens_as_model(const new_folder *folder, esp_error *err) {
    model_file *file = NULL;
    esp_error why = {0};
    esp_code code = model_file_open(&file, folder->made, &why);
    model_file_close(file);
    return code ? esp_fail(err, ESP_INTERNAL, "the new model does not open: %s", why.message)
                : ESP_OK;
}

esp_code new_folder_end(const new_folder *folder, esp_code code, esp_error *err) {
    if (!code) code = sync_folder(folder->made, err);
    if (!code && rename(folder->made, folder->path) != 0)
        code = fail_system("rename to", folder->path, err);
    if (!code) return sync_folder(folder->around, err);
    remove_folder(folder->made);
    return code;
}
