/* normalize.c - each step reads one text and writes the next. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/normalize.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/base/mem.h"
#include "engine/text/letter_case.h"
#include "engine/text/pre_pattern.h"
#include "engine/text/spaced_text.h"
#include "engine/text/utf8.h"

typedef struct normal_step {
    tok_normal_kind kind;
    bool left, right;
    char *text, *pattern;
    size_t text_bytes, pattern_bytes;
    pcre2_code *code; /* TOK_REPLACE by a regular expression */
    charsmap map;
} normal_step;

struct normalizer {
    uint32_t count;
    normal_step steps[TOK_STEPS_MAX];
};

/* ---- opening ---- */

static esp_code open_replace(normal_step *step, const tok_normal *from, esp_error *err) {
    char *translated = NULL;
    if (!from->is_regex && from->pattern.bytes == 0)
        return esp_fail(err, ESP_INVALID, "a text to replace is empty");
    if (!from->is_regex) return ESP_OK;
    esp_code code = pre_pattern_translate(from->pattern, &translated, err);
    if (!code) code = pre_pattern_compile(translated, &step->code, err);
    free(translated);
    return code;
}

static esp_code open_step(normal_step *step, const tok_normal *from, esp_error *err) {
    *step = (normal_step){.kind = from->kind, .left = from->left, .right = from->right};
    step->text = mem_copy_text(from->text.at ? from->text.at : "", from->text.bytes);
    step->text_bytes = from->text.bytes;
    if (from->kind == TOK_CHARSMAP)
        return charsmap_open(&step->map, from->pattern.at, from->pattern.bytes, err);
    step->pattern = mem_copy_text(from->pattern.at ? from->pattern.at : "", from->pattern.bytes);
    step->pattern_bytes = from->pattern.bytes;
    return from->kind == TOK_REPLACE ? open_replace(step, from, err) : ESP_OK;
}

esp_code normalizer_open(normalizer **out, const tok_plan *plan, esp_error *err) {
    ESP_ASSERT(out && plan && plan->normal_count <= TOK_STEPS_MAX);
    *out = NULL;
    normalizer *n = mem_new(1, sizeof *n);
    for (uint32_t i = 0; i < plan->normal_count; i++) {
        esp_code code = open_step(&n->steps[n->count++], &plan->normals[i], err);
        if (code) return normalizer_close(n), code;
    }
    *out = n;
    return ESP_OK;
}

bool normalizer_does_nothing(const normalizer *n) { return !n || n->count == 0; }

void normalizer_close(normalizer *n) {
    if (!n) return;
    for (uint32_t i = 0; i < n->count; i++) {
        free(n->steps[i].text);
        free(n->steps[i].pattern);
        pcre2_code_free(n->steps[i].code);
        charsmap_close(&n->steps[i].map);
    }
    free(n);
}

void normal_free(normal_buffer *buffer) {
    free(buffer->texts[0].at);
    free(buffer->texts[1].at);
    nfc_free(&buffer->nfc);
    *buffer = (normal_buffer){0};
}

/* ---- the steps ---- */

/* One step's work. */
typedef struct step_run {
    const normal_step *step;
    tok_text in;
    normal_text *out;
    bool goes_on;
    esp_error *err;
} step_run;

static esp_code add(step_run *r, const char *at, size_t bytes) {
    normal_text *out = r->out;
    if (bytes > NORMAL_BYTES_MAX - out->count)
        return esp_fail(r->err, ESP_INVALID, "a text grows beyond %d bytes when it is normalised",
                        NORMAL_BYTES_MAX);
    if (out->count + bytes > out->capacity) {
        out->capacity = 2 * (out->count + bytes);
        out->at = mem_resize(out->at, out->capacity, 1);
    }
    if (bytes) memcpy(out->at + out->count, at, bytes);
    out->count += bytes;
    return ESP_OK;
}

static esp_code add_point(step_run *r, int32_t point) {
    char bytes[4];
    size_t count = (size_t)utf8proc_encode_char(point, (uint8_t *)bytes);
    return add(r, bytes, count);
}

/* Bytes of the first character, which is put into *point. */
static size_t first_point(tok_text text, int32_t *point) {
    utf8proc_ssize_t used =
        utf8proc_iterate((const uint8_t *)text.at, (utf8proc_ssize_t)text.bytes, point);
    ESP_ASSERT(used > 0);
    return (size_t)used;
}

static tok_text rest_of(tok_text text, size_t at) {
    return (tok_text){text.at + at, text.bytes - at};
}

static esp_code lower(step_run *r) {
    esp_code code = ESP_OK;
    for (size_t at = 0; !code && at < r->in.bytes;) {
        int32_t point, lowered[LETTER_CASE_MAX];
        at += first_point(rest_of(r->in, at), &point);
        size_t count = letter_lower(point, lowered);
        for (size_t i = 0; !code && i < count; i++)
            code = add_point(r, lowered[i]);
    }
    return code;
}

static esp_code drop_marks(step_run *r) {
    esp_code code = ESP_OK;
    for (size_t at = 0; !code && at < r->in.bytes;) {
        int32_t point;
        size_t bytes = first_point(rest_of(r->in, at), &point);
        if (!letter_is_mark(point)) code = add(r, r->in.at + at, bytes);
        at += bytes;
    }
    return code;
}

static esp_code strip_spaces(step_run *r) {
    size_t begin = 0, end = r->in.bytes, space;
    while (r->step->left && (space = utf8_space_prefix(r->in.at + begin, end - begin)))
        begin += space;
    while (r->step->right && (space = utf8_space_suffix(r->in.at + begin, end - begin)))
        end -= space;
    return add(r, r->in.at + begin, end - begin);
}

static esp_code prepend(step_run *r) {
    esp_code code = ESP_OK;
    if (r->in.bytes && !r->goes_on) code = add(r, r->step->text, r->step->text_bytes);
    return code ? code : add(r, r->in.at, r->in.bytes);
}

static esp_code replace_literal(step_run *r) {
    const normal_step *step = r->step;
    esp_code code = ESP_OK;
    for (size_t at = 0; !code && at < r->in.bytes;) {
        tok_text rest = rest_of(r->in, at);
        const char *found = memmem(rest.at, rest.bytes, step->pattern, step->pattern_bytes);
        size_t plain = found ? (size_t)(found - rest.at) : rest.bytes;
        code = add(r, rest.at, plain);
        at += plain;
        if (!found || code) break;
        code = add(r, step->text, step->text_bytes);
        at += step->pattern_bytes;
    }
    return code;
}

static esp_code refuse_match(const step_run *r, int found) {
    return esp_fail(r->err, ESP_INVALID, "the normaliser's \"%.120s\" gave up on a text (PCRE2 %d)",
                    r->step->pattern, found);
}

/* Matches that are not empty give way to the text. */
static esp_code replace_matches(step_run *r, pcre2_match_data *match, pcre2_match_context *limits) {
    esp_code code = ESP_OK;
    size_t at = 0, from = 0;
    while (!code && from <= r->in.bytes) {
        int found = pcre2_match(r->step->code, (PCRE2_SPTR)r->in.at, r->in.bytes, from,
                                PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, match, limits);
        if (found == PCRE2_ERROR_NOMATCH) break;
        if (found < 0) return refuse_match(r, found);
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(match);
        code = add(r, r->in.at + at, span[0] - at);
        if (!code) code = add(r, r->step->text, r->step->text_bytes);
        from = at = span[1];
    }
    return code ? code : add(r, r->in.at + at, r->in.bytes - at);
}

static esp_code replace_regex(step_run *r) {
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    ESP_ASSERT(match && limits);
    size_t limit = 1000 + 16 * r->in.bytes;
    pcre2_set_match_limit(limits, limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
    esp_code code = replace_matches(r, match, limits);
    pcre2_match_data_free(match);
    pcre2_match_context_free(limits);
    return code;
}

static esp_code map_characters(step_run *r, tok_text grapheme) {
    esp_code code = ESP_OK;
    for (size_t at = 0, length; !code && at < grapheme.bytes; at += length) {
        tok_text replacement;
        (void)utf8_first(grapheme.at + at, grapheme.bytes - at, &length);
        bool found =
            charsmap_find_first(&r->step->map, (tok_text){grapheme.at + at, length}, &replacement);
        code = found ? add(r, replacement.at, replacement.bytes) : add(r, grapheme.at + at, length);
    }
    return code;
}

/* The library looks a short grapheme up as a whole, by the first key that it begins with, and puts the
 * replacement in the whole grapheme's place; else it goes by characters. */
enum { GRAPHEME_BYTES = 6 };

static esp_code map_grapheme(step_run *r, tok_text grapheme) {
    tok_text replacement;
    if (grapheme.bytes < GRAPHEME_BYTES &&
        charsmap_find_first(&r->step->map, grapheme, &replacement))
        return add(r, replacement.at, replacement.bytes);
    return map_characters(r, grapheme);
}

static esp_code map_graphemes(step_run *r) {
    esp_code code = ESP_OK;
    int32_t state = 0, before, point;
    size_t begin = 0, at = r->in.bytes ? first_point(r->in, &before) : 0;
    while (!code && begin < r->in.bytes) {
        size_t bytes = at < r->in.bytes ? first_point(rest_of(r->in, at), &point) : 0;
        if (bytes == 0 || utf8proc_grapheme_break_stateful(before, point, &state)) {
            code = map_grapheme(r, (tok_text){r->in.at + begin, at - begin});
            begin = at;
        }
        before = point;
        at += bytes;
    }
    return code;
}

static esp_code run_step(step_run *r) {
    switch (r->step->kind) {
    case TOK_LOWERCASE:
        return lower(r);
    case TOK_STRIP_ACCENTS:
        return drop_marks(r);
    case TOK_STRIP_SPACES:
        return strip_spaces(r);
    case TOK_PREPEND:
        return prepend(r);
    case TOK_REPLACE:
        return r->step->code ? replace_regex(r) : replace_literal(r);
    case TOK_CHARSMAP:
        return map_graphemes(r);
    case TOK_NFC:
    case TOK_NFD:
    case TOK_NFKC:
    case TOK_NFKD:
        break;
    }
    ESP_ASSERT(!"a step without a row");
    return ESP_INTERNAL;
}

static bool is_form(tok_normal_kind kind) {
    return kind == TOK_NFC || kind == TOK_NFD || kind == TOK_NFKC || kind == TOK_NFKD;
}

esp_code normalizer_apply(const normalizer *n, normal_buffer *buffer, tok_text text, bool goes_on,
                          tok_text *out, esp_error *err) {
    uint32_t written = 0; /* steps that wrote: what the last one did is read by the next */
    for (uint32_t i = 0; i < n->count; i++) {
        const normal_step *step = &n->steps[i];
        bool composed = step->kind == TOK_NFC || step->kind == TOK_NFKC;
        bool compatible = step->kind == TOK_NFKC || step->kind == TOK_NFKD;
        normal_text *next = &buffer->texts[written % 2];
        step_run run = {step, text, next, goes_on, err};
        next->count = 0;
        if (is_form(step->kind)) {
            tok_text formed = nfc_form(&buffer->nfc, text, composed, compatible);
            if (formed.at == text.at) continue;
            run.in = formed; /* copied, because the next form is written in its place */
        }
        esp_code code = is_form(step->kind) ? add(&run, run.in.at, run.in.bytes) : run_step(&run);
        if (code) return code;
        text = (tok_text){next->at ? next->at : "", next->count};
        written++;
    }
    *out = text;
    return ESP_OK;
}
