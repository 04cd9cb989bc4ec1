/* encode.c - one text's way to ids.
 *
 *   text -> specials.c -> [text between] ->
 *
 *   gpt2       utf8.c -> [runs] -> nfc.c -> pretokenize.c -> bpe.c
 *   llama, t5  spaced_text.c -> [stretches] -> spm.c or unigram.c
 *   bert       bert_words.c -> wordpiece.c
 *
 * A plan goes its own way: specials.c -> utf8.c -> [runs] -> normalize.c -> specials.c (tokens that are looked
 * for in normalised text) -> pre_cut.c -> [pieces] -> bpe.c, unigram.c or wordpiece.c. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "engine/text/bert_words.h"
#include "engine/text/tokenizer_inner.h"
#include "engine/text/utf8.h"

/* One tok_encode call. */
typedef struct encoding {
    const tokenizer *tok;
    pre_cutter *cutter; /* gpt2 */
    bpe_scratch scratch;
    nfc_buffer nfc;
    tok_text text; /* all of it */
    const tok_encode_options *options;
    normal_buffer normal; /* of a plan */
    spaced_buffer spaced; /* llama, t5 */
    spm_scratch spm;
    unigram_scratch unigram;
    bert_words words; /* bert */
    tok_ids *out;
    uint32_t count_before; /* ids that were in out */
    uint32_t ids_max;      /* 0: no limit */
    esp_error *err;
} encoding;

static esp_code refuse_count(const encoding *e) {
    return esp_fail(e->err, ESP_INVALID, "the text has more than %u tokens, the most allowed here",
                    e->ids_max);
}

/* Ids that may still be added. */
static uint32_t ids_left(const encoding *e) {
    return e->ids_max - (e->out->count - e->count_before);
}

static esp_code check_limit(const encoding *e) {
    bool over = e->ids_max && e->out->count - e->count_before > e->ids_max;
    return over ? refuse_count(e) : ESP_OK;
}

/* A token for vocab.longest bytes at most, so that a long piece can be seen to have too many
 * before it is merged: a client pays little of our time for a hopeless megabyte. */
static bool has_too_many(const encoding *e, const char *at, size_t bytes) {
    const vocab *v = &e->tok->vocab;
    if (e->ids_max == 0) return false;
    uint64_t bytes_max = (uint64_t)ids_left(e) * v->longest, counted = 0;
    if (bytes <= bytes_max) return false;
    for (size_t i = 0; i < bytes; i++)
        counted += v->byte_ids[(uint8_t)at[i]] != VOCAB_NONE;
    return counted > bytes_max;
}

static esp_code add_id(encoding *e, int32_t id) {
    tok_ids_add(e->out, id);
    return check_limit(e);
}

static esp_code encode_piece(void *arg, const char *at, size_t bytes) {
    encoding *e = arg;
    if (has_too_many(e, at, bytes)) return refuse_count(e);
    bpe_encode(e->tok->bpe, &e->scratch, at, bytes, e->out);
    return check_limit(e);
}

/* A run of well-formed UTF-8. */
static esp_code encode_run(encoding *e, tok_text run) {
    pre_visitor visitor = {encode_piece, e};
    if (pre_wants_nfc(e->tok->pre)) run = nfc_of(&e->nfc, run);
    return pre_cut(e->cutter, run.at, run.bytes, &visitor, e->err);
}

/* Bytes that are no UTF-8: each is its own piece. */
static esp_code encode_bytes(encoding *e, tok_text bytes) {
    esp_code code = ESP_OK;
    for (size_t i = 0; !code && i < bytes.bytes; i++)
        code = encode_piece(e, bytes.at + i, 1);
    return code;
}

/* gpt2: well-formed runs are composed, cut and merged. */
static esp_code encode_byte_level(encoding *e, tok_text text) {
    esp_code code = ESP_OK;
    for (size_t at = 0; !code && at < text.bytes;) {
        size_t whole = utf8_whole_prefix(text.at + at, text.bytes - at), broken = 0;
        code = encode_run(e, (tok_text){text.at + at, whole});
        at += whole;
        if (code || at == text.bytes) break;
        (void)utf8_first(text.at + at, text.bytes - at, &broken);
        code = encode_bytes(e, (tok_text){text.at + at, broken});
        at += broken;
    }
    return code;
}

/* The stretch from `at` on up to the next space behind other text, where no token lies across: what
 * is on one side of it has no say on the other. */
static tok_text stretch_at(const vocab *v, tok_text text, size_t at) {
    size_t end = at + 1;
    for (; end < text.bytes; end++) {
        if (vocab_word_begins(v, text, end) && !v->crosses[(uint8_t)text.at[end - 1]]) break;
    }
    return (tok_text){text.at + at, end - at};
}

/* llama, t5: stretches of the spaced text, merged by score or cut by likelihood. */
static esp_code encode_spaced(encoding *e, tok_text text) {
    const tokenizer *tok = e->tok;
    tok_text spaced = spaced_of(&tok->spaced, &e->spaced, text), stretch;
    uint32_t floor = e->out->count;
    esp_code code = ESP_OK;
    for (size_t at = 0; !code && at < spaced.bytes; at += stretch.bytes) {
        stretch = stretch_at(&tok->vocab, spaced, at);
        if (tok->vocab.has_bytes && has_too_many(e, stretch.at, stretch.bytes))
            return refuse_count(e);
        if (tok->vocab.kind == VOCAB_SPM)
            spm_encode(tok->spm, &e->spm, stretch, floor, e->out);
        else
            unigram_encode(tok->unigram, &e->unigram, stretch, floor, e->out);
        code = check_limit(e);
    }
    return code;
}

static esp_code encode_word(void *arg, tok_text word, size_t characters) {
    encoding *e = arg;
    wordpiece_encode(&e->tok->wordpiece, word, characters, e->out);
    return check_limit(e);
}

static size_t without_spaces_behind(const char *text, size_t begin, size_t end) {
    for (size_t space; end > begin; end -= space) {
        space = utf8_space_suffix(text + begin, end - begin);
        if (space == 0) break;
    }
    return end;
}

static size_t behind_spaces(tok_text text, size_t at) {
    for (size_t space; at < text.bytes; at += space) {
        space = utf8_space_prefix(text.at + at, text.bytes - at);
        if (space == 0) break;
    }
    return at;
}

/* ---- a plan ---- */

/* Merged stretch by stretch where each byte has a token, so that no two stretches meet in one unknown
 * token. */
static esp_code encode_characters(encoding *e, tok_text text) {
    const vocab *v = &e->tok->vocab;
    tok_text stretch;
    esp_code code = ESP_OK;
    for (size_t at = 0; !code && at < text.bytes; at += stretch.bytes) {
        stretch = v->has_bytes && !pre_takes_whole(e->tok->pre)
                      ? stretch_at(v, text, at)
                      : (tok_text){text.at + at, text.bytes - at};
        if (v->has_bytes && has_too_many(e, stretch.at, stretch.bytes)) return refuse_count(e);
        bpe_encode(e->tok->bpe, &e->scratch, stretch.at, stretch.bytes, e->out);
        code = check_limit(e);
    }
    return code;
}

static size_t count_characters(tok_text text) {
    size_t count = 0;
    for (size_t i = 0; i < text.bytes; i++)
        count += ((uint8_t)text.at[i] & 0xc0) != 0x80;
    return count;
}

static esp_code encode_planned_piece(void *arg, const char *at, size_t bytes) {
    encoding *e = arg;
    tok_text piece = {at, bytes};
    switch (e->tok->vocab.kind) {
    case VOCAB_BPE:
        return encode_piece(e, at, bytes);
    case VOCAB_CHARS:
        return encode_characters(e, piece);
    case VOCAB_WORDPIECE:
        return encode_word(e, piece, count_characters(piece));
    case VOCAB_UNIGRAM:
        unigram_encode(e->tok->unigram, &e->unigram, piece, e->out->count, e->out);
        return check_limit(e);
    case VOCAB_SPM:
        break;
    }
    ESP_ASSERT(!"this kind has no plan");
    return ESP_INTERNAL;
}

static esp_code cut_planned(encoding *e, tok_text text, pre_place place) {
    pre_visitor visitor = {encode_planned_piece, e};
    return pre_cut_at(e->cutter, text.at, text.bytes, place, &visitor, e->err);
}

/* Normalised text: tokens that are looked for here, and what lies between them. */
static esp_code encode_normalized(encoding *e, tok_text text, pre_place place,
                                  specials_search *search) {
    size_t at = 0, begin, bytes;
    uint32_t id;
    esp_code code = ESP_OK;
    while (!code && specials_next(search, at, &begin, &bytes, &id)) {
        uint8_t strips = specials_strips(&e->tok->later, id);
        size_t end = begin, next = begin + bytes;
        if (strips & TOK_STRIP_BEFORE) end = without_spaces_behind(text.at, at, begin);
        if (strips & TOK_STRIP_AFTER) next = behind_spaces(text, next);
        code = cut_planned(e, (tok_text){text.at + at, end - at}, place);
        if (!code) code = add_id(e, (int32_t)id);
        at = next;
        place = PRE_PIECE_BEGINS;
    }
    return code ? code : cut_planned(e, (tok_text){text.at + at, text.bytes - at}, place);
}

/* A run of well-formed UTF-8. Where normalisation changed it, the spans say nothing about it any more, and
 * control tokens are looked for only if there are no spans. */
static esp_code encode_planned_run(encoding *e, tok_text run, pre_place place) {
    tok_text text;
    esp_code code = normalizer_apply(e->tok->normal, &e->normal, run, place == PRE_PIECE_GOES_ON,
                                     &text, e->err);
    if (code) return code;
    bool same = text.at == run.at;
    specials_search search = {.specials = &e->tok->later,
                              .text = text,
                              .control = e->options->parse_special &&
                                         (same || e->options->plain_count == 0),
                              .plain = e->options->plain,
                              .plain_count = e->options->plain_count,
                              .base = same ? (size_t)(run.at - e->text.at) : 0};
    return encode_normalized(e, text, place, &search);
}

static esp_code encode_broken(encoding *e, tok_text bytes) {
    if (e->tok->vocab.kind == VOCAB_BPE) return encode_bytes(e, bytes);
    if (e->tok->vocab.kind != VOCAB_WORDPIECE)
        vocab_add_unknown(&e->tok->vocab, bytes, e->out->count, e->out);
    return check_limit(e);
}

static esp_code encode_planned(encoding *e, tok_text text) {
    esp_code code = ESP_OK;
    pre_place place = text.at == e->text.at ? PRE_TEXT_BEGINS : PRE_PIECE_BEGINS;
    for (size_t at = 0; !code && at < text.bytes; place = PRE_PIECE_GOES_ON) {
        size_t whole = utf8_whole_prefix(text.at + at, text.bytes - at), broken = 0;
        if (whole) code = encode_planned_run(e, (tok_text){text.at + at, whole}, place);
        at += whole;
        if (code || at == text.bytes) break;
        (void)utf8_first(text.at + at, text.bytes - at, &broken);
        code = encode_broken(e, (tok_text){text.at + at, broken});
        at += broken;
    }
    return code;
}

/* ---- the text ---- */

/* Text without special tokens. */
static esp_code encode_between(encoding *e, tok_text text) {
    if (e->tok->planned) return encode_planned(e, text);
    if (e->tok->vocab.kind == VOCAB_BPE) return encode_byte_level(e, text);
    if (e->tok->vocab.kind != VOCAB_WORDPIECE) return encode_spaced(e, text);
    bert_visitor visitor = {encode_word, e};
    return bert_cut(&e->words, text, e->tok->uncased, &visitor);
}

static esp_code encode_text(encoding *e, tok_text text, const tok_encode_options *options) {
    specials_search search = {.specials = &e->tok->specials,
                              .text = text,
                              .control = options->parse_special,
                              .plain = options->plain,
                              .plain_count = options->plain_count};
    size_t at = 0, begin, bytes;
    uint32_t id;
    esp_code code = ESP_OK;
    while (!code && specials_next(&search, at, &begin, &bytes, &id)) {
        uint8_t strips = specials_strips(&e->tok->specials, id);
        size_t end = begin, next = begin + bytes;
        if (strips & TOK_STRIP_BEFORE) end = without_spaces_behind(text.at, at, begin);
        if (strips & TOK_STRIP_AFTER) next = behind_spaces(text, next);
        code = encode_between(e, (tok_text){text.at + at, end - at});
        if (!code) code = add_id(e, (int32_t)id);
        at = next;
    }
    return code ? code : encode_between(e, (tok_text){text.at + at, text.bytes - at});
}

static esp_code encode_all(encoding *e, tok_text text, const tok_encode_options *options) {
    esp_code code = ESP_OK;
    if (options->add_special && e->tok->add_bos) code = add_id(e, e->tok->bos);
    if (!code) code = encode_text(e, text, options);
    if (!code && options->add_special && e->tok->add_eos) code = add_id(e, e->tok->eos);
    return code;
}

static void assert_spans(const tok_encode_options *options, size_t bytes) {
    size_t end = 0;
    for (uint32_t i = 0; i < options->plain_count; i++) {
        tok_span span = options->plain[i];
        ESP_ASSERT(span.begin >= end && span.end >= span.begin && span.end <= bytes);
        end = span.end;
    }
}

esp_code tok_encode(const tokenizer *tok, const char *text, size_t bytes,
                    const tok_encode_options *options, tok_ids *out, esp_error *err) {
    ESP_ASSERT(tok && out && options && (text || bytes == 0));
    if (bytes > TOK_TEXT_BYTES_MAX)
        return esp_fail(err, ESP_INVALID, "the text has %zu bytes; at most %d are taken at once",
                        bytes, TOK_TEXT_BYTES_MAX);
    assert_spans(options, bytes);
    if (!text) text = "";
    encoding e = {.tok = tok,
                  .out = out,
                  .count_before = out->count,
                  .ids_max = options->ids_max,
                  .text = {text, bytes},
                  .options = options,
                  .err = err};
    /* NFC may lengthen a text: at most threefold (UAX #15, table of expansion factors). */
    if (tok->pre) e.cutter = pre_cutter_open(tok->pre, bytes * 3);
    esp_code code = encode_all(&e, (tok_text){text, bytes}, options);
    if (code) out->count = e.count_before;
    pre_cutter_close(e.cutter);
    bpe_scratch_free(&e.scratch);
    nfc_free(&e.nfc);
    normal_free(&e.normal);
    spaced_free(&e.spaced);
    spm_scratch_free(&e.spm);
    unigram_scratch_free(&e.unigram);
    bert_words_free(&e.words);
    return code;
}
