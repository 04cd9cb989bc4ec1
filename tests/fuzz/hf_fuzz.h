/* hf_fuzz.h - one file of a Hugging Face folder from a fuzzer's bytes: read, opened, and a text encoded. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_HF_FUZZ_H
#define ESPALIER_TESTS_HF_FUZZ_H

#include "engine/base/status.h"
#include "tests/unit/hf_folder_builder.h"

/* What opened must encode any text, and give only ids that it has. */
static inline void hf_fuzz_encode(const tokenizer *tok) {
    static const char text[] = "Hello  w\xc3\xb6rld 123\n<s>\xe6\xbc\xa2\xff a\xe2\x96\x81"
                               "b";
    for (int parse = 0; parse < 2; parse++) {
        tok_encode_options options = {.add_special = true, .parse_special = parse};
        tok_ids ids = {0};
        esp_error err = {0};
        if (tok_encode(tok, text, sizeof text - 1, &options, &ids, &err) != ESP_OK)
            ESP_ASSERT(err.message[0]);
        for (uint32_t i = 0; i < ids.count; i++)
            ESP_ASSERT(ids.at[i] >= 0 && (uint32_t)ids.at[i] < tok_count(tok));
        tok_ids_free(&ids);
    }
}

static inline int hf_fuzz_file(const char *name, const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    hf_folder *folder = hf_folder_new();
    esp_error err = {0};
    hf_folder_add(folder, name, data, size);
    tokenizer *tok = hf_folder_open(folder, &err);
    ESP_ASSERT(tok || err.message[0]);
    if (tok) hf_fuzz_encode(tok);
    tok_close(tok);
    hf_folder_free(folder);
    return 0;
}

#endif
