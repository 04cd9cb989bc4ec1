/* utf8.c - the well-formedness table, walked byte by byte; eight at a time where all is ASCII. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/utf8.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "engine/base/status.h"

/* How a lead byte goes on: bytes in all (0: no lead byte) and what its second byte may be. */
typedef struct lead_rule {
    uint8_t length, low, high;
} lead_rule;

/* Rows of table 3-7. */
static lead_rule rule_of(uint8_t lead) {
    if (lead < 0x80) return (lead_rule){1, 0, 0};
    if (lead < 0xc2) return (lead_rule){0, 0, 0};
    if (lead < 0xe0) return (lead_rule){2, 0x80, 0xbf};
    if (lead == 0xe0) return (lead_rule){3, 0xa0, 0xbf};
    if (lead == 0xed) return (lead_rule){3, 0x80, 0x9f};
    if (lead < 0xf0) return (lead_rule){3, 0x80, 0xbf};
    if (lead == 0xf0) return (lead_rule){4, 0x90, 0xbf};
    if (lead < 0xf4) return (lead_rule){4, 0x80, 0xbf};
    if (lead == 0xf4) return (lead_rule){4, 0x80, 0x8f};
    return (lead_rule){0, 0, 0};
}

utf8_kind utf8_first(const char *text, size_t bytes, size_t *length) {
    ESP_ASSERT(bytes > 0);
    const uint8_t *at = (const uint8_t *)text;
    lead_rule rule = rule_of(at[0]);
    *length = 1;
    if (rule.length == 0) return UTF8_BROKEN;
    for (; *length < rule.length; (*length)++) {
        if (*length == bytes) return UTF8_PARTIAL;
        uint8_t low = *length == 1 ? rule.low : 0x80, high = *length == 1 ? rule.high : 0xbf;
        if (at[*length] < low || at[*length] > high) return UTF8_BROKEN;
    }
    return UTF8_WHOLE;
}

static bool eight_ascii(const char *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return (word & 0x8080808080808080u) == 0;
}

size_t utf8_whole_prefix(const char *text, size_t bytes) {
    size_t at = 0, length;
    while (at < bytes) {
        if (bytes - at >= 8 && eight_ascii(text + at)) {
            at += 8;
            continue;
        }
        if (utf8_first(text + at, bytes - at, &length) != UTF8_WHOLE) break;
        at += length;
    }
    return at;
}

size_t utf8_marks_to_spaces(const char *text, size_t bytes, char *out) {
    size_t made = 0;
    for (size_t at = 0; at < bytes;) {
        const char *mark = memmem(text + at, bytes - at, UTF8_SPACE_MARK, UTF8_SPACE_MARK_BYTES);
        size_t plain = mark ? (size_t)(mark - text) - at : bytes - at;
        memmove(out + made, text + at, plain);
        made += plain;
        at += plain;
        if (!mark) break;
        out[made++] = ' ';
        at += UTF8_SPACE_MARK_BYTES;
    }
    return made;
}

size_t utf8_spaces_to_marks(const char *text, size_t bytes, char *out) {
    size_t made = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] != ' ') {
            out[made++] = text[i];
            continue;
        }
        memcpy(out + made, UTF8_SPACE_MARK, UTF8_SPACE_MARK_BYTES);
        made += UTF8_SPACE_MARK_BYTES;
    }
    return made;
}

/* The property White_Space, stable since Unicode 6.3. */
static const char *const spaces[] = {
    " ",
    "\t",
    "\n",
    "\v",
    "\f",
    "\r",
    "\xc2\x85",
    "\xc2\xa0",
    "\xe1\x9a\x80",
    "\xe2\x80\x80",
    "\xe2\x80\x81",
    "\xe2\x80\x82",
    "\xe2\x80\x83",
    "\xe2\x80\x84",
    "\xe2\x80\x85",
    "\xe2\x80\x86",
    "\xe2\x80\x87",
    "\xe2\x80\x88",
    "\xe2\x80\x89",
    "\xe2\x80\x8a",
    "\xe2\x80\xa8",
    "\xe2\x80\xa9",
    "\xe2\x80\xaf",
    "\xe2\x81\x9f",
    "\xe3\x80\x80",
};

size_t utf8_space_prefix(const char *text, size_t bytes) {
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
        size_t length = strlen(spaces[i]);
        if (length <= bytes && memcmp(text, spaces[i], length) == 0) return length;
    }
    return 0;
}

size_t utf8_space_suffix(const char *text, size_t bytes) {
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
        size_t length = strlen(spaces[i]);
        if (length <= bytes && memcmp(text + bytes - length, spaces[i], length) == 0) return length;
    }
    return 0;
}
