/* test_stream.c - stop strings across token borders, whole characters only. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/stream.h"
#include "tests/unit/byte_tokenizer.h"

/* Feeds the bytes of text, one token each, and returns all that came out before and at the end. */
static char *run(const char *text, const stop_set *stops, bool *stopped, size_t *before_end) {
    tokenizer *tok = byte_tokenizer();
    text_stream stream = {0};
    static char all[4096];
    size_t used = 0;
    for (const char *c = text; *c && !stream.stopped; c++)
        used += text_next(&stream, tok, stops, byte_token((uint8_t)*c), all + used);
    *before_end = used;
    used += text_end(&stream, all + used);
    all[used] = 0;
    *stopped = stream.stopped;
    tok_close(tok);
    return all;
}

static stop_set stops_of(const char *a, const char *b) {
    stop_set set;
    tok_text texts[] = {{a, strlen(a)}, {b, b ? strlen(b) : 0}};
    assert_int_equal(stop_set_fill(&set, texts, b ? 2 : 1, NULL), ESP_OK);
    return set;
}

/* "END" arrives as three tokens; nothing of it is given out. */
static void a_stop_string_over_three_tokens_is_cut(void **state) {
    (void)state;
    stop_set set = stops_of("END", NULL);
    bool stopped;
    size_t before;
    assert_string_equal(run("abcEND tail", &set, &stopped, &before), "abc");
    assert_true(stopped);
}

/* "EN" might become "END": it is held back, and given out at the end when it did not. */
static void a_begun_stop_string_is_held_and_then_released(void **state) {
    (void)state;
    stop_set set = stops_of("END", NULL);
    bool stopped;
    size_t before;
    assert_string_equal(run("abcEN", &set, &stopped, &before), "abcEN");
    assert_int_equal(before, 3);
    assert_false(stopped);
    assert_string_equal(run("abcENx", &set, &stopped, &before), "abcENx");
    assert_int_equal(before, 6);
}

/* "aab" after "aaab": the held text must slide, not restart. */
static void an_overlapping_beginning_is_found(void **state) {
    (void)state;
    stop_set set = stops_of("aab", NULL);
    bool stopped;
    size_t before;
    assert_string_equal(run("xaaab", &set, &stopped, &before), "xa");
    assert_true(stopped);
}

static void the_first_of_two_stop_strings_wins(void **state) {
    (void)state;
    stop_set set = stops_of("yz", "cd");
    bool stopped;
    size_t before;
    assert_string_equal(run("abcdyz", &set, &stopped, &before), "ab");
    assert_true(stopped);
}

/* A four-byte character in four tokens comes out whole; a cut one as U+FFFD at the end. */
static void characters_come_out_whole(void **state) {
    (void)state;
    stop_set none = {0};
    bool stopped;
    size_t before;
    assert_string_equal(run("a\xf0\x9f\x98\x80", &none, &stopped, &before), "a\xf0\x9f\x98\x80");
    assert_int_equal(before, 5);
    assert_string_equal(run("a\xf0\x9f\x98", &none, &stopped, &before), "a\xef\xbf\xbd");
    assert_int_equal(before, 1);
}

static void absurd_stop_lists_are_refused_by_name(void **state) {
    (void)state;
    stop_set set;
    esp_error err = {0};
    tok_text many[SAMPLE_STOP_MAX + 1];
    for (int i = 0; i <= SAMPLE_STOP_MAX; i++) many[i] = (tok_text){"x", 1};
    assert_int_equal(stop_set_fill(&set, many, SAMPLE_STOP_MAX + 1, &err), ESP_INVALID);
    assert_string_equal(err.field, "stop");
    assert_int_equal(stop_set_fill(&set, &(tok_text){"", 0}, 1, &err), ESP_INVALID);
    static char big[SAMPLE_STOP_BYTES_MAX + 1];
    assert_int_equal(stop_set_fill(&set, &(tok_text){big, sizeof big}, 1, &err), ESP_INVALID);
    assert_int_equal(stop_set_fill(&set, &(tok_text){big, sizeof big - 1}, 1, &err), ESP_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stop_string_over_three_tokens_is_cut),
        cmocka_unit_test(a_begun_stop_string_is_held_and_then_released),
        cmocka_unit_test(an_overlapping_beginning_is_found),
        cmocka_unit_test(the_first_of_two_stop_strings_wins),
        cmocka_unit_test(characters_come_out_whole),
        cmocka_unit_test(absurd_stop_lists_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
