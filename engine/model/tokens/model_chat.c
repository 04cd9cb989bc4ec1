/* model_chat.c - a model file's chat templates, opened. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/model.h"
#include "engine/text/template.h"

esp_code model_file_chat(const model_file *file, const tokenizer *tok, chat_template **out,
                         esp_error *err) {
    ESP_ASSERT(file && tok && out);
    size_t bytes, tool_bytes;
    const char *source = model_file_template(file, &bytes);
    const char *tool_use = model_file_tool_template(file, &tool_bytes);
    *out = NULL;
    if (!source)
        return esp_fail(err, ESP_UNIMPLEMENTED,
                        "the model has no chat template; send a prompt or token ids");
    esp_code code = template_open(out, source, bytes, err);
    if (code == ESP_OK && tool_use) code = template_set_tool_use(*out, tool_use, tool_bytes, err);
    if (code == ESP_OK) {
        template_set_tokens_of(*out, tok);
        return ESP_OK;
    }
    template_close(*out);
    *out = NULL;
    return code;
}
