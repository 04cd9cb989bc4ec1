/* test_gemma_vectors.c - Gemma 3's ids equal llama.cpp's on mixed texts (tests/vectors/
 * make_kind_vectors.py --gemma), the text comes back, and a megabyte of anything is no burden. Needs
 * the model file. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/text/utf8.h"
#include "tests/unit/kind_vectors.h"
#include "tests/unit/model_tokenizer.h"

static tokenizer *gemma;

/* Every byte has a token and no space goes in front: the stream is the text, marks as spaces. */
static void check_stream(tok_text text, const tok_ids *ids) {
    char *wanted = malloc(text.bytes + 1), piece[TOK_PIECE_MAX];
    size_t bytes = utf8_marks_to_spaces(text.at, text.bytes, wanted), at = 0;
    tok_stream stream = {0};
    for (uint32_t i = 0; i < ids->count; i++) {
        size_t made = tok_stream_next(gemma, &stream, ids->at[i], false, piece);
        assert_true(made <= bytes - at);
        assert_memory_equal(wanted + at, piece, made);
        at += made;
    }
    assert_int_equal(at, bytes);
    free(wanted);
}

static void ids_equal_the_reference(void **state) {
    (void)state;
    FILE *file = vector_open("gemma3_tokenizer.jsonl");
    assert_non_null(file);
    size_t texts = 0;
    for (json_t *row; (row = vector_next(file)); json_decref(row)) {
        tok_ids ids = {0};
        tok_text text = vector_text(row, "text");
        bool special = kv_true(row, "special");
        assert_true(kv_encode(gemma, text, special, &ids));
        if (!kv_same_ids(row, &ids)) fail_msg("ids differ: %s", json_dumps(row, 0));
        if (!special) check_stream(text, &ids);
        tok_ids_free(&ids);
        texts++;
    }
    fclose(file);
    assert_int_equal(texts, 700 + 44);
}

/* A quadratic merge would need hours here. */
static void hostile_texts_come_back(void **state) {
    (void)state;
    static const char *const units[] = {"a",         " ",    "\n",  "\xe6\xbc\xa2",
                                        "e\xcc\x81", "></ ", "\xff"};
    enum { BYTES = 1 << 20 };
    char *text = malloc(BYTES);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        size_t unit = strlen(units[u]), count = BYTES / unit;
        for (size_t i = 0; i < count; i++)
            memcpy(text + i * unit, units[u], unit);
        tok_ids ids = {0};
        assert_true(kv_encode(gemma, (tok_text){text, unit * count}, false, &ids));
        size_t bytes = 0;
        for (uint32_t i = 0; i < ids.count; i++)
            bytes += tok_bytes(gemma, ids.at[i]).bytes;
        assert_int_equal(bytes, unit * count);
        tok_ids_free(&ids);
    }
    free(text);
}

static void the_file_s_facts_are_there(void **state) {
    (void)state;
    assert_int_equal(tok_count(gemma), 262144);
    assert_int_equal(tok_bos(gemma), 2);
    assert_int_equal(tok_find(gemma, "<start_of_turn>"), 105);
    assert_true(tok_ends_generation(gemma, 1));
    assert_true(tok_ends_generation(gemma, tok_find(gemma, "<end_of_turn>")));
}

int main(void) {
    char path[1024];
    const char *given = getenv("ESPALIER_TEST_GEMMA"), *home = getenv("HOME");
    esp_error err = {0};
    snprintf(path, sizeof path, "%s%s",
             given  ? given
             : home ? home
                    : "",
             given ? "" : "/.cache/espalier/models/gemma-3-270m-q4_k_m.gguf");
    if (access(path, R_OK) != 0) {
        printf("skipped: not downloaded (%s)\n", path);
        return TEST_SKIPPED;
    }
    if (test_model_tokenizer(path, &gemma, NULL, NULL, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_equal_the_reference),
        cmocka_unit_test(hostile_texts_come_back),
        cmocka_unit_test(the_file_s_facts_are_there),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tok_close(gemma);
    return failed;
}
