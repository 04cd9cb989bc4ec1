/* test_token_kinds.c - ids of the kinds llama, t5 and bert equal their references' on mixed texts, on
 * texts of up to a megabyte and, for bert, around every code point (tests/vectors/
 * make_kind_vectors.py); and text made of ids is the text again. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/text/utf8.h"
#include "tests/unit/kind_vectors.h"

/* Counts of what was compared. */
static size_t texts, repeats, sweeps, streams;

/* Where every byte has a token and a space goes in front, nothing is lost but the mark U+2581, which
 * is a space. */
static void check_stream(const tokenizer *tok, tok_text text, const tok_ids *ids) {
    char *wanted = malloc(text.bytes + 1), piece[TOK_PIECE_MAX];
    size_t bytes = utf8_marks_to_spaces(text.at, text.bytes, wanted), at = 0;
    tok_stream stream = {0};
    for (uint32_t i = 0; i <= ids->count; i++) {
        size_t made = i < ids->count ? tok_stream_next(tok, &stream, ids->at[i], false, piece)
                                     : tok_stream_end(&stream, piece);
        assert_true(made <= bytes - at);
        assert_memory_equal(wanted + at, piece, made);
        at += made;
    }
    assert_int_equal(at, bytes);
    free(wanted);
    streams++;
}

static void check_text(const tokenizer *tok, bool lossless, const json_t *row) {
    tok_ids ids = {0};
    tok_text text = vector_text(row, "text");
    bool special = kv_true(row, "special");
    assert_true(kv_encode(tok, text, special, &ids));
    if (!kv_same_ids(row, &ids)) fail_msg("ids differ: %s", json_dumps(row, JSON_ENSURE_ASCII));
    if (lossless && !special) check_stream(tok, text, &ids);
    tok_ids_free(&ids);
    texts++;
}

static void check_repeat(const tokenizer *tok, const json_t *row) {
    tok_ids ids = {0};
    tok_text unit = vector_text(row, "repeat");
    size_t count = (size_t)json_integer_value(json_object_get(row, "count"));
    char *text = malloc(unit.bytes * count);
    for (size_t i = 0; i < count; i++)
        memcpy(text + i * unit.bytes, unit.at, unit.bytes);
    assert_true(kv_encode(tok, (tok_text){text, unit.bytes * count}, false, &ids));
    uint64_t digest =
        fnv(FNV_START, ids.at, ids.count * sizeof *ids.at); /* little-endian machine */
    if (ids.count != json_integer_value(json_object_get(row, "id_count")) ||
        digest != vector_digest(row))
        fail_msg("ids differ: %s", json_dumps(row, JSON_ENSURE_ASCII));
    free(text);
    tok_ids_free(&ids);
    repeats++;
}

static size_t put_point(char *out, uint32_t c) {
    size_t more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const uint8_t leads[] = {0, 0xc0, 0xe0, 0xf0};
    out[0] = (char)(leads[more] | c >> 6 * more);
    for (size_t i = 1; i <= more; i++)
        out[i] = (char)(0x80 | (c >> 6 * (more - i) & 63));
    return more + 1;
}

/* sweep_text() of make_kind_vectors.py */
static size_t put_surroundings(char *out, uint32_t c) {
    size_t at = 0;
    out[at++] = 'a';
    at += put_point(out + at, c);
    memcpy(out + at, "b ", 2);
    at += 2;
    at += put_point(out + at, c);
    memcpy(out + at, " x", 2);
    at += 2;
    return at + put_point(out + at, c);
}

static void check_sweep(const tokenizer *tok, const json_t *row) {
    const json_t *range = json_object_get(row, "sweep");
    uint32_t first = (uint32_t)json_integer_value(json_array_get(range, 0));
    uint32_t last = (uint32_t)json_integer_value(json_array_get(range, 1));
    uint64_t digest = FNV_START;
    tok_ids ids = {0};
    for (uint32_t c = first; c <= last; c++) {
        char text[32];
        if (c >= 0xd800 && c <= 0xdfff) continue;
        ids.count = 0;
        assert_true(kv_encode(tok, (tok_text){text, put_surroundings(text, c)}, false, &ids));
        digest = fnv(digest, ids.at, ids.count * sizeof *ids.at);
    }
    tok_ids_free(&ids);
    if (digest != vector_digest(row)) fail_msg("ids around U+%04X..%04X differ", first, last);
    sweeps++;
}

static void ids_equal_the_reference(void **state) {
    (void)state;
    FILE *file = vector_open("token_kinds.jsonl");
    assert_non_null(file);
    tokenizer *tok = NULL;
    bool lossless = false;
    for (json_t *row; (row = vector_next(file)); json_decref(row)) {
        const json_t *source = json_object_get(row, "tokenizer");
        if (source) {
            tok_close(tok);
            tok = kv_open(row);
            assert_non_null(tok);
            lossless = strcmp(json_string_value(json_object_get(source, "kind")), "llama") == 0;
        } else if (json_object_get(row, "repeat")) {
            check_repeat(tok, row);
        } else if (json_object_get(row, "sweep")) {
            check_sweep(tok, row);
        } else {
            check_text(tok, lossless, row);
        }
    }
    tok_close(tok);
    fclose(file);
    assert_true(texts >= 1800);
    assert_int_equal(repeats, 7 + 7 + 6);
    assert_int_equal(sweeps, 2 * 3);
    assert_true(streams >= 350);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(ids_equal_the_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
