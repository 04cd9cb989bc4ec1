/* safetensors.h - reads one .safetensors file: bytes -> named tensors, over mmap.
 *
 *   0  8  bytes of the header, N
 *   8  N  a JSON object: name -> {"dtype", "shape", "data_offsets": [begin, end]}, offsets counted
 *         from the end of the header; "__metadata__" -> an object of strings
 *         then the tensors' data
 *
 * Every byte is hostile: the header is no longer than the file and SAFETENSORS_HEADER_MAX, a
 * tensor's span is what type and shape say, and the spans follow each other from the first byte of
 * the data to the end of the file without a gap or an overlap.
 * Format: README of the reference implementation (huggingface/safetensors).
 *
 * Ownership  tensors point into the mapping and the header; they live until safetensors_close.
 * Thread     read-only after open: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_SAFETENSORS_H
#define ESPALIER_MODEL_SAFETENSORS_H

#include "engine/model/format/tensors.h"

enum {
    SAFETENSORS_HEADER_MAX = 100000000, /* bytes, as in the reference implementation */
    SAFETENSORS_ADAPTER_HEADER_MAX = 8 << 20,
    SAFETENSORS_NAME_MAX = 256, /* bytes of a tensor's name */
};

typedef struct safetensors_file safetensors_file;

/* path is used in error sentences by its last component only. */
ESP_CHECKED esp_code safetensors_open(safetensors_file **out, const char *path, esp_error *err);
/* The same with less room for the header: header_max <= SAFETENSORS_HEADER_MAX bytes. */
ESP_CHECKED esp_code safetensors_open_limited(safetensors_file **out, const char *path,
                                              uint64_t header_max, esp_error *err);
/* The same as safetensors_open over memory that the caller keeps (tests, fuzzing). */
ESP_CHECKED esp_code safetensors_open_memory(safetensors_file **out, const void *bytes,
                                             size_t count, const char *name, esp_error *err);
void safetensors_close(safetensors_file *file);

const char *safetensors_name(const safetensors_file *file);
const void *safetensors_data(const safetensors_file *file); /* the whole file's first byte */
uint64_t safetensors_bytes(const safetensors_file *file);   /* size of the file */
/* In the order of their data; sealed. An element may begin at any byte. */
const tensor_set *safetensors_tensors(const safetensors_file *file);
/* A text of __metadata__ ("format" -> "pt"), or NULL. */
const char *safetensors_metadata(const safetensors_file *file, const char *key);

#endif
