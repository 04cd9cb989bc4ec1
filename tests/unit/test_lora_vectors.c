/* test_lora_vectors.c - adapters of every kind against peft: tests/vectors/lora, on the tiny models of
 * tests/vectors/families as folders and as GGUF files, whose rows of q and k may be permuted.
 *
 *   ref   max |difference| <= 2e-5 of the logits' range
 *   cpu   relative rms difference <= 3% */
// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/lora_cases.h"

static const double REF_TOLERANCE = 2e-5, CPU_TOLERANCE = 0.03;
enum { CASES_MIN = 64 };

typedef struct judgement {
    const kern_ops *ops;
    uint32_t wrong;
} judgement;

static void judge(const lora_case *c, const char *base_name, void *arg) {
    judgement *j = arg;
    char base[1024], adapter[1024];
    lora_case_path(base, "families", base_name);
    lora_case_path(adapter, "lora", c->name);
    lora_rig r = rig_open(j->ops, base, adapter);
    lora_distance d = lora_case_judge(c, &r);
    rig_close(&r);
    if (j->ops == &kern_ref ? d.part_of_range <= REF_TOLERANCE : d.relative_rms <= CPU_TOLERANCE)
        return;
    j->wrong++;
    print_error("%s on %s: %.2e of the range, rms %.2e\n", c->name, base_name, d.part_of_range,
                d.relative_rms);
}

/* Every family and feature, on folder and GGUF file. */
static void ref_gives_the_logits_of_peft(void **state) {
    (void)state;
    judgement j = {.ops = &kern_ref};
    assert_true(lora_case_each(judge, &j) >= CASES_MIN);
    assert_int_equal(j.wrong, 0);
}

static void cpu_is_near_them(void **state) {
    (void)state;
    judgement j = {.ops = &kern_cpu};
    if (kern_cpu_best_level() == LEVEL_AUTO) skip();
    assert_true(lora_case_each(judge, &j) >= CASES_MIN);
    assert_int_equal(j.wrong, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_gives_the_logits_of_peft),
        cmocka_unit_test(cpu_is_near_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
