/* pack_file.h - a file of packed matrices, so that a second start maps what the first one made.
 *
 * Little-endian; a matrix's bytes are as its backend keeps them (kern_image), so a file is good for
 * one layout and one build's formats alone: its kind says which. A file that is not exactly what it
 * should be, to the last bit, is no file.
 *
 *   0    header, PACK_HEADER_BYTES
 *          0   "ESPPACK2"
 *          8   u8 model[16]      XXH3 of the model's digest
 *          24  u64 kind          pack_key_of
 *          32  u64 identity      of the model's files (pack_names.h); 0: not known
 *          40  u64 file_bytes
 *          48  u64 table_at      behind the last matrix; the table ends with the file
 *          56  u32 entries, u32 stretches
 *          64  u64 table_hash    XXH3 of the table
 *          72  u64 0, ..
 *          120 u64 header_hash   XXH3 of bytes 0 to 119
 *   ..   matrices, from PACK_ALIGNMENT, each at a multiple of it: the order of its columns, if it
 *        has one, padded to 64 bytes; then its bytes
 *   ..   the table: for each matrix, in the order of the file, PACK_ENTRY_BYTES
 *          0   u32 role, u32 layer, u32 first_row
 *          12  u32 rows, u32 cols
 *          20  char dtype[12]    its name, padded with NUL
 *          32  u64 at            of the order or, without one, of the bytes
 *          40  u64 order_bytes   0: none
 *          48  u64 bytes
 *          56  u64 0
 *        then for each stretch of PACK_STRETCH_BYTES of the file that ends before the table or in
 *        its middle, u64 XXH3 of the bytes there that lie between the header's page and the table
 *
 * Stretches, and not matrices, are hashed so that all threads have equal work, and because they are
 * what is written at once: a file system that keeps large folios makes huge pages of them.
 *
 * Thread  one at a time; an opened file is read-only. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_PACK_FILE_H
#define ESPALIER_MODEL_PACK_FILE_H

#include <stdbool.h>
#include <sys/types.h>

#include "kernels/kernels.h"

enum {
    PACK_HEADER_BYTES = 128,
    PACK_ENTRY_BYTES = 64,
    PACK_ALIGNMENT = 4096,
    PACK_STRETCH_BYTES = 2 << 20,
};

/* What a pack is made of. */
typedef struct pack_key {
    uint8_t model[16]; /* its content */
    uint64_t kind;     /* the format asked for, the device's layout, the formats of this build */
} pack_key;

/* format: "q8_0"; "": as in the files. */
pack_key pack_key_of(const char *model_digest, const char *format, const char *layout);

/* Which matrix of the model. */
typedef struct pack_place {
    uint32_t role, layer, first_row;
} pack_place;

/* --- reading --------------------------------------------------------------------------------- */

typedef struct pack_file pack_file;

/* Maps the file and checks every bit of it, with the pool's threads. Where the system cannot map it
 * in huge pages, it is then copied into anonymous memory that has them. ESP_NOT_FOUND: there is
 * none; ESP_INVALID with a sentence: it is damaged. */
struct thread_pool;
ESP_CHECKED esp_code pack_file_open(pack_file **out, const char *path, struct thread_pool *pool,
                                    esp_error *err);
/* The same over memory, 64-byte aligned, that the caller keeps (tests, fuzzing). */
ESP_CHECKED esp_code pack_file_open_memory(pack_file **out, const void *bytes, size_t count,
                                           struct thread_pool *pool, esp_error *err);
void pack_file_close(pack_file *pack);
pack_key pack_file_key(const pack_file *pack);
uint64_t pack_file_identity(const pack_file *pack);
/* "mapped", or "copied" into huge pages: for the log. */
const char *pack_file_how(const pack_file *pack);
/* The image of a matrix, inside the pack's memory; false: not in the file. */
bool pack_file_find(const pack_file *pack, pack_place place, kern_image *out);

/* --- writing --------------------------------------------------------------------------------- */

typedef struct pack_writer pack_writer;

typedef struct pack_writer_options {
    const char *path;
    mode_t mode; /* permissions, of which the umask takes its part */
    /* Called behind each stretch that was written; false: give up. NULL: go on. */
    bool (*go_on)(void *arg);
    void *arg;
} pack_writer_options;

/* Begins a file beside the path, which takes its name when it is finished. */
ESP_CHECKED esp_code pack_writer_open(pack_writer **out, const pack_writer_options *options,
                                      esp_error *err);
/* ESP_CANCELLED when go_on said so. */
ESP_CHECKED esp_code pack_writer_add(pack_writer *writer, pack_place place, const kern_image *image,
                                     esp_error *err);
/* Flushes to the disk, then renames. */
ESP_CHECKED esp_code pack_writer_finish(pack_writer *writer, pack_key key, uint64_t identity,
                                        esp_error *err);
/* Drops what is not finished. NULL is fine. */
void pack_writer_close(pack_writer *writer);

/* Gives the pack at the path, which is the one opened, another identity. */
ESP_CHECKED esp_code pack_file_renew(const pack_file *pack, const char *path, uint64_t identity,
                                     esp_error *err);

#endif
