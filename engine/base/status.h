/* status.h - how a function says that it failed, and why.
 *
 * Three kinds of failure. Our own bug: ESP_ASSERT, on in release builds too. The operator's, the
 * client's or the world's: an esp_code plus one sentence in esp_error (what was seen, what was
 * wanted, which flag or field mends it). The device's: sticky, reported by kern_ops.sync.
 *
 * Thread  any; an esp_error belongs to its caller. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_STATUS_H
#define ESPALIER_BASE_STATUS_H

#include <stddef.h>
#include <stdint.h>

/* The numbers are gRPC's status codes, inside and out. */
typedef enum esp_code {
    ESP_OK = 0,
    ESP_CANCELLED = 1,
    ESP_UNKNOWN = 2,
    ESP_INVALID = 3,
    ESP_DEADLINE = 4,
    ESP_NOT_FOUND = 5,
    ESP_EXISTS = 6,
    ESP_DENIED = 7,
    ESP_EXHAUSTED = 8,
    ESP_PRECONDITION = 9,
    ESP_ABORTED = 10,
    ESP_OUT_OF_RANGE = 11,
    ESP_UNIMPLEMENTED = 12,
    ESP_INTERNAL = 13,
    ESP_UNAVAILABLE = 14,
    ESP_DATA_LOSS = 15,
    ESP_UNAUTHENTICATED = 16,
} esp_code;

enum { ESP_FIELD_MAX = 96, ESP_MESSAGE_MAX = 480 };

/* One failure. All-zero is "no error". */
typedef struct esp_error {
    esp_code code;
    uint32_t retry_ms;             /* > 0: a client may try again after this long (RetryInfo) */
    char field[ESP_FIELD_MAX];     /* request field, flag or tensor at fault; "" if none */
    char message[ESP_MESSAGE_MAX]; /* one sentence, UTF-8, no host paths when meant for a client */
} esp_error;

#define ESP_CHECKED __attribute__((warn_unused_result))
#define ESP_PRINTF(fmt_index, args_index) __attribute__((format(printf, fmt_index, args_index)))

/* Text from outside as an error sentence shows it: '?' for what is not printable ASCII, cut with "..." to
 * fit out_bytes (>= 4) with its NUL. */
void esp_show(char *out, size_t out_bytes, const char *at, size_t bytes);

/* Fills *err (NULL is allowed) and returns code, so that a caller can `return esp_fail(...)`. */
esp_code esp_fail(esp_error *err, esp_code code, const char *format, ...) ESP_PRINTF(3, 4);

/* The same, naming the request field or flag at fault (google.rpc.BadRequest). */
esp_code esp_fail_field(esp_error *err, esp_code code, const char *field, const char *format, ...)
    ESP_PRINTF(4, 5);

/* "OK", "INVALID_ARGUMENT", ... as gRPC spells them; never NULL. */
const char *esp_code_name(esp_code code);

/* sysexits.h status for a command that ended with this code (65 for bad data, 64 for usage, ...). */
int esp_exit_status(esp_code code);

__attribute__((noreturn)) void esp_assert_failed(const char *expression, const char *file, int line);

#define ESP_ASSERT(expression)                                                                     \
    ((expression) ? (void)0 : esp_assert_failed(#expression, __FILE__, __LINE__))

#endif
