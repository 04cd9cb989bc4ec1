/* test_cudaemu_ranks.c - ranks on emulated GPUs: exchanges over NCCL, sums in the order of the ranks, and a model shared
 * by two and four of them.
 *
 *   sums    the bits of ref
 *   engine  tokens alone and among others equal at each number of ranks; logits those of one rank, and through an
 *           adapter on O or down within mean KL 1e-4 (test_cudaemu_rank_bits.c has more families)
 *   nodes   two processes of two ranks, which here are groups of threads: the bits of four in one */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <pthread.h>
#include <time.h>

#include <cmocka.h>

#include "cluster/comm_local.h"
#include "cluster/comm_nccl.h"
#include "cluster/rank_sum.h"
#include "emu_control.h"
#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "kernels/cuda/cuda_replay.h"
#include "tests/unit/rank_kl.h"
#include "tests/unit/tiny_adapter.h"
#include "tests/unit/tiny_engine.h"
#include "tests/unit/tiny_nodes.h"

/* With the sanitizers' checks a step takes up to 30 times as long. */
#ifdef ESPALIER_SANITIZED
enum { REQUESTS = 4 };
#else
enum { REQUESTS = 6 };
#endif
enum { MOST = 4, PROMPT = 21, OUTPUT = 4 };

static const tiny_llama_options MODEL = {.layers = 1,
                                         .hidden = 128,
                                         .heads = 8,
                                         .kv_heads = 2,
                                         .head_dim = 64,
                                         .intermediate = 288,
                                         .vocab = 301,
                                         .dtype = DT_Q8_0,
                                         .seed = 5};

/* ---- sums ---- */

typedef struct rank {
    comm *control;
    uint32_t wrong;
} rank;

/* Values whose sum depends on the order of the additions. */
static float value(uint32_t from, size_t i) {
    static const float scale[] = {1e4f, 1.0f / 3, 1e-3f, 77.7f};
    return scale[(from + i) % 4] * (float)((int)((i * 2654435761u + from * 40503u) % 2001) - 1000);
}

/* Of ranks [first, first + count). */
static float added(uint32_t first, uint32_t count, rank_sum_order order, size_t i) {
    uint32_t last = order == RANK_SUM_TREE ? count / 2 : 1;
    if (count == 1) return value(first, i);
    return added(first, count - last, order, i) + added(first + count - last, last, order, i);
}

static uint32_t sum(comm *c, kern_device *dev, size_t count, rank_sum_order order, bool residual) {
    rank_sum s;
    uint32_t wrong = 0;
    size_t bytes = count * sizeof(float);
    float *host = mem_new(count, sizeof *host);
    void *out;
    ESP_ASSERT(rank_sum_open(&s, c, &kern_cuda, dev, count, NULL) == ESP_OK);
    ESP_ASSERT(kern_cuda.alloc(dev, bytes, &out, NULL) == ESP_OK);
    for (size_t i = 0; i < count; i++)
        host[i] = value(c->rank, i);
    kern_cuda.upload(dev, s.partial, host, bytes);
    for (size_t i = 0; i < count; i++)
        host[i] = value(99, i);
    kern_cuda.upload(dev, out, host, bytes);
    rank_sum_run(&s, count, order, residual, out);
    wrong += comm_check(c, NULL) != ESP_OK;
    kern_cuda.download(dev, host, out, bytes);
    for (size_t i = 0; i < count; i++) {
        float all = added(0, c->size, order, i), before = value(99, i);
        float wanted = residual ? before + all : all;
        wrong += memcmp(&host[i], &wanted, sizeof wanted) != 0;
    }
    kern_cuda.release(dev, out, bytes);
    rank_sum_close(&s);
    free(host);
    return wrong;
}

static void *run_sums(void *arg) {
    static const size_t counts[] = {1, 65, 16384, 16385, 40001}; /* both ways */
    rank *r = arg;
    thread_pool *pool;
    kern_device *dev;
    comm *c;
    ESP_ASSERT(pool_open(&pool, 1, NULL) == ESP_OK);
    kern_options o = {
        .pool = pool, .kv_dtype = DT_BF16, .tokens_max = 1, .index = r->control->rank};
    ESP_ASSERT(kern_cuda.open(&dev, &o, NULL) == ESP_OK);
    r->control->patience_us = HANG_US;
    ESP_ASSERT(comm_nccl_open(&c, r->control, dev, NULL) == ESP_OK);
    c->patience_us = r->control->patience_us;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int residual = 0; residual < 2; residual++) {
            r->wrong += sum(c, dev, counts[i], RANK_SUM_IN_ORDER, residual);
            r->wrong += sum(c, dev, counts[i], RANK_SUM_TREE, residual);
        }
    comm_close(c);
    kern_cuda.close(dev);
    pool_close(pool);
    return NULL;
}

static void sums_over_nccl_have_the_bits_of_threads(void **state) {
    (void)state;
    for (uint32_t size = 2; size <= MOST; size += 2) {
        comm *controls[MOST];
        rank ranks[MOST] = {{0}};
        pthread_t threads[MOST];
        comm_local_open(controls, size);
        for (uint32_t i = 0; i < size; i++) {
            ranks[i].control = controls[i];
            assert_int_equal(pthread_create(&threads[i], NULL, run_sums, &ranks[i]), 0);
        }
        for (uint32_t i = 0; i < size; i++)
            pthread_join(threads[i], NULL);
        for (uint32_t i = 0; i < size; i++) {
            assert_int_equal(ranks[i].wrong, 0);
            comm_close(controls[i]);
        }
    }
}

/* ---- a model ---- */

static kern_ops watched;
static _Atomic uint64_t replayed; /* steps of all ranks */
static _Thread_local uint64_t before_step;
static bool forgetful; /* ranks lose their graphs, each at steps of its own */
static _Thread_local uint32_t steps;
static _Atomic bool last_hangs; /* the GPU of the last rank, before its next step */

static bool watch_step_begin(kern_device *dev, const kern_step *step) {
    while (atomic_load(&last_hangs) && dev->index == MOST - 1)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    if (forgetful && ++steps % (5 + 2 * (uint32_t)dev->index) == 0) replay_forget(dev);
    before_step = replay_count(dev);
    return kern_cuda.step_begin(dev, step);
}

static bool watch_step_end(kern_device *dev) {
    bool done = kern_cuda.step_end(dev);
    replayed += replay_count(dev) - before_step;
    return done;
}

static int prepare(void **state) {
    (void)state;
    emu_set_devices(MOST);
    watched = kern_cuda;
    watched.step_begin = watch_step_begin;
    watched.step_end = watch_step_end;
    return 0;
}

static engine *open_model(const char *path, uint32_t tp, uint32_t seqs, bool no_replay) {
    return tiny_open(path, (model_config){.device = DEVICE_CUDA,
                                          .ops = &watched,
                                          .no_replay = no_replay,
                                          .tp = tp,
                                          .rank_patience_seconds = HANG_SECONDS,
                                          .max_seqs = seqs,
                                          .step_tokens = 32,
                                          .max_context = 64,
                                          .kv_memory = 8 << 20,
                                          .threads = 1});
}

static rank_rows read_logits(engine *e, adapter *ad) {
    int32_t ids[PROMPT];
    esp_error err = {0};
    rank_rows r;
    for (int i = 0; i < PROMPT; i++)
        ids[i] = 3 + i * 37 % 190;
    if (rank_read_rows(e, ad, ids, PROMPT, &r, &err) != ESP_OK) fail_msg("%s", err.message);
    return r;
}

static void two_and_four_gpus_answer_as_one(void **state) {
    (void)state;
    char path[] = "/tmp/espalier-cuda-ranks-XXXXXX";
    tiny_write(path, &MODEL);
    engine *e = open_model(path, 1, 4, false);
    rank_rows one = read_logits(e, NULL);
    engine_close(e);
    for (uint32_t tp = 2; tp <= MOST; tp += 2) {
        e = open_model(path, tp, 4, false);
        rank_rows many = read_logits(e, NULL);
        assert_memory_equal(one.at, many.at, sizeof *one.at * one.count * one.vocab);
        free(many.at);
        engine_close(e);
    }
    free(one.at);
    unlink(path);
}

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

/* Digests of the logits, by themselves and together. */
static void run_requests(engine *e, bool together, uint64_t digests[REQUESTS][OUTPUT]) {
    request *all[REQUESTS];
    for (uint32_t i = 0; i < REQUESTS; i++) {
        tiny_submit(e, all[i] = make_request(i));
        if (!together) tiny_finish(e, all[i]);
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        tiny_finish(e, all[i]);
        assert_int_equal(all[i]->finish, FINISH_LENGTH);
        memcpy(digests[i], all[i]->row_digests, sizeof digests[i]);
        request_unref(all[i]);
    }
}

/* Op by op, and in graphs that hold the exchanges: of one sequence, of six as eight. */
static void a_request_has_the_same_bits_alone_and_among_others(void **state) {
    (void)state;
    static uint64_t alone[REQUESTS][OUTPUT], together[REQUESTS][OUTPUT];
    char path[] = "/tmp/espalier-cuda-ranks-XXXXXX";
    tiny_write(path, &MODEL);
    for (uint32_t tp = 2; tp <= MOST; tp += 2) {
        engine *e = open_model(path, tp, REQUESTS, true);
        replayed = 0;
        run_requests(e, false, alone);
        engine_close(e);
        assert_int_equal(replayed, 0);
        e = open_model(path, tp, REQUESTS, false);
        for (int round = 0; round < 2; round++) {
            run_requests(e, round, together);
            assert_memory_equal(alone, together, sizeof alone);
        }
        engine_close(e);
        assert_true(replayed > 0 && replayed % tp == 0);
    }
    unlink(path);
}

/* A graph that one rank has lost is used by none, and captured again by all. */
static void ranks_replay_alike_or_not_at_all(void **state) {
    (void)state;
    static uint64_t plain[REQUESTS][OUTPUT], seen[REQUESTS][OUTPUT];
    char path[] = "/tmp/espalier-cuda-ranks-XXXXXX";
    tiny_write(path, &MODEL);
    engine *e = open_model(path, 2, REQUESTS, true);
    run_requests(e, false, plain);
    engine_close(e);
    e = open_model(path, 2, REQUESTS, false);
    replayed = 0;
    forgetful = true;
    for (int round = 0; round < 4; round++) {
        run_requests(e, round % 2, seen);
        assert_memory_equal(plain, seen, sizeof plain);
    }
    forgetful = false;
    engine_close(e);
    assert_true(replayed > 0 && replayed % 2 == 0);
    unlink(path);
}

/* ---- adapters ---- */

enum { ADAPTERS = 3, BASE = ADAPTERS };

static char folders[ADAPTERS][TA_PATH_BYTES], names[ADAPTERS][TA_PATH_BYTES + 8];

/* On all linears; with an embedding and an output of its own; on those whose inputs are shared. */
static void write_adapters(void) {
    static const unsigned targets[ADAPTERS] = {TA_ALL, TA_Q | TA_V, TA_O | TA_DOWN};
    for (uint32_t i = 0; i < ADAPTERS; i++) {
        tiny_adapter_write(folders[i], &(tiny_adapter_options){.base = &MODEL,
                                                               .rank = 3 + 5 * i,
                                                               .targets = targets[i],
                                                               .wholes = i == 1,
                                                               .std = 0.05f,
                                                               .seed = 9 + i});
        snprintf(names[i], sizeof names[i], "a%u=%s", i, folders[i]);
    }
}

static model_config config_with_adapters(const char *path, uint32_t tp, bool no_replay) {
    model_config c = {.model_path = path,
                      .device = DEVICE_CUDA,
                      .ops = &watched,
                      .no_replay = no_replay,
                      .tp = tp,
                      .rank_patience_seconds = HANG_SECONDS,
                      .max_seqs = REQUESTS,
                      .step_tokens = 32,
                      .max_context = 64,
                      .kv_memory = 16 << 20,
                      .threads = 1};
    c.adapters.count = ADAPTERS;
    for (uint32_t i = 0; i < ADAPTERS; i++)
        c.adapters.at[i] = names[i];
    return c;
}

static engine *open_adapters(const char *path, uint32_t tp, bool no_replay) {
    return tiny_open(path, config_with_adapters(path, tp, no_replay));
}

static adapter *find(engine *e, uint32_t which) {
    char name[8];
    adapter *ad = NULL;
    snprintf(name, sizeof name, "a%u", which);
    if (which != BASE && adapters_find(engine_adapters(e), name, &ad, NULL) != ESP_OK) fail();
    return ad;
}

static rank_rows rows_through(engine *e, uint32_t which) {
    adapter *ad = find(e, which);
    rank_rows rows = read_logits(e, ad);
    adapter_release(engine_adapters(e), ad);
    return rows;
}

static request *make_adapted(engine *e, uint32_t number) {
    request *r = make_request(number);
    r->adapter = find(e, number % (ADAPTERS + 1));
    r->adapters = engine_adapters(e);
    return r;
}

static void run_adapted(engine *e, bool together, uint64_t digests[REQUESTS][OUTPUT]) {
    request *all[REQUESTS];
    for (uint32_t i = 0; i < REQUESTS; i++) {
        tiny_submit(e, all[i] = make_adapted(e, i));
        while (!together && !atomic_load(&all[i]->done))
            engine_step_or_wait(e);
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        while (!atomic_load(&all[i]->done))
            engine_step_or_wait(e);
        assert_int_equal(all[i]->finish, FINISH_LENGTH);
        memcpy(digests[i], all[i]->row_digests, sizeof digests[i]);
        request_unref(all[i]);
    }
}

/* Each through its own, beside the base: near one GPU's rows, or, of the second, at them; and the same bits in any company, op by op and in
 * graphs. */
static void adapters_on_two_and_four_gpus_answer_as_on_one(void **state) {
    (void)state;
    static uint64_t alone[REQUESTS][OUTPUT], together[REQUESTS][OUTPUT];
    char path[] = "/tmp/espalier-cuda-ranks-XXXXXX";
    tiny_write(path, &MODEL);
    write_adapters();
    engine *one = open_adapters(path, 1, false);
    for (uint32_t tp = 2; tp <= MOST; tp += 2) {
        engine *many = open_adapters(path, tp, true);
        for (uint32_t which = 0; which < ADAPTERS; which++) {
            rank_rows a = rows_through(one, which), b = rows_through(many, which);
            rank_distance d = rank_kl(&a, &b);
            if (!(d.mean <= 1e-4)) fail_msg("adapter %u, %u ranks: KL %g", which, tp, d.mean);
            if (which == 1) assert_memory_equal(a.at, b.at, sizeof *a.at * a.count * a.vocab);
            free(a.at);
            free(b.at);
        }
        run_adapted(many, false, alone);
        engine_close(many);
        many = open_adapters(path, tp, false);
        replayed = 0;
        for (int round = 0; round < 3; round++) {
            run_adapted(many, round > 0, together);
            assert_memory_equal(alone, together, sizeof alone);
        }
        engine_close(many);
        assert_true(replayed > 0 && replayed % tp == 0);
    }
    engine_close(one);
    for (uint32_t i = 0; i < ADAPTERS; i++)
        tiny_adapter_remove(folders[i]);
    unlink(path);
}

/* ---- several processes ---- */

enum { PROCESSES = 2, EACH = 2 };

static engine *open_nodes(tiny_nodes *nodes, const char *path, float patience_seconds) {
    engine *e = NULL;
    esp_error err = {0};
    model_config c = config_with_adapters(path, 0, false);
    c.rank_patience_seconds = patience_seconds;
    if (tiny_nodes_open(nodes, &e, c, PROCESSES, EACH, &err) != ESP_OK) fail_msg("%s", err.message);
    return e;
}

/* In graphs, too, which all ranks capture and launch together. */
static void two_processes_of_two_gpus_have_the_bits_of_four_gpus(void **state) {
    (void)state;
    static uint64_t one[REQUESTS][OUTPUT], both[REQUESTS][OUTPUT];
    char path[] = "/tmp/espalier-cuda-ranks-XXXXXX";
    tiny_nodes nodes = {.count = 0};
    tiny_write(path, &MODEL);
    write_adapters();
    engine *e = open_adapters(path, PROCESSES * EACH, false);
    run_adapted(e, true, one);
    engine_close(e);
    e = open_nodes(&nodes, path, HANG_SECONDS);
    replayed = 0;
    for (int round = 0; round < 3; round++) {
        run_adapted(e, round > 0, both);
        assert_memory_equal(one, both, sizeof one);
    }
    engine_close(e);
    tiny_nodes_join(&nodes);
    if (nodes.of[1].code != ESP_OK) fail_msg("%s", nodes.of[1].err.message);
    assert_true(replayed > 0 && replayed % (PROCESSES * EACH) == 0);
    for (uint32_t i = 0; i < ADAPTERS; i++)
        tiny_adapter_remove(folders[i]);
    unlink(path);
}

/* Its GPU's neighbours wait for it in the middle of an exchange. It never moves, so that nobody else has to be as
 * quick as their patience is short. */
static void a_gpu_of_another_process_that_hangs_ends_all_within_their_patience(void **state) {
    (void)state;
    char path[] = "/tmp/espalier-cuda-ranks-XXXXXX";
    tiny_nodes nodes = {.count = 0};
    tiny_write(path, &MODEL);
    write_adapters();
    engine *e = open_nodes(&nodes, path, 3);
    request *r = make_request(1);
    atomic_store(&last_hangs, true);
    tiny_submit(e, r);
    while (!atomic_load(&r->done))
        engine_step_or_wait(e);
    assert_int_equal(r->finish, FINISH_ERROR);
    assert_int_equal(r->error.code, ESP_UNAVAILABLE);
    if (!strstr(r->error.message, "the replica ends")) fail_msg("%s", r->error.message);
    atomic_store(&last_hangs, false);
    request_unref(r);
    engine_close(e);
    tiny_nodes_join(&nodes);
    assert_int_equal(nodes.of[1].code, ESP_UNAVAILABLE);
    for (uint32_t i = 0; i < ADAPTERS; i++)
        tiny_adapter_remove(folders[i]);
    unlink(path);
}

/* There are four. */
static void more_ranks_than_gpus_are_refused(void **state) {
    (void)state;
    char path[] = "/tmp/espalier-cuda-ranks-XXXXXX";
    tiny_llama_options o = MODEL;
    engine *e = NULL;
    esp_error err = {0};
    tiny_write(path, &o);
    model_config c = {.model_path = path, .device = DEVICE_CUDA, .tp = 8, .threads = 1};
    assert_int_not_equal(engine_open(&e, &c, NULL, NULL, &err), ESP_OK);
    assert_string_equal(err.field, "--device");
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_over_nccl_have_the_bits_of_threads),
        cmocka_unit_test(two_and_four_gpus_answer_as_one),
        cmocka_unit_test(a_request_has_the_same_bits_alone_and_among_others),
        cmocka_unit_test(ranks_replay_alike_or_not_at_all),
        cmocka_unit_test(adapters_on_two_and_four_gpus_answer_as_on_one),
        cmocka_unit_test(two_processes_of_two_gpus_have_the_bits_of_four_gpus),
        cmocka_unit_test(a_gpu_of_another_process_that_hangs_ends_all_within_their_patience),
        cmocka_unit_test(more_ranks_than_gpus_are_refused),
    };
    return cmocka_run_group_tests(tests, prepare, NULL);
}
