/* tokenizer.c - one text's way to ids: special tokens, well-formed runs, NFC where the model wants
 * it, pieces, merges.
 *
 *   text -> specials.c -> [text between] -> utf8.c -> [runs] -> nfc.c -> pretokenize.c -> bpe.c ->
 * ids */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/text/bpe.h"
#include "engine/text/nfc.h"
#include "engine/text/pretokenize.h"
#include "engine/text/specials.h"
#include "engine/text/utf8.h"
#include "engine/text/vocab.h"

enum { EOG_MAX = 256 };

struct tokenizer {
    vocab vocab;
    specials specials;
    pretokenizer *pre;
    bpe *bpe;
    int32_t bos, eos;
    bool add_bos, add_eos;
    uint32_t eog_count;
    int32_t *eog;
};

/* ---- opening ---- */

static const char *const kinds[] = {"gpt2"};

static esp_code check_kind(const tok_source *source, esp_error *err) {
    for (size_t i = 0; source->kind && i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(source->kind, kinds[i]) == 0) return ESP_OK;
    }
    return esp_fail_field(err, ESP_UNIMPLEMENTED, "tokenizer.ggml.model",
                          "tokenizer.ggml.model is %s%.64s%s; kinds known here: gpt2",
                          source->kind ? "\"" : "", source->kind ? source->kind : "missing",
                          source->kind ? "\"" : "");
}

static esp_code check_id(const tok_source *source, const char *key, int32_t id, esp_error *err) {
    if (id >= -1 && (id < 0 || (uint32_t)id < source->token_count)) return ESP_OK;
    return esp_fail(err, ESP_INVALID, "tokenizer.ggml.%s is %d; the vocabulary has %u tokens", key,
                    id, source->token_count);
}

static esp_code check_ids(const tok_source *source, esp_error *err) {
    esp_code code = check_id(source, "bos_token_id", source->bos, err);
    if (!code) code = check_id(source, "eos_token_id", source->eos, err);
    if (!code && source->eog_count > EOG_MAX)
        code = esp_fail(err, ESP_INVALID, "%u tokens end a generation; at most %d may",
                        source->eog_count, EOG_MAX);
    for (uint32_t i = 0; !code && i < source->eog_count; i++)
        code = check_id(source, "eot_token_id", source->eog[i], err);
    if (!code && source->add_bos && source->bos < 0)
        code = esp_fail(err, ESP_INVALID,
                        "tokenizer.ggml.add_bos_token is set, but no "
                        "tokenizer.ggml.bos_token_id says which");
    if (!code && source->add_eos && source->eos < 0)
        code = esp_fail(err, ESP_INVALID,
                        "tokenizer.ggml.add_eos_token is set, but no "
                        "tokenizer.ggml.eos_token_id says which");
    return code;
}

static void copy_rules(tokenizer *tok, const tok_source *source) {
    tok->bos = source->bos;
    tok->eos = source->eos;
    tok->add_bos = source->add_bos;
    tok->add_eos = source->add_eos;
    tok->eog = mem_new((size_t)source->eog_count + 1, sizeof *tok->eog);
    tok->eog_count = source->eog_count;
    for (uint32_t i = 0; i < source->eog_count; i++)
        tok->eog[i] = source->eog[i];
}

esp_code tok_open(tokenizer **out, const tok_source *source, esp_error *err) {
    ESP_ASSERT(out && source);
    *out = NULL;
    esp_code code = check_kind(source, err);
    if (!code) code = check_ids(source, err);
    if (code) return code;
    tokenizer *tok = mem_new(1, sizeof *tok);
    code = pre_open(&tok->pre, source->pre, err);
    if (!code) code = vocab_open(&tok->vocab, source, err);
    if (!code) code = bpe_open(&tok->bpe, &tok->vocab, source, pre_takes_whole(tok->pre), err);
    if (code) return tok_close(tok), code;
    specials_open(&tok->specials, &tok->vocab);
    copy_rules(tok, source);
    *out = tok;
    return ESP_OK;
}

void tok_close(tokenizer *tok) {
    if (!tok) return;
    bpe_close(tok->bpe);
    specials_close(&tok->specials);
    vocab_close(&tok->vocab);
    pre_close(tok->pre);
    free(tok->eog);
    free(tok);
}

/* ---- asking ---- */

uint32_t tok_count(const tokenizer *tok) { return tok->vocab.count; }

int32_t tok_bos(const tokenizer *tok) { return tok->bos; }

int32_t tok_eos(const tokenizer *tok) { return tok->eos; }

bool tok_ends_generation(const tokenizer *tok, int32_t id) {
    if (id < 0) return false;
    if (id == tok->eos) return true;
    for (uint32_t i = 0; i < tok->eog_count; i++) {
        if (tok->eog[i] == id) return true;
    }
    return false;
}

int32_t tok_find(const tokenizer *tok, const char *text) {
    size_t bytes = strlen(text);
    int32_t special = specials_find(&tok->specials, (tok_text){text, bytes});
    return special != VOCAB_NONE ? special : vocab_find(&tok->vocab, text, bytes);
}

static bool in_range(const tokenizer *tok, int32_t id) {
    return id >= 0 && (uint32_t)id < tok->vocab.count;
}

tok_text tok_bytes(const tokenizer *tok, int32_t id) {
    return in_range(tok, id) ? vocab_bytes(&tok->vocab, (uint32_t)id) : (tok_text){"", 0};
}

bool tok_is_control(const tokenizer *tok, int32_t id) {
    return in_range(tok, id) && vocab_is_control(&tok->vocab, (uint32_t)id);
}

void tok_ids_free(tok_ids *ids) {
    free(ids->at);
    *ids = (tok_ids){0};
}

/* ---- encoding ---- */

/* One tok_encode call. */
typedef struct encoding {
    const tokenizer *tok;
    pre_cutter *cutter;
    bpe_scratch scratch;
    nfc_buffer nfc;
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

/* A token stands for vocab.longest bytes at most, so that a long piece can be seen to have too many
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

/* Text without special tokens. */
static esp_code encode_between(encoding *e, tok_text text) {
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

static esp_code encode_text(encoding *e, tok_text text, const tok_encode_options *options) {
    specials_search search = {.specials = &e->tok->specials,
                              .text = text,
                              .control = options->parse_special,
                              .plain = options->plain,
                              .plain_count = options->plain_count};
    size_t at = 0, begin;
    uint32_t id;
    esp_code code = ESP_OK;
    while (!code && specials_next(&search, at, &begin, &id)) {
        code = encode_between(e, (tok_text){text.at + at, begin - at});
        if (!code) code = add_id(e, (int32_t)id);
        at = begin + vocab_bytes(&e->tok->vocab, id).bytes;
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
                  .err = err};
    /* NFC may lengthen a text: at most threefold (UAX #15, table of expansion factors). */
    e.cutter = pre_cutter_open(tok->pre, bytes * 3);
    esp_code code = encode_all(&e, (tok_text){text, bytes}, options);
    if (code) out->count = e.count_before;
    pre_cutter_close(e.cutter);
    bpe_scratch_free(&e.scratch);
    nfc_free(&e.nfc);
    return code;
}
