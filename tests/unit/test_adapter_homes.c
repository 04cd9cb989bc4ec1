/* test_adapter_homes.c - which packed adapter goes first, against a search through all. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/adapters/adapters_inner.h"
#include "engine/base/mem.h"

enum { COUNT = 200, ROUNDS = 20000 };

static uint32_t draw(uint64_t *state, uint32_t below) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % below;
}

static bool may_go(const adapter *ad) { return !ad->busy; }

static adapter *search_all(adapter *all) {
    adapter *least = NULL;
    for (uint32_t i = 0; i < COUNT; i++)
        if (all[i].home_at && may_go(&all[i]) &&
            (!least || all[i].host_use.value < least->host_use.value))
            least = &all[i];
    return least;
}

static void check(const adapters *a, adapter *all) {
    uint32_t there = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        if (!all[i].home_at) continue;
        there++;
        assert_ptr_equal(a->homes[all[i].home_at - 1], &all[i]);
    }
    assert_int_equal(there, a->home_count);
    const adapter *least = homes_least(a, may_go), *wanted = search_all(all);
    assert_int_equal(!least, !wanted);
    if (wanted) assert_true(least->host_use.value == wanted->host_use.value && may_go(least));
}

static void the_least_worth_keeping_is_found_whoever_may_not_go(void **state) {
    (void)state;
    adapters *a = mem_new(1, sizeof *a);
    adapter *all = mem_new(COUNT, sizeof *all);
    uint64_t seed = 7;
    a->homes = mem_new(ADAPTERS_MAX, sizeof *a->homes);
    for (uint32_t i = 0; i < COUNT; i++)
        all[i].packed_bytes = 1 + draw(&seed, 1 << 20);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        adapter *ad = &all[draw(&seed, COUNT)];
        switch (draw(&seed, 4)) {
        case 0:
            ad->busy = !ad->busy;
            break;
        case 1:
            homes_leave(a, ad);
            residency_leave(&a->host_level, &ad->host_use);
            break;
        default:
            homes_note(a, ad);
        }
        check(a, all);
    }
    free(a->homes);
    free(all);
    free(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_least_worth_keeping_is_found_whoever_may_not_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
