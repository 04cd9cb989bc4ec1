/* pre_pattern.c - one pass over the pattern; what is not known to mean the same is refused. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/pre_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/text/newer_categories.h"
#include "engine/text/newer_unicode.h"

/* Members of a class. */
#define SPACE "\\t-\\r\\x{85}\\p{Z}"
#define MARK "\\p{M}" NEWER_MARKS
#define DIGIT "\\p{Nd}" NEWER_ND
/* Alphabetic, marks, decimal digits, connectors (Unicode's word characters); the ranges are letters in
 * circles and squares, and Latin-1's small numbers, which Oniguruma counts in. */
#define WORD                                                                                       \
    "\\p{L}" NEWER_LETTERS MARK DIGIT "\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{" \
    "1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}"                                                       \
    "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"

typedef struct property {
    const char *name, *members;
} property;

/* Mn and Mc are left out: a character has changed from one to the other since. */
static const property properties[] = {
    {"L", "\\p{L}" NEWER_LETTERS},
    {"M", MARK},
    {"N", "\\p{N}" NEWER_NUMBERS},
    {"P", "\\p{P}" NEWER_PD NEWER_PO},
    {"S", "\\p{S}" NEWER_SM NEWER_SO},
    {"Z", "\\p{Z}"},
    {"Lu", "\\p{Lu}" NEWER_LU},
    {"Ll", "\\p{Ll}" NEWER_LL},
    {"Lt", "\\p{Lt}"},
    {"Lm", "\\p{Lm}" NEWER_LM},
    {"Lo", "\\p{Lo}" NEWER_LO},
    {"Me", "\\p{Me}"},
    {"Nd", DIGIT},
    {"Nl", "\\p{Nl}"},
    {"No", "\\p{No}" NEWER_NO},
    {"Pc", "\\p{Pc}"},
    {"Pd", "\\p{Pd}" NEWER_PD},
    {"Ps", "\\p{Ps}"},
    {"Pe", "\\p{Pe}"},
    {"Pi", "\\p{Pi}"},
    {"Pf", "\\p{Pf}"},
    {"Po", "\\p{Po}" NEWER_PO},
    {"Sm", "\\p{Sm}" NEWER_SM},
    {"Sc", "\\p{Sc}"},
    {"Sk", "\\p{Sk}"},
    {"So", "\\p{So}" NEWER_SO},
    {"Zs", "\\p{Zs}"},
    {"Zl", "\\p{Zl}"},
    {"Zp", "\\p{Zp}"},
    {"Han", "\\p{sc:Han}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}\\x{2B739}"},
    {"Hiragana", "\\p{sc:Hiragana}\\x{1B132}"},
    {"Katakana", "\\p{sc:Katakana}\\x{1B155}"},
    {"Hangul", "\\p{sc:Hangul}"},
};

/* A pattern on its way. */
typedef struct translation {
    tok_text in;
    size_t at;
    char *out;
    size_t count, capacity;
    bool in_class;
    esp_error *err;
} translation;

static void put(translation *t, const char *text, size_t bytes) {
    if (t->count + bytes + 1 > t->capacity) {
        t->capacity = 2 * (t->count + bytes + 1);
        t->out = mem_resize(t->out, t->capacity, 1);
    }
    memcpy(t->out + t->count, text, bytes);
    t->count += bytes;
    t->out[t->count] = 0;
}

static void put_text(translation *t, const char *text) { put(t, text, strlen(text)); }

static esp_code refuse(const translation *t, const char *what) {
    int shown = t->in.bytes < 120 ? (int)t->in.bytes : 120;
    return esp_fail(t->err, ESP_UNIMPLEMENTED,
                    "the regular expression \"%.*s\" has %s at byte %zu, which is not known here",
                    shown, t->in.at, what, t->at);
}

/* The next byte, or 0. */
static char peek(const translation *t, size_t ahead) {
    return t->at + ahead < t->in.bytes ? t->in.at[t->at + ahead] : 0;
}

static esp_code put_members(translation *t, const char *members, bool negated) {
    if (t->in_class && negated) return refuse(t, "a negated set inside a class");
    if (!t->in_class) put_text(t, negated ? "[^" : "[");
    put_text(t, members);
    if (!t->in_class) put_text(t, "]");
    return ESP_OK;
}

/* \p{...} or \P{...}; at is behind the p. */
static esp_code put_property(translation *t, bool negated) {
    const char *begin = t->in.at + t->at + 1;
    size_t left = t->in.bytes - t->at;
    const char *end = peek(t, 0) == '{' ? memchr(begin, '}', left - 1) : NULL;
    if (!end) return refuse(t, "\\p without {...}");
    size_t bytes = (size_t)(end - begin);
    if (bytes && *begin == '^') begin++, bytes--, negated = !negated;
    for (size_t i = 0; i < sizeof properties / sizeof *properties; i++) {
        if (strlen(properties[i].name) != bytes || memcmp(properties[i].name, begin, bytes) != 0)
            continue;
        t->at = (size_t)(end - t->in.at) + 1;
        return put_members(t, properties[i].members, negated);
    }
    return refuse(t, "a \\p{...}");
}

static esp_code put_unicode(translation *t) {
    for (size_t i = 0; i < 4; i++) {
        if (!memchr("0123456789abcdefABCDEF", peek(t, i), 22)) return refuse(t, "\\u");
    }
    put_text(t, "\\x{");
    put(t, t->in.at + t->at, 4);
    put_text(t, "}");
    t->at += 4;
    return ESP_OK;
}

/* at is on the letter behind the backslash. */
static esp_code put_escape(translation *t) {
    char c = peek(t, 0);
    if (c == 0) return refuse(t, "a backslash at its end or before NUL");
    t->at++;
    switch (c) {
    case 's':
    case 'S':
        return put_members(t, SPACE, c == 'S');
    case 'd':
    case 'D':
        return put_members(t, DIGIT, c == 'D');
    case 'w':
    case 'W':
        return put_members(t, WORD, c == 'W');
    case 'p':
    case 'P':
        return put_property(t, c == 'P');
    case 'u':
        return put_unicode(t);
    case 'v':
        return put_text(t, "\\x0b"), ESP_OK;
    default:
        break;
    }
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    bool same = !letter || memchr("rntfaex", c, 7) || (!t->in_class && memchr("AzZ", c, 3));
    if (!same) return t->at--, refuse(t, "an escape");
    put(t, (char[]){'\\', c}, 2);
    return ESP_OK;
}

/* A class; at is behind '['. */
static esp_code put_class(translation *t) {
    esp_code code = ESP_OK;
    bool any = false;
    put_text(t, "[");
    if (peek(t, 0) == '^') put_text(t, "^"), t->at++;
    t->in_class = true;
    for (; !code && t->at < t->in.bytes; any = true) {
        char c = t->in.at[t->at];
        if (c == ']' && any) break;
        if (c == ']') return refuse(t, "an empty class");
        if (c == '[') return refuse(t, "a class in a class");
        if (c == '&' && peek(t, 1) == '&') return refuse(t, "&&");
        t->at++;
        if (c == '\\')
            code = put_escape(t);
        else
            put(t, &c, 1);
    }
    t->in_class = false;
    if (code) return code;
    if (t->at == t->in.bytes) return refuse(t, "a class without end");
    t->at++;
    put_text(t, "]");
    return ESP_OK;
}

/* What may follow "(?". */
static bool is_known_group(const translation *t) {
    static const char *const known[] = {":", "=", "!", "<=", "<!", ">", "i:", "-i:"};
    const char *at = t->in.at + t->at + 2;
    size_t left = t->in.bytes - t->at - 2;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t bytes = strlen(known[i]);
        if (bytes <= left && memcmp(at, known[i], bytes) == 0) return true;
    }
    return t->at == 0 && left >= 2 && memcmp(at, "i)", 2) == 0;
}

/* One element outside a class. */
static esp_code put_element(translation *t) {
    char c = t->in.at[t->at];
    if (c == 0) return refuse(t, "a NUL");
    if (c == '(' && peek(t, 1) == '*') return refuse(t, "(*");
    if (c == '(' && peek(t, 1) == '?' && !is_known_group(t)) return refuse(t, "a kind of group");
    if (c == '{' && peek(t, 1) == ',') return refuse(t, "{,");
    if (c == '}' && peek(t, 1) == '+') return refuse(t, "}+");
    t->at++;
    if (c == '\\') return put_escape(t);
    if (c == '[') return put_class(t);
    put(t, &c, 1);
    return ESP_OK;
}

esp_code pre_pattern_translate(tok_text pattern, char **out, esp_error *err) {
    translation t = {.in = pattern, .err = err};
    *out = NULL;
    if (pattern.bytes == 0 || pattern.bytes > PRE_PATTERN_MAX)
        return esp_fail(err, ESP_INVALID, "a regular expression has %zu bytes; wanted 1 to %d",
                        pattern.bytes, PRE_PATTERN_MAX);
    esp_code code = ESP_OK;
    while (!code && t.at < pattern.bytes)
        code = put_element(&t);
    if (code) return free(t.out), code;
    *out = t.out;
    return ESP_OK;
}

/* The subject is validated by the caller; checking it again at every match would be quadratic. ^ and $
 * are at lines' ends, as in Ruby. */
esp_code pre_pattern_compile(const char *pattern, pcre2_code **out, esp_error *err) {
    int error;
    PCRE2_SIZE offset;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    ESP_ASSERT(context);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    *out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK | PCRE2_MULTILINE, &error,
                         &offset, context);
    pcre2_compile_context_free(context);
    if (!*out) {
        char reason[120];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)reason, sizeof reason);
        return esp_fail(err, ESP_INVALID, "the regular expression \"%.120s\" fails at byte %zu: %s",
                        pattern, offset, reason);
    }
    /* Where the kernel forbids making code, PCRE2 interprets: slower, same matches. */
    (void)pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);
    return ESP_OK;
}
