/* pack_names.h - where a model's packs lie, and how a changed model is known without reading it.
 *
 *   beside      MODEL[.FORMAT].LAYOUT.espalier-pack of a file; of a folder, inside of it
 *   in a folder NAME.HASH[.FORMAT].LAYOUT.espalier-pack, HASH being of the model's real path
 *
 * LAYOUT is the device's without its number ("cpu-tiles"), so that a new number takes the old one's
 * place and does not leave a file behind; and of a rank's pack, which part it is ("cpu-tiles+rank0of2"). */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_PACK_NAMES_H
#define ESPALIER_MODEL_PACK_NAMES_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Of the names, inodes, sizes, times of change and of modification of the model's files. Whoever
 * writes to a file changes its time of change, which no ordinary call sets back; so equal identities
 * are equal contents, for the price of a stat.
 *
 * The one gap: a file that is written twice within a tick of the file system's clock may have one
 * time for both. So an identity that is only seconds old is not `settled` and must not be kept. */
typedef struct pack_identity {
    uint64_t of_files; /* 0: there are none */
    bool settled;
} pack_identity;

pack_identity pack_identity_of(const char *model_path);

/* The names of a pack. false: the model has no path, or a name is too long. */
bool pack_name_beside(char out[PATH_MAX], const char *model_path, const char *format,
                      const char *layout);
bool pack_name_in(char out[PATH_MAX], const char *folder, const char *model_path,
                  const char *format, const char *layout);

/* The folder and, at need, the one above it. */
void pack_make_folder(const char *path);

/* Who may read the model may read its pack. */
mode_t pack_mode_of(const char *model_path);

#endif
