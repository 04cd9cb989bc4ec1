/* jinja_text.c - strings that know which of their bytes came from data.
 *
 * A string shares memory where it can: a slice points into what it was cut from, and a string that
 * ends where its buffer ends grows there, so that `s = s + x` in a loop takes linear time. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "engine/base/check.h"
#include "engine/text/jinja/jinja_value.h"
#include "engine/text/utf8.h"

/* ---- building ---- */

jbuffer *jbuffer_new(jrun *run) { return jinja_take(run, 1, sizeof(jbuffer)); }

/* Room for more bytes; what strings show of the old memory stays as it was. */
static void reserve(jrun *run, jbuffer *buffer, uint64_t more) {
    uint64_t need;
    if (!check_add(buffer->bytes, more, &need) || need > JINJA_VALUE_BYTES_MAX)
        jinja_fail(run, "a string takes more than %d MiB", JINJA_VALUE_BYTES_MAX >> 20);
    if (need <= buffer->room) return;
    uint64_t room = need + need / 2 + 32;
    char *at = jinja_take(run, room, 1);
    if (buffer->bytes) memcpy(at, buffer->at, buffer->bytes);
    buffer->at = at;
    buffer->room = (uint32_t)room;
}

static void add_span(jrun *run, jbuffer *buffer, uint32_t begin, uint32_t end) {
    if (begin == end) return;
    uint32_t count = buffer->plain_count;
    if (count > buffer->plain_fixed && buffer->plain[count - 1].end == begin) {
        buffer->plain[count - 1].end = end;
        return;
    }
    if (count == buffer->plain_room) {
        uint32_t room = count * 2 + 2;
        jspan *plain = jinja_take(run, room, sizeof *plain);
        if (count) memcpy(plain, buffer->plain, count * sizeof *plain);
        buffer->plain = plain;
        buffer->plain_room = room;
    }
    buffer->plain[buffer->plain_count++] = (jspan){begin, end};
}

void jbuffer_put(jrun *run, jbuffer *buffer, const char *at, uint64_t bytes, bool plain) {
    jinja_charge_bytes(run, bytes);
    reserve(run, buffer, bytes);
    if (bytes) memcpy(buffer->at + buffer->bytes, at, bytes);
    uint32_t begin = buffer->bytes;
    buffer->bytes += (uint32_t)bytes;
    if (plain) add_span(run, buffer, begin, buffer->bytes);
}

void jbuffer_put_literal(jrun *run, jbuffer *buffer, const char *literal) {
    jbuffer_put(run, buffer, literal, strlen(literal), false);
}

void jbuffer_put_text(jrun *run, jbuffer *buffer, const jtext *text) {
    uint32_t base = buffer->bytes;
    jbuffer_put(run, buffer, text->at, text->bytes, false);
    jinja_charge(run, text->plain_count / 4);
    for (uint32_t i = 0; i < text->plain_count; i++)
        add_span(run, buffer, base + text->plain[i].begin, base + text->plain[i].end);
}

void jbuffer_put_point(jrun *run, jbuffer *buffer, uint32_t point, bool plain) {
    char at[4];
    size_t bytes = 0;
    if (point < 0x80) {
        at[bytes++] = (char)point;
    } else if (point < 0x800) {
        at[bytes++] = (char)(0xC0 | point >> 6);
        at[bytes++] = (char)(0x80 | (point & 0x3F));
    } else if (point < 0x10000) {
        at[bytes++] = (char)(0xE0 | point >> 12);
        at[bytes++] = (char)(0x80 | (point >> 6 & 0x3F));
        at[bytes++] = (char)(0x80 | (point & 0x3F));
    } else {
        at[bytes++] = (char)(0xF0 | point >> 18);
        at[bytes++] = (char)(0x80 | (point >> 12 & 0x3F));
        at[bytes++] = (char)(0x80 | (point >> 6 & 0x3F));
        at[bytes++] = (char)(0x80 | (point & 0x3F));
    }
    jbuffer_put(run, buffer, at, bytes, plain);
}

const jtext *jbuffer_text(jrun *run, jbuffer *buffer) {
    jtext *text = jinja_take(run, 1, sizeof *text);
    *text = (jtext){.at = buffer->at ? buffer->at : "",
                    .plain = buffer->plain,
                    .buffer = buffer,
                    .bytes = buffer->bytes,
                    .plain_count = buffer->plain_count};
    buffer->plain_fixed = buffer->plain_count;
    return text;
}

/* ---- making ---- */

static const jspan *one_span(jrun *run, uint32_t bytes) {
    jspan *span = jinja_take(run, 1, sizeof *span);
    *span = (jspan){0, bytes};
    return span;
}

const jtext *jtext_new(jrun *run, const char *at, uint64_t bytes, bool plain) {
    if (bytes > JINJA_VALUE_BYTES_MAX)
        jinja_fail(run, "a string takes more than %d MiB", JINJA_VALUE_BYTES_MAX >> 20);
    jtext *text = jinja_take(run, 1, sizeof *text);
    *text = (jtext){.at = at, .bytes = (uint32_t)bytes};
    if (plain && bytes) {
        text->plain = one_span(run, text->bytes);
        text->plain_count = 1;
    }
    return text;
}

const jtext *jtext_literal(jrun *run, const char *literal) {
    return jtext_new(run, literal, strlen(literal), false);
}

/* The spans of text inside [begin, end), counted from begin. Returns how many; out may be NULL. */
static uint32_t cut_spans(const jtext *text, uint32_t begin, uint32_t end, jspan *out) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < text->plain_count && text->plain[i].begin < end; i++) {
        jspan span = text->plain[i];
        if (span.end <= begin) continue;
        if (span.begin < begin) span.begin = begin;
        if (span.end > end) span.end = end;
        if (out) out[count] = (jspan){span.begin - begin, span.end - begin};
        count++;
    }
    return count;
}

const jtext *jtext_cut(jrun *run, const jtext *text, uint64_t begin, uint64_t end) {
    ESP_ASSERT(begin <= end && end <= text->bytes);
    if (begin == 0 && end == text->bytes) return text;
    jinja_charge(run, 1 + text->plain_count / 4);
    jtext *part = jinja_take(run, 1, sizeof *part);
    *part = (jtext){.at = text->at + begin, .bytes = (uint32_t)(end - begin)};
    part->plain_count = cut_spans(text, (uint32_t)begin, (uint32_t)end, NULL);
    if (part->plain_count) {
        jspan *spans = jinja_take(run, part->plain_count, sizeof *spans);
        cut_spans(text, (uint32_t)begin, (uint32_t)end, spans);
        part->plain = spans;
    }
    return part;
}

static bool ends_its_buffer(const jtext *text) {
    const jbuffer *b = text->buffer;
    return b && b->at == text->at && b->bytes == text->bytes && b->plain == text->plain &&
           b->plain_count == text->plain_count;
}

const jtext *jtext_join(jrun *run, const jtext *left, const jtext *right) {
    if (right->bytes == 0) return left;
    if (left->bytes == 0) return right;
    jbuffer *buffer = left->buffer;
    if (!ends_its_buffer(left)) {
        buffer = jbuffer_new(run);
        reserve(run, buffer, (uint64_t)left->bytes + right->bytes);
        jbuffer_put_text(run, buffer, left);
    }
    jbuffer_put_text(run, buffer, right);
    return jbuffer_text(run, buffer);
}

/* ---- looking ---- */

bool jtext_equal(const jtext *a, const jtext *b) {
    return a->bytes == b->bytes && (a->bytes == 0 || memcmp(a->at, b->at, a->bytes) == 0);
}

bool jtext_is(const jtext *text, const char *literal) {
    size_t bytes = strlen(literal);
    return text->bytes == bytes && (bytes == 0 || memcmp(text->at, literal, bytes) == 0);
}

/* UTF-8's order of bytes is the order of code points. */
int jtext_compare(const jtext *a, const jtext *b) {
    uint32_t common = a->bytes < b->bytes ? a->bytes : b->bytes;
    int order = common ? memcmp(a->at, b->at, common) : 0;
    if (order) return order;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

bool jtext_any_plain(const jtext *text) { return text->plain_count > 0; }

int64_t jtext_find(jrun *run, const jtext *text, const jtext *needle, uint64_t from) {
    if (from > text->bytes) return -1;
    if (needle->bytes == 0) return (int64_t)from;
    if (needle->bytes > text->bytes - from) return -1;
    const char *at = memmem(text->at + from, text->bytes - from, needle->at, needle->bytes);
    uint64_t end = at ? (uint64_t)(at - text->at) : text->bytes;
    jinja_charge(run, (end - from + needle->bytes) / 16);
    return at ? at - text->at : -1;
}

uint32_t jtext_char(const jtext *text, uint32_t offset, uint32_t *point) {
    ESP_ASSERT(offset < text->bytes);
    const uint8_t *c = (const uint8_t *)text->at + offset;
    size_t length;
    *point = c[0];
    if (c[0] < 0x80) return 1;
    if (utf8_first((const char *)c, text->bytes - offset, &length) != UTF8_WHOLE) {
        *point = 0xFFFD;
        return 1;
    }
    *point = c[0] & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++)
        *point = *point << 6 | (c[i] & 0x3F);
    return (uint32_t)length;
}

uint32_t jtext_char_before(const jtext *text, uint32_t offset, uint32_t *point) {
    ESP_ASSERT(offset > 0 && offset <= text->bytes);
    for (uint32_t back = 1; back <= 4 && back <= offset; back++) {
        if (((uint8_t)text->at[offset - back] & 0xC0) == 0x80) continue;
        if (jtext_char(text, offset - back, point) == back) return back;
        break;
    }
    *point = 0xFFFD;
    return 1;
}

uint32_t jtext_chars(jrun *run, const jtext *text) {
    uint32_t chars = 0, point;
    jinja_charge_walk(run, text->bytes);
    for (uint32_t i = 0; i < text->bytes; i += jtext_char(text, i, &point))
        chars++;
    return chars;
}

uint32_t jtext_offset(jrun *run, const jtext *text, uint32_t chars) {
    uint32_t offset = 0, point;
    for (; chars > 0 && offset < text->bytes; chars--)
        offset += jtext_char(text, offset, &point);
    jinja_charge_walk(run, offset);
    return offset;
}

bool jtext_plain_at(const jtext *text, uint32_t offset, uint32_t *span) {
    while (*span < text->plain_count && text->plain[*span].end <= offset)
        ++*span;
    return *span < text->plain_count && text->plain[*span].begin <= offset;
}

/* ---- changing ---- */

static bool in_set(jrun *run, const jtext *set, uint32_t point) {
    if (!set) return jinja_is_space(point);
    uint32_t one;
    jinja_charge(run, set->bytes / 8);
    for (uint32_t i = 0, bytes; i < set->bytes; i += bytes) {
        bytes = jtext_char(set, i, &one);
        if (one == point) return true;
    }
    return false;
}

const jtext *jtext_strip(jrun *run, const jtext *text, const jtext *set, bool left, bool right) {
    uint32_t begin = 0, end = text->bytes, point;
    while (left && begin < end) {
        uint32_t bytes = jtext_char(text, begin, &point);
        if (!in_set(run, set, point)) break;
        begin += bytes;
    }
    while (right && begin < end) {
        uint32_t bytes = jtext_char_before(text, end, &point);
        if (!in_set(run, set, point)) break;
        end -= bytes;
    }
    uint64_t stripped = text->bytes - (end - begin);
    jinja_charge(run, 1 + stripped / 8);
    return jtext_cut(run, text, begin, end);
}

/* What is put in place of data is data: a client must not choose where a control token goes. */
static void put_in_place(jrun *run, jbuffer *out, const jtext *text, jspan place, const jtext *to,
                         uint32_t *span) {
    while (*span < text->plain_count && text->plain[*span].end <= place.begin)
        ++*span;
    if (*span < text->plain_count && text->plain[*span].begin < place.end)
        jbuffer_put(run, out, to->at, to->bytes, true);
    else
        jbuffer_put_text(run, out, to);
}

static const char *entity(char c) {
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '\'':
        return "&#39;";
    case '"':
        return "&#34;";
    default:
        return NULL;
    }
}

const jtext *jtext_escape(jrun *run, const jtext *text) {
    jbuffer *out = jbuffer_new(run);
    uint32_t begin = 0, span = 0;
    for (uint32_t i = 0; i < text->bytes; i++) {
        const char *put = entity(text->at[i]);
        if (!put) continue;
        jbuffer_put_text(run, out, jtext_cut(run, text, begin, i));
        jbuffer_put(run, out, put, strlen(put), jtext_plain_at(text, i, &span));
        begin = i + 1;
    }
    jbuffer_put_text(run, out, jtext_cut(run, text, begin, text->bytes));
    return jbuffer_text(run, out);
}

/* "" lies before each character and at the end. */
static const jtext *put_between(jrun *run, const jtext *text, const jtext *to, int64_t limit) {
    jbuffer *out = jbuffer_new(run);
    uint32_t offset = 0, point;
    for (int64_t done = 0; limit < 0 || done < limit; done++) {
        jbuffer_put_text(run, out, to);
        if (offset == text->bytes) break;
        uint32_t bytes = jtext_char(text, offset, &point);
        jbuffer_put_text(run, out, jtext_cut(run, text, offset, offset + bytes));
        offset += bytes;
    }
    jbuffer_put_text(run, out, jtext_cut(run, text, offset, text->bytes));
    return jbuffer_text(run, out);
}

const jtext *jtext_replace(jrun *run, const jtext *text, const jtext *from, const jtext *to,
                           int64_t limit) {
    if (limit == 0) return text;
    if (from->bytes == 0) return put_between(run, text, to, limit);
    int64_t found = jtext_find(run, text, from, 0);
    if (found < 0) return text;
    jbuffer *out = jbuffer_new(run);
    uint32_t offset = 0, span = 0;
    for (int64_t done = 0; found >= 0 && (limit < 0 || done < limit); done++) {
        uint32_t at = (uint32_t)found, end = at + from->bytes;
        jbuffer_put_text(run, out, jtext_cut(run, text, offset, at));
        put_in_place(run, out, text, (jspan){at, end}, to, &span);
        offset = end;
        found = jtext_find(run, text, from, offset);
    }
    jbuffer_put_text(run, out, jtext_cut(run, text, offset, text->bytes));
    return jbuffer_text(run, out);
}
