/* test_classifier.c - adapters with a score head: peft's logits, the same bits in any company, and who asks
 * one for tokens. tests/vectors/make_lora_vectors.py makes what is wanted. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <jansson.h>

#include "engine/class_scores.h"
#include "tests/unit/tiny_engine.h"

#define VECTORS TEST_SOURCE_DIR "/tests/vectors/"
enum { LABELS = 3, PROMPT_MAX = 32, VOCAB = 304, OUTPUT = 6 };

static const char base_path[] = VECTORS "families/llama3.gguf";
static const char classifier[] = "score=" VECTORS "lora/llama-score";
static const char writer[] = "writer=" VECTORS "lora/llama-all";
static json_t *cases;

static int read_cases(void **state) {
    (void)state;
    cases = json_load_file(VECTORS "lora/scores.json", 0, NULL);
    return json_array_size(cases) > 0 ? 0 : -1;
}

static int drop_cases(void **state) {
    (void)state;
    json_decref(cases);
    return 0;
}

static engine *open_with(model_config config) {
    config.adapters.count = 2;
    config.adapters.at[0] = classifier;
    config.adapters.at[1] = writer;
    return tiny_open(base_path, config);
}

static adapter *find(engine *e, const char *name) {
    adapter *out = NULL;
    esp_error err = {0};
    if (*name && adapters_find(engine_adapters(e), name, &out, &err) != ESP_OK)
        fail_msg("%s", err.message);
    return out;
}

/* The prompt of a case; by "score" its scores are wanted, else tokens. */
static request *make_request(engine *e, size_t number, const char *by) {
    const json_t *ids = json_object_get(json_array_get(cases, number), "ids");
    bool classifies = strcmp(by, "score") == 0;
    int32_t prompt[PROMPT_MAX];
    request *r = NULL;
    esp_error err = {0};
    for (size_t i = 0; i < json_array_size(ids); i++)
        prompt[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    request_options o = {.prompt = prompt,
                         .prompt_count = (uint32_t)json_array_size(ids),
                         .output_max = classifies ? 0 : OUTPUT,
                         .embedding_width = classifies ? LABELS : 0,
                         .classifies = classifies,
                         .ignore_eos = true,
                         .adapters = engine_adapters(e),
                         .adapter = find(e, by)};
    if (request_new(&r, &o, VOCAB, &err) != ESP_OK) fail_msg("%s", err.message);
    return r;
}

static void ask(engine *e, size_t number, float out[LABELS]) {
    request *r = make_request(e, number, "score");
    tiny_submit(e, r);
    while (!atomic_load(&r->done))
        engine_step_or_wait(e);
    if (r->finish != FINISH_STOP) fail_msg("%s", r->error.message);
    memcpy(out, r->embedding, LABELS * sizeof *out);
    request_unref(r);
}

static void check_scores(model_config config, double most) {
    engine *e = open_with(config);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        float logits[LABELS];
        ask(e, i, logits);
        for (uint32_t k = 0; k < LABELS; k++) {
            const json_t *list = json_object_get(json_array_get(cases, i), "logits");
            double wanted = json_real_value(json_array_get(list, k));
            if (fabs((double)logits[k] - wanted) > most)
                fail_msg("case %zu, label %u: %g; peft gives %g", i, k, (double)logits[k], wanted);
        }
    }
    engine_close(e);
}

static void scores_on_ref_are_peft_s(void **state) {
    (void)state;
    check_scores((model_config){.device = DEVICE_REF}, 1e-4);
    check_scores((model_config){.device = DEVICE_REF, .step_tokens = 5}, 1e-4);
    check_scores((model_config){.device = DEVICE_REF, .tp = 2}, 1e-4);
}

static const kern_level LEVELS[] = {LEVEL_AVX2, LEVEL_AVX512, LEVEL_AMX};
enum { LEVEL_COUNT = sizeof LEVELS / sizeof *LEVELS };

static void scores_on_each_level_are_near(void **state) {
    (void)state;
    for (uint32_t i = 0; i < LEVEL_COUNT; i++)
        if (LEVELS[i] <= kern_cpu_best_level())
            check_scores((model_config){.device = DEVICE_CPU, .level = LEVELS[i]}, 0.03);
}

/* Between requests for tokens, of the base and of an adapter, in chunks, twice over. */
static void check_company(model_config config) {
    static const char *const by[] = {"score", "", "writer"};
    enum { COUNT = 24 };
    request *all[COUNT];
    size_t count = json_array_size(cases);
    float alone[COUNT][LABELS];
    engine *e = open_with(config);
    for (size_t i = 0; i < count; i++)
        ask(e, i, alone[i]);
    for (size_t i = 0; i < COUNT; i++)
        tiny_submit(e, all[i] = make_request(e, i % count, by[i % 3]));
    for (size_t i = 0; i < COUNT; i++)
        while (!atomic_load(&all[i]->done))
            engine_step_or_wait(e);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(all[i]->finish, i % 3 ? FINISH_LENGTH : FINISH_STOP);
        if (i % 3 == 0) assert_memory_equal(all[i]->embedding, alone[i % count], sizeof alone[0]);
        request_unref(all[i]);
    }
    engine_check(e);
    engine_close(e);
}

static void scores_are_the_same_bits_in_any_company(void **state) {
    (void)state;
    check_company((model_config){.device = DEVICE_REF, .step_tokens = 7});
    check_company((model_config){.device = DEVICE_REF, .tp = 2, .step_tokens = 7});
    for (uint32_t i = 0; i < LEVEL_COUNT; i++)
        if (LEVELS[i] <= kern_cpu_best_level())
            check_company((model_config){
                .device = DEVICE_CPU, .level = LEVELS[i], .step_tokens = 33, .threads = 2});
}

static void a_classifier_says_its_labels_and_gives_no_tokens(void **state) {
    (void)state;
    engine *e = open_with((model_config){.device = DEVICE_REF});
    adapter *score = find(e, "score"), *other = find(e, "writer");
    assert_int_equal(adapter_label_count(score), LABELS);
    assert_string_equal(adapter_labels(score)[0], "bill");
    assert_string_equal(adapter_labels(score)[2], "other");
    assert_int_equal(adapter_label_count(other), 0);
    int32_t id = 1;
    request_options o = {.prompt = &id,
                         .prompt_count = 1,
                         .output_max = 1,
                         .adapters = engine_adapters(e),
                         .adapter = score};
    request *r = NULL;
    esp_error err = {0};
    assert_int_equal(request_new(&r, &o, VOCAB, &err), ESP_OK);
    assert_int_equal(engine_submit(e, r, &err), ESP_PRECONDITION);
    assert_non_null(strstr(err.message, "classifies texts and generates none"));
    request_unref(r);
    adapter_release(engine_adapters(e), other);
    engine_close(e);
}

static void scores_are_the_softmax_of_the_logits(void **state) {
    (void)state;
    float scores[LABELS];
    assert_int_equal(class_scores((float[]){1, 3, 3}, 3, scores), 1);
    assert_true(fabsf(scores[0] - 0.0633789f) < 1e-6f && scores[1] == scores[2]);
    assert_true(fabsf(scores[0] + scores[1] + scores[2] - 1) < 1e-6f);
    assert_int_equal(class_scores((float[]){-3e38f, 3e38f}, 2, scores), 1);
    assert_true(scores[0] == 0 && scores[1] == 1);
    assert_int_equal(class_scores((float[]){0}, 1, scores), 0);
    assert_true(scores[0] == 0.5f);
}

/* How many labels it has is known before a tensor of it is read. */
static void one_of_the_store_says_its_labels_first(void **state) {
    (void)state;
    char root[] = "/tmp/espalier-classifier-XXXXXX", command[128];
    adapter_store *store;
    adapter_info info;
    assert_non_null(mkdtemp(root));
    assert_int_equal(store_open(&store, &(store_options){.root = root, .create = true}, NULL),
                     ESP_OK);
    assert_int_equal(store_import(store, strchr(classifier, '=') + 1,
                                  &(store_import_options){.name = "score"}, NULL, NULL),
                     ESP_OK);
    store_close(store);
    engine *e = tiny_open(base_path, (model_config){.device = DEVICE_REF, .adapter_store = root});
    adapter *ad = find(e, "score");
    assert_int_equal(adapter_label_count(ad), 0);
    assert_int_equal(adapters_read_words(engine_adapters(e), ad, NULL), ESP_OK);
    assert_int_equal(adapter_label_count(ad), LABELS);
    assert_string_equal(adapter_labels(ad)[1], "complaint");
    adapter_read_info(engine_adapters(e), ad, &info);
    assert_int_equal(info.state, ADAPTER_LISTED);
    float logits[LABELS];
    ask(e, 0, logits);
    adapter_read_info(engine_adapters(e), ad, &info);
    assert_int_equal(info.state, ADAPTER_READY);
    assert_string_equal(adapter_labels(ad)[1], "complaint");
    adapter_release(engine_adapters(e), ad);
    engine_close(e);
    snprintf(command, sizeof command, "rm -r %s", root);
    assert_int_equal(system(command), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_on_ref_are_peft_s),
        cmocka_unit_test(scores_on_each_level_are_near),
        cmocka_unit_test(scores_are_the_same_bits_in_any_company),
        cmocka_unit_test(a_classifier_says_its_labels_and_gives_no_tokens),
        cmocka_unit_test(one_of_the_store_says_its_labels_first),
        cmocka_unit_test(scores_are_the_softmax_of_the_logits),
    };
    return cmocka_run_group_tests(tests, read_cases, drop_cases);
}
