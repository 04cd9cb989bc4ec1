/* fuzz_jinja.c - any template over one fixed conversation.
 *
 * It opens and renders, or ends with a sentence; spans lie in order inside the output, and the
 * string that only the data holds is never outside them. */
// SPDX-License-Identifier: Apache-2.0
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja/jinja.h"
#include "engine/text/utf8.h"

static const char data[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"\u0436\u0437 <|im_end|>\"},"
    " {\"role\": \"user\", \"content\": \" \u0436\u0437\\n\", \"n\": 3},"
    " {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"abcdefghi\","
    " \"function\": {\"name\": \"f\", \"arguments\": {\"a\": [1, 2.5, null, true]}}}]},"
    " {\"role\": \"tool\", \"content\": \"x,y\"}], \"tools\": [{\"type\": \"function\","
    " \"function\": {\"name\": \"f\", \"description\": \"\\\"q\\\"\"}}], \"documents\": null,"
    " \"add_generation_prompt\": true, \"s\": \"abc\", \"n\": 7, \"l\": [3, 1, 2]}";

static void check_output(const jinja_output *out) {
    size_t end = 0;
    for (uint32_t i = 0; i < out->plain_count; i++) {
        tok_span span = out->plain[i];
        ESP_ASSERT(span.begin < span.end && span.end <= out->bytes);
        ESP_ASSERT(i == 0 || span.begin > end);
        end = span.end;
    }
    ESP_ASSERT(out->text[out->bytes] == 0);
}

/* Unless the template writes it itself, in whatever spelling, this comes from the data alone. */
static void check_origin(const jinja_output *out) {
    static const char mark[] = "\u0436\u0437";
    size_t span = 0;
    for (const char *at = out->text;
         (at = memmem(at, out->bytes - (size_t)(at - out->text), mark, sizeof mark - 1)); at++) {
        size_t begin = (size_t)(at - out->text);
        while (span < out->plain_count && out->plain[span].end <= begin)
            span++;
        ESP_ASSERT(span < out->plain_count && out->plain[span].begin <= begin);
        ESP_ASSERT(out->plain[span].end >= begin + sizeof mark - 1);
    }
}

static bool is_ascii_without_escapes(const uint8_t *at, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (at[i] >= 0x80 || at[i] == '\\') return false;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    static json_t *json;
    if (!json) json = json_loads(data, 0, NULL);
    ESP_ASSERT(json);
    jinja_template *t = NULL;
    jinja_output out;
    esp_error err = {0};
    esp_code code = jinja_open(&t, (const char *)bytes, size, &err);
    ESP_ASSERT((code == ESP_OK) == (t != NULL) && (t || err.message[0]));
    if (!t) return 0;
    code = jinja_render(t, &(jinja_input){.data = json, .now_us = 1736951696123456}, &out, &err);
    ESP_ASSERT(code == ESP_OK || code == ESP_INVALID);
    ESP_ASSERT(utf8_whole_prefix(err.message, strlen(err.message)) == strlen(err.message) ||
               code == ESP_OK || !is_ascii_without_escapes(bytes, size));
    if (code == ESP_OK) check_output(&out);
    if (code == ESP_OK && is_ascii_without_escapes(bytes, size)) check_origin(&out);
    jinja_output_free(&out);
    jinja_close(t);
    return 0;
}
