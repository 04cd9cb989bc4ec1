/* test_ranks_nodes.c - a model shared by two ranks in each of two processes: the bits of four ranks in one; and a rank
 * that fails, anywhere, ends all of them with its sentence. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <pthread.h>
#include <time.h>

#include <cmocka.h>

#include "engine/base/clock.h"
#include "tests/unit/rank_kl.h"
#include "tests/unit/tiny_adapter.h"
#include "tests/unit/tiny_nodes.h"

enum { PROMPT = 57, REQUESTS = 8, OUTPUT = 8, PROCESSES = 2, EACH = 2, RANKS = PROCESSES * EACH };

static const tiny_llama_options MODEL = {.layers = 2,
                                         .hidden = 128,
                                         .heads = 12,
                                         .kv_heads = 4,
                                         .head_dim = 32,
                                         .intermediate = 160,
                                         .vocab = 301,
                                         .dtype = DT_Q8_0,
                                         .seed = 2};

/* ---- bits ---- */

typedef struct answers {
    float *rows[2]; /* the base's, and through the adapter */
    size_t row_bytes;
    uint64_t digests[REQUESTS][OUTPUT];
} answers;

static adapter *find(engine *e, bool adapted) {
    adapter *ad = NULL;
    if (adapted && adapters_find(engine_adapters(e), "a", &ad, NULL) != ESP_OK) fail();
    return ad;
}

static request *make_request(engine *e, uint32_t number, uint32_t output) {
    int32_t ids[40];
    uint32_t count = 5 + number * 7 % 36;
    for (uint32_t i = 0; i < count; i++)
        ids[i] = (int32_t)(3 + (number * 11 + i * 5) % 190);
    request_options o = {.prompt = ids,
                         .prompt_count = count,
                         .output_max = output,
                         .ignore_eos = true,
                         .row_digests = true,
                         .adapters = engine_adapters(e),
                         .adapter = find(e, engine_adapters(e) && number % 2)};
    request *r = NULL;
    if (request_new(&r, &o, MODEL.vocab, NULL) != ESP_OK) fail();
    return r;
}

static void read_rows(engine *e, bool adapted, answers *out) {
    int32_t ids[PROMPT];
    rank_rows rows;
    esp_error err = {0};
    adapter *ad = find(e, adapted);
    for (int i = 0; i < PROMPT; i++)
        ids[i] = 3 + i * 37 % 190;
    if (rank_read_rows(e, ad, ids, PROMPT, &rows, &err) != ESP_OK) fail_msg("%s", err.message);
    adapter_release(engine_adapters(e), ad);
    out->rows[adapted] = rows.at;
    out->row_bytes = (size_t)rows.count * rows.vocab * sizeof *rows.at;
}

static answers ask(engine *e) {
    answers out;
    request *all[REQUESTS];
    for (int adapted = 0; adapted < 2; adapted++)
        read_rows(e, adapted, &out);
    for (uint32_t i = 0; i < REQUESTS; i++)
        tiny_submit(e, all[i] = make_request(e, i, OUTPUT));
    for (uint32_t i = 0; i < REQUESTS; i++) {
        while (!atomic_load(&all[i]->done))
            engine_step_or_wait(e);
        assert_int_equal(all[i]->finish, FINISH_LENGTH);
        memcpy(out.digests[i], all[i]->row_digests, sizeof out.digests[i]);
        request_unref(all[i]);
    }
    return out;
}

static void assert_equal_bits(answers *a, answers *b) {
    assert_int_equal(a->row_bytes, b->row_bytes);
    for (int i = 0; i < 2; i++) {
        assert_memory_equal(a->rows[i], b->rows[i], a->row_bytes);
        free(a->rows[i]);
        free(b->rows[i]);
    }
    assert_memory_equal(a->digests, b->digests, sizeof a->digests);
}

static void bits_of(model_config c) {
    tiny_nodes nodes = {.count = 0};
    engine *e = NULL;
    esp_error err = {0};
    c.tp = RANKS;
    e = tiny_open(c.model_path, c);
    answers threads = ask(e);
    engine_close(e);
    c.tp = 0;
    if (tiny_nodes_open(&nodes, &e, c, PROCESSES, EACH, &err) != ESP_OK)
        fail_msg("%s", err.message);
    assert_non_null(strstr(engine_profile(e), ",tp=4,"));
    answers both = ask(e);
    engine_close(e);
    tiny_nodes_join(&nodes);
    if (nodes.of[1].code != ESP_OK) fail_msg("%s", nodes.of[1].err.message);
    assert_equal_bits(&threads, &both);
}

static void two_processes_of_two_ranks_have_the_bits_of_four_ranks(void **state) {
    (void)state;
    char path[] = "/tmp/espalier-ranks-XXXXXX", folder[TA_PATH_BYTES], name[TA_PATH_BYTES + 8];
    tiny_write(path, &MODEL);
    tiny_adapter_write(
        folder,
        &(tiny_adapter_options){
            .base = &MODEL, .rank = 3, .targets = TA_ALL, .wholes = true, .std = 0.05f, .seed = 9});
    snprintf(name, sizeof name, "a=%s", folder);
    model_config c = {.model_path = path, .device = DEVICE_REF, .max_seqs = REQUESTS};
    c.adapters = (flag_list){.at = {name}, .count = 1};
    bits_of(c);
    c.device = DEVICE_CPU;
    if (kern_cpu_best_level() != LEVEL_AUTO) bits_of(c);
    tiny_adapter_remove(folder);
    unlink(path);
}

/* ---- ranks that fail ---- */

static _Atomic int steps_left;
static _Atomic bool let_go;

/* Of the other process, and not its first. */
static bool is_last_rank(void) {
    char name[16];
    return pthread_getname_np(pthread_self(), name, sizeof name) == 0 && !strcmp(name, "rank-3");
}

static esp_code sync_fails(kern_device *dev, esp_error *err) {
    (void)dev;
    if (is_last_rank() && atomic_fetch_sub(&steps_left, 1) <= 0)
        return esp_fail(err, ESP_INTERNAL, "device 3 has fallen off the bus");
    return ESP_OK;
}

/* As good as dead: it comes to no collective any more. */
static void attention_hangs(kern_device *dev, const kern_attention *op) {
    if (is_last_rank() && atomic_fetch_sub(&steps_left, 1) <= 0)
        while (!atomic_load(&let_go))
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    kern_ref.attention(dev, op);
}

/* A request that is running when it happens, after so many of the last rank's calls, and what all say of it. The
 * patience is that of the last rank's process. */
static void fail_after(int calls, const kern_ops *ops, float patience_seconds, const char *words) {
    char path[] = "/tmp/espalier-ranks-XXXXXX";
    tiny_nodes nodes = {.others_patience_seconds = patience_seconds};
    engine *e = NULL;
    tiny_write(path, &MODEL);
    atomic_store(&let_go, false);
    atomic_store(&steps_left, calls);
    model_config c = {.model_path = path, .device = DEVICE_REF, .ops = ops};
    assert_int_equal(tiny_nodes_open(&nodes, &e, c, PROCESSES, EACH, NULL), ESP_OK);
    request *r = make_request(e, 1, 100);
    tiny_submit(e, r);
    for (int step = 0; step < 200 && !atomic_load(&r->done); step++)
        engine_step(e);
    assert_true(atomic_load(&r->done));
    assert_int_equal(r->finish, FINISH_ERROR);
    assert_int_equal(r->error.code, ESP_UNAVAILABLE);
    if (!strstr(r->error.message, words)) fail_msg("\"%s\"", r->error.message);
    atomic_store(&let_go, true);
    request_unref(r);
    engine_close(e);
    tiny_nodes_join(&nodes);
    assert_int_not_equal(nodes.of[1].code, ESP_OK);
    if (!strstr(nodes.of[1].err.message, words)) fail_msg("\"%s\"", nodes.of[1].err.message);
    unlink(path);
}

static void a_rank_elsewhere_whose_device_fails_ends_all_with_its_sentence(void **state) {
    (void)state;
    kern_ops ops = kern_ref;
    ops.sync = sync_fails;
    fail_after(10, &ops, 0, "device 3 has fallen off the bus");
}

/* In its first step, so that it has waited for others but once, for the batch: the first rank of its process is the one
 * that has to lose its patience. */
static void a_rank_elsewhere_that_hangs_ends_all_within_their_patience(void **state) {
    (void)state;
    kern_ops ops = kern_ref;
    ops.attention = attention_hangs;
    fail_after(0, &ops, 5, "rank 3 of 4 did not come within 5.0 s");
}

static esp_code alloc_fails(kern_device *dev, size_t bytes, void **out, esp_error *err) {
    if (is_last_rank() && atomic_fetch_sub(&steps_left, 1) <= 0)
        return esp_fail(err, ESP_EXHAUSTED, "no memory is left for %zu bytes", bytes);
    return kern_ref.alloc(dev, bytes, out, err);
}

/* At each of its buffers, weights to pages. */
static void a_rank_elsewhere_that_cannot_open_fails_all_with_its_sentence(void **state) {
    (void)state;
    char path[] = "/tmp/espalier-ranks-XXXXXX";
    tiny_write(path, &MODEL);
    kern_ops ops = kern_ref;
    ops.alloc = alloc_fails;
    model_config c = {.model_path = path, .device = DEVICE_REF, .ops = &ops};
    uint32_t failures = 0;
    for (bool open = false; !open; failures++) {
        tiny_nodes nodes = {.count = 0};
        engine *e = NULL;
        esp_error err = {0};
        atomic_store(&steps_left, (int)failures);
        open = tiny_nodes_open(&nodes, &e, c, PROCESSES, EACH, &err) == ESP_OK;
        engine_close(e);
        tiny_nodes_join(&nodes);
        if (open) assert_int_equal(nodes.of[1].code, ESP_OK);
        if (!open && (!strstr(err.message, "no memory is left") ||
                      !strstr(nodes.of[1].err.message, "no memory is left")))
            fail_msg("\"%s\" and \"%s\"", err.message, nodes.of[1].err.message);
    }
    assert_true(failures > 10);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_processes_of_two_ranks_have_the_bits_of_four_ranks),
        cmocka_unit_test(a_rank_elsewhere_whose_device_fails_ends_all_with_its_sentence),
        cmocka_unit_test(a_rank_elsewhere_that_hangs_ends_all_within_their_patience),
        cmocka_unit_test(a_rank_elsewhere_that_cannot_open_fails_all_with_its_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
