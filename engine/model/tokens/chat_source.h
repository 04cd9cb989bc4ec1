/* chat_source.h - the chat templates that a model folder publishes.
 *
 * Read as the reference reads them: chat_template.jinja is the default, additional_chat_templates/
 * tool_use.jinja the one for conversations with tools; where neither is there, tokenizer_config.json
 * says it in `chat_template`, a text or a list of {"name", "template"}.
 *
 * Whether a text is a template that the interpreter takes is found out by template_open. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CHAT_SOURCE_H
#define ESPALIER_CHAT_SOURCE_H

#include <stddef.h>

#include "engine/base/status.h"

enum {
    CHAT_SOURCE_TEMPLATE_MAX = 256 << 10, /* bytes of one template */
    CHAT_SOURCE_NAMES_MAX = 64,           /* named templates of one tokenizer_config.json */
    CHAT_SOURCE_CONFIG_MAX = 32 << 20,    /* bytes of tokenizer_config.json */
};

/* All-zero holds nothing. Texts are malloc'd. tool_use comes with a default only: a model whose
 * templates have no "default" is one without a template. */
typedef struct chat_source {
    char *text; /* NULL: the model has no template */
    size_t bytes;
    char *tool_use; /* NULL: the default serves tools too */
    size_t tool_use_bytes;
} chat_source;

/* ESP_INVALID naming file and field for what is there but can't be read; no template at all is
 * ESP_OK. *out is all-zero on failure. */
ESP_CHECKED esp_code chat_source_read_folder(chat_source *out, const char *folder, esp_error *err);

/* The same of a tokenizer_config.json alone, in memory; name is for sentences. */
ESP_CHECKED esp_code chat_source_read_config(chat_source *out, const void *bytes, size_t count,
                                             const char *name, esp_error *err);

void chat_source_free(chat_source *source);

#endif
