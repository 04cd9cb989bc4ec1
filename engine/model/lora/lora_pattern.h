/* lora_pattern.h - regular expressions of adapter configs, over names of modules.
 *
 * They are Python's; those that occur mean the same to PCRE2. A hostile one costs a bounded number
 * of steps. Shared by the parts of lora_file.h; nobody else includes it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_LORA_PATTERN_H
#define ESPALIER_MODEL_LORA_PATTERN_H

#include <stdbool.h>

#include "engine/base/status.h"
#include "engine/model/format/tensors.h"

enum { LORA_PATTERN_BYTES_MAX = 4096, LORA_PATTERNS_MAX = 16384, LORA_REGEXES_MAX = 128 };

typedef struct lora_pattern lora_pattern;

/* Where a pattern may lie in a name. */
typedef enum lora_anchor {
    ANCHOR_ALL,   /* it is the name */
    ANCHOR_END,   /* it is the end of the name, from a dot or the beginning on */
    ANCHOR_LAYER, /* from a dot or the beginning on, before ".<number>." */
    ANCHOR_START, /* it begins the name */
} lora_anchor;

/* `key` is the config's, for error sentences. */
ESP_CHECKED esp_code lora_pattern_open(lora_pattern **out, const char *text, lora_anchor anchor,
                                       const char *key, esp_error *err);
void lora_pattern_close(lora_pattern *pattern);
/* Letters, digits and dots alone: matched without the regex engine. */
bool lora_pattern_is_plain(const lora_pattern *pattern);

/* number: what the pattern's group "n" holds, digits; untouched where it has none. NULL: not wanted. */
ESP_CHECKED esp_code lora_pattern_match(const lora_pattern *pattern, model_text name, bool *matches,
                                        uint32_t *number, esp_error *err);

#endif
