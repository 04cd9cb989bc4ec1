/* wordpiece.c - greedy walks through the trie. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/wordpiece.h"

esp_code wordpiece_open(wordpiece *w, const vocab *v, esp_error *err) {
    *w = (wordpiece){.vocab = v};
    if (v->unknown == VOCAB_NONE)
        return esp_fail(err, ESP_INVALID,
                        "tokenizer.ggml.unknown_token_id is missing; kind \"bert\" needs it");
    trie_open(&w->trie, v);
    return ESP_OK;
}

void wordpiece_close(wordpiece *w) { trie_close(&w->trie); }

/* The longest token from `at` on; returns its bytes, 0 when there is none. */
static size_t longest(const wordpiece *w, tok_text word, size_t at, int32_t *id) {
    uint32_t node = at == 0 ? trie_step(&w->trie, TRIE_ROOT, ' ') : TRIE_ROOT;
    size_t best = 0;
    for (size_t i = at; node != TRIE_NONE && i < word.bytes; i++) {
        node = trie_step(&w->trie, node, (uint8_t)word.at[i]);
        if (node == TRIE_NONE || w->trie.ids[node] == VOCAB_NONE) continue;
        best = i + 1 - at;
        *id = w->trie.ids[node];
    }
    return best;
}

void wordpiece_encode(const wordpiece *w, tok_text word, size_t characters, tok_ids *out) {
    uint32_t before = out->count;
    size_t at = 0;
    while (characters <= WORDPIECE_WORD_MAX && at < word.bytes) {
        int32_t id = VOCAB_NONE;
        size_t bytes = longest(w, word, at, &id);
        if (bytes == 0) break;
        tok_ids_add(out, id);
        at += bytes;
    }
    if (at == word.bytes) return;
    out->count = before;
    tok_ids_add(out, w->vocab->unknown);
}
