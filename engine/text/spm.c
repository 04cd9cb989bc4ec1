/* spm.c - pairs ranked by the score of what they make; by scan or by heap. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/spm.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/text/utf8.h"

/* What is known of a token's own bytes as a text. */
enum { WHOLE_UNKNOWN, WHOLE_YES, WHOLE_NO };

struct spm {
    const vocab *vocab;
    uint32_t *ranks; /* [vocab->count] less is better */
    /* [vocab->count] does merging the token's bytes give the token? Learned as texts come by; every
     * thread would write the same answer, so relaxed stores do. */
    _Atomic uint8_t *whole;
};

/* The higher the score, the lower the number. A positive float's bits rise with it, a negative one's
 * fall; 0 and -0 are one. */
static uint32_t rank_of_score(float score) {
    uint32_t bits;
    score += 0.0f;
    memcpy(&bits, &score, sizeof bits);
    uint32_t rising = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return ~rising;
}

esp_code spm_open(spm **out, const vocab *v, const tok_source *source, esp_error *err) {
    ESP_ASSERT(out && v && source);
    *out = NULL;
    if (!source->scores)
        return esp_fail(err, ESP_INVALID,
                        "tokenizer.ggml.scores is missing; kind \"llama\" merges by them");
    spm *s = mem_new(1, sizeof *s);
    s->vocab = v;
    s->ranks = mem_new(v->count, sizeof *s->ranks);
    s->whole = mem_new(v->count, sizeof *s->whole);
    for (uint32_t id = 0; id < v->count; id++) {
        if (!isfinite(source->scores[id])) {
            spm_close(s);
            return esp_fail(err, ESP_INVALID,
                            "tokenizer.ggml.scores entry %u is not a finite number", id);
        }
        s->ranks[id] = rank_of_score(source->scores[id]);
    }
    *out = s;
    return ESP_OK;
}

void spm_close(spm *s) {
    if (!s) return;
    free(s->ranks);
    free((void *)s->whole);
    free(s);
}

void spm_scratch_free(spm_scratch *scratch) {
    free(scratch->begins);
    free(scratch->previous);
    free(scratch->next);
    free(scratch->ranks);
    free(scratch->ids);
    free(scratch->made);
    free(scratch->heap.at);
    *scratch = (spm_scratch){0};
}

static void scratch_reserve(spm_scratch *w, size_t count) {
    if (count <= w->capacity) return;
    ESP_ASSERT(count < 1u << 31);
    uint32_t capacity = count < 256 ? 256 : (uint32_t)count;
    w->begins = mem_resize(w->begins, capacity, sizeof *w->begins);
    w->previous = mem_resize(w->previous, capacity, sizeof *w->previous);
    w->next = mem_resize(w->next, capacity, sizeof *w->next);
    w->ranks = mem_resize(w->ranks, capacity, sizeof *w->ranks);
    w->ids = mem_resize(w->ids, capacity, sizeof *w->ids);
    w->made = mem_resize(w->made, capacity, sizeof *w->made);
    w->heap.at = mem_resize(w->heap.at, (size_t)capacity * 2, sizeof *w->heap.at);
    w->heap.capacity = capacity * 2;
    w->capacity = capacity;
}

static tok_text text_of(const spm_scratch *w, tok_text text, uint32_t symbol) {
    uint32_t right = w->next[symbol], begin = w->begins[symbol];
    size_t end = right == MERGE_NO_SYMBOL ? text.bytes : w->begins[right];
    return (tok_text){text.at + begin, end - begin};
}

/* Looks up what a symbol and its right neighbour would make. */
static void rank_pair(const spm *s, spm_scratch *w, tok_text text, uint32_t symbol) {
    uint32_t right = w->next[symbol];
    w->ranks[symbol] = MERGE_NO_RANK;
    if (right == MERGE_NO_SYMBOL) return;
    size_t bytes = text_of(w, text, symbol).bytes + text_of(w, text, right).bytes;
    int32_t id = vocab_find(s->vocab, text.at + w->begins[symbol], bytes);
    if (id == VOCAB_NONE) return;
    w->made[symbol] = id;
    w->ranks[symbol] = s->ranks[id];
}

/* One symbol per character (or per broken piece of one); returns how many. */
static uint32_t lay_out(const spm *s, spm_scratch *w, tok_text text) {
    uint32_t count = 0;
    for (size_t at = 0, length; at < text.bytes; at += length) {
        (void)utf8_first(text.at + at, text.bytes - at, &length);
        w->begins[count] = (uint32_t)at;
        w->ids[count] = VOCAB_NONE;
        count++;
    }
    for (uint32_t i = 0; i < count; i++) {
        w->previous[i] = i ? i - 1 : MERGE_NO_SYMBOL;
        w->next[i] = i + 1 < count ? i + 1 : MERGE_NO_SYMBOL;
    }
    for (uint32_t i = 0; i < count; i++)
        rank_pair(s, w, text, i);
    return count;
}

/* Makes one symbol of a pair; the right one dies. */
static void join(const spm *s, spm_scratch *w, tok_text text, uint32_t symbol) {
    uint32_t right = w->next[symbol], after = w->next[right], before = w->previous[symbol];
    w->ids[symbol] = w->made[symbol];
    w->next[symbol] = after;
    if (after != MERGE_NO_SYMBOL) w->previous[after] = symbol;
    w->ranks[right] = MERGE_NO_RANK;
    rank_pair(s, w, text, symbol);
    if (before != MERGE_NO_SYMBOL) rank_pair(s, w, text, before);
}

static void merge_by_scan(const spm *s, spm_scratch *w, tok_text text, uint32_t count) {
    for (;;) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < count; i++) {
            if (w->ranks[i] < w->ranks[best]) best = i;
        }
        if (w->ranks[best] == MERGE_NO_RANK) return;
        join(s, w, text, best);
    }
}

/* An entry left from an earlier pair of the same symbol may have the rank of its present one; then it
 * says the truth about that one, which is all that is asked. */
static void merge_by_heap(const spm *s, spm_scratch *w, tok_text text, uint32_t count) {
    w->heap.count = 0;
    for (uint32_t i = 0; i < count; i++)
        merge_heap_push(&w->heap, w->ranks[i], i);
    while (w->heap.count) {
        uint64_t entry = merge_heap_pop(&w->heap);
        uint32_t symbol = (uint32_t)entry, before = w->previous[symbol];
        if (w->ranks[symbol] != (uint32_t)(entry >> 32)) continue;
        join(s, w, text, symbol);
        merge_heap_push(&w->heap, w->ranks[symbol], symbol);
        if (before != MERGE_NO_SYMBOL) merge_heap_push(&w->heap, w->ranks[before], before);
    }
}

static void merge(const spm *s, spm_scratch *w, tok_text text, uint32_t floor, tok_ids *out) {
    scratch_reserve(w, text.bytes);
    uint32_t count = lay_out(s, w, text);
    if (count <= MERGE_SCAN_MAX)
        merge_by_scan(s, w, text, count);
    else
        merge_by_heap(s, w, text, count);
    for (uint32_t i = 0; i != MERGE_NO_SYMBOL; i = w->next[i]) {
        tok_text symbol = text_of(w, text, i);
        int32_t id = w->ids[i];
        if (id == VOCAB_NONE) id = vocab_find(s->vocab, symbol.at, symbol.bytes);
        if (id == VOCAB_NONE)
            vocab_add_unknown(s->vocab, symbol, floor, out);
        else
            tok_ids_add(out, id);
    }
}

void spm_encode(spm *s, spm_scratch *scratch, tok_text text, uint32_t floor, tok_ids *out) {
    if (text.bytes == 0) return;
    int32_t id = vocab_find(s->vocab, text.at, text.bytes);
    uint8_t known = WHOLE_NO;
    if (id != VOCAB_NONE) known = atomic_load_explicit(&s->whole[id], memory_order_relaxed);
    if (known == WHOLE_YES) {
        tok_ids_add(out, id);
        return;
    }
    uint32_t before = out->count;
    merge(s, scratch, text, floor, out);
    if (known == WHOLE_UNKNOWN) {
        bool whole = out->count == before + 1 && out->at[before] == id;
        atomic_store_explicit(&s->whole[id], whole ? WHOLE_YES : WHOLE_NO, memory_order_relaxed);
    }
}
