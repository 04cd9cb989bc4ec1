/* test_adapter_words.c - adapters that add tokens to their base's: requests through them meet wider rows of logits and a
 * tokenizer of their own, and nobody else does; bit for bit what each gives alone. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/mem.h"
#include "tests/unit/tiny_adapters.h"

enum { ADAPTERS = 5, REQUESTS = 18, OUTPUT = 8, VOCAB = TINY_TOKENS, WIDEST = 4 };

static const tiny_llama_options MODEL = {.layers = 2,
                                         .hidden = 96,
                                         .heads = 6,
                                         .kv_heads = 2,
                                         .head_dim = 16,
                                         .intermediate = 160,
                                         .vocab = VOCAB,
                                         .context = 512,
                                         .dtype = DT_Q4_1,
                                         .seed = 7,
                                         .tied = true};

/* A low-rank one, one with tables of the base's size, three with more tokens: up to as many as there may be. */
static const uint32_t ADDED[ADAPTERS] = {0, 0, 1, 5, MODEL_ADDED_TOKENS_MAX};

static char model_path[] = "/tmp/espalier-words-XXXXXX";
static tiny_adapters files;

static int make_files(void **state) {
    (void)state;
    tiny_write(model_path, &MODEL);
    for (uint32_t i = 0; i < ADAPTERS; i++) {
        tiny_adapters_add(&files, &(tiny_adapter_options){.base = &MODEL,
                                                          .rank = 3 + i,
                                                          .targets = i % 2 ? TA_ALL : TA_Q,
                                                          .wholes = i > 0,
                                                          .added = ADDED[i],
                                                          .seed = 300 + i});
    }
    return 0;
}

static int drop_files(void **state) {
    (void)state;
    tiny_adapters_remove(&files);
    return unlink(model_path);
}

static engine *open_with(model_config config) {
    return tiny_open_with(model_path, &files, ADAPTERS, config);
}

static uint32_t vocab_of(int which) { return VOCAB + (which == BASE ? 0 : ADDED[which]); }

static sample_policy policy_of(uint32_t number) {
    const sample_policy kinds[] = {{.logprobs = true, .top_logprobs = 4},
                                   {.temperature = 1.2f},
                                   {.temperature = 0.9f, .top_p = 0.9f, .repetition_penalty = 1.3f},
                                   {.temperature = 1, .top_k = 40, .frequency_penalty = 0.5f}};
    sample_policy policy = kinds[number % 4];
    policy.seed = number;
    return policy;
}

/* Ids of all that the adapter has, so that some are its own. */
static request *make_request(engine *e, uint32_t number, int which) {
    int32_t prompt[40];
    uint32_t count = 4 + number * 7 % 33, noise = number * 2654435761u + 1;
    for (uint32_t i = 0; i < count; i++) {
        noise = noise * 1664525u + 1013904223u;
        prompt[i] = (int32_t)((noise >> 8) % vocab_of(which));
    }
    prompt[count / 2] = (int32_t)vocab_of(which) - 1;
    request_options o = {.prompt = prompt,
                         .prompt_count = count,
                         .output_max = OUTPUT,
                         .ignore_eos = true,
                         .row_digests = true,
                         .adapters = engine_adapters(e),
                         .adapter = tiny_find(e, which),
                         .policy = policy_of(number)};
    request *r = NULL;
    esp_error err = {0};
    if (request_new(&r, &o, engine_vocab(e, o.adapter), &err)) fail_msg("%s", err.message);
    return r;
}

static int adapter_of(uint32_t number) { return number % 6 == 5 ? BASE : (int)(number % 6); }

static const tiny_crowd crowd = {REQUESTS, make_request, adapter_of};

/* Ids of its own tokens come from the widest alone, where they are most of all. */
static void assert_widths(const tiny_answer *all) {
    uint32_t own = 0;
    for (uint32_t i = 0; i < REQUESTS; i++)
        for (uint32_t k = 0; k < OUTPUT; k++) {
            assert_in_range(all[i].ids[k], 0, vocab_of(adapter_of(i)) - 1);
            own += adapter_of(i) == WIDEST && all[i].ids[k] >= VOCAB;
        }
    assert_true(own > 0);
}

static void check_company(model_config config) {
    static tiny_answer alone[REQUESTS], other[REQUESTS];
    engine *e = open_with(config);
    tiny_answer_alone(e, &crowd, alone);
    assert_widths(alone);
    tiny_answer_together(e, &crowd, 0, other);
    tiny_assert_same(&crowd, alone, other, "all at once");
    engine_close(e);
    config.threads = 3;
    config.max_seqs = config.step_tokens = 13;
    e = open_with(config);
    tiny_answer_together(e, &crowd, 0, other);
    tiny_assert_same(&crowd, alone, other, "3 threads, chunks of 13");
    engine_close(e);
}

static void on_ref_company_changes_no_bit(void **state) {
    (void)state;
    check_company((model_config){.device = DEVICE_REF});
}

static void check_level(kern_level level) {
    if (kern_cpu_best_level() < level) skip();
    check_company((model_config){.device = DEVICE_CPU, .level = level});
    check_company((model_config){.device = DEVICE_CPU, .level = level, .activations = ACT_INT8});
}

static void on_avx2_company_changes_no_bit(void **state) {
    (void)state;
    check_level(LEVEL_AVX2);
}

static void on_avx512_company_changes_no_bit(void **state) {
    (void)state;
    check_level(LEVEL_AVX512);
}

static void on_amx_company_changes_no_bit(void **state) {
    (void)state;
    check_level(LEVEL_AMX);
}

/* The base's answers are those of an engine that has never heard of adapters. */
static void the_base_answers_as_without_adapters(void **state) {
    (void)state;
    tiny_answer with, without;
    engine *e = open_with((model_config){.device = DEVICE_REF});
    request *all[ADAPTERS + 1];
    for (int i = BASE; i < ADAPTERS; i++)
        tiny_submit(e, all[i + 1] = make_request(e, 2, i));
    for (int i = 0; i <= ADAPTERS; i++) {
        while (!atomic_load(&all[i]->done))
            engine_step_or_wait(e);
        if (i == 0)
            tiny_keep(all[i], &with);
        else
            request_unref(all[i]);
    }
    engine_close(e);
    e = tiny_open(model_path, (model_config){.device = DEVICE_REF});
    request *r = make_request(e, 2, BASE);
    tiny_submit(e, r);
    tiny_finish(e, r);
    tiny_keep(r, &without);
    assert_memory_equal(&with, &without, sizeof with);
    engine_close(e);
}

/* ---- ids ---- */

static esp_code try_request(engine *e, int which, int32_t id, const sample_bias *bias,
                            request **out, esp_error *err) {
    request_options o = {.prompt = &id,
                         .prompt_count = 1,
                         .output_max = 4,
                         .adapters = engine_adapters(e),
                         .adapter = tiny_find(e, which),
                         .policy = {.bias = bias, .bias_count = bias != NULL}};
    esp_code code = request_new(out, &o, engine_vocab(e, o.adapter), err);
    if (code != ESP_OK) adapter_release(engine_adapters(e), o.adapter);
    return code;
}

static void ids_of_another_are_refused(void **state) {
    (void)state;
    engine *e = open_with((model_config){.device = DEVICE_REF});
    for (int which = BASE; which < ADAPTERS; which++) {
        int32_t last = (int32_t)vocab_of(which) - 1;
        const sample_bias far = {.id = last + 1, .bias = 1};
        esp_error err = {0};
        request *r = NULL;
        assert_int_equal(try_request(e, which, last, NULL, &r, &err), ESP_OK);
        request_unref(r);
        assert_int_equal(try_request(e, which, last + 1, NULL, &r, &err), ESP_INVALID);
        assert_string_equal(err.field, "token_ids");
        assert_int_equal(try_request(e, which, last, &far, &r, &err), ESP_INVALID);
        assert_string_equal(err.field, "logit_bias");
    }
    engine_close(e);
}

/* The tokenizer_config of tiny_adapter.h names the first added token. */
static void a_generation_ends_with_a_token_of_its_own(void **state) {
    (void)state;
    engine *e = open_with((model_config){.device = DEVICE_REF});
    const sample_bias end = {.id = VOCAB, .bias = 100};
    request *r = NULL;
    esp_error err = {0};
    assert_int_equal(try_request(e, 3, 'a', &end, &r, &err), ESP_OK);
    tiny_submit(e, r);
    while (!atomic_load(&r->done))
        engine_step_or_wait(e);
    assert_int_equal(r->finish, FINISH_STOP);
    assert_int_equal(r->published, 1);
    assert_int_equal(r->tokens[1], VOCAB);
    request_unref(r);
    engine_close(e);
}

/* ---- texts ---- */

static uint32_t count_ids(const tokenizer *tok, const char *text, int32_t *first) {
    tok_ids ids = {0};
    tok_encode_options how = {.parse_special = true};
    assert_int_equal(tok_encode(tok, text, strlen(text), &how, &ids, NULL), ESP_OK);
    uint32_t count = ids.count;
    *first = ids.at[0];
    tok_ids_free(&ids);
    return count;
}

static void texts_are_cut_by_the_tokens_of_their_adapter(void **state) {
    (void)state;
    engine *e = open_with((model_config){.device = DEVICE_REF});
    char text[32];
    int32_t id;
    snprintf(text, sizeof text, "<|w%d|>", VOCAB + 3);
    for (int which = BASE; which < ADAPTERS; which++) {
        adapter *ad = tiny_find(e, which);
        bool knows = vocab_of(which) > VOCAB + 3;
        uint32_t count = count_ids(engine_tokenizer_of(e, ad), text, &id);
        assert_int_equal(count == 1, knows);
        if (knows) assert_int_equal(id, VOCAB + 3);
        adapter_release(engine_adapters(e), ad);
    }
    engine_close(e);
}

/* Its text may still be wanted when the request has ended and the adapter has gone. */
static void a_request_keeps_the_tokenizer_of_an_adapter_that_goes(void **state) {
    (void)state;
    engine *e = open_with((model_config){.device = DEVICE_REF});
    request *r = make_request(e, 1, 3);
    tiny_submit(e, r);
    while (!atomic_load(&r->done))
        engine_step_or_wait(e);
    assert_int_equal(adapters_unload(engine_adapters(e), "a3", ADAPTER_WAIT, NULL), ESP_OK);
    engine_step(e);
    assert_int_equal(tok_count(r->tok), VOCAB + 5);
    assert_int_equal(tok_find(r->tok, "<|w292|>"), VOCAB);
    engine_close(e);
    assert_int_equal(tok_count(r->tok), VOCAB + 5);
    request_unref(r);
}

/* ---- all logits ---- */

static esp_code count_row(void *arg, uint32_t position, const float *row, esp_error *err) {
    (void)position, (void)err;
    uint32_t vocab = VOCAB + 5, *rows = arg;
    for (uint32_t i = 0; i < vocab; i++)
        assert_true(row[i] - row[i] == 0);
    ++*rows;
    return ESP_OK;
}

static void logits_of_a_prompt_are_as_wide(void **state) {
    (void)state;
    engine *e = open_with((model_config){.device = DEVICE_REF});
    int32_t ids[70];
    uint32_t rows = 0;
    esp_error err = {0};
    adapter *ad = tiny_find(e, 3);
    for (int i = 0; i < 70; i++)
        ids[i] = i % 9 ? i : VOCAB + i % 5;
    assert_int_equal(engine_logits(e, ad, ids, 70, count_row, &rows, &err), ESP_OK);
    assert_int_equal(rows, 70);
    assert_int_equal(engine_logits(e, NULL, ids, 70, count_row, &rows, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "--ids: 292 at index 0 is not in 0..291"));
    adapter_release(engine_adapters(e), ad);
    engine_close(e);
}

/* ---- what is refused ---- */

static void refuse(const tiny_adapter_options *options, const char *take_out, esp_code wanted,
                   const char *sentence) {
    char folder[TA_PATH_BYTES], file[TA_PATH_BYTES + 32];
    engine *e = tiny_open(model_path, (model_config){.device = DEVICE_REF, .serves = true});
    esp_error err = {0};
    tiny_adapter_write(folder, options);
    snprintf(file, sizeof file, "%s/%s", folder, take_out ? take_out : "none");
    assert_int_equal(unlink(file) == 0, take_out != NULL);
    assert_int_equal(adapters_load(engine_adapters(e), "one", folder, NULL, &err), wanted);
    if (!strstr(err.message, sentence)) fail_msg("wanted \"%s\": %s", sentence, err.message);
    tiny_adapter_remove(folder);
    engine_close(e);
}

static void what_cannot_be_served_is_refused_when_it_is_loaded(void **state) {
    (void)state;
    tiny_adapter_options o = {.base = &MODEL,
                              .rank = 2,
                              .targets = TA_Q,
                              .wholes = true,
                              .added = MODEL_ADDED_TOKENS_MAX + 1};
    refuse(&o, NULL, ESP_UNIMPLEMENTED, "1025 more than the base's 292; at most 1024 more");
    o.added = 2;
    refuse(&o, "tokenizer.json", ESP_INVALID,
           "neither tokenizer.json nor added_tokens.json says what they are");
    tiny_llama_options narrow = MODEL;
    narrow.vocab = 280;
    o.base = &narrow;
    o.added = 0;
    refuse(&o, NULL, ESP_INVALID, "has 280 rows; the base");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_ref_company_changes_no_bit),
        cmocka_unit_test(on_avx2_company_changes_no_bit),
        cmocka_unit_test(on_avx512_company_changes_no_bit),
        cmocka_unit_test(on_amx_company_changes_no_bit),
        cmocka_unit_test(the_base_answers_as_without_adapters),
        cmocka_unit_test(ids_of_another_are_refused),
        cmocka_unit_test(a_generation_ends_with_a_token_of_its_own),
        cmocka_unit_test(texts_are_cut_by_the_tokens_of_their_adapter),
        cmocka_unit_test(a_request_keeps_the_tokenizer_of_an_adapter_that_goes),
        cmocka_unit_test(logits_of_a_prompt_are_as_wide),
        cmocka_unit_test(what_cannot_be_served_is_refused_when_it_is_loaded),
    };
    return cmocka_run_group_tests(tests, make_files, drop_files);
}
