/* json_bytes.h - a file's bytes as one JSON object: the limits that every reader of JSON files
 * wants.
 *
 * Nested no deeper than the parser's 2048 levels, no key twice, no NUL in a string, nothing behind
 * the object but blanks. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_JSON_BYTES_H
#define ESPALIER_MODEL_JSON_BYTES_H

#include <jansson.h>
#include <stddef.h>

#include "engine/base/status.h"

/* Text of a file made fit for an error sentence: printable ASCII, cut to the label's size. */
typedef struct json_label {
    char text[96];
} json_label;
json_label json_show(const char *text);

/* `name` is the file's and `what` the part of it, for error sentences: "model.safetensors", "the
 * header". *out is the caller's (json_decref), NULL on failure. */
ESP_CHECKED esp_code json_read_object(json_t **out, const void *bytes, size_t count,
                                      const char *name, const char *what, esp_error *err);

#endif
