/* test_pretokenize.c - cuts equal the `tokenizers` library's, over mixed texts and over every
 * assigned code point (tests/vectors/make_tokenizer_vectors.py), and NFC equals its normaliser. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/pretokenize.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/text/nfc.h"
#include "tests/unit/vector_file.h"

/* Pieces as they come. */
typedef struct pieces {
    uint64_t digest;
    const json_t *wanted; /* lengths, or NULL */
    size_t count, bytes;
    bool same;
} pieces;

static esp_code take_piece(void *arg, const char *at, size_t bytes) {
    (void)at;
    pieces *p = arg;
    uint8_t length[2] = {(uint8_t)bytes, (uint8_t)(bytes >> 8)};
    p->digest = fnv(p->digest, length, 2);
    if (p->wanted && (json_int_t)bytes != json_integer_value(json_array_get(p->wanted, p->count)))
        p->same = false;
    p->count++;
    p->bytes += bytes;
    return ESP_OK;
}

static void cut(const pretokenizer *pre, tok_text text, pieces *p) {
    esp_error err = {0};
    pre_visitor visitor = {take_piece, p};
    pre_cutter *cutter = pre_cutter_open(pre, text.bytes);
    assert_int_equal(pre_cut(cutter, text.at, text.bytes, &visitor, &err), ESP_OK);
    pre_cutter_close(cutter);
}

static void check_text(const pretokenizer *pre, const json_t *row) {
    nfc_buffer nfc = {0};
    tok_text text = vector_text(row, "text"), form = vector_text(row, "nfc");
    if (pre_wants_nfc(pre)) {
        tok_text wanted = form.at ? form : text;
        text = nfc_of(&nfc, text);
        assert_int_equal(text.bytes, wanted.bytes);
        assert_memory_equal(text.at, wanted.at, wanted.bytes);
    }
    pieces p = {.wanted = json_object_get(row, "bytes"), .same = true};
    cut(pre, text, &p);
    if (!p.same || p.count != json_array_size(p.wanted))
        fail_msg("pieces of %s differ", json_dumps(row, 0));
    assert_int_equal(p.bytes, text.bytes);
    nfc_free(&nfc);
}

static size_t put_point(char *out, uint32_t c) {
    if (c < 0x80) return out[0] = (char)c, 1;
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6), out[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 63));
        out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18), out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63)), out[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* The six surroundings of make_tokenizer_vectors.py's sweep_text. */
static size_t put_surroundings(char *out, uint32_t c) {
    static const char *const before[] = {"a", "a1", "1 ", "'", "s! "};
    size_t at = 0;
    for (int i = 0; i < 5; i++) {
        memcpy(out + at, before[i], strlen(before[i]));
        at += strlen(before[i]);
        at += put_point(out + at, c);
    }
    return at;
}

static void check_sweep(const pretokenizer *pre, const json_t *row) {
    const json_t *range = json_object_get(row, "sweep");
    uint32_t first = (uint32_t)json_integer_value(json_array_get(range, 0));
    uint32_t last = (uint32_t)json_integer_value(json_array_get(range, 1));
    static char text[256 * 40];
    pieces p = {.digest = FNV_START};
    for (uint32_t block = first; block <= last; block += 256) {
        size_t bytes = 0;
        for (uint32_t c = block; c < block + 256 && c <= last; c++) {
            if (c < 0xd800 || c > 0xdfff) bytes += put_surroundings(text + bytes, c);
        }
        cut(pre, (tok_text){text, bytes}, &p);
    }
    if (p.digest != vector_digest(row))
        fail_msg("%s: pieces around U+%04X..%04X differ",
                 json_string_value(json_object_get(row, "pre")), first, last);
}

/* Every row of the vector file; a row's pre-tokenizer is opened once. */
static void cuts_equal_the_reference(void **state) {
    (void)state;
    FILE *file = vector_open("pretokenizer.jsonl");
    assert_non_null(file);
    pretokenizer *pre = NULL;
    char name[32] = "";
    size_t texts = 0, sweeps = 0;
    for (json_t *row; (row = vector_next(file)); json_decref(row)) {
        const char *wanted = json_string_value(json_object_get(row, "pre"));
        if (strcmp(name, wanted) != 0) {
            pre_close(pre);
            assert_int_equal(pre_open(&pre, wanted, NULL), ESP_OK);
            snprintf(name, sizeof name, "%s", wanted);
        }
        bool sweep = json_object_get(row, "sweep") != NULL;
        sweep ? check_sweep(pre, row) : check_text(pre, row);
        sweep ? sweeps++ : texts++;
    }
    pre_close(pre);
    fclose(file);
    assert_int_equal(texts, 7 * 500);
    assert_int_equal(sweeps, 7 * 3);
}

/* The other names of a row, as model files spell them. */
static void aliases_open(void **state) {
    (void)state;
    static const char *const names[] = {"gpt2",     "starcoder", "llama3",
                                        "llama-v3", "llama4",    "deepseek-r1-qwen"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        pretokenizer *pre;
        assert_int_equal(pre_open(&pre, names[i], NULL), ESP_OK);
        pre_close(pre);
    }
}

static void an_unknown_name_is_refused_with_the_list(void **state) {
    (void)state;
    pretokenizer *pre;
    esp_error err = {0};
    assert_int_equal(pre_open(&pre, "tekken-9", &err), ESP_UNIMPLEMENTED);
    assert_null(pre);
    assert_non_null(strstr(err.message, "\"tekken-9\""));
    assert_non_null(strstr(err.message, "smollm, starcoder, gpt-2, gpt2, llama-bpe"));
    assert_non_null(strstr(err.message, "qwen2"));
    assert_int_equal(pre_open(&pre, NULL, &err), ESP_UNIMPLEMENTED);
    assert_non_null(strstr(err.message, "missing"));
}

/* Texts at which a careless pattern backtracks for ever; every row must take them whole and in one
 * go. A quadratic matcher would need hours here, and the match limit would end it with an error. */
static void hostile_texts_stay_linear(void **state) {
    (void)state;
    static const char *const rows[] = {"smollm", "gpt-2",  "llama-bpe",  "qwen2",
                                       "tekken", "gpt-4o", "deepseek-v3"};
    static const char *const units[] = {" ",
                                        "a",
                                        "\n",
                                        " \n",
                                        "'",
                                        "1",
                                        "! ",
                                        "  a",
                                        "\xe6\xbc\xa2",
                                        "\xcc\x81\xcc\xa3",
                                        "A",
                                        "aA",
                                        "A1",
                                        "\xe3\x81\x82\xe6\xbc\xa2"};
    enum { BYTES = 1 << 20 };
    char *text = malloc(BYTES);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        pretokenizer *pre;
        assert_int_equal(pre_open(&pre, rows[r], NULL), ESP_OK);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            size_t unit = strlen(units[u]), count = BYTES / unit;
            for (size_t i = 0; i < count; i++)
                memcpy(text + i * unit, units[u], unit);
            pieces p = {0};
            cut(pre, (tok_text){text, count * unit}, &p);
            assert_int_equal(p.bytes, count * unit);
        }
        pre_close(pre);
    }
    free(text);
}

/* Groups of three from the right, as some tokenizers cut numbers: each match looks ahead to the end. */
static void a_long_number_is_cut_from_the_right(void **state) {
    (void)state;
    enum { DIGITS = 20000 };
    static const char pattern[] = "\\p{N}{1,3}(?=(?:\\p{N}{3})*(?!\\p{N}))";
    static char text[DIGITS];
    const tok_split split = {.kind = TOK_SPLIT_REGEX, .pattern = {pattern, sizeof pattern - 1}};
    const tok_plan plan = {.split_count = 1, .splits = &split};
    pretokenizer *pre;
    pieces p = {0};
    assert_int_equal(pre_open_plan(&pre, &plan, false, NULL), ESP_OK);
    memset(text, '7', DIGITS);
    cut(pre, (tok_text){text, DIGITS}, &p);
    assert_int_equal(p.bytes, DIGITS);
    assert_int_equal(p.count, DIGITS / 3 + 1); /* the first has two */
    pre_close(pre);
}

/* UAX #15: marks of falling combining class are put in order, whatever their number; and Hangul. */
static void normalisation_orders_many_marks(void **state) {
    (void)state;
    enum { PAIRS = 100000 };
    nfc_buffer nfc = {0};
    char *text = malloc(PAIRS * 4), *sorted = malloc(PAIRS * 4);
    for (size_t i = 0; i < PAIRS; i++) {
        memcpy(text + 4 * i, "\xcc\x81\xcc\xa3", 4); /* U+0301 (class 230), U+0323 (220) */
        memcpy(sorted + 2 * i, "\xcc\xa3", 2);
        memcpy(sorted + 2 * (PAIRS + i), "\xcc\x81", 2);
    }
    tok_text form = nfc_of(&nfc, (tok_text){text, PAIRS * 4});
    assert_int_equal(form.bytes, PAIRS * 4);
    assert_memory_equal(form.at, sorted, PAIRS * 4);
    form = nfc_of(&nfc, (tok_text){"\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", 9}); /* jamo of U+AC01 */
    assert_int_equal(form.bytes, 3);
    assert_memory_equal(form.at, "\xea\xb0\x81", 3);
    free(text);
    free(sorted);
    nfc_free(&nfc);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_equal_the_reference),
        cmocka_unit_test(aliases_open),
        cmocka_unit_test(an_unknown_name_is_refused_with_the_list),
        cmocka_unit_test(hostile_texts_stay_linear),
        cmocka_unit_test(a_long_number_is_cut_from_the_right),
        cmocka_unit_test(normalisation_orders_many_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
