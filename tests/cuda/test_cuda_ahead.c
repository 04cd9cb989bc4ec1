/* test_cuda_ahead.c - the engine on a device that runs beside the host: steps are launched before the one before them is
 * collected. A crowd of requests that come one by one, end early, late, by a stop string, by an end-of-sequence token or
 * by a cancel, with penalties and adapters, gets the tokens that it gets when each step is collected first. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <pthread.h>

#include "engine/base/mem.h"
#include "tests/unit/tiny_adapter.h"
#include "tests/unit/tiny_engine.h"

#ifdef ESPALIER_SANITIZED
enum { REQUESTS = 8 }; /* instrumented: slow */
#else
enum { REQUESTS = 18 };
#endif
enum { ADAPTERS = 2, OUTPUT = 11, PROMPT = 30, LEAST_ID = 3, PROMPT_IDS = 250, STEPS_MAX = 10000 };

/* ---- the device's table, whose samples may be made to fail ---- */

static kern_ops watched;
static uint32_t samples_until_fault; /* 0: there is none */
static bool faulty;

static bool watch_sampled(kern_device *dev, const kern_sample *op) {
    if (samples_until_fault && --samples_until_fault == 0) faulty = true;
    return kern_cuda.sampled(dev, op) && !faulty;
}

static esp_code watch_sync(kern_device *dev, esp_error *err) {
    esp_code code = kern_cuda.sync(dev, err);
    return faulty ? esp_fail(err, ESP_UNAVAILABLE, "the device was unplugged") : code;
}

static int watch(void **state) {
    (void)state;
    watched = kern_cuda;
    watched.sampled = watch_sampled;
    watched.sync = watch_sync;
    return 0;
}

/* ---- a crowd ---- */

/* A model, and how its crowd is computed. */
typedef struct way {
    const char *what, *model;
    bool collects_first, adapters, in_steps_alone; /* the last: without graphs */
    uint32_t max_seqs, step_tokens, preempt_every;
    uint64_t kv_memory;
} way;

typedef struct answer {
    finish_reason finish;
    uint32_t count;
    int32_t ids[OUTPUT];
    float logprobs[OUTPUT];
} answer;

static char folders[ADAPTERS][TA_PATH_BYTES];

static engine *open_way(const way *w) {
    static char names[ADAPTERS][2 * TA_PATH_BYTES];
    char path[1024];
    model_config c = {.device = DEVICE_CUDA,
                      .ops = &watched,
                      .max_seqs = w->max_seqs ? w->max_seqs : 6,
                      .step_tokens = w->step_tokens ? w->step_tokens : 64,
                      .max_context = 64,
                      .kv_memory = w->kv_memory ? w->kv_memory : 4 << 20,
                      .kv_dtype = DT_BF16,
                      .kv_dtype_given = true,
                      .no_lead = w->collects_first,
                      .no_replay = w->in_steps_alone};
    c.adapters.count = w->adapters ? ADAPTERS : 0;
    for (uint32_t i = 0; i < c.adapters.count; i++) {
        snprintf(names[i], sizeof names[i], "a%u=%.*s", i, TA_PATH_BYTES, folders[i]);
        c.adapters.at[i] = names[i];
    }
    snprintf(path, sizeof path, "%s/tests/vectors/families-w4/%s.gguf", TEST_SOURCE_DIR, w->model);
    return tiny_open(path, c);
}

static adapter *adapter_of(engine *e, uint32_t number) {
    char name[16];
    adapter *out = NULL;
    esp_error err = {0};
    if (!engine_adapters(e) || number % (ADAPTERS + 1) == 0) return NULL;
    snprintf(name, sizeof name, "a%u", number % (ADAPTERS + 1) - 1);
    if (adapters_find(engine_adapters(e), name, &out, &err) != ESP_OK) fail_msg("%s", err.message);
    return out;
}

static uint32_t output_of(uint32_t number) { return number % 5 == 4 ? 1 : 2 + number * 7 % 10; }

/* Greedy and sampled, with and without each thing that looks at the token before; the same for the same number. */
static sample_policy policy_of(uint32_t number, const sample_bias *likely_end) {
    return (sample_policy){.temperature = number % 3 ? 1.0f : 0,
                           .top_p = number % 2 ? 0.9f : 1,
                           .repetition_penalty = number % 4 == 1 ? 1.7f : 1,
                           .presence_penalty = number % 4 == 2 ? 0.9f : 0,
                           .frequency_penalty = number % 4 == 3 ? 0.7f : 0,
                           .seed = number,
                           .bias_count = 1,
                           .bias = likely_end,
                           .logprobs = number % 6 == 5,
                           .top_logprobs = number % 6 == 5 ? 2 : 0};
}

static request *make_request(engine *e, uint32_t number) {
    static const tok_text stops[] = {{"e", 1}, {"a", 1}, {"th", 2}};
    int32_t prompt[PROMPT];
    uint32_t count = 1 + number * 17 % PROMPT, noise = number * 2654435761u + 1;
    for (uint32_t i = 0; i < count; i++) {
        noise = noise * 1664525u + 1013904223u;
        prompt[i] = (int32_t)(LEAST_ID + (noise >> 8) % PROMPT_IDS);
    }
    sample_bias end = {.id = tok_eos(engine_tokenizer(e)), .bias = number % 2 ? 3.5f : -100};
    request_options o = {.prompt = prompt,
                         .prompt_count = count,
                         .output_max = output_of(number),
                         .stop_count = number % 7 == 3 ? 3 : 0,
                         .stop = stops,
                         .adapters = engine_adapters(e),
                         .adapter = adapter_of(e, number),
                         .policy = policy_of(number, &end)};
    request *r = NULL;
    esp_error err = {0};
    if (request_new(&r, &o, engine_spec(e)->vocab, &err) != ESP_OK) fail_msg("%s", err.message);
    return r;
}

static void keep(request *r, answer *out) {
    *out = (answer){.finish = r->finish, .count = r->published};
    assert_true(r->published <= r->output_max);
    memcpy(out->ids, r->tokens + r->prompt_count, r->published * sizeof *out->ids);
    if (r->logprobs) memcpy(out->logprobs, r->logprobs, r->published * sizeof *out->logprobs);
    request_unref(r);
}

/* What was published stays as it was when it was. */
typedef struct reader {
    uint32_t seen;
    int32_t ids[OUTPUT];
} reader;

static void read_on(reader *to, const request *r) {
    uint32_t published = r->published;
    assert_true(published >= to->seen);
    assert_memory_equal(to->ids, r->tokens + r->prompt_count, to->seen * sizeof *to->ids);
    memcpy(to->ids, r->tokens + r->prompt_count, published * sizeof *to->ids);
    to->seen = published;
}

/* Tokens after which a request is cancelled; 0: it is not. */
typedef uint32_t (*cancel_after)(uint32_t number);
static uint32_t never(uint32_t number) { return number * 0; }
static uint32_t some(uint32_t number) { return number % 3 == 1 ? 1 + number % 4 : 0; }

/* One request comes with every second step. Returns the engine's last figures. */
static engine_stats answer_all(const way *w, cancel_after cancels, answer *out) {
    request *all[REQUESTS];
    reader readers[REQUESTS] = {0};
    engine_stats stats;
    engine *e = open_way(w);
    for (uint32_t i = 0; i < REQUESTS; i++)
        all[i] = make_request(e, i);
    for (uint32_t first = 0, come = 0, step = 1; first < REQUESTS; step++) {
        if (come < REQUESTS && step % 2) tiny_submit(e, all[come++]);
        engine_step_or_wait(e);
        engine_check(e);
        assert_true(step < STEPS_MAX);
        if (w->preempt_every && step % w->preempt_every == 0) engine_preempt_newest(e);
        for (uint32_t i = first; i < come; i++) {
            read_on(&readers[i], all[i]);
            if (cancels(i) && readers[i].seen >= cancels(i)) engine_cancel(e, all[i]);
        }
        while (first < come && atomic_load(&all[first]->done))
            first++;
    }
    for (uint32_t i = 0; i < REQUESTS; i++)
        keep(all[i], &out[i]);
    engine_read_stats(e, &stats);
    assert_int_equal(stats.pages_used, 0);
    engine_close(e);
    return stats;
}

static void assert_same(const way *w, const answer *a, const answer *b) {
    for (uint32_t i = 0; i < REQUESTS; i++)
        if (memcmp(&a[i], &b[i], sizeof a[i]) != 0)
            fail_msg("%s, %s: request %u has other tokens, or another end", w->model, w->what, i);
}

/* Or the crowd would prove less than it says. */
static void assert_varied(const answer *all) {
    uint32_t stopped = 0, single = 0;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        stopped += all[i].finish == FINISH_STOP && all[i].count < output_of(i);
        single += output_of(i) == 1;
    }
    assert_true(stopped > 0 && stopped < REQUESTS && single > 0);
}

/* ---- tests ---- */

/* few: memory for so few pages that some give theirs up; 0: not tried. */
static void check_ways(const char *name, bool adapted, uint64_t few) {
    static answer first[REQUESTS], other[REQUESTS];
    way ways[] = {
        {.what = "collected first", .collects_first = true},
        {.what = "ahead"},
        {.what = "ahead, without graphs", .in_steps_alone = true},
        {.what = "ahead, in chunks", .max_seqs = 4, .step_tokens = 9},
        {.what = "ahead, one at a time", .max_seqs = 1},
        {.what = "ahead, preempted", .preempt_every = 4},
        {.what = "ahead, few pages", .kv_memory = few},
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        ways[i].model = name;
        ways[i].adapters = adapted;
        engine_stats stats = answer_all(&ways[i], never, i ? other : first);
        if (i) assert_same(&ways[i], first, other);
        assert_true(ways[i].collects_first == (stats.steps_ahead_total == 0));
        assert_true(i != 1 || stats.steps_ahead_total > stats.steps_total / 2);
        assert_true(!(ways[i].preempt_every || ways[i].kv_memory) || stats.preemptions_total > 0);
    }
    assert_varied(first);
}

static void tokens_are_those_of_steps_collected_first(void **state) {
    (void)state;
    check_ways("llama3", false, 4 * 4096);
}

/* Pages behind a window go back while a step that read them is in flight. */
static void also_with_windows(void **state) {
    (void)state;
    check_ways("gemma2", false, 7 * 8192);
}

static void also_with_adapters(void **state) {
    (void)state;
    const tiny_llama_options base = {.layers = 2,
                                     .head_dim = 16,
                                     .hidden = 64,
                                     .heads = 4,
                                     .kv_heads = 2,
                                     .intermediate = 96,
                                     .vocab = 320};
    for (uint32_t i = 0; i < ADAPTERS; i++)
        tiny_adapter_write(folders[i], &(tiny_adapter_options){.base = &base,
                                                               .rank = i ? 20 : 8,
                                                               .targets = i ? TA_Q | TA_V : TA_ALL,
                                                               .std = 0.08f,
                                                               .seed = 100 + i});
    check_ways("llama3", true, 0);
    for (uint32_t i = 0; i < ADAPTERS; i++)
        tiny_adapter_remove(folders[i]);
}

/* Who is cancelled has got the first of the tokens that it would have got; nobody else notices. */
static void cancels_in_flight_change_nobody_elses_tokens(void **state) {
    (void)state;
    static answer whole[REQUESTS], cut[REQUESTS];
    uint32_t cancelled = 0;
    way w = {.what = "cancelled", .model = "llama3", .collects_first = true};
    (void)answer_all(&w, never, whole);
    w.collects_first = false;
    (void)answer_all(&w, some, cut);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        assert_true(cut[i].count <= whole[i].count);
        assert_memory_equal(cut[i].ids, whole[i].ids, cut[i].count * sizeof *cut[i].ids);
        if (cut[i].finish == whole[i].finish) continue;
        assert_true(some(i) && cut[i].count >= some(i));
        assert_int_equal(cut[i].finish, FINISH_CANCELLED);
        cancelled++;
    }
    assert_true(cancelled > 0);
}

/* A fault with one step waited for and another in flight: each request hears of it once, and none runs any more. */
static void fault_ends_every_request_once(void **state) {
    (void)state;
    const way w = {.model = "llama3"};
    request *all[4], *late;
    engine_stats stats;
    engine *e = open_way(&w);
    for (uint32_t i = 0; i < 4; i++)
        tiny_submit(e, all[i] = make_request(e, 5 * i + 2));
    samples_until_fault = 2;
    for (uint32_t step = 0; step < 8; step++)
        (void)engine_step(e);
    engine_read_stats(e, &stats);
    assert_true(stats.broken && stats.finished_total[FINISH_ERROR] == 4 && stats.steps_ahead_total);
    assert_int_equal(stats.pages_used, 0);
    for (uint32_t i = 0; i < 4; i++) {
        assert_true(all[i]->done && all[i]->published <= 1);
        assert_int_equal(all[i]->error.code, ESP_UNAVAILABLE);
        assert_string_equal(all[i]->error.message, "the device was unplugged");
        request_unref(all[i]);
    }
    tiny_submit(e, late = make_request(e, 1));
    (void)engine_step(e);
    assert_true(late->done && late->finish == FINISH_ERROR);
    request_unref(late);
    engine_close(e);
    faulty = false;
}

/* A crowd that ends while its next step is in flight leaves nothing there: logits can be asked for at once. */
static esp_code ignore_row(void *arg, uint32_t position, const float *row, esp_error *err) {
    (void)arg, (void)position, (void)row, (void)err;
    return ESP_OK;
}

static void nothing_is_in_flight_for_nobody(void **state) {
    (void)state;
    const way w = {.model = "llama3"};
    const int32_t ids[] = {5, 6, 7};
    esp_error err = {0};
    engine *e = open_way(&w);
    for (uint32_t number = 0; number < 6; number++) {
        request *r = make_request(e, number);
        tiny_submit(e, r);
        tiny_finish(e, r);
        request_unref(r);
        assert_int_equal(engine_logits(e, NULL, ids, 3, ignore_row, NULL, &err), ESP_OK);
    }
    engine_close(e);
}

/* ---- threads ---- */

typedef struct client {
    engine *e;
    uint32_t first, count;
    const answer *want; /* [count] */
    bool cancels, wrong;
} client;

static void *ask(void *arg) {
    client *c = arg;
    for (uint32_t i = 0; i < c->count; i++) {
        request *r = make_request(c->e, c->first + i);
        answer got;
        tiny_submit(c->e, r);
        while (!atomic_load(&r->done)) {
            if (c->cancels && atomic_load(&r->published) >= 2) engine_cancel(c->e, r);
            sched_yield();
        }
        keep(r, &got);
        const answer *want = &c->want[c->first + i];
        bool same = got.count == want->count && got.finish == want->finish;
        bool cut = c->cancels && got.finish == FINISH_CANCELLED && got.count <= want->count;
        c->wrong |= !(same || cut) || memcmp(got.ids, want->ids, got.count * sizeof *got.ids) != 0;
    }
    return NULL;
}

/* Clients that come, wait and cancel by themselves, and an engine that steps by itself. */
static void clients_come_and_go_while_steps_are_in_flight(void **state) {
    (void)state;
    enum { CLIENTS = 3, EACH = REQUESTS / CLIENTS };
    static answer whole[REQUESTS];
    way w = {.what = "threads", .model = "llama3", .collects_first = true};
    client clients[CLIENTS];
    pthread_t threads[CLIENTS];
    engine_stats stats;
    esp_error err = {0};
    (void)answer_all(&w, never, whole);
    w.collects_first = false;
    engine *e = open_way(&w);
    assert_int_equal(engine_start(e, &err), ESP_OK);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        clients[i] = (client){
            .e = e, .first = i * EACH, .count = EACH, .want = whole, .cancels = i == 1};
        assert_int_equal(pthread_create(&threads[i], NULL, ask, &clients[i]), 0);
    }
    for (uint32_t i = 0; i < CLIENTS; i++) {
        pthread_join(threads[i], NULL);
        assert_false(clients[i].wrong);
    }
    engine_read_stats(e, &stats);
    assert_true(stats.steps_ahead_total > 0);
    engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_those_of_steps_collected_first),
        cmocka_unit_test(also_with_windows),
        cmocka_unit_test(also_with_adapters),
        cmocka_unit_test(cancels_in_flight_change_nobody_elses_tokens),
        cmocka_unit_test(fault_ends_every_request_once),
        cmocka_unit_test(nothing_is_in_flight_for_nobody),
        cmocka_unit_test(clients_come_and_go_while_steps_are_in_flight),
    };
    return cmocka_run_group_tests(tests, watch, NULL);
}
