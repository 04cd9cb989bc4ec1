/* hf_folder.c - a Hugging Face folder's tokenizer: which file it is read from.
 *
 *   tokenizer.json    hf_pipeline.c, hf_model.c   what the `tokenizers` library saves
 *   tekken.json       hf_tekken.c                 Mistral's ranks and pattern
 *   tokenizer.model   hf_sentencepiece.c          SentencePiece's message, or
 *                     hf_ranks.c                  tiktoken's lines of base64 and rank (Llama 3, 4)
 *
 * Then hf_ends.c reads BOS, EOS and what ends a generation from the files beside it. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "engine/model/tokens/hf_inner.h"

static esp_code read_tokenizer_json(hf_reader *r, const json_t *json) {
    r->file = "tokenizer.json";
    snprintf(r->out->origin, sizeof r->out->origin, "tokenizer.json: model.merges");
    esp_code code = hf_read_pipeline(r, json);
    if (!code) code = hf_read_model(r, json);
    if (!code) code = hf_read_post_processor(r, json);
    r->out->source.uncased = r->uncased;
    if (!r->bert) r->out->source.plan = &r->out->plan;
    return code;
}

static esp_code read_model_file(hf_reader *r, const folder_place *folder) {
    char path[PATH_MAX];
    token_source *out = r->out;
    r->file = "tokenizer.model";
    esp_code code = folder_file_find(folder, r->file, path, r->err);
    if (code == ESP_NOT_FOUND)
        return esp_fail(r->err, ESP_NOT_FOUND,
                        "%s has no tokenizer.json, tekken.json or tokenizer.model", folder->name);
    if (!code) code = file_map(&out->file, path, "a tokenizer", r->err);
    return code ? code : hf_read_model_file(r, &out->file);
}

static esp_code read_vocabulary(hf_reader *r, const folder_place *folder) {
    token_source *out = r->out;
    esp_code code = hf_load_json(&out->json, folder, "tokenizer.json", r->err);
    if (code) return code;
    if (out->json) return read_tokenizer_json(r, out->json);
    code = hf_load_json(&out->json, folder, "tekken.json", r->err);
    if (code) return code;
    if (out->json) return hf_read_tekken(r, out->json);
    return read_model_file(r, folder);
}

esp_code token_source_read_folder(token_source *out, const char *folder, esp_error *err) {
    folder_place place = {0};
    hf_reader r = {.out = out, .err = err, .first_id = -1, .last_id = -1};
    out->source.unknown = out->source.bos = out->source.eos = -1;
    esp_code code = folder_place_find(&place, folder, err);
    if (!code) code = read_vocabulary(&r, &place);
    if (code) return code;
    out->source.origin = out->origin[0] ? out->origin : NULL;
    if ((code = hf_read_ends(&r, &place))) return code;
    token_source_point(out);
    return ESP_OK;
}
