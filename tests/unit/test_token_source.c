/* test_token_source.c - the tokenizer.* keys of a GGUF file: what each says, what a missing one means
 * for its kind, and which are refused. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/tokens/token_source.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/gguf_builder.h"

static const char *const tokens[] = {"<unk>", "<s>",   "</s>",    "[CLS]",
                                     "[SEP]", "[UNK]", "<|end|>", "ab"};
enum { TOKENS = sizeof tokens / sizeof *tokens };

static gguf_builder begin(const char *arch, const char *kind) {
    static const int32_t types[TOKENS] = {2, 3, 3, 3, 3, 3, 3, 1};
    gguf_builder b = {0};
    gb_text(&b, "general.architecture", arch);
    gb_text(&b, "tokenizer.ggml.model", kind);
    gb_array(&b, "tokenizer.ggml.tokens", GGUF_STRING, TOKENS);
    for (int i = 0; i < TOKENS; i++)
        gb_put_text(&b.pairs, tokens[i]);
    gb_array(&b, "tokenizer.ggml.token_type", GGUF_I32, TOKENS);
    gb_put(&b.pairs, types, sizeof types);
    return b;
}

static void put_scores(gguf_builder *b, uint32_t count) {
    gb_array(b, "tokenizer.ggml.scores", GGUF_F32, count);
    for (uint32_t i = 0; i < count; i++) {
        float score = -(float)i;
        gb_put(&b->pairs, &score, sizeof score);
    }
}

/* A file in memory and what was read of it. */
typedef struct reading {
    char *bytes;
    gguf_file *file;
    token_source source;
    esp_code code;
    esp_error err;
} reading;

static void read_file(gguf_builder *b, reading *r) {
    size_t count;
    *r = (reading){0};
    r->bytes = (char *)gb_finish(b, &count);
    assert_int_equal(gguf_open_memory(&r->file, r->bytes, count, "t.gguf", &r->err), ESP_OK);
    r->code = token_source_read(&r->source, r->file, &r->err);
}

static void end(reading *r) {
    token_source_free(&r->source);
    gguf_close(r->file);
    free(r->bytes);
}

static void llama_has_its_defaults(void **state) {
    (void)state;
    reading r;
    gguf_builder b = begin("llama", "llama");
    put_scores(&b, TOKENS);
    gb_u32(&b, "tokenizer.ggml.bos_token_id", 1);
    gb_u32(&b, "tokenizer.ggml.eos_token_id", 2);
    read_file(&b, &r);
    assert_int_equal(r.code, ESP_OK);
    const tok_source *s = &r.source.source;
    assert_true(s->add_space_prefix && s->add_bos && !s->add_eos && !s->collapse_spaces);
    assert_int_equal(s->unknown, 0); /* the first token of that type */
    assert_true(s->scores[7] == -7.0f);
    assert_null(s->strips);
    end(&r);
}

static void keys_win_over_defaults(void **state) {
    (void)state;
    reading r;
    gguf_builder b = begin("llama", "t5");
    put_scores(&b, TOKENS);
    gb_u32(&b, "tokenizer.ggml.eos_token_id", 2);
    gb_u32(&b, "tokenizer.ggml.unknown_token_id", 5);
    gb_bool(&b, "tokenizer.ggml.add_space_prefix", true);
    gb_bool(&b, "tokenizer.ggml.remove_extra_whitespaces", true);
    gb_array(&b, "tokenizer.ggml.precompiled_charsmap", GGUF_I8, 5);
    gb_put(&b.pairs, "\0\0\0\0", 5);
    read_file(&b, &r);
    assert_int_equal(r.code, ESP_OK);
    const tok_source *s = &r.source.source;
    assert_true(s->add_space_prefix && s->collapse_spaces && !s->add_bos && s->add_eos);
    assert_int_equal(s->unknown, 5);
    assert_int_equal(s->charsmap_bytes, 5);
    end(&r);
}

/* A vocabulary of BERT's kind without names for its ends: [CLS], [SEP], [UNK] are found by text. */
static void bert_finds_its_ends(void **state) {
    (void)state;
    reading r;
    gguf_builder b = begin("bert", "bert");
    read_file(&b, &r);
    assert_int_equal(r.code, ESP_OK);
    const tok_source *s = &r.source.source;
    assert_int_equal(s->bos, 3);
    assert_int_equal(s->eos, 4);
    assert_int_equal(s->unknown, 0);
    assert_true(s->add_bos && s->add_eos && s->uncased);
    end(&r);
}

/* Phi-3's special tokens swallow the white space behind them; <s> and ordinary tokens do not. */
static void phi3_strips_behind_special_tokens(void **state) {
    (void)state;
    reading r;
    gguf_builder b = begin("phi3", "llama");
    put_scores(&b, TOKENS);
    read_file(&b, &r);
    assert_int_equal(r.code, ESP_OK);
    const uint8_t *strips = r.source.source.strips;
    assert_non_null(strips);
    assert_int_equal(strips[6], TOK_STRIP_AFTER);
    assert_int_equal(strips[2], TOK_STRIP_AFTER);
    assert_int_equal(strips[0] | strips[1] | strips[7], 0);
    end(&r);
}

static void wrong_arrays_are_refused(void **state) {
    (void)state;
    reading r;
    gguf_builder b = begin("llama", "llama");
    put_scores(&b, TOKENS - 1);
    read_file(&b, &r);
    assert_int_equal(r.code, ESP_INVALID);
    assert_non_null(strstr(r.err.message, "tokenizer.ggml.scores has 7 entries"));
    end(&r);
    b = begin("llama", "t5");
    gb_array(&b, "tokenizer.ggml.precompiled_charsmap", GGUF_U32, 1);
    gb_put_u32(&b.pairs, 0);
    read_file(&b, &r);
    assert_int_equal(r.code, ESP_INVALID);
    assert_non_null(strstr(r.err.message, "precompiled_charsmap"));
    end(&r);
    b = begin("llama", "llama");
    gb_u32(&b, "tokenizer.ggml.unknown_token_id", TOKENS);
    read_file(&b, &r);
    assert_int_equal(r.code, ESP_INVALID);
    assert_non_null(strstr(r.err.message, "unknown_token_id is 8"));
    end(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_has_its_defaults),
        cmocka_unit_test(keys_win_over_defaults),
        cmocka_unit_test(bert_finds_its_ends),
        cmocka_unit_test(phi3_strips_behind_special_tokens),
        cmocka_unit_test(wrong_arrays_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
