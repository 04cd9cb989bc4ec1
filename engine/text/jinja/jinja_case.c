/* jinja_case.c - upper and lower case, white space and what is printable, as Python has them.
 *
 * The tables are utf8proc's; it maps one character to one, so the few characters that become
 * several are listed in jinja_case_table.h, and the sigma at a word's end is decided here. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <utf8proc.h>

#include "engine/text/jinja/jinja_case_table.h"
#include "engine/text/jinja/jinja_value.h"

bool jinja_is_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

bool jinja_is_printable(uint32_t c) {
    switch (utf8proc_category((int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    case UTF8PROC_CATEGORY_ZS:
        return c == ' ';
    default:
        return true;
    }
}

static int compare_row(const void *key, const void *row) {
    uint32_t point = *(const uint32_t *)key, at = ((const jcase_row *)row)->point;
    return point < at ? -1 : point > at;
}

static const jcase_row *find_row(uint32_t point) {
    return bsearch(&point, jcase_rows, sizeof jcase_rows / sizeof *jcase_rows, sizeof *jcase_rows,
                   compare_row);
}

static void put_points(jrun *run, jbuffer *out, const uint16_t points[3], bool plain) {
    for (int i = 0; i < 3 && points[i]; i++)
        jbuffer_put_point(run, out, points[i], plain);
}

static void put_upper(jrun *run, jbuffer *out, uint32_t point, bool plain) {
    const jcase_row *row = find_row(point);
    if (row)
        put_points(run, out, row->upper, plain);
    else
        jbuffer_put_point(run, out, (uint32_t)utf8proc_toupper((int32_t)point), plain);
}

static void put_title(jrun *run, jbuffer *out, uint32_t point, bool plain) {
    const jcase_row *row = find_row(point);
    if (row)
        put_points(run, out, row->title, plain);
    else
        jbuffer_put_point(run, out, (uint32_t)utf8proc_totitle((int32_t)point), plain);
}

/* ---- sigma: U+03C3 inside a word, U+03C2 at its end (Unicode 3.13, Final_Sigma) ---- */

static bool is_cased(uint32_t c) {
    utf8proc_category_t category = utf8proc_category((int32_t)c);
    return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
           category == UTF8PROC_CATEGORY_LT;
}

static bool is_ignored(uint32_t c) {
    static const uint16_t marks[] = {0x27,   0x2E,   0x3A,   0xB7,   0x387,  0x55F,
                                     0x5F4,  0x2018, 0x2019, 0x2024, 0x2027, 0xFE13,
                                     0xFE52, 0xFE55, 0xFF07, 0xFF0E, 0xFF1A};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (c == marks[i]) return true;
    switch (utf8proc_category((int32_t)c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return false;
    }
}

static bool cased_before(jrun *run, const jtext *text, uint32_t offset) {
    uint32_t point;
    while (offset > 0) {
        offset -= jtext_char_before(text, offset, &point);
        jinja_charge(run, 1);
        if (!is_ignored(point)) return is_cased(point);
    }
    return false;
}

static bool cased_after(jrun *run, const jtext *text, uint32_t offset) {
    uint32_t point;
    while (offset < text->bytes) {
        offset += jtext_char(text, offset, &point);
        jinja_charge(run, 1);
        if (!is_ignored(point)) return is_cased(point);
    }
    return false;
}

static uint32_t sigma(jrun *run, const jtext *text, uint32_t offset) {
    bool at_end = cased_before(run, text, offset) && !cased_after(run, text, offset + 2);
    return at_end ? 0x3C2 : 0x3C3;
}

static void put_lower(jrun *run, jbuffer *out, const jtext *text, uint32_t offset, uint32_t point,
                      bool plain) {
    if (point == 0x3A3) {
        jbuffer_put_point(run, out, sigma(run, text, offset), plain);
    } else if (point == 0x130) {
        jbuffer_put_point(run, out, 'i', plain);
        jbuffer_put_point(run, out, 0x307, plain);
    } else {
        jbuffer_put_point(run, out, (uint32_t)utf8proc_tolower((int32_t)point), plain);
    }
}

typedef enum target_case { UPPER, LOWER, CAPITALIZED } target_case;

static const jtext *change_case(jrun *run, const jtext *text, target_case target) {
    jbuffer *out = jbuffer_new(run);
    uint32_t span = 0, point;
    for (uint32_t i = 0, bytes; i < text->bytes; i += bytes) {
        bytes = jtext_char(text, i, &point);
        bool plain = jtext_plain_at(text, i, &span);
        if (bytes == 1 && point == 0xFFFD)
            jbuffer_put(run, out, text->at + i, 1, plain);
        else if (target == UPPER)
            put_upper(run, out, point, plain);
        else if (target == CAPITALIZED && i == 0)
            put_title(run, out, point, plain);
        else
            put_lower(run, out, text, i, point, plain);
    }
    return jbuffer_text(run, out);
}

const jtext *jtext_upper(jrun *run, const jtext *text) { return change_case(run, text, UPPER); }
const jtext *jtext_lower(jrun *run, const jtext *text) { return change_case(run, text, LOWER); }
const jtext *jtext_capitalize(jrun *run, const jtext *text) {
    return change_case(run, text, CAPITALIZED);
}

bool jtext_has_case(const jtext *text, bool upper) {
    bool seen = false;
    uint32_t point;
    for (uint32_t i = 0; i < text->bytes;) {
        i += jtext_char(text, i, &point);
        if (!is_cased(point)) continue;
        if ((utf8proc_category((int32_t)point) == UTF8PROC_CATEGORY_LU) != upper) return false;
        seen = true;
    }
    return seen;
}

bool jinja_is_cased(uint32_t point) { return is_cased(point); }

bool jinja_is_letter_or_number(uint32_t point) {
    utf8proc_category_t category = utf8proc_category((int32_t)point);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
           (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
}
