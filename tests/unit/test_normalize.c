/* test_normalize.c - steps one after another give what each gives by itself, in whatever order they
 * stand: a step that changes nothing, as NFC of plain letters, leaves the text where it lies. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/mem.h"
#include "engine/text/normalize.h"

#define TEXT(s)                                                                                    \
    { s, sizeof s - 1 }

/* Three that grow a text, one that shrinks it, forms, and steps that copy. */
static const tok_normal STEPS[] = {
    {.kind = TOK_REPLACE, .pattern = TEXT("a"), .text = TEXT("bcaad")},
    {.kind = TOK_REPLACE, .pattern = TEXT("[bc]"), .text = TEXT("aXY"), .is_regex = true},
    {.kind = TOK_PREPEND, .text = TEXT("aB")},
    {.kind = TOK_REPLACE, .pattern = TEXT("bc"), .text = TEXT("")},
    {.kind = TOK_NFC},
    {.kind = TOK_NFKD},
    {.kind = TOK_LOWERCASE},
};
enum { STEP_COUNT = sizeof STEPS / sizeof STEPS[0], AT_ONCE = 4 };

/* The text after the steps; the caller frees its bytes. */
static tok_text apply(const tok_normal *steps, uint32_t count, tok_text text) {
    tok_plan plan = {.normal_count = count, .normals = steps};
    normalizer *normal;
    normal_buffer buffer = {0};
    tok_text out;
    esp_error err = {0};
    if (normalizer_open(&normal, &plan, &err)) fail_msg("%s", err.message);
    if (normalizer_apply(normal, &buffer, text, false, &out, &err)) fail_msg("%s", err.message);
    out.at = mem_copy_text(out.at, out.bytes);
    normalizer_close(normal);
    normal_free(&buffer);
    return out;
}

static void check_order(const uint32_t *order, tok_text text) {
    tok_normal steps[AT_ONCE];
    tok_text wanted = {mem_copy_text(text.at, text.bytes), text.bytes};
    for (uint32_t i = 0; i < AT_ONCE; i++) {
        steps[i] = STEPS[order[i]];
        tok_text next = apply(&steps[i], 1, wanted);
        free((char *)wanted.at);
        wanted = next;
    }
    tok_text seen = apply(steps, AT_ONCE, text);
    if (seen.bytes != wanted.bytes || memcmp(seen.at, wanted.at, seen.bytes) != 0)
        fail_msg("steps %u %u %u %u: \"%s\"; wanted \"%s\"", order[0], order[1], order[2], order[3],
                 seen.at, wanted.at);
    free((char *)seen.at);
    free((char *)wanted.at);
}

static void steps_in_any_order_are_those_of_one_each(void **state) {
    (void)state;
    static const tok_text texts[] = {TEXT("a"), TEXT("abcA cab"),
                                     TEXT("\xc3\xa9"
                                          "ab\xef\xac\x81")};
    for (uint32_t n = 0; n < STEP_COUNT * STEP_COUNT * STEP_COUNT * STEP_COUNT; n++) {
        uint32_t order[AT_ONCE], left = n;
        for (uint32_t i = 0; i < AT_ONCE; i++, left /= STEP_COUNT)
            order[i] = left % STEP_COUNT;
        for (size_t t = 0; t < sizeof texts / sizeof texts[0]; t++)
            check_order(order, texts[t]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_in_any_order_are_those_of_one_each),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
