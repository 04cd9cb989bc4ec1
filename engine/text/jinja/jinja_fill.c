/* jinja_fill.c - texts with places to fill: "%s" % x, the format filter and str.format.
 *
 * Of Python's formatting language only what templates use: %s %d %r %% and {} {0} {name} {{ }}.
 * Widths, precisions, attributes in fields and conversions fail by a sentence. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "engine/text/jinja/jinja_value.h"

/* ---- % ---- */

static void put_percent(jrun *run, jbuffer *out, char field, jvalue value) {
    if (field == 'r') {
        jinja_repr(run, out, value);
    } else if (field == 's') {
        jinja_print(run, out, value);
    } else {
        if (!jvalue_is_number(value))
            jinja_fail(run, "%%%c format: a real number is required, not %s", field,
                       jvalue_type(value));
        if (value.kind == J_FLOAT && !(value.real > -9e18 && value.real < 9e18))
            jinja_fail(run, "%%%c format: the number does not fit 64 bits", field);
        jvalue whole =
            jvalue_int(value.kind == J_FLOAT ? (int64_t)value.real : jvalue_integer(value));
        whole.plain = value.plain;
        jinja_print(run, out, whole);
    }
}

static jvalue fill_percent(jrun *run, const jtext *format, const jlist *values, bool may_be_left) {
    jbuffer *out = jbuffer_new(run);
    uint32_t used = 0, begin = 0;
    const jtext *percent = jtext_literal(run, "%");
    for (int64_t at; (at = jtext_find(run, format, percent, begin)) >= 0;
         begin = (uint32_t)at + 2) {
        jbuffer_put_text(run, out, jtext_cut(run, format, begin, (uint64_t)at));
        char field = (uint32_t)at + 1 < format->bytes ? format->at[at + 1] : 0;
        if (!field) jinja_fail(run, "incomplete format");
        if (field == '%') {
            jbuffer_put_text(run, out, jtext_cut(run, format, (uint64_t)at, (uint64_t)at + 1));
            continue;
        }
        if (!strchr("sdir", field))
            jinja_fail(run, "of the %% formats only %%s, %%d, %%i, %%r and %%%% are supported");
        if (used == values->count) jinja_fail(run, "not enough arguments for format string");
        put_percent(run, out, field, values->at[used++]);
    }
    if (used < values->count && !may_be_left)
        jinja_fail(run, "not all arguments converted during string formatting");
    jbuffer_put_text(run, out, jtext_cut(run, format, begin, format->bytes));
    return jvalue_text(jbuffer_text(run, out));
}

jvalue jinja_percent(jrun *run, const jtext *format, jvalue values) {
    if (values.kind == J_LIST && values.list->flavour == JF_TUPLE)
        return fill_percent(run, format, values.list, false);
    jlist *one = jlist_new(run, JF_TUPLE);
    jlist_push(run, one, values);
    bool may_be_left =
        values.kind == J_DICT || (values.kind == J_LIST && values.list->flavour == JF_LIST);
    return fill_percent(run, format, one, may_be_left);
}

jvalue jinja_percent_args(jrun *run, const jtext *format, const jargs *args) {
    if (args->named_count) jinja_fail(run, "format: named values are not supported");
    jlist *values = jlist_new(run, JF_TUPLE);
    for (uint32_t i = 0; i < args->count; i++)
        jlist_push(run, values, args->at[i]);
    return fill_percent(run, format, values, false);
}

/* ---- str.format ---- */

static bool all_digits(const jtext *text) {
    for (uint32_t i = 0; i < text->bytes; i++)
        if (!jinja_is_digit(text->at[i])) return false;
    return text->bytes > 0 && text->bytes < 9;
}

static jvalue field_value(jrun *run, const jtext *field, const jargs *args, uint32_t *next) {
    uint32_t index = 0;
    if (field->bytes && !all_digits(field)) {
        for (uint32_t i = 0; i < args->named_count; i++)
            if (jtext_equal(args->named[i].name, field)) return args->named[i].value;
        if (memchr(field->at, ':', field->bytes) || memchr(field->at, '!', field->bytes) ||
            memchr(field->at, '.', field->bytes) || memchr(field->at, '[', field->bytes))
            jinja_fail(run, "format: only {}, {0} and {name} are supported");
        jinja_fail(run, "%s", jinja_repr_chars(run, jvalue_text(field)));
    }
    for (uint32_t i = 0; i < field->bytes; i++)
        index = index * 10 + (uint32_t)(field->at[i] - '0');
    if (field->bytes == 0) index = (*next)++;
    if (index >= args->count) jinja_fail(run, "tuple index out of range");
    return args->at[index];
}

/* The field that begins behind a { at `at`; returns where its } is. */
static uint32_t put_field(jrun *run, jbuffer *out, const jtext *format, uint32_t at,
                          const jargs *args, uint32_t *next) {
    const char *close = memchr(format->at + at, '}', format->bytes - at);
    if (!close) jinja_fail(run, "expected '}' before end of string");
    uint32_t end = (uint32_t)(close - format->at);
    jinja_print(run, out, field_value(run, jtext_cut(run, format, at, end), args, next));
    return end;
}

jvalue jinja_fill_format(jrun *run, jvalue self, const jargs *args) {
    const jtext *format = self.text;
    jbuffer *out = jbuffer_new(run);
    uint32_t next = 0;
    for (uint32_t i = 0; i < format->bytes; i++) {
        char c = format->at[i];
        bool doubled = i + 1 < format->bytes && format->at[i + 1] == c;
        if (c == '{' && !doubled) {
            i = put_field(run, out, format, i + 1, args, &next);
            continue;
        }
        if (c == '}' && !doubled) jinja_fail(run, "Single '}' encountered in format string");
        jbuffer_put_text(run, out, jtext_cut(run, format, i, i + 1u));
        i += c == '{' || c == '}';
    }
    return jvalue_text(jbuffer_text(run, out));
}
