/* test_model_cost.c - bytes and operations of a model of known shape, by hand and beside what its
 * ops counted in a run. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "kernels/op_cost.h"
#include "kernels/op_timer.h"
#include "tests/unit/tiny_engine.h"

enum { LAYERS = 3, HIDDEN = 96, KV = 32, INNER = 160, VOCAB = 320, PROMPT = 40, OUTPUT = 5 };
/* Weights of one layer's linears, and of the output matrix; Q4_1 has 20 bytes for 32 of them. */
enum {
    LAYER_WEIGHTS = 2 * HIDDEN * HIDDEN + 2 * KV * HIDDEN + 3 * INNER * HIDDEN,
    HEAD_WEIGHTS = VOCAB * HIDDEN,
};

static char model_path[] = "/tmp/espalier-test-XXXXXX";

static int make_model(void **state) {
    (void)state;
    tiny_write(model_path, &(tiny_llama_options){.layers = LAYERS,
                                                 .hidden = HIDDEN,
                                                 .heads = 6,
                                                 .kv_heads = 2,
                                                 .head_dim = 16,
                                                 .intermediate = INNER,
                                                 .vocab = VOCAB,
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

static engine *open_engine(op_timer *timer) {
    model_config config = {
        .model_path = model_path, .threads = 1, .device = DEVICE_REF, .op_timer = timer};
    engine *e = NULL;
    esp_error err = {0};
    if (engine_open(&e, &config, NULL, NULL, &err) != ESP_OK) fail_msg("%s", err.message);
    return e;
}

/* ref keeps matrices as they are in the file, and a few words about each. */
static void a_model_costs_what_its_shape_says(void **state) {
    (void)state;
    engine *e = open_engine(NULL);
    model_cost cost = engine_cost(e);
    assert_int_equal(cost.token_flops, 2 * LAYERS * LAYER_WEIGHTS);
    assert_int_equal(cost.row_flops, 2 * HEAD_WEIGHTS);
    uint64_t blocks = (LAYERS * LAYER_WEIGHTS + HEAD_WEIGHTS) * 20 / 32;
    assert_in_range(cost.step_bytes, blocks, blocks + (7 * LAYERS + 1) * 64);
    engine_close(e);
}

static void attention_costs_what_its_tokens_see(void **state) {
    (void)state;
    model_spec spec = {.layers = 2, .heads = 4, .head_dim = 16, .window = 3, .slides = {true}};
    /* Five tokens after two: each sees itself and all before, or at most three. */
    double full = 3 + 4 + 5 + 6 + 7, slid = 3 + 3 + 3 + 3 + 3;
    assert_true(model_attention_flops(&spec, 2, 5) == 4 * 4 * 16 * (full + slid));
    spec.encoder = true;
    assert_true(model_attention_flops(&spec, 0, 5) == 4 * 4 * 16 * 2 * 25.0);
}

/* Against counting one by one, on both sides of the window's first turn. */
static void pairs_seen_are_counted_as_one_would(void **state) {
    (void)state;
    for (uint32_t window = 0; window < 12; window++)
        for (uint32_t first = 0; first < 20; first++) {
            double seen = 0;
            for (uint32_t count = 0; count < 20; count++) {
                assert_true(op_cost_seen(first, count, window) == seen);
                uint32_t all = first + count + 1;
                seen += window && all > window ? window : all;
            }
        }
}

/* Runs one request; the tokens of its answer. */
static void answer(engine *e, int32_t out[OUTPUT]) {
    int32_t prompt[PROMPT];
    for (int32_t i = 0; i < PROMPT; i++)
        prompt[i] = i * 7 % 256;
    request_options options = {
        .prompt = prompt, .prompt_count = PROMPT, .output_max = OUTPUT, .ignore_eos = true};
    request *r = NULL;
    assert_int_equal(request_new(&r, &options, VOCAB, NULL), ESP_OK);
    assert_int_equal(engine_submit(e, r, NULL), ESP_OK);
    for (int steps = 0; !r->done; steps++) {
        assert_true(steps < 1000);
        engine_step(e);
    }
    memcpy(out, r->tokens + PROMPT, OUTPUT * sizeof *out);
    request_unref(r);
}

/* The same tokens with and without; a prefill of 40, four decodes after it. */
static void a_timed_engine_answers_the_same_and_its_ops_add_up(void **state) {
    (void)state;
    int32_t plain[OUTPUT], timed[OUTPUT];
    engine *e = open_engine(NULL);
    answer(e, plain);
    engine_close(e);
    op_timer *timer = op_timer_open();
    e = open_engine(timer);
    answer(e, timed);
    assert_memory_equal(plain, timed, sizeof plain);

    const op_times *times = op_timer_read(timer);
    const op_time *of = times->of;
    double tokens = PROMPT + OUTPUT - 1, linears = 0;
    const op_kind layer_kinds[] = {OP_QKV, OP_ATTENTION_OUT, OP_GATE_UP, OP_DOWN};
    for (size_t i = 0; i < sizeof layer_kinds / sizeof *layer_kinds; i++) {
        assert_int_equal(of[layer_kinds[i]].calls, LAYERS * OUTPUT);
        linears += of[layer_kinds[i]].flops;
    }
    assert_true(linears == (double)engine_cost(e).token_flops * tokens);
    assert_int_equal(of[OP_HEAD].calls, OUTPUT);
    assert_true(of[OP_HEAD].flops == (double)engine_cost(e).row_flops * OUTPUT);
    assert_true(of[OP_ATTENTION].flops ==
                model_attention_flops(engine_spec(e), 0, PROMPT + OUTPUT - 1));
    assert_int_equal(of[OP_NORM].calls, (2 * LAYERS + 1) * OUTPUT);
    assert_int_equal(of[OP_EMBED].calls, OUTPUT);
    assert_int_equal(of[OP_LINEAR].calls, 0);
    assert_int_equal(of[OP_QKV].rows, HIDDEN + 2 * KV);
    assert_int_equal(of[OP_DOWN].cols, INNER);
    engine_close(e);
    op_timer_close(timer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_costs_what_its_shape_says),
        cmocka_unit_test(attention_costs_what_its_tokens_see),
        cmocka_unit_test(pairs_seen_are_counted_as_one_would),
        cmocka_unit_test(a_timed_engine_answers_the_same_and_its_ops_add_up),
    };
    return cmocka_run_group_tests(tests, make_model, drop_model);
}
