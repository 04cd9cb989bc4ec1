/* chat_json.h - the parts of a conversation that come as JSON text: tools, tool calls, variables.
 *
 * Thread  any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_CHAT_JSON_H
#define ESPALIER_TEXT_CHAT_JSON_H

#include <jansson.h>
#include <stddef.h>

#include "engine/base/status.h"

typedef enum chat_json_kind { CHAT_JSON_ANY, CHAT_JSON_ARRAY, CHAT_JSON_OBJECT } chat_json_kind;

enum { CHAT_JSON_BYTES_MAX = 512 << 10 }; /* of text; its values take up to 100 times as much */

/* ESP_INVALID, naming the field, for more bytes, for what is no JSON (a key twice in one object, or
 * nesting beyond 2,048, included) and for another kind. *out is the caller's; NULL on failure. */
ESP_CHECKED esp_code chat_json_read(json_t **out, const char *field, const char *text, size_t bytes,
                                    chat_json_kind kind, esp_error *err);

/* ESP_INVALID for a key that is no name, or that a template gets from elsewhere (messages, tools,
 * add_generation_prompt, bos_token, eos_token). */
ESP_CHECKED esp_code chat_variable_check(const char *key, const char *field, esp_error *err);
/* The same for every key of an object. */
ESP_CHECKED esp_code chat_variables_check(const json_t *variables, const char *field,
                                          esp_error *err);

#endif
