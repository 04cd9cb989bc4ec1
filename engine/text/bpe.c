/* bpe.c - the merge table and the two ways of finding the best pair. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/bpe.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/text/utf8.h"

#define NO_RANK MERGE_NO_RANK
#define NO_SYMBOL MERGE_NO_SYMBOL

typedef struct pair_slot {
    uint64_t pair; /* left << 32 | right */
    uint32_t rank; /* NO_RANK: empty slot */
} pair_slot;

/* What is known of a token's own bytes as a piece. */
enum { WHOLE_UNKNOWN, WHOLE_YES, WHOLE_NO };

struct bpe {
    const vocab *vocab;
    bool take_whole, fuse_unknown;
    const char *origin; /* of the merges, while they are read */
    uint32_t merge_count;
    int32_t *results; /* [merge_count] token that the merge makes */
    pair_slot *slots; /* [mask + 1] */
    uint32_t mask, pair_count;
    /* [vocab->count] does merging the token's bytes give the token? Learned as pieces come by;
     * every thread would write the same answer, so relaxed stores do. */
    _Atomic uint8_t *whole;
    /* Bit left << 8 | right: some token holds these two bytes side by side. */
    uint8_t neighbours[65536 / 8];
};

static pair_slot *slot_of(const bpe *b, uint64_t pair) {
    uint32_t slot = (uint32_t)((pair * 0x9e3779b97f4a7c15u) >> 32) & b->mask;
    while (b->slots[slot].rank != NO_RANK && b->slots[slot].pair != pair)
        slot = (slot + 1) & b->mask;
    return &b->slots[slot];
}

static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* ---- opening ---- */

static int32_t find_part(const vocab *v, tok_text part, char *bytes, size_t *count) {
    if (part.bytes > TOK_PIECE_MAX * 2) return VOCAB_NONE; /* longer than any token */
    if (!vocab_decode(v, part, bytes, count)) return VOCAB_NONE;
    return vocab_find(v, bytes, *count);
}

typedef struct merge_text {
    tok_text left, right;
} merge_text;

static esp_code refuse_merge(const bpe *b, uint32_t index, merge_text text, const char *why,
                             esp_error *err) {
    int left = text.left.bytes < 80 ? (int)text.left.bytes : 80;
    int right = text.right.bytes < 80 ? (int)text.right.bytes : 80;
    return esp_fail(err, ESP_INVALID, "%s entry %u (\"%.*s%s%.*s\") %s", b->origin, index, left,
                    left ? text.left.at : "", right ? " " : "", right, right ? text.right.at : "",
                    why);
}

/* The two tokens of a merge and the one that they make. */
static esp_code read_merge(bpe *b, uint32_t index, merge_text text, uint64_t *pair,
                           esp_error *err) {
    char bytes[TOK_PIECE_MAX * 4];
    size_t left_bytes, right_bytes;
    int32_t left_id = find_part(b->vocab, text.left, bytes, &left_bytes);
    if (left_id == VOCAB_NONE)
        return refuse_merge(b, index, text, "begins with a part that is not in the vocabulary",
                            err);
    int32_t right_id = find_part(b->vocab, text.right, bytes + left_bytes, &right_bytes);
    if (right_id == VOCAB_NONE)
        return refuse_merge(b, index, text, "ends with a part that is not in the vocabulary", err);
    b->results[index] = vocab_find(b->vocab, bytes, left_bytes + right_bytes);
    if (b->results[index] == VOCAB_NONE)
        return refuse_merge(b, index, text, "makes a token that is not in the vocabulary", err);
    *pair = pair_of(left_id, right_id);
    return ESP_OK;
}

static void take_slots(bpe *b, uint32_t capacity) {
    b->slots = mem_new(capacity, sizeof *b->slots);
    b->mask = capacity - 1;
    for (uint32_t i = 0; i < capacity; i++)
        b->slots[i].rank = NO_RANK;
}

static void grow_slots(bpe *b) {
    pair_slot *old = b->slots;
    uint32_t old_mask = b->mask;
    ESP_ASSERT(old_mask < 1u << 30);
    take_slots(b, 2 * (old_mask + 1));
    for (uint32_t i = 0; i <= old_mask; i++) {
        if (old[i].rank != NO_RANK) *slot_of(b, old[i].pair) = old[i];
    }
    free(old);
}

/* The better rank of a pair stays. */
static void add_pair(bpe *b, uint64_t pair, uint32_t rank) {
    if (b->pair_count >= b->mask / 2) grow_slots(b);
    pair_slot *slot = slot_of(b, pair);
    if (slot->rank != NO_RANK) return;
    *slot = (pair_slot){pair, rank};
    b->pair_count++;
}

/* "left right" */
static bool cut_merge(tok_text text, merge_text *out) {
    const char *space = text.bytes ? memchr(text.at, ' ', text.bytes) : NULL;
    if (!space) return false;
    out->left = (tok_text){text.at, (size_t)(space - text.at)};
    out->right = (tok_text){space + 1, text.bytes - out->left.bytes - 1};
    return true;
}

static esp_code read_merges(bpe *b, const tok_source *source, esp_error *err) {
    for (uint32_t rank = 0; rank < b->merge_count; rank++) {
        uint64_t pair;
        merge_text text = {.right = {"", 0}};
        if (source->merges_are_pairs) {
            text = (merge_text){source->merges[2 * (size_t)rank],
                                source->merges[2 * (size_t)rank + 1]};
        } else if (!cut_merge(source->merges[rank], &text)) {
            text.left = source->merges[rank];
            return refuse_merge(b, rank, text, "has no space between its two parts", err);
        }
        esp_code code = read_merge(b, rank, text, &pair, err);
        if (code) return code;
        add_pair(b, pair, rank);
    }
    return ESP_OK;
}

/* Every way to make a token of two. A token is BY_ID_BYTES_MAX bytes long at most, so that its ways cost no
 * more than that for each of its bytes. */
enum { BY_ID_BYTES_MAX = 256 };

static esp_code derive_merges(bpe *b, esp_error *err) {
    const vocab *v = b->vocab;
    for (uint32_t id = 0; id < v->count; id++) {
        tok_text token = vocab_bytes(v, id);
        b->results[id] = (int32_t)id;
        if (!vocab_is_text(v, id) || v->types[id] == TOK_USER_DEFINED) continue;
        if (token.bytes > BY_ID_BYTES_MAX)
            return esp_fail(err, ESP_INVALID, "%s: token %u has %zu bytes; wanted %d at most",
                            b->origin, id, token.bytes, BY_ID_BYTES_MAX);
        for (size_t i = 1; i < token.bytes; i++) {
            int32_t left = vocab_find(v, token.at, i);
            if (left == VOCAB_NONE) continue;
            int32_t right = vocab_find(v, token.at + i, token.bytes - i);
            if (right != VOCAB_NONE) add_pair(b, pair_of(left, right), id);
        }
    }
    return ESP_OK;
}

static void note_neighbours(bpe *b) {
    for (uint32_t id = 0; id < b->vocab->count; id++) {
        tok_text token = vocab_bytes(b->vocab, id);
        for (size_t i = 1; i < token.bytes; i++) {
            uint32_t pair = (uint32_t)(uint8_t)token.at[i - 1] << 8 | (uint8_t)token.at[i];
            b->neighbours[pair / 8] |= (uint8_t)(1u << pair % 8);
        }
    }
}

esp_code bpe_open(bpe **out, const vocab *v, const tok_source *source, bool take_whole,
                  esp_error *err) {
    ESP_ASSERT(out && v && source);
    *out = NULL;
    if (source->merge_count > VOCAB_TOKENS_MAX)
        return esp_fail(err, ESP_INVALID, "tokenizer.ggml.merges has %u entries; at most %d",
                        source->merge_count, VOCAB_TOKENS_MAX);
    bpe *b = mem_new(1, sizeof *b);
    b->vocab = v;
    b->take_whole = take_whole;
    b->fuse_unknown = source->fuse_unknown;
    b->origin = source->origin ? source->origin : "tokenizer.ggml.merges";
    b->merge_count = source->merges_by_id ? v->count : source->merge_count;
    take_slots(b, 16);
    b->results = mem_new((size_t)b->merge_count + 1, sizeof *b->results);
    b->whole = mem_new(v->count, sizeof *b->whole);
    esp_code code = source->merges_by_id ? derive_merges(b, err) : read_merges(b, source, err);
    b->origin = NULL;
    if (code) return bpe_close(b), code;
    note_neighbours(b);
    *out = b;
    return ESP_OK;
}

void bpe_close(bpe *b) {
    if (!b) return;
    free(b->results);
    free(b->slots);
    free((void *)b->whole);
    free(b);
}

/* ---- merging one piece ---- */

void bpe_scratch_free(bpe_scratch *scratch) {
    free(scratch->ids);
    free(scratch->previous);
    free(scratch->next);
    free(scratch->ranks);
    free(scratch->heap.at);
    *scratch = (bpe_scratch){0};
}

static void scratch_reserve(bpe_scratch *s, size_t count) {
    if (count <= s->capacity) return;
    ESP_ASSERT(count < 1u << 31);
    uint32_t capacity = count < 256 ? 256 : (uint32_t)count;
    s->ids = mem_resize(s->ids, capacity, sizeof *s->ids);
    s->previous = mem_resize(s->previous, capacity, sizeof *s->previous);
    s->next = mem_resize(s->next, capacity, sizeof *s->next);
    s->ranks = mem_resize(s->ranks, capacity, sizeof *s->ranks);
    s->heap.at = mem_resize(s->heap.at, (size_t)capacity * 2, sizeof *s->heap.at);
    s->heap.capacity = capacity * 2;
    s->capacity = capacity;
}

/* Rank of the pair that a symbol begins. */
static uint32_t rank_of(const bpe *b, const bpe_scratch *s, uint32_t symbol) {
    uint32_t right = s->next[symbol];
    if (right == NO_SYMBOL) return NO_RANK;
    return slot_of(b, pair_of(s->ids[symbol], s->ids[right]))->rank;
}

/* One symbol per byte that has a token; returns how many. */
static uint32_t lay_out_bytes(const bpe *b, bpe_scratch *s, const char *piece, size_t bytes) {
    uint32_t count = 0;
    for (size_t i = 0; i < bytes; i++) {
        int32_t id = b->vocab->byte_ids[(uint8_t)piece[i]];
        if (id != VOCAB_NONE) s->ids[count++] = id;
    }
    return count;
}

/* The tokens of a character's bytes; false when one has none. */
static bool lay_out_fallback(const bpe *b, bpe_scratch *s, tok_text character, uint32_t *count) {
    const int32_t *ids = b->vocab->byte_ids;
    for (size_t i = 0; i < character.bytes; i++) {
        if (ids[(uint8_t)character.at[i]] == VOCAB_NONE) return false;
    }
    for (size_t i = 0; i < character.bytes; i++)
        s->ids[(*count)++] = ids[(uint8_t)character.at[i]];
    return true;
}

/* One symbol per character; an unknown one waits, because neighbours may fuse with it, and bytes' tokens
 * pass it by (as in the `tokenizers` library). */
static uint32_t lay_out_characters(const bpe *b, bpe_scratch *s, const char *piece, size_t bytes) {
    const vocab *v = b->vocab;
    uint32_t count = 0;
    bool waits = false;
    for (size_t at = 0, length; at < bytes; at += length) {
        (void)utf8_first(piece + at, bytes - at, &length);
        int32_t id = vocab_find(v, piece + at, length);
        if (id == VOCAB_NONE && lay_out_fallback(b, s, (tok_text){piece + at, length}, &count))
            continue;
        if (id == VOCAB_NONE && v->unknown == VOCAB_NONE) continue;
        if (waits && (id != VOCAB_NONE || !b->fuse_unknown)) s->ids[count++] = v->unknown;
        waits = id == VOCAB_NONE;
        if (id != VOCAB_NONE) s->ids[count++] = id;
    }
    if (waits) s->ids[count++] = v->unknown;
    return count;
}

/* The piece's symbols, linked and ranked; returns how many. */
static uint32_t lay_out(const bpe *b, bpe_scratch *s, const char *piece, size_t bytes) {
    uint32_t count = b->vocab->kind == VOCAB_CHARS ? lay_out_characters(b, s, piece, bytes)
                                                   : lay_out_bytes(b, s, piece, bytes);
    for (uint32_t i = 0; i < count; i++) {
        s->previous[i] = i ? i - 1 : NO_SYMBOL;
        s->next[i] = i + 1 < count ? i + 1 : NO_SYMBOL;
    }
    for (uint32_t i = 0; i < count; i++)
        s->ranks[i] = rank_of(b, s, i);
    return count;
}

/* Makes one symbol of a pair; the right one dies. */
static void join(const bpe *b, bpe_scratch *s, uint32_t symbol) {
    uint32_t right = s->next[symbol], after = s->next[right], before = s->previous[symbol];
    s->ids[symbol] = b->results[s->ranks[symbol]];
    s->next[symbol] = after;
    if (after != NO_SYMBOL) s->previous[after] = symbol;
    s->ranks[right] = NO_RANK;
    s->ranks[symbol] = rank_of(b, s, symbol);
    if (before != NO_SYMBOL) s->ranks[before] = rank_of(b, s, before);
}

static void merge_by_scan(const bpe *b, bpe_scratch *s, uint32_t count) {
    for (;;) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < count; i++) {
            if (s->ranks[i] < s->ranks[best]) best = i;
        }
        if (s->ranks[best] == NO_RANK) return;
        join(b, s, best);
    }
}

/* A symbol only grows, so a rank never comes back to it and an old entry cannot pass for a new one. */
static void merge_by_heap(const bpe *b, bpe_scratch *s, uint32_t count) {
    s->heap.count = 0;
    for (uint32_t i = 0; i < count; i++)
        merge_heap_push(&s->heap, s->ranks[i], i);
    while (s->heap.count) {
        uint64_t entry = merge_heap_pop(&s->heap);
        uint32_t symbol = (uint32_t)entry, before = s->previous[symbol];
        if (s->ranks[symbol] != (uint32_t)(entry >> 32)) continue;
        join(b, s, symbol);
        merge_heap_push(&s->heap, s->ranks[symbol], symbol);
        if (before != NO_SYMBOL) merge_heap_push(&s->heap, s->ranks[before], before);
    }
}

static void merge_part(const bpe *b, bpe_scratch *s, const char *piece, size_t bytes,
                       tok_ids *out) {
    scratch_reserve(s, bytes);
    uint32_t count = lay_out(b, s, piece, bytes);
    if (count == 0) return;
    if (count <= MERGE_SCAN_MAX)
        merge_by_scan(b, s, count);
    else
        merge_by_heap(b, s, count);
    for (uint32_t i = 0; i != NO_SYMBOL; i = s->next[i])
        tok_ids_add(out, s->ids[i]);
}

/* May a merge ever span these two bytes? One without a token makes neighbours of those around it. */
static bool may_join(const bpe *b, uint8_t left, uint8_t right) {
    const int32_t *ids = b->vocab->byte_ids;
    uint32_t pair = (uint32_t)left << 8 | right;
    return b->neighbours[pair / 8] >> pair % 8 & 1 || ids[left] == VOCAB_NONE ||
           ids[right] == VOCAB_NONE;
}

/* Between two bytes that stand side by side in no token no merge happens: what lies before and behind is
 * merged apart, which a cache likes in a long piece. */
static void merge(const bpe *b, bpe_scratch *s, const char *piece, size_t bytes, tok_ids *out) {
    if (b->vocab->kind != VOCAB_BPE) {
        merge_part(b, s, piece, bytes, out);
        return;
    }
    for (size_t begin = 0, end; begin < bytes; begin = end) {
        end = begin + 1;
        while (end < bytes && may_join(b, (uint8_t)piece[end - 1], (uint8_t)piece[end]))
            end++;
        merge_part(b, s, piece + begin, end - begin, out);
    }
}

void bpe_encode(bpe *b, bpe_scratch *scratch, const char *piece, size_t bytes, tok_ids *out) {
    int32_t id = vocab_find(b->vocab, piece, bytes);
    if (id == VOCAB_NONE) {
        merge(b, scratch, piece, bytes, out);
        return;
    }
    uint8_t known = atomic_load_explicit(&b->whole[id], memory_order_relaxed);
    if (b->take_whole || known == WHOLE_YES) {
        tok_ids_add(out, id);
        return;
    }
    uint32_t before = out->count;
    merge(b, scratch, piece, bytes, out);
    if (known == WHOLE_UNKNOWN) {
        bool whole = out->count == before + 1 && out->at[before] == id;
        atomic_store_explicit(&b->whole[id], whole ? WHOLE_YES : WHOLE_NO, memory_order_relaxed);
    }
}
