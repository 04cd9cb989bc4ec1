/* gguf.h - reads a GGUF file (v2, v3): bytes -> metadata and named tensors, over mmap.
 *
 * Every byte is hostile: each count is held against the bytes that remain before anything is
 * allocated, all sums are checked, tensors lie inside the file, aligned, and do not overlap.
 * Format: ggml/docs/gguf.md of the reference implementation.
 *
 * Metadata is read by gguf_metadata.c, tensors by gguf_tensors.c, both through the cursor of
 * gguf_inner.h.
 *
 * Ownership  metadata strings, arrays and tensor data point into the mapping; they live until gguf_close.
 * Thread     read-only after open: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_GGUF_H
#define ESPALIER_MODEL_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/model/format/tensors.h"

typedef struct gguf_file gguf_file;

typedef enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT
} gguf_type;

/* path is used in error sentences by its last component only. The first part of a split model
 * ("x-00001-of-00003.gguf") opens the others beside it: their tensors are this file's then, its
 * metadata is the first part's. */
ESP_CHECKED esp_code gguf_open(gguf_file **out, const char *path, esp_error *err);
/* The same over memory that the caller keeps (tests, fuzzing). */
ESP_CHECKED esp_code gguf_open_memory(gguf_file **out, const void *bytes, size_t count,
                                      const char *name, esp_error *err);
void gguf_close(gguf_file *file);

/* The files of a split model, this one is number 0; of any other: this one alone. */
uint32_t gguf_part_count(const gguf_file *file);
const gguf_file *gguf_part(const gguf_file *file, uint32_t index);

uint64_t gguf_bytes(const gguf_file *file);   /* size of this file alone */
const void *gguf_data(const gguf_file *file); /* its first byte: the whole file is readable */
bool gguf_is_mapped(const gguf_file *file);   /* else its bytes are the caller's */
const char *gguf_name(const gguf_file *file);
uint32_t gguf_version(const gguf_file *file);

/* Metadata by key. The getters give false when the key is absent; a key of another type is an error
 * that names key, seen and wanted type. Integers of any width are read when the value fits. */
ESP_CHECKED esp_code gguf_get_u32(const gguf_file *f, const char *key, bool *found, uint32_t *out,
                                  esp_error *err);
ESP_CHECKED esp_code gguf_get_f32(const gguf_file *f, const char *key, bool *found, float *out,
                                  esp_error *err);
ESP_CHECKED esp_code gguf_get_bool(const gguf_file *f, const char *key, bool *found, bool *out,
                                   esp_error *err);
ESP_CHECKED esp_code gguf_get_text(const gguf_file *f, const char *key, bool *found,
                                   model_text *out, esp_error *err);

/* An array's element type and count; elements are read by the two functions below. */
typedef struct gguf_array {
    gguf_type type;
    uint64_t count;
    const uint8_t *at, *end;
} gguf_array;
ESP_CHECKED esp_code gguf_get_array(const gguf_file *f, const char *key, gguf_type wanted,
                                    bool *found, gguf_array *out, esp_error *err);
/* Walks a string array: call count times with a cursor that begins at array->at. */
model_text gguf_next_text(const gguf_array *array, const uint8_t **cursor);
/* Element of an array of 4-byte values (I32, U32, F32), unaligned safe. */
uint32_t gguf_array_u32(const gguf_array *array, uint64_t index);

uint64_t gguf_tensor_count(const gguf_file *file);
const model_tensor *gguf_tensor_at(const gguf_file *file, uint64_t index);
const model_tensor *gguf_find(const gguf_file *file, const char *name); /* NULL if absent */

/* Key/value pairs in file order, for inspect: name, type, and a short printed value (arrays as "[n]"). */
uint64_t gguf_kv_count(const gguf_file *file);
void gguf_kv_print(const gguf_file *file, uint64_t index, model_text *key, char *value,
                   size_t value_bytes);

#endif
