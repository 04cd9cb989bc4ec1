/* hf_model.c - tokenizer.json: the model's vocabulary and merges, and added_tokens.
 *
 * Ids must be dense enough: at most HOLES_MAX of them may belong to no token. Each is given once, with one text.
 *
 * A token that is added but not special is matched in any text, as the file says. Chat formats spell their own
 * marks <|...|> or with full-width bars; such a token counts as special even where the file forgot to say so,
 * or a client's text could end its turn. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/tokens/hf_inner.h"

enum { TOKENS_MAX = 1 << 22, MERGES_MAX = 1 << 23, HOLES_MAX = 1 << 16 };
#define SPACE_MARK "\xe2\x96\x81"

/* The model's options. */
typedef struct hf_model {
    const json_t *object, *vocab, *added;
    bool unigram, word_piece;
    bool byte_fallback;
    tok_text unknown, prefix;
    json_int_t unknown_id; /* Unigram's; -1: none */
} hf_model;

static tok_text text_of(const json_t *string) {
    return (tok_text){json_string_value(string), json_string_length(string)};
}

/* ---- options ---- */

/* Options that change the ids in a way not computed here. */
static esp_code refuse_options(const hf_reader *r, const hf_model *m) {
    tok_text prefix = {"", 0}, suffix = {"", 0};
    const json_t *dropout = json_object_get(m->object, "dropout");
    esp_code code = hf_get_text(r, m->object, "model", "end_of_word_suffix", &suffix);
    if (!code && !m->word_piece)
        code = hf_get_text(r, m->object, "model", "continuing_subword_prefix", &prefix);
    if (code) return code;
    if (json_number_value(dropout) != 0.0)
        return hf_fail(r, ESP_UNIMPLEMENTED, "model.dropout", "is %g; wanted null or 0",
                       json_number_value(dropout));
    if (prefix.bytes || suffix.bytes)
        return hf_fail(r, ESP_UNIMPLEMENTED, "model",
                       "has a continuing_subword_prefix or end_of_word_suffix; wanted none");
    return ESP_OK;
}

static esp_code read_word_piece(const hf_reader *r, hf_model *m) {
    const json_t *longest = json_object_get(m->object, "max_input_chars_per_word");
    m->prefix = (tok_text){"##", 2};
    esp_code code = hf_get_text(r, m->object, "model", "continuing_subword_prefix", &m->prefix);
    if (!code && longest && json_integer_value(longest) != 100)
        code = hf_fail(r, ESP_UNIMPLEMENTED, "model.max_input_chars_per_word",
                       "is %lld; wanted 100", (long long)json_integer_value(longest));
    return code;
}

static esp_code read_kind(hf_reader *r, hf_model *m) {
    const char *type = json_string_value(json_object_get(m->object, "type"));
    /* Files of before 2021 leave a BPE's type out. */
    if (!type && json_object_get(m->object, "merges")) type = "BPE";
    const char *kind = NULL;
    if (type && strcmp(type, "BPE") == 0) kind = r->byte_level ? "gpt2" : "bpe";
    if (type && strcmp(type, "Unigram") == 0) kind = "t5";
    if (type && strcmp(type, "WordPiece") == 0) kind = "bert";
    m->unigram = kind && strcmp(kind, "t5") == 0;
    m->word_piece = kind && strcmp(kind, "bert") == 0;
    if (!kind)
        return hf_fail(r, ESP_UNIMPLEMENTED, "model.type",
                       "is \"%.40s\"; wanted BPE, Unigram or WordPiece", type ? type : "missing");
    if (r->byte_level && (m->unigram || m->word_piece))
        return hf_fail(r, ESP_UNIMPLEMENTED, "model.type", "is %s, with a ByteLevel pre_tokenizer",
                       type);
    if (r->bert && !m->word_piece)
        return hf_fail(r, ESP_UNIMPLEMENTED, "model.type",
                       "is %s, with BertNormalizer; wanted WordPiece", type);
    strcpy(r->out->kind, kind);
    return ESP_OK;
}

static esp_code read_options(hf_reader *r, hf_model *m) {
    tok_source *source = &r->out->source;
    esp_code code = read_kind(r, m);
    if (!code) code = refuse_options(r, m);
    if (!code && m->word_piece) code = read_word_piece(r, m);
    if (!code && !m->unigram) code = hf_get_text(r, m->object, "model", "unk_token", &m->unknown);
    if (!code) code = hf_get_bool(r, m->object, "model", "byte_fallback", &m->byte_fallback);
    if (!code) code = hf_get_bool(r, m->object, "model", "fuse_unk", &source->fuse_unknown);
    if (!code) code = hf_get_bool(r, m->object, "model", "ignore_merges", &source->take_whole);
    if (code) return code;
    if (m->byte_fallback && r->byte_level)
        return hf_fail(r, ESP_UNIMPLEMENTED, "model.byte_fallback",
                       "is true, with a ByteLevel pre_tokenizer");
    const json_t *unknown_id = json_object_get(m->object, "unk_id");
    m->unknown_id = m->unigram && json_is_integer(unknown_id) ? json_integer_value(unknown_id) : -1;
    return ESP_OK;
}

/* ---- ids ---- */

static esp_code check_id(const hf_reader *r, const char *path, tok_text text, const json_t *id) {
    json_int_t value = json_integer_value(id);
    int shown = text.bytes < 60 ? (int)text.bytes : 60;
    if (json_is_integer(id) && value >= 0 && value < TOKENS_MAX) return ESP_OK;
    return hf_fail(r, ESP_INVALID, path, "gives token \"%.*s\" the id %lld; wanted 0 to %d", shown,
                   text.at, json_is_integer(id) ? (long long)value : -1LL, TOKENS_MAX - 1);
}

/* One more than the largest id. */
static esp_code count_ids(const hf_reader *r, const hf_model *m, uint32_t *count) {
    const char *key;
    json_t *value;
    uint64_t texts = json_array_size(m->added);
    *count = 0;
    if (m->unigram) {
        if (json_array_size(m->vocab) > TOKENS_MAX)
            return hf_fail(r, ESP_INVALID, "model.vocab", "has more than %d tokens", TOKENS_MAX);
        *count = (uint32_t)json_array_size(m->vocab);
    } else {
        json_object_foreach((json_t *)m->vocab, key, value) {
            esp_code code = check_id(r, "model.vocab", (tok_text){key, strlen(key)}, value);
            if (code) return code;
            uint32_t id = (uint32_t)json_integer_value(value);
            if (id >= *count) *count = id + 1;
        }
        texts += json_object_size(m->vocab);
    }
    if (m->unigram) texts += *count;
    for (size_t i = 0; i < json_array_size(m->added); i++) {
        const json_t *token = json_array_get(m->added, i), *id = json_object_get(token, "id");
        tok_text text = text_of(json_object_get(token, "content"));
        if (!text.at) return hf_fail(r, ESP_INVALID, "added_tokens", "entry %zu has no content", i);
        esp_code code = check_id(r, "added_tokens", text, id);
        if (code) return code;
        if (json_integer_value(id) >= *count) *count = (uint32_t)json_integer_value(id) + 1;
    }
    if (*count == 0) return hf_fail(r, ESP_INVALID, "model.vocab", "is empty");
    if (*count > texts + HOLES_MAX)
        return hf_fail(r, ESP_INVALID, "model.vocab",
                       "has ids up to %u for %llu tokens; at most %d may be left out", *count - 1,
                       (unsigned long long)texts, HOLES_MAX);
    return ESP_OK;
}

static void take_memory(token_source *out, uint32_t count, bool unigram) {
    out->source.token_count = count;
    out->tokens = mem_new(count, sizeof *out->tokens);
    out->types = mem_new(count, sizeof *out->types);
    out->strips = mem_new(count, sizeof *out->strips);
    if (unigram) out->fine_scores = mem_new(count, sizeof *out->fine_scores);
    for (uint32_t id = 0; id < count; id++) {
        out->tokens[id] = (tok_text){"", 0};
        out->types[id] = TOK_UNUSED;
    }
}

/* ---- the vocabulary ---- */

static bool is_byte(tok_text text) {
    return text.bytes == 6 && memcmp(text.at, "<0x", 3) == 0 && text.at[5] == '>' &&
           memchr("0123456789ABCDEF", text.at[3], 16) && memchr("0123456789ABCDEF", text.at[4], 16);
}

static esp_code set_token(const hf_reader *r, const hf_model *m, uint32_t id, tok_text text) {
    token_source *out = r->out;
    if (out->types[id] != TOK_UNUSED)
        return hf_fail(r, ESP_INVALID, "model.vocab", "gives the id %u to \"%.60s\" and \"%.60s\"",
                       id, out->tokens[id].at, text.at);
    out->tokens[id] = text;
    out->types[id] = m->byte_fallback && is_byte(text) ? TOK_BYTE : TOK_NORMAL;
    return ESP_OK;
}

static esp_code read_unigram_vocab(const hf_reader *r, const hf_model *m) {
    for (uint32_t id = 0; id < json_array_size(m->vocab); id++) {
        const json_t *pair = json_array_get(m->vocab, id), *text = json_array_get(pair, 0);
        const json_t *score = json_array_get(pair, 1);
        if (json_array_size(pair) != 2 || !json_is_string(text) || !json_is_number(score) ||
            !isfinite(json_number_value(score)))
            return hf_fail(r, ESP_INVALID, "model.vocab", "entry %u is no pair of text and score",
                           id);
        esp_code code = set_token(r, m, id, text_of(text));
        if (code) return code;
        r->out->fine_scores[id] = json_number_value(score);
    }
    return ESP_OK;
}

static esp_code read_vocab(const hf_reader *r, const hf_model *m) {
    const char *key;
    json_t *value;
    if (m->unigram) return read_unigram_vocab(r, m);
    json_object_foreach((json_t *)m->vocab, key, value) {
        esp_code code =
            set_token(r, m, (uint32_t)json_integer_value(value), (tok_text){key, strlen(key)});
        if (code) return code;
    }
    return ESP_OK;
}

/* ---- added tokens ---- */

bool hf_looks_like_mark(tok_text text) {
    static const char *const ends[][2] = {{"<|", "|>"}, {"<\xef\xbd\x9c", "\xef\xbd\x9c>"}};
    for (size_t i = 0; i < 2; i++) {
        size_t left = strlen(ends[i][0]), right = strlen(ends[i][1]);
        if (text.bytes > left + right && memcmp(text.at, ends[i][0], left) == 0 &&
            memcmp(text.at + text.bytes - right, ends[i][1], right) == 0)
            return true;
    }
    return false;
}

esp_code hf_read_rules(const hf_reader *r, const json_t *token, uint8_t *rules, bool *special) {
    static const struct {
        const char *key;
        uint8_t bit;
    } bits[] = {{"lstrip", TOK_STRIP_BEFORE},
                {"rstrip", TOK_STRIP_AFTER},
                {"single_word", TOK_SINGLE_WORD},
                {"normalized", TOK_NORMALIZED}};
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        bool set = false;
        esp_code code = hf_get_bool(r, token, "added_tokens", bits[i].key, &set);
        if (code) return code;
        if (set) *rules |= bits[i].bit;
    }
    return hf_get_bool(r, token, "added_tokens", "special", special);
}

static esp_code check_added(const hf_reader *r, const hf_model *m, uint32_t id, tok_text text) {
    tok_text held = r->out->tokens[id];
    bool same = held.bytes == text.bytes && memcmp(held.at, text.at, text.bytes) == 0;
    if (r->out->types[id] != TOK_UNUSED && !same)
        return hf_fail(r, ESP_INVALID, "added_tokens", "gives \"%.60s\" the id %u of \"%.60s\"",
                       text.at, id, held.at);
    const json_t *known = m->unigram ? NULL : json_object_getn(m->vocab, text.at, text.bytes);
    if (known && json_integer_value(known) != id)
        return hf_fail(r, ESP_INVALID, "added_tokens",
                       "gives \"%.60s\" the id %u; in model.vocab it has %lld", text.at, id,
                       (long long)json_integer_value(known));
    return ESP_OK;
}

/* A special token that is looked for in normalised text could not be kept apart from a client's. */
static bool is_told_apart(const hf_reader *r, uint8_t rules, bool special) {
    bool plain = !r->bert && r->out->plan.normal_count == 0;
    return plain || !(rules & TOK_NORMALIZED) || (!r->bert && !special);
}

/* *next: the id that a token gets which the model does not have. */
static esp_code add_token(const hf_reader *r, const hf_model *m, const json_t *token,
                          uint32_t *next) {
    token_source *out = r->out;
    uint8_t rules = 0;
    bool special = false;
    uint32_t id = (uint32_t)json_integer_value(json_object_get(token, "id"));
    tok_text text = text_of(json_object_get(token, "content"));
    if (text.bytes == 0) return ESP_OK; /* matches nothing, as in the library */
    esp_code code = check_added(r, m, id, text);
    if (!code) code = hf_read_rules(r, token, &rules, &special);
    if (code) return code;
    special |= hf_looks_like_mark(text);
    if (!is_told_apart(r, rules, special))
        return hf_fail(r, ESP_UNIMPLEMENTED, "added_tokens",
                       "has \"%.60s\", which is special and normalized; wanted it not normalized",
                       text.at);
    if (out->types[id] == TOK_UNUSED) {
        if (id != *next)
            return hf_fail(r, ESP_UNIMPLEMENTED, "added_tokens",
                           "gives \"%.60s\" the id %u, the library that reads the file %u; wanted "
                           "the next one behind the vocabulary",
                           text.at, id, *next);
        rules |= TOK_MATCHED;
    }
    if (id >= *next) *next = id + 1;
    out->tokens[id] = text;
    out->types[id] = special ? TOK_CONTROL : TOK_USER_DEFINED;
    out->strips[id] = rules;
    return ESP_OK;
}

/* ---- what comes of it ---- */

static esp_code find_unknown(const hf_reader *r, const hf_model *m) {
    token_source *out = r->out;
    out->source.unknown = -1;
    if (m->unigram && m->unknown_id >= (json_int_t)out->source.token_count)
        return hf_fail(r, ESP_INVALID, "model.unk_id", "is %lld; there are %u tokens",
                       (long long)m->unknown_id, out->source.token_count);
    if (m->unigram) out->source.unknown = (int32_t)m->unknown_id;
    if (m->unknown.bytes) out->source.unknown = token_source_find(out, m->unknown);
    if (m->unknown.bytes && out->source.unknown < 0)
        return hf_fail(r, ESP_INVALID, "model.unk_token", "is \"%.60s\", which is no token",
                       m->unknown.at);
    int32_t unknown = out->source.unknown;
    if (unknown >= 0 && !r->byte_level && out->types[unknown] == TOK_CONTROL)
        out->types[unknown] = TOK_UNKNOWN;
    return ESP_OK;
}

/* A byte-level model with an unknown token gives it for bytes that have none; ours gives nothing. */
static esp_code check_alphabet(const hf_reader *r, const hf_model *m) {
    size_t single = 0;
    if (!r->byte_level || m->unknown.bytes == 0) return ESP_OK;
    for (uint32_t id = 0; id < r->out->source.token_count; id++) {
        tok_text text = r->out->tokens[id];
        bool one = text.bytes == 1 ||
                   (text.bytes == 2 && (uint8_t)text.at[0] >= 0xc2 && (uint8_t)text.at[0] <= 0xc5);
        single += one && r->out->types[id] == TOK_NORMAL;
    }
    if (single >= 256) return ESP_OK;
    return hf_fail(
        r, ESP_UNIMPLEMENTED, "model.unk_token",
        "is \"%.60s\", and %zu bytes have no token; wanted null or a token for each byte",
        m->unknown.at, 256 - single);
}

static esp_code check_bytes(const hf_reader *r, const hf_model *m) {
    size_t bytes = 0;
    if (!m->byte_fallback || !m->unigram) return ESP_OK;
    for (uint32_t id = 0; id < r->out->source.token_count; id++)
        bytes += r->out->types[id] == TOK_BYTE;
    if (bytes == 256) return ESP_OK;
    return hf_fail(r, ESP_UNIMPLEMENTED, "model.byte_fallback",
                   "is true, and %zu tokens of bytes are there; wanted <0x00> to <0xFF>", bytes);
}

/* "##ing" -> "ing", "sing" -> U+2581 "sing". */
static void respell_word_pieces(token_source *out, tok_text prefix) {
    uint64_t bytes = 0;
    for (uint32_t id = 0; id < out->source.token_count; id++)
        bytes += out->tokens[id].bytes + strlen(SPACE_MARK);
    char *at = out->pool = mem_new(bytes + 1, 1);
    for (uint32_t id = 0; id < out->source.token_count; id++) {
        tok_text text = out->tokens[id];
        if (out->types[id] != TOK_NORMAL) continue;
        bool inner = text.bytes > prefix.bytes && memcmp(text.at, prefix.at, prefix.bytes) == 0;
        size_t mark = inner ? 0 : strlen(SPACE_MARK), skip = inner ? prefix.bytes : 0;
        memcpy(at, SPACE_MARK, mark);
        memcpy(at + mark, text.at + skip, text.bytes - skip);
        out->tokens[id] = (tok_text){at, mark + text.bytes - skip};
        at += out->tokens[id].bytes;
    }
}

/* ---- merges ---- */

static bool read_merge(const json_t *merge, tok_text pair[2]) {
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        pair[0] = text_of(json_array_get(merge, 0));
        pair[1] = text_of(json_array_get(merge, 1));
        return pair[0].at && pair[1].at;
    }
    tok_text text = text_of(merge);
    const char *space = text.at ? memchr(text.at, ' ', text.bytes) : NULL;
    if (!space) return false;
    pair[0] = (tok_text){text.at, (size_t)(space - text.at)};
    pair[1] = (tok_text){space + 1, text.bytes - pair[0].bytes - 1};
    return memchr(pair[1].at, ' ', pair[1].bytes) == NULL;
}

static esp_code read_merges(const hf_reader *r, const hf_model *m) {
    token_source *out = r->out;
    const json_t *merges = json_object_get(m->object, "merges");
    size_t count = json_array_size(merges);
    if (m->unigram || m->word_piece) return ESP_OK;
    if (!json_is_array(merges) || count > MERGES_MAX)
        return hf_fail(r, ESP_INVALID, "model.merges", "is no array of at most %d merges",
                       MERGES_MAX);
    out->merges = mem_new(2 * count + 1, sizeof *out->merges);
    for (size_t i = 0; i < count; i++) {
        if (!read_merge(json_array_get(merges, i), out->merges + 2 * i))
            return hf_fail(r, ESP_INVALID, "model.merges",
                           "entry %zu is neither \"left right\" nor a pair of strings", i);
    }
    out->source.merge_count = (uint32_t)count;
    out->source.merges_are_pairs = true;
    return ESP_OK;
}

esp_code hf_read_model(hf_reader *r, const json_t *root) {
    hf_model m = {.object = json_object_get(root, "model"),
                  .added = json_object_get(root, "added_tokens")};
    m.vocab = json_object_get(m.object, "vocab");
    uint32_t count = 0;
    if (!json_is_object(m.object)) return hf_fail(r, ESP_INVALID, "model", "is no object");
    esp_code code = read_options(r, &m);
    if (code) return code;
    if (!(m.unigram ? json_is_array(m.vocab) : json_is_object(m.vocab)))
        return hf_fail(r, ESP_INVALID, "model.vocab", "is no %s", m.unigram ? "array" : "object");
    if (m.added && !json_is_null(m.added) && !json_is_array(m.added))
        return hf_fail(r, ESP_INVALID, "added_tokens", "is no array");
    if ((code = count_ids(r, &m, &count))) return code;
    take_memory(r->out, count, m.unigram);
    code = read_vocab(r, &m);
    uint32_t next = (uint32_t)(m.unigram ? json_array_size(m.vocab) : json_object_size(m.vocab));
    for (size_t i = 0; !code && i < json_array_size(m.added); i++)
        code = add_token(r, &m, json_array_get(m.added, i), &next);
    if (!code) code = find_unknown(r, &m);
    if (!code) code = check_alphabet(r, &m);
    if (!code) code = check_bytes(r, &m);
    if (!code && m.word_piece) respell_word_pieces(r->out, m.prefix);
    return code ? code : read_merges(r, &m);
}
