/* test_wire.c - bytes of strangers -> messages. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "espalier/v1/inference.pb-c.h"
#include "internal/descriptor_names.pb-c.h"
#include "proto/wire.h"

static esp_code check(const char *bytes, size_t count, esp_error *err) {
    memset(err, 0, sizeof *err);
    return wire_check(&espalier__v1__generate_request__descriptor, (const uint8_t *)bytes, count,
                      err);
}

#define CHECK(text, err) check(text, sizeof(text) - 1, err)

static void valid_request_is_decoded(void **state) {
    (void)state;
    static const uint8_t bytes[] = "\x12\x05hello\x28\x07\x3a\x01.";
    mem_arena *arena = mem_arena_open(wire_arena_bytes(sizeof bytes - 1));
    ProtobufCMessage *message;
    esp_error error = {0};
    assert_int_equal(wire_decode(&espalier__v1__generate_request__descriptor, bytes,
                                 sizeof bytes - 1, arena, &message, &error),
                     ESP_OK);
    const Espalier__V1__GenerateRequest *request = (const void *)message;
    assert_string_equal(request->prompt, "hello");
    assert_int_equal(request->max_tokens, 7);
    assert_int_equal(request->n_stop, 1);
    mem_arena_close(arena);
}

/* An empty message is a message: all fields left out. */
static void no_bytes_are_an_empty_message(void **state) {
    (void)state;
    mem_arena *arena = mem_arena_open(wire_arena_bytes(0));
    ProtobufCMessage *message;
    assert_int_equal(
        wire_decode(&espalier__v1__generate_request__descriptor, NULL, 0, arena, &message, NULL),
        ESP_OK);
    assert_string_equal(((const Espalier__V1__GenerateRequest *)(const void *)message)->model, "");
    mem_arena_close(arena);
}

static void broken_bytes_are_refused(void **state) {
    (void)state;
    esp_error error;
    assert_int_equal(CHECK("\x12", &error), ESP_INVALID);             /* no length */
    assert_int_equal(CHECK("\x12\x05hell", &error), ESP_INVALID);     /* length past the end */
    assert_int_equal(CHECK("\x28\xff\xff\xff", &error), ESP_INVALID); /* varint without an end */
    assert_int_equal(CHECK("\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", &error),
                     ESP_INVALID);
    assert_int_equal(CHECK("\x13\x14", &error), ESP_INVALID);     /* a group */
    assert_int_equal(CHECK("\x02\x01x", &error), ESP_INVALID);    /* field number 0 */
    assert_int_equal(CHECK("\x0d\x01\x02", &error), ESP_INVALID); /* 4 bytes of which 2 are there */
}

/* RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
static void strings_are_utf8_without_nul(void **state) {
    (void)state;
    esp_error error;
    assert_int_equal(CHECK("\x12\x02\xc3\xa9", &error), ESP_OK);
    assert_int_equal(CHECK("\x12\x04\xf0\x9f\x98\x80", &error), ESP_OK);
    static const char *const bad[] = {"\x12\x02\xc0\x80", "\x12\x03\xed\xa0\x80",
                                      "\x12\x04\xf4\x90\x80\x80", "\x12\x01\xff", "\x12\x02\xc3("};
    for (uint32_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(check(bad[i], 2 + (size_t)bad[i][1], &error), ESP_INVALID);
        assert_string_equal(error.field, "prompt");
    }
    assert_int_equal(CHECK("\x12\x03"
                           "a\0b",
                           &error),
                     ESP_INVALID);
    assert_non_null(strstr(error.message, "U+0000 at byte 1"));
}

/* chat { messages { role: "u" } messages { content: bad } } */
static void field_inside_messages_is_named_by_its_path(void **state) {
    (void)state;
    esp_error error;
    assert_int_equal(CHECK("\x22\x0a\x0a\x03\x0a\x01u\x0a\x03\x12\x01\xfe", &error), ESP_INVALID);
    assert_string_equal(error.field, "chat.messages.content");
}

/* A message type that may hold itself, wrapped 20,000 times. */
static void nesting_bomb_is_refused(void **state) {
    (void)state;
    enum { LEVELS = 20000 };
    uint8_t *bytes = mem_new(LEVELS, 5);
    size_t count = 0, at = (size_t)LEVELS * 5;
    for (uint32_t i = 0; i < LEVELS; i++) { /* from the inside out */
        uint8_t head[5] = {3 << 3 | 2};
        size_t used = 1;
        for (uint64_t left = count; used < 5; left >>= 7) {
            head[used++] = (uint8_t)((left & 0x7f) | (left >> 7 ? 0x80 : 0));
            if (!(left >> 7)) break;
        }
        at -= used;
        count += used;
        memcpy(bytes + at, head, used);
    }
    esp_error error = {0};
    assert_int_equal(
        wire_check(&espalier__internal__message_names__descriptor, bytes + at, count, &error),
        ESP_INVALID);
    assert_non_null(strstr(error.message, "deeper than 8"));
    free(bytes);
}

/* Two bytes on the wire are a struct of some 50 in memory: the arena's cap ends it. */
static void amplification_is_capped(void **state) {
    (void)state;
    enum { COUNT = 1000000 };
    size_t inner = (size_t)COUNT * 2, used = 0;
    uint8_t *bytes = mem_new(inner + 8, 1);
    bytes[used++] = 4 << 3 | 2;
    for (size_t left = inner; left; left >>= 7)
        bytes[used++] = (uint8_t)((left & 0x7f) | (left >> 7 ? 0x80 : 0));
    for (uint32_t i = 0; i < COUNT; i++)
        bytes[used + 2 * i] = 0x0a;
    mem_arena *arena = mem_arena_open(wire_arena_bytes(used + inner));
    ProtobufCMessage *message;
    esp_error error = {0};
    assert_int_equal(wire_decode(&espalier__v1__generate_request__descriptor, bytes, used + inner,
                                 arena, &message, &error),
                     ESP_EXHAUSTED);
    assert_true(mem_arena_used(arena) <= WIRE_ARENA_MAX);
    mem_arena_close(arena);
    free(bytes);
}

/* A newer client's field is skipped, whatever is in it. */
static void unknown_fields_are_ignored(void **state) {
    (void)state;
    esp_error error;
    assert_int_equal(CHECK("\x12\x01"
                           "a\xfa\x3f\x02\xff\x00",
                           &error),
                     ESP_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(valid_request_is_decoded),
        cmocka_unit_test(no_bytes_are_an_empty_message),
        cmocka_unit_test(broken_bytes_are_refused),
        cmocka_unit_test(strings_are_utf8_without_nul),
        cmocka_unit_test(field_inside_messages_is_named_by_its_path),
        cmocka_unit_test(nesting_bomb_is_refused),
        cmocka_unit_test(amplification_is_capped),
        cmocka_unit_test(unknown_fields_are_ignored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
