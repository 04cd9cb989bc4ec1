/* test_hf_tokenizer.c - small tokenizer.json files, one a rule: ids equal the `tokenizers` library's (tests/vectors/
 * make_hf_tokenizer_vectors.py); files that are damaged or ask for what is not computed are refused by name. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/hf_folder_builder.h"
#include "tests/unit/vector_file.h"

static json_t *all_models, *all_texts;
static size_t rules, sweeps, compared;

/* The row's file: its tokenizer with the model that it names. */
static tokenizer *open_row(const json_t *row) {
    hf_folder *folder = hf_folder_new();
    json_t *whole = json_deep_copy(json_object_get(row, "tokenizer"));
    json_t *model = json_object_get(all_models, json_string_value(json_object_get(row, "model")));
    json_object_set(whole, "model", model);
    char *text = json_dumps(whole, JSON_COMPACT);
    hf_folder_add(folder, "tokenizer.json", text, strlen(text));
    esp_error err = {0};
    tokenizer *tok = hf_folder_open(folder, &err);
    if (!tok) fail_msg("%s: %s", json_string_value(json_object_get(row, "rule")), err.message);
    free(text);
    json_decref(whole);
    hf_folder_free(folder);
    return tok;
}

static void encode(const tokenizer *tok, const char *text, size_t bytes, bool add, tok_ids *ids) {
    tok_encode_options options = {.add_special = add, .parse_special = true};
    ids->count = 0;
    assert_int_equal(tok_encode(tok, text, bytes, &options, ids, NULL), ESP_OK);
}

static bool same_ids(const json_t *wanted, const tok_ids *ids) {
    bool same = json_array_size(wanted) == ids->count;
    for (uint32_t i = 0; same && i < ids->count; i++)
        same = json_integer_value(json_array_get(wanted, i)) == ids->at[i];
    return same;
}

static void check_rule(const json_t *row) {
    tokenizer *tok = open_row(row);
    const json_t *lists = json_object_get(row, "ids");
    tok_ids ids = {0};
    assert_int_equal(json_array_size(lists), json_array_size(all_texts));
    for (size_t i = 0; i < json_array_size(lists); i++) {
        const json_t *text = json_array_get(all_texts, i);
        encode(tok, json_string_value(text), json_string_length(text), true, &ids);
        if (!same_ids(json_array_get(lists, i), &ids)) {
            for (uint32_t k = 0; k < ids.count; k++)
                print_error("%d ", ids.at[k]);
            fail_msg("%s: %s: wanted %s", json_string_value(json_object_get(row, "rule")),
                     json_dumps(text, JSON_ENCODE_ANY | JSON_ENSURE_ASCII),
                     json_dumps(json_array_get(lists, i), 0));
        }
        compared++;
    }
    tok_ids_free(&ids);
    tok_close(tok);
    rules++;
}

static size_t put_point(char *out, uint32_t c) {
    size_t more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const uint8_t leads[] = {0, 0xc0, 0xe0, 0xf0};
    out[0] = (char)(leads[more] | c >> 6 * more);
    for (size_t i = 1; i <= more; i++)
        out[i] = (char)(0x80 | (c >> 6 * (more - i) & 63));
    return more + 1;
}

/* sweep_text() of make_hf_tokenizer_vectors.py */
static size_t put_surroundings(char *out, uint32_t c) {
    size_t at = 0;
    out[at++] = 'a';
    at += put_point(out + at, c);
    out[at++] = ' ';
    at += put_point(out + at, c);
    out[at++] = '1';
    return at;
}

static void check_sweep(const json_t *row) {
    tokenizer *tok = open_row(row);
    const json_t *range = json_object_get(row, "sweep");
    uint32_t last = (uint32_t)json_integer_value(json_array_get(range, 1));
    uint64_t digest = FNV_START;
    tok_ids ids = {0};
    char text[16];
    for (uint32_t c = (uint32_t)json_integer_value(json_array_get(range, 0)); c <= last; c++) {
        if (c >= 0xd800 && c <= 0xdfff) continue;
        encode(tok, text, put_surroundings(text, c), false, &ids);
        digest = fnv(digest, ids.at, ids.count * sizeof *ids.at); /* little-endian machine */
    }
    if (digest != vector_digest(row))
        fail_msg("%s differs", json_string_value(json_object_get(row, "rule")));
    tok_ids_free(&ids);
    tok_close(tok);
    sweeps++;
}

static void ids_equal_the_librarys(void **state) {
    (void)state;
    FILE *file = vector_open("hf_tokenizers.jsonl");
    assert_non_null(file);
    all_models = json_object();
    for (json_t *row; (row = vector_next(file));) {
        if (json_object_get(row, "json"))
            json_object_set(all_models, json_string_value(json_object_get(row, "model")),
                            json_object_get(row, "json"));
        if (json_object_get(row, "texts")) all_texts = json_incref(json_object_get(row, "texts"));
        if (json_object_get(row, "ids")) check_rule(row);
        if (json_object_get(row, "sweep")) check_sweep(row);
        json_decref(row);
    }
    fclose(file);
    json_decref(all_models);
    json_decref(all_texts);
    print_message("%zu rules, %zu texts, %zu sweeps over every code point\n", rules, compared,
                  sweeps);
    assert_true(rules >= 60 && sweeps >= 20 && compared >= 4000);
}

/* ---- refusals ---- */

#define MODEL(more)                                                                                \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]" more "}"
#define LEVEL "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"

typedef struct bad_file {
    const char *file, *text;
    esp_code code;
    const char *words[2]; /* of the sentence */
} bad_file;

static const bad_file bad_files[] = {
    {"tokenizer.json", "{", ESP_INVALID, {"tokenizer.json", "JSON"}},
    {"tokenizer.json", "[]", ESP_INVALID, {"tokenizer.json", "object"}},
    {"tokenizer.json", "{}", ESP_INVALID, {"tokenizer.json", "model"}},
    {"tokenizer.json", "{\"model\":{},\"model\":{}}", ESP_INVALID, {"tokenizer.json", "duplicate"}},
    {"tokenizer.json",
     "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}}}",
     ESP_UNIMPLEMENTED,
     {"model.type", "WordLevel"}},
    {"tokenizer.json",
     "{" LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}",
     ESP_INVALID,
     {"model.vocab", "id 0"}},
    {"tokenizer.json",
     "{" LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}",
     ESP_INVALID,
     {"model.vocab", "-1"}},
    {"tokenizer.json",
     "{" LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0.5},\"merges\":[]}}",
     ESP_INVALID,
     {"model.vocab", "\"a\""}},
    {"tokenizer.json",
     "{" LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4000000},\"merges\":[]}}",
     ESP_INVALID,
     {"model.vocab", "65536"}},
    {"tokenizer.json",
     "{" LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}",
     ESP_INVALID,
     {"model.vocab", "empty"}},
    {"tokenizer.json",
     "{" LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}",
     ESP_INVALID,
     {"model.merges", "entry 0"}},
    {"tokenizer.json",
     "{" LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}",
     ESP_INVALID,
     {"model.merges", "entry 0"}},
    {"tokenizer.json",
     "{" LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}",
     ESP_INVALID,
     {"model.merges", "not in the vocabulary"}},
    {"tokenizer.json",
     "{" LEVEL "," MODEL(",\"dropout\":0.1") "}",
     ESP_UNIMPLEMENTED,
     {"model.dropout", "0.1"}},
    {"tokenizer.json",
     "{" LEVEL "," MODEL(",\"end_of_word_suffix\":\"</w>\"") "}",
     ESP_UNIMPLEMENTED,
     {"model", "end_of_word_suffix"}},
    {"tokenizer.json",
     "{" LEVEL "," MODEL(",\"unk_token\":\"z\"") "}",
     ESP_INVALID,
     {"model.unk_token", "\"z\""}},
    {"tokenizer.json",
     "{" LEVEL "," MODEL("") ",\"added_tokens\":[{\"id\":0,\"content\":\"z\"}]}",
     ESP_INVALID,
     {"added_tokens", "\"z\""}},
    {"tokenizer.json",
     "{" LEVEL "," MODEL("") ",\"added_tokens\":[{\"id\":9,\"content\":\"a\"}]}",
     ESP_INVALID,
     {"added_tokens", "\"a\""}},
    {"tokenizer.json",
     "{" LEVEL "," MODEL("") ",\"added_tokens\":[{\"id\":3}]}",
     ESP_INVALID,
     {"added_tokens", "content"}},
    {"tokenizer.json",
     "{" LEVEL
     "," MODEL("") ",\"normalizer\":{\"type\":\"NFC\"},\"added_tokens\":[{\"id\":3,\"content\":"
                   "\"<s>\",\"special\":true,\"normalized\":true}]}",
     ESP_UNIMPLEMENTED,
     {"added_tokens", "<s>"}},
    {"tokenizer.json",
     "{\"normalizer\":{\"type\":\"Nmt\"}," LEVEL "," MODEL("") "}",
     ESP_UNIMPLEMENTED,
     {"normalizer", "Nmt"}},
    {"tokenizer.json",
     "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":"
     "\"Nope\"}]}," LEVEL "," MODEL("") "}",
     ESP_UNIMPLEMENTED,
     {"normalizer.normalizers[1]", "Nope"}},
    {"tokenizer.json",
     "{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAA\"}," LEVEL
     "," MODEL("") "}",
     ESP_INVALID,
     {"precompiled_charsmap", "base64"}},
    {"tokenizer.json",
     "{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"////fw==\"}," LEVEL
     "," MODEL("") "}",
     ESP_INVALID,
     {"normalizer", "damaged"}},
    {"tokenizer.json",
     "{\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}," MODEL("") "}",
     ESP_UNIMPLEMENTED,
     {"pre_tokenizer", "UnicodeScripts"}},
    {"tokenizer.json",
     "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"},\"behavior\":"
     "\"Isolated\"}," MODEL("") "}",
     ESP_UNIMPLEMENTED,
     {"pre_tokenizer", "&&"}},
    {"tokenizer.json",
     "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":"
     "\"Isolated\"}," MODEL("") "}",
     ESP_INVALID,
     {"pre_tokenizer", "regular expression"}},
    {"tokenizer.json",
     "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{Klingon}\"},"
     "\"behavior\":\"Isolated\"}," MODEL("") "}",
     ESP_UNIMPLEMENTED,
     {"pre_tokenizer", "Klingon"}},
    {"tokenizer.json",
     "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"\"},\"behavior\":"
     "\"Isolated\"}," MODEL("") "}",
     ESP_INVALID,
     {"pre_tokenizer", "empty"}},
    {"tokenizer.json",
     "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Odd\"}"
     "," MODEL("") "}",
     ESP_INVALID,
     {"pre_tokenizer", "Odd"}},
    {"tokenizer.json",
     "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{"
     "\"type\":\"Digits\"}]}," MODEL("") "}",
     ESP_UNIMPLEMENTED,
     {"pretokenizers[1]", "ByteLevel"}},
    {"tokenizer.json",
     "{" LEVEL ",\"decoder\":{\"type\":\"CTC\"}," MODEL("") "}",
     ESP_UNIMPLEMENTED,
     {"decoder", "CTC"}},
    {"tokenizer.json",
     "{" LEVEL
     "," MODEL("") ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{"
                   "\"SpecialToken\":{\"id\":\"a\"}},"
                   "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"a\":{\"ids\":[7]}}}}",
     ESP_INVALID,
     {"post_processor", "7"}},
    {"tokenizer.json",
     "{" LEVEL "," MODEL("") ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{"
                             "\"Sequence\":{\"id\":\"B\"}}]}}",
     ESP_UNIMPLEMENTED,
     {"post_processor", "single[0]"}},
    {"tekken.json", "{}", ESP_INVALID, {"tekken.json", "config"}},
    {"tekken.json",
     "{\"config\":{\"pattern\":\"a\",\"default_vocab_size\":2,\"default_num_special_tokens\":0},"
     "\"vocab\":[]}",
     ESP_INVALID,
     {"tekken.json", "0 others"}},
    {"tekken.json",
     "{\"config\":{\"pattern\":\"a$\",\"default_vocab_size\":1,\"default_num_special_tokens\":0},"
     "\"vocab\":[{\"rank\":0,\"token_bytes\":\"AA==\"}]}",
     ESP_UNIMPLEMENTED,
     {"config.pattern", "anchor"}},
    {"tekken.json",
     "{\"config\":{\"pattern\":\"a\",\"default_vocab_size\":1,\"default_num_special_tokens\":0},"
     "\"vocab\":[{\"rank\":0,\"token_bytes\":\"AA=\"}]}",
     ESP_INVALID,
     {"vocab", "base64"}},
    {"tekken.json",
     "{\"config\":{\"pattern\":\"a\",\"default_vocab_size\":2,\"default_num_special_tokens\":0},"
     "\"vocab\":[{\"rank\":0,\"token_bytes\":\"AA==\"},"
     "{\"rank\":0,\"token_bytes\":\"AQ==\"}]}",
     ESP_INVALID,
     {"vocab", "twice"}},
    {"tekken.json",
     "{\"config\":{\"pattern\":\"a\",\"default_vocab_size\":4294967296,\"default_num_special_"
     "tokens\":0},\"vocab\":[]}",
     ESP_INVALID,
     {"default_vocab_size", "4294967296"}},
    {"tokenizer.model", "AA== 0\n", ESP_UNIMPLEMENTED, {"tokenizer.model", "1 ranks"}},
    {"tokenizer.model", "\n\x7f", ESP_INVALID, {"tokenizer.model", "SentencePiece"}},
    {"tokenizer.model",
     "\n\x08\n\x01"
     "a\x15\xff\xff\xc0\x7f",
     ESP_INVALID,
     {"pieces", "score"}},
    {"other.json", "{}", ESP_NOT_FOUND, {"tokenizer.json", "tokenizer.model"}},
};

static void bad_files_are_refused_by_name(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad_files / sizeof *bad_files; i++) {
        const bad_file *bad = &bad_files[i];
        hf_folder *folder = hf_folder_new();
        hf_folder_add(folder, bad->file, bad->text, strlen(bad->text));
        esp_error err = {0};
        tokenizer *tok = hf_folder_open(folder, &err);
        if (tok || err.code != bad->code || !strstr(err.message, bad->words[0]) ||
            !strstr(err.message, bad->words[1]))
            fail_msg("case %zu, wanted %d and \"%s\", \"%s\": %d %s", i, bad->code, bad->words[0],
                     bad->words[1], err.code, err.message);
        hf_folder_free(folder);
    }
}

/* A file of brackets 10,000 deep ends in a sentence and not in the stack's end. */
static void nesting_is_bounded(void **state) {
    (void)state;
    char text[20016];
    static const char head[] = "{\"model\":";
    strcpy(text, head);
    memset(text + sizeof head - 1, '[', 10000);
    memset(text + sizeof head - 1 + 10000, ']', 10000);
    hf_folder *folder = hf_folder_new();
    hf_folder_add(folder, "tokenizer.json", text, sizeof head - 1 + 20000);
    esp_error err = {0};
    assert_null(hf_folder_open(folder, &err));
    assert_int_equal(err.code, ESP_INVALID);
    assert_non_null(strstr(err.message, "tokenizer.json"));
    hf_folder_free(folder);
}

#define SMALL                                                                                      \
    "{" LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[["    \
              "\"a\",\"b\"]]},"                                                                    \
    "\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"special\":true},{\"id\":4,\"content\":\"</" \
    "s>\",\"special\":true},"                                                                      \
    "{\"id\":5,\"content\":\"<|im_end|>\",\"special\":false},{\"id\":6,\"content\":\"<tool>\","    \
    "\"special\":false}]}"

static tokenizer *open_small(const char *config, const char *generation) {
    hf_folder *folder = hf_folder_new();
    esp_error err = {0};
    hf_folder_add(folder, "tokenizer.json", SMALL, strlen(SMALL));
    if (config) hf_folder_add(folder, "tokenizer_config.json", config, strlen(config));
    if (generation) hf_folder_add(folder, "generation_config.json", generation, strlen(generation));
    tokenizer *tok = hf_folder_open(folder, &err);
    if (!tok) print_error("%s\n", err.message);
    hf_folder_free(folder);
    return tok;
}

/* LlamaTokenizerFast puts the post-processor together anew: BOS by default, as add_bos_token says else. */
static void llamas_class_decides_bos(void **state) {
    (void)state;
    static const struct {
        const char *config;
        int32_t bos, eos;
        uint32_t count;
    } cases[] = {
        {NULL, -1, -1, 1},
        {"{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"add_bos_token\":true}", 3, 4, 1},
        {"{\"tokenizer_class\":\"LlamaTokenizerFast\",\"bos_token\":{\"content\":\"<s>\"}}", 3, -1,
         2},
        {"{\"tokenizer_class\":\"LlamaTokenizer\",\"bos_token\":\"<s>\",\"eos_token\":\"</"
         "s>\",\"add_eos_token\":true}",
         3, 4, 3},
        {"{\"tokenizer_class\":\"LlamaTokenizer\",\"bos_token\":\"<s>\",\"add_bos_token\":false}",
         3, -1, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tokenizer *tok = open_small(cases[i].config, NULL);
        tok_ids ids = {0};
        assert_non_null(tok);
        assert_int_equal(tok_bos(tok), cases[i].bos);
        assert_int_equal(tok_eos(tok), cases[i].eos);
        encode(tok, "ab", 2, true, &ids);
        assert_int_equal(ids.count, cases[i].count);
        tok_ids_free(&ids);
        tok_close(tok);
    }
}

/* eos_token_id of generation_config.json; without it, the chat formats' end marks. */
static void generation_config_ends_a_generation(void **state) {
    (void)state;
    tokenizer *tok = open_small(NULL, "{\"eos_token_id\":[4,6]}");
    assert_non_null(tok);
    assert_true(tok_ends_generation(tok, 4) && tok_ends_generation(tok, 6));
    assert_false(tok_ends_generation(tok, 5));
    tok_close(tok);
    tok = open_small(NULL, NULL);
    assert_non_null(tok);
    assert_true(tok_ends_generation(tok, 5));
    tok_close(tok);
    assert_null(open_small(NULL, "{\"eos_token_id\":7}"));
    assert_null(open_small(NULL, "{\"eos_token_id\":[\"x\"]}"));
}

/* A chat mark that the file forgot to call special is kept from a client's text all the same; a token that is
 * added and plain is matched in any text. */
static void marks_are_control_tokens(void **state) {
    (void)state;
    tokenizer *tok = open_small(NULL, NULL);
    tok_encode_options plain = {0};
    tok_ids ids = {0};
    assert_non_null(tok);
    assert_true(tok_is_control(tok, 5));
    assert_false(tok_is_control(tok, 6));
    assert_int_equal(tok_encode(tok, "<|im_end|>", 10, &plain, &ids, NULL), ESP_OK);
    for (uint32_t i = 0; i < ids.count; i++)
        assert_int_not_equal(ids.at[i], 5);
    ids.count = 0;
    assert_int_equal(tok_encode(tok, "a<tool>", 7, &plain, &ids, NULL), ESP_OK);
    assert_int_equal(ids.count, 2);
    assert_int_equal(ids.at[1], 6);
    tok_ids_free(&ids);
    tok_close(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_equal_the_librarys),
        cmocka_unit_test(bad_files_are_refused_by_name),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(llamas_class_decides_bos),
        cmocka_unit_test(generation_config_ends_a_generation),
        cmocka_unit_test(marks_are_control_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
