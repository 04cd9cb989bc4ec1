/* lora_merge.c - the folder of a merged checkpoint: made aside, opened as a model, renamed. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/lora/lora_merge.h"

#include <stdlib.h>
#include <string.h>

#include "engine/model/format/folder_files.h"
#include "engine/model/format/model_folder.h"
#include "engine/model/lora/lora_merge_inner.h"
#include "engine/model/new_folder.h"

/* Beside config.json and the weights: tokenizer, template, how a generation goes. */
static const char *const COPIED[] = {
    "added_tokens.json", "chat_template.jinja",     "chat_template.json", "generation_config.json",
    "merges.txt",        "special_tokens_map.json", "tekken.json",        "tokenizer.json",
    "tokenizer.model",   "tokenizer_config.json",   "vocab.json"};

static esp_code write_tensors(void *arg, FILE *file, esp_error *err) {
    return lora_merge_tensors(arg, file, err);
}

static esp_code write_config(const lora_merge_run *run, const new_folder *folder, esp_error *err) {
    char *text;
    esp_code code = lora_merge_config(run, &text, err);
    if (code) return code;
    code = new_folder_bytes(folder, "config.json", text, strlen(text), err);
    free(text);
    return code;
}

static bool has_tokenizer(const folder_place *place) {
    return folder_has(place, "tokenizer.json") || folder_has(place, "tokenizer.model") ||
           folder_has(place, "tekken.json");
}

static esp_code copy_files(const char *from, const new_folder *folder, bool *reads_text,
                           esp_error *err) {
    folder_place place;
    esp_code code = folder_place_find(&place, from, err);
    for (size_t i = 0; i < sizeof COPIED / sizeof *COPIED && !code; i++) {
        char path[PATH_MAX];
        file_view view = {0};
        if (!folder_has(&place, COPIED[i])) continue;
        code = folder_file_find(&place, COPIED[i], path, err);
        if (!code) code = file_map(&view, path, "a tokenizer's file", err);
        if (!code) code = new_folder_bytes(folder, COPIED[i], view.bytes, view.count, err);
        file_unmap(&view);
    }
    *reads_text = !code && has_tokenizer(&place);
    return code;
}

/* Added tokens come with a tokenizer that knows them. */
static esp_code copy_tokenizer(const lora_merge_run *run, const new_folder *folder,
                               bool *reads_text, esp_error *err) {
    const lora_merge_options *o = run->options;
    folder_place place;
    *reads_text = false;
    if (model_folder_is(o->adapter_path) && !folder_place_find(&place, o->adapter_path, NULL) &&
        has_tokenizer(&place))
        return copy_files(o->adapter_path, folder, reads_text, err);
    bool grown = run->vocab > run->base->spec.vocab; /* the base's does not know them */
    return !grown && model_folder_is(o->base_path)
               ? copy_files(o->base_path, folder, reads_text, err)
               : ESP_OK;
}

static esp_code fill_folder(lora_merge_run *run, const new_folder *folder, bool *reads_text,
                            esp_error *err) {
    esp_code code = write_config(run, folder, err);
    if (!code) code = copy_tokenizer(run, folder, reads_text, err);
    if (!code) code = new_folder_file(folder, "model.safetensors", write_tensors, run, err);
    return code ? code : new_folder_opens_as_model(folder, err);
}

esp_code lora_merge(const model_file *base, const lora_file *adapter,
                    const lora_merge_options *options, bool *reads_text, esp_error *err) {
    new_folder folder;
    uint32_t grown = adapter->facts.whole_rows[LORA_EMBEDDING];
    lora_merge_run run = {.base = model_file_weights(base),
                          .adapter = adapter,
                          .options = options,
                          .untied = lora_merge_unties(adapter)};
    run.vocab = grown ? grown : run.base->spec.vocab;
    run.family = run.base->family;
    if (run.family == &family_llama && run.base->spec.window) run.family = &family_mistral;
    *reads_text = false;
    ESP_ASSERT(adapter->base == run.base);
    esp_code code = lora_merge_check(&run, err);
    if (!code) code = new_folder_begin(&folder, options->out, err);
    if (code) return code;
    return new_folder_end(&folder, fill_folder(&run, &folder, reads_text, err), err);
}
