/* added_tokens.c - reads the tokens that an adapter's folder adds, and holds them against its base's. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/tokens/added_tokens.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/model.h"
#include "engine/model/tokens/hf_inner.h"

#define LIST "added_tokens"

typedef struct listed_token {
    json_int_t id;
    tok_added token; /* its text lies in the JSON */
} listed_token;

/* What the files say. */
typedef struct token_list {
    hf_reader reader;            /* file: the one being read */
    json_t *list, *map, *config; /* of tokenizer.json; added_tokens.json; tokenizer_config.json */
    bool has_list;               /* there is a tokenizer.json */
    listed_token *at;
    size_t count;
    const tokenizer *base;
    uint32_t rows;
    bool grown;
} token_list;

/* ---- the files ---- */

static esp_code take_token(token_list *l, tok_text text, const json_t *id, const json_t *rules) {
    const hf_reader *r = &l->reader;
    char shown[64];
    if (!text.at) return hf_fail(r, ESP_INVALID, LIST, "entry %zu has no text", l->count);
    esp_show(shown, sizeof shown, text.at, text.bytes);
    if (!json_is_integer(id) || json_integer_value(id) < 0)
        return hf_fail(r, ESP_INVALID, LIST, "gives \"%s\" no id", shown);
    listed_token *one = &l->at[l->count++];
    *one = (listed_token){.id = json_integer_value(id), .token = {.text = text}};
    if (rules) {
        esp_code code = hf_read_rules(r, rules, &one->token.strips, &one->token.special);
        if (code != ESP_OK) return code;
    }
    one->token.special |= hf_looks_like_mark(text);
    one->token.ends = token_text_ends(text);
    return ESP_OK;
}

static esp_code take_room(token_list *l, size_t count) {
    if (count > ADDED_TOKENS_LIST_MAX)
        return hf_fail(&l->reader, ESP_INVALID, LIST, "has %zu entries; wanted %d at most", count,
                       ADDED_TOKENS_LIST_MAX);
    l->at = mem_new(count + 1, sizeof *l->at);
    return ESP_OK;
}

static esp_code read_list(token_list *l) {
    const json_t *list = l->list;
    esp_code code = take_room(l, json_array_size(list));
    l->reader.file = "tokenizer.json";
    for (size_t i = 0; i < json_array_size(list) && code == ESP_OK; i++) {
        const json_t *token = json_array_get(list, i), *text = json_object_get(token, "content");
        code = take_token(l, (tok_text){json_string_value(text), json_string_length(text)},
                          json_object_get(token, "id"), token);
    }
    return code;
}

static int compare_ids(const void *a, const void *b) {
    const listed_token *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

/* How each is matched stands in the config, by its id. */
static esp_code read_map(token_list *l) {
    const json_t *rules = json_object_get(l->config, "added_tokens_decoder");
    const char *text;
    json_t *id;
    esp_code code = take_room(l, json_object_size(l->map));
    l->reader.file = "added_tokens.json";
    json_object_foreach(l->map, text, id) {
        char key[24];
        if (code != ESP_OK) break;
        snprintf(key, sizeof key, "%lld", (long long)json_integer_value(id));
        code = take_token(l, (tok_text){text, strlen(text)}, id, json_object_get(rules, key));
    }
    if (l->count) qsort(l->at, l->count, sizeof *l->at, compare_ids);
    return code;
}

static esp_code read_files(token_list *l, const char *folder) {
    folder_place place;
    esp_error *err = l->reader.err;
    esp_code code = folder_place_find(&place, folder, err);
    if (code == ESP_OK)
        code = hf_load_member(&l->list, &l->has_list, &place, "tokenizer.json", LIST, err);
    if (code == ESP_OK && !l->has_list)
        code = hf_load_json(&l->map, &place, "added_tokens.json", err);
    if (code == ESP_OK) code = hf_load_json(&l->config, &place, "tokenizer_config.json", err);
    if (code == ESP_OK && l->has_list) code = read_list(l);
    if (code == ESP_OK && l->map) code = read_map(l);
    return code;
}

/* ---- against the base's ---- */

static bool is_bases(const token_list *l, const listed_token *one) {
    tok_text own = tok_bytes(l->base, (int32_t)one->id), text = one->token.text;
    if (own.bytes == text.bytes && memcmp(own.at, text.at, text.bytes) == 0) return true;
    return tok_find(l->base, text.at) == (int32_t)one->id;
}

/* The tokens that the base has not, in the order of their ids; count of them. */
static esp_code sift(const token_list *l, tok_added *out, uint32_t *count) {
    const hf_reader *r = &l->reader;
    uint32_t next = tok_next_id(l->base);
    *count = 0;
    for (size_t i = 0; i < l->count; i++) {
        const listed_token *one = &l->at[i];
        char shown[64];
        esp_show(shown, sizeof shown, one->token.text.at, one->token.text.bytes);
        if (one->token.text.bytes == 0) continue; /* matches nothing, as in the library */
        if (one->id < next && is_bases(l, one)) continue;
        if (one->id >= l->rows && !l->grown) continue; /* no row: the model never met it */
        if (one->id < next)
            return hf_fail(r, ESP_INVALID, LIST,
                           "gives \"%s\" the id %lld, which is another token of the base: the "
                           "adapter was trained for another one",
                           shown, (long long)one->id);
        if (one->id != (json_int_t)next + *count)
            return hf_fail(r, ESP_INVALID, LIST,
                           "gives \"%s\" the id %lld; wanted %u, the next one behind the base's "
                           "tokens and those before it",
                           shown, (long long)one->id, next + *count);
        if (one->id >= l->rows)
            return hf_fail(r, ESP_INVALID, LIST,
                           "gives \"%s\" the id %lld, and the adapter's tables have %u rows: "
                           "save it with save_embedding_layers=True",
                           shown, (long long)one->id, l->rows);
        if (*count == MODEL_ADDED_TOKENS_MAX)
            return hf_fail(r, ESP_UNIMPLEMENTED, LIST,
                           "has more than %d tokens that the base has not; so many are served",
                           MODEL_ADDED_TOKENS_MAX);
        out[(*count)++] = one->token;
    }
    return ESP_OK;
}

/* It may be one of the base's, too. */
static void add_eos(const token_list *l, tokenizer *tok) {
    tok_text eos = hf_token_named(l->config, "eos_token");
    if (eos.bytes && strlen(eos.at) == eos.bytes) tok_add_end(tok, tok_find(tok, eos.at));
}

static esp_code open_from(const token_list *l, tokenizer **out) {
    tok_added *added = mem_new(MODEL_ADDED_TOKENS_MAX, sizeof *added);
    uint32_t count;
    esp_error why = {0};
    esp_code code = sift(l, added, &count);
    if (code == ESP_OK && count > 0) {
        code = tok_open_more(out, l->base, added, count, &why);
        if (code != ESP_OK)
            code = esp_fail(l->reader.err, code, "%s: %s", l->reader.file, why.message);
    }
    if (*out) add_eos(l, *out);
    free(added);
    return code;
}

esp_code added_tokens_open(tokenizer **out, const char *folder, const tokenizer *base,
                           uint32_t rows, bool grown, bool *says, esp_error *err) {
    token_list l = {.reader = {.err = err}, .base = base, .rows = rows, .grown = grown};
    *out = NULL;
    esp_code code = read_files(&l, folder);
    *says = l.has_list || l.map;
    if (code == ESP_OK) code = open_from(&l, out);
    json_decref(l.list);
    json_decref(l.map);
    json_decref(l.config);
    free(l.at);
    return code;
}
