/* adapter_words.c - how many tokens an adapter adds, and what they are; how a classifier's labels are called. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/adapters/adapter_words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/model.h"
#include "engine/model/tokens/added_tokens.h"

/* ---- tokens ---- */

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

static esp_code open_tokens(adapter_words *out, const lora_facts *facts, const char *path,
                            const model_spec *spec, const tokenizer *tok, esp_error *err) {
    uint32_t rows = facts->whole_rows[LORA_EMBEDDING];
    bool grown = rows > spec->vocab, says = false;
    esp_error why = {0};
    out->vocab = grown ? rows : 0;
    esp_code code = grown ? check_count(facts, rows, spec->vocab, err) : ESP_OK;
    if (code != ESP_OK || !facts->tables || !tok) return code;
    code = added_tokens_open(&out->tok, path, tok, grown ? rows : spec->vocab, grown, &says, &why);
    if (code != ESP_OK) return esp_fail(err, code, "%s: %s", facts->name, why.message);
    return grown && !says ? fail_unnamed(facts, rows, spec->vocab, err) : ESP_OK;
}

/* ---- labels ---- */

static size_t label_bytes(const char *const *names, uint32_t i) {
    return names ? strlen(names[i]) + 1 : 11;
}

/* Without names they go by their numbers: what callers see has one for each. */
static void copy_labels(adapter_words *out, uint32_t count, const char *const *names) {
    size_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += sizeof(char *) + label_bytes(names, i);
    out->labels = mem_new(bytes, 1);
    out->label_count = count;
    char *text = (char *)(out->labels + count);
    for (uint32_t i = 0; i < count; i++) {
        out->labels[i] = text;
        text += names ? sprintf(text, "%s", names[i]) + 1 : sprintf(text, "%u", i) + 1;
    }
}

/* ---- all of them ---- */

esp_code adapter_words_open(adapter_words *out, const lora_facts *facts, const char *path,
                            const model_spec *spec, const tokenizer *tok, esp_error *err) {
    *out = (adapter_words){0};
    esp_code code = open_tokens(out, facts, path, spec, tok, err);
    if (code != ESP_OK) {
        adapter_words_close(out);
        return code;
    }
    if (facts->whole_rows[LORA_SCORE])
        copy_labels(out, facts->whole_rows[LORA_SCORE], facts->label_names);
    memcpy(out->from, facts->outline, sizeof out->from);
    return ESP_OK;
}

void adapter_words_close(adapter_words *words) {
    tok_close(words->tok);
    free(words->labels);
    *words = (adapter_words){0};
}
