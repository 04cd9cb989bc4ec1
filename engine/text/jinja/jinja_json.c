/* jinja_json.c - the tojson filter of chat templates: Python's json.dumps, no HTML escapes.
 *
 * Default separators are ", " and ": "; with an indent "," ends a line. Non-ASCII characters stay
 * unless ensure_ascii is asked for. */
// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja/jinja_value.h"

typedef struct json_style {
    jrun *run;
    jbuffer *out;
    bool ascii, sorted;
    bool lines;          /* one element a line */
    const jtext *indent; /* of one level */
    const jtext *comma, *colon;
    uint32_t level;
} json_style;

static void put_value(json_style *s, jvalue value);

static void put_escaped(json_style *s, uint32_t point, bool plain) {
    char text[16];
    const char *shorts = "\"\"\\\\\nn\rr\tt\bb\ff", *at = shorts;
    while (*at && (uint8_t)*at != point)
        at += 2;
    if (*at && point)
        snprintf(text, sizeof text, "\\%c", at[1]);
    else if (point < 0x10000)
        snprintf(text, sizeof text, "\\u%04x", point);
    else
        snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD800 + ((point - 0x10000) >> 10),
                 0xDC00 + (point & 0x3FF));
    jbuffer_put(s->run, s->out, text, strlen(text), plain);
}

static bool needs_escape(const json_style *s, uint32_t point) {
    return point < 0x20 || point == '"' || point == '\\' || (s->ascii && point >= 0x80);
}

static void put_string(json_style *s, const jtext *text) {
    uint32_t span = 0, point;
    jbuffer_put_literal(s->run, s->out, "\"");
    for (uint32_t i = 0, bytes; i < text->bytes; i += bytes) {
        bytes = jtext_char(text, i, &point);
        bool plain = jtext_plain_at(text, i, &span);
        if (needs_escape(s, point))
            put_escaped(s, point, plain);
        else
            jbuffer_put(s->run, s->out, text->at + i, bytes, plain);
    }
    jbuffer_put_literal(s->run, s->out, "\"");
}

static void put_number(json_style *s, jvalue value) {
    char text[40];
    if (value.kind == J_INT)
        snprintf(text, sizeof text, "%" PRId64, value.integer);
    else if (isfinite(value.real))
        jinja_print_float(value.real, text);
    else
        strcpy(text, isnan(value.real) ? "NaN" : value.real < 0 ? "-Infinity" : "Infinity");
    jbuffer_put(s->run, s->out, text, strlen(text), value.plain);
}

static void put_scalar(json_style *s, jvalue value) {
    if (value.kind == J_NONE)
        jbuffer_put_literal(s->run, s->out, "null");
    else if (value.kind == J_BOOL)
        jbuffer_put_literal(s->run, s->out, value.truth ? "true" : "false");
    else
        put_number(s, value);
}

static void new_line(json_style *s) {
    if (!s->lines) return;
    jbuffer_put_literal(s->run, s->out, "\n");
    for (uint32_t i = 0; i < s->level; i++)
        jbuffer_put_text(s->run, s->out, s->indent);
}

static void before_element(json_style *s, uint32_t index) {
    if (index == 0)
        s->level++;
    else
        jbuffer_put_text(s->run, s->out, s->comma);
    new_line(s);
}

static void after_elements(json_style *s, uint32_t count) {
    if (count == 0) return;
    s->level--;
    new_line(s);
}

static void put_list(json_style *s, const jlist *list) {
    jbuffer_put_literal(s->run, s->out, "[");
    for (uint32_t i = 0; i < list->count; i++) {
        before_element(s, i);
        put_value(s, list->at[i]);
    }
    after_elements(s, list->count);
    jbuffer_put_literal(s->run, s->out, "]");
}

static void put_key(json_style *s, jvalue key) {
    if (key.kind == J_STRING) {
        put_string(s, key.text);
        return;
    }
    if (!jvalue_is_number(key) && key.kind != J_NONE)
        jinja_fail(s->run, "keys must be str, int, float, bool or None, not %s", jvalue_type(key));
    jbuffer_put_literal(s->run, s->out, "\"");
    put_scalar(s, key);
    jbuffer_put_literal(s->run, s->out, "\"");
}

/* Merge sort of pairs by key; by Python's order, which may fail. */
static void sort_pairs(jrun *run, jpair *at, jpair *spare, uint32_t count) {
    if (count < 2) return;
    uint32_t half = count / 2, i = 0, j = half;
    sort_pairs(run, at, spare, half);
    sort_pairs(run, at + half, spare, count - half);
    for (uint32_t k = 0; k < count; k++) {
        bool right = i == half || (j < count && jvalue_order(run, at[j].key, at[i].key, "<") == -1);
        spare[k] = right ? at[j++] : at[i++];
    }
    memcpy(at, spare, count * sizeof *at);
}

static const jpair *pairs_in_order(json_style *s, const jdict *dict) {
    if (!s->sorted || dict->count < 2) return dict->at;
    jpair *at = jinja_take(s->run, dict->count, sizeof *at);
    jpair *spare = jinja_take(s->run, dict->count, sizeof *spare);
    memcpy(at, dict->at, dict->count * sizeof *at);
    sort_pairs(s->run, at, spare, dict->count);
    return at;
}

static void put_dict(json_style *s, const jdict *dict) {
    const jpair *pairs = pairs_in_order(s, dict);
    jbuffer_put_literal(s->run, s->out, "{");
    for (uint32_t i = 0; i < dict->count; i++) {
        before_element(s, i);
        put_key(s, pairs[i].key);
        jbuffer_put_text(s->run, s->out, s->colon);
        put_value(s, pairs[i].value);
    }
    after_elements(s, dict->count);
    jbuffer_put_literal(s->run, s->out, "}");
}

static void put_value(json_style *s, jvalue value) {
    jinja_enter(s->run);
    jinja_charge(s->run, 1);
    bool is_list = value.kind == J_LIST && value.list->flavour <= JF_TUPLE;
    if (value.kind == J_STRING)
        put_string(s, value.text);
    else if (is_list)
        put_list(s, value.list);
    else if (value.kind == J_DICT)
        put_dict(s, value.dict);
    else if (value.kind == J_NONE || jvalue_is_number(value))
        put_scalar(s, value);
    else
        jinja_fail(s->run, "Object of type %s is not JSON serializable", jvalue_type(value));
    jinja_leave(s->run);
}

static void set_indent(json_style *s, jvalue indent) {
    if (indent.kind == J_MISSING || indent.kind == J_NONE) return;
    s->lines = true;
    s->comma = jtext_literal(s->run, ",");
    if (indent.kind == J_STRING) {
        s->indent = indent.text;
        return;
    }
    int64_t spaces = jinja_int_or(s->run, indent, 0);
    if (spaces > 64) jinja_fail(s->run, "tojson: indent is %" PRId64 ", at most 64", spaces);
    s->indent = jtext_cut(s->run,
                          jtext_literal(s->run, "                                        "
                                                "                        "),
                          0, spaces > 0 ? (uint64_t)spaces : 0);
}

static void set_separators(json_style *s, jvalue separators) {
    if (separators.kind == J_MISSING || separators.kind == J_NONE) return;
    const jlist *two = jvalue_iterate(s->run, separators);
    if (two->count != 2 || two->at[0].kind != J_STRING || two->at[1].kind != J_STRING)
        jinja_fail(s->run, "tojson: separators wants two strings");
    s->comma = two->at[0].text;
    s->colon = two->at[1].text;
}

jvalue jinja_tojson(jrun *run, jvalue value, const jargs *args) {
    jvalue slots[4];
    jinja_bind(run, "tojson", "ensure_ascii indent separators sort_keys", args, slots);
    json_style style = {.run = run,
                        .out = jbuffer_new(run),
                        .ascii = jinja_truth_or(slots[0], false),
                        .sorted = jinja_truth_or(slots[3], false),
                        .indent = jtext_literal(run, ""),
                        .comma = jtext_literal(run, ", "),
                        .colon = jtext_literal(run, ": ")};
    set_indent(&style, slots[1]);
    set_separators(&style, slots[2]);
    put_value(&style, value);
    return jvalue_text(jbuffer_text(run, style.out));
}
