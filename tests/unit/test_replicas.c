/* test_replicas.c - several engines as one: equal answers, shared work, adapters by content, and what happens when one
 * of them fails. */
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
#include "engine/base/log.h"
#include "engine/replicas.h"
#include "tests/unit/hang.h"
#include "tests/unit/tiny_adapter.h"
#include "tests/unit/tiny_engine.h"

enum { REPLICAS = 2, REQUESTS = 12, OUTPUT = 10, VOCAB_IDS = 256 };

static const tiny_llama_options BASE = {.layers = 2,
                                        .hidden = 64,
                                        .heads = 4,
                                        .kv_heads = 2,
                                        .head_dim = 16,
                                        .intermediate = 96,
                                        .vocab = 320,
                                        .context = 2048,
                                        .dtype = DT_Q8_0,
                                        .seed = 3,
                                        .tied = true};

static char model_path[] = "/tmp/espalier-replicas-XXXXXX";
static char folder[TA_PATH_BYTES], named[TA_PATH_BYTES + 8];

static int make_files(void **state) {
    (void)state;
    log_set_level(LOG_OFF);
    tiny_write(model_path, &BASE);
    tiny_adapter_write(
        folder, &(tiny_adapter_options){.base = &BASE, .rank = 8, .targets = TA_ALL, .seed = 5});
    snprintf(named, sizeof named, "a=%s", folder);
    return 0;
}

static int drop_files(void **state) {
    (void)state;
    tiny_adapter_remove(folder);
    return unlink(model_path);
}

/* ---- replicas and requests ---- */

static replicas *open_many(model_config config, uint32_t count) {
    replicas *all = NULL;
    esp_error err = {0};
    config.model_path = model_path;
    config.max_context = BASE.context;
    config.rank_patience_seconds = HANG_SECONDS;
    if (!config.threads) config.threads = count;
    if (replicas_open(&all, &config, count, NULL, NULL, &err) != ESP_OK)
        fail_msg("%s", err.message);
    return all;
}

static replicas *start_many(model_config config, uint32_t count) {
    replicas *all = open_many(config, count);
    assert_int_equal(replicas_start(all, NULL), ESP_OK);
    return all;
}

static adapter *find(replicas *all, const char *name) {
    adapter *out = NULL;
    if (!name) return NULL;
    assert_int_equal(adapters_find_anyhow(engine_adapters(replicas_first(all)), name, &out, NULL),
                     ESP_OK);
    return out;
}

/* Mixed lengths and policies, the same for the same number. */
static request *make_request(replicas *all, uint32_t number, const char *adapter_name,
                             uint32_t output) {
    int32_t prompt[64];
    uint32_t count = 1 + number * 7 % 60, noise = number * 2654435761u + 1;
    for (uint32_t i = 0; i < count; i++) {
        noise = noise * 1664525u + 1013904223u;
        prompt[i] = (int32_t)((noise >> 8) % VOCAB_IDS);
    }
    request_options o = {.prompt = prompt,
                         .prompt_count = count,
                         .output_max = output,
                         .ignore_eos = true,
                         .row_digests = true,
                         .adapters = engine_adapters(replicas_first(all)),
                         .adapter = find(all, adapter_name),
                         .policy = {.temperature = number % 3 ? 0.8f : 0, .seed = number}};
    request *r = NULL;
    esp_error err = {0};
    if (request_new(&r, &o, BASE.vocab, &err) != ESP_OK) fail_msg("%s", err.message);
    return r;
}

static void submit(replicas *all, request *r) {
    esp_error err = {0};
    if (replicas_submit(all, r, &err) != ESP_OK) fail_msg("%s", err.message);
}

static void wait_done(const request *r) {
    int64_t until_us = clock_now_us() + HANG_US;
    while (!atomic_load(&r->done)) {
        assert_true(clock_now_us() < until_us);
        usleep(1000);
    }
}

static void wait_published(const request *r) {
    int64_t until_us = clock_now_us() + HANG_US;
    while (!atomic_load(&r->published) && !atomic_load(&r->done)) {
        assert_true(clock_now_us() < until_us);
        usleep(1000);
    }
}

static uint64_t requests_of(replicas *all, uint32_t index) {
    engine_stats stats;
    engine_read_stats(replicas_engine(all, index), &stats);
    return stats.requests_total;
}

typedef struct answer {
    int32_t ids[OUTPUT];
    uint64_t rows[OUTPUT]; /* digests of the logits */
} answer;

static void keep(request *r, answer *out) {
    wait_done(r);
    if (r->finish != FINISH_LENGTH) fail_msg("%s", r->error.message);
    memcpy(out->ids, r->tokens + r->prompt_count, sizeof out->ids);
    memcpy(out->rows, r->row_digests, sizeof out->rows);
    request_unref(r);
}

/* ---- tests ---- */

/* Every second request goes through the adapter. */
static void answer_all(uint32_t replica_count, uint32_t tp, answer *out) {
    request *asked[REQUESTS];
    model_config config = {
        .adapters = {.count = 1, .at = {named}}, .tp = tp, .threads = replica_count * tp};
    replicas *all = start_many(config, replica_count);
    for (uint32_t i = 0; i < REQUESTS; i++)
        submit(all, asked[i] = make_request(all, i, i % 2 ? "a" : NULL, OUTPUT));
    for (uint32_t i = 0; i < REQUESTS; i++)
        keep(asked[i], &out[i]);
    for (uint32_t i = 0; i < replica_count; i++)
        assert_true(requests_of(all, i) > 0);
    replicas_close(all);
}

/* Where one is computed changes no bit. */
static void answers_are_those_of_one_replica(void **state) {
    (void)state;
    static answer one[REQUESTS], both[REQUESTS];
    for (uint32_t tp = 1; tp <= 2; tp++) {
        answer_all(1, tp, one);
        answer_all(REPLICAS, tp, both);
        assert_memory_equal(one, both, sizeof one);
    }
}

static void requests_one_by_one_take_turns(void **state) {
    (void)state;
    answer out;
    engine_stats sum;
    replicas *all = start_many((model_config){0}, 3);
    for (uint32_t i = 0; i < 9; i++) {
        request *r = make_request(all, i, NULL, OUTPUT);
        submit(all, r);
        engine *by = replicas_engine(all, r->replica);
        keep(r, &out);
        while (engine_live(by)) /* its place is given back a little later */
            usleep(100);
    }
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(requests_of(all, i), 3);
    replicas_read_stats(all, &sum);
    assert_int_equal(sum.requests_total, 9);
    assert_int_equal(sum.output_tokens_total, 9 * OUTPUT);
    assert_int_equal(sum.finished_total[FINISH_LENGTH], 9);
    replicas_close(all);
}

/* Nothing is submitted twice, and the news of all come at one signal. */
static void news_of_all_come_at_one_signal(void **state) {
    (void)state;
    request *asked[REQUESTS];
    uint32_t done = 0;
    replicas *all = open_many((model_config){0}, REPLICAS);
    signal_word *news = replicas_news_signal(all);
    assert_int_equal(replicas_start(all, NULL), ESP_OK);
    for (uint32_t i = 0; i < REQUESTS; i++)
        submit(all, asked[i] = make_request(all, i, NULL, OUTPUT));
    int64_t until_us = clock_now_us() + HANG_US;
    while (done < REQUESTS) {
        uint32_t seen = signal_seen(news);
        for (request *r; (r = replicas_news(all)); request_unref(r)) {
            bool ended = atomic_load(&r->done) && !r->user;
            if (ended) r->user = asked; /* its end is counted once */
            done += ended;
        }
        assert_true(clock_now_us() < until_us);
        if (done < REQUESTS) signal_wait(news, seen, HANG_US);
    }
    for (uint32_t i = 0; i < REQUESTS; i++)
        request_unref(asked[i]);
    replicas_close(all);
}

/* Two of each have ended: whoever tells one is not asked again before the others were. */
static void news_of_all_come_in_turns(void **state) {
    (void)state;
    request *asked[2 * REPLICAS];
    replicas *all = open_many((model_config){0}, REPLICAS); /* stepped by hand */
    (void)replicas_news_signal(all);
    for (uint32_t i = 0; i < 2 * REPLICAS; i++)
        submit(all, asked[i] = make_request(all, i, NULL, OUTPUT));
    for (uint32_t i = 0; i < 2 * REPLICAS; i++)
        while (!atomic_load(&asked[i]->done))
            (void)engine_step(replicas_engine(all, asked[i]->replica));
    for (uint32_t i = 0, before = REPLICAS; i < 2 * REPLICAS; i++) {
        request *r = replicas_news(all);
        assert_non_null(r);
        assert_int_not_equal(r->replica, before);
        before = r->replica;
        request_unref(r);
    }
    assert_null(replicas_news(all));
    for (uint32_t i = 0; i < 2 * REPLICAS; i++)
        request_unref(asked[i]);
    replicas_close(all);
}

static void a_cancelled_one_ends_and_the_others_go_on(void **state) {
    (void)state;
    answer out;
    replicas *all = start_many((model_config){0}, REPLICAS);
    request *on_each[REPLICAS], *other;
    for (uint32_t i = 0; i < REPLICAS; i++)
        submit(all, on_each[i] = make_request(all, i, NULL, 1900));
    assert_int_not_equal(on_each[0]->replica, on_each[1]->replica);
    submit(all, other = make_request(all, 7, NULL, OUTPUT));
    for (uint32_t i = 0; i < REPLICAS; i++) {
        wait_published(on_each[i]);
        replicas_cancel(all, on_each[i]);
        wait_done(on_each[i]);
        assert_int_equal(on_each[i]->finish, FINISH_CANCELLED);
        request_unref(on_each[i]);
    }
    keep(other, &out);
    replicas_close(all);
}

/* ---- adapters ---- */

static adapter_info only_adapter(replicas *all) {
    adapter_info *infos, one;
    size_t count;
    group_list(replicas_adapters(all), &infos, &count);
    assert_int_equal(count, 1);
    one = infos[0];
    free(infos);
    return one;
}

static adapters_stats adapter_sums(replicas *all) {
    adapter_info *infos;
    size_t count;
    adapters_stats stats;
    group_look(replicas_adapters(all), &infos, &count, &stats);
    free(infos);
    return stats;
}

static void wait_no_users(replicas *all) {
    int64_t until_us = clock_now_us() + HANG_US;
    while (only_adapter(all).users) {
        assert_true(clock_now_us() < until_us);
        usleep(1000);
    }
}

/* One name of both replicas is one adapter: users are counted wherever they run, and all of them end with it. */
static void an_adapter_of_all_is_listed_and_unloaded_as_one(void **state) {
    (void)state;
    request *asked[REQUESTS];
    model_config config = {.adapters = {.count = 1, .at = {named}}};
    replicas *all = start_many(config, REPLICAS);
    bool used[REPLICAS] = {false};
    for (uint32_t i = 0; i < REQUESTS; i++) {
        submit(all, asked[i] = make_request(all, i, "a", 1900));
        used[asked[i]->replica] = true;
    }
    assert_true(used[0] && used[1]); /* so many that it is brought to both */
    adapter_info one = only_adapter(all);
    assert_string_equal(one.name, "a");
    assert_int_equal(one.users, REQUESTS);
    assert_int_equal(one.requests, REQUESTS);
    assert_true(one.current);
    assert_int_equal(adapter_sums(all).known, REPLICAS);

    assert_int_equal(group_unload(replicas_adapters(all), "a", ADAPTER_END, NULL), ESP_OK);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        wait_done(asked[i]);
        assert_int_equal(asked[i]->error.code, ESP_ABORTED);
        request_unref(asked[i]);
    }
    adapter *none = NULL;
    for (uint32_t i = 0; i < REPLICAS; i++)
        assert_int_equal(adapters_find(engine_adapters(replicas_engine(all, i)), "a", &none, NULL),
                         ESP_NOT_FOUND);
    assert_int_equal(group_unload(replicas_adapters(all), "a", ADAPTER_END, NULL), ESP_NOT_FOUND);
    replicas_close(all);
}

static void a_request_lets_its_adapter_go_where_it_ran(void **state) {
    (void)state;
    answer out;
    model_config config = {.adapters = {.count = 1, .at = {named}}};
    replicas *all = start_many(config, REPLICAS);
    for (uint32_t i = 0; i < 4; i++) {
        request *r = make_request(all, i, "a", OUTPUT);
        submit(all, r);
        keep(r, &out);
    }
    wait_no_users(all);
    /* Few as they were they stayed with the replica that had it. */
    assert_int_equal(only_adapter(all).loads, 1);
    replicas_close(all);
}

static void a_pin_brings_it_to_all(void **state) {
    (void)state;
    model_config config = {.adapters = {.count = 1, .at = {named}}};
    replicas *all = start_many(config, REPLICAS);
    assert_int_equal(group_pin(replicas_adapters(all), "a", true, NULL), ESP_OK);
    int64_t until_us = clock_now_us() + HANG_US;
    while (adapter_sums(all).device < REPLICAS) {
        assert_true(clock_now_us() < until_us);
        usleep(1000);
    }
    assert_true(only_adapter(all).pinned);
    replicas_close(all);
}

/* ---- limits ---- */

/* A queue for 1 and a batch of 1: the third request of a replica is refused there and taken by another. */
static void who_is_full_passes_it_on(void **state) {
    (void)state;
    request *asked[4], *last;
    esp_error err = {0};
    model_config config = {.max_seqs = 1, .waiting_max = 1};
    replicas *all = open_many(config, REPLICAS); /* not started: nobody ends */
    for (uint32_t i = 0; i < 4; i++)
        submit(all, asked[i] = make_request(all, i, NULL, OUTPUT));
    last = make_request(all, 9, NULL, OUTPUT);
    assert_int_equal(replicas_submit(all, last, &err), ESP_EXHAUSTED);
    assert_true(err.retry_ms > 0);
    request_unref(last);
    uint32_t on_first = 0;
    for (uint32_t i = 0; i < 4; i++)
        on_first += asked[i]->replica == 0;
    assert_int_equal(on_first, 2);
    replicas_close(all);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(asked[i]->error.code, ESP_UNAVAILABLE);
        request_unref(asked[i]);
    }
}

/* One misses the adapter, the other has it and is full: whoever asks is told to ask again. */
static void who_is_full_says_more_than_who_misses_the_adapter(void **state) {
    (void)state;
    enum {
        FULL = REPLICA_DISK_COST + 1
    }; /* the other one, which would have to read it, is asked first */
    request *asked[FULL], *last;
    esp_error err = {0};
    model_config config = {
        .max_seqs = 1, .waiting_max = FULL - 1, .adapters = {.count = 1, .at = {named}}};
    replicas *all = open_many(config, REPLICAS);
    adapters *second = engine_adapters(replicas_engine(all, 1));
    assert_int_equal(adapters_unload(second, "a", ADAPTER_END, NULL), ESP_OK);
    replicas_set_stuck(all, 1, true);
    for (uint32_t i = 0; i < FULL; i++)
        submit(all, asked[i] = make_request(all, i, NULL, OUTPUT));
    replicas_set_stuck(all, 1, false);
    last = make_request(all, 9, "a", OUTPUT);
    assert_int_equal(replicas_submit(all, last, &err), ESP_EXHAUSTED);
    assert_true(err.retry_ms > 0);
    request_unref(last);
    replicas_close(all);
    for (uint32_t i = 0; i < FULL; i++)
        request_unref(asked[i]);
}

/* What was given for keys and values is shared out, to all alike. */
static void memory_is_shared_out(void **state) {
    (void)state;
    engine_stats one, of[REPLICAS];
    model_config config = {.kv_memory = 4 << 20};
    replicas *alone = open_many(config, 1), *all = open_many(config, REPLICAS);
    engine_read_stats(replicas_first(alone), &one);
    for (uint32_t i = 0; i < REPLICAS; i++)
        engine_read_stats(replicas_engine(all, i), &of[i]);
    assert_int_equal(of[0].pages_total, of[1].pages_total);
    assert_int_equal(of[0].pages_total, one.pages_total / REPLICAS);
    replicas_close(alone);
    replicas_close(all);
}

static void refused(model_config config, uint32_t count, const char *field, const char *words) {
    replicas *all = NULL;
    esp_error err = {0};
    config.model_path = model_path;
    esp_code code = replicas_open(&all, &config, count, NULL, NULL, &err);
    if (code == ESP_OK || strcmp(err.field, field) != 0 || !strstr(err.message, words))
        fail_msg("%d, %s: %s", code, err.field, err.message);
}

static void too_few_cores_are_refused_with_the_numbers(void **state) {
    (void)state;
    if (kern_cpu_best_level() == LEVEL_AUTO) skip();
    refused((model_config){.device = DEVICE_CPU, .threads = 2}, 3, "--replicas",
            "for each of 3 ranks, and there are 2");
    refused((model_config){.device = DEVICE_CPU, .threads = 3, .tp = 2}, 2, "--replicas",
            "for each of 4 ranks, and there are 3");
    refused((model_config){.device = DEVICE_CUDA}, 2, "--device", "--device cpu");
}

/* ---- a replica that fails ---- */

/* ref, with devices that fail when they are told to; by the order in which they were opened: those of the first
 * replica's ranks come first. */
enum { DEVICES = 2 * REPLICAS };
static kern_ops fragile;
static struct {
    kern_device *_Atomic dev;
    _Atomic bool fails;
    _Atomic uint32_t synced;
} devices[DEVICES];
static _Atomic uint32_t opened;
static _Atomic bool
    held; /* after so many turns each waits: what was begun does not end before a fault is arranged */
enum { TURNS = 20 };

static esp_code fragile_open(kern_device **out, const kern_options *options, esp_error *err) {
    esp_code code = kern_ref.open(out, options, err);
    if (code == ESP_OK) atomic_store(&devices[atomic_fetch_add(&opened, 1)].dev, *out);
    return code;
}

static esp_code fragile_sync(kern_device *dev, esp_error *err) {
    for (uint32_t i = 0; i < DEVICES; i++) {
        if (atomic_load(&devices[i].dev) != dev) continue;
        for (uint32_t turn = atomic_fetch_add(&devices[i].synced, 1); turn >= TURNS;)
            if (atomic_load(&held))
                usleep(100);
            else
                break;
        if (atomic_load(&devices[i].fails))
            return esp_fail(err, ESP_INTERNAL, "device %u fell off the bus", i);
    }
    return kern_ref.sync(dev, err);
}

static replicas *start_fragile(uint32_t tp) {
    fragile = kern_ref;
    fragile.open = fragile_open;
    fragile.sync = fragile_sync;
    atomic_store(&opened, 0);
    atomic_store(&held, false);
    for (uint32_t i = 0; i < DEVICES; i++)
        atomic_store(&devices[i].fails, false);
    replicas *all = start_many((model_config){.device = DEVICE_REF,
                                              .ops = &fragile,
                                              .tp = tp,
                                              .adapters = {.count = 1, .at = {named}}},
                               REPLICAS);
    for (uint32_t i = 0; i < DEVICES; i++)
        atomic_store(&devices[i].synced, 0);
    atomic_store(&held, true);
    return all;
}

/* Of what has begun. */
static void let_fail(uint32_t device) {
    atomic_store(&devices[device].fails, true);
    atomic_store(&held, false);
}

static void assert_fell(request *r, const char *words) {
    wait_done(r);
    assert_int_equal(r->error.code, ESP_UNAVAILABLE);
    assert_non_null(strstr(r->error.message, words));
    request_unref(r);
}

/* Of a replica that goes on: it runs until it is cancelled, or has worked all off by then. */
static void end_survivor(replicas *all, request *r) {
    replicas_cancel(all, r);
    wait_done(r);
    bool whole = r->finish == FINISH_CANCELLED || r->finish == FINISH_LENGTH;
    assert_true(whole);
    request_unref(r);
}

static void one_that_fails_takes_nobody_with_it(void **state) {
    (void)state;
    answer out;
    request *on_each[REPLICAS];
    replicas *all = start_fragile(1);
    for (uint32_t i = 0; i < REPLICAS; i++)
        submit(all, on_each[i] = make_request(all, 1, NULL, 1000));
    wait_published(on_each[0]);
    uint32_t falls = on_each[0]->replica;
    char words[64];
    snprintf(words, sizeof words, "device %u fell", falls);
    let_fail(falls);
    assert_fell(on_each[0], words);
    assert_int_equal(replicas_up(all), REPLICAS - 1);
    assert_false(replicas_is_up(all, falls));
    for (uint32_t i = 0; i < 5; i++) {
        request *r = make_request(all, i, NULL, OUTPUT);
        submit(all, r);
        assert_int_equal(r->replica, 1 - falls);
        keep(r, &out);
    }
    end_survivor(all, on_each[1]);
    /* With the last one every request is told why. */
    atomic_store(&devices[1 - falls].fails, true);
    request *late = make_request(all, 3, NULL, OUTPUT);
    submit(all, late);
    assert_fell(late, "fell off the bus");
    assert_int_equal(replicas_up(all), 0);
    replicas_close(all);
}

/* Of two replicas of two ranks the second rank of one fails: that replica ends with the rank's sentence. */
static void a_rank_that_fails_ends_its_replica_alone(void **state) {
    (void)state;
    answer out;
    request *on_each[REPLICAS];
    replicas *all = start_fragile(2);
    for (uint32_t i = 0; i < REPLICAS; i++)
        submit(all, on_each[i] = make_request(all, 1, NULL, 1000));
    wait_published(on_each[0]);
    uint32_t fell = on_each[0]->replica == 0 ? 0 : 1;
    let_fail(1);
    assert_fell(on_each[fell], "device 1 fell");
    assert_false(replicas_is_up(all, 0));
    assert_true(replicas_is_up(all, 1));
    end_survivor(all, on_each[1 - fell]);
    for (uint32_t i = 0; i < 3; i++) {
        request *r = make_request(all, i, NULL, OUTPUT);
        submit(all, r);
        keep(r, &out);
    }
    replicas_close(all);
}

/* The first rank's own device: the others are told, and adapters that come later are sent to nobody. */
static void a_first_rank_that_fails_ends_its_replica_alone(void **state) {
    (void)state;
    answer out;
    request *on_each[REPLICAS];
    replicas *all = start_fragile(2);
    for (uint32_t i = 0; i < REPLICAS; i++)
        submit(all, on_each[i] = make_request(all, 1, NULL, 1000));
    wait_published(on_each[0]);
    uint32_t fell = on_each[0]->replica == 0 ? 0 : 1;
    let_fail(0);
    assert_fell(on_each[fell], "device 0 fell");
    end_survivor(all, on_each[1 - fell]);
    assert_int_equal(group_pin(replicas_adapters(all), "a", true, NULL), ESP_OK);
    for (uint32_t i = 0; i < 4; i++) {
        request *r = make_request(all, i, "a", OUTPUT);
        submit(all, r);
        assert_int_equal(r->replica, 1);
        keep(r, &out);
    }
    replicas_close(all);
}

/* Whoever looks at the age of steps says so; new requests go elsewhere until it moves again. */
static void a_stuck_one_gets_no_more_until_it_moves(void **state) {
    (void)state;
    answer out;
    replicas *all = start_many((model_config){0}, REPLICAS);
    replicas_set_stuck(all, 1, true);
    for (uint32_t i = 0; i < 8; i++) {
        if (i == 4) replicas_set_stuck(all, 1, false);
        if (i == 4) replicas_set_stuck(all, 0, true);
        request *r = make_request(all, i, NULL, OUTPUT);
        submit(all, r);
        assert_int_equal(r->replica, i < 4 ? 0 : 1);
        keep(r, &out);
    }
    replicas_close(all);
}

static void a_draining_one_is_refused_by_all(void **state) {
    (void)state;
    esp_error err = {0};
    replicas *all = start_many((model_config){0}, REPLICAS);
    replicas_drain(all);
    request *r = make_request(all, 1, NULL, OUTPUT);
    assert_int_equal(replicas_submit(all, r, &err), ESP_UNAVAILABLE);
    assert_non_null(strstr(err.message, "draining"));
    request_unref(r);
    replicas_close(all);
}

typedef struct flapping {
    replicas *all;
    _Atomic bool ends;
} flapping;

static void *flap(void *arg) {
    flapping *f = arg;
    while (!atomic_load(&f->ends))
        for (uint32_t i = 0; i < 2 * REPLICAS; i++)
            replicas_set_stuck(f->all, i % REPLICAS, i < REPLICAS);
    return NULL;
}

/* Whoever is up now and then: a request is submitted, or refused with a reason. Here they refuse all. */
static void a_request_is_taken_or_refused_whoever_is_up(void **state) {
    (void)state;
    enum { TIMES = 200000 };
    flapping f = {.all = open_many((model_config){0}, REPLICAS)};
    pthread_t thread;
    replicas_drain(f.all);
    request *r = make_request(f.all, 1, NULL, OUTPUT);
    assert_int_equal(pthread_create(&thread, NULL, flap, &f), 0);
    uint32_t lost = 0;
    for (uint32_t i = 0; i < TIMES && !lost; i++)
        lost += replicas_submit(f.all, r, NULL) != ESP_UNAVAILABLE;
    atomic_store(&f.ends, true);
    pthread_join(thread, NULL);
    assert_int_equal(lost, 0);
    request_unref(r);
    replicas_close(f.all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_those_of_one_replica),
        cmocka_unit_test(requests_one_by_one_take_turns),
        cmocka_unit_test(news_of_all_come_at_one_signal),
        cmocka_unit_test(news_of_all_come_in_turns),
        cmocka_unit_test(a_cancelled_one_ends_and_the_others_go_on),
        cmocka_unit_test(an_adapter_of_all_is_listed_and_unloaded_as_one),
        cmocka_unit_test(a_request_lets_its_adapter_go_where_it_ran),
        cmocka_unit_test(a_pin_brings_it_to_all),
        cmocka_unit_test(who_is_full_passes_it_on),
        cmocka_unit_test(who_is_full_says_more_than_who_misses_the_adapter),
        cmocka_unit_test(memory_is_shared_out),
        cmocka_unit_test(too_few_cores_are_refused_with_the_numbers),
        cmocka_unit_test(one_that_fails_takes_nobody_with_it),
        cmocka_unit_test(a_rank_that_fails_ends_its_replica_alone),
        cmocka_unit_test(a_first_rank_that_fails_ends_its_replica_alone),
        cmocka_unit_test(a_stuck_one_gets_no_more_until_it_moves),
        cmocka_unit_test(a_draining_one_is_refused_by_all),
        cmocka_unit_test(a_request_is_taken_or_refused_whoever_is_up),
    };
    return cmocka_run_group_tests(tests, make_files, drop_files);
}
