/* json_bytes.h - a file's bytes as one JSON object: the limits that every reader of JSON files
 * wants.
 *
 * Nested no deeper than the parser's 2048 levels, no more values than any real file has, no key
 * twice, no NUL in a string, nothing behind the object but blanks. A whole number beyond 64 bits is
 * read as a real, and so are then all others of the file. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_JSON_BYTES_H
#define ESPALIER_MODEL_JSON_BYTES_H

#include <jansson.h>
#include <stddef.h>

#include "engine/base/status.h"

/* The largest published tokenizers have 2 million values, half a million of them arrays. */
enum { JSON_VALUES_MAX = 1 << 24, JSON_CONTAINERS_MAX = 1 << 21 };

/* Text of a file made fit for an error sentence: printable ASCII, cut to the label's size. */
typedef struct json_label {
    char text[96];
} json_label;
json_label json_show(const char *text);

/* `name` is the file's and `what` the part of it, for error sentences: "model.safetensors", "the
 * header". *out is the caller's (json_decref), NULL on failure. */
ESP_CHECKED esp_code json_read_object(json_t **out, const void *bytes, size_t count,
                                      const char *name, const char *what, esp_error *err);

/* The same of a tokenizer's file, where strings, but not keys, may hold NUL. */
ESP_CHECKED esp_code json_read_tokens(json_t **out, const void *bytes, size_t count,
                                      const char *name, esp_error *err);
/* The same of a part of it, which may be any value. */
ESP_CHECKED esp_code json_read_value(json_t **out, const void *bytes, size_t count,
                                     const char *name, const char *what, esp_error *err);

#endif
