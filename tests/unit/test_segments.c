/* test_segments.c - which tokens of a batch get which adapter's update. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/model/segments.h"

enum { TOKENS = 32, SEQS = 8, BASE = BATCH_NO_ADAPTER };

static const kern_lora qkv_0, qkv_1, down_of_other, head_of_other;
static const kern_lora *const qkv[] = {&qkv_0, &qkv_1};
static const kern_lora *const down[] = {NULL, &down_of_other};
/* One touches q, k and v of both layers, the other the second layer's down and the head. */
static const model_adapter one = {.linears = {qkv}};
static const model_adapter other = {.linears = {[ROLE_DOWN - ROLE_QKV] = down},
                                    .head = &head_of_other};
static const model_adapter *const adapters[] = {&one, &other};

typedef struct rig {
    segments s;
    step_batch batch;
    uint32_t token_seq[TOKENS], seq_first[SEQS], seq_tokens[SEQS], rows[TOKENS];
    int32_t seq_adapter[SEQS];
} rig;

/* Sequences of so many tokens each, the last token of each a row. */
static void plan(rig *r, uint32_t count, const uint32_t *tokens, const int32_t *slots) {
    *r = (rig){.batch = {.seq_count = count}};
    for (uint32_t s = 0; s < count; s++) {
        r->seq_first[s] = r->batch.token_count;
        r->seq_tokens[s] = tokens[s];
        r->seq_adapter[s] = slots[s];
        for (uint32_t i = 0; i < tokens[s]; i++)
            r->token_seq[r->batch.token_count++] = s;
        r->rows[r->batch.row_count++] = r->batch.token_count - 1;
    }
    r->batch.token_seq = r->token_seq;
    r->batch.seq_first = r->seq_first;
    r->batch.seq_tokens = r->seq_tokens;
    r->batch.seq_adapter = r->seq_adapter;
    r->batch.rows = r->rows;
    segments_open(&r->s, TOKENS, TOKENS);
    segments_plan(&r->s, &r->batch, adapters);
}

static void assert_segment(const lora_segments *all, uint32_t i, uint32_t first, uint32_t count,
                           const kern_lora *lora) {
    assert_true(i < all->count);
    assert_int_equal(all->at[i].first, first);
    assert_int_equal(all->at[i].count, count);
    assert_ptr_equal(all->at[i].lora, lora);
}

/* Then a linear is called exactly as if there were no adapters. */
static void the_base_alone_has_no_segments(void **state) {
    (void)state;
    rig r;
    plan(&r, 3, (uint32_t[]){1, 5, 2}, (int32_t[]){BASE, BASE, BASE});
    lora_segments of = segments_of_layer(&r.s, ROLE_QKV, 0);
    assert_int_equal(of.count, 0);
    assert_null(of.at);
    assert_int_equal(r.s.tokens.count, 0);
    assert_null(segments_of_head(&r.s, 0, 3).at);
    segments_plan(&r.s, &r.batch, NULL); /* nor are there any to look at */
    segments_close(&r.s);
}

/* Base, base, one, one, other: three runs. */
static void neighbours_of_one_adapter_are_one_segment(void **state) {
    (void)state;
    rig r;
    plan(&r, 5, (uint32_t[]){1, 3, 2, 4, 1}, (int32_t[]){BASE, BASE, 0, 0, 1});
    assert_int_equal(r.s.tokens.count, 3);
    lora_segments of = segments_of_layer(&r.s, ROLE_QKV, 1);
    assert_int_equal(of.count, 1);
    assert_segment(&of, 0, 4, 6, &qkv_1);
    of = segments_of_layer(&r.s, ROLE_DOWN, 1);
    assert_int_equal(of.count, 1);
    assert_segment(&of, 0, 10, 1, &down_of_other);
    segments_close(&r.s);
}

/* A layer, or a linear of all layers, that no adapter of the batch touches. */
static void what_no_adapter_touches_has_no_segments(void **state) {
    (void)state;
    rig r;
    plan(&r, 2, (uint32_t[]){4, 4}, (int32_t[]){0, 1});
    assert_null(segments_of_layer(&r.s, ROLE_DOWN, 0).at);
    assert_null(segments_of_layer(&r.s, ROLE_GATE_UP, 1).at);
    segments_close(&r.s);
}

/* An order that is no order costs segments, not right answers. */
static void sequences_may_stand_in_any_order(void **state) {
    (void)state;
    rig r;
    plan(&r, 4, (uint32_t[]){2, 1, 3, 1}, (int32_t[]){0, BASE, 0, 1});
    lora_segments of = segments_of_layer(&r.s, ROLE_QKV, 0);
    assert_int_equal(of.count, 2);
    assert_segment(&of, 0, 0, 2, &qkv_0);
    assert_segment(&of, 1, 3, 3, &qkv_0);
    segments_close(&r.s);
}

/* Gate and up of a layer, then its down, then q, k and v of the next; both lists stand side by side. */
static void the_linear_behind_is_known_while_one_runs(void **state) {
    (void)state;
    rig r;
    plan(&r, 2, (uint32_t[]){4, 4}, (int32_t[]){0, 1});
    lora_segments of = segments_of_layer(&r.s, ROLE_DOWN, 0);
    lora_segments next = segments_behind(&r.s, ROLE_DOWN, 0, 2);
    assert_int_equal(of.count, 0);
    assert_segment(&next, 0, 0, 4, &qkv_1);
    next = segments_behind(&r.s, ROLE_GATE_UP, 1, 2);
    of = segments_of_layer(&r.s, ROLE_QKV, 0);
    assert_segment(&next, 0, 4, 4, &down_of_other);
    assert_segment(&of, 0, 0, 4, &qkv_0);
    assert_null(segments_behind(&r.s, ROLE_DOWN, 1, 2).at);
    segments_close(&r.s);
}

/* Logits come in pieces; of each piece rows are counted from its own first one. */
static void the_head_gets_its_rows_segments(void **state) {
    (void)state;
    rig r;
    plan(&r, 6, (uint32_t[]){5, 1, 1, 1, 1, 2}, (int32_t[]){BASE, 1, 1, 1, 0, 1});
    lora_segments of = segments_of_head(&r.s, 0, 6);
    assert_int_equal(of.count, 2);
    assert_segment(&of, 0, 1, 3, &head_of_other);
    assert_segment(&of, 1, 5, 1, &head_of_other);
    of = segments_of_head(&r.s, 2, 3);
    assert_int_equal(of.count, 1);
    assert_segment(&of, 0, 0, 2, &head_of_other);
    assert_null(segments_of_head(&r.s, 4, 1).at);
    segments_close(&r.s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_base_alone_has_no_segments),
        cmocka_unit_test(neighbours_of_one_adapter_are_one_segment),
        cmocka_unit_test(what_no_adapter_touches_has_no_segments),
        cmocka_unit_test(sequences_may_stand_in_any_order),
        cmocka_unit_test(the_linear_behind_is_known_while_one_runs),
        cmocka_unit_test(the_head_gets_its_rows_segments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
