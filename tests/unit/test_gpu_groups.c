/* test_gpu_groups.c - ranks that talk much get GPUs that are near each other. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/gpu_groups.h"

enum { NEAR = 0, FAR = 2, NONE = 1000 };

typedef struct machine {
    uint32_t count;
    uint32_t links[GPU_GROUPS_DEVICES_MAX * GPU_GROUPS_DEVICES_MAX];
} machine;

static void all_links(machine *m, uint32_t count, uint32_t link) {
    m->count = count;
    for (uint32_t i = 0; i < count * count; i++)
        m->links[i] = link;
}

static void set_link(machine *m, uint32_t a, uint32_t b, uint32_t link) {
    m->links[a * m->count + b] = m->links[b * m->count + a] = link;
}

/* `wanted` as "01 23": a digit a device. */
static void assert_groups(const machine *m, uint32_t first, uint32_t size, const char *wanted) {
    uint32_t out[GPU_GROUPS_DEVICES_MAX], groups = (uint32_t)(strlen(wanted) + 1) / (size + 1);
    const gpu_groups_options o = {.device_count = m->count,
                                  .links = m->links,
                                  .first = first,
                                  .group_size = size,
                                  .group_count = groups};
    assert_true(gpu_groups_choose(&o, out));
    char got[2 * GPU_GROUPS_DEVICES_MAX], *at = got;
    for (uint32_t i = 0; i < groups * size; i++) {
        if (i && i % size == 0) *at++ = ' ';
        *at++ = (char)('0' + out[i]);
    }
    *at = 0;
    assert_string_equal(got, wanted);
}

/* Eight behind one switch. */
static void equal_links_are_taken_in_order(void **state) {
    (void)state;
    static machine m;
    for (uint32_t link = 0; link < 3; link++) {
        all_links(&m, 8, link);
        assert_groups(&m, 0, 2, "01 23 45 67");
        assert_groups(&m, 0, 4, "0123 4567");
        assert_groups(&m, 3, 2, "34 56");
        assert_groups(&m, 0, 1, "0 1 2");
    }
}

/* Bridges that join 0 with 3, 1 with 2. */
static void a_pair_shares_its_bridge(void **state) {
    (void)state;
    static machine m;
    all_links(&m, 4, FAR);
    set_link(&m, 0, 3, NEAR);
    set_link(&m, 1, 2, NEAR);
    assert_groups(&m, 0, 2, "03 12");
    assert_groups(&m, 0, 2, "03");
    assert_groups(&m, 1, 2, "12");
}

/* 0 is as near to 1 as to 2, but 3 is near to 1 alone: who takes the first that is near leaves 2 and 3 apart. */
static void the_nearest_may_belong_to_another(void **state) {
    (void)state;
    static machine m;
    all_links(&m, 4, FAR);
    set_link(&m, 0, 1, NEAR);
    set_link(&m, 0, 2, NEAR);
    set_link(&m, 1, 3, NEAR);
    assert_groups(&m, 0, 2, "02 13");
}

/* Two boards of four that see nothing of each other, numbered alternately. */
static void groups_do_not_cross_boards(void **state) {
    (void)state;
    static machine m;
    all_links(&m, 8, NONE);
    for (uint32_t a = 0; a < 8; a++)
        for (uint32_t b = a + 2; b < 8; b += 2)
            set_link(&m, a, b, NEAR);
    assert_groups(&m, 0, 4, "0246 1357");
    assert_groups(&m, 0, 2, "02 13 46 57");
    assert_groups(&m, 0, 2, "02");
}

/* One bad link is worse than several middling ones: the slowest is what all wait for. */
static void the_slowest_link_counts_first(void **state) {
    (void)state;
    static machine m;
    all_links(&m, 4, 1);
    set_link(&m, 0, 1, NEAR);
    set_link(&m, 2, 3, FAR);
    assert_groups(&m, 0, 2, "02 13");
}

/* A link that is bad one way is bad. */
static void the_worse_direction_counts(void **state) {
    (void)state;
    static machine m;
    all_links(&m, 4, NEAR);
    m.links[0 * 4 + 1] = FAR;
    assert_groups(&m, 0, 2, "02 13");
}

static void more_than_there_are_is_refused(void **state) {
    (void)state;
    static machine m;
    uint32_t out[GPU_GROUPS_DEVICES_MAX];
    all_links(&m, 4, NEAR);
    gpu_groups_options o = {
        .device_count = 4, .links = m.links, .first = 1, .group_size = 2, .group_count = 2};
    assert_false(gpu_groups_choose(&o, out));
    o.first = 5;
    o.group_count = 1;
    assert_false(gpu_groups_choose(&o, out));
}

/* So many ways that not all are looked at: an answer all the same, of different devices. */
static void many_devices_come_to_an_end(void **state) {
    (void)state;
    static machine m;
    uint32_t out[GPU_GROUPS_DEVICES_MAX];
    uint64_t seen = 0;
    all_links(&m, 64, 1);
    for (uint32_t a = 0; a < 64; a++)
        for (uint32_t b = a + 1; b < 64; b++)
            set_link(&m, a, b, 1 + (a * 7 + b * 13) % 5);
    const gpu_groups_options o = {
        .device_count = 64, .links = m.links, .group_size = 8, .group_count = 8};
    assert_true(gpu_groups_choose(&o, out));
    for (uint32_t i = 0; i < 64; i++)
        seen |= 1ull << out[i];
    assert_true(seen == UINT64_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_links_are_taken_in_order),
        cmocka_unit_test(a_pair_shares_its_bridge),
        cmocka_unit_test(the_nearest_may_belong_to_another),
        cmocka_unit_test(groups_do_not_cross_boards),
        cmocka_unit_test(the_slowest_link_counts_first),
        cmocka_unit_test(the_worse_direction_counts),
        cmocka_unit_test(more_than_there_are_is_refused),
        cmocka_unit_test(many_devices_come_to_an_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
