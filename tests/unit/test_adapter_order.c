/* test_adapter_order.c - the sequences of a step stand together by adapter. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/adapter_order.h"
#include "engine/base/batch.h"

enum { SEQS = 300 };

static char some[SEQS]; /* addresses that stand for adapters */

static void order_step(adapter_order *o, const int *which, uint32_t count) {
    adapter_order_begin(o);
    for (uint32_t i = 0; i < count; i++)
        adapter_order_add(o, i, which[i] < 0 ? NULL : &some[which[i]]);
    adapter_order_sort(o, count);
}

static void a_step_without_adapters_keeps_its_order(void **state) {
    (void)state;
    adapter_order o;
    int which[SEQS];
    adapter_order_open(&o, SEQS);
    for (int i = 0; i < SEQS; i++)
        which[i] = -1;
    order_step(&o, which, SEQS);
    assert_int_equal(o.slot_count, 0);
    for (uint32_t i = 0; i < SEQS; i++) {
        assert_int_equal(o.order[i], i);
        assert_int_equal(o.slots[i], BATCH_NO_ADAPTER);
    }
    adapter_order_close(&o);
}

/* 7 base 3 7 base 3: the base's first, then 7's, then 3's, each as they stood. */
static void the_base_comes_first_then_each_adapter(void **state) {
    (void)state;
    static const uint32_t wanted[] = {1, 4, 0, 3, 2, 5};
    adapter_order o;
    adapter_order_open(&o, 6);
    order_step(&o, (int[]){7, -1, 3, 7, -1, 3}, 6);
    assert_int_equal(o.slot_count, 2);
    assert_ptr_equal(o.adapters[0], &some[7]);
    assert_ptr_equal(o.adapters[1], &some[3]);
    assert_memory_equal(o.order, wanted, sizeof wanted);
    assert_int_equal(o.slots[2], 1);
    adapter_order_close(&o);
}

/* As many adapters as sequences, and a step after another that named others. */
static void every_sequence_may_have_an_adapter_of_its_own(void **state) {
    (void)state;
    adapter_order o;
    int which[SEQS];
    adapter_order_open(&o, SEQS);
    for (int step = 0; step < 3; step++) {
        for (int i = 0; i < SEQS; i++)
            which[i] = (i * 7 + step) % SEQS;
        order_step(&o, which, SEQS);
        assert_int_equal(o.slot_count, SEQS);
        for (uint32_t i = 0; i < SEQS; i++) {
            assert_int_equal(o.order[i], i);
            assert_ptr_equal(o.adapters[o.slots[i]], &some[which[i]]);
        }
        order_step(&o, (int[]){5, 5, -1}, 3);
        assert_int_equal(o.slot_count, 1);
        assert_int_equal(o.order[0], 2);
    }
    adapter_order_close(&o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_without_adapters_keeps_its_order),
        cmocka_unit_test(the_base_comes_first_then_each_adapter),
        cmocka_unit_test(every_sequence_may_have_an_adapter_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
