/* template.h - chat messages -> prompt text. The door behind which the general Jinja interpreter will sit;
 * today it knows the published templates in the table of template.c, recognised by their exact text, and
 * refuses others by a sentence (prompts and token ids still work).
 *
 * Message contents are data: the spans of the output that came from them are reported, so that the
 * tokenizer takes no control token out of them.
 *
 * Thread  read-only after open: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_TEMPLATE_H
#define ESPALIER_TEXT_TEMPLATE_H

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
    tok_span *plain; /* contents and roles, ascending */
    uint32_t plain_count;
} chat_prompt;

enum { CHAT_PROMPT_BYTES_MAX = 8 << 20, CHAT_MESSAGES_MAX = 4096 };

/* source: the template's text as in the model file. ESP_UNIMPLEMENTED for an unknown one. */
ESP_CHECKED esp_code template_open(chat_template **out, const char *source, size_t bytes, esp_error *err);
void template_close(chat_template *t);

/* ESP_INVALID with the template's own message when it raises. */
ESP_CHECKED esp_code template_render(const chat_template *t, const chat_message *messages, uint32_t count,
                                     bool add_generation_prompt, chat_prompt *out, esp_error *err);
void chat_prompt_free(chat_prompt *prompt);

#endif
