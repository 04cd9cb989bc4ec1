/* json_member.h - one member of a large JSON object, where all others are nobody's concern.
 *
 * They are skipped and not made into values: their strings and brackets end, which is all that is known of them. Of a
 * tokenizer.json, whose vocabulary has a million values, that is a tenth of the time and none of the memory.
 *
 * Thread  any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_JSON_MEMBER_H
#define ESPALIER_MODEL_JSON_MEMBER_H

#include <jansson.h>
#include <stddef.h>

#include "engine/base/status.h"

/* The value of the object's member `key`, as json_read_tokens reads values; *out is the caller's (json_decref), NULL: it
 * has no such member. `name` is the file's, for error sentences. ESP_INVALID, also for a member of the object whose name
 * is written with escapes: it might be that one. */
ESP_CHECKED esp_code json_read_member(json_t **out, const void *bytes, size_t count,
                                      const char *key, const char *name, esp_error *err);

#endif
