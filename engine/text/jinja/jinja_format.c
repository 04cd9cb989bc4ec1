/* jinja_format.c - str() and repr(). */
// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja/jinja_node.h"

/* ---- numbers ---- */

/* The fewest digits that read back as the same number, as "d.ddde[+-]xx". */
static void shortest_digits(double real, char *text, size_t bytes) {
    for (int digits = 0; digits <= 16; digits++) {
        snprintf(text, bytes, "%.*e", digits, real);
        if (strtod(text, NULL) == real) return;
    }
}

/* Digits with the point behind the first `whole` of them; zeros fill what is missing. */
static void place_point(char *text, const char *digits, int count, int whole) {
    if (whole <= 0) {
        text += sprintf(text, "0.%.*s", -whole, "0000");
        memcpy(text, digits, (size_t)count + 1);
        return;
    }
    for (int i = 0; i < whole; i++)
        *text++ = i < count ? digits[i] : '0';
    *text++ = '.';
    if (whole < count)
        memcpy(text, digits + whole, (size_t)(count - whole) + 1);
    else
        memcpy(text, "0", 2);
}

void jinja_print_float(double real, char *text) {
    char shortest[40], digits[24];
    if (!isfinite(real)) {
        strcpy(text, isnan(real) ? "nan" : real < 0 ? "-inf" : "inf");
        return;
    }
    shortest_digits(real, shortest, sizeof shortest);
    char *at = shortest, *exponent = strchr(shortest, 'e');
    if (*at == '-') *text++ = *at++;
    int power = atoi(exponent + 1), count = 0;
    for (; at < exponent; at++)
        if (*at != '.') digits[count++] = *at;
    digits[count] = 0;
    if (power >= -4 && power < 16) {
        place_point(text, digits, count, power + 1);
        return;
    }
    sprintf(text, count > 1 ? "%c.%se%c%02d" : "%c%se%c%02d", digits[0], digits + 1,
            power < 0 ? '-' : '+', abs(power));
}

static void print_number(jrun *run, jbuffer *out, jvalue value) {
    char text[40];
    if (value.kind == J_INT)
        snprintf(text, sizeof text, "%" PRId64, value.integer);
    else
        jinja_print_float(value.real, text);
    jbuffer_put(run, out, text, strlen(text), value.plain);
}

/* ---- repr ---- */

static void escape_point(jrun *run, jbuffer *out, uint32_t point, bool plain) {
    char text[12];
    if (point == '\n')
        strcpy(text, "\\n");
    else if (point == '\r')
        strcpy(text, "\\r");
    else if (point == '\t')
        strcpy(text, "\\t");
    else if (point < 0x100)
        snprintf(text, sizeof text, "\\x%02x", point);
    else
        snprintf(text, sizeof text, point < 0x10000 ? "\\u%04x" : "\\U%08x", point);
    jbuffer_put(run, out, text, strlen(text), plain);
}

static void repr_text(jrun *run, jbuffer *out, const jtext *text) {
    bool single = text->bytes && memchr(text->at, '\'', text->bytes);
    bool both = single && memchr(text->at, '"', text->bytes);
    char quote = single && !both ? '"' : '\'';
    uint32_t span = 0, point;
    jbuffer_put(run, out, &quote, 1, false);
    for (uint32_t i = 0, bytes; i < text->bytes; i += bytes) {
        bytes = jtext_char(text, i, &point);
        bool plain = jtext_plain_at(text, i, &span);
        if (point == '\\' || point == (uint8_t)quote) jbuffer_put(run, out, "\\", 1, plain);
        if (jinja_is_printable(point))
            jbuffer_put(run, out, text->at + i, bytes, plain);
        else
            escape_point(run, out, point, plain);
    }
    jbuffer_put(run, out, &quote, 1, false);
}

static void repr_elements(jrun *run, jbuffer *out, const jlist *list) {
    for (uint32_t i = 0; i < list->count; i++) {
        if (i) jbuffer_put_literal(run, out, ", ");
        jinja_repr(run, out, list->at[i]);
    }
}

static void repr_list(jrun *run, jbuffer *out, const jlist *list) {
    bool tuple = list->flavour == JF_TUPLE;
    if (list->flavour == JF_GENERATOR || list->flavour == JF_RANGE)
        jinja_fail(run, "a %s has no text of its own; it wants `| list` or `| join` first",
                   jvalue_type((jvalue){.kind = J_LIST, .list = (jlist *)(uintptr_t)list}));
    if (list->flavour == JF_ITEMS) jbuffer_put_literal(run, out, "dict_items(");
    if (list->flavour == JF_KEYS) jbuffer_put_literal(run, out, "dict_keys(");
    if (list->flavour == JF_VALUES) jbuffer_put_literal(run, out, "dict_values(");
    jbuffer_put_literal(run, out, tuple ? "(" : "[");
    repr_elements(run, out, list);
    jbuffer_put_literal(run, out, tuple ? (list->count == 1 ? ",)" : ")") : "]");
    if (list->flavour >= JF_ITEMS) jbuffer_put_literal(run, out, ")");
}

static void repr_dict(jrun *run, jbuffer *out, const jdict *dict) {
    jbuffer_put_literal(run, out, "{");
    for (uint32_t i = 0; i < dict->count; i++) {
        if (i) jbuffer_put_literal(run, out, ", ");
        jinja_repr(run, out, dict->at[i].key);
        jbuffer_put_literal(run, out, ": ");
        jinja_repr(run, out, dict->at[i].value);
    }
    jbuffer_put_literal(run, out, "}");
}

static void repr_object(jrun *run, jbuffer *out, jvalue value) {
    char text[64];
    switch (value.kind) {
    case J_NAMESPACE:
        jbuffer_put_literal(run, out, "<Namespace ");
        repr_dict(run, out, value.dict);
        jbuffer_put_literal(run, out, ">");
        return;
    case J_LOOP:
        snprintf(text, sizeof text, "<LoopContext %u/%u>", value.loop->index0 + 1,
                 value.loop->items->count);
        jbuffer_put_literal(run, out, text);
        return;
    case J_MACRO:
        jbuffer_put_literal(run, out, "<Macro ");
        jinja_repr(run, out, jvalue_text(value.macro->node->name));
        jbuffer_put_literal(run, out, ">");
        return;
    default:
        jinja_fail(run, "a %s has no text of its own; call it", jvalue_type(value));
    }
}

void jinja_repr(jrun *run, jbuffer *out, jvalue value) {
    jinja_enter(run);
    switch (value.kind) {
    case J_UNDEFINED:
        jbuffer_put_literal(run, out, "Undefined");
        break;
    case J_NONE:
        jbuffer_put_literal(run, out, "None");
        break;
    case J_BOOL:
        jbuffer_put_literal(run, out, value.truth ? "True" : "False");
        break;
    case J_INT:
    case J_FLOAT:
        print_number(run, out, value);
        break;
    case J_STRING:
        repr_text(run, out, value.text);
        break;
    case J_LIST:
        repr_list(run, out, value.list);
        break;
    case J_DICT:
        repr_dict(run, out, value.dict);
        break;
    default:
        repr_object(run, out, value);
        break;
    }
    jinja_leave(run);
}

/* ---- str ---- */

void jinja_print(jrun *run, jbuffer *out, jvalue value) {
    if (value.kind == J_STRING)
        jbuffer_put_text(run, out, value.text);
    else if (value.kind != J_UNDEFINED)
        jinja_repr(run, out, value);
}

const jtext *jvalue_string(jrun *run, jvalue value) {
    if (value.kind == J_STRING) return value.text;
    jbuffer *out = jbuffer_new(run);
    jinja_print(run, out, value);
    return jbuffer_text(run, out);
}

const char *jtext_chars_of(jrun *run, const jtext *text) {
    char *chars = jinja_take(run, (uint64_t)text->bytes + 1, 1);
    if (text->bytes) memcpy(chars, text->at, text->bytes);
    return chars;
}

const char *jinja_repr_chars(jrun *run, jvalue value) {
    jbuffer *out = jbuffer_new(run);
    jinja_repr(run, out, value);
    return jtext_chars_of(run, jbuffer_text(run, out));
}
