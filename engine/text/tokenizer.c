/* tokenizer.c - opens a vocabulary with what its kind needs, and answers about it. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/text/tokenizer_inner.h"
#include "engine/text/utf8.h"

enum { EOG_MAX = 256 };

/* ---- opening ---- */

static esp_code check_id(const tok_source *source, const char *key, int32_t id, esp_error *err) {
    if (id >= -1 && (id < 0 || (uint32_t)id < source->token_count)) return ESP_OK;
    return esp_fail(err, ESP_INVALID, "tokenizer.ggml.%s is %d; the vocabulary has %u tokens", key,
                    id, source->token_count);
}

static esp_code check_ids(const tok_source *source, vocab_kind kind, esp_error *err) {
    esp_code code = check_id(source, "bos_token_id", source->bos, err);
    if (!code) code = check_id(source, "eos_token_id", source->eos, err);
    if (!code && kind != VOCAB_BPE)
        code = check_id(source, "unknown_token_id", source->unknown, err);
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

static esp_code open_bpe(tokenizer *tok, const tok_source *source, esp_error *err) {
    esp_code code = tok->planned ? ESP_OK : pre_open(&tok->pre, source->pre, err);
    if (code) return code;
    return bpe_open(&tok->bpe, &tok->vocab, source, pre_takes_whole(tok->pre), err);
}

static esp_code open_spaced(tokenizer *tok, const tok_source *source, esp_error *err) {
    tok->spaced.prefix = source->add_space_prefix;
    tok->spaced.collapse = source->collapse_spaces;
    tok->spaced.keep_broken = tok->vocab.has_bytes;
    tok->drops_first_space = tok->planned ? source->drop_first_space : source->add_space_prefix;
    if (!source->types)
        return esp_fail(err, ESP_INVALID,
                        "tokenizer.ggml.token_type is missing; kind \"%s\" needs it", source->kind);
    esp_code code = charsmap_open(&tok->spaced.map, source->charsmap, source->charsmap_bytes, err);
    if (code) return code;
    if (tok->vocab.kind == VOCAB_SPM) return spm_open(&tok->spm, &tok->vocab, source, err);
    return unigram_open(&tok->unigram, &tok->vocab, source, err);
}

static esp_code open_words(tokenizer *tok, const tok_source *source, esp_error *err) {
    tok->uncased = source->uncased;
    tok->drops_first_space = true;
    return wordpiece_open(&tok->wordpiece, &tok->vocab, err);
}

static esp_code open_kind(tokenizer *tok, const tok_source *source, esp_error *err) {
    switch (tok->vocab.kind) {
    case VOCAB_CHARS:
        if (!tok->planned)
            return esp_fail(
                err, ESP_UNIMPLEMENTED,
                "tokenizer.ggml.model is \"bpe\", which only a tokenizer.json describes");
        tok->drops_first_space = source->drop_first_space;
        return open_bpe(tok, source, err);
    case VOCAB_BPE:
        tok->drops_first_space = tok->planned && source->drop_first_space;
        return open_bpe(tok, source, err);
    case VOCAB_SPM:
    case VOCAB_UNIGRAM:
        return open_spaced(tok, source, err);
    case VOCAB_WORDPIECE:
        return open_words(tok, source, err);
    }
    ESP_ASSERT(!"a kind without a row");
    return ESP_INTERNAL;
}

/* ---- a plan's special tokens ---- */

/* Which of the two searches a key is for. */
typedef struct key_search {
    const tok_source *source;
    const normalizer *normal;
    normal_buffer buffer;
    bool normalized;
} key_search;

static tok_text key_of(void *arg, uint32_t id) {
    key_search *search = arg;
    tok_text text = search->source->tokens[id];
    bool normalized = search->source->strips && search->source->strips[id] & TOK_NORMALIZED;
    if (normalized != search->normalized) return (tok_text){"", 0};
    if (!normalized || utf8_whole_prefix(text.at, text.bytes) != text.bytes) return text;
    esp_code code = normalizer_apply(search->normal, &search->buffer, text, false, &text, NULL);
    return code ? (tok_text){"", 0} : text;
}

static void open_searches(tokenizer *tok, const tok_source *source) {
    key_search search = {.source = source, .normal = tok->normal};
    specials_key key = {key_of, &search};
    specials_open(&tok->specials, &tok->vocab, source->strips, &key);
    search.normalized = true;
    specials_open(&tok->later, &tok->vocab, source->strips, &key);
    normal_free(&search.buffer);
}

/* Control tokens keep their names. */
void tok_show_tokens(tokenizer *tok) {
    const vocab *v = &tok->vocab;
    tok->shown = mem_new((size_t)v->starts[v->count] + 1, 1);
    tok->shown_starts = mem_new((size_t)v->count + 1, sizeof *tok->shown_starts);
    for (uint32_t id = 0; id < v->count; id++) {
        tok_text token = vocab_bytes(v, id);
        char *at = tok->shown + tok->shown_starts[id];
        size_t bytes = token.bytes;
        if (vocab_is_control(v, id))
            memcpy(at, token.at, bytes);
        else
            bytes = utf8_marks_to_spaces(token.at, bytes, at);
        tok->shown_starts[id + 1] = tok->shown_starts[id] + (uint32_t)bytes;
    }
}

static esp_code open_plan(tokenizer *tok, const tok_source *source, esp_error *err) {
    tok->planned = true;
    esp_code code = normalizer_open(&tok->normal, source->plan, err);
    return code ? code : pre_open_plan(&tok->pre, source->plan, source->take_whole, err);
}

esp_code tok_open(tokenizer **out, const tok_source *source, esp_error *err) {
    ESP_ASSERT(out && source);
    *out = NULL;
    vocab_kind kind;
    esp_code code = vocab_kind_of(source->kind, &kind, err);
    if (!code) code = check_ids(source, kind, err);
    if (code) return code;
    tokenizer *tok = mem_new(1, sizeof *tok);
    atomic_init(&tok->users, 1);
    code = vocab_open(&tok->vocab, source, err);
    if (!code && source->plan) code = open_plan(tok, source, err);
    if (!code) code = open_kind(tok, source, err);
    if (code) return tok_close(tok), code;
    if (tok->vocab.raw && tok->vocab.kind != VOCAB_BPE) tok_show_tokens(tok);
    if (tok->planned)
        open_searches(tok, source);
    else
        specials_open(&tok->specials, &tok->vocab, source->strips, NULL);
    copy_rules(tok, source);
    *out = tok;
    return ESP_OK;
}

tokenizer *tok_share(tokenizer *tok) {
    if (tok) atomic_fetch_add_explicit(&tok->users, 1, memory_order_relaxed);
    return tok;
}

/* What one that goes on from another does not have of its own. */
static void close_kind(tokenizer *tok) {
    if (tok->goes_on) {
        tok->vocab.slots = NULL;
        return;
    }
    bpe_close(tok->bpe);
    spm_close(tok->spm);
    unigram_close(tok->unigram);
    wordpiece_close(&tok->wordpiece);
    charsmap_close(&tok->spaced.map);
    normalizer_close(tok->normal);
    pre_close(tok->pre);
}

void tok_close(tokenizer *tok) {
    if (!tok || atomic_fetch_sub_explicit(&tok->users, 1, memory_order_acq_rel) != 1) return;
    close_kind(tok);
    specials_close(&tok->specials);
    specials_close(&tok->later);
    vocab_close(&tok->vocab);
    free(tok->eog);
    free(tok->shown);
    free(tok->shown_starts);
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
    if (special == VOCAB_NONE && tok->planned)
        special = specials_find(&tok->later, (tok_text){text, bytes});
    return special != VOCAB_NONE ? special : vocab_find(&tok->vocab, text, bytes);
}

static bool in_range(const tokenizer *tok, int32_t id) {
    return id >= 0 && (uint32_t)id < tok->vocab.count;
}

tok_text tok_bytes(const tokenizer *tok, int32_t id) {
    if (!in_range(tok, id)) return (tok_text){"", 0};
    if (!tok->shown) return vocab_bytes(&tok->vocab, (uint32_t)id);
    const uint32_t *starts = tok->shown_starts + id;
    return (tok_text){tok->shown + starts[0], starts[1] - starts[0]};
}

bool tok_is_control(const tokenizer *tok, int32_t id) {
    return in_range(tok, id) && vocab_is_control(&tok->vocab, (uint32_t)id);
}
