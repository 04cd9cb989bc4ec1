/* test_sentence_files.c - sentence-transformers' files in folders of their own: what is read of them,
 * and each thing that is refused, by file and key. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/model/family/sentence_files.h"

static const char *const NAMES[] = {"modules.json", "1_Pooling/config.json",
                                    "sentence_bert_config.json", "tokenizer_config.json",
                                    "config_sentence_transformers.json"};
enum { FILES = SENTENCE_FILE_COUNT };

#define MODULE(kind, path)                                                                         \
    "{\"type\":\"sentence_transformers.models." kind "\",\"path\":\"" path "\"}"
#define TRANSFORMER MODULE("Transformer", "")
#define POOL MODULE("Pooling", "1_Pooling")
#define NORMALIZE MODULE("Normalize", "2_Normalize")

static const char THREE[] = "[" TRANSFORMER "," POOL "," NORMALIZE "]",
                  TWO[] = "[" TRANSFORMER "," POOL "]",
                  MEAN[] = "{\"pooling_mode_mean_tokens\":true}";

/* A folder with these files (NULL: not there), read into spec; removed again. */
static esp_code read_folder(const char *const *texts, model_spec *spec, esp_error *err) {
    char folder[] = "/tmp/espalier-sentence-XXXXXX", path[128], pooling[64];
    assert_non_null(mkdtemp(folder));
    snprintf(pooling, sizeof pooling, "%s/1_Pooling", folder);
    assert_int_equal(mkdir(pooling, 0700), 0);
    for (int i = 0; i < FILES; i++) {
        if (!texts[i]) continue;
        snprintf(path, sizeof path, "%s/%s", folder, NAMES[i]);
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        assert_true(fputs(texts[i], file) >= 0);
        fclose(file);
    }
    esp_code code = sentence_read_files(folder, spec, err);
    for (int i = 0; i < FILES; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, NAMES[i]);
        unlink(path);
    }
    rmdir(pooling);
    assert_int_equal(rmdir(folder), 0);
    return code;
}

static model_spec encoder(void) {
    return (model_spec){.encoder = true, .hidden = 384, .context = 512};
}

static model_spec read_well(const char *modules, const char *pooling, const char *sentence,
                            const char *tokenizer) {
    const char *texts[FILES] = {modules, pooling, sentence, tokenizer};
    model_spec spec = encoder();
    esp_error err = {0};
    if (read_folder(texts, &spec, &err)) fail_msg("%s", err.message);
    return spec;
}

static void poolings_and_normalisation_are_read(void **state) {
    (void)state;
    model_spec spec =
        read_well(THREE,
                  "{\"word_embedding_dimension\":384,\"pooling_mode_cls_token\":false,"
                  "\"pooling_mode_mean_tokens\":true,\"include_prompt\":true}",
                  "{\"max_seq_length\":256,\"do_lower_case\":false}", NULL);
    assert_int_equal(spec.pooling, POOLING_MEAN);
    assert_true(spec.normalise);
    assert_int_equal(spec.input_max, 256);
    spec = read_well(TWO, "{\"pooling_mode_cls_token\":true}", NULL, NULL);
    assert_int_equal(spec.pooling, POOLING_FIRST);
    assert_false(spec.normalise);
    assert_int_equal(spec.input_max, 0);
    spec = read_well(THREE, "{\"pooling_mode_lasttoken\":true}", NULL, NULL);
    assert_int_equal(spec.pooling, POOLING_LAST);
}

/* max_seq_length, else the tokenizer's limit where it is one; never beyond the positions. */
static void the_longest_text_is_read(void **state) {
    (void)state;
    static const char limit[] = "{\"model_max_length\":100}";
    assert_int_equal(read_well(THREE, MEAN, "{\"max_seq_length\":64}", limit).input_max, 64);
    assert_int_equal(read_well(THREE, MEAN, "{\"max_seq_length\":null}", limit).input_max, 100);
    assert_int_equal(read_well(THREE, MEAN, "{\"max_seq_length\":9999}", NULL).input_max, 512);
    assert_int_equal(read_well(THREE, MEAN, NULL, "{\"model_max_length\":1e30}").input_max, 0);
    static const char none[] = "{\"model_max_length\":1000000000000000019884624838656}";
    assert_int_equal(read_well(THREE, MEAN, NULL, none).input_max, 0);
    assert_int_equal(read_well(THREE, MEAN, NULL, "{\"model_max_length\":\"x\"}").input_max, 0);
}

static void a_decoder_without_the_files_generates(void **state) {
    (void)state;
    const char *texts[FILES] = {0};
    model_spec spec = {.hidden = 384, .context = 512};
    assert_int_equal(read_folder(texts, &spec, NULL), ESP_OK);
    assert_int_equal(spec.pooling, POOLING_NONE);
}

static void what_is_not_computed_is_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *modules, *pooling, *sentence, *says;
    } bad[] = {
        {NULL, MEAN, NULL, "modules.json is missing"},
        {"{}", MEAN, NULL, "holds 0 modules"},
        {"[", MEAN, NULL, "modules.json"},
        {"[" TRANSFORMER "]", MEAN, NULL, "holds 1 modules"},
        {"[" TRANSFORMER "," POOL "," NORMALIZE "," NORMALIZE "]", MEAN, NULL, "holds 4 modules"},
        {"[" TRANSFORMER "," POOL "," MODULE("Dense", "2_Dense") "]", MEAN, NULL, "models.Dense"},
        {"[" POOL "," TRANSFORMER "]", MEAN, NULL, "wanted Transformer"},
        {"[" TRANSFORMER "," MODULE("Pooling", "../x") "]", MEAN, NULL, "\"../x\""},
        {"[" TRANSFORMER ",{\"type\":\"custom.Pooling\",\"path\":\"1_Pooling\"}]", MEAN, NULL,
         "custom.Pooling"},
        {"[" TRANSFORMER ",{\"type\":3}]", MEAN, NULL, "module 1"},
        {"[1,2]", MEAN, NULL, "module 0"},
        {THREE, NULL, NULL, "1_Pooling/config.json is missing"},
        {THREE, "{}", NULL, "0 of the pooling_mode_*"},
        {THREE, "{\"pooling_mode_cls_token\":true,\"pooling_mode_mean_tokens\":true}", NULL,
         "2 of the pooling_mode_*"},
        {THREE, "{\"pooling_mode_max_tokens\":true}", NULL, "pooling_mode_max_tokens is true"},
        {THREE, "{\"pooling_mode_weightedmean_tokens\":true}", NULL, "weightedmean"},
        {THREE, "{\"pooling_mode_mean_tokens\":1}", NULL, "pooling_mode_mean_tokens"},
        {THREE, "{\"word_embedding_dimension\":64,\"pooling_mode_mean_tokens\":true}", NULL,
         "word_embedding_dimension is 64"},
        {THREE, "[]", NULL, "1_Pooling/config.json"},
        {THREE, MEAN, "{\"max_seq_length\":0}", "max_seq_length"},
        {THREE, MEAN, "{\"max_seq_length\":-1}", "max_seq_length"},
        {THREE, MEAN, "{\"do_lower_case\":true}", "do_lower_case is true"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *texts[FILES] = {bad[i].modules, bad[i].pooling, bad[i].sentence, NULL};
        model_spec spec = encoder();
        esp_error err = {0};
        if (read_folder(texts, &spec, &err) != ESP_INVALID || !strstr(err.message, bad[i].says))
            fail_msg("case %zu: wanted \"%s\" in \"%s\"", i, bad[i].says, err.message);
    }
}

/* A prompt by default is one that the reference writes and we would not; an empty one is none. */
static void a_prompt_by_default_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *prompts;
        esp_code code;
    } cases[] = {
        {"{\"prompts\":{\"query\":\"q: \"},\"default_prompt_name\":null}", ESP_OK},
        {"{\"prompts\":{\"query\":\"\"},\"default_prompt_name\":\"query\"}", ESP_OK},
        {"{\"prompts\":{\"query\":\"q: \"},\"default_prompt_name\":\"query\"}", ESP_INVALID},
        {"[]", ESP_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *texts[FILES] = {THREE, MEAN, NULL, NULL, cases[i].prompts};
        model_spec spec = encoder();
        esp_error err = {0};
        assert_int_equal(read_folder(texts, &spec, &err), cases[i].code);
        if (cases[i].code)
            assert_non_null(strstr(err.message, "config_sentence_transformers.json"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(poolings_and_normalisation_are_read),
        cmocka_unit_test(the_longest_text_is_read),
        cmocka_unit_test(a_decoder_without_the_files_generates),
        cmocka_unit_test(what_is_not_computed_is_refused_by_name),
        cmocka_unit_test(a_prompt_by_default_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
