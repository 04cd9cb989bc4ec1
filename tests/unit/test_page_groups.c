/* test_page_groups.c - layers dealt out to page groups, for the shapes of published models. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/model/page_groups.h"

/* Every `every`th layer sees all, the others a window; 0: all slide; 1: none does. */
static model_spec shape(uint32_t layers, uint32_t window, uint32_t every) {
    model_spec spec = {.layers = layers, .window = window};
    for (uint32_t i = 0; i < layers; i++)
        spec.slides[i] = every == 0 || (i + 1) % every != 0;
    return spec;
}

/* Each place of each group has at most one layer, of the group's kind. */
static void check_places(const page_groups *g, const model_spec *spec) {
    bool taken[KV_GROUPS_MAX][SPEC_LAYERS_MAX] = {0};
    assert_true(g->count >= 1 && g->count <= KV_GROUPS_MAX);
    for (uint32_t i = 0; i < spec->layers; i++) {
        uint32_t group = g->group_of[i], index = g->index_of[i];
        assert_true(group < g->count && index < g->layers && !taken[group][index]);
        taken[group][index] = true;
        assert_true(g->windows[group] == 0 || g->windows[group] == spec->window);
        if (g->windows[group]) assert_true(spec->slides[i]);
    }
}

static void published_shapes_take_the_least_memory(void **state) {
    (void)state;
    const struct {
        const char *name;
        uint32_t layers, window, every, context;
        uint32_t groups, group_layers, full_groups;
    } cases[] = {
        {"llama-3.1-8b", 32, 0, 1, 8192, 1, 32, 1},
        {"mistral-7b-v0.1", 32, 4096, 0, 8192, 1, 32, 0},
        {"gemma-2-2b", 26, 4096, 2, 8192, 2, 13, 1},
        {"gemma-3-270m", 18, 512, 6, 8192, 6, 3, 1},
        {"gemma-3-1b", 26, 512, 6, 8192, 7, 4, 1},
        {"gemma-3-4b", 34, 1024, 6, 8192, 7, 5, 1},
        {"gemma-3-12b", 48, 1024, 6, 8192, 6, 8, 1},
        {"gemma-3-27b", 62, 1024, 6, 8192, 7, 10, 1},
        {"phi-3-mini-4k", 32, 2047, 0, 4096, 1, 32, 0},
        {"a context within the window", 26, 4096, 2, 4096, 1, 26, 1},
        {"one of many sees all", 31, 64, 31, 8192, 7, 5, 1},
        {"padding would cost more", 31, 7900, 31, 8192, 1, 31, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        model_spec spec = shape(cases[i].layers, cases[i].window, cases[i].every);
        page_groups g;
        page_groups_plan(&g, &spec, cases[i].context, false);
        check_places(&g, &spec);
        uint32_t full = 0;
        for (uint32_t group = 0; group < g.count; group++)
            full += g.windows[group] == 0;
        if (g.count != cases[i].groups || g.layers != cases[i].group_layers ||
            full != cases[i].full_groups)
            fail_msg("%s: %u groups of %u layers, %u see all", cases[i].name, g.count, g.layers,
                     full);
    }
}

/* Whatever the shape, there is a plan within the limits. */
static void any_mixture_of_layers_fits(void **state) {
    (void)state;
    for (uint32_t layers = 1; layers <= 130; layers++)
        for (uint32_t every = 0; every <= layers + 1; every++) {
            model_spec spec = shape(layers, 100, every);
            page_groups g;
            page_groups_plan(&g, &spec, 1000, false);
            check_places(&g, &spec);
        }
    model_spec largest = shape(SPEC_LAYERS_MAX, 100, 3);
    page_groups g;
    page_groups_plan(&g, &largest, 1000, false);
    check_places(&g, &largest);
}

static void kept_pages_need_one_group(void **state) {
    (void)state;
    model_spec spec = shape(18, 512, 6);
    page_groups g;
    page_groups_plan(&g, &spec, 8192, true);
    check_places(&g, &spec);
    assert_int_equal(g.count, 1);
    assert_int_equal(g.layers, 18);
    assert_int_equal(g.windows[0], 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_shapes_take_the_least_memory),
        cmocka_unit_test(any_mixture_of_layers_fits),
        cmocka_unit_test(kept_pages_need_one_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
