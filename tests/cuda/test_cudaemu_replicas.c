/* test_cudaemu_replicas.c - replicas on emulated GPUs: two of two ranks each, on devices whose links are near, with the
 * answers of one. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "emu_control.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/replicas.h"
#include "tests/unit/hang.h"
#include "tests/unit/tiny_engine.h"

enum { DEVICES = 4, REPLICAS = 2, RANKS = 2, REQUESTS = 6, OUTPUT = 4, FAR = 2, NO_LINK = -1 };

static const tiny_llama_options MODEL = {.layers = 1,
                                         .hidden = 128,
                                         .heads = 4,
                                         .kv_heads = 2,
                                         .head_dim = 64,
                                         .intermediate = 192,
                                         .vocab = 301,
                                         .dtype = DT_Q8_0,
                                         .seed = 5};

static char path[] = "/tmp/espalier-cuda-replicas-XXXXXX";

static int make_model(void **state) {
    (void)state;
    log_set_level(LOG_OFF);
    tiny_write(path, &MODEL);
    return 0;
}

static int drop_model(void **state) {
    (void)state;
    return unlink(path);
}

/* 0 is near 2, and 1 near 3. */
static int pairs(void **state) {
    (void)state;
    emu_set_devices(DEVICES);
    for (int a = 0; a < DEVICES; a++)
        for (int b = a + 1; b < DEVICES; b++)
            emu_set_link(a, b, b - a == 2 ? 0 : a ? FAR : NO_LINK);
    return 0;
}

static int equal_links(void **state) {
    (void)state;
    for (int a = 0; a < DEVICES; a++)
        for (int b = a + 1; b < DEVICES; b++)
            emu_set_link(a, b, 0);
    emu_set_devices(1);
    return 0;
}

/* ---- the device's table, with an eye on which devices are opened ---- */

static kern_ops watched;
static _Atomic uint32_t opened, order[2 * DEVICES];

static esp_code watch_open(kern_device **out, const kern_options *options, esp_error *err) {
    order[atomic_fetch_add(&opened, 1)] = options->index;
    return kern_cuda.open(out, options, err);
}

static replicas *start_many(uint32_t count, uint32_t tp) {
    replicas *all = NULL;
    esp_error err = {0};
    watched = kern_cuda;
    watched.open = watch_open;
    atomic_store(&opened, 0);
    model_config c = {.model_path = path,
                      .device = DEVICE_CUDA,
                      .ops = &watched,
                      .tp = tp,
                      .rank_patience_seconds = HANG_SECONDS,
                      .max_seqs = REQUESTS,
                      .step_tokens = 32,
                      .max_context = 64,
                      .kv_memory = 8 << 20,
                      .kv_dtype = DT_BF16,
                      .kv_dtype_given = true,
                      .threads = 1};
    if (replicas_open(&all, &c, count, NULL, NULL, &err) != ESP_OK) fail_msg("%s", err.message);
    assert_int_equal(replicas_start(all, NULL), ESP_OK);
    return all;
}

/* ---- requests ---- */

static request *make_request(uint32_t number) {
    int32_t ids[24];
    uint32_t count = 4 + number * 5 % 20;
    request *r = NULL;
    for (uint32_t i = 0; i < count; i++)
        ids[i] = (int32_t)(3 + (number * 11 + i * 5) % 190);
    request_options o = {.prompt = ids,
                         .prompt_count = count,
                         .output_max = OUTPUT,
                         .ignore_eos = true,
                         .row_digests = true};
    if (request_new(&r, &o, MODEL.vocab, NULL) != ESP_OK) fail();
    return r;
}

/* Ranks, which wait HANG_US for each other, may say first who hangs. */
static void wait_done(const request *r) {
    int64_t until_us = clock_now_us() + INT64_C(2) * HANG_US;
    while (!atomic_load(&r->done)) {
        assert_true(clock_now_us() < until_us);
        usleep(1000);
    }
}

/* Digests of the logits of all requests; used: how many each replica got. */
static void answer_all(replicas *all, uint64_t digests[REQUESTS][OUTPUT], uint32_t *used) {
    request *asked[REQUESTS];
    for (uint32_t i = 0; i < REQUESTS; i++) {
        asked[i] = make_request(i);
        assert_int_equal(replicas_submit(all, asked[i], NULL), ESP_OK);
        used[asked[i]->replica]++;
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        wait_done(asked[i]);
        if (asked[i]->finish != FINISH_LENGTH) fail_msg("%s", asked[i]->error.message);
        memcpy(digests[i], asked[i]->row_digests, sizeof digests[i]);
        request_unref(asked[i]);
    }
}

/* ---- tests ---- */

static bool is_pair(uint32_t a, uint32_t b, uint32_t x, uint32_t y) {
    return (a == x && b == y) || (a == y && b == x);
}

static void two_of_two_ranks_answer_as_one(void **state) {
    (void)state;
    static uint64_t one[REQUESTS][OUTPUT], both[REQUESTS][OUTPUT];
    uint32_t used[REPLICAS] = {0};
    replicas *all = start_many(1, RANKS);
    assert_int_equal(atomic_load(&opened), RANKS);
    assert_true(is_pair(order[0], order[1], 0, 2)); /* not 0 and 1, which have no link */
    answer_all(all, one, used);
    replicas_close(all);

    used[0] = 0;
    all = start_many(REPLICAS, RANKS);
    assert_int_equal(atomic_load(&opened), REPLICAS * RANKS);
    assert_true(is_pair(order[0], order[1], 0, 2));
    assert_true(is_pair(order[2], order[3], 1, 3));
    answer_all(all, both, used);
    assert_int_equal(used[0], REQUESTS / REPLICAS);
    assert_int_equal(used[1], REQUESTS / REPLICAS);
    replicas_close(all);
    assert_memory_equal(one, both, sizeof one);
}

/* One rank each, without links to speak of. */
static void four_of_one_rank_have_a_device_each(void **state) {
    (void)state;
    static uint64_t answers[REQUESTS][OUTPUT];
    uint32_t used[DEVICES] = {0}, seen = 0;
    replicas *all = start_many(DEVICES, 1);
    answer_all(all, answers, used);
    for (uint32_t i = 0; i < DEVICES; i++) {
        seen |= 1u << order[i];
        assert_true(used[i] > 0);
    }
    assert_int_equal(seen, (1u << DEVICES) - 1);
    replicas_close(all);
}

static void refused(model_config c, uint32_t count, const char *field, const char *words) {
    replicas *all = NULL;
    esp_error err = {0};
    c.model_path = path;
    c.device = DEVICE_CUDA;
    assert_int_equal(replicas_open(&all, &c, count, NULL, NULL, &err), ESP_OUT_OF_RANGE);
    if (strcmp(err.field, field) != 0 || !strstr(err.message, words))
        fail_msg("%s: %s", err.field, err.message);
}

static void more_gpus_than_there_are_are_refused_with_the_numbers(void **state) {
    (void)state;
    refused((model_config){.tp = 2}, 3, "--replicas",
            "want 6 GPUs, and from cuda:0 on this machine has 4");
    refused((model_config){.device_index = 3}, 2, "--replicas",
            "want 2 GPUs, and from cuda:3 on this machine has 1");
    refused((model_config){.tp = 8}, 1, "--tp", "want 8 GPUs");
    refused((model_config){.device_index = 9}, 2, "--device", "cuda:9");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(two_of_two_ranks_answer_as_one, pairs, equal_links),
        cmocka_unit_test_setup_teardown(four_of_one_rank_have_a_device_each, pairs, equal_links),
        cmocka_unit_test_setup_teardown(more_gpus_than_there_are_are_refused_with_the_numbers,
                                        pairs, equal_links),
    };
    return cmocka_run_group_tests(tests, make_model, drop_model);
}
