/* model_digest.h - what a model is, by the content of its files. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_DIGEST_H
#define ESPALIER_MODEL_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "xxh3-128:<32 hex>" and a NUL */
enum { MODEL_DIGEST_CHARS = 48 };

typedef struct digest_file {
    const char *name;
    const void *bytes;
    size_t count;
    bool mapped; /* of a mapped file: its pages are given back as they are read (file.h) */
} digest_file;

/* Of one file: the hash of its bytes. Of several: the hash of each one's name, NUL, size (8 bytes,
 * little-endian) and bytes, in the order of their names; the array is sorted by that. Reads every
 * byte. */
void model_digest(char out[MODEL_DIGEST_CHARS], digest_file *files, size_t count);

#endif
