/* test_engine_windows.c - models whose layers see a window: pages behind it are freed, and no token or
 * logprob changes by it. The models are the tiny ones of tests/vectors/families:
 *
 *   gemma3   7 layers, each 6th sees all; window 20      mistral  2 layers, all slide; window 20
 *   gemma2   3 layers, each 2nd sees all; window 20      phi3     2 layers, all slide; window 37, and
 *                                                                 longrope: computed anew beyond 64 */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/mem.h"
#include "engine/engine.h"
#include "engine/model/model.h"
#include "kvcache/kvcache.h"

static const char *const MODELS[] = {"gemma3", "gemma2", "mistral", "phi3"};
enum { MODEL_COUNT = sizeof MODELS / sizeof MODELS[0] };

#ifdef ESPALIER_SANITIZED
enum { REQUESTS = 4, OUTPUT = 60 }; /* instrumented kernels are slow */
#else
enum { REQUESTS = 12, OUTPUT = 90 };
#endif
enum { PROMPT_MAX = 150, CONTEXT = 256, VOCAB = 304 };

/* NULL when the memory is too little for any page. */
static engine *try_engine(const char *name, model_config config, esp_error *err) {
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/vectors/families/%s.gguf", TEST_SOURCE_DIR, name);
    config.model_path = path;
    config.threads = 1;
    config.max_context = CONTEXT;
    if (!config.kv_memory) config.kv_memory = 64 << 20;
    engine *e = NULL;
    return engine_open(&e, &config, NULL, NULL, err) == ESP_OK ? e : NULL;
}

static engine *open_engine(const char *name, model_config config) {
    esp_error err = {0};
    engine *e = try_engine(name, config, &err);
    if (!e) fail_msg("%s", err.message);
    return e;
}

/* Prompts shorter and longer than the windows and the steps; half of the requests are sampled. */
static request *make_request(uint32_t number, uint32_t output_max) {
    int32_t prompt[PROMPT_MAX];
    uint32_t count = 1 + number * 53 % PROMPT_MAX, noise = number * 2654435761u + 1;
    for (uint32_t i = 0; i < count; i++) {
        noise = noise * 1664525u + 1013904223u;
        prompt[i] = (int32_t)(3 + (noise >> 8) % 250);
    }
    request_options options = {
        .prompt = prompt,
        .prompt_count = count,
        .output_max = output_max,
        .ignore_eos = true,
        .policy = {.temperature = number % 2 ? 0.9f : 0,
                   .top_p = 1,
                   .repetition_penalty = 1,
                   .seed = number,
                   .logprobs = true},
    };
    request *r = NULL;
    esp_error err = {0};
    if (request_new(&r, &options, VOCAB, &err) != ESP_OK) fail_msg("%s", err.message);
    return r;
}

static void submit(engine *e, request *r) {
    esp_error err = {0};
    if (engine_submit(e, r, &err) != ESP_OK) fail_msg("%s", err.message);
}

typedef struct answer {
    int32_t tokens[OUTPUT];
    float logprobs[OUTPUT];
} answer;

/* preempt_every > 0: the newest running sequence is thrown out every so many steps. Returns the most
 * pages that were held after any step. */
static uint32_t answer_all(engine *e, answer *out, uint32_t preempt_every) {
    request *all[REQUESTS];
    engine_stats stats;
    uint32_t pages = 0;
    for (uint32_t i = 0; i < REQUESTS; i++)
        submit(e, all[i] = make_request(i, OUTPUT));
    for (uint32_t i = 0, step = 1; i < REQUESTS; step++) {
        assert_true(step < 1000000);
        engine_step(e);
        engine_check(e);
        engine_read_stats(e, &stats);
        if (stats.pages_used > pages) pages = stats.pages_used;
        if (preempt_every && step % preempt_every == 0) engine_preempt_newest(e);
        while (i < REQUESTS && all[i]->done)
            i++;
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        assert_int_equal(all[i]->finish, FINISH_LENGTH);
        memcpy(out[i].tokens, all[i]->tokens + all[i]->prompt_count, sizeof out[i].tokens);
        memcpy(out[i].logprobs, all[i]->logprobs, sizeof out[i].logprobs);
        request_unref(all[i]);
    }
    return pages;
}

/* The least memory, about, that the largest request fits in. */
static uint64_t tight_memory(const char *name, model_config config) {
    for (config.kv_memory = 4096;; config.kv_memory += 4096) {
        esp_error err = {0};
        engine *e = try_engine(name, config, &err);
        if (!e) continue;
        request *r = make_request(0, CONTEXT - 1);
        esp_code code = engine_submit(e, r, &err);
        request_unref(r);
        engine_close(e);
        if (code == ESP_OK) return config.kv_memory;
        assert_true(config.kv_memory < 64 << 20);
    }
}

static void check_model(const char *name, device_kind device) {
    static answer kept[REQUESTS], freed[REQUESTS];
    engine *e = open_engine(
        name,
        (model_config){.device = device, .keep_pages = true, .max_seqs = 1, .step_tokens = 300});
    answer_all(e, kept, 0);
    engine_close(e);
    const struct {
        const char *what;
        uint32_t step_tokens, max_seqs;
        bool tight;
        uint32_t preempt_every;
    } ways[] = {
        {"one by one", 300, 1, false, 0},
        {"all at once, chunks longer than the window", 64, REQUESTS, false, 0},
        {"chunks of 7", 7, 5, false, 0},
        {"one token a step", 1, 1, false, 0},
        {"few pages", 24, REQUESTS, true, 0},
        {"preempted every fifth step", 48, 8, false, 5},
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        model_config c = {
            .device = device, .max_seqs = ways[i].max_seqs, .step_tokens = ways[i].step_tokens};
        if (ways[i].tight) c.kv_memory = tight_memory(name, c);
        e = open_engine(name, c);
        answer_all(e, freed, ways[i].preempt_every);
        engine_stats stats;
        engine_read_stats(e, &stats);
        if (ways[i].tight || ways[i].preempt_every) assert_true(stats.preemptions_total > 0);
        assert_int_equal(stats.pages_used, 0);
        engine_close(e);
        for (int r = 0; r < REQUESTS; r++)
            if (memcmp(&kept[r], &freed[r], sizeof kept[r]))
                fail_msg("%s, %s: request %d gave another answer", name, ways[i].what, r);
    }
}

/* Freed pages are other sequences' at once, so a page that was still needed would show. */
static void ref_answers_do_not_depend_on_freed_pages(void **state) {
    (void)state;
    for (int i = 0; i < MODEL_COUNT; i++)
        check_model(MODELS[i], DEVICE_REF);
}

static void cpu_answers_do_not_depend_on_freed_pages(void **state) {
    (void)state;
    for (int i = 0; i < MODEL_COUNT; i++)
        check_model(MODELS[i], DEVICE_CPU);
}

/* Pages held after each step while one request of 5 prompt tokens generates up to the context. */
static void hold(const char *name, bool keep, uint32_t *most, uint32_t *last) {
    engine *e =
        open_engine(name, (model_config){.max_seqs = 1, .step_tokens = 16, .keep_pages = keep});
    request *r = make_request(0, CONTEXT - 1);
    engine_stats stats;
    submit(e, r);
    for (*most = *last = 0; !r->done;) {
        engine_step(e);
        engine_read_stats(e, &stats);
        if (r->done) break;
        *last = stats.pages_used;
        if (*last > *most) *most = *last;
    }
    assert_int_equal(r->output_count, CONTEXT - 1);
    request_unref(r);
    engine_close(e);
}

/* 256 tokens are 16 pages. A window of 20 lies in three at most; one of 37 in four, and while phi3 is
 * computed anew in chunks of 16, in five. Gemmas have one group that sees all, and a layer a group. */
static void a_long_generation_holds_a_bounded_number_of_pages(void **state) {
    (void)state;
    const struct {
        const char *name;
        uint32_t full_groups, window_groups, window_pages;
    } cases[] = {{"mistral", 0, 1, 3}, {"gemma2", 1, 2, 3}, {"gemma3", 1, 6, 3}, {"phi3", 0, 1, 5}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t most, last;
        hold(cases[i].name, true, &most, &last);
        assert_int_equal(last, 16);
        hold(cases[i].name, false, &most, &last);
        print_message("%s: %u pages at most, %u at the end\n", cases[i].name, most, last);
        uint32_t bound = 16 * cases[i].full_groups + cases[i].window_groups * cases[i].window_pages;
        assert_in_range(most, 1, bound);
        assert_in_range(last, 1, bound);
    }
}

static esp_code keep_row(void *arg, uint32_t position, const float *row, esp_error *err) {
    (void)err;
    memcpy((float *)arg + (size_t)position * VOCAB, row, VOCAB * sizeof *row);
    return ESP_OK;
}

/* `espalier logits` goes round in a ring of pages. */
static void logits_of_a_prompt_do_not_depend_on_freed_pages(void **state) {
    (void)state;
    static float kept[PROMPT_MAX * VOCAB], freed[PROMPT_MAX * VOCAB];
    for (int i = 0; i < MODEL_COUNT; i++)
        for (uint32_t step_tokens = 3; step_tokens < 64; step_tokens += 19) {
            request *r = make_request(14, 1); /* 143 tokens */
            engine *e = open_engine(MODELS[i], (model_config){.max_seqs = 1, .keep_pages = true});
            esp_error err = {0};
            assert_int_equal(engine_logits(e, NULL, r->tokens, r->prompt_count, keep_row, kept, &err),
                             ESP_OK);
            engine_close(e);
            e = open_engine(MODELS[i], (model_config){.max_seqs = 1, .step_tokens = step_tokens});
            assert_int_equal(engine_logits(e, NULL, r->tokens, r->prompt_count, keep_row, freed, &err),
                             ESP_OK);
            engine_close(e);
            assert_memory_equal(kept, freed, (size_t)r->prompt_count * VOCAB * sizeof *kept);
            request_unref(r);
        }
}

/* Memory for three pages: all that mistral's window needs a token at a time, however long it
 * generates; without freeing the same request is refused. */
static void a_window_admits_what_could_never_fit_whole(void **state) {
    (void)state;
    model_config c = {.max_seqs = 1, .step_tokens = 1, .device = DEVICE_REF};
    c.kv_memory = tight_memory("mistral", c);
    engine *e = open_engine("mistral", c);
    request *r = make_request(0, CONTEXT - 1);
    engine_stats stats;
    submit(e, r);
    while (!r->done)
        engine_step(e);
    engine_read_stats(e, &stats);
    assert_int_equal(r->finish, FINISH_LENGTH);
    assert_int_equal(stats.preemptions_total, 0);
    assert_int_equal(stats.pages_total, 3);
    request_unref(r);
    engine_close(e);

    c.keep_pages = true;
    e = open_engine("mistral", c);
    r = make_request(0, CONTEXT - 1);
    esp_error err = {0};
    assert_int_equal(engine_submit(e, r, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "need 16 pages"));
    request_unref(r);
    engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_answers_do_not_depend_on_freed_pages),
        cmocka_unit_test(cpu_answers_do_not_depend_on_freed_pages),
        cmocka_unit_test(a_long_generation_holds_a_bounded_number_of_pages),
        cmocka_unit_test(logits_of_a_prompt_do_not_depend_on_freed_pages),
        cmocka_unit_test(a_window_admits_what_could_never_fit_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
