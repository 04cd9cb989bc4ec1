/* more_tokens.c - a tokenizer that goes on from another one: its tokens and some besides, which are found as text
 * and never merged to. The vocabulary is copied, with its special tokens; how text is normalised, cut and merged
 * is the other's. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/text/tokenizer_inner.h"
#include "engine/text/utf8.h"

uint32_t tok_next_id(const tokenizer *tok) {
    const vocab *v = &tok->vocab;
    uint32_t next = v->count;
    while (next > 0 && v->types[next - 1] == TOK_UNUSED)
        next--;
    return next;
}

/* ---- what may be added ---- */

static esp_code check_text(const tok_added *token, esp_error *err) {
    char shown[64];
    size_t bytes = token->text.bytes;
    esp_show(shown, sizeof shown, token->text.at, bytes);
    if (bytes == 0)
        return esp_fail(err, ESP_INVALID, "an added token is empty; wanted 1 to %d bytes",
                        VOCAB_ADDED_BYTES_MAX);
    if (bytes > VOCAB_ADDED_BYTES_MAX)
        return esp_fail(err, ESP_INVALID, "the added token \"%s\" has %zu bytes; wanted 1 to %d",
                        shown, bytes, VOCAB_ADDED_BYTES_MAX);
    if (utf8_whole_prefix(token->text.at, bytes) != bytes || memchr(token->text.at, 0, bytes))
        return esp_fail(err, ESP_INVALID, "the added token \"%s\" is no UTF-8 text", shown);
    return ESP_OK;
}

static int32_t find(const tokenizer *tok, tok_text text) {
    char copy[VOCAB_ADDED_BYTES_MAX + 1];
    memcpy(copy, text.at, text.bytes);
    copy[text.bytes] = 0;
    return tok_find(tok, copy);
}

/* One that is looked for in normalised text is no control token there: a client's text might become one. */
static bool is_told_apart(const tokenizer *base, const tok_added *token) {
    bool normalizes = base->planned ? !normalizer_does_nothing(base->normal)
                                    : base->vocab.kind == VOCAB_WORDPIECE;
    return !normalizes || !(token->strips & TOK_NORMALIZED) || (base->planned && !token->special);
}

static bool is_repeated(const tok_added *added, uint32_t index) {
    tok_text text = added[index].text;
    for (uint32_t i = 0; i < index; i++)
        if (added[i].text.bytes == text.bytes && !memcmp(added[i].text.at, text.at, text.bytes))
            return true;
    return false;
}

static esp_code check_added(const tokenizer *base, const tok_added *added, uint32_t index,
                            esp_error *err) {
    char shown[64];
    const tok_added *token = &added[index];
    esp_code code = check_text(token, err);
    if (code != ESP_OK) return code;
    esp_show(shown, sizeof shown, token->text.at, token->text.bytes);
    int32_t known = find(base, token->text);
    if (known >= 0 && (uint32_t)known < tok_next_id(base))
        return esp_fail(err, ESP_INVALID, "the added token \"%s\" is token %d of the base already",
                        shown, known);
    if (is_repeated(added, index))
        return esp_fail(err, ESP_INVALID, "the token \"%s\" is added twice", shown);
    if (is_told_apart(base, token)) return ESP_OK;
    return esp_fail(err, ESP_UNIMPLEMENTED,
                    "the added token \"%s\" is special and normalized, which cannot be told from a "
                    "client's text; wanted it not normalized",
                    shown);
}

/* ---- opening ---- */

/* Which of the two searches a key is for, as in tokenizer.c. */
typedef struct key_search {
    const tokenizer *tok;
    const uint8_t *strips;
    normal_buffer buffer;
    bool normalized;
} key_search;

static tok_text key_of(void *arg, uint32_t id) {
    key_search *search = arg;
    tok_text text = vocab_bytes(&search->tok->vocab, id);
    if (!search->tok->planned) return text;
    if (((search->strips[id] & TOK_NORMALIZED) != 0) != search->normalized)
        return (tok_text){"", 0};
    if (!search->normalized) return text;
    esp_code code =
        normalizer_apply(search->tok->normal, &search->buffer, text, false, &text, NULL);
    return code ? (tok_text){"", 0} : text;
}

static uint8_t *all_strips(const tokenizer *tok, const tokenizer *base, uint32_t first,
                           const tok_added *added, uint32_t count) {
    uint8_t *strips = mem_new(tok->vocab.count, sizeof *strips);
    for (uint32_t id = 0; id < base->vocab.count; id++)
        strips[id] = specials_strips(&base->specials, id);
    for (uint32_t i = 0; i < count; i++)
        strips[first + i] = added[i].strips | TOK_MATCHED;
    return strips;
}

static void open_searches(tokenizer *tok, const tokenizer *base, uint32_t first,
                          const tok_added *added, uint32_t count) {
    uint8_t *strips = all_strips(tok, base, first, added, count);
    key_search search = {.tok = tok, .strips = strips};
    specials_key key = {key_of, &search};
    specials_open_more(&tok->specials, &base->specials, &tok->vocab, strips, first, count, &key);
    search.normalized = true;
    if (tok->planned)
        specials_open_more(&tok->later, &base->later, &tok->vocab, strips, first, count, &key);
    normal_free(&search.buffer);
    free(strips);
}

void tok_add_end(tokenizer *tok, int32_t id) {
    if (id < 0 || tok_ends_generation(tok, id)) return;
    tok->eog = mem_resize(tok->eog, (size_t)tok->eog_count + 1, sizeof *tok->eog);
    tok->eog[tok->eog_count++] = id;
}

/* What the base says of the whole. */
static void copy_rules(tokenizer *tok, const tokenizer *base) {
    tok->goes_on = true;
    tok->planned = base->planned;
    tok->normal = base->normal;
    tok->pre = base->pre;
    tok->bpe = base->bpe;
    tok->spaced = base->spaced;
    tok->spm = base->spm;
    tok->unigram = base->unigram;
    tok->wordpiece = base->wordpiece;
    tok->uncased = base->uncased;
    tok->drops_first_space = base->drops_first_space;
    tok->bos = base->bos;
    tok->eos = base->eos;
    tok->add_bos = base->add_bos;
    tok->add_eos = base->add_eos;
    for (uint32_t i = 0; i < base->eog_count; i++)
        tok_add_end(tok, base->eog[i]);
}

esp_code tok_open_more(tokenizer **out, const tokenizer *base, const tok_added *added,
                       uint32_t count, esp_error *err) {
    uint32_t first = tok_next_id(base);
    *out = NULL;
    if (count > VOCAB_TOKENS_MAX - first)
        return esp_fail(err, ESP_INVALID, "%u added tokens are too many", count);
    for (uint32_t i = 0; i < count; i++) {
        esp_code code = check_added(base, added, i, err);
        if (code != ESP_OK) return code;
    }
    tokenizer *tok = mem_new(1, sizeof *tok);
    atomic_init(&tok->users, 1);
    copy_rules(tok, base);
    vocab_copy_with(&tok->vocab, &base->vocab, first, added, count);
    if (base->shown) tok_show_tokens(tok);
    open_searches(tok, base, first, added, count);
    for (uint32_t i = 0; i < count; i++)
        if (added[i].ends) tok_add_end(tok, (int32_t)(first + i));
    *out = tok;
    return ESP_OK;
}
