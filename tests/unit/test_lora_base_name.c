/* test_lora_base_name.c - names of one model, and names that cannot be. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/model/lora/lora_base_name.h"

static void check(const char *one, const char *other, bool differ) {
    names_verdict there = base_names_compare(one, other), back = base_names_compare(other, one);
    if (there != back || (there == NAMES_DIFFER) != differ)
        fail_msg("%s and %s: wanted %s", one, other, differ ? "two models" : "maybe one");
}

static void owners_formats_and_purposes_tell_no_models_apart(void **state) {
    (void)state;
    check("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct.Q4_1.gguf", false);
    check("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2 135M 8k Lc100K Mix1 Ep2", false);
    check("meta-llama/Meta-Llama-3-8B", "llama3 8B", false);
    check("unsloth/Llama-3.2-1B-Instruct-bnb-4bit", "Llama 3.2 1B Instruct", false);
    check("meta-llama/Llama-3.2-1B", "Llama-3.2-1.2B", false);
    check("Qwen/Qwen2.5-Coder-0.5B-Instruct", "Qwen2.5 Coder 0.5B Instruct AWQ", false);
    check("google/gemma-2-2b-it", "gemma2 2B", false);
    check("google/gemma-3-270m", "gemma 3 270m", false);
    check("microsoft/Phi-3-mini-4k-instruct", "Phi 3 Mini 4k", false);
    check("mistralai/Mistral-7B-v0.3", "Mistral 7B Instruct v0.3", false);
}

/* A name that says nothing that is known is nobody's other. */
static void what_a_name_does_not_say_is_no_difference(void **state) {
    (void)state;
    check("./out/checkpoint-500", "Llama 3.2 1B", false);
    check("acme/legal-assistant-1b", "Qwen2.5 0.5B", false);
    check("acme/legal-llama", "meta-llama/Llama-3.2-1B", false);
    check("tiny/llama3", "tiny llama", false);
    check("", "Llama 3.2 1B", false);
    check("llama", "llama", false);
    assert_int_equal(base_names_compare("llama", "my-llama"), NAMES_ALIKE);
    assert_int_equal(base_names_compare("llama", "model"), NAMES_UNKNOWN);
    check("/", "///", false);
}

static void another_family_version_or_size_is_another_model(void **state) {
    (void)state;
    check("HuggingFaceTB/SmolLM2-135M", "Qwen2.5 0.5B", true);
    check("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "Llama 3.2 1B", true);
    check("Qwen/Qwen2-0.5B", "Qwen2.5 0.5B", true);
    check("meta-llama/Llama-3.1-8B", "Meta Llama 3 8B", true);
    check("HuggingFaceTB/SmolLM2-135M", "SmolLM2 360M", true);
    check("Qwen/Qwen2.5-0.5B", "Qwen2.5 1.5B Instruct", true);
    check("google/gemma-2-2b", "gemma 3 1b", true);
}

static void a_name_within_a_name_agrees(void **state) {
    (void)state;
    assert_true(base_names_agree("org/Some-Model_1B", "some-model-1b.Q4_K_M.gguf"));
    assert_true(base_names_agree("Some-Model", "/models/SOME_MODEL"));
    assert_true(base_names_agree("", "anything"));
    assert_false(base_names_agree("org/Other-1B", "some-model-1b"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(owners_formats_and_purposes_tell_no_models_apart),
        cmocka_unit_test(what_a_name_does_not_say_is_no_difference),
        cmocka_unit_test(another_family_version_or_size_is_another_model),
        cmocka_unit_test(a_name_within_a_name_agrees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
