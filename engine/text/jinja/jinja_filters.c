/* jinja_filters.c - filters of one value: text and numbers. Those of sequences: jinja_sequence.c.
 *
 * Left out, and refused when the template is opened: those that make HTML (urlize, xmlattr,
 * striptags), random, pprint, filesizeformat, truncate, wordwrap, urlencode. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja/jinja_value.h"

/* ---- text ---- */

static jvalue upper(jrun *run, jvalue value, const jargs *args) {
    jinja_bind(run, "upper", "", args, NULL);
    return jvalue_text(jtext_upper(run, jvalue_string(run, value)));
}

static jvalue lower(jrun *run, jvalue value, const jargs *args) {
    jinja_bind(run, "lower", "", args, NULL);
    return jvalue_text(jtext_lower(run, jvalue_string(run, value)));
}

static jvalue capitalize(jrun *run, jvalue value, const jargs *args) {
    jinja_bind(run, "capitalize", "", args, NULL);
    return jvalue_text(jtext_capitalize(run, jvalue_string(run, value)));
}

/* Words begin behind white space and -({[<. */
static bool begins_word(uint32_t point) {
    return jinja_is_space(point) || (point < 0x80 && point && strchr("-({[<", (int)point));
}

static jvalue title(jrun *run, jvalue value, const jargs *args) {
    jinja_bind(run, "title", "", args, NULL);
    const jtext *text = jvalue_string(run, value);
    jbuffer *out = jbuffer_new(run);
    uint32_t begin = 0, point;
    while (begin < text->bytes) {
        uint32_t end = begin, first = jtext_char(text, begin, &point);
        bool separator = begins_word(point);
        do
            end += jtext_char(text, end, &point);
        while (end < text->bytes &&
               (jtext_char(text, end, &point), begins_word(point) == separator));
        jbuffer_put_text(run, out, jtext_upper(run, jtext_cut(run, text, begin, begin + first)));
        jbuffer_put_text(run, out, jtext_lower(run, jtext_cut(run, text, begin + first, end)));
        begin = end;
    }
    return jvalue_text(jbuffer_text(run, out));
}

static jvalue trim(jrun *run, jvalue value, const jargs *args) {
    jvalue slots[1];
    jinja_bind(run, "trim", "chars", args, slots);
    const jtext *set = slots[0].kind == J_NONE || slots[0].kind == J_MISSING
                           ? NULL
                           : jinja_text_or(run, slots[0], NULL);
    return jvalue_text(jtext_strip(run, jvalue_string(run, value), set, true, true));
}

static jvalue replace(jrun *run, jvalue value, const jargs *args) {
    jvalue slots[3];
    jinja_bind(run, "replace", "old new count", args, slots);
    if (slots[2].kind == J_NONE) slots[2] = (jvalue){0};
    if (slots[0].kind == J_MISSING || slots[1].kind == J_MISSING)
        jinja_fail(run, "replace() wants what to replace and what with");
    const jtext *from = jvalue_string(run, slots[0]), *to = jvalue_string(run, slots[1]);
    int64_t limit = jinja_int_or(run, slots[2], -1);
    return jvalue_text(jtext_replace(run, jvalue_string(run, value), from, to, limit));
}

static jvalue string(jrun *run, jvalue value, const jargs *args) {
    jinja_bind(run, "string", "", args, NULL);
    if (value.kind == J_STRING) return value;
    return jvalue_text(jvalue_string(run, value));
}

/* What one level of indentation is: a string or a number of spaces. */
static const jtext *indentation(jrun *run, jvalue width) {
    if (width.kind == J_STRING) return width.text;
    int64_t spaces = jinja_int_or(run, width, 4);
    if (spaces > 1024) jinja_fail(run, "indent: at most 1024 spaces are taken");
    jbuffer *out = jbuffer_new(run);
    for (int64_t i = 0; i < spaces; i++)
        jbuffer_put_literal(run, out, " ");
    return jbuffer_text(run, out);
}

/* The text's lines, and one empty line more where it ends in a newline. */
static jvalue indent(jrun *run, jvalue value, const jargs *args) {
    jvalue slots[3];
    jinja_bind(run, "indent", "width first blank", args, slots);
    const jtext *by = indentation(run, slots[0]), *text = jvalue_string(run, value);
    bool blank = jinja_truth_or(slots[2], false);
    const jlist *lines = jinja_lines(run, jtext_join(run, text, jtext_literal(run, "\n")), false);
    jbuffer *out = jbuffer_new(run);
    for (uint32_t i = 0; i < lines->count; i++) {
        const jtext *line = lines->at[i].text;
        if (i) jbuffer_put_literal(run, out, "\n");
        if (i ? blank || line->bytes : jinja_truth_or(slots[1], false))
            jbuffer_put_text(run, out, by);
        jbuffer_put_text(run, out, line);
    }
    return jvalue_text(jbuffer_text(run, out));
}

static jvalue center(jrun *run, jvalue value, const jargs *args) {
    jvalue slots[1];
    jinja_bind(run, "center", "width", args, slots);
    const jtext *text = jvalue_string(run, value);
    int64_t width = jinja_int_or(run, slots[0], 80), fill = width - jtext_chars(run, text);
    if (fill <= 0) return jvalue_text(text);
    int64_t before = fill / 2 + (fill & width & 1); /* as Python rounds */
    jbuffer *out = jbuffer_new(run);
    for (int64_t i = 0; i < before; i++)
        jbuffer_put_literal(run, out, " ");
    jbuffer_put_text(run, out, text);
    for (int64_t i = before; i < fill; i++)
        jbuffer_put_literal(run, out, " ");
    return jvalue_text(jbuffer_text(run, out));
}

static bool is_word(uint32_t point) {
    if (point < 0x80) return (point | 32) - 'a' < 26 || point - '0' < 10 || point == '_';
    return jinja_is_letter_or_number(point);
}

static jvalue wordcount(jrun *run, jvalue value, const jargs *args) {
    jinja_bind(run, "wordcount", "", args, NULL);
    const jtext *text = jvalue_string(run, value);
    bool inside = false;
    int64_t words = 0;
    uint32_t point;
    jinja_charge_walk(run, text->bytes);
    for (uint32_t i = 0; i < text->bytes;) {
        i += jtext_char(text, i, &point);
        bool word = is_word(point);
        words += word && !inside;
        inside = word;
    }
    return jvalue_int(words);
}

/* Already safe strings stay as they are. */
static jvalue escape(jrun *run, jvalue value, const jargs *args) {
    jinja_bind(run, "escape", "", args, NULL);
    if (value.markup) return value;
    value = jvalue_text(jtext_escape(run, jvalue_string(run, value)));
    value.markup = true;
    return value;
}

static jvalue safe(jrun *run, jvalue value, const jargs *args) {
    jinja_bind(run, "safe", "", args, NULL);
    value = jvalue_text(jvalue_string(run, value));
    value.markup = true;
    return value;
}

static jvalue format(jrun *run, jvalue value, const jargs *args) {
    return jinja_percent_args(run, jvalue_string(run, value), args);
}

/* ---- any value ---- */

static jvalue default_(jrun *run, jvalue value, const jargs *args) {
    jvalue slots[2];
    jinja_bind(run, "default", "default_value boolean", args, slots);
    bool replaced =
        value.kind == J_UNDEFINED || (jinja_truth_or(slots[1], false) && !jvalue_truth(value));
    if (!replaced) return value;
    return slots[0].kind == J_MISSING ? jvalue_literal(run, "") : slots[0];
}

static jvalue attr(jrun *run, jvalue value, const jargs *args) {
    jvalue slots[1];
    jinja_bind(run, "attr", "name", args, slots);
    const jtext *name = jinja_text_or(run, slots[0], NULL);
    if (value.kind == J_DICT) { /* attributes only, never elements */
        jvalue empty = {.kind = J_DICT, .dict = jdict_new(run)};
        jvalue own = jinja_getattr(run, empty, name);
        return own.kind == J_UNDEFINED ? jvalue_undefined(run, value, slots[0])
                                       : jinja_getattr(run, value, name);
    }
    return jinja_getattr(run, value, name);
}

/* ---- numbers ---- */

static jvalue abs_(jrun *run, jvalue value, const jargs *args) {
    jinja_bind(run, "abs", "", args, NULL);
    if (value.kind == J_UNDEFINED) jinja_fail_undefined(run, value.undefined);
    if (!jvalue_is_number(value))
        jinja_fail(run, "bad operand type for abs(): '%s'", jvalue_type(value));
    bool negative = value.kind == J_FLOAT ? signbit(value.real) != 0 : jvalue_integer(value) < 0;
    return jinja_sign(run, value, negative);
}

/* A number in text as Python's int() and float() read it: white space around, underscores between
 * digits. NUL-terminated; "" when it cannot be one. */
static const char *number_chars(jrun *run, const jtext *text) {
    const jtext *bare = jtext_strip(run, text, NULL, true, true);
    char *chars = jinja_take(run, bare->bytes + 1u, 1), *to = chars;
    for (uint32_t i = 0; i < bare->bytes; i++) {
        char c = bare->at[i];
        bool between = c == '_' && i > 0 && i + 1 < bare->bytes &&
                       jinja_is_digit(bare->at[i - 1]) && jinja_is_digit(bare->at[i + 1]);
        if (between) continue;
        if ((uint8_t)c <= ' ' || c == '_' || c == '(') return "";
        *to++ = c;
    }
    return chars;
}

static bool read_float(jrun *run, const jtext *text, double *out) {
    const char *chars = number_chars(run, text);
    char *end;
    if (!*chars || strpbrk(chars, "xX")) return false;
    *out = strtod(chars, &end);
    return *end == 0;
}

static bool read_integer(jrun *run, const jtext *text, int64_t base, int64_t *out) {
    const char *chars = number_chars(run, text), *digits = chars + (*chars == '-' || *chars == '+');
    char *end;
    if (!jinja_is_letter_or_number((uint8_t)*digits) || (uint8_t)*digits >= 0x80) return false;
    if (base == 0 && digits[0] == '0' && digits[1] && !strpbrk(digits, "xXoObB")) return false;
    if (strlen(digits) > 18 && base <= 10)
        jinja_fail(run, "%.40s does not fit a 64-bit integer", chars);
    *out = strtoll(chars, &end, (int)base);
    return *end == 0;
}

static bool whole_of(jrun *run, double real, int64_t *out) {
    if (!isfinite(real)) return false;
    if (fabs(real) >= 9.2e18) jinja_fail(run, "a float does not fit a 64-bit integer");
    *out = (int64_t)real;
    return true;
}

static jvalue int_(jrun *run, jvalue value, const jargs *args) {
    jvalue slots[2];
    jinja_bind(run, "int", "default base", args, slots);
    int64_t base = jinja_int_or(run, slots[1], 10), integer = 0;
    double real;
    if (base != 10 && base != 16 && base != 8 && base != 2)
        jinja_fail(run, "int: the base is 2, 8, 10 or 16");
    bool ok = false;
    if (value.kind == J_STRING)
        ok = read_integer(run, value.text, base, &integer) ||
             (read_float(run, value.text, &real) && whole_of(run, real, &integer));
    else if (value.kind == J_FLOAT)
        ok = whole_of(run, value.real, &integer);
    else if (value.kind == J_INT || value.kind == J_BOOL)
        integer = jvalue_integer(value), ok = true;
    else if (value.kind == J_UNDEFINED)
        jinja_fail_undefined(run, value.undefined);
    if (!ok) return slots[0].kind == J_MISSING ? jvalue_int(0) : slots[0];
    jvalue number = jvalue_int(integer);
    number.plain = value.plain || (value.kind == J_STRING && jtext_any_plain(value.text));
    return number;
}

static jvalue float_(jrun *run, jvalue value, const jargs *args) {
    jvalue slots[1];
    jinja_bind(run, "float", "default", args, slots);
    double real = 0;
    bool ok = jvalue_is_number(value);
    if (ok)
        real = jvalue_real(value);
    else if (value.kind == J_STRING)
        ok = read_float(run, value.text, &real);
    else if (value.kind == J_UNDEFINED)
        jinja_fail_undefined(run, value.undefined);
    if (!ok) return slots[0].kind == J_MISSING ? jvalue_float(0) : slots[0];
    jvalue number = jvalue_float(real);
    number.plain = value.plain || (value.kind == J_STRING && jtext_any_plain(value.text));
    return number;
}

/* Rounds the decimal digits as Python does: correctly, ties by the exact binary value. */
static double round_digits(double real, int digits) {
    char text[400];
    snprintf(text, sizeof text, "%.*f", digits, real);
    return strtod(text, NULL);
}

static double round_tens(double real, int tens) {
    double unit = pow(10, tens);
    return nearbyint(real / unit) * unit;
}

static jvalue round_(jrun *run, jvalue value, const jargs *args) {
    jvalue slots[2];
    jinja_bind(run, "round", "precision method", args, slots);
    int64_t digits = jinja_int_or(run, slots[0], 0);
    const jtext *method = jinja_text_or(run, slots[1], "common");
    if (value.kind == J_UNDEFINED) jinja_fail_undefined(run, value.undefined);
    if (!jvalue_is_number(value))
        jinja_fail(run, "type %s doesn't define __round__ method", jvalue_type(value));
    if (digits < -18 || digits > 30) jinja_fail(run, "round: the precision is -18 to 30");
    bool up = jtext_is(method, "ceil"), down = jtext_is(method, "floor");
    if (!up && !down && !jtext_is(method, "common"))
        jinja_fail(run, "method must be common, ceil or floor");
    double real = jvalue_real(value), unit = pow(10, (double)digits);
    jvalue result;
    if (up || down) {
        double whole = real * unit;
        result = jvalue_float((up ? ceil(whole) : floor(whole)) / unit);
    } else if (value.kind != J_FLOAT && digits >= 0) {
        result = jvalue_int(jvalue_integer(value));
    } else if (value.kind != J_FLOAT) {
        result = jvalue_int((int64_t)round_tens(real, (int)-digits));
    } else {
        result = jvalue_float(!isfinite(real) ? real
                              : digits < 0    ? round_tens(real, (int)-digits)
                                              : round_digits(real, (int)digits));
    }
    result.plain = value.plain;
    return result;
}

/* ---- table ---- */

const jfilter *jinja_filter(const jtext *name) {
    static const jfilter all[] = {{"abs", abs_},
                                  {"attr", attr},
                                  {"capitalize", capitalize},
                                  {"center", center},
                                  {"d", default_},
                                  {"default", default_},
                                  {"e", escape},
                                  {"escape", escape},
                                  {"safe", safe},
                                  {"float", float_},
                                  {"format", format},
                                  {"indent", indent},
                                  {"int", int_},
                                  {"lower", lower},
                                  {"replace", replace},
                                  {"round", round_},
                                  {"string", string},
                                  {"title", title},
                                  {"tojson", jinja_tojson},
                                  {"trim", trim},
                                  {"upper", upper},
                                  {"wordcount", wordcount}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (jtext_is(name, all[i].name)) return &all[i];
    return jinja_sequence_filter(name);
}
