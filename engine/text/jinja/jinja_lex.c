/* jinja_lex.c - a template's text to tokens, white space control included.
 *
 *   {{ print }}  {% block %}  {# comment #}  {% raw %} as it stands {% endraw %}
 *
 *   {%-   takes the white space before it away       -%}  that behind it
 *   {%+   keeps it                                   +%}  keeps the newline behind it
 *   {% %} and {# #}: blanks between the line's start and the tag go (lstrip_blocks), and so does one
 *   newline behind (trim_blocks). One newline at the template's end goes; \r\n and \r are \n. */
// SPDX-License-Identifier: Apache-2.0
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja/jinja_node.h"

typedef struct lexer {
    jrun *run;
    const char *at, *end;             /* what is not yet read; newlines are all \n */
    bool line_starting;               /* the last tag took its line's end with it */
    char brackets[JINJA_NESTING_MAX]; /* closing brackets that are owed, inside a tag */
    uint32_t open;
    jtokens *out;
} lexer;

/* ---- small steps ---- */

static size_t left(const lexer *l) { return (size_t)(l->end - l->at); }

static bool sees(const lexer *l, const char *text) {
    size_t bytes = strlen(text);
    return left(l) >= bytes && memcmp(l->at, text, bytes) == 0;
}

/* Passes by bytes and counts lines. */
static void pass(lexer *l, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        l->run->line += l->at[i] == '\n';
    l->line_starting = bytes ? l->at[bytes - 1] == '\n' : l->line_starting;
    l->at += bytes;
}

/* Bytes of the white space that text begins with. */
static size_t space_bytes(const char *at, const char *end) {
    jtext text = {.at = at, .bytes = (uint32_t)(end - at)};
    uint32_t offset = 0, point;
    while (offset < text.bytes) {
        uint32_t bytes = jtext_char(&text, offset, &point);
        if (!jinja_is_space(point)) break;
        offset += bytes;
    }
    return offset;
}

static jtoken *add(lexer *l, jtoken_kind kind, const jtext *text) {
    jtokens *out = l->out;
    if (out->count == out->room) {
        uint32_t room = out->room ? out->room * 2 : 64;
        jtoken *at = jinja_take(l->run, room, sizeof *at);
        if (out->count) memcpy(at, out->at, out->count * sizeof *at);
        out->at = at;
        out->room = room;
    }
    out->at[out->count] = (jtoken){.kind = (uint8_t)kind, .line = l->run->line, .text = text};
    return &out->at[out->count++];
}

/* ---- text between tags ---- */

/* Adds text that ends before a tag with that sign. */
static void add_data(lexer *l, const char *at, const char *end, char sign, bool strips_line) {
    jtext text = {.at = at, .bytes = (uint32_t)(end - at)};
    if (sign == '-') {
        text = *jtext_strip(l->run, &text, NULL, false, true);
    } else if (sign != '+' && strips_line) {
        const char *newline = memrchr(at, '\n', text.bytes);
        const char *line = newline ? newline + 1 : at;
        bool starts = newline || l->line_starting;
        if (starts && line + space_bytes(line, end) == end) text.bytes = (uint32_t)(line - at);
    }
    if (text.bytes) add(l, JT_DATA, jtext_new(l->run, text.at, text.bytes, false));
}

/* The first "{{", "{%" or "{#", or the end. */
static const char *find_tag(const lexer *l) {
    for (const char *at = l->at; (at = memchr(at, '{', (size_t)(l->end - at))); at++)
        if (at + 1 < l->end && (at[1] == '{' || at[1] == '%' || at[1] == '#')) return at;
    return l->end;
}

static char sign_of(const char *at, const char *end) {
    return at < end && (*at == '-' || *at == '+') ? *at : 0;
}

/* Behind a closing tag: the white space that sign takes, or trim_blocks' newline. */
static void pass_behind(lexer *l, char sign) {
    if (sign == '-')
        pass(l, space_bytes(l->at, l->end));
    else if (sign != '+' && sees(l, "\n"))
        pass(l, 1);
}

static void comment(lexer *l) {
    if (left(l) == 0) return; /* the reference takes a bare {# at the very end */
    const char *begin = l->at, *close = memmem(l->at, left(l), "#}", 2);
    if (!close) jinja_fail(l->run, "Missing end of comment tag");
    char sign = close > begin ? sign_of(close - 1, close) : 0;
    pass(l, (size_t)(close + 2 - begin));
    pass_behind(l, sign);
}

/* The length of "{% word %}" at `at`, up to its last '}'; 0 when it is not there. *before and
 * *behind are its signs. */
static size_t tag_of(const lexer *l, const char *at, const char *word, char *before, char *behind) {
    const char *begin = at;
    if (l->end - at < 2 || memcmp(at, "{%", 2) != 0) return 0;
    *before = sign_of(at += 2, l->end);
    at += *before != 0;
    at += space_bytes(at, l->end);
    size_t bytes = strlen(word);
    if ((size_t)(l->end - at) < bytes || memcmp(at, word, bytes) != 0) return 0;
    at += bytes;
    at += space_bytes(at, l->end);
    *behind = sign_of(at, l->end);
    at += *behind != 0;
    if (l->end - at < 2 || memcmp(at, "%}", 2) != 0) return 0;
    return (size_t)(at + 2 - begin);
}

/* Everything up to {% endraw %} as it stands. */
static void raw(lexer *l) {
    char before, behind;
    for (const char *at = l->at; (at = memmem(at, (size_t)(l->end - at), "{%", 2)); at++) {
        size_t bytes = tag_of(l, at, "endraw", &before, &behind);
        if (!bytes) continue;
        add_data(l, l->at, at, before, true);
        pass(l, (size_t)(at - l->at) + bytes);
        pass_behind(l, behind);
        return;
    }
    jinja_fail(l->run, "Missing end of raw directive");
}

/* ---- inside a tag ---- */

static bool is_name_byte(char c) { return isalnum((uint8_t)c) || c == '_' || (uint8_t)c >= 0x80; }

static uint32_t hex_value(lexer *l, const char **at, const char *end, int digits) {
    uint32_t value = 0;
    for (int i = 0; i < digits; i++, ++*at) {
        if (*at == end || !isxdigit((uint8_t) * *at))
            jinja_fail(l->run, "an escape in a string wants %d hexadecimal digits", digits);
        char c = (char)tolower((uint8_t) * *at);
        value = value * 16 + (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000))
        jinja_fail(l->run, "an escape in a string names U+%04X, which is no character", value);
    return value;
}

static uint32_t octal_value(const char **at, const char *end) {
    uint32_t value = 0;
    for (int i = 0; i < 3 && *at < end && **at >= '0' && **at <= '7'; i++, ++*at)
        value = value * 8 + (uint32_t)(**at - '0');
    return value;
}

/* One escape; *at is behind the backslash. */
static void escape(lexer *l, jbuffer *out, const char **at, const char *end) {
    static const char singles[] = "n\nt\tr\r\\\\''\"\"a\ab\bf\fv\v";
    char c = **at;
    for (const char *s = singles; *s; s += 2)
        if (c == *s) {
            ++*at;
            jbuffer_put(l->run, out, s + 1, 1, false);
            return;
        }
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits) {
        ++*at;
        jbuffer_put_point(l->run, out, hex_value(l, at, end, digits), false);
    } else if (c >= '0' && c <= '7') {
        jbuffer_put_point(l->run, out, octal_value(at, end), false);
    } else if (c == 'N') {
        jinja_fail(l->run, "\\N{...} in a string is not supported; write the character");
    } else if (c == '\n') {
        ++*at;
    } else {
        jbuffer_put(l->run, out, "\\", 1, false); /* no escape: both characters stay */
    }
}

static const jtext *string_text(lexer *l, const char *at, const char *end) {
    if (!memchr(at, '\\', (size_t)(end - at)))
        return jtext_new(l->run, at, (uint64_t)(end - at), false);
    jbuffer *out = jbuffer_new(l->run);
    while (at < end) {
        const char *slash = memchr(at, '\\', (size_t)(end - at));
        const char *stop = slash ? slash : end;
        jbuffer_put(l->run, out, at, (uint64_t)(stop - at), false);
        at = stop;
        if (!slash) break;
        at++;
        escape(l, out, &at, end);
    }
    const jtext *text = jbuffer_text(l->run, out);
    return jtext_new(l->run, text->at, text->bytes, false); /* shared by threads: never grows */
}

static void string(lexer *l) {
    char quote = *l->at;
    const char *at = l->at + 1;
    while (at < l->end && *at != quote)
        at += *at == '\\' && at + 1 < l->end ? 2 : 1;
    if (at >= l->end) jinja_fail(l->run, "a string has no closing %c", quote);
    add(l, JT_STRING, string_text(l, l->at + 1, at));
    pass(l, (size_t)(at + 1 - l->at));
}

/* Digits of a base with single underscores between them; returns where they end. */
static const char *digits_end(const char *at, const char *end, const char *allowed) {
    const char *begin = at;
    while (at < end) {
        bool underscore = *at == '_' && at > begin && at + 1 < end;
        const char *digit = at + underscore;
        if (!*digit || !strchr(allowed, tolower((uint8_t)*digit))) break;
        at = digit + 1;
    }
    return at;
}

#define DECIMAL "0123456789"

/* Where the float that begins here ends; NULL when there is none. */
static const char *float_end(const lexer *l) {
    const char *whole = digits_end(l->at, l->end, DECIMAL), *at = whole;
    if (l->at[-1] == '.') return NULL; /* a.0.1 is two elements */
    if (at + 1 < l->end && *at == '.' && isdigit((uint8_t)at[1]))
        at = digits_end(at + 1, l->end, DECIMAL);
    const char *exponent = at;
    if (exponent < l->end && (*exponent == 'e' || *exponent == 'E')) {
        exponent++;
        if (exponent < l->end && (*exponent == '+' || *exponent == '-')) exponent++;
        const char *end = digits_end(exponent, l->end, DECIMAL);
        if (end > exponent) at = end;
    }
    return at == whole ? NULL : at;
}

static const char *integer_end(const lexer *l, int *base) {
    static const char *const sets[] = {"01", "01234567", "0123456789abcdef"};
    static const int bases[] = {2, 8, 16};
    *base = 10;
    if (*l->at != '0') return digits_end(l->at, l->end, DECIMAL);
    char letter = left(l) > 2 ? (char)tolower((uint8_t)l->at[1]) : 0;
    int i = letter == 'b' ? 0 : letter == 'o' ? 1 : letter == 'x' ? 2 : -1;
    if (i >= 0) {
        const char *digits = l->at + 2 + (l->at[2] == '_');
        const char *end = digits_end(digits, l->end, sets[i]);
        if (end > digits) return *base = bases[i], end;
    }
    return digits_end(l->at, l->end, "0");
}

/* The number's characters without underscores. */
static const char *number_chars(lexer *l, const char *end) {
    char *chars = jinja_take(l->run, (uint64_t)(end - l->at) + 1, 1), *to = chars;
    for (const char *at = l->at; at < end; at++)
        if (*at != '_') *to++ = *at;
    return chars;
}

static void number(lexer *l) {
    int base;
    const char *end = float_end(l);
    if (end) {
        double real = strtod(number_chars(l, end), NULL);
        add(l, JT_FLOAT, NULL)->number = jvalue_float(real);
    } else {
        end = integer_end(l, &base);
        const char *chars = number_chars(l, end);
        errno = 0;
        int64_t integer = strtoll(chars + (base == 10 ? 0 : 2), NULL, base);
        if (errno) jinja_fail(l->run, "%s does not fit a 64-bit integer", chars);
        add(l, JT_INT, jtext_literal(l->run, chars))->number = jvalue_int(integer);
    }
    pass(l, (size_t)(end - l->at));
}

static void name(lexer *l) {
    const char *end = l->at;
    while (end < l->end && is_name_byte(*end))
        end++;
    add(l, JT_NAME, jtext_new(l->run, l->at, (uint64_t)(end - l->at), false));
    pass(l, (size_t)(end - l->at));
}

static void bracket(lexer *l, char c) {
    static const char pairs[] = "()[]{}";
    const char *pair = strchr(pairs, c);
    if (!pair) return;
    if ((pair - pairs) % 2 == 0) {
        if (l->open == JINJA_NESTING_MAX)
            jinja_fail(l->run, "more than %d brackets inside each other", JINJA_NESTING_MAX);
        l->brackets[l->open++] = pair[1];
    } else if (l->open == 0 || l->brackets[--l->open] != c) {
        jinja_fail(l->run, "unexpected '%c'", c);
    }
}

static void operator_(lexer *l) {
    static const char *const all[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                      "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                      ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (!sees(l, all[i])) continue;
        bracket(l, *all[i]);
        add(l, JT_OPERATOR, jtext_literal(l->run, all[i]));
        pass(l, strlen(all[i]));
        return;
    }
    jinja_fail(l->run, "unexpected character 0x%02x", (unsigned)(uint8_t)*l->at);
}

static void one_token(lexer *l) {
    size_t space = space_bytes(l->at, l->end);
    if (space)
        pass(l, space);
    else if (isdigit((uint8_t)*l->at))
        number(l);
    else if (is_name_byte(*l->at))
        name(l);
    else if (*l->at == '\'' || *l->at == '"')
        string(l);
    else
        operator_(l);
}

/* Ends the tag when its end is here and no bracket is open. Print tags know "-" only and keep the
 * newline behind them. */
static bool tag_end(lexer *l, bool print) {
    if (l->open) return false;
    const char *close = print ? "}}" : "%}";
    char sign = sign_of(l->at, l->end);
    if (print && sign == '+') return false;
    size_t bytes = 2 + (sign != 0);
    if (left(l) < bytes || memcmp(l->at + bytes - 2, close, 2) != 0) return false;
    add(l, print ? JT_PRINT_END : JT_BLOCK_END, NULL);
    pass(l, bytes);
    if (!print || sign == '-') pass_behind(l, sign);
    return true;
}

static void tag(lexer *l, bool print) {
    add(l, print ? JT_PRINT_BEGIN : JT_BLOCK_BEGIN, NULL);
    l->open = 0;
    while (left(l))
        if (tag_end(l, print))
            return;
        else
            one_token(l);
    jinja_fail(l->run, "a %s is not closed", print ? "{{" : "{%");
}

/* ---- the whole ---- */

static void next_part(lexer *l) {
    const char *at = find_tag(l);
    if (at == l->end) {
        add_data(l, l->at, at, '+', false);
        l->at = at;
        return;
    }
    char sign = sign_of(at + 2, l->end), before, behind;
    size_t raw_bytes = tag_of(l, at, "raw", &before, &behind);
    if (raw_bytes && behind == '+') raw_bytes = 0;
    add_data(l, l->at, at, sign, at[1] != '{');
    pass(l, (size_t)(at - l->at) + (raw_bytes ? raw_bytes : 2u + (sign != 0)));
    if (raw_bytes) {
        if (behind == '-') pass(l, space_bytes(l->at, l->end));
        raw(l);
    } else if (at[1] == '#') {
        comment(l);
    } else {
        tag(l, at[1] == '{');
    }
}

/* \r\n and \r as \n, and without the newline at the end. */
static const jtext *with_plain_newlines(jrun *run, const char *source, size_t bytes) {
    char *text = jinja_take(run, (uint64_t)bytes + 2, 1);
    *text++ = '\n'; /* so that one may look at the byte before the first */
    size_t count = 0;
    for (size_t i = 0; i < bytes; i++) {
        bool pair = source[i] == '\r' && i + 1 < bytes && source[i + 1] == '\n';
        text[count++] = source[i] == '\r' ? '\n' : source[i];
        i += pair;
    }
    if (count && text[count - 1] == '\n') count--;
    return jtext_new(run, text, count, false);
}

void jinja_lex(jrun *run, const char *source, size_t bytes, jtokens *out) {
    const jtext *text = with_plain_newlines(run, source, bytes);
    lexer l = {.run = run,
               .at = text->at,
               .end = text->at + text->bytes,
               .line_starting = true,
               .out = out};
    run->line = 1;
    while (left(&l))
        next_part(&l);
    add(&l, JT_END, NULL);
}
