/* test_status.c - errors as values. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/rename.h"
#include "engine/base/status.h"

/* A reused esp_error must show nothing of the failure before. */
static void a_failure_replaces_the_one_before(void **state) {
    (void)state;
    esp_error err = {.retry_ms = 5};
    assert_int_equal(esp_fail_field(&err, ESP_INVALID, "top_p", "top_p is %d", 7), ESP_INVALID);
    assert_string_equal(err.field, "top_p");
    assert_string_equal(err.message, "top_p is 7");
    assert_int_equal(err.retry_ms, 0);
    assert_int_equal(esp_fail(&err, ESP_INTERNAL, "no"), ESP_INTERNAL);
    assert_int_equal(err.code, ESP_INTERNAL);
    assert_string_equal(err.field, "");
    assert_string_equal(err.message, "no");
}

/* A caller that wraps an error passes the old message as an argument. */
static void an_error_may_quote_itself(void **state) {
    (void)state;
    esp_error err;
    esp_fail_field(&err, ESP_INVALID, "a.b", "inner");
    esp_fail_field(&err, ESP_INVALID, err.field, "outer: %s", err.message);
    assert_string_equal(err.field, "a.b");
    assert_string_equal(err.message, "outer: inner");
}

static void no_error_wanted_is_fine(void **state) {
    (void)state;
    assert_int_equal(esp_fail(NULL, ESP_ABORTED, "x"), ESP_ABORTED);
    assert_int_equal(esp_fail_field(NULL, ESP_EXISTS, "f", "x"), ESP_EXISTS);
}

/* 1, 2, 3 or 4 bytes before it, the 4-byte character sits across the buffer's end. */
static void a_long_message_is_cut_between_characters(void **state) {
    (void)state;
    for (size_t lead = 0; lead < 4; lead++) {
        char text[2 * ESP_MESSAGE_MAX] = {0};
        memset(text, 'a', lead);
        for (size_t i = lead; i + 4 < sizeof text; i += 4)
            memcpy(text + i, "\xf0\x9f\x8c\xb3", 4);
        esp_error err;
        esp_fail(&err, ESP_INVALID, "%s", text);
        size_t length = strlen(err.message);
        assert_true(length >= ESP_MESSAGE_MAX - 4 && length < ESP_MESSAGE_MAX);
        assert_int_equal((length - lead) % 4, 0);
        assert_memory_equal(err.message, text, length);
    }
}

/* RFC 3629: truncated, overlong, surrogate, too high, lone continuation; and terminal controls. */
static void hostile_bytes_become_question_marks(void **state) {
    (void)state;
    const struct {
        const char *seen, *wanted;
    } cases[] = {
        {"\xc3", "?"},
        {"\xc0\xaf", "??"},
        {"\xe0\x9f\xbf", "???"},
        {"\xed\xa0\x80", "???"},
        {"\xf4\x90\x80\x80", "????"},
        {"\x80z", "?z"},
        {"a\x1b[2J\nb\x7f", "a?[2J?b?"},
        {"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x8c\xb3",
         "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x8c\xb3"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        esp_error err;
        esp_fail_field(&err, ESP_INVALID, cases[i].seen, "%s", cases[i].seen);
        assert_string_equal(err.message, cases[i].wanted);
        assert_string_equal(err.field, cases[i].wanted);
    }
}

/* grpc/doc/statuscodes.md: numbers and spellings. */
static void codes_are_spelled_as_grpc_does(void **state) {
    (void)state;
    static const char *const names[] = {"OK",
                                        "CANCELLED",
                                        "UNKNOWN",
                                        "INVALID_ARGUMENT",
                                        "DEADLINE_EXCEEDED",
                                        "NOT_FOUND",
                                        "ALREADY_EXISTS",
                                        "PERMISSION_DENIED",
                                        "RESOURCE_EXHAUSTED",
                                        "FAILED_PRECONDITION",
                                        "ABORTED",
                                        "OUT_OF_RANGE",
                                        "UNIMPLEMENTED",
                                        "INTERNAL",
                                        "UNAVAILABLE",
                                        "DATA_LOSS",
                                        "UNAUTHENTICATED"};
    for (int i = 0; i < 17; i++)
        assert_string_equal(esp_code_name((esp_code)i), names[i]);
    assert_string_equal(esp_code_name((esp_code)99), "UNKNOWN");
}

/* sysexits.h; scripts depend on 65 for a bad file and 64 for a bad flag. */
static void exit_statuses_tell_data_from_usage(void **state) {
    (void)state;
    assert_int_equal(esp_exit_status(ESP_OK), 0);
    assert_int_equal(esp_exit_status(ESP_INVALID), 65);
    assert_int_equal(esp_exit_status(ESP_DATA_LOSS), 65);
    assert_int_equal(esp_exit_status(ESP_OUT_OF_RANGE), 64);
    assert_int_equal(esp_exit_status(ESP_NOT_FOUND), 66);
    assert_int_equal(esp_exit_status(ESP_UNAVAILABLE), 69);
    assert_int_equal(esp_exit_status((esp_code)99), 70);
}

/* Text from outside is cut to fit, and cannot write to a terminal. */
static void shown_text_is_printable_and_fits(void **state) {
    (void)state;
    char out[8];
    esp_show(out, sizeof out, "a\nb", 3);
    assert_string_equal(out, "a?b");
    esp_show(out, sizeof out, "1234567", 7);
    assert_string_equal(out, "1234567");
    esp_show(out, sizeof out, "12345678", 8);
    assert_string_equal(out, "1234...");
    esp_show(out, sizeof out, "", 0);
    assert_string_equal(out, "");
}

/* A sentence that is known by the place of its file is told by the name of it. */
static void an_error_is_told_by_another_name(void **state) {
    (void)state;
    esp_error err = {0};
    esp_fail_field(&err, ESP_INVALID, "file", "8c1f: tensor x of 8c1f is wrong");
    err.retry_ms = 7;
    esp_rename(&err, "8c1f", "tone@2");
    assert_string_equal(err.message, "tone@2: tensor x of 8c1f is wrong");
    assert_string_equal(err.field, "file");
    assert_int_equal(err.retry_ms, 7);
    esp_rename(&err, "absent", "y");
    esp_rename(&err, "", "y");
    assert_string_equal(err.message, "tone@2: tensor x of 8c1f is wrong");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_is_told_by_another_name),
        cmocka_unit_test(shown_text_is_printable_and_fits),
        cmocka_unit_test(a_failure_replaces_the_one_before),
        cmocka_unit_test(an_error_may_quote_itself),
        cmocka_unit_test(no_error_wanted_is_fine),
        cmocka_unit_test(a_long_message_is_cut_between_characters),
        cmocka_unit_test(hostile_bytes_become_question_marks),
        cmocka_unit_test(codes_are_spelled_as_grpc_does),
        cmocka_unit_test(exit_statuses_tell_data_from_usage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
