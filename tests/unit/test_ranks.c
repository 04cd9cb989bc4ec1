/* test_ranks.c - a model shared by several ranks: the same answers as on one, within what another order of
 * sums may change; the same bits whatever the batch; and what happens when a rank fails.
 *
 *   ref  KL of every row <= 1e-9      cpu  mean KL <= 1e-4
 *
 * Law 1 at two and four ranks is also a mode of test_law_one.c. */
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
#include "engine/base/mem.h"
#include "tests/unit/rank_kl.h"
#include "tests/unit/tiny_engine.h"

enum { PROMPT = 57, IDS_MIN = 3, IDS_BELOW = 200 };

/* ---- logits ---- */

static rank_rows read_logits(engine *e) {
    int32_t ids[PROMPT];
    esp_error err = {0};
    rank_rows r;
    for (int i = 0; i < PROMPT; i++)
        ids[i] = IDS_MIN + i * 37 % (IDS_BELOW - IDS_MIN);
    if (rank_read_rows(e, NULL, ids, PROMPT, &r, &err) != ESP_OK) fail_msg("%s", err.message);
    return r;
}

static void assert_near(const rank_rows *a, const rank_rows *b, bool ref, const char *what) {
    rank_distance d = rank_kl(a, b);
    if (!(ref ? d.worst <= 1e-9 : d.mean <= 1e-4))
        fail_msg("%s: mean KL %g, worst %g", what, d.mean, d.worst);
}

/* At 1 rank against at `tp`; false: this model cannot be shared so. */
static bool compare(const char *path, model_config config, uint32_t tp, const char *what) {
    engine *one = tiny_open(path, config), *many = NULL;
    esp_error err = {0};
    config.tp = tp;
    config.model_path = path;
    config.rank_patience_seconds = HANG_SECONDS;
    esp_code code = engine_open(&many, &config, NULL, NULL, &err);
    if (code == ESP_OK) {
        char wanted[16];
        rank_rows a = read_logits(one), b = read_logits(many);
        snprintf(wanted, sizeof wanted, ",tp=%u,", tp);
        assert_non_null(strstr(engine_profile(many), wanted));
        assert_near(&a, &b, config.device == DEVICE_REF, what);
        free(a.at);
        free(b.at);
    } else {
        assert_int_equal(code, ESP_INVALID);
        assert_string_equal(err.field, "--tp");
    }
    engine_close(many);
    engine_close(one);
    return code == ESP_OK;
}

static const device_kind DEVICES[] = {DEVICE_REF, DEVICE_CPU};
enum { DEVICE_COUNT = 2 };

static bool has_device(device_kind device) {
    return device == DEVICE_REF || kern_cpu_best_level() != LEVEL_AUTO;
}

/* Fused and separate q, k, v; biases; norms behind; windows; two rope tables; K/V heads fewer than ranks;
 * each format of blocks. At four ranks some cannot be shared, and say so. */
static void families_answer_as_on_one_rank(void **state) {
    (void)state;
    static const char *const families[] = {"llama3", "qwen2", "qwen3",   "gemma3", "gemma2",
                                           "phi3",   "phi4",  "mistral", "blocks"};
    uint32_t shared[5] = {0};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        for (uint32_t d = 0; d < DEVICE_COUNT; d++)
            for (uint32_t tp = 2; tp <= 4; tp += 2) {
                char path[1024];
                snprintf(path, sizeof path, "%s/tests/vectors/families/%s.gguf", TEST_SOURCE_DIR,
                         families[i]);
                if (has_device(DEVICES[d]))
                    shared[tp] +=
                        compare(path, (model_config){.device = DEVICES[d]}, tp, families[i]);
            }
    assert_true(shared[2] >= 9 && shared[4] >= 4);
}

/* What shares are of: widths that no number of ranks divides, formats, tied output or not. */
static const tiny_llama_options SHAPES[] = {
    {.layers = 2,
     .hidden = 96,
     .heads = 8,
     .kv_heads = 2,
     .head_dim = 32,
     .intermediate = 288,
     .vocab = 333,
     .dtype = DT_Q4_0,
     .seed = 1,
     .tied = true},
    {.layers = 2,
     .hidden = 128,
     .heads = 12,
     .kv_heads = 4,
     .head_dim = 32,
     .intermediate = 160,
     .vocab = 301,
     .dtype = DT_Q8_0,
     .seed = 2},
    {.layers = 2,
     .hidden = 64,
     .heads = 3,
     .kv_heads = 1,
     .head_dim = 64,
     .intermediate = 256,
     .vocab = 512,
     .dtype = DT_BF16,
     .seed = 3}, /* attention whole */
    {.layers = 2,
     .hidden = 64,
     .heads = 4,
     .kv_heads = 4,
     .head_dim = 32,
     .intermediate = 32,
     .vocab = 300,
     .dtype = DT_F16,
     .seed = 4,
     .tied = true}, /* the MLP whole */
};
enum { SHAPE_COUNT = sizeof SHAPES / sizeof *SHAPES };

static void uneven_shares_answer_as_on_one_rank(void **state) {
    (void)state;
    for (uint32_t i = 0; i < SHAPE_COUNT; i++) {
        char path[] = "/tmp/espalier-ranks-XXXXXX", what[64];
        tiny_write(path, &SHAPES[i]);
        for (uint32_t d = 0; d < DEVICE_COUNT; d++)
            for (uint32_t tp = 2; tp <= 4; tp++) {
                snprintf(what, sizeof what, "shape %u, tp %u", i, tp);
                bool possible = tp != 3 || i != 3; /* 4 heads, one block */
                if (has_device(DEVICES[d]))
                    assert_int_equal(compare(path, (model_config){.device = DEVICES[d]}, tp, what),
                                     possible);
            }
        unlink(path);
    }
}

/* Blocks made while loading, and int8 activations. */
static void modes_answer_as_on_one_rank(void **state) {
    (void)state;
    char path[] = "/tmp/espalier-ranks-XXXXXX";
    tiny_llama_options o = SHAPES[1];
    o.dtype = DT_F32;
    tiny_write(path, &o);
    static const model_config modes[] = {
        {.device = DEVICE_REF, .quantize = DT_Q8_0, .quantize_given = true, .pack = "off"},
        {.device = DEVICE_CPU, .quantize = DT_Q8_0, .quantize_given = true, .pack = "off"},
        {.device = DEVICE_CPU, .activations = ACT_INT8},
        {.device = DEVICE_CPU, .kv_dtype = DT_F32, .kv_dtype_given = true},
    };
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        for (uint32_t tp = 2; tp <= 4; tp += 2)
            if (has_device(modes[i].device)) assert_true(compare(path, modes[i], tp, "a mode"));
    unlink(path);
}

/* Widths that parts can be dealt out of (kern_parts): of 1, 2, 4 and 8 ranks; and of 1, 2 and 4, where a share of
 * eight would end within 64 columns. */
static const tiny_llama_options PARTED[] = {
    {.hidden = 96, .heads = 8, .head_dim = 64, .intermediate = 1024, .dtype = DT_Q4_1, .seed = 6},
    {.hidden = 64, .heads = 8, .head_dim = 64, .intermediate = 768, .dtype = DT_BF16, .seed = 7},
};

static void ref_has_the_same_bits_at_any_number_of_ranks(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        char path[] = "/tmp/espalier-ranks-XXXXXX";
        tiny_write(path, &PARTED[i]);
        rank_rows one = {0};
        for (uint32_t tp = 1; tp <= (i ? 4 : 8); tp *= 2) {
            engine *e = tiny_open(path, (model_config){.device = DEVICE_REF, .tp = tp});
            rank_rows rows = read_logits(e);
            engine_close(e);
            if (tp == 1) {
                one = rows;
                continue;
            }
            assert_memory_equal(rows.at, one.at, sizeof *rows.at * rows.count * rows.vocab);
            free(rows.at);
        }
        free(one.at);
        unlink(path);
    }
}

/* ---- requests ---- */

static request *make_request(uint32_t number, uint32_t output) {
    int32_t ids[40];
    uint32_t count = 5 + number * 7 % 36;
    for (uint32_t i = 0; i < count; i++)
        ids[i] = (int32_t)(IDS_MIN + (number * 11 + i * 5) % (IDS_BELOW - IDS_MIN));
    request_options o = {
        .prompt = ids, .prompt_count = count, .output_max = output, .ignore_eos = true};
    request *r = NULL;
    esp_error err = {0};
    if (request_new(&r, &o, 301, &err) != ESP_OK) fail_msg("%s", err.message);
    return r;
}

/* More tokens than a small sum takes: rows meet both ways of the sum, alone and in company. */
static void a_request_has_the_same_tokens_alone_and_among_64(void **state) {
    (void)state;
    enum { REQUESTS = 64, OUTPUT = 8 };
    char path[] = "/tmp/espalier-ranks-XXXXXX";
    tiny_write(path, &SHAPES[1]);
    for (uint32_t tp = 2; tp <= 4; tp += 2) {
        static int32_t alone[REQUESTS][OUTPUT];
        model_config c = {.tp = tp, .max_seqs = 1, .device = DEVICE_AUTO};
        engine *e = tiny_open(path, c);
        for (uint32_t i = 0; i < REQUESTS; i++) {
            request *r = make_request(i, OUTPUT);
            tiny_submit(e, r);
            tiny_finish(e, r);
            memcpy(alone[i], r->tokens + r->prompt_count, sizeof alone[i]);
            request_unref(r);
        }
        engine_close(e);
        request *all[REQUESTS];
        c.max_seqs = 64;
        e = tiny_open(path, c);
        for (uint32_t i = 0; i < REQUESTS; i++)
            tiny_submit(e, all[i] = make_request(i, OUTPUT));
        for (int step = 1; engine_step(e); step++)
            if (step % 5 == 0) engine_preempt_newest(e);
        for (uint32_t i = 0; i < REQUESTS; i++) {
            assert_memory_equal(all[i]->tokens + all[i]->prompt_count, alone[i], sizeof alone[i]);
            request_unref(all[i]);
        }
        engine_close(e);
    }
    unlink(path);
}

/* ---- what is refused ---- */

static void refuse(const char *path, model_config c, const char *field, const char *words) {
    engine *e = NULL;
    esp_error err = {0};
    c.model_path = path;
    c.device = DEVICE_REF;
    c.threads = 1;
    assert_int_not_equal(engine_open(&e, &c, NULL, NULL, &err), ESP_OK);
    assert_string_equal(err.field, field);
    if (!strstr(err.message, words)) fail_msg("\"%s\" says nothing of \"%s\"", err.message, words);
}

static void what_ranks_cannot_do_is_refused_by_flag(void **state) {
    (void)state;
    char path[] = "/tmp/espalier-ranks-XXXXXX";
    tiny_write(path, &SHAPES[3]);
    refuse(path, (model_config){.tp = 3}, "--tp", "4 heads");
    refuse(path, (model_config){.tp = 2, .kv_memory = 64}, "--kv-memory", "a page");
    unlink(path);
}

/* ---- ranks that fail ---- */

static pthread_t planner; /* whose thread is rank 0's */
static _Atomic int steps_left;
static _Atomic bool let_go;

static bool is_other_rank(void) { return !pthread_equal(pthread_self(), planner); }

static esp_code sync_fails(kern_device *dev, esp_error *err) {
    (void)dev;
    if (is_other_rank() && atomic_fetch_sub(&steps_left, 1) <= 0)
        return esp_fail(err, ESP_INTERNAL, "device 1 has fallen off the bus");
    return ESP_OK;
}

/* As good as dead: it comes to no collective any more. */
static void attention_hangs(kern_device *dev, const kern_attention *op) {
    if (is_other_rank() && atomic_fetch_sub(&steps_left, 1) <= 0)
        while (!atomic_load(&let_go))
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    kern_ref.attention(dev, op);
}

/* A request that is running when it happens, after so many of the other rank's calls; how long its end took. */
static int64_t fail_after(int calls, const kern_ops *ops, float patience_seconds,
                          const char *words) {
    char path[] = "/tmp/espalier-ranks-XXXXXX";
    tiny_write(path, &SHAPES[1]);
    planner = pthread_self();
    atomic_store(&let_go, false);
    atomic_store(&steps_left, calls);
    engine *e = tiny_open(path, (model_config){.tp = 2,
                                               .device = DEVICE_REF,
                                               .ops = ops,
                                               .rank_patience_seconds = patience_seconds});
    request *r = make_request(1, 100), *later = make_request(2, 5);
    tiny_submit(e, r);
    int64_t began_us = clock_now_us();
    for (int step = 0; step < 200 && !atomic_load(&r->done); step++)
        engine_step(e);
    int64_t took_us = clock_now_us() - began_us;
    assert_true(atomic_load(&r->done));
    assert_int_equal(r->finish, FINISH_ERROR);
    assert_int_equal(r->error.code, ESP_UNAVAILABLE);
    if (!strstr(r->error.message, words)) fail_msg("\"%s\"", r->error.message);
    assert_true(r->output_count < 100);
    tiny_submit(e, later); /* ends at once: nothing runs any more */
    engine_step(e);
    assert_int_equal(later->error.code, ESP_UNAVAILABLE);
    atomic_store(&let_go, true);
    request_unref(r);
    request_unref(later);
    engine_close(e);
    unlink(path);
    return took_us;
}

static void a_rank_whose_device_fails_ends_the_replica_with_its_sentence(void **state) {
    (void)state;
    kern_ops ops = kern_ref;
    ops.sync = sync_fails;
    fail_after(10, &ops, 0, "device 1 has fallen off the bus");
}

/* In its first step, so that it waits for rank 0 but once, for the batch. */
static void a_rank_that_hangs_ends_the_replica_within_its_patience(void **state) {
    (void)state;
    kern_ops ops = kern_ref;
    ops.attention = attention_hangs;
    int64_t took_us = fail_after(0, &ops, 5, "rank 1 of 2 did not come within 5.0 s");
    assert_true(took_us >= 5000000);
}

static esp_code alloc_fails(kern_device *dev, size_t bytes, void **out, esp_error *err) {
    if (is_other_rank() && atomic_fetch_sub(&steps_left, 1) <= 0)
        return esp_fail(err, ESP_EXHAUSTED, "no memory is left for %zu bytes", bytes);
    return kern_ref.alloc(dev, bytes, out, err);
}

/* At each of its buffers, weights to pages; nobody waits for it. */
static void a_rank_that_cannot_open_fails_all_with_its_sentence(void **state) {
    (void)state;
    char path[] = "/tmp/espalier-ranks-XXXXXX";
    tiny_write(path, &SHAPES[1]);
    planner = pthread_self();
    kern_ops ops = kern_ref;
    ops.alloc = alloc_fails;
    model_config c = {.model_path = path, .tp = 3, .device = DEVICE_REF, .ops = &ops, .threads = 1};
    uint32_t failures = 0;
    for (engine *e = NULL; !e; failures++) {
        esp_error err = {0};
        atomic_store(&steps_left, (int)failures);
        esp_code code = engine_open(&e, &c, NULL, NULL, &err);
        if (code == ESP_OK) engine_close(e);
        if (code != ESP_OK && !strstr(err.message, "no memory is left"))
            fail_msg("\"%s\"", err.message);
    }
    assert_true(failures > 20);
    unlink(path);
}

static void an_engine_that_was_never_used_closes(void **state) {
    (void)state;
    char path[] = "/tmp/espalier-ranks-XXXXXX";
    tiny_write(path, &SHAPES[1]);
    engine *e = tiny_open(path, (model_config){.tp = 4, .device = DEVICE_REF});
    engine_close(e);
    e = tiny_open(path, (model_config){.tp = 2, .device = DEVICE_AUTO});
    request *r = make_request(1, 5);
    if (engine_start(e, NULL) != ESP_OK) fail();
    tiny_submit(e, r);
    while (!atomic_load(&r->done))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_int_equal(r->finish, FINISH_LENGTH);
    request_unref(r);
    engine_close(e);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_answer_as_on_one_rank),
        cmocka_unit_test(uneven_shares_answer_as_on_one_rank),
        cmocka_unit_test(modes_answer_as_on_one_rank),
        cmocka_unit_test(ref_has_the_same_bits_at_any_number_of_ranks),
        cmocka_unit_test(a_request_has_the_same_tokens_alone_and_among_64),
        cmocka_unit_test(what_ranks_cannot_do_is_refused_by_flag),
        cmocka_unit_test(a_rank_whose_device_fails_ends_the_replica_with_its_sentence),
        cmocka_unit_test(a_rank_that_hangs_ends_the_replica_within_its_patience),
        cmocka_unit_test(a_rank_that_cannot_open_fails_all_with_its_sentence),
        cmocka_unit_test(an_engine_that_was_never_used_closes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
