/* token_source.c - the tokenizer.* metadata of a GGUF file as a tok_source, and what all sources share.
 *
 * Which ids end a generation: eos, eot and eom of the metadata, and the control tokens whose text
 * is the end mark of a chat format. The table is needed because many files name one end mark only,
 * while the model was taught two: SmolLM2 closes a turn with <|im_end|> and a document with
 * <|endoftext|>.
 *
 * What a key that is missing means depends on the kind, and is what the format's writers rely on. */
// SPDX-License-Identifier: Apache-2.0
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/tokens/token_source.h"

enum { TOKENS_MAX = 4194304, MERGES_MAX = 8388608 };

static const char *const END_MARKS[] = {
    "<|im_end|>",      /* ChatML: SmolLM2, Qwen */
    "<|endoftext|>",   /* GPT-2 vocabularies */
    "<|eot_id|>",      /* Llama 3 */
    "<|eom_id|>",      /* Llama 3.1, before a tool's answer */
    "<|end_of_text|>", /* Llama 3, Granite */
    "<|end|>",         /* Phi-3 */
    "<end_of_turn>",   /* Gemma */
    "<|eot|>",         /* Llama 4 */
    "<|eom|>",         /* Llama 4, before a tool's answer */
};
enum { END_MARK_COUNT = sizeof END_MARKS / sizeof END_MARKS[0] };

/* A short text of the metadata as a C string. */
static esp_code read_word(const gguf_file *file, const char *key, const char *when_missing,
                          char *out, size_t out_bytes, esp_error *err) {
    bool found;
    model_text text = {"", 0};
    esp_code code = gguf_get_text(file, key, &found, &text, err);
    if (code) return code;
    if (!found && !when_missing)
        return esp_fail(err, ESP_INVALID,
                        "%s: the metadata key %s is missing; the file has no tokenizer",
                        gguf_name(file), key);
    if (!found) text = (model_text){when_missing, strlen(when_missing)};
    bool plain = text.bytes > 0 && text.bytes < out_bytes;
    for (size_t i = 0; i < text.bytes && plain; i++)
        plain = text.at[i] > 0x20 && text.at[i] < 0x7f;
    if (!plain)
        return esp_fail(err, ESP_INVALID,
                        "%s: metadata key %s has %zu bytes; wanted a word of 1 to %zu printable "
                        "ASCII characters",
                        gguf_name(file), key, text.bytes, out_bytes - 1);
    memcpy(out, text.at, text.bytes);
    out[text.bytes] = 0;
    return ESP_OK;
}

/* *out stays NULL when the key is missing. */
static esp_code read_texts(const gguf_file *file, const char *key, uint64_t max, tok_text **out,
                           uint32_t *count, esp_error *err) {
    bool found;
    gguf_array array;
    esp_code code = gguf_get_array(file, key, GGUF_STRING, &found, &array, err);
    if (code || !found) return code;
    if (array.count > max)
        return esp_fail(
            err, ESP_INVALID, "%s: metadata key %s has %llu entries; wanted %llu at most",
            gguf_name(file), key, (unsigned long long)array.count, (unsigned long long)max);
    *out = mem_new(array.count ? array.count : 1, sizeof **out);
    *count = (uint32_t)array.count;
    const uint8_t *cursor = array.at;
    for (uint32_t i = 0; i < *count; i++) {
        model_text text = gguf_next_text(&array, &cursor);
        (*out)[i] = (tok_text){text.at, text.bytes};
    }
    return ESP_OK;
}

/* An array with one number for each of count tokens. */
static esp_code get_numbers(const gguf_file *file, const char *key, gguf_type type, uint32_t count,
                            bool *found, gguf_array *out, esp_error *err) {
    esp_code code = gguf_get_array(file, key, type, found, out, err);
    if (code || !*found || out->count == count) return code;
    return esp_fail(err, ESP_INVALID,
                    "%s: metadata key %s has %llu entries; wanted one for each of %u tokens",
                    gguf_name(file), key, (unsigned long long)out->count, count);
}

static esp_code read_types(token_source *out, const gguf_file *file, esp_error *err) {
    static const char key[] = "tokenizer.ggml.token_type";
    bool found;
    gguf_array array;
    uint32_t count = out->source.token_count;
    esp_code code = get_numbers(file, key, GGUF_I32, count, &found, &array, err);
    if (code || !found) return code;
    out->types = mem_new(count, sizeof *out->types);
    for (uint32_t i = 0; i < count; i++) {
        out->types[i] = (int32_t)gguf_array_u32(&array, i);
        if (out->types[i] < TOK_NORMAL || out->types[i] > TOK_BYTE)
            return esp_fail(err, ESP_INVALID,
                            "%s: metadata key %s says %d of token %u; wanted %d to %d",
                            gguf_name(file), key, out->types[i], i, TOK_NORMAL, TOK_BYTE);
    }
    return ESP_OK;
}

/* They stay NULL when the key is missing. */
static esp_code read_scores(token_source *out, const gguf_file *file, esp_error *err) {
    bool found;
    gguf_array array;
    uint32_t count = out->source.token_count;
    esp_code code =
        get_numbers(file, "tokenizer.ggml.scores", GGUF_F32, count, &found, &array, err);
    if (code || !found) return code;
    out->scores = mem_new(count, sizeof *out->scores);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bits = gguf_array_u32(&array, i);
        memcpy(&out->scores[i], &bits, sizeof bits);
    }
    return ESP_OK;
}

static bool is_text(const token_source *source, uint32_t id, const char *text) {
    tok_text token = source->tokens[id];
    return token.bytes == strlen(text) && memcmp(token.at, text, token.bytes) == 0;
}

static bool strips_after(const token_source *source, uint32_t id) {
    int32_t type = source->types ? source->types[id] : TOK_NORMAL;
    if (type != TOK_CONTROL && type != TOK_USER_DEFINED) return false;
    return !is_text(source, id, "<s>") && !is_text(source, id, "<|endoftext|>");
}

static bool is_kind(const token_source *source, const char *kind) {
    return strcmp(source->kind, kind) == 0;
}

/* Bytes, which some writers keep as signed ones. */
static esp_code read_charsmap(token_source *out, const gguf_file *file, esp_error *err) {
    static const char key[] = "tokenizer.ggml.precompiled_charsmap";
    bool found;
    gguf_array array;
    esp_error first = {0};
    esp_code code = gguf_get_array(file, key, GGUF_U8, &found, &array, &first);
    if (code) code = gguf_get_array(file, key, GGUF_I8, &found, &array, err);
    if (code || !found) return code;
    out->source.charsmap = array.at;
    out->source.charsmap_bytes = array.count;
    return ESP_OK;
}

/* Phi-3's tokenizer.json says rstrip of its special tokens; GGUF has no key for it, so it goes by
 * the architecture. */
static esp_code read_strips(token_source *out, const gguf_file *file, esp_error *err) {
    bool found;
    model_text arch;
    esp_code code = gguf_get_text(file, "general.architecture", &found, &arch, err);
    if (code || !found || !is_kind(out, "llama")) return code;
    if (arch.bytes != 4 || memcmp(arch.at, "phi3", 4) != 0) return ESP_OK;
    out->strips = mem_new(out->source.token_count, sizeof *out->strips);
    for (uint32_t i = 0; i < out->source.token_count; i++)
        out->strips[i] = strips_after(out, i) ? TOK_STRIP_AFTER : 0;
    return ESP_OK;
}

static esp_code read_spacing(token_source *out, const gguf_file *file, esp_error *err) {
    tok_source *source = &out->source;
    bool found;
    source->add_space_prefix = is_kind(out, "llama");
    esp_code code = gguf_get_bool(file, "tokenizer.ggml.add_space_prefix", &found,
                                  &source->add_space_prefix, err);
    if (code) return code;
    return gguf_get_bool(file, "tokenizer.ggml.remove_extra_whitespaces", &found,
                         &source->collapse_spaces, err);
}

/* A cased vocabulary of BERT's kind has words with capital letters, an uncased one has none; its own
 * names stand in brackets. GGUF has no key for it. */
static bool is_uncased(const token_source *source) {
    for (uint32_t id = 0; id < source->source.token_count; id++) {
        tok_text text = source->tokens[id];
        if (source->types && source->types[id] != TOK_NORMAL) continue;
        if (text.bytes && text.at[0] == '[') continue;
        for (size_t i = 0; i < text.bytes; i++)
            if (text.at[i] >= 'A' && text.at[i] <= 'Z') return false;
    }
    return true;
}

static esp_code read_tokens(token_source *out, const gguf_file *file, esp_error *err) {
    tok_source *source = &out->source;
    esp_code code = read_texts(file, "tokenizer.ggml.tokens", TOKENS_MAX, &out->tokens,
                               &source->token_count, err);
    if (code) return code;
    if (source->token_count == 0)
        return esp_fail(err, ESP_INVALID,
                        "%s: the metadata key tokenizer.ggml.tokens is missing or empty",
                        gguf_name(file));
    if ((code = read_types(out, file, err))) return code;
    if ((code = read_scores(out, file, err))) return code;
    if ((code = read_charsmap(out, file, err))) return code;
    if ((code = read_strips(out, file, err))) return code;
    if ((code = read_spacing(out, file, err))) return code;
    source->uncased = is_kind(out, "bert") && is_uncased(out);
    return read_texts(file, "tokenizer.ggml.merges", MERGES_MAX, &out->merges, &source->merge_count,
                      err);
}

/* -1 when the key is missing. */
static esp_code read_id(const gguf_file *file, const char *key, uint32_t token_count, int32_t *out,
                        esp_error *err) {
    bool found;
    uint32_t id = 0;
    *out = -1;
    esp_code code = gguf_get_u32(file, key, &found, &id, err);
    if (code || !found) return code;
    if (id >= token_count)
        return esp_fail(err, ESP_INVALID,
                        "%s: metadata key %s is %u; wanted less than the %u tokens",
                        gguf_name(file), key, id, token_count);
    *out = (int32_t)id;
    return ESP_OK;
}

bool token_text_ends(tok_text text) {
    for (size_t i = 0; i < END_MARK_COUNT; i++)
        if (text.bytes == strlen(END_MARKS[i]) && !memcmp(text.at, END_MARKS[i], text.bytes))
            return true;
    return false;
}

static bool is_end_mark(const token_source *source, uint32_t id) {
    bool special = source->types &&
                   (source->types[id] == TOK_CONTROL || source->types[id] == TOK_USER_DEFINED);
    return special && token_text_ends(source->tokens[id]);
}

/* Marks are few; the bound keeps a file that repeats one a million times from costing their square.
 */
esp_code token_source_add_eog(token_source *out, int64_t id, const char *where, esp_error *err) {
    tok_source *source = &out->source;
    if (id < 0 || id == source->eos) return ESP_OK;
    if (id >= source->token_count)
        return esp_fail(err, ESP_INVALID,
                        "%s says that id %lld ends a generation; there are %u tokens", where,
                        (long long)id, source->token_count);
    for (uint32_t i = 0; i < source->eog_count; i++)
        if (out->eog[i] == id) return ESP_OK;
    if (source->eog_count == TOKEN_EOG_MAX)
        return esp_fail(err, ESP_INVALID, "%s has more than %d tokens that end a generation", where,
                        TOKEN_EOG_MAX);
    out->eog[source->eog_count++] = (int32_t)id;
    return ESP_OK;
}

esp_code token_source_add_end_marks(token_source *out, const char *where, esp_error *err) {
    for (uint32_t id = 0; id < out->source.token_count; id++) {
        esp_code code = is_end_mark(out, id) ? token_source_add_eog(out, id, where, err) : ESP_OK;
        if (code) return code;
    }
    return ESP_OK;
}

int32_t token_source_find(const token_source *source, tok_text text) {
    for (uint32_t id = 0; id < source->source.token_count; id++) {
        tok_text token = source->tokens[id];
        if (token.bytes == text.bytes && text.bytes && memcmp(token.at, text.at, text.bytes) == 0)
            return (int32_t)id;
    }
    return -1;
}

static esp_code read_end_ids(token_source *out, const gguf_file *file, esp_error *err) {
    static const char *const keys[] = {"tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    char where[160];
    snprintf(where, sizeof where, "%s: tokenizer.ggml.tokens", gguf_name(file));
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        int32_t id;
        esp_code code = read_id(file, keys[i], out->source.token_count, &id, err);
        if (!code) code = token_source_add_eog(out, id, where, err);
        if (code) return code;
    }
    return token_source_add_end_marks(out, where, err);
}

/* The id of a token that is found by its text when the file does not name it, or -1. */
static int32_t id_of(const token_source *source, const char *text) {
    return token_source_find(source, (tok_text){text, strlen(text)});
}

/* The first token of the type, or -1. */
static int32_t id_of_type(const token_source *source, int32_t type) {
    for (uint32_t id = 0; source->types && id < source->source.token_count; id++)
        if (source->types[id] == type) return (int32_t)id;
    return -1;
}

/* BERT's ends: [CLS] and [SEP], which the format spells "seperator". */
static esp_code read_bert_ends(token_source *out, const gguf_file *file, esp_error *err) {
    tok_source *source = &out->source;
    uint32_t count = source->token_count;
    bool found;
    if (source->bos < 0) {
        esp_code code = read_id(file, "tokenizer.ggml.cls_token_id", count, &source->bos, err);
        if (code) return code;
    }
    esp_code code = read_id(file, "tokenizer.ggml.seperator_token_id", count, &source->eos, err);
    if (code) return code;
    if (source->bos < 0) source->bos = id_of(out, "[CLS]");
    if (source->eos < 0) source->eos = id_of(out, "[SEP]");
    if (source->unknown < 0) source->unknown = id_of(out, "[UNK]");
    source->add_bos = source->bos >= 0;
    source->add_eos = source->eos >= 0;
    code = gguf_get_bool(file, "tokenizer.ggml.add_bos_token", &found, &source->add_bos, err);
    if (code) return code;
    return gguf_get_bool(file, "tokenizer.ggml.add_sep_token", &found, &source->add_eos, err);
}

/* Files of Llama 3 made before the key existed rely on the rule of their pre-tokenizer. */
static bool adds_bos_by_default(const token_source *source) {
    const char *pre = source->pre;
    if (is_kind(source, "llama")) return true;
    return strcmp(pre, "llama-bpe") == 0 || strcmp(pre, "llama3") == 0 ||
           strcmp(pre, "llama-v3") == 0;
}

static esp_code read_ends(token_source *out, const gguf_file *file, esp_error *err) {
    tok_source *source = &out->source;
    bool found;
    source->add_bos = source->bos >= 0 && adds_bos_by_default(out);
    source->add_eos = source->eos >= 0 && is_kind(out, "t5");
    esp_code code =
        gguf_get_bool(file, "tokenizer.ggml.add_bos_token", &found, &source->add_bos, err);
    if (code) return code;
    return gguf_get_bool(file, "tokenizer.ggml.add_eos_token", &found, &source->add_eos, err);
}

static esp_code check_ends(const token_source *out, const gguf_file *file, esp_error *err) {
    const tok_source *source = &out->source;
    bool bos = source->add_bos && source->bos < 0, eos = source->add_eos && source->eos < 0;
    if (!bos && !eos) return ESP_OK;
    const char *name = bos ? "bos" : "eos";
    return esp_fail(err, ESP_INVALID,
                    "%s: tokenizer.ggml.add_%s_token is true, but there is no "
                    "tokenizer.ggml.%s_token_id",
                    gguf_name(file), name, name);
}

static esp_code read_ids(token_source *out, const gguf_file *file, esp_error *err) {
    tok_source *source = &out->source;
    uint32_t count = source->token_count;
    esp_code code = read_id(file, "tokenizer.ggml.bos_token_id", count, &source->bos, err);
    if (code) return code;
    if ((code = read_id(file, "tokenizer.ggml.eos_token_id", count, &source->eos, err)))
        return code;
    code = read_id(file, "tokenizer.ggml.unknown_token_id", count, &source->unknown, err);
    if (code) return code;
    if (source->unknown < 0) source->unknown = id_of_type(out, TOK_UNKNOWN);
    code = is_kind(out, "bert") ? read_bert_ends(out, file, err) : read_ends(out, file, err);
    if (!code) code = check_ends(out, file, err);
    return code ? code : read_end_ids(out, file, err);
}

void token_source_point(token_source *out) {
    tok_source *source = &out->source;
    source->kind = out->kind;
    source->pre = out->pre;
    source->tokens = out->tokens;
    source->types = out->types;
    source->scores = out->scores;
    source->fine_scores = out->fine_scores;
    source->strips = out->strips;
    source->merges = out->merges;
    source->eog = out->eog;
}

esp_code token_source_read(token_source *out, const gguf_file *file, esp_error *err) {
    esp_code code = read_word(file, "tokenizer.ggml.model", NULL, out->kind, sizeof out->kind, err);
    if (code) return code;
    code = read_word(file, "tokenizer.ggml.pre", "default", out->pre, sizeof out->pre, err);
    if (code) return code;
    if ((code = read_tokens(out, file, err))) return code;
    if ((code = read_ids(out, file, err))) return code;
    token_source_point(out);
    return ESP_OK;
}

void token_source_free(token_source *source) {
    free(source->tokens);
    free(source->merges);
    free(source->types);
    free(source->scores);
    free(source->fine_scores);
    free(source->strips);
    free(source->pool);
    free(source->charsmap);
    json_decref(source->json);
    file_unmap(&source->file);
}
