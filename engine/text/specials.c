/* specials.c - the tokens lie sorted by their bytes; a match narrows a range of them byte by byte.
 */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/specials.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/base/mem.h"
#include "engine/text/letter_case.h"
#include "engine/text/utf8.h"

static bool is_special(const vocab *v, uint32_t id) {
    return vocab_is_control(v, id) || v->types[id] == TOK_USER_DEFINED;
}

static int compare_texts(tok_text a, tok_text b) {
    size_t shorter = a.bytes < b.bytes ? a.bytes : b.bytes;
    int order = shorter ? memcmp(a.at, b.at, shorter) : 0;
    return order ? order : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

typedef struct entry {
    tok_text key;
    size_t begin; /* in the pool */
    uint32_t id;
} entry;

/* Equal texts by ascending id, so that the order does not hang on the sort. */
static int compare_entries(const void *a, const void *b) {
    const entry *left = a, *right = b;
    int order = compare_texts(left->key, right->key);
    return order ? order : (left->id > right->id) - (left->id < right->id);
}

static uint8_t byte_at(const specials *s, uint32_t index, size_t depth) {
    return (uint8_t)s->keys[index].at[depth];
}

static void index_first_bytes(specials *s) {
    for (uint32_t i = 0; i < s->count; i++)
        s->first_from[byte_at(s, i, 0) + 1]++;
    for (int b = 1; b < 257; b++)
        s->first_from[b] += s->first_from[b - 1];
}

/* Keeps a key; returns where it begins in the pool. */
static size_t keep(specials *s, size_t *used, size_t *capacity, tok_text key) {
    if (*used + key.bytes > *capacity) {
        *capacity = 2 * (*used + key.bytes);
        s->pool = mem_resize(s->pool, *capacity, 1);
    }
    memcpy(s->pool + *used, key.at, key.bytes);
    *used += key.bytes;
    return *used - key.bytes;
}

/* Entries being collected. */
typedef struct entries {
    entry *at;
    size_t used, capacity; /* of the pool */
} entries;

static void add(specials *s, entries *all, tok_text text, uint32_t id) {
    if (text.bytes == 0) return;
    all->at[s->count++] = (entry){text, keep(s, &all->used, &all->capacity, text), id};
    s->any_user_defined |= s->vocab->types[id] == TOK_USER_DEFINED;
}

/* Sorted, and the list of them freed. */
static void take(specials *s, entries *all) {
    entry *at = all->at;
    for (uint32_t i = 0; i < s->count; i++)
        at[i].key.at = s->pool + at[i].begin;
    qsort(at, s->count, sizeof *at, compare_entries);
    s->ids = mem_new((size_t)s->count + 1, sizeof *s->ids);
    s->keys = mem_new((size_t)s->count + 1, sizeof *s->keys);
    for (uint32_t i = 0; i < s->count; i++) {
        s->ids[i] = at[i].id;
        s->keys[i] = at[i].key;
    }
    free(at);
    index_first_bytes(s);
}

static void keep_strips(specials *s, const uint8_t *strips) {
    if (!strips) return;
    s->strips = mem_new(s->vocab->count, sizeof *s->strips);
    memcpy(s->strips, strips, s->vocab->count);
}

void specials_open(specials *s, const vocab *v, const uint8_t *strips, const specials_key *key) {
    uint32_t most = 0;
    *s = (specials){.vocab = v};
    keep_strips(s, strips);
    for (uint32_t id = 0; id < v->count; id++)
        most += is_special(v, id);
    entries all = {.at = mem_new((size_t)most + 1, sizeof *all.at)};
    for (uint32_t id = 0; id < v->count; id++)
        if (is_special(v, id)) add(s, &all, key ? key->of(key->arg, id) : vocab_bytes(v, id), id);
    take(s, &all);
}

void specials_open_more(specials *s, const specials *base, const vocab *v, const uint8_t *strips,
                        uint32_t first, uint32_t count, const specials_key *key) {
    *s = (specials){.vocab = v};
    keep_strips(s, strips);
    entries all = {.at = mem_new((size_t)base->count + count + 1, sizeof *all.at)};
    for (uint32_t i = 0; i < base->count; i++)
        add(s, &all, base->keys[i], base->ids[i]);
    for (uint32_t id = first; id < first + count; id++)
        add(s, &all, key->of(key->arg, id), id);
    take(s, &all);
}

void specials_close(specials *s) {
    free(s->ids);
    free(s->keys);
    free(s->pool);
    free(s->strips);
    *s = (specials){0};
}

int32_t specials_find(const specials *s, tok_text text) {
    uint32_t low = 0, high = s->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = compare_texts(s->keys[middle], text);
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
static size_t control_reach(specials_search *search, size_t place) {
    if (!search->control) return 0;
    size_t at = search->base + place;
    while (search->plain_at < search->plain_count && is_passed(search->plain[search->plain_at], at))
        search->plain_at++;
    if (search->plain_at == search->plain_count) return search->text.bytes - place;
    size_t begin = search->plain[search->plain_at].begin;
    return begin > at ? begin - at : 0;
}

/* Index of the longest allowed token that begins at `at`. */
static int32_t match_at(specials_search *search, size_t at) {
    const specials *s = search->specials;
    const char *text = search->text.at + at;
    size_t left = search->text.bytes - at, reach = control_reach(search, at);
    uint32_t low = s->first_from[(uint8_t)text[0]], high = s->first_from[(uint8_t)text[0] + 1];
    int32_t best = VOCAB_NONE;
    for (size_t depth = 1; low < high; depth++) {
        /* [low, high) share depth bytes with the text; those that end here come first */
        while (low < high && s->keys[low].bytes == depth) {
            uint32_t index = low++;
            if (!vocab_is_control(s->vocab, s->ids[index]) || depth <= reach) best = (int32_t)index;
        }
        if (depth == left) break;
        low = first_not_below(s, low, high, depth, (uint8_t)text[depth]);
        high = first_not_below(s, low, high, depth, (uint8_t)text[depth] + 1u);
    }
    return best;
}

static bool is_word_at(tok_text text, size_t begin, size_t length) {
    int32_t point;
    return utf8proc_iterate((const uint8_t *)text.at + begin, (utf8proc_ssize_t)length, &point) >
               0 &&
           letter_is_word(point);
}

/* Does a word's character stand right before or behind? */
static bool touches_word(tok_text text, size_t begin, size_t end) {
    size_t before = begin, length;
    while (before > 0 && begin - before < 4 && ((uint8_t)text.at[before - 1] & 0xc0) == 0x80)
        before--;
    if (before > 0 && is_word_at(text, before - 1, begin - before + 1)) return true;
    if (end == text.bytes) return false;
    (void)utf8_first(text.at + end, text.bytes - end, &length);
    return is_word_at(text, end, length);
}

bool specials_next(specials_search *search, size_t from, size_t *begin, size_t *bytes,
                   uint32_t *id) {
    const specials *s = search->specials;
    if (s->count == 0 || (!search->control && !s->any_user_defined)) return false;
    for (size_t at = from; at < search->text.bytes; at++) {
        uint8_t first = (uint8_t)search->text.at[at];
        if (s->first_from[first] == s->first_from[first + 1]) continue;
        int32_t found = match_at(search, at);
        if (found == VOCAB_NONE) continue;
        *begin = at;
        *bytes = s->keys[found].bytes;
        *id = s->ids[found];
        if (!(specials_strips(s, *id) & TOK_SINGLE_WORD) ||
            !touches_word(search->text, at, at + *bytes))
            return true;
        at += *bytes - 1;
    }
    return false;
}
