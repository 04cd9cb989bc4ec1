/* gguf_inner.h - what the four parts of the GGUF reader share; nobody else includes it.
 *
 *   gguf.c           map the file, header, the order of reading, lookup
 *   gguf_metadata.c  key/value pairs and their getters
 *   gguf_tensors.c   tensor table and the layout of the data
 *   gguf_parts.c     the further files of a split model
 *
 * All lengths in the file meet a bound in the cursor first: a length is compared with the bytes
 * that remain and never added to a pointer. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_GGUF_INNER_H
#define ESPALIER_MODEL_GGUF_INNER_H

#include <string.h>

#include "engine/base/file.h"
#include "engine/model/format/gguf.h"

enum {
    GGUF_PAIRS_MAX = 65536,
    GGUF_TENSORS_MAX = 1048576,
    GGUF_KEY_BYTES_MAX = 65535,
    GGUF_TENSOR_NAME_BYTES_MAX = 64,
    GGUF_ALIGNMENT_DEFAULT = 32,
    GGUF_ALIGNMENT_MIN = 8,
    GGUF_ALIGNMENT_MAX = 65536,
    GGUF_PARTS_MAX = 1024,
    /* the least bytes that one of them can take in the file */
    GGUF_PAIR_BYTES_MIN = 8 + 1 + 4 + 1,
    GGUF_TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8,
};

typedef struct gguf_pair {
    model_text key;
    gguf_type type;
    const uint8_t *at, *end; /* payload of the value; of an array: its elements */
    gguf_type element;       /* of an array */
    uint64_t count;
} gguf_pair;

struct gguf_file {
    char name[96]; /* last component of the path, printable */
    const uint8_t *bytes;
    size_t byte_count;
    file_view mapping; /* where the bytes lie, unless they are the caller's */
    uint32_t version;
    uint64_t alignment;
    uint32_t pair_count, tensor_count;
    gguf_pair *pairs;       /* file order */
    uint32_t *pairs_by_key; /* indices, sorted */
    model_tensor *tensors;  /* file order */
    uint64_t *offsets;      /* of each tensor, from data_begin; freed after the layout is checked */
    uint32_t *tensors_by_name;
    size_t data_begin; /* offset of the tensor data in the file */
    gguf_file **parts; /* of a split model: those behind the first, which is this one */
    uint32_t part_count;
};

/* What is left to read. */
typedef struct gguf_cursor {
    const uint8_t *at, *end;
} gguf_cursor;

static inline size_t cursor_left(const gguf_cursor *cursor) {
    return (size_t)(cursor->end - cursor->at);
}

/* The next bytes, or NULL (and nothing moves) when fewer remain. */
static inline const uint8_t *cursor_take(gguf_cursor *cursor, uint64_t bytes) {
    if (bytes > cursor_left(cursor)) return NULL;
    const uint8_t *at = cursor->at;
    cursor->at += bytes;
    return at;
}

/* Fields are little-endian and unaligned. */
static inline uint32_t gguf_load_u32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline uint64_t gguf_load_u64(const uint8_t *at) {
    return (uint64_t)gguf_load_u32(at) | (uint64_t)gguf_load_u32(at + 4) << 32;
}

static inline bool cursor_u32(gguf_cursor *cursor, uint32_t *out) {
    const uint8_t *at = cursor_take(cursor, 4);
    if (!at) return false;
    *out = gguf_load_u32(at);
    return true;
}

static inline bool cursor_u64(gguf_cursor *cursor, uint64_t *out) {
    const uint8_t *at = cursor_take(cursor, 8);
    if (!at) return false;
    *out = gguf_load_u64(at);
    return true;
}

/* A length of 8 bytes, then that many. */
static inline bool cursor_text(gguf_cursor *cursor, model_text *out) {
    uint64_t bytes;
    if (!cursor_u64(cursor, &bytes)) return false;
    const uint8_t *at = cursor_take(cursor, bytes);
    if (!at) return false;
    *out = (model_text){(const char *)at, (size_t)bytes};
    return true;
}

/* Names are printable ASCII, so that they can stand in an error sentence and in JSON. */
bool gguf_is_printable(model_text text);

/* A text cut to fit a sentence, with '?' for what is not printable ASCII. */
typedef struct gguf_label {
    char text[96];
} gguf_label;
gguf_label gguf_show(model_text text);

/* Fails with ESP_INVALID and "<file name>: <sentence>". */
esp_code gguf_fail(const gguf_file *file, esp_error *err, const char *format, ...) ESP_PRINTF(3, 4);

/* Sets pairs, pair_count and the key index. */
ESP_CHECKED esp_code gguf_read_pairs(gguf_file *file, gguf_cursor *cursor, uint64_t count,
                                     esp_error *err);
/* Sets tensors, tensor_count, offsets and the name index; data pointers come with the layout. */
ESP_CHECKED esp_code gguf_read_tensors(gguf_file *file, gguf_cursor *cursor, uint64_t count,
                                       esp_error *err);
/* Holds every tensor against the data region that begins at data_begin and sets the data pointers.
 */
ESP_CHECKED esp_code gguf_place_tensors(gguf_file *file, esp_error *err);

/* Builds the name index; ESP_INVALID when two tensors have one name. */
ESP_CHECKED esp_code gguf_index_tensors(gguf_file *file, esp_error *err);
/* Opens one file, whether or not it is a part of more. */
ESP_CHECKED esp_code gguf_open_one(gguf_file **out, const char *path, esp_error *err);
/* Opens the parts beside a file that says it is the first of several, and takes their tensors in. */
ESP_CHECKED esp_code gguf_open_parts(gguf_file *file, const char *path, esp_error *err);

const gguf_pair *gguf_find_pair(const gguf_file *file, const char *key);

#endif
