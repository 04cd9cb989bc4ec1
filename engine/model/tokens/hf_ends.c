/* hf_ends.c - what a folder says of BOS, EOS and the end of a generation.
 *
 * What is put around a text is decided once, here: by tokenizer.json's post_processor, except where
 * tokenizer_config.json names a class whose own rule overrides it (Llama's and Gemma's: add_bos_token,
 * add_eos_token). Which tokens bos and eos are: tokenizer_config.json, else special_tokens_map.json.
 *
 * A generation ends with eos and with eos_token_id of generation_config.json (else of config.json); without
 * either, with every token that is the end mark of a chat format. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "engine/model/tokens/hf_inner.h"

/* ---- post_processor ---- */

static esp_code set_end(hf_reader *r, const char *path, bool last, json_int_t id) {
    int32_t *end = last ? &r->last_id : &r->first_id;
    if (id < 0 || id >= (json_int_t)r->out->source.token_count)
        return hf_fail(r, ESP_INVALID, path, "has the id %lld; there are %u tokens", (long long)id,
                       r->out->source.token_count);
    if (*end >= 0)
        return hf_fail(r, ESP_UNIMPLEMENTED, path,
                       "puts two tokens %s a text; at most one is known here",
                       last ? "behind" : "before");
    *end = (int32_t)id;
    return ESP_OK;
}

/* {"SpecialToken": {"id": NAME}} with its ids in special_tokens. */
static esp_code read_template_token(hf_reader *r, const json_t *processor, const char *path,
                                    const json_t *token, bool last) {
    const char *name = json_string_value(json_object_get(token, "id"));
    const json_t *special =
        name ? json_object_get(json_object_get(processor, "special_tokens"), name) : NULL;
    const json_t *ids = json_object_get(special, "ids");
    if (json_array_size(ids) != 1 || !json_is_integer(json_array_get(ids, 0)))
        return hf_fail(r, ESP_UNIMPLEMENTED, path,
                       "has the token \"%.60s\", for which special_tokens has not one id",
                       name ? name : "");
    return set_end(r, path, last, json_integer_value(json_array_get(ids, 0)));
}

static esp_code read_template(hf_reader *r, const json_t *processor, const char *path) {
    const json_t *single = json_object_get(processor, "single");
    bool seen = false;
    esp_code code = ESP_OK;
    if (!json_is_array(single)) return hf_fail(r, ESP_INVALID, path, "has no array \"single\"");
    for (size_t i = 0; !code && i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        const json_t *token = json_object_get(piece, "SpecialToken");
        const char *sequence =
            json_string_value(json_object_get(json_object_get(piece, "Sequence"), "id"));
        if (token) {
            code = read_template_token(r, processor, path, token, seen);
        } else if (sequence && strcmp(sequence, "A") == 0 && !seen) {
            seen = true;
        } else {
            return hf_fail(r, ESP_UNIMPLEMENTED, path,
                           "has in single[%zu] neither a token nor the one A", i);
        }
    }
    return code || seen ? code : hf_fail(r, ESP_INVALID, path, "has no A in \"single\"");
}

/* BertProcessing and RobertaProcessing: ["[SEP]", 102] */
static esp_code read_pair(hf_reader *r, const json_t *processor, const char *path, const char *key,
                          bool last) {
    const json_t *id = json_array_get(json_object_get(processor, key), 1);
    if (!json_is_integer(id))
        return hf_fail(r, ESP_INVALID, path, "has no token and id \"%s\"", key);
    return set_end(r, path, last, json_integer_value(id));
}

static esp_code read_processor(hf_reader *r, const json_t *processor, const char *path, int depth);

static esp_code read_sequence(hf_reader *r, const json_t *processor, const char *path, int depth) {
    const json_t *list = json_object_get(processor, "processors");
    esp_code code =
        json_is_array(list) ? ESP_OK : hf_fail(r, ESP_INVALID, path, "has no \"processors\"");
    for (size_t i = 0; !code && i < json_array_size(list); i++) {
        char inner[HF_PATH_MAX];
        snprintf(inner, sizeof inner, "%s.processors[%zu]", path, i);
        code = read_processor(r, json_array_get(list, i), inner, depth + 1);
    }
    return code;
}

static esp_code read_processor(hf_reader *r, const json_t *processor, const char *path, int depth) {
    const char *type = json_string_value(json_object_get(processor, "type"));
    if (!type) return hf_fail(r, ESP_INVALID, path, "is no object with a \"type\"");
    if (depth > 8) return hf_fail(r, ESP_INVALID, path, "is nested more than 8 deep");
    if (strcmp(type, "ByteLevel") == 0) return ESP_OK; /* moves offsets alone */
    if (strcmp(type, "Sequence") == 0) return read_sequence(r, processor, path, depth);
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(r, processor, path);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
        esp_code code = read_pair(r, processor, path, "cls", false);
        return code ? code : read_pair(r, processor, path, "sep", true);
    }
    return hf_fail(r, ESP_UNIMPLEMENTED, path, "is of type \"%.60s\", which is not known here",
                   type);
}

esp_code hf_read_post_processor(hf_reader *r, const json_t *root) {
    const json_t *processor = json_object_get(root, "post_processor");
    if (!processor || json_is_null(processor)) return ESP_OK;
    return read_processor(r, processor, "post_processor", 0);
}

/* ---- the other files ---- */

tok_text hf_token_named(const json_t *object, const char *key) {
    const json_t *member = json_object_get(object, key);
    if (json_is_object(member)) member = json_object_get(member, "content");
    return (tok_text){json_string_value(member), json_string_length(member)};
}

static int32_t find_named(const token_source *out, const json_t *config, const json_t *map,
                          const char *key) {
    tok_text text = hf_token_named(config, key);
    if (text.bytes == 0) text = hf_token_named(map, key);
    return text.bytes ? token_source_find(out, text) : -1;
}

/* Classes that put the post-processor together anew. */
static bool overrides(const json_t *config, bool *bos) {
    static const char *const classes[] = {
        "LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast",
        "GemmaTokenizer", "GemmaTokenizerFast", "CohereTokenizer",    "CohereTokenizerFast"};
    const char *class = json_string_value(json_object_get(config, "tokenizer_class"));
    *bos = true;
    for (size_t i = 0; class && i < sizeof classes / sizeof *classes; i++) {
        if (strcmp(class, classes[i]) == 0) return true;
    }
    *bos = false;
    return class &&
           (strcmp(class, "GPTNeoXTokenizer") == 0 || strcmp(class, "GPTNeoXTokenizerFast") == 0);
}

static esp_code decide_ends(hf_reader *r, const json_t *config, const json_t *map) {
    tok_source *source = &r->out->source;
    hf_reader in_config = *r;
    in_config.file = "tokenizer_config.json";
    int32_t bos = find_named(r->out, config, map, "bos_token");
    int32_t eos = find_named(r->out, config, map, "eos_token");
    source->add_bos = r->first_id >= 0;
    source->add_eos = r->last_id >= 0;
    if (bos < 0) bos = source->bos; /* the vocabulary's own, where its file names one */
    if (eos < 0) eos = source->eos;
    source->bos = source->add_bos ? r->first_id : bos;
    source->eos = source->add_eos ? r->last_id : eos;
    if (overrides(config, &source->add_bos)) {
        source->add_eos = false;
        source->bos = bos >= 0 ? bos : source->bos;
        source->eos = eos >= 0 ? eos : source->eos;
        esp_code code = hf_get_bool(&in_config, config, "", "add_bos_token", &source->add_bos);
        if (!code) code = hf_get_bool(&in_config, config, "", "add_eos_token", &source->add_eos);
        if (code) return code;
    } else {
        source->add_bos = r->first_id >= 0;
    }
    if (source->add_bos && source->bos < 0)
        return hf_fail(&in_config, ESP_INVALID, "add_bos_token",
                       "is true, but bos_token names no token");
    if (source->add_eos && source->eos < 0)
        return hf_fail(&in_config, ESP_INVALID, "add_eos_token",
                       "is true, but eos_token names no token");
    return token_source_add_eog(r->out, eos, "tokenizer_config.json", r->err);
}

/* An id or a list of ids. */
static esp_code read_eos_ids(hf_reader *r, const folder_place *folder, const char *file,
                             bool *found) {
    json_t *json = NULL;
    char where[64];
    esp_code code = hf_load_json(&json, folder, file, r->err);
    const json_t *ids = json_object_get(json, "eos_token_id");
    size_t count = json_is_array(ids) ? json_array_size(ids) : json_is_integer(ids);
    snprintf(where, sizeof where, "%s: eos_token_id", file);
    for (size_t i = 0; !code && i < count; i++) {
        const json_t *id = json_is_array(ids) ? json_array_get(ids, i) : ids;
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            code = esp_fail(r->err, ESP_INVALID, "%s is no token's id", where);
        else
            code = token_source_add_eog(r->out, json_integer_value(id), where, r->err);
        *found = true;
    }
    json_decref(json);
    return code;
}

static esp_code read_generation_ends(hf_reader *r, const folder_place *folder) {
    bool found = false;
    esp_code code = read_eos_ids(r, folder, "generation_config.json", &found);
    if (!code && !found) code = read_eos_ids(r, folder, "config.json", &found);
    if (code || found) return code;
    return token_source_add_end_marks(r->out, r->file, r->err);
}

esp_code hf_read_ends(hf_reader *r, const folder_place *folder) {
    json_t *config = NULL, *map = NULL;
    esp_code code = hf_load_json(&config, folder, "tokenizer_config.json", r->err);
    if (!code) code = hf_load_json(&map, folder, "special_tokens_map.json", r->err);
    if (!code) code = decide_ends(r, config, map);
    if (!code) code = read_generation_ends(r, folder);
    json_decref(config);
    json_decref(map);
    return code;
}
