/* unigram.c - forward over the text, place by place; then back along the best cuts. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/unigram.h"

#include <math.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/text/trie.h"
#include "engine/text/utf8.h"

/* How much less likely than the rarest token an unknown character is, as in SentencePiece. */
#define UNKNOWN_PENALTY 10.0

struct unigram {
    const vocab *vocab;
    trie trie;
    double *scores; /* [vocab->count] */
    double unknown_score;
};

static esp_code read_scores(unigram *u, const tok_source *source, esp_error *err) {
    double lowest = 0;
    bool any = false;
    for (uint32_t id = 0; id < u->vocab->count; id++) {
        double score = source->fine_scores ? source->fine_scores[id] : (double)source->scores[id];
        if (!isfinite(score))
            return esp_fail(err, ESP_INVALID,
                            "tokenizer.ggml.scores entry %u is not a finite number", id);
        uint8_t type = u->vocab->types[id];
        u->scores[id] = type == TOK_USER_DEFINED ? 0 : score;
        if (type != TOK_NORMAL) continue;
        if (!any || score < lowest) lowest = score;
        any = true;
    }
    u->unknown_score = lowest - UNKNOWN_PENALTY;
    return ESP_OK;
}

esp_code unigram_open(unigram **out, const vocab *v, const tok_source *source, esp_error *err) {
    ESP_ASSERT(out && v && source);
    *out = NULL;
    if (!source->scores && !source->fine_scores)
        return esp_fail(err, ESP_INVALID,
                        "tokenizer.ggml.scores is missing; kind \"t5\" chooses by them");
    unigram *u = mem_new(1, sizeof *u);
    u->vocab = v;
    u->scores = mem_new(v->count, sizeof *u->scores);
    esp_code code = read_scores(u, source, err);
    if (code) return unigram_close(u), code;
    trie_open(&u->trie, v);
    *out = u;
    return ESP_OK;
}

void unigram_close(unigram *u) {
    if (!u) return;
    trie_close(&u->trie);
    free(u->scores);
    free(u);
}

void unigram_scratch_free(unigram_scratch *scratch) {
    free(scratch->cuts);
    *scratch = (unigram_scratch){0};
}

static unigram_cut *take_cuts(unigram_scratch *scratch, size_t bytes) {
    if (bytes + 1 > scratch->capacity) {
        scratch->capacity = bytes + 1 < 256 ? 256 : bytes + 1;
        scratch->cuts = mem_resize(scratch->cuts, scratch->capacity, sizeof *scratch->cuts);
    }
    scratch->cuts[0] = (unigram_cut){.id = VOCAB_NONE};
    for (size_t i = 1; i <= bytes; i++)
        scratch->cuts[i] = (unigram_cut){.score = -HUGE_VAL, .id = VOCAB_NONE};
    return scratch->cuts;
}

/* The earlier of equal ways stays. */
static void offer(unigram_cut *cut, double score, size_t begin, int32_t id) {
    if (score > cut->score) *cut = (unigram_cut){score, (uint32_t)begin, id};
}

/* Offers every token that the text has at `begin`, whose first character is `first` bytes long. */
static void extend(const unigram *u, unigram_cut *cuts, tok_text text, size_t begin, size_t first) {
    double score = cuts[begin].score;
    bool covered = false;
    uint32_t node = TRIE_ROOT;
    for (size_t at = begin; at < text.bytes; at++) {
        node = trie_step(&u->trie, node, (uint8_t)text.at[at]);
        if (node == TRIE_NONE) break;
        int32_t id = u->trie.ids[node];
        if (id == VOCAB_NONE) continue;
        covered |= at + 1 - begin == first;
        offer(&cuts[at + 1], score + u->scores[id], begin, id);
    }
    if (!covered) offer(&cuts[begin + first], score + u->unknown_score, begin, VOCAB_NONE);
}

/* Turns the way back into a way on: afterwards cuts[i].begin is where the token from i ends. */
static void turn(unigram_cut *cuts, size_t end) {
    int32_t id = cuts[end].id;
    for (uint32_t at = cuts[end].begin, to = (uint32_t)end;;) {
        unigram_cut before = cuts[at];
        cuts[at].begin = to;
        cuts[at].id = id;
        if (at == 0) return;
        to = at;
        at = before.begin;
        id = before.id;
    }
}

void unigram_encode(const unigram *u, unigram_scratch *scratch, tok_text text, uint32_t floor,
                    tok_ids *out) {
    if (text.bytes == 0) return;
    unigram_cut *cuts = take_cuts(scratch, text.bytes);
    for (size_t at = 0, first; at < text.bytes; at += first) {
        (void)utf8_first(text.at + at, text.bytes - at, &first);
        extend(u, cuts, text, at, first);
    }
    turn(cuts, text.bytes);
    for (size_t at = 0; at < text.bytes; at = cuts[at].begin) {
        if (cuts[at].id != VOCAB_NONE)
            tok_ids_add(out, cuts[at].id);
        else
            vocab_add_unknown(u->vocab, (tok_text){text.at + at, cuts[at].begin - at}, floor, out);
    }
}
