/* token_source.c - the tokenizer.* metadata of a GGUF file as a tok_source.
 *
 * Which ids end a generation: eos, eot and eom of the metadata, and the control tokens whose text
 * is the end mark of a chat format. The table is needed because many files name one end mark only,
 * while the model was taught two: SmolLM2 closes a turn with <|im_end|> and a document with
 * <|endoftext|>. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/token_source.h"

enum { TOKENS_MAX = 4194304, MERGES_MAX = 8388608 };

static const char *const END_MARKS[] = {
    "<|im_end|>",      /* ChatML: SmolLM2, Qwen */
    "<|endoftext|>",   /* GPT-2 vocabularies */
    "<|eot_id|>",      /* Llama 3 */
    "<|eom_id|>",      /* Llama 3.1, before a tool's answer */
    "<|end_of_text|>", /* Llama 3, Granite */
    "<|end|>",         /* Phi-3 */
    "<end_of_turn>",   /* Gemma */
};
enum { END_MARK_COUNT = sizeof END_MARKS / sizeof END_MARKS[0] };

/* A short text of the metadata as a C string. */
static esp_code read_word(const gguf_file *file, const char *key, const char *when_missing,
                          char *out, size_t out_bytes, esp_error *err) {
    bool found;
    gguf_text text = {"", 0};
    esp_code code = gguf_get_text(file, key, &found, &text, err);
    if (code) return code;
    if (!found && !when_missing)
        return esp_fail(err, ESP_INVALID,
                        "%s: the metadata key %s is missing; the file has no tokenizer",
                        gguf_name(file), key);
    if (!found) text = (gguf_text){when_missing, strlen(when_missing)};
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
        gguf_text text = gguf_next_text(&array, &cursor);
        (*out)[i] = (tok_text){text.at, text.bytes};
    }
    return ESP_OK;
}

static esp_code read_types(token_source *out, const gguf_file *file, esp_error *err) {
    static const char key[] = "tokenizer.ggml.token_type";
    bool found;
    gguf_array array;
    esp_code code = gguf_get_array(file, key, GGUF_I32, &found, &array, err);
    if (code || !found) return code;
    uint32_t count = out->source.token_count;
    if (array.count != count)
        return esp_fail(err, ESP_INVALID,
                        "%s: metadata key %s has %llu entries; wanted one for each of %u tokens",
                        gguf_name(file), key, (unsigned long long)array.count, count);
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

static bool is_end_mark(const token_source *source, uint32_t id) {
    tok_text text = source->tokens[id];
    bool special = source->types &&
                   (source->types[id] == TOK_CONTROL || source->types[id] == TOK_USER_DEFINED);
    for (size_t i = 0; special && i < END_MARK_COUNT; i++)
        if (strlen(END_MARKS[i]) == text.bytes && memcmp(END_MARKS[i], text.at, text.bytes) == 0)
            return true;
    return false;
}

/* Marks are few; the bound keeps a file that repeats one a million times from costing their square.
 */
static esp_code add_eog(token_source *out, const gguf_file *file, int32_t id, esp_error *err) {
    tok_source *source = &out->source;
    if (id < 0 || id == source->eos) return ESP_OK;
    for (uint32_t i = 0; i < source->eog_count; i++)
        if (out->eog[i] == id) return ESP_OK;
    if (source->eog_count == TOKEN_EOG_MAX)
        return esp_fail(err, ESP_INVALID,
                        "%s: tokenizer.ggml.tokens has more than %d tokens that end a generation",
                        gguf_name(file), TOKEN_EOG_MAX);
    out->eog[source->eog_count++] = id;
    return ESP_OK;
}

static esp_code read_end_ids(token_source *out, const gguf_file *file, esp_error *err) {
    static const char *const keys[] = {"tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    uint32_t count = out->source.token_count;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        int32_t id;
        esp_code code = read_id(file, keys[i], count, &id, err);
        if (!code) code = add_eog(out, file, id, err);
        if (code) return code;
    }
    for (uint32_t id = 0; id < count; id++) {
        esp_code code = is_end_mark(out, id) ? add_eog(out, file, (int32_t)id, err) : ESP_OK;
        if (code) return code;
    }
    return ESP_OK;
}

/* Files of Llama 3 made before the key existed rely on the rule of their pre-tokenizer. */
static bool adds_bos_by_default(const char *pre) {
    return strcmp(pre, "llama-bpe") == 0 || strcmp(pre, "llama3") == 0 ||
           strcmp(pre, "llama-v3") == 0;
}

static esp_code read_ids(token_source *out, const gguf_file *file, esp_error *err) {
    tok_source *source = &out->source;
    uint32_t count = source->token_count;
    bool found;
    esp_code code = read_id(file, "tokenizer.ggml.bos_token_id", count, &source->bos, err);
    if (code) return code;
    if ((code = read_id(file, "tokenizer.ggml.eos_token_id", count, &source->eos, err)))
        return code;
    source->add_bos = source->bos >= 0 && adds_bos_by_default(out->pre);
    code = gguf_get_bool(file, "tokenizer.ggml.add_bos_token", &found, &source->add_bos, err);
    if (code) return code;
    code = gguf_get_bool(file, "tokenizer.ggml.add_eos_token", &found, &source->add_eos, err);
    if (code) return code;
    if ((source->add_bos && source->bos < 0) || (source->add_eos && source->eos < 0))
        return esp_fail(err, ESP_INVALID,
                        "%s: tokenizer.ggml.add_%s_token is true, but there is no "
                        "tokenizer.ggml.%s_token_id",
                        gguf_name(file), source->bos < 0 && source->add_bos ? "bos" : "eos",
                        source->bos < 0 && source->add_bos ? "bos" : "eos");
    return read_end_ids(out, file, err);
}

esp_code token_source_read(token_source *out, const gguf_file *file, esp_error *err) {
    esp_code code = read_word(file, "tokenizer.ggml.model", NULL, out->kind, sizeof out->kind, err);
    if (code) return code;
    code = read_word(file, "tokenizer.ggml.pre", "default", out->pre, sizeof out->pre, err);
    if (code) return code;
    if ((code = read_tokens(out, file, err))) return code;
    if ((code = read_ids(out, file, err))) return code;
    out->source.kind = out->kind;
    out->source.pre = out->pre;
    out->source.tokens = out->tokens;
    out->source.types = out->types;
    out->source.merges = out->merges;
    out->source.eog = out->eog;
    return ESP_OK;
}

void token_source_free(token_source *source) {
    free(source->tokens);
    free(source->merges);
    free(source->types);
}
