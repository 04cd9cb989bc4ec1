/* adapter_words.c - how many tokens an adapter adds, and what they are. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/adapters/adapter_words.h"

#include "engine/model/model.h"
#include "engine/model/tokens/added_tokens.h"

static esp_code check_count(const lora_facts *facts, uint32_t rows, uint32_t vocab,
                            esp_error *err) {
    if (rows - vocab <= MODEL_ADDED_TOKENS_MAX) return ESP_OK;
    return esp_fail(err, ESP_UNIMPLEMENTED,
                    "%s: it has %u tokens, %u more than the base's %u; at most %d more are served: "
                    "merge it into its base",
                    facts->name, rows, rows - vocab, vocab, MODEL_ADDED_TOKENS_MAX);
}

static esp_code fail_unnamed(const lora_facts *facts, uint32_t rows, uint32_t vocab,
                             esp_error *err) {
    return esp_fail(err, ESP_INVALID,
                    "%s: it has %u tokens, %u more than the base, and neither tokenizer.json nor "
                    "added_tokens.json says what they are; save its tokenizer beside it, and import it again",
                    facts->name, rows, rows - vocab);
}

esp_code adapter_words_open(adapter_words *out, const lora_facts *facts, const char *path,
                            const model_spec *spec, const tokenizer *tok, esp_error *err) {
    uint32_t rows = facts->whole_rows[LORA_EMBEDDING];
    bool grown = rows > spec->vocab, says = false;
    esp_error why = {0};
    *out = (adapter_words){.vocab = grown ? rows : 0};
    esp_code code = grown ? check_count(facts, rows, spec->vocab, err) : ESP_OK;
    if (code != ESP_OK || !facts->tables || !tok) return code;
    code = added_tokens_open(&out->tok, path, tok, grown ? rows : spec->vocab, grown, &says, &why);
    if (code != ESP_OK) return esp_fail(err, code, "%s: %s", facts->name, why.message);
    return grown && !says ? fail_unnamed(facts, rows, spec->vocab, err) : ESP_OK;
}
