/* test_bpe.c - both ways of finding the best pair give what the definition gives. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/bpe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/tiny_vocab.h"

static uint32_t random_state = 1;
static uint32_t random_below(uint32_t bound) {
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % bound;
}

/* The definition, read literally: join the leftmost pair of the best rank until there is none. */
static void merge_literally(const vocab *v, const tok_source *source, tok_ids *ids) {
    for (uint32_t rank = 0; rank < source->merge_count;) {
        tok_text merge = source->merges[rank++];
        const char *space = memchr(merge.at, ' ', merge.bytes);
        size_t left = (size_t)(space - merge.at), right = merge.bytes - left - 1;
        char made[64];
        memcpy(made, merge.at, left);
        memcpy(made + left, space + 1, right);
        int32_t pair[2] = {vocab_find(v, made, left), vocab_find(v, made + left, right)};
        for (uint32_t i = 0; i + 1 < ids->count; i++) {
            if (ids->at[i] != pair[0] || ids->at[i + 1] != pair[1]) continue;
            ids->at[i] = vocab_find(v, made, left + right);
            memmove(ids->at + i + 1, ids->at + i + 2, (ids->count - i - 2) * sizeof *ids->at);
            ids->count--;
            rank = 0; /* a better pair may have come up */
            break;
        }
    }
}

static bool has_token(const tiny_vocab *tiny, const char *text, size_t bytes) {
    for (uint32_t id = 0; id < tiny->source.token_count; id++) {
        if (tiny->tokens[id].bytes == bytes && memcmp(tiny->tokens[id].at, text, bytes) == 0)
            return true;
    }
    return false;
}

/* A merge of two tokens over the letters a, b, c that makes a new token; its text into out. */
static bool random_merge(const tiny_vocab *tiny, char out[64]) {
    uint32_t made = tiny->source.token_count - 256, ids[2];
    size_t bytes = 0;
    for (int side = 0; side < 2; side++) {
        uint32_t pick = random_below(made + 3);
        ids[side] = pick < 3 ? 'a' + pick : 256 + pick - 3;
    }
    tok_text left = tiny->tokens[ids[0]], right = tiny->tokens[ids[1]];
    char joined[64];
    if (left.bytes + right.bytes > 16) return false;
    memcpy(joined, left.at, left.bytes);
    memcpy(joined + left.bytes, right.at, right.bytes);
    if (has_token(tiny, joined, left.bytes + right.bytes)) return false;
    memcpy(out, left.at, left.bytes);
    out[bytes = left.bytes] = ' ';
    memcpy(out + bytes + 1, right.at, right.bytes);
    out[bytes + 1 + right.bytes] = 0;
    return true;
}

static void random_merges(tiny_vocab *tiny, char texts[24][64]) {
    for (int i = 0; i < 24; i++) {
        do {
        } while (!random_merge(tiny, texts[i]));
        tiny_merge(tiny, texts[i]);
    }
    for (int i = 0; i < 24; i++) { /* ranks in any order */
        uint32_t j = random_below(24);
        tok_text held = tiny->merges[i];
        tiny->merges[i] = tiny->merges[j];
        tiny->merges[j] = held;
    }
}

static void check_piece(bpe *b, const vocab *v, const tok_source *source, uint32_t bytes) {
    char piece[256];
    tok_ids wanted = {0}, ids = {0};
    bpe_scratch scratch = {0};
    for (uint32_t i = 0; i < bytes; i++) {
        piece[i] = (char)('a' + random_below(3));
        tok_ids_add(&wanted, v->byte_ids[(uint8_t)piece[i]]);
    }
    merge_literally(v, source, &wanted);
    for (int again = 0; again < 2; again++) { /* the second time the answer may be remembered */
        ids.count = 0;
        bpe_encode(b, &scratch, piece, bytes, &ids);
        assert_int_equal(ids.count, wanted.count);
        assert_memory_equal(ids.at, wanted.at, ids.count * sizeof *ids.at);
    }
    bpe_scratch_free(&scratch);
    tok_ids_free(&wanted);
    tok_ids_free(&ids);
}

/* 60 random merge tables, pieces of 1 to 200 bytes: short ones scan, long ones use the heap. */
static void merging_equals_its_definition(void **state) {
    (void)state;
    for (int table = 0; table < 60; table++) {
        tiny_vocab *tiny = tiny_new("gpt-2");
        char texts[24][64];
        vocab v;
        bpe *b;
        random_merges(tiny, texts);
        assert_int_equal(vocab_open(&v, &tiny->source, NULL), ESP_OK);
        assert_int_equal(bpe_open(&b, &v, &tiny->source, false, NULL), ESP_OK);
        for (uint32_t bytes = 1; bytes <= 200; bytes += 1 + bytes / 20)
            check_piece(b, &v, &tiny->source, bytes);
        bpe_close(b);
        vocab_close(&v);
        free(tiny);
    }
}

/* The same pair twice in the list: the better rank counts. */
static void the_better_of_two_ranks_counts(void **state) {
    (void)state;
    tiny_vocab *tiny = tiny_new("gpt-2");
    int32_t ab = tiny_merge(tiny, "a b"), bc = tiny_merge(tiny, "b c");
    tiny->merges[tiny->source.merge_count++] = tiny->merges[0];
    vocab v;
    bpe *b;
    bpe_scratch scratch = {0};
    tok_ids ids = {0};
    assert_int_equal(vocab_open(&v, &tiny->source, NULL), ESP_OK);
    assert_int_equal(bpe_open(&b, &v, &tiny->source, false, NULL), ESP_OK);
    bpe_encode(b, &scratch, "abc", 3, &ids);
    assert_int_equal(ids.count, 2);
    assert_int_equal(ids.at[0], ab);
    assert_int_not_equal(ids.at[1], bc);
    bpe_scratch_free(&scratch);
    tok_ids_free(&ids);
    bpe_close(b);
    vocab_close(&v);
    free(tiny);
}

/* Of two tokens with the same bytes the later one is made; an ordinary one goes before a
 * user-defined one wherever it stands. */
static void equal_tokens_have_one_winner(void **state) {
    (void)state;
    tiny_vocab *tiny = tiny_new("gpt-2");
    vocab v;
    int32_t first = tiny_special(tiny, "xy", TOK_NORMAL),
            second = tiny_special(tiny, "xy", TOK_NORMAL);
    int32_t user = tiny_special(tiny, "xy", TOK_USER_DEFINED);
    int32_t early = tiny_special(tiny, "uv", TOK_USER_DEFINED),
            late = tiny_special(tiny, "uv", TOK_NORMAL);
    assert_true(first < second && second < user && early < late);
    assert_int_equal(vocab_open(&v, &tiny->source, NULL), ESP_OK);
    assert_int_equal(vocab_find(&v, "xy", 2), second);
    assert_int_equal(vocab_find(&v, "uv", 2), late);
    vocab_close(&v);
    free(tiny);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merging_equals_its_definition),
        cmocka_unit_test(the_better_of_two_ranks_counts),
        cmocka_unit_test(equal_tokens_have_one_winner),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
