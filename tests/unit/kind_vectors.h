/* kind_vectors.h - the rows of token_kinds.jsonl and its like (tests/vectors/make_kind_vectors.py). */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_KIND_VECTORS_H
#define ESPALIER_TESTS_KIND_VECTORS_H

#include "tests/unit/vector_file.h"

static inline int32_t kv_int(const json_t *row, const char *key) {
    return (int32_t)json_integer_value(json_object_get(row, key));
}

static inline bool kv_true(const json_t *row, const char *key) {
    return json_is_true(json_object_get(row, key));
}

/* The bytes of a hex member, malloc'd; NULL when there is none. */
static inline uint8_t *kv_hex(const json_t *row, const char *key, size_t *bytes) {
    tok_text hex = vector_text(row, key);
    uint8_t *out = hex.at ? malloc(hex.bytes / 2 + 1) : NULL;
    *bytes = hex.bytes / 2;
    for (size_t i = 0; i < *bytes; i++) {
        char pair[3] = {hex.at[2 * i], hex.at[2 * i + 1], 0};
        out[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return out;
}

/* Opens the tokenizer of a {"tokenizer": ...} row. */
static inline tokenizer *kv_open(const json_t *row) {
    const json_t *from = json_object_get(row, "tokenizer"),
                 *tokens = json_object_get(from, "tokens");
    const json_t *types = json_object_get(from, "types"), *scores = json_object_get(from, "scores");
    uint32_t count = (uint32_t)json_array_size(tokens);
    tok_text *texts = calloc(count, sizeof *texts);
    int32_t *type = calloc(count, sizeof *type);
    float *score = calloc(count, sizeof *score);
    for (uint32_t i = 0; i < count; i++) {
        const json_t *text = json_array_get(tokens, i);
        texts[i] = (tok_text){json_string_value(text), json_string_length(text)};
        type[i] = (int32_t)json_integer_value(json_array_get(types, i));
        score[i] = scores ? (float)json_number_value(json_array_get(scores, i)) : 0;
    }
    size_t map_bytes;
    uint8_t *map = kv_hex(from, "charsmap", &map_bytes);
    tok_source source = {.kind = json_string_value(json_object_get(from, "kind")),
                         .token_count = count,
                         .tokens = texts,
                         .types = type,
                         .scores = score,
                         .unknown = kv_int(from, "unknown"),
                         .bos = kv_int(from, "bos"),
                         .eos = kv_int(from, "eos"),
                         .add_bos = true,
                         .add_eos = true,
                         .add_space_prefix = kv_true(from, "add_space_prefix"),
                         .collapse_spaces = kv_true(from, "collapse_spaces"),
                         .uncased = kv_true(from, "uncased"),
                         .charsmap = map,
                         .charsmap_bytes = map_bytes};
    tokenizer *tok = NULL;
    esp_error err = {0};
    if (tok_open(&tok, &source, &err)) fprintf(stderr, "%s\n", err.message);
    free(texts);
    free(type);
    free(score);
    free(map);
    return tok;
}

static inline bool kv_encode(const tokenizer *tok, tok_text text, bool special, tok_ids *ids) {
    tok_encode_options options = {.parse_special = special, .add_special = special};
    return tok_encode(tok, text.at, text.bytes, &options, ids, NULL) == ESP_OK;
}

/* Are the ids those of the row? */
static inline bool kv_same_ids(const json_t *row, const tok_ids *ids) {
    const json_t *wanted = json_object_get(row, "ids");
    bool same = ids->count == json_array_size(wanted);
    for (uint32_t i = 0; same && i < ids->count; i++)
        same = ids->at[i] == json_integer_value(json_array_get(wanted, i));
    return same;
}

#endif
