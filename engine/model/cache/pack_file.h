/* pack_file.h - a file of packed matrices, so that a second start maps what the first one made.
 *
 * Little-endian; a matrix's bytes are as its backend keeps them (kern_image), so a file is good for
 * one backend, one layout and one build's formats alone: its kind says which. A file that is not
 * exactly what it should be, to the last bit, is no file.
 *
 *   0    header, PACK_HEADER_BYTES
 *          0   "ESPPACK1"
 *          8   u8 model[16]      XXH3 of the model's digest
 *          24  u64 kind          pack_key_of
 *          32  u64 identity      of the model's files when this was written (pack_cache.h)
 *          40  u64 file_bytes
 *          48  u64 table_at      behind the last matrix; the table ends with the file
 *          56  u32 entries, u32 0
 *          64  u64 table_hash    XXH3 of the table
 *          72  u64 0, ..
 *          120 u64 header_hash   XXH3 of bytes 0 to 119
 *   ..   matrices, each at a multiple of PACK_ALIGNMENT: the order of its columns, if it has one,
 *        padded to 64 bytes; then its bytes
 *   ..   the table: for each matrix, in the order of the file, PACK_ENTRY_BYTES
 *          0   u32 role, u32 layer, u32 first_row
 *          12  u32 rows, u32 cols
 *          20  char dtype[12]    its name, padded with NUL
 *          32  u64 at            of the order or, without one, of the bytes
 *          40  u64 order_bytes   0: none
 *          48  u64 bytes
 *          56  u64 hash          XXH3 of order, padding and bytes
 *
 * Thread  one at a time; a mapped file is read-only. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_PACK_FILE_H
#define ESPALIER_MODEL_PACK_FILE_H

#include <stdbool.h>

#include "kernels/kernels.h"

enum { PACK_HEADER_BYTES = 128, PACK_ENTRY_BYTES = 64, PACK_ALIGNMENT = 4096 };

/* What a pack is made of. */
typedef struct pack_key {
    uint8_t model[16]; /* its content */
    uint64_t kind;     /* the format asked for, the backend's layout, the formats of this build */
} pack_key;

pack_key pack_key_of(const char *model_digest, const char *format, const char *layout);

/* Which matrix of the model. */
typedef struct pack_place {
    uint32_t role, layer, first_row;
} pack_place;

/* --- reading --------------------------------------------------------------------------------- */

typedef struct pack_file pack_file;

/* Maps the file and checks every bit of it, with the pool's threads. ESP_NOT_FOUND: there is none;
 * ESP_INVALID with a sentence: it is damaged. */
struct thread_pool;
ESP_CHECKED esp_code pack_file_open(pack_file **out, const char *path, struct thread_pool *pool,
                                    esp_error *err);
/* The same over memory, 64-byte aligned, that the caller keeps (tests, fuzzing). */
ESP_CHECKED esp_code pack_file_open_memory(pack_file **out, const void *bytes, size_t count,
                                           struct thread_pool *pool, esp_error *err);
void pack_file_close(pack_file *pack);
pack_key pack_file_key(const pack_file *pack);
uint64_t pack_file_identity(const pack_file *pack);
/* The image of a matrix, inside the mapping; false: not in the file. */
bool pack_file_find(const pack_file *pack, pack_place place, kern_image *out);

/* --- writing --------------------------------------------------------------------------------- */

typedef struct pack_writer pack_writer;

/* Begins a file beside `path`, which takes its name when it is finished. */
ESP_CHECKED esp_code pack_writer_open(pack_writer **out, const char *path, esp_error *err);
ESP_CHECKED esp_code pack_writer_add(pack_writer *writer, pack_place place, const kern_image *image,
                                     esp_error *err);
/* Flushes to the disk, then renames. */
ESP_CHECKED esp_code pack_writer_finish(pack_writer *writer, pack_key key, uint64_t identity,
                                        esp_error *err);
/* Drops what is not finished. NULL is fine. */
void pack_writer_close(pack_writer *writer);

#endif
