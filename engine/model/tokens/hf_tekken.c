/* hf_tekken.c - Mistral's tekken.json.
 *
 *   config          pattern, default_vocab_size, default_num_special_tokens
 *   vocab           {"rank": N, "token_bytes": base64}, more than are used
 *   special_tokens  {"rank": N, "token_str": T}; files up to version v7 leave them out
 *
 * The special tokens come first: rank N has the id N + default_num_special_tokens. A special token that the
 * file does not name is <SPECIAL_N>. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/tokens/hf_inner.h"
#include "engine/text/pre_pattern.h"

enum { TOKENS_MAX = 1 << 22, SPECIALS_MAX = 1 << 16, FILLER_BYTES = 24 };

static const char *const early_specials[] = {
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
};
enum { EARLY_COUNT = sizeof early_specials / sizeof *early_specials };

/* The file's numbers. */
typedef struct tekken {
    const json_t *root, *config, *vocab, *specials;
    uint32_t token_count, special_count;
    size_t used; /* of the pool */
} tekken;

static esp_code read_count(const hf_reader *r, const tekken *t, const char *key, uint32_t max,
                           uint32_t *out) {
    const json_t *number = json_object_get(t->config, key);
    json_int_t value = json_integer_value(number);
    if (!json_is_integer(number) || value < 0 || value > max)
        return hf_fail(r, ESP_INVALID, "config", "has %s %lld; wanted 0 to %u", key,
                       json_is_integer(number) ? (long long)value : -1LL, max);
    *out = (uint32_t)value;
    return ESP_OK;
}

/* tiktoken's ^ and $ are not those of pre_pattern.h. */
static esp_code read_pattern(const hf_reader *r, const tekken *t) {
    tok_text pattern = {"", 0};
    char *translated;
    esp_error why = {0};
    esp_code code = hf_get_text(r, t->config, "config", "pattern", &pattern);
    if (code) return code;
    code = pre_pattern_translate(pattern, &translated, &why);
    free(translated);
    if (code) return hf_fail(r, code, "config.pattern", "cannot be computed: %.280s", why.message);
    for (size_t i = 0; i < pattern.bytes; i++) {
        char before = i ? pattern.at[i - 1] : 0;
        if (pattern.at[i] == '$' || (pattern.at[i] == '^' && before != '['))
            return hf_fail(r, ESP_UNIMPLEMENTED, "config.pattern", "has an anchor at byte %zu", i);
    }
    r->out->splits[0] = (tok_split){.kind = TOK_SPLIT_REGEX, .pattern = pattern};
    r->out->plan = (tok_plan){.split_count = 1, .splits = r->out->splits};
    return ESP_OK;
}

static esp_code read_numbers(const hf_reader *r, tekken *t) {
    esp_code code = read_count(r, t, "default_vocab_size", TOKENS_MAX, &t->token_count);
    if (!code)
        code = read_count(r, t, "default_num_special_tokens", SPECIALS_MAX, &t->special_count);
    if (code) return code;
    size_t ranks = json_array_size(t->vocab);
    if (t->token_count <= t->special_count || t->token_count - t->special_count > ranks)
        return hf_fail(r, ESP_INVALID, "config",
                       "wants %u tokens, %u of them special; vocab has %zu others", t->token_count,
                       t->special_count, ranks);
    return ESP_OK;
}

/* ---- special tokens ---- */

static esp_code set_special(const hf_reader *r, uint32_t id, tok_text text) {
    token_source *out = r->out;
    if (out->tokens[id].bytes)
        return hf_fail(r, ESP_INVALID, "special_tokens", "gives rank %u twice", id);
    out->tokens[id] = text;
    out->types[id] = TOK_CONTROL;
    return ESP_OK;
}

static esp_code read_named(const hf_reader *r, const tekken *t) {
    for (size_t i = 0; i < json_array_size(t->specials); i++) {
        const json_t *token = json_array_get(t->specials, i),
                     *rank = json_object_get(token, "rank");
        const json_t *text = json_object_get(token, "token_str");
        json_int_t id = json_integer_value(rank);
        if (!json_is_integer(rank) || id < 0 || id >= (json_int_t)t->special_count ||
            json_string_length(text) == 0)
            return hf_fail(r, ESP_INVALID, "special_tokens",
                           "entry %zu has no token_str or no rank below %u", i, t->special_count);
        esp_code code = set_special(r, (uint32_t)id,
                                    (tok_text){json_string_value(text), json_string_length(text)});
        if (code) return code;
    }
    return ESP_OK;
}

static esp_code read_specials(const hf_reader *r, tekken *t) {
    esp_code code = ESP_OK;
    if (json_is_array(t->specials)) code = read_named(r, t);
    for (uint32_t id = 0; !json_is_array(t->specials) && id < EARLY_COUNT; id++) {
        if (id < t->special_count)
            code = set_special(r, id, (tok_text){early_specials[id], strlen(early_specials[id])});
    }
    for (uint32_t id = 0; !code && id < t->special_count; id++) {
        char *at = r->out->pool + t->used;
        if (r->out->tokens[id].bytes) continue;
        int bytes = snprintf(at, FILLER_BYTES, "<SPECIAL_%u>", id);
        t->used += (size_t)bytes;
        code = set_special(r, id, (tok_text){at, (size_t)bytes});
    }
    return code;
}

/* ---- the others ---- */

static esp_code read_rank(const hf_reader *r, tekken *t, size_t i) {
    const json_t *token = json_array_get(t->vocab, i), *rank = json_object_get(token, "rank");
    const json_t *coded = json_object_get(token, "token_bytes");
    json_int_t value = json_integer_value(rank);
    size_t bytes = 0;
    if (!json_is_integer(rank) || value < 0 || !json_is_string(coded))
        return hf_fail(r, ESP_INVALID, "vocab", "entry %zu has no rank or no token_bytes", i);
    if (value >= (json_int_t)(t->token_count - t->special_count)) return ESP_OK;
    uint32_t id = t->special_count + (uint32_t)value;
    char *at = r->out->pool + t->used;
    tok_text text = {json_string_value(coded), json_string_length(coded)};
    if (!hf_decode_base64(text, (uint8_t *)at, &bytes) || bytes == 0)
        return hf_fail(r, ESP_INVALID, "vocab", "entry %zu has token_bytes that are no base64", i);
    if (r->out->tokens[id].bytes)
        return hf_fail(r, ESP_INVALID, "vocab", "gives rank %lld twice", (long long)value);
    r->out->tokens[id] = (tok_text){at, bytes};
    r->out->types[id] = TOK_NORMAL;
    t->used += bytes;
    return ESP_OK;
}

static esp_code read_ranks(const hf_reader *r, tekken *t) {
    for (size_t i = 0; i < json_array_size(t->vocab); i++) {
        esp_code code = read_rank(r, t, i);
        if (code) return code;
    }
    for (uint32_t id = t->special_count; id < t->token_count; id++) {
        if (r->out->tokens[id].bytes == 0)
            return hf_fail(r, ESP_INVALID, "vocab", "has no rank %u", id - t->special_count);
    }
    return ESP_OK;
}

static void take_memory(token_source *out, const tekken *t) {
    uint64_t pool = (uint64_t)t->special_count * FILLER_BYTES + 1;
    for (size_t i = 0; i < json_array_size(t->vocab); i++)
        pool += json_string_length(json_object_get(json_array_get(t->vocab, i), "token_bytes"));
    out->pool = mem_new(pool, 1);
    out->tokens = mem_new(t->token_count, sizeof *out->tokens);
    out->types = mem_new(t->token_count, sizeof *out->types);
    out->source.token_count = t->token_count;
}

static void set_rules(hf_reader *r) {
    token_source *out = r->out;
    strcpy(out->kind, "gpt2");
    snprintf(out->origin, sizeof out->origin, "tekken.json: vocab");
    out->source.plan = &out->plan;
    out->source.raw_bytes = out->source.merges_by_id = out->source.take_whole = true;
    r->first_id = token_source_find(out, (tok_text){"<s>", 3});
    if (r->first_id >= 0 && out->types[r->first_id] != TOK_CONTROL) r->first_id = -1;
    out->source.eos = token_source_find(out, (tok_text){"</s>", 4});
    if (out->source.eos >= 0 && out->types[out->source.eos] != TOK_CONTROL) out->source.eos = -1;
}

esp_code hf_read_tekken(hf_reader *r, const json_t *root) {
    tekken t = {.root = root,
                .config = json_object_get(root, "config"),
                .vocab = json_object_get(root, "vocab"),
                .specials = json_object_get(root, "special_tokens")};
    r->file = "tekken.json";
    if (!json_is_object(t.config)) return hf_fail(r, ESP_INVALID, "config", "is no object");
    if (!json_is_array(t.vocab)) return hf_fail(r, ESP_INVALID, "vocab", "is no array");
    esp_code code = read_numbers(r, &t);
    if (!code) code = read_pattern(r, &t);
    if (code) return code;
    take_memory(r->out, &t);
    code = read_specials(r, &t);
    if (!code) code = read_ranks(r, &t);
    if (!code) set_rules(r);
    return code;
}
