/* status.c - errors as values, and the end of the process when the bug is ours. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/status.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

/* Bytes of the well-formed UTF-8 character at text, 0 when there is none (RFC 3629, section 4). */
static size_t utf8_length(const unsigned char *text) {
    unsigned char lead = text[0], low = 0x80, high = 0xbf;
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return 0;
    size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (lead == 0xe0) low = 0xa0;  /* overlong */
    if (lead == 0xed) high = 0x9f; /* surrogates */
    if (lead == 0xf0) low = 0x90;  /* overlong */
    if (lead == 0xf4) high = 0x8f; /* above U+10FFFF */
    if (text[1] < low || text[1] > high) return 0;
    for (size_t i = 2; i < length; i++)
        if ((text[i] & 0xc0) != 0x80) return 0;
    return length;
}

/* A message may quote outside bytes and may be cut by its buffer; protobuf strings must be UTF-8,
 * and a terminal must not be steered by what a file says. */
static void make_printable(char *text) {
    unsigned char *p = (unsigned char *)text;
    while (*p) {
        size_t length = utf8_length(p);
        if (length == 0 || *p < 0x20 || *p == 0x7f) {
            *p++ = '?';
        } else {
            p += length;
        }
    }
}

/* A character that the buffer's end cut in two goes, rather than ending in question marks. */
static void drop_cut_character(char *text, size_t length) {
    size_t start = length;
    while (start > 0 && length - start < 3 && ((unsigned char)text[start - 1] & 0xc0) == 0x80)
        start--;
    if (start > 0 && (unsigned char)text[start - 1] >= 0xc0 &&
        utf8_length((unsigned char *)text + start - 1) == 0)
        text[start - 1] = '\0';
}

static void copy_text(char *out, size_t out_bytes, const char *text) {
    int wanted = snprintf(out, out_bytes, "%s", text);
    if (wanted > 0 && (size_t)wanted >= out_bytes) drop_cut_character(out, out_bytes - 1);
    make_printable(out);
}

static esp_code fill(esp_error *err, esp_code code, const char *field, const char *format,
                     va_list args) ESP_PRINTF(4, 0);
static esp_code fill(esp_error *err, esp_code code, const char *field, const char *format,
                     va_list args) {
    ESP_ASSERT(code != ESP_OK);
    if (!err) return code;
    /* Formatted aside: an argument may point into the very error being replaced. */
    char message[ESP_MESSAGE_MAX];
    int wanted = vsnprintf(message, sizeof message, format, args);
    if (wanted < 0) message[0] = '\0';
    if (wanted >= (int)sizeof message) drop_cut_character(message, sizeof message - 1);
    char name[ESP_FIELD_MAX];
    copy_text(name, sizeof name, field);
    memset(err, 0, sizeof *err);
    err->code = code;
    memcpy(err->field, name, sizeof name);
    copy_text(err->message, sizeof err->message, message);
    return code;
}

void esp_show(char *out, size_t out_bytes, const char *at, size_t bytes) {
    size_t count = bytes < out_bytes ? bytes : out_bytes - 1;
    for (size_t i = 0; i < count; i++)
        out[i] = at[i] < 0x20 || at[i] > 0x7e ? '?' : at[i];
    out[count] = 0;
    if (count < bytes) memcpy(out + count - 3, "...", 3);
}

esp_code esp_fail(esp_error *err, esp_code code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fill(err, code, "", format, args);
    va_end(args);
    return code;
}

esp_code esp_fail_field(esp_error *err, esp_code code, const char *field, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fill(err, code, field, format, args);
    va_end(args);
    return code;
}

/* One row a code: gRPC's spelling (grpc/doc/statuscodes.md) and the exit status of a command. */
static const struct {
    const char *name;
    int exit_status;
} codes[] = {
    [ESP_OK] = {"OK", EX_OK},
    [ESP_CANCELLED] = {"CANCELLED", EX_TEMPFAIL},
    [ESP_UNKNOWN] = {"UNKNOWN", EX_SOFTWARE},
    [ESP_INVALID] = {"INVALID_ARGUMENT", EX_DATAERR},
    [ESP_DEADLINE] = {"DEADLINE_EXCEEDED", EX_TEMPFAIL},
    [ESP_NOT_FOUND] = {"NOT_FOUND", EX_NOINPUT},
    [ESP_EXISTS] = {"ALREADY_EXISTS", EX_CANTCREAT},
    [ESP_DENIED] = {"PERMISSION_DENIED", EX_NOPERM},
    [ESP_EXHAUSTED] = {"RESOURCE_EXHAUSTED", EX_TEMPFAIL},
    [ESP_PRECONDITION] = {"FAILED_PRECONDITION", EX_CONFIG},
    [ESP_ABORTED] = {"ABORTED", EX_TEMPFAIL},
    [ESP_OUT_OF_RANGE] = {"OUT_OF_RANGE", EX_USAGE},
    [ESP_UNIMPLEMENTED] = {"UNIMPLEMENTED", EX_UNAVAILABLE},
    [ESP_INTERNAL] = {"INTERNAL", EX_SOFTWARE},
    [ESP_UNAVAILABLE] = {"UNAVAILABLE", EX_UNAVAILABLE},
    [ESP_DATA_LOSS] = {"DATA_LOSS", EX_DATAERR},
    [ESP_UNAUTHENTICATED] = {"UNAUTHENTICATED", EX_NOPERM},
};
enum { CODE_COUNT = sizeof codes / sizeof codes[0] };

const char *esp_code_name(esp_code code) {
    return (unsigned)code < CODE_COUNT ? codes[code].name : "UNKNOWN";
}

int esp_exit_status(esp_code code) {
    return (unsigned)code < CODE_COUNT ? codes[code].exit_status : EX_SOFTWARE;
}

_Noreturn void esp_assert_failed(const char *expression, const char *file, int line) {
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, expression);
    abort();
}
