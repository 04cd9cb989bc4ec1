/* pre_cut.c - one text through the stages of a pretokenizer.
 *
 * A stage sees a piece, finds segments (matches and what lies between them), joins or drops them as its
 * behaviour says, and hands each to the next stage. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/text/bert_words.h"
#include "engine/text/pre_inner.h"
#include "engine/text/utf8.h"

struct pre_cutter {
    const pretokenizer *pre;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    const pre_visitor *visitor; /* of the call that runs */
    pre_place place;
    struct {
        char *at; /* a piece that a stage wrote anew */
        size_t capacity;
    } written[TOK_STEPS_MAX];
    esp_error *err;
};

/* Groups of digits counted from the right look ahead to a number's end, a frame for each group. What is
 * taken is taken as it is needed; it bounds the time of such a match, too. */
enum { STACK_BYTES = 32 << 10, STACK_BYTES_MAX = 1 << 20 };

pre_cutter *pre_cutter_open(const pretokenizer *p, size_t text_bytes_max) {
    pre_cutter *cutter = mem_new(1, sizeof *cutter);
    cutter->pre = p;
    cutter->match = pcre2_match_data_create(1, NULL);
    cutter->context = pcre2_match_context_create(NULL);
    cutter->stack = pcre2_jit_stack_create(STACK_BYTES, STACK_BYTES_MAX, NULL);
    ESP_ASSERT(cutter->match && cutter->context);
    if (cutter->stack) pcre2_jit_stack_assign(cutter->context, NULL, cutter->stack);
    /* One match passes over its text a few times at most (one pass an alternative). */
    size_t limit = 1000 + 16 * text_bytes_max;
    pcre2_set_match_limit(cutter->context, limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
    return cutter;
}

void pre_cutter_close(pre_cutter *cutter) {
    if (!cutter) return;
    pcre2_match_data_free(cutter->match);
    pcre2_match_context_free(cutter->context);
    pcre2_jit_stack_free(cutter->stack);
    for (size_t i = 0; i < TOK_STEPS_MAX; i++)
        free(cutter->written[i].at);
    free(cutter);
}

static esp_code cut_stage(pre_cutter *cutter, uint32_t stage, tok_text text);

/* Hands a piece to the next stage, or to the visitor behind the last. */
static esp_code pass_on(pre_cutter *cutter, uint32_t stage, tok_text piece) {
    if (piece.bytes == 0) return ESP_OK;
    if (stage + 1 < cutter->pre->stage_count) return cut_stage(cutter, stage + 1, piece);
    return cutter->visitor->piece(cutter->visitor->arg, piece.at, piece.bytes);
}

/* ---- joining segments ---- */

/* One stage at work on one piece. A segment is held back while its neighbour may join it. */
typedef struct cut {
    pre_cutter *cutter;
    uint32_t stage;
    tok_behavior behavior;
    bool invert;
    tok_text text;
    bool holds;
    size_t held_begin, held_end;
    bool last_matched; /* the segment before was a match */
} cut;

static esp_code emit(cut *c, size_t begin, size_t end) {
    return pass_on(c->cutter, c->stage, (tok_text){c->text.at + begin, end - begin});
}

static esp_code let_go(cut *c) {
    if (!c->holds) return ESP_OK;
    c->holds = false;
    return emit(c, c->held_begin, c->held_end);
}

static esp_code hold(cut *c, size_t begin, size_t end) {
    esp_code code = let_go(c);
    c->holds = true;
    c->held_begin = begin;
    c->held_end = end;
    return code;
}

/* What the segment joins: the one that is held. */
static bool joins(const cut *c, bool matched) {
    if (!c->holds) return false;
    if (c->behavior == TOK_CONTIGUOUS) return matched == c->last_matched;
    if (c->behavior == TOK_WITH_PREVIOUS) return matched && !c->last_matched;
    return c->behavior == TOK_WITH_NEXT && !matched && c->last_matched;
}

static esp_code take_segment(cut *c, size_t begin, size_t end, bool matched) {
    if (c->invert) matched = !matched;
    if (c->behavior == TOK_ISOLATED) return emit(c, begin, end);
    if (c->behavior == TOK_REMOVED) return matched ? ESP_OK : emit(c, begin, end);
    bool join = joins(c, matched);
    c->last_matched = matched;
    if (!join) return hold(c, begin, end);
    c->held_end = end;
    return ESP_OK;
}

/* ---- finding segments ---- */

/* A match and what lies between it and the match before. */
static esp_code take_match(cut *c, size_t *at, size_t begin, size_t end) {
    esp_code code = begin > *at ? take_segment(c, *at, begin, false) : ESP_OK;
    *at = end;
    return code ? code : take_segment(c, begin, end, true);
}

static size_t behind_character(tok_text text, size_t at) {
    size_t length = 1;
    if (at < text.bytes) (void)utf8_first(text.at + at, text.bytes - at, &length);
    return at + length;
}

static esp_code refuse_match(const cut *c, size_t at, int found) {
    return esp_fail(c->cutter->err, ESP_INVALID,
                    "pre-tokenizer \"%s\" gave up %zu bytes into a text of %zu (PCRE2 %d)",
                    c->cutter->pre->name, at, c->text.bytes, found);
}

static esp_code find_matches(cut *c, const pcre2_code *pattern, size_t *at) {
    size_t from = 0;
    while (from <= c->text.bytes) {
        int found = pcre2_match(pattern, (PCRE2_SPTR)c->text.at, c->text.bytes, from,
                                PCRE2_NO_UTF_CHECK, c->cutter->match, c->cutter->context);
        if (found == PCRE2_ERROR_NOMATCH) break;
        if (found < 0) return refuse_match(c, from, found);
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(c->cutter->match);
        size_t begin = span[0], end = span[1]; /* a later stage writes over the span */
        ESP_ASSERT(begin >= from && end >= begin && end <= c->text.bytes);
        from = end > begin ? end : behind_character(c->text, end);
        if (end == begin && begin == *at && begin > 0) continue; /* right behind a match */
        esp_code code = take_match(c, at, begin, end);
        if (code) return code;
        if (from == c->text.bytes) break;
    }
    return ESP_OK;
}

static esp_code find_literal(cut *c, const pre_stage *stage, size_t *at) {
    for (;;) {
        const char *rest = c->text.at + *at;
        const char *found = memmem(rest, c->text.bytes - *at, stage->text, stage->text_bytes);
        if (!found) return ESP_OK;
        size_t begin = (size_t)(found - c->text.at);
        esp_code code = take_match(c, at, begin, begin + stage->text_bytes);
        if (code) return code;
    }
}

static esp_code find_punctuation(cut *c, size_t *at) {
    for (size_t i = 0, length; i < c->text.bytes; i += length) {
        (void)utf8_first(c->text.at + i, c->text.bytes - i, &length);
        if (!bert_is_punctuation((tok_text){c->text.at + i, length})) continue;
        esp_code code = take_match(c, at, i, i + length);
        if (code) return code;
    }
    return ESP_OK;
}

static esp_code find_segments(cut *c, const pre_stage *stage, size_t *at) {
    if (stage->kind == TOK_SPLIT_LITERAL) return find_literal(c, stage, at);
    if (stage->kind == TOK_SPLIT_PUNCTUATION) return find_punctuation(c, at);
    return find_matches(c, stage->code, at);
}

/* ---- writing anew ---- */

static char *room_for(pre_cutter *cutter, uint32_t stage, size_t bytes) {
    if (bytes > cutter->written[stage].capacity) {
        cutter->written[stage].capacity = 2 * bytes;
        cutter->written[stage].at = mem_resize(cutter->written[stage].at, 2 * bytes, 1);
    }
    return cutter->written[stage].at;
}

static esp_code put_prefix(pre_cutter *cutter, uint32_t index, tok_text text) {
    const pre_stage *stage = &cutter->pre->stages[index];
    size_t bytes = stage->text_bytes;
    bool has = text.bytes >= bytes && memcmp(text.at, stage->text, bytes) == 0;
    bool here =
        stage->first_only ? cutter->place == PRE_TEXT_BEGINS : cutter->place != PRE_PIECE_GOES_ON;
    if (has || !here) return pass_on(cutter, index, text);
    char *out = room_for(cutter, index, text.bytes + bytes);
    memcpy(out, stage->text, bytes);
    memcpy(out + bytes, text.at, text.bytes);
    return pass_on(cutter, index, (tok_text){out, text.bytes + bytes});
}

static esp_code put_marks(pre_cutter *cutter, uint32_t stage, tok_text text) {
    if (!memchr(text.at, ' ', text.bytes)) return pass_on(cutter, stage, text);
    char *out = room_for(cutter, stage, text.bytes * UTF8_SPACE_MARK_BYTES);
    return pass_on(cutter, stage, (tok_text){out, utf8_spaces_to_marks(text.at, text.bytes, out)});
}

static esp_code cut_stage(pre_cutter *cutter, uint32_t index, tok_text text) {
    const pre_stage *stage = &cutter->pre->stages[index];
    if (stage->kind == TOK_SPLIT_PREFIX) return put_prefix(cutter, index, text);
    if (stage->kind == TOK_SPLIT_MARKS) return put_marks(cutter, index, text);
    cut c = {.cutter = cutter,
             .stage = index,
             .behavior = stage->behavior,
             .invert = stage->invert,
             .text = text};
    size_t at = 0;
    esp_code code = find_segments(&c, stage, &at);
    if (!code && at < text.bytes) code = take_segment(&c, at, text.bytes, false);
    return code ? code : let_go(&c);
}

esp_code pre_cut_at(pre_cutter *cutter, const char *text, size_t bytes, pre_place place,
                    const pre_visitor *visitor, esp_error *err) {
    cutter->visitor = visitor;
    cutter->place = place;
    cutter->err = err;
    if (bytes == 0) return ESP_OK;
    if (cutter->pre->stage_count == 0) return visitor->piece(visitor->arg, text, bytes);
    return cut_stage(cutter, 0, (tok_text){text, bytes});
}

esp_code pre_cut(pre_cutter *cutter, const char *text, size_t bytes, const pre_visitor *visitor,
                 esp_error *err) {
    return pre_cut_at(cutter, text, bytes, PRE_TEXT_BEGINS, visitor, err);
}
