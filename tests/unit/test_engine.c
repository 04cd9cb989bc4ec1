/* test_engine.c - the engine on a tiny random model: the same request gives the same tokens whatever else
 * happens, requests end as they should, and a decode step takes nothing. */
// SPDX-License-Identifier: Apache-2.0
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/engine.h"
#include "tests/unit/hang.h"
#include "tests/unit/tiny_engine.h"

#ifdef ESPALIER_SANITIZED
enum { REQUESTS = 20 }; /* instrumented kernels are slow; the full number runs in the release build */
#else
enum { REQUESTS = 64 };
#endif
enum { OUTPUT = 12, VOCAB_IDS = 256 };

static char model_path[] = "/tmp/espalier-test-XXXXXX";

static int make_model(void **state) {
    (void)state;
    tiny_write(model_path, &(tiny_llama_options){.layers = 3,
                                                 .hidden = 96,
                                                 .heads = 6,
                                                 .kv_heads = 2,
                                                 .head_dim = 16,
                                                 .intermediate = 160,
                                                 .vocab = 320,
                                                 .context = 512,
                                                 .dtype = DT_Q4_1,
                                                 .seed = 7,
                                                 .tied = true});
    return 0;
}

static int drop_model(void **state) {
    (void)state;
    return unlink(model_path);
}

static engine *open_engine(model_config config) {
    return tiny_open(model_path, config);
}

/* Mixed lengths and policies, the same for the same number. */
static request *make_request(uint32_t number) {
    int32_t prompt[128];
    uint32_t count = 1 + number * 7 % 90, noise = number * 2654435761u + 1;
    for (uint32_t i = 0; i < count; i++) {
        noise = noise * 1664525u + 1013904223u;
        prompt[i] = (int32_t)((noise >> 8) % VOCAB_IDS);
    }
    request_options options = {
        .prompt = prompt,
        .prompt_count = count,
        .output_max = OUTPUT,
        .ignore_eos = true,
        .policy = {.temperature = number % 3 ? 0.8f : 0, .top_p = number % 2 ? 0.9f : 1,
                   .repetition_penalty = number % 5 ? 1 : 1.2f, .seed = number, .logprobs = true,
                   .top_logprobs = number % 4},
    };
    request *r = NULL;
    esp_error err = {0};
    if (request_new(&r, &options, 320, &err) != ESP_OK) fail_msg("%s", err.message);
    return r;
}

static void submit(engine *e, request *r) {
    esp_error err = {0};
    if (engine_submit(e, r, &err) != ESP_OK) fail_msg("%s", err.message);
}

static void run_until_done(engine *e, request *r) {
    for (int steps = 0; !r->done; steps++) {
        assert_true(steps < 100000);
        engine_step(e);
        engine_check(e);
    }
}

typedef struct answer {
    int32_t tokens[OUTPUT];
    float logprobs[OUTPUT];
} answer;

static void keep_answer(request *r, answer *out) {
    assert_int_equal(r->finish, FINISH_LENGTH);
    assert_int_equal(r->published, OUTPUT);
    memcpy(out->tokens, r->tokens + r->prompt_count, sizeof out->tokens);
    memcpy(out->logprobs, r->logprobs, sizeof out->logprobs);
    request_unref(r);
}

static void answer_one_by_one(engine *e, answer *out) {
    for (uint32_t i = 0; i < REQUESTS; i++) {
        request *r = make_request(i);
        submit(e, r);
        run_until_done(e, r);
        keep_answer(r, &out[i]);
    }
}

/* preempt_every > 0: the newest running sequence is thrown out every so many steps. */
static void answer_all_at_once(engine *e, answer *out, int preempt_every) {
    request *all[REQUESTS];
    for (uint32_t i = 0; i < REQUESTS; i++) submit(e, all[i] = make_request(i));
    for (uint32_t i = 0, step = 1; i < REQUESTS; step++) {
        engine_step(e);
        engine_check(e);
        assert_true(step < 1000000);
        if (preempt_every && step % (uint32_t)preempt_every == 0) engine_preempt_newest(e);
        while (i < REQUESTS && all[i]->done) i++;
    }
    for (uint32_t i = 0; i < REQUESTS; i++) keep_answer(all[i], &out[i]);
}

static void assert_same(const answer *a, const answer *b, const char *what) {
    for (int i = 0; i < REQUESTS; i++) {
        if (memcmp(a[i].tokens, b[i].tokens, sizeof a[i].tokens))
            fail_msg("%s: request %d gave other tokens", what, i);
        if (memcmp(a[i].logprobs, b[i].logprobs, sizeof a[i].logprobs))
            fail_msg("%s: request %d gave other logprobs", what, i);
    }
}

static void check_mode(model_config base) {
    static answer alone[REQUESTS], together[REQUESTS];
    engine *e = open_engine(base);
    answer_one_by_one(e, alone);
    engine_close(e);

    const struct {
        const char *what;
        uint32_t threads, step_tokens, max_seqs;
        uint64_t pages;
        int preempt_every;
    } ways[] = {
        {"all at once", 1, 512, 64, 0, 0},
        {"chunks of 7", 1, 7, 7, 0, 0},
        {"one token a step", 1, 1, 1, 0, 0},
        {"two threads", 2, 512, 64, 0, 0},
        {"seven threads, chunks of 33", 7, 33, 16, 0, 0},
        {"few pages", 2, 64, 32, 16, 0},
        {"preempted every third step", 2, 48, 32, 0, 3},
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        model_config c = base;
        c.threads = ways[i].threads;
        c.step_tokens = ways[i].step_tokens;
        c.max_seqs = ways[i].max_seqs;
        /* 3 layers x (k, v) x 2 heads x 16 tokens x 16 dims, float32 or bf16 */
        c.kv_memory = ways[i].pages * 3 * 2 * 2 * 16 * 16 * (base.device == DEVICE_REF ? 4 : 2);
        e = open_engine(c);
        answer_all_at_once(e, together, ways[i].preempt_every);
        engine_stats stats;
        engine_read_stats(e, &stats);
        if (ways[i].preempt_every || ways[i].pages) assert_true(stats.preemptions_total > 0);
        assert_int_equal(stats.pages_used, 0);
        engine_close(e);
        assert_same(alone, together, ways[i].what);
    }
}

static void check_company(device_kind device, kern_level level) {
    check_mode((model_config){.device = device, .level = level});
}

/* 64 requests of mixed lengths: one by one, all at once, other chunk budgets, other thread counts, with
 * pages running out and with forced preemption: every token and logprob is the same, bit for bit. */
static void ref_answers_do_not_depend_on_company(void **state) {
    (void)state;
    check_company(DEVICE_REF, LEVEL_AUTO);
}

static void avx2_answers_do_not_depend_on_company(void **state) {
    (void)state;
    if (kern_cpu_best_level() < LEVEL_AVX2) skip();
    check_company(DEVICE_CPU, LEVEL_AVX2);
}

static void amx_answers_do_not_depend_on_company(void **state) {
    (void)state;
    if (kern_cpu_best_level() < LEVEL_AMX) skip();
    check_company(DEVICE_CPU, LEVEL_AMX);
}

static void avx512_answers_do_not_depend_on_company(void **state) {
    (void)state;
    if (kern_cpu_best_level() < LEVEL_AVX512) skip();
    check_company(DEVICE_CPU, LEVEL_AVX512);
}

static void answers_with_int8_activations_do_not_depend_on_company(void **state) {
    (void)state;
    for (kern_level level = LEVEL_AVX2; level <= kern_cpu_best_level(); level++)
        check_mode(
            (model_config){.device = DEVICE_CPU, .level = level, .activations = ACT_INT8});
}

/* Eight sequences in mid-decode: malloc is not called by a step. */
static void a_decode_step_allocates_nothing(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    request *all[8];
    for (uint32_t i = 0; i < 8; i++) submit(e, all[i] = make_request(i * 8));
    while (all[7]->published < 2) engine_step(e);
    uint64_t before = mem_thread_allocated();
    for (int i = 0; i < 6; i++) engine_step(e);
    assert_int_equal(mem_thread_allocated() - before, 0);
    assert_false(all[7]->done);
    for (int i = 0; i < 8; i++) {
        run_until_done(e, all[i]);
        request_unref(all[i]);
    }
    engine_close(e);
}

/* The counter that the test above trusts does count. */
static void the_allocation_counter_counts(void **state) {
    (void)state;
#ifdef ESPALIER_SANITIZED
    skip();
#endif
    uint64_t before = mem_thread_allocated();
    void *volatile some = malloc(1000);
    assert_true(mem_thread_allocated() - before >= 1000);
    free(some);
}

static void a_cancel_is_seen_within_one_step(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    request *r = make_request(3);
    submit(e, r);
    while (r->published < 2) engine_step(e);
    engine_cancel(e, r);
    engine_cancel(e, r);
    uint32_t before = r->published;
    engine_step(e);
    assert_true(r->done);
    assert_int_equal(r->finish, FINISH_CANCELLED);
    assert_int_equal(r->published, before);
    engine_stats stats;
    engine_read_stats(e, &stats);
    assert_int_equal(stats.pages_used, 0);
    assert_int_equal(stats.running, 0);
    engine_cancel(e, r); /* after the end: nothing happens */
    engine_step(e);
    request_unref(r);
    engine_close(e);
}

/* Tokens of the step that meets a long prompt beside an answer that grows. */
static uint64_t tokens_beside_an_answer(model_config config) {
    enum { LONG = 490, VOCAB = 320 };
    static int32_t prompt[LONG];
    engine *e = open_engine(config);
    request *first = make_request(0), *second = NULL;
    submit(e, first);
    while (first->published == 0)
        engine_step(e);
    request_options options = {
        .prompt = prompt, .prompt_count = LONG, .output_max = 1, .ignore_eos = true};
    assert_int_equal(request_new(&second, &options, VOCAB, NULL), ESP_OK);
    submit(e, second);
    engine_stats before, after;
    engine_read_stats(e, &before);
    engine_step(e);
    engine_read_stats(e, &after);
    assert_false(first->done);
    run_until_done(e, second);
    run_until_done(e, first);
    request_unref(first);
    request_unref(second);
    engine_close(e);
    return after.step_tokens_total - before.step_tokens_total;
}

static void beside_an_answer_a_step_takes_a_chunk_of_prompts(void **state) {
    (void)state;
    model_config c = {.device = DEVICE_REF};
    assert_int_equal(tokens_beside_an_answer(c), 1 + 192);
    kern_level best = kern_cpu_best_level();
    model_config cpu = {.device = DEVICE_CPU};
    if (best != LEVEL_AUTO)
        assert_int_equal(tokens_beside_an_answer(cpu), 1 + (best == LEVEL_AMX ? 384 : 192));
    c.prefill_chunk = 50;
    assert_int_equal(tokens_beside_an_answer(c), 1 + 50);
    c.prefill_chunk = 512;
    assert_int_equal(tokens_beside_an_answer(c), 1 + 490);
    c.step_tokens = c.max_seqs = 32;
    assert_int_equal(tokens_beside_an_answer(c), 32);
}

static void a_deadline_ends_a_request_with_a_sentence(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    request *r = make_request(3);
    r->deadline_us = clock_now_us() - 1;
    submit(e, r);
    engine_step(e);
    assert_true(r->done);
    assert_int_equal(r->finish, FINISH_DEADLINE);
    assert_int_equal(r->error.code, ESP_DEADLINE);
    assert_non_null(strstr(r->error.message, "deadline"));
    request_unref(r);
    engine_close(e);
}

/* The greedy answer's own bytes become the stop string: the request ends at its first occurrence. */
static void a_stop_string_ends_a_request(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    request *r = make_request(0);
    submit(e, r);
    run_until_done(e, r);
    tok_text piece = tok_bytes(engine_tokenizer(e), r->tokens[r->prompt_count + 2]);
    request_options options = {.prompt = r->tokens,
                               .prompt_count = r->prompt_count,
                               .output_max = OUTPUT,
                               .ignore_eos = true,
                               .policy = r->policy,
                               .stop = &piece,
                               .stop_count = 1};
    request *stopped = NULL;
    if (piece.bytes && (piece.at[0] & 0x80) == 0) {
        assert_int_equal(request_new(&stopped, &options, 320, NULL), ESP_OK);
        submit(e, stopped);
        run_until_done(e, stopped);
        assert_int_equal(stopped->finish, FINISH_STOP);
        assert_true(stopped->published <= 3);
        request_unref(stopped);
    }
    request_unref(r);
    engine_close(e);
}

static void what_can_never_fit_is_refused_at_submit(void **state) {
    (void)state;
    engine *e = open_engine((model_config){.max_context = 64});
    int32_t prompt[64] = {0};
    const struct {
        uint32_t prompt, output;
        const char *field;
    } cases[] = {{64, 1, "prompt"}, {60, 5, "max_tokens"}, {1, 64, "max_tokens"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        request_options o = {
            .prompt = prompt, .prompt_count = cases[i].prompt, .output_max = cases[i].output};
        request *r = NULL;
        esp_error err = {0};
        assert_int_equal(request_new(&r, &o, 320, &err), ESP_OK);
        assert_int_equal(engine_submit(e, r, &err), ESP_INVALID);
        assert_string_equal(err.field, cases[i].field);
        assert_non_null(strstr(err.message, "64"));
        request_unref(r);
    }
    engine_close(e);
}

static void a_full_engine_refuses_at_once_with_a_retry_hint(void **state) {
    (void)state;
    engine *e = open_engine((model_config){.max_seqs = 1, .waiting_max = 2});
    request *all[4];
    esp_error err = {0};
    for (uint32_t i = 0; i < 4; i++) all[i] = make_request(i);
    for (int i = 0; i < 3; i++) assert_int_equal(engine_submit(e, all[i], &err), ESP_OK);
    assert_int_equal(engine_submit(e, all[3], &err), ESP_EXHAUSTED);
    assert_true(err.retry_ms > 0);
    for (int i = 0; i < 3; i++) {
        run_until_done(e, all[i]);
        request_unref(all[i]);
    }
    assert_int_equal(engine_submit(e, all[3], &err), ESP_OK);
    run_until_done(e, all[3]);
    request_unref(all[3]);
    engine_close(e);
}

static void a_draining_engine_finishes_what_runs_and_takes_nothing_new(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    request *old = make_request(1), *new = make_request(2);
    submit(e, old);
    engine_step(e);
    engine_drain(e);
    esp_error err = {0};
    assert_int_equal(engine_submit(e, new, &err), ESP_UNAVAILABLE);
    run_until_done(e, old);
    assert_int_equal(old->finish, FINISH_LENGTH);
    request_unref(old);
    request_unref(new);
    engine_close(e);
}

static void closing_ends_what_lives(void **state) {
    (void)state;
    engine *e = open_engine((model_config){.max_seqs = 1});
    request *a = make_request(1), *b = make_request(2);
    submit(e, a);
    submit(e, b);
    engine_step(e);
    engine_close(e);
    assert_true(a->done && b->done);
    request_unref(a);
    request_unref(b);
}

static esp_code keep_row(void *arg, uint32_t position, const float *row, esp_error *err) {
    (void)err;
    memcpy((float *)arg + (size_t)position * 320, row, 320 * sizeof(float));
    return ESP_OK;
}

/* The greedy token of a request is the argmax of the logits command's last row. */
static void logits_agree_with_generation(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    request *r = make_request(3);
    static float rows[128 * 320];
    esp_error err = {0};
    assert_int_equal(engine_logits(e, NULL, r->tokens, r->prompt_count, keep_row, rows, &err), ESP_OK);
    const float *last = rows + (size_t)(r->prompt_count - 1) * 320;
    int32_t best = 0;
    for (int32_t i = 1; i < 320; i++)
        if (last[i] > last[best]) best = i;
    r->policy.repetition_penalty = 1;
    r->policy.temperature = 0;
    submit(e, r);
    run_until_done(e, r);
    assert_int_equal(r->tokens[r->prompt_count], best);
    request_unref(r);
    engine_close(e);
}

/* ---- with the engine's own thread ---- */

typedef struct submitter {
    engine *e;
    uint32_t number;
} submitter;

static void *submit_many(void *arg) {
    submitter *s = arg;
    for (uint32_t i = 0; i < 40; i++) {
        request *r = make_request(s->number * 40 + i);
        esp_error err = {0};
        if (engine_submit(s->e, r, &err) == ESP_OK) {
            if (i % 3 == 0) engine_cancel(s->e, r);
            while (!atomic_load_explicit(&r->done, memory_order_acquire)) usleep(200);
            assert_true(r->finish == FINISH_LENGTH || (i % 3 == 0 && r->finish == FINISH_CANCELLED));
        } else {
            assert_int_equal(err.code, ESP_EXHAUSTED);
        }
        request_unref(r);
    }
    return NULL;
}

/* Drains the news until every submitter is done, as the stream side does. */
static void *follow_news(void *arg) {
    submitter *s = arg;
    signal_word *word = engine_news_signal(s->e);
    uint64_t ended = 0;
    for (bool over = false; !over;) {
        uint32_t seen = signal_seen(word);
        over = atomic_load((_Atomic uint32_t *)(void *)&s->number); /* and then looks once more */
        for (request *r; (r = engine_news(s->e)); request_unref(r)) ended += r->done;
        if (!over) signal_wait(word, seen, 10000);
    }
    assert_true(ended > 0);
    return NULL;
}

/* Four clients submit and cancel while the engine steps and the stream side follows: all end, all pages come
 * back. Run under ThreadSanitizer too. */
static void many_threads_meet_one_engine(void **state) {
    (void)state;
    engine *e = open_engine((model_config){.threads = 2, .max_seqs = 8, .waiting_max = 64});
    submitter news = {e, 0}, clients[4];
    pthread_t follower, threads[4];
    engine_news_signal(e);
    assert_int_equal(engine_start(e, NULL), ESP_OK);
    pthread_create(&follower, NULL, follow_news, &news);
    for (uint32_t i = 0; i < 4; i++) {
        clients[i] = (submitter){e, i};
        pthread_create(&threads[i], NULL, submit_many, &clients[i]);
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    atomic_store((_Atomic uint32_t *)(void *)&news.number, 1);
    pthread_join(follower, NULL);
    engine_stats stats;
    for (int i = 0; i < HANG_MS; i++) {
        engine_read_stats(e, &stats);
        if (stats.pages_used + stats.running + stats.waiting == 0) break;
        usleep(1000);
    }
    assert_int_equal(stats.pages_used, 0);
    assert_int_equal(stats.waiting, 0);
    engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_answers_do_not_depend_on_company),
        cmocka_unit_test(avx2_answers_do_not_depend_on_company),
        cmocka_unit_test(avx512_answers_do_not_depend_on_company),
        cmocka_unit_test(amx_answers_do_not_depend_on_company),
        cmocka_unit_test(answers_with_int8_activations_do_not_depend_on_company),
        cmocka_unit_test(a_decode_step_allocates_nothing),
        cmocka_unit_test(the_allocation_counter_counts),
        cmocka_unit_test(a_cancel_is_seen_within_one_step),
        cmocka_unit_test(beside_an_answer_a_step_takes_a_chunk_of_prompts),
        cmocka_unit_test(a_deadline_ends_a_request_with_a_sentence),
        cmocka_unit_test(a_stop_string_ends_a_request),
        cmocka_unit_test(what_can_never_fit_is_refused_at_submit),
        cmocka_unit_test(a_full_engine_refuses_at_once_with_a_retry_hint),
        cmocka_unit_test(a_draining_engine_finishes_what_runs_and_takes_nothing_new),
        cmocka_unit_test(closing_ends_what_lives),
        cmocka_unit_test(logits_agree_with_generation),
        cmocka_unit_test(many_threads_meet_one_engine),
    };
    return cmocka_run_group_tests(tests, make_model, drop_model);
}
