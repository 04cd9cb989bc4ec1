/* test_replica_choice.c - least load, an adapter's home, turns, and who is out. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/replica_choice.h"

static void the_least_loaded_takes_it(void **state) {
    (void)state;
    const replica_view views[] = {{.live = 5}, {.live = 2}, {.live = 3}};
    for (uint32_t turn = 0; turn < 7; turn++)
        assert_int_equal(replica_choose(views, 3, turn), 1);
}

/* Requests that come one by one to an idle server do not all meet the first replica. */
static void equals_take_turns(void **state) {
    (void)state;
    const replica_view views[] = {{.live = 1}, {.live = 1}, {.live = 1}};
    for (uint32_t turn = 0; turn < 9; turn++)
        assert_int_equal(replica_choose(views, 3, turn), turn % 3);
    assert_int_equal(replica_choose(views, 3, UINT32_MAX), UINT32_MAX % 3);
}

static void an_adapter_draws_its_requests_to_where_it_is(void **state) {
    (void)state;
    replica_view views[] = {{.live = 0, .adapter = REPLICA_ADAPTER_HOST},
                            {.live = REPLICA_HOST_COST - 1, .adapter = REPLICA_ADAPTER_HERE}};
    for (uint32_t turn = 0; turn < 4; turn++)
        assert_int_equal(replica_choose(views, 2, turn), 1);
    views[0].adapter = REPLICA_ADAPTER_DISK;
    views[1].live = REPLICA_DISK_COST - 1;
    assert_int_equal(replica_choose(views, 2, 0), 1);
}

/* Beyond what bringing it costs, it is brought to the idle one, too. */
static void a_crowd_spreads_an_adapter(void **state) {
    (void)state;
    const replica_view views[] = {{.live = REPLICA_HOST_COST + 1, .adapter = REPLICA_ADAPTER_HERE},
                                  {.live = 0, .adapter = REPLICA_ADAPTER_HOST}};
    for (uint32_t turn = 0; turn < 4; turn++)
        assert_int_equal(replica_choose(views, 2, turn), 1);
}

static void who_is_out_gets_nothing(void **state) {
    (void)state;
    replica_view views[] = {{.out = true}, {.live = 900}, {.out = true}};
    for (uint32_t turn = 0; turn < 4; turn++)
        assert_int_equal(replica_choose(views, 3, turn), 1);
    views[1].out = true;
    assert_int_equal(replica_choose(views, 3, 0), REPLICA_NONE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_least_loaded_takes_it),
        cmocka_unit_test(equals_take_turns),
        cmocka_unit_test(an_adapter_draws_its_requests_to_where_it_is),
        cmocka_unit_test(a_crowd_spreads_an_adapter),
        cmocka_unit_test(who_is_out_gets_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
