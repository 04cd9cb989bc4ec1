/* specials.c - the tokens lie sorted by their bytes; a match narrows a range of them byte by byte.
 */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/specials.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

static bool is_special(const vocab *v, uint32_t id) {
    bool matched = vocab_is_control(v, id) || v->types[id] == TOK_USER_DEFINED;
    return matched && vocab_bytes(v, id).bytes > 0;
}

static int compare_texts(tok_text a, tok_text b) {
    size_t shorter = a.bytes < b.bytes ? a.bytes : b.bytes;
    int order = memcmp(a.at, b.at, shorter);
    return order ? order : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

/* Equal texts by ascending id, so that the order does not hang on the sort. */
static int compare_ids(const void *a, const void *b, void *arg) {
    const vocab *v = arg;
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    int order = compare_texts(vocab_bytes(v, left), vocab_bytes(v, right));
    return order ? order : (left > right) - (left < right);
}

static uint8_t byte_at(const specials *s, uint32_t index, size_t depth) {
    return (uint8_t)vocab_bytes(s->vocab, s->ids[index]).at[depth];
}

static void index_first_bytes(specials *s) {
    for (uint32_t i = 0; i < s->count; i++)
        s->first_from[byte_at(s, i, 0) + 1]++;
    for (int b = 1; b < 257; b++)
        s->first_from[b] += s->first_from[b - 1];
}

void specials_open(specials *s, const vocab *v, const uint8_t *strips) {
    *s = (specials){.vocab = v};
    if (strips) {
        s->strips = mem_new(v->count, sizeof *s->strips);
        memcpy(s->strips, strips, v->count);
    }
    for (uint32_t id = 0; id < v->count; id++)
        s->count += is_special(v, id);
    s->ids = mem_new((size_t)s->count + 1, sizeof *s->ids);
    s->count = 0;
    for (uint32_t id = 0; id < v->count; id++) {
        if (!is_special(v, id)) continue;
        s->ids[s->count++] = id;
        s->any_user_defined |= v->types[id] == TOK_USER_DEFINED;
    }
    qsort_r(s->ids, s->count, sizeof *s->ids, compare_ids, (void *)v);
    index_first_bytes(s);
}

void specials_close(specials *s) {
    free(s->ids);
    free(s->strips);
    *s = (specials){0};
}

int32_t specials_find(const specials *s, tok_text text) {
    uint32_t low = 0, high = s->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = compare_texts(vocab_bytes(s->vocab, s->ids[middle]), text);
        if (order == 0) return (int32_t)s->ids[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return VOCAB_NONE;
}

/* First index in [low, high) whose byte at depth is >= byte. */
static uint32_t first_not_below(const specials *s, uint32_t low, uint32_t high, size_t depth,
                                unsigned byte) {
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (byte_at(s, middle, depth) < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_passed(tok_span span, size_t at) { return span.end <= at || span.begin == span.end; }

/* Bytes of text from `at` that a control token may take: up to the next span, none inside one. */
static size_t control_reach(specials_search *search, size_t at) {
    if (!search->control) return 0;
    while (search->plain_at < search->plain_count && is_passed(search->plain[search->plain_at], at))
        search->plain_at++;
    if (search->plain_at == search->plain_count) return search->text.bytes - at;
    size_t begin = search->plain[search->plain_at].begin;
    return begin > at ? begin - at : 0;
}

/* Longest allowed token that begins at `at`. */
static int32_t match_at(specials_search *search, size_t at) {
    const specials *s = search->specials;
    const char *text = search->text.at + at;
    size_t left = search->text.bytes - at, reach = control_reach(search, at);
    uint32_t low = s->first_from[(uint8_t)text[0]], high = s->first_from[(uint8_t)text[0] + 1];
    int32_t best = VOCAB_NONE;
    for (size_t depth = 1; low < high; depth++) {
        /* [low, high) share depth bytes with the text; those that end here come first */
        while (low < high && vocab_bytes(s->vocab, s->ids[low]).bytes == depth) {
            uint32_t id = s->ids[low++];
            if (!vocab_is_control(s->vocab, id) || depth <= reach) best = (int32_t)id;
        }
        if (depth == left) break;
        low = first_not_below(s, low, high, depth, (uint8_t)text[depth]);
        high = first_not_below(s, low, high, depth, (uint8_t)text[depth] + 1u);
    }
    return best;
}

bool specials_next(specials_search *search, size_t from, size_t *begin, uint32_t *id) {
    const specials *s = search->specials;
    if (s->count == 0 || (!search->control && !s->any_user_defined)) return false;
    for (size_t at = from; at < search->text.bytes; at++) {
        uint8_t first = (uint8_t)search->text.at[at];
        if (s->first_from[first] == s->first_from[first + 1]) continue;
        int32_t found = match_at(search, at);
        if (found == VOCAB_NONE) continue;
        *begin = at;
        *id = (uint32_t)found;
        return true;
    }
    return false;
}
