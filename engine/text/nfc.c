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

/* Code points that a canonical decomposition makes of one byte of UTF-8: 1 of 1, 3 of 2 (U+0390), 4
 * of 3 (U+1F82); and room for the last character. */
enum { POINTS_PER_BYTE = 2, POINTS_SLACK = 4 };

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

/* Code points of the text; options: UTF8PROC_DECOMPOSE or 0. */
static size_t decompose(tok_text text, int32_t *points, size_t capacity,
                        utf8proc_option_t options) {
    size_t count = 0;
    for (size_t at = 0; at < text.bytes;) {
        int32_t point;
        int boundary = 0;
        utf8proc_ssize_t used = utf8proc_iterate((const uint8_t *)text.at + at,
                                                 (utf8proc_ssize_t)(text.bytes - at), &point);
        ESP_ASSERT(used > 0);
        utf8proc_ssize_t made = utf8proc_decompose_char(
            point, points + count, (utf8proc_ssize_t)(capacity - count), options, &boundary);
        ESP_ASSERT(made > 0 && (size_t)made <= capacity - count);
        count += (size_t)made;
        at += (size_t)used;
    }
    return count;
}

/* Returns how many code points there is room for, utf8proc's closing NUL left out. */
static size_t reserve(nfc_buffer *buffer, tok_text text) {
    size_t needed = text.bytes * POINTS_PER_BYTE + POINTS_SLACK;
    if (needed > buffer->capacity) {
        buffer->points = mem_resize(buffer->points, needed, sizeof *buffer->points);
        buffer->capacity = needed;
    }
    return needed - 1;
}

tok_text nfc_of(nfc_buffer *buffer, tok_text text) {
    if (!may_change(text)) return text;
    size_t room = reserve(buffer, text);
    size_t count = decompose(text, buffer->points, room, UTF8PROC_DECOMPOSE);
    order_marks(buffer, buffer->points, count);
    utf8proc_ssize_t bytes = utf8proc_reencode(buffer->points, (utf8proc_ssize_t)count,
                                               UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    ESP_ASSERT(bytes >= 0);
    return (tok_text){(const char *)buffer->points, (size_t)bytes};
}

const int32_t *nfc_points(nfc_buffer *buffer, tok_text text, bool decomposed, size_t *count) {
    size_t room = reserve(buffer, text);
    *count = decompose(text, buffer->points, room, decomposed ? UTF8PROC_DECOMPOSE : 0);
    if (decomposed) order_marks(buffer, buffer->points, *count);
    return buffer->points;
}
