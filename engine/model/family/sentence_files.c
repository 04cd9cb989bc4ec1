/* sentence_files.c - modules, pooling, the longest text. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/family/sentence_files.h"

#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/model/family/hf_keys.h"
#include "engine/model/format/json_bytes.h"

enum { SENTENCE_FILE_BYTES_MAX = 1 << 20 };

static const char MODULES[] = "modules.json", POOLING[] = "1_Pooling/config.json",
                  SENTENCE[] = "sentence_bert_config.json", TOKENIZER[] = "tokenizer_config.json",
                  PROMPTS[] = "config_sentence_transformers.json";
static const char *const NAMES[] = {MODULES, POOLING, SENTENCE, TOKENIZER, PROMPTS};
enum { MODULES_FILE, POOLING_FILE, SENTENCE_FILE, TOKENIZER_FILE, PROMPTS_FILE };

/* *root stays NULL when the file is not there; json_decref. */
static esp_code read_json(const sentence_bytes *files, uint32_t file, json_t **root,
                          esp_error *err) {
    const sentence_bytes *bytes = &files[file];
    *root = NULL;
    if (!bytes->at) return ESP_OK;
    if (bytes->count > SENTENCE_FILE_BYTES_MAX)
        return esp_fail(err, ESP_INVALID, "%s: the file has %zu bytes; wanted %d at most",
                        NAMES[file], bytes->count, SENTENCE_FILE_BYTES_MAX);
    if (file != MODULES_FILE)
        return json_read_object(root, bytes->at, bytes->count, NAMES[file], "the file", err);
    *root = json_loadb(bytes->at, bytes->count, JSON_REJECT_DUPLICATES, NULL);
    if (*root) return ESP_OK;
    return esp_fail(err, ESP_INVALID, "%s: is no valid JSON; download it again", MODULES);
}

static json_label show(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return json_show(text ? text : "");
}

static hf_section section_of(const json_t *object, const char *file) {
    return (hf_section){.object = object, .file = file};
}

/* --- modules.json --------------------------------------------------------------------------- */

/* The last word of "sentence_transformers.models.Pooling"; "" for anything else. */
static const char *kind_of(const json_t *module) {
    static const char prefix[] = "sentence_transformers.";
    const char *type = json_string_value(json_object_get(module, "type"));
    const char *dot = type ? strrchr(type, '.') : NULL;
    return dot && strncmp(type, prefix, sizeof prefix - 1) == 0 ? dot + 1 : "";
}

static esp_code check_module(const json_t *module, size_t index, const char *wanted,
                             const char *path, esp_error *err) {
    const char *kind = kind_of(module);
    const char *seen = json_string_value(json_object_get(module, "path"));
    if (strcmp(kind, wanted) != 0)
        return esp_fail(
            err, ESP_INVALID,
            "%s: module %zu has the type \"%s\"; wanted %s: computed are a Transformer, "
            "a Pooling and maybe a Normalize",
            MODULES, index, show(module, "type").text, wanted);
    if (path && (!seen || strcmp(seen, path) != 0))
        return esp_fail(err, ESP_INVALID, "%s: module %zu lies in \"%s\"; wanted \"%s\"", MODULES,
                        index, show(module, "path").text, path);
    return ESP_OK;
}

static esp_code read_modules(const json_t *root, bool *normalise, esp_error *err) {
    size_t count = json_array_size(root);
    if (!json_is_array(root) || count < 2 || count > 3)
        return esp_fail(err, ESP_INVALID, "%s: holds %zu modules; wanted a list of two or three",
                        MODULES, count);
    esp_code code = check_module(json_array_get(root, 0), 0, "Transformer", "", err);
    if (!code) code = check_module(json_array_get(root, 1), 1, "Pooling", "1_Pooling", err);
    if (!code && count > 2) code = check_module(json_array_get(root, 2), 2, "Normalize", NULL, err);
    *normalise = count > 2;
    return code;
}

/* --- pooling -------------------------------------------------------------------------------- */

static esp_code read_modes(const hf_section *pooling, model_spec *spec, esp_error *err) {
    static const struct {
        const char *key;
        spec_pooling pooling; /* POOLING_NONE: not computed */
    } modes[] = {
        {"pooling_mode_cls_token", POOLING_FIRST},
        {"pooling_mode_mean_tokens", POOLING_MEAN},
        {"pooling_mode_lasttoken", POOLING_LAST},
        {"pooling_mode_max_tokens", POOLING_NONE},
        {"pooling_mode_mean_sqrt_len_tokens", POOLING_NONE},
        {"pooling_mode_weightedmean_tokens", POOLING_NONE},
    };
    uint32_t asked = 0;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        bool on = false;
        esp_code code = hf_may_bool(pooling, modes[i].key, &on, err);
        if (code) return code;
        if (on && modes[i].pooling == POOLING_NONE)
            return esp_fail(err, ESP_INVALID,
                            "%s: %s is true, which is not supported; wanted the mean, the cls or "
                            "the last token",
                            POOLING, modes[i].key);
        if (on) spec->pooling = modes[i].pooling;
        asked += on;
    }
    if (asked == 1) return ESP_OK;
    return esp_fail(err, ESP_INVALID, "%s: %u of the pooling_mode_* are true; wanted one", POOLING,
                    asked);
}

static esp_code read_pooling(const sentence_bytes *files, model_spec *spec, esp_error *err) {
    json_t *root;
    uint32_t width = spec->hidden;
    esp_code code = read_json(files, POOLING_FILE, &root, err);
    if (code) return code;
    if (!root)
        return esp_fail(err, ESP_INVALID,
                        "%s is missing, and %s names it; the folder is incomplete: download it "
                        "again",
                        POOLING, MODULES);
    hf_section section = section_of(root, POOLING);
    code = hf_may_u32(&section, "word_embedding_dimension",
                      (family_range){spec->hidden, spec->hidden, 0}, &width, err);
    if (!code) code = read_modes(&section, spec, err);
    json_decref(root);
    return code;
}

/* --- the longest text ----------------------------------------------------------------------- */

static esp_code read_sentence_config(const sentence_bytes *files, model_spec *spec,
                                     esp_error *err) {
    json_t *root;
    bool lower = false;
    uint32_t most = spec->context;
    esp_code code = read_json(files, SENTENCE_FILE, &root, err);
    if (code || !root) return code;
    hf_section section = section_of(root, SENTENCE);
    code =
        hf_may_u32(&section, "max_seq_length", (family_range){1, SPEC_CONTEXT_MAX, 0}, &most, err);
    if (!code && hf_has(&section, "max_seq_length")) spec->input_max = most;
    if (!code) code = hf_may_bool(&section, "do_lower_case", &lower, err);
    if (!code && lower)
        code = esp_fail(err, ESP_INVALID,
                        "%s: do_lower_case is true, which is not supported; wanted false: the "
                        "tokenizer's own rule decides",
                        SENTENCE);
    json_decref(root);
    return code;
}

/* Often a number beyond all bounds, which says nothing. */
static esp_code read_tokenizer_config(const sentence_bytes *files, model_spec *spec,
                                      esp_error *err) {
    json_t *root;
    esp_code code = read_json(files, TOKENIZER_FILE, &root, err);
    if (code || !root) return code;
    double most = json_number_value(json_object_get(root, "model_max_length"));
    if (most >= 1 && most < spec->context) spec->input_max = (uint32_t)most;
    json_decref(root);
    return ESP_OK;
}

/* --- prompts --------------------------------------------------------------------------------- */

/* A prompt that the reference puts before every text unless told otherwise. */
static esp_code check_prompts(const sentence_bytes *files, esp_error *err) {
    json_t *root;
    esp_code code = read_json(files, PROMPTS_FILE, &root, err);
    if (code || !root) return code;
    const char *name = json_string_value(json_object_get(root, "default_prompt_name"));
    const json_t *prompts = json_object_get(root, "prompts");
    const char *prompt = name ? json_string_value(json_object_get(prompts, name)) : NULL;
    if (prompt && *prompt)
        code = esp_fail(err, ESP_INVALID,
                        "%s: default_prompt_name is \"%s\", which puts a prompt before every text; "
                        "that is not supported: set it to null and send the prompt with the text",
                        PROMPTS, json_show(name).text);
    json_decref(root);
    return code;
}

esp_code sentence_read_memory(const sentence_bytes files[SENTENCE_FILE_COUNT], model_spec *spec,
                              esp_error *err) {
    json_t *modules;
    esp_code code = read_json(files, MODULES_FILE, &modules, err);
    if (code) return code;
    if (!modules && !spec->encoder) return ESP_OK;
    if (!modules)
        return esp_fail(err, ESP_INVALID,
                        "%s is missing: it says how an encoder's states become one vector, which "
                        "is not guessed; wanted the files of sentence-transformers",
                        MODULES);
    code = read_modules(modules, &spec->normalise, err);
    json_decref(modules);
    if (!code) code = read_pooling(files, spec, err);
    if (!code) code = read_sentence_config(files, spec, err);
    if (!code && !spec->input_max) code = read_tokenizer_config(files, spec, err);
    if (!code) code = check_prompts(files, err);
    if (spec->input_max > spec->context) spec->input_max = spec->context;
    return code;
}

static esp_code map_one(file_view *out, const char *folder, const char *name, esp_error *err) {
    char path[PATH_MAX];
    int used = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (used >= (int)sizeof path || access(path, F_OK) != 0) return ESP_OK;
    return file_map(out, path, "JSON", err);
}

esp_code sentence_read_files(const char *folder, model_spec *spec, esp_error *err) {
    file_view views[SENTENCE_FILE_COUNT] = {0};
    sentence_bytes files[SENTENCE_FILE_COUNT] = {0};
    esp_code code = ESP_OK;
    for (uint32_t i = 0; i < SENTENCE_FILE_COUNT && !code; i++) {
        code = map_one(&views[i], folder, NAMES[i], err);
        files[i] = (sentence_bytes){views[i].bytes, views[i].count};
    }
    if (!code) code = sentence_read_memory(files, spec, err);
    for (uint32_t i = 0; i < SENTENCE_FILE_COUNT; i++)
        file_unmap(&views[i]);
    return code;
}
