/* template.h - chat messages -> prompt text, by the model's own chat template (jinja.h).
 *
 * Message contents are data: the spans of the output that came from them are reported, so that the
 * tokenizer takes no control token out of them.
 *
 * Thread  read-only after open and template_set_tokens: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_TEMPLATE_H
#define ESPALIER_TEXT_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/text/tokenizer.h"

typedef struct chat_template chat_template;

typedef struct chat_message {
    tok_text role;    /* "system", "user", "assistant", ... */
    tok_text content; /* UTF-8 */
} chat_message;

typedef struct chat_prompt {
    char *text; /* NUL-terminated, malloc'd */
    size_t bytes;
    tok_span *plain; /* all that came from messages, tools and variables; ascending, disjoint */
    uint32_t plain_count;
} chat_prompt;

/* One conversation in full. JSON values are read during the call only. */
typedef struct chat_options {
    const chat_message *messages; /* role and content only; ignored when `json` is given */
    uint32_t count;
    const json_t *json;      /* array of messages, with tool_calls and all, or NULL */
    const json_t *tools;     /* array of JSON schemas; NULL: none */
    const json_t *variables; /* object of further variables (enable_thinking, date_string,
                              * documents, ...); NULL: none. They replace none of the above. */
    bool add_generation_prompt;
    int64_t now_us; /* microseconds since 1970 for strftime_now; 0: the clock */
} chat_options;

enum { CHAT_PROMPT_BYTES_MAX = 8 << 20, CHAT_MESSAGES_MAX = 4096 };

/* source: the template's text as in the model file. ESP_INVALID, naming the line, for one that is
 * no Jinja or uses what the interpreter leaves out; ESP_UNIMPLEMENTED for an empty one. */
ESP_CHECKED esp_code template_open(chat_template **out, const char *source, size_t bytes,
                                   esp_error *err);
void template_close(chat_template *t);

/* A second template, for conversations with tools: models that publish several name it "tool_use".
 * Before the first render; the errors of template_open. */
ESP_CHECKED esp_code template_set_tool_use(chat_template *t, const char *source, size_t bytes,
                                           esp_error *err);

/* What the template sees as bos_token and eos_token (copied); {NULL, 0} where the model has none.
 * Before the first render. */
void template_set_tokens(chat_template *t, tok_text bos, tok_text eos);
/* The same from a tokenizer. */
void template_set_tokens_of(chat_template *t, const tokenizer *tok);

/* ESP_INVALID with the template's own message when it raises. */
ESP_CHECKED esp_code template_render(const chat_template *t, const chat_message *messages,
                                     uint32_t count, bool add_generation_prompt, chat_prompt *out,
                                     esp_error *err);
ESP_CHECKED esp_code template_render_full(const chat_template *t, const chat_options *options,
                                          chat_prompt *out, esp_error *err);
void chat_prompt_free(chat_prompt *prompt);

#endif
