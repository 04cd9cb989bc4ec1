/* chat_input.h - espalier.v1.ChatInput -> the prompt, every limit checked.
 *
 * Thread  any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CHAT_INPUT_H
#define ESPALIER_CHAT_INPUT_H

#include "engine/text/template.h"
#include "espalier/v1/inference.pb-c.h"

enum {
    CHAT_TOOLS_MAX = 1024,
    CHAT_TOOL_CALLS_MAX = 256, /* of one message */
    CHAT_ARGUMENTS_MAX = 64,
};

/* ESP_INVALID naming the field, or with the sentence of a template that raises. Free with
 * chat_prompt_free. */
ESP_CHECKED esp_code chat_input_render(const chat_template *t, const Espalier__V1__ChatInput *in,
                                       chat_prompt *out, esp_error *err);

#endif
