/* test_spaced_text.c - spaces as SentencePiece has them, and its table of replacements, read as
 * hostile bytes. Real tables are compared in test_token_kinds. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/spaced_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void expect(const spaced_rules *rules, tok_text text, const char *wanted) {
    spaced_buffer buffer = {0};
    tok_text made = spaced_of(rules, &buffer, text);
    assert_int_equal(made.bytes, strlen(wanted));
    assert_memory_equal(made.at, wanted, made.bytes);
    spaced_free(&buffer);
}

#define EXPECT(rules, literal, wanted)                                                             \
    expect(&(rules), (tok_text){literal, sizeof literal - 1}, wanted)

static void spaces_follow_the_rules(void **state) {
    (void)state;
    spaced_rules as_is = {.keep_broken = true}, prefix = {.prefix = true, .keep_broken = true};
    spaced_rules collapse = {.collapse = true}, both = {.prefix = true, .collapse = true};
    EXPECT(as_is, " a  b ", " a  b ");
    EXPECT(prefix, " a", "  a");
    EXPECT(collapse, "  a   b ", "a b");
    EXPECT(both, "  a   b ", " a b");
    EXPECT(both, "   ", "");
    EXPECT(prefix, "", "");
    EXPECT(as_is,
           "a\xe2\x96\x81\xe2\x96\x81"
           "b\xe2\x96",
           "a  b\xe2\x96");
    EXPECT(collapse, "a\xff\xe2\x82z", "a\xef\xbf\xbd\xef\xbf\xbdz");
}

/* units: the root leads to 'x' (offset 1: index 1 ^ 'x'), whose key ends there. */
enum { UNITS = 256, X = 1 ^ 'x', VALUE = X ^ 2 };

static size_t build(uint8_t *out, const char *texts, size_t text_bytes, uint32_t value) {
    uint32_t units[UNITS] = {[0] = 1u << 10, [X] = 'x' | 1u << 8 | 2u << 10, [VALUE] = 1u << 31};
    units[VALUE] |= value;
    uint32_t bytes = sizeof units;
    memcpy(out, &bytes, 4); /* little-endian machine */
    memcpy(out + 4, units, bytes);
    memcpy(out + 4 + bytes, texts, text_bytes);
    return 4 + bytes + text_bytes;
}

static void keys_are_replaced(void **state) {
    (void)state;
    uint8_t bytes[2048];
    spaced_rules rules = {0};
    size_t count = build(bytes, "no\0ks", 6, 3);
    assert_int_equal(charsmap_open(&rules.map, bytes, count, NULL), ESP_OK);
    EXPECT(rules, "axbXx", "aksbXks");
    charsmap_close(&rules.map);
}

/* The value points behind the texts, the trie ends early, texts do not end or are too long. Whatever
 * the units say, nothing outside the table is read (run under AddressSanitizer too). */
static void lying_tables_do_no_harm(void **state) {
    (void)state;
    uint8_t bytes[2048];
    charsmap map;
    tok_text found = {"", 0};
    size_t count = build(bytes, "no", 3, 3);
    assert_int_equal(charsmap_open(&map, bytes, count, NULL), ESP_OK);
    assert_int_equal(charsmap_find(&map, (tok_text){"x", 1}, &found), 0);
    charsmap_close(&map);
    for (size_t cut = 0; cut < count; cut++) {
        esp_code code = charsmap_open(&map, bytes, cut, NULL);
        assert_int_equal(code, cut == 0 || cut == count - 3 ? ESP_OK : ESP_INVALID);
        charsmap_close(&map);
    }
    char longer[66];
    memset(longer, 'y', 65);
    longer[65] = 0;
    count = build(bytes, longer, 66, 0);
    assert_int_equal(charsmap_open(&map, bytes, count, NULL), ESP_INVALID);
    charsmap_close(&map);
    count = build(bytes, "no", 3, 0);
    for (uint32_t seed = 1; seed < 3000; seed++) {
        uint32_t state_word = seed * 2654435761u;
        for (size_t i = 4; i < 4 + 4 * UNITS; i++) {
            state_word = state_word * 1664525u + 1013904223u;
            bytes[i] = (uint8_t)(state_word >> 24);
        }
        assert_int_equal(charsmap_open(&map, bytes, count, NULL), ESP_OK);
        for (int c = 1; c < 256; c++)
            (void)charsmap_find(&map, (tok_text){(char[]){(char)c, 'x', 'y'}, 3}, &found);
        charsmap_close(&map);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spaces_follow_the_rules),
        cmocka_unit_test(keys_are_replaced),
        cmocka_unit_test(lying_tables_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
