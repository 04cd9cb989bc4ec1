/* fuzz_template.c - template texts and conversations from any bytes.
 *
 * The input is a template (up to the first NUL; "1", "2": a known one) and NUL-separated texts that
 * are taken in turn as role and content. Known templates must give a prompt whose spans hold
 * exactly those; any other ends with a prompt or a sentence. */
// SPDX-License-Identifier: Apache-2.0
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/template.h"

enum { MESSAGES_MAX = 64 };

#define TURN                                                                                       \
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"       \
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

static const char *const known[] = {
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}" TURN,
    "{% for message in messages %}" TURN,
};

/* Cuts the next NUL-terminated text off the input. */
static tok_text next_text(tok_text *input) {
    const char *end = input->bytes ? memchr(input->at, 0, input->bytes) : NULL;
    tok_text text = {input->at, end ? (size_t)(end - input->at) : input->bytes};
    size_t used = text.bytes + (end ? 1 : 0);
    *input = (tok_text){input->at + used, input->bytes - used};
    return text;
}

static void check_spans(const chat_prompt *prompt, const chat_message *messages, uint32_t count) {
    uint32_t span = 0;
    size_t end = 0;
    for (uint32_t i = 0; i < 2 * count; i++) {
        tok_text wanted = i % 2 ? messages[i / 2].content : messages[i / 2].role;
        if (wanted.bytes == 0) continue;
        ESP_ASSERT(span < prompt->plain_count);
        tok_span found = prompt->plain[span++];
        ESP_ASSERT(found.begin >= end && found.end - found.begin == wanted.bytes);
        ESP_ASSERT(found.end <= prompt->bytes);
        ESP_ASSERT(memcmp(prompt->text + found.begin, wanted.at, wanted.bytes) == 0);
        end = found.end;
    }
    ESP_ASSERT(span == prompt->plain_count && prompt->text[prompt->bytes] == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tok_text input = {(const char *)data, size};
    tok_text source = next_text(&input);
    chat_template *t = NULL;
    esp_error err = {0};
    bool is_known = source.bytes == 1 && (source.at[0] == '1' || source.at[0] == '2');
    if (is_known) {
        const char *text = known[source.at[0] - '1'];
        source = (tok_text){text, strlen(text)};
    }
    esp_code code = template_open(&t, source.at, source.bytes, &err);
    ESP_ASSERT((code == ESP_OK) == (t != NULL) && (t || err.message[0]));
    if (!t) return 0;
    chat_message messages[MESSAGES_MAX];
    uint32_t count = 0;
    while (input.bytes && count < MESSAGES_MAX) {
        messages[count].role = next_text(&input);
        messages[count++].content = next_text(&input);
    }
    chat_prompt prompt;
    code = template_render(t, messages, count, size & 1, &prompt, &err);
    ESP_ASSERT(code == ESP_OK || (!is_known && code == ESP_INVALID));
    if (is_known) check_spans(&prompt, messages, count);
    chat_prompt_free(&prompt);
    template_close(t);
    return 0;
}
