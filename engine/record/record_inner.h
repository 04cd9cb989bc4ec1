/* record_inner.h - fields of one line's JSON object; for the reader of files alone. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_RECORD_INNER_H
#define ESPALIER_RECORD_INNER_H

#include <jansson.h>

#include "engine/record/record.h"

/* Where a value was seen, for sentences. */
typedef struct record_place {
    const char *file;
    uint32_t line;
} record_place;

/* "FILE: line 7: KEY ...": ESP_INVALID. */
esp_code record_bad(const record_place *at, const char *key, const char *wanted, esp_error *err);

/* The string under a key, at most bytes_max long. */
ESP_CHECKED esp_code record_text(const record_place *at, const json_t *object, const char *key,
                                 size_t bytes_max, const char **out, esp_error *err);

/* All that makes the request and its answer; what was filled is freed by the caller. */
ESP_CHECKED esp_code record_fill(const record_place *at, const json_t *object, record *out,
                                 esp_error *err);

#endif
