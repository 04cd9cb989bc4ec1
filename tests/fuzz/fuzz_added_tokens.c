/* fuzz_added_tokens.c - any bytes as the files that say which tokens an adapter adds: the first byte says which file, and
 * where a 0 byte follows, what stands behind it is the tokenizer's config. A sentence, or a tokenizer that encodes. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/tokens/added_tokens.h"
#include "tests/fuzz/hf_fuzz.h"
#include "tests/unit/tiny_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static tokenizer *open_base(void) {
    tiny_vocab *tiny = tiny_new("gpt-2");
    tokenizer *tok = NULL;
    tiny_special(tiny, "<|end|>", TOK_CONTROL);
    ESP_ASSERT(tok_open(&tok, &tiny->source, NULL) == ESP_OK);
    free(tiny);
    return tok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    hf_folder *folder = hf_folder_new();
    tokenizer *base = open_base(), *tok = NULL;
    const uint8_t *cut = memchr(data + 1, 0, size - 1), *end = data + size;
    bool says;
    esp_error err = {0};
    hf_folder_add(folder, data[0] == '2' ? "added_tokens.json" : "tokenizer.json", data + 1,
                  (size_t)((cut ? cut : end) - data - 1));
    if (cut) hf_folder_add(folder, "tokenizer_config.json", cut + 1, (size_t)(end - cut - 1));
    esp_code code = added_tokens_open(&tok, folder->path, base, 300, size % 2, &says, &err);
    ESP_ASSERT(code == ESP_OK || (!tok && err.message[0]));
    if (tok) hf_fuzz_encode(tok);
    tok_close(tok);
    tok_close(base);
    hf_folder_free(folder);
    return 0;
}
