/* fuzz_chat_source.c - any bytes as tokenizer_config.json: templates within their limit, or a
 * sentence; then each as a template. */
// SPDX-License-Identifier: Apache-2.0
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine/model/tokens/chat_source.h"
#include "engine/text/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_open(const char *text, size_t bytes) {
    chat_template *t = NULL;
    ESP_ASSERT(bytes <= CHAT_SOURCE_TEMPLATE_MAX && text[bytes] == 0);
    esp_code code = template_open(&t, text, bytes, NULL);
    ESP_ASSERT((code == ESP_OK) == (t != NULL));
    template_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    chat_source source;
    esp_error err = {0};
    esp_code code = chat_source_read_config(&source, data, size, "tokenizer_config.json", &err);
    ESP_ASSERT(code == ESP_OK || (code == ESP_INVALID && err.message[0]));
    ESP_ASSERT(code == ESP_OK || !source.text);
    ESP_ASSERT(source.text || !source.tool_use);
    if (source.text) try_open(source.text, source.bytes);
    if (source.tool_use) try_open(source.tool_use, source.tool_use_bytes);
    chat_source_free(&source);
    return 0;
}
