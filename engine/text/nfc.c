/* nfc.c - decompose (utf8proc's tables), put combining marks in order, compose (utf8proc).
 *
 * The ordering is ours: utf8proc's sorts by insertion, which a megabyte of marks in falling order
 * would make quadratic; a counting sort over the 256 combining classes does not care. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/nfc.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/base/mem.h"

/* Code points that one character may decompose into (U+FDFA: 18), and room for utf8proc. */
enum { POINTS_SLACK = 32 };

void nfc_free(nfc_buffer *buffer) {
    free(buffer->points);
    free(buffer->sorted);
    *buffer = (nfc_buffer){0};
}

/* Below U+0300 (lead byte 0xcc) every character is composed already and none combines. */
static bool may_change(tok_text text) {
    for (size_t i = 0; i < text.bytes; i++) {
        if ((uint8_t)text.at[i] >= 0xcc) return true;
    }
    return false;
}

static uint32_t class_of(int32_t point) {
    return (uint32_t)utf8proc_get_property(point)->combining_class;
}

/* Stable counting sort of a run of marks by combining class. */
static void sort_run(nfc_buffer *buffer, int32_t *run, size_t count) {
    size_t starts[257] = {0};
    if (count > buffer->sorted_capacity) {
        buffer->sorted_capacity = count;
        buffer->sorted = mem_resize(buffer->sorted, count, sizeof *buffer->sorted);
    }
    for (size_t i = 0; i < count; i++)
        starts[class_of(run[i]) + 1]++;
    for (int c = 1; c < 257; c++)
        starts[c] += starts[c - 1];
    for (size_t i = 0; i < count; i++)
        buffer->sorted[starts[class_of(run[i])]++] = run[i];
    memcpy(run, buffer->sorted, count * sizeof *run);
}

static void order_marks(nfc_buffer *buffer, int32_t *points, size_t count) {
    for (size_t i = 0; i < count;) {
        size_t begin = i;
        while (i < count && class_of(points[i]) != 0)
            i++;
        if (i - begin > 1) sort_run(buffer, points + begin, i - begin);
        if (i == begin) i++;
    }
}

/* Code points whose decomposition the reference's older tables lack. */
static bool stays(int32_t point, utf8proc_option_t options) {
    static const int32_t later[][2] = {
        {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},   {0xab69, 0xab69},
        {0x10781, 0x10785}, {0x10787, 0x107b0}, {0x107b2, 0x107ba},
        {0x1e030, 0x1e06d}, {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9},
    };
    if (point == 0x11938) return true;
    if (!(options & UTF8PROC_COMPAT)) return false;
    for (size_t i = 0; point >= 0x32ff && i < sizeof later / sizeof *later; i++) {
        if (point >= later[i][0] && point <= later[i][1]) return true;
    }
    return false;
}

/* Room for the next character's code points and utf8proc's closing NUL. */
static void reserve(nfc_buffer *buffer, size_t count) {
    if (count + POINTS_SLACK <= buffer->capacity) return;
    buffer->capacity = 2 * (count + POINTS_SLACK);
    buffer->points = mem_resize(buffer->points, buffer->capacity, sizeof *buffer->points);
}

/* Code points of the text into the buffer; options: UTF8PROC_DECOMPOSE, ..COMPAT or 0. */
static size_t decompose(nfc_buffer *buffer, tok_text text, utf8proc_option_t options) {
    size_t count = 0;
    for (size_t at = 0; at < text.bytes;) {
        int32_t point;
        int boundary = 0;
        utf8proc_ssize_t used = utf8proc_iterate((const uint8_t *)text.at + at,
                                                 (utf8proc_ssize_t)(text.bytes - at), &point);
        ESP_ASSERT(used > 0);
        reserve(buffer, count);
        utf8proc_ssize_t room = (utf8proc_ssize_t)(buffer->capacity - count - 1);
        utf8proc_ssize_t made = utf8proc_decompose_char(
            point, buffer->points + count, room, stays(point, options) ? 0 : options, &boundary);
        ESP_ASSERT(made > 0 && made <= room);
        count += (size_t)made;
        at += (size_t)used;
    }
    reserve(buffer, count);
    return count;
}

tok_text nfc_of(nfc_buffer *buffer, tok_text text) { return nfc_form(buffer, text, true, false); }

/* Below U+0080 no form changes anything. */
static bool is_ascii(tok_text text) {
    for (size_t i = 0; i < text.bytes; i++) {
        if ((uint8_t)text.at[i] >= 0x80) return false;
    }
    return true;
}

tok_text nfc_form(nfc_buffer *buffer, tok_text text, bool composed, bool compatible) {
    bool same = composed && !compatible ? !may_change(text) : is_ascii(text);
    if (same) return text;
    utf8proc_option_t options = UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
    size_t count = decompose(buffer, text, options);
    order_marks(buffer, buffer->points, count);
    utf8proc_option_t how = UTF8PROC_STABLE | (composed ? UTF8PROC_COMPOSE : 0);
    utf8proc_ssize_t bytes = utf8proc_reencode(buffer->points, (utf8proc_ssize_t)count, how);
    ESP_ASSERT(bytes >= 0);
    return (tok_text){(const char *)buffer->points, (size_t)bytes};
}

const int32_t *nfc_points(nfc_buffer *buffer, tok_text text, bool decomposed, size_t *count) {
    *count = decompose(buffer, text, decomposed ? UTF8PROC_DECOMPOSE : 0);
    if (decomposed) order_marks(buffer, buffer->points, *count);
    return buffer->points;
}
