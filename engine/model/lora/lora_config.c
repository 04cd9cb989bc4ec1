/* lora_config.c - reads and validates adapter_config.json. Keys: LoraConfig of peft's
 * tuners/lora/config.py. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/lora/lora_config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/family/hf_keys.h"
#include "engine/model/format/json_bytes.h"
#include "engine/model/lora/lora_file.h"

static const double ALPHA_MAX = 1e6;

/* ---- keys that are refused ---- */

/* Keys that are read here, or that say nothing about the arithmetic of a trained adapter. */
static const char *const KNOWN[] = {
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "lora_bias",
    "bias",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "trainable_token_indices",
    "ensure_weight_tying",
    "init_lora_weights",
    "base_model_name_or_path",
    "task_type",
    "id2label",
    /* facts about the training, or the settings of what is not in use */
    "auto_mapping",
    "revision",
    "inference_mode",
    "peft_version",
    "lora_dropout",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "loftq_config",
    "velora_config",
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
    "label2id",
    NULL,
};

/* What asks for nothing may stand under any key. */
static esp_code refuse_unknown(const hf_section *root, esp_error *err) {
    json_t *object = (json_t *)(uintptr_t)root->object, *value; /* the iterator wants no const */
    const char *key;
    json_object_foreach(object, key, value) {
        bool known = hf_is_empty(root, key);
        for (size_t i = 0; KNOWN[i] && !known; i++)
            known = strcmp(KNOWN[i], key) == 0;
        if (!known)
            return esp_fail(err, ESP_INVALID,
                            "%s: the key %s (%s) asks for arithmetic that is not computed here; "
                            "an adapter that needs it would answer wrongly",
                            root->file, json_show(key).text, hf_show(root, key).text);
    }
    return ESP_OK;
}

/* Some ways to begin a training take a part out of the base's weights and put it into the adapter: such
 * an adapter belongs to a base that is nowhere on a disk. */
static esp_code check_init(const hf_section *root, esp_error *err) {
    static const char key[] = "init_lora_weights";
    static const char *const harmless[] = {"gaussian", "eva", "orthogonal", "mica", NULL};
    if (!hf_has(root, key) || json_is_boolean(json_object_get(root->object, key))) return ESP_OK;
    const char *seen = "";
    esp_code code = hf_may_text(root, key, &seen, err);
    if (code) return code;
    for (size_t i = 0; harmless[i]; i++)
        if (strcmp(harmless[i], seen) == 0) return ESP_OK;
    return esp_fail(err, ESP_INVALID,
                    "%s: %s is %s, which changes the base's own weights; save the adapter with "
                    "path_initial_model_for_weight_conversion, which makes a plain one of it",
                    root->file, key, hf_show(root, key).text);
}

static esp_code check_kind(const hf_section *root, esp_error *err) {
    const char *type = NULL;
    esp_code code = hf_may_text(root, "peft_type", &type, err);
    if (code) return code;
    if (!type || strcmp(type, "LORA") != 0)
        return esp_fail(err, ESP_INVALID, "%s: peft_type is %s; wanted \"LORA\"", root->file,
                        hf_show(root, "peft_type").text);
    return ESP_OK;
}

/* ---- rank and alpha ---- */

static esp_code read_alpha(const hf_section *section, const char *key, double *out,
                           esp_error *err) {
    const json_t *value = json_object_get(section->object, key);
    if (!hf_has(section, key)) return hf_need_real(section, key, 0, ALPHA_MAX, out, err);
    *out = json_number_value(value); /* 0 of what is none */
    if (*out > 0 && *out <= ALPHA_MAX) return ESP_OK;
    return esp_fail(err, ESP_INVALID, "%s: %s%s is %s; wanted a number above 0, %g at most",
                    section->file, section->path, json_show(key).text, hf_show(section, key).text,
                    ALPHA_MAX);
}

static esp_code read_rank(const hf_section *section, const char *key, double *out, esp_error *err) {
    uint32_t rank = 1;
    esp_code code = hf_need_u32(section, key, (family_range){1, LORA_RANK_MAX, 0}, &rank, err);
    *out = rank;
    return code;
}

static esp_code check_regexes(const lora_numbers *numbers, const char *key, esp_error *err) {
    uint32_t regexes = 0;
    for (uint32_t i = 0; i < numbers->count; i++)
        regexes += !lora_pattern_is_plain(numbers->patterns[i]);
    if (regexes <= LORA_REGEXES_MAX) return ESP_OK;
    return esp_fail(err, ESP_INVALID,
                    "%s: %s has %u regular expressions that are no plain names; wanted %d at most",
                    ADAPTER_CONFIG_FILE, key, regexes, LORA_REGEXES_MAX);
}

static esp_code read_numbers(const hf_section *root, const char *key,
                             esp_code (*read)(const hf_section *, const char *, double *,
                                              esp_error *),
                             lora_numbers *out, esp_error *err) {
    hf_section section;
    esp_code code = hf_may_section(root, key, &section, err);
    size_t count = json_object_size(section.object);
    if (code || !count) return code;
    if (count > LORA_PATTERNS_MAX)
        return esp_fail(err, ESP_INVALID, "%s: %s has %zu keys; wanted %d at most", root->file, key,
                        count, LORA_PATTERNS_MAX);
    out->patterns = mem_new(count, sizeof *out->patterns);
    out->values = mem_new(count, sizeof *out->values);
    json_t *object = (json_t *)(uintptr_t)section.object, *value;
    const char *text;
    json_object_foreach(object, text, value) {
        uint32_t at = out->count;
        code = lora_pattern_open(&out->patterns[at], text, ANCHOR_END, key, err);
        if (code) return code;
        out->count++;
        if ((code = read(&section, text, &out->values[at], err))) return code;
    }
    return check_regexes(out, key, err);
}

static void free_numbers(lora_numbers *numbers) {
    for (uint32_t i = 0; i < numbers->count; i++)
        lora_pattern_close(numbers->patterns[i]);
    free(numbers->patterns);
    free(numbers->values);
}

static esp_code read_scale(const hf_section *root, lora_config *out, esp_error *err) {
    double rank = 0;
    esp_code code = read_rank(root, "r", &rank, err);
    if (!code) code = read_alpha(root, "lora_alpha", &out->alpha, err);
    out->rank = (uint32_t)rank;
    if (!code) code = hf_may_bool(root, "use_rslora", &out->rslora, err);
    if (!code) code = read_numbers(root, "rank_pattern", read_rank, &out->ranks, err);
    if (!code) code = read_numbers(root, "alpha_pattern", read_alpha, &out->alphas, err);
    return code;
}

/* ---- targets ---- */

static esp_code check_texts(const hf_section *root, const char *key, const json_t *list,
                            esp_error *err) {
    size_t count = json_array_size(list);
    bool texts = json_is_array(list) && count <= LORA_PATTERNS_MAX;
    for (size_t i = 0; i < count && texts; i++)
        texts = json_is_string(json_array_get(list, i));
    if (texts) return ESP_OK;
    return esp_fail(err, ESP_INVALID, "%s: %s is %s; wanted a list of up to %d names of modules",
                    root->file, key, hf_show(root, key).text, LORA_PATTERNS_MAX);
}

static esp_code read_modules(const hf_section *root, const char *key, bool any, lora_modules *out,
                             esp_error *err) {
    const json_t *value = json_object_get(root->object, key);
    const char *text = json_string_value(value);
    out->any = any && (!hf_has(root, key) || (text && strcmp(text, "all-linear") == 0));
    if (out->any || !hf_has(root, key)) return ESP_OK;
    if (text) return lora_pattern_open(&out->pattern, text, ANCHOR_ALL, key, err);
    out->names = value;
    return check_texts(root, key, value, err);
}

/* layers_to_transform: one number or a list. */
static esp_code read_layers(const hf_section *root, lora_config *out, esp_error *err) {
    static const char key[] = "layers_to_transform";
    json_t *value = json_object_get(out->root, key);
    if (!hf_has(root, key) || (json_is_array(value) && json_array_size(value) == 0)) return ESP_OK;
    if (json_is_integer(value)) {
        json_t *list = json_array();
        ESP_ASSERT(list && json_array_append(list, value) == 0);
        ESP_ASSERT(json_object_set_new(out->root, key, list) == 0);
        value = list;
    }
    bool numbers = json_is_array(value) && json_array_size(value) <= SPEC_LAYERS_MAX;
    for (size_t i = 0; numbers && i < json_array_size(value); i++)
        numbers = json_is_integer(json_array_get(value, i));
    out->layers = value;
    if (numbers) return ESP_OK;
    return esp_fail(err, ESP_INVALID, "%s: %s is %s; wanted up to %d numbers of layers", root->file,
                    key, hf_show(root, key).text, SPEC_LAYERS_MAX);
}

static esp_code add_layer_pattern(lora_config *out, const char *text, lora_anchor anchor,
                                  esp_error *err) {
    esp_code code = lora_pattern_open(&out->layer_patterns[out->layer_pattern_count], text, anchor,
                                      "layers_pattern", err);
    out->layer_pattern_count += !code;
    return code;
}

/* Where a name says its layer. Without a pattern: the first number between dots. */
static esp_code read_layer_patterns(const hf_section *root, lora_config *out, esp_error *err) {
    static const char key[] = "layers_pattern";
    const json_t *value = json_object_get(root->object, key);
    size_t count = json_is_array(value) ? json_array_size(value) : 1;
    if (!out->layers) return ESP_OK;
    if (count > LORA_REGEXES_MAX)
        return esp_fail(err, ESP_INVALID, "%s: %s has %zu patterns; wanted %d at most", root->file,
                        key, count, LORA_REGEXES_MAX);
    out->layer_patterns = mem_new(count ? count : 1, sizeof *out->layer_patterns);
    if (hf_is_empty(root, key))
        return add_layer_pattern(out, ".*?\\.[^.]*\\.(?<n>\\d+)\\.", ANCHOR_START, err);
    if (json_is_string(value))
        return add_layer_pattern(out, json_string_value(value), ANCHOR_LAYER, err);
    esp_code code = check_texts(root, key, value, err);
    for (size_t i = 0; i < count && !code; i++)
        code =
            add_layer_pattern(out, json_string_value(json_array_get(value, i)), ANCHOR_LAYER, err);
    return code;
}

static esp_code read_targets(const hf_section *root, lora_config *out, esp_error *err) {
    esp_code code = read_modules(root, "target_modules", true, &out->targets, err);
    if (!code) code = read_modules(root, "exclude_modules", false, &out->excluded, err);
    if (!code) code = read_layers(root, out, err);
    if (!code) code = read_layer_patterns(root, out, err);
    if (code || !hf_has(root, "modules_to_save")) return code;
    out->saved = json_object_get(root->object, "modules_to_save");
    return check_texts(root, "modules_to_save", out->saved, err);
}

/* ---- rows of single tokens ---- */

static esp_code check_tokens(const hf_section *root, const char *key, const json_t *list,
                             esp_error *err) {
    size_t count = json_array_size(list);
    bool ids = json_is_array(list) && count > 0 && count <= LORA_TOKEN_ROWS_MAX;
    for (size_t i = 0; i < count && ids; i++) {
        const json_t *id = json_array_get(list, i);
        ids = json_is_integer(id) && json_integer_value(id) >= 0 &&
              json_integer_value(id) < SPEC_VOCAB_MAX;
    }
    if (ids) return ESP_OK;
    return esp_fail(err, ESP_INVALID,
                    "%s: %s is %s; wanted lists of 1 to %d ids of tokens, by the names of modules",
                    root->file, key, hf_show(root, key).text, LORA_TOKEN_ROWS_MAX);
}

static bool ends_in(const char *module, const char *name) {
    size_t bytes = strlen(module), end = strlen(name);
    return bytes >= end && !strcmp(module + bytes - end, name) &&
           (bytes == end || module[bytes - end - 1] == '.');
}

/* A list is of the embedding, and of the output where the base has one table for both. */
static esp_code read_tokens(const hf_section *root, lora_config *out, esp_error *err) {
    static const char key[] = "trainable_token_indices";
    json_t *value = json_object_get(out->root, key), *list;
    const char *module;
    if (hf_is_empty(root, key)) return ESP_OK;
    if (!json_is_object(value)) {
        out->embedding_tokens = out->output_tokens = value;
        return check_tokens(root, key, value, err);
    }
    json_object_foreach(value, module, list) {
        esp_code code = check_tokens(root, key, list, err);
        bool embeds = ends_in(module, "embed_tokens") || ends_in(module, "word_embeddings");
        if (code) return code;
        if (!embeds && !ends_in(module, "lm_head"))
            return esp_fail(err, ESP_INVALID,
                            "%s: %s names the module %s; wanted embed_tokens and lm_head alone",
                            root->file, key, json_show(module).text);
        *(embeds ? &out->embedding_tokens : &out->output_tokens) = list;
    }
    return ESP_OK;
}

/* ---- the door ---- */

static esp_code read_bias(const hf_section *root, lora_config *out, esp_error *err) {
    const char *bias = "none";
    esp_code code = hf_may_text(root, "bias", &bias, err);
    if (code) return code;
    out->biases = strcmp(bias, "none") != 0;
    if (!out->biases || strcmp(bias, "all") == 0 || strcmp(bias, "lora_only") == 0) return ESP_OK;
    return esp_fail(err, ESP_INVALID, "%s: bias is %s; wanted \"none\", \"all\" or \"lora_only\"",
                    root->file, hf_show(root, "bias").text);
}

static esp_code read_switches(const hf_section *root, lora_config *out, esp_error *err) {
    esp_code code = hf_may_bool(root, "use_dora", &out->dora, err);
    if (!code) code = hf_may_bool(root, "lora_bias", &out->second_bias, err);
    if (!code) code = hf_may_bool(root, "ensure_weight_tying", &out->tying, err);
    if (!code) code = read_bias(root, out, err);
    if (code || !out->dora || !out->second_bias) return code;
    return esp_fail(err, ESP_INVALID,
                    "%s: lora_bias and use_dora are both true, which has no meaning that is agreed "
                    "on; wanted one of them",
                    root->file);
}

esp_code lora_config_read(lora_config *out, const void *bytes, size_t count, esp_error *err) {
    *out = (lora_config){.base_name = "", .task = ""};
    if (count > LORA_CONFIG_BYTES_MAX)
        return esp_fail(err, ESP_INVALID, "%s: the file has %zu bytes; wanted %d at most",
                        ADAPTER_CONFIG_FILE, count, LORA_CONFIG_BYTES_MAX);
    esp_code code =
        json_read_object(&out->root, bytes, count, ADAPTER_CONFIG_FILE, "the file", err);
    if (code) return code;
    hf_section root = {.object = out->root, .file = ADAPTER_CONFIG_FILE};
    if ((code = check_kind(&root, err))) return code;
    if ((code = refuse_unknown(&root, err))) return code;
    if ((code = check_init(&root, err))) return code;
    if ((code = read_scale(&root, out, err))) return code;
    if ((code = read_switches(&root, out, err))) return code;
    if ((code = read_targets(&root, out, err))) return code;
    if ((code = read_tokens(&root, out, err))) return code;
    if ((code = hf_may_text(&root, "task_type", &out->task, err))) return code;
    return hf_may_text(&root, "base_model_name_or_path", &out->base_name, err);
}

void lora_config_free(lora_config *config) {
    free_numbers(&config->ranks);
    free_numbers(&config->alphas);
    lora_pattern_close(config->targets.pattern);
    lora_pattern_close(config->excluded.pattern);
    for (uint32_t i = 0; i < config->layer_pattern_count; i++)
        lora_pattern_close(config->layer_patterns[i]);
    free(config->layer_patterns);
    json_decref(config->root);
    *config = (lora_config){0};
}

/* ---- questions ---- */

/* The name itself, or its end from a dot on. *whole: it was the name itself. */
static bool is_named(const json_t *names, model_text module, bool *whole) {
    for (size_t i = 0; i < json_array_size(names); i++) {
        const json_t *entry = json_array_get(names, i);
        size_t bytes = json_string_length(entry);
        if (bytes > module.bytes) continue;
        size_t before = module.bytes - bytes;
        if (memcmp(module.at + before, json_string_value(entry), bytes) != 0) continue;
        *whole = before == 0;
        if (before == 0 || module.at[before - 1] == '.') return true;
    }
    return false;
}

static esp_code fits(const lora_modules *modules, model_text module, bool *out, bool *whole,
                     esp_error *err) {
    *out = modules->any;
    *whole = modules->pattern != NULL;
    if (modules->pattern) return lora_pattern_match(modules->pattern, module, out, NULL, err);
    if (modules->names) *out = is_named(modules->names, module, whole);
    return ESP_OK;
}

static bool has_layer(const json_t *layers, uint32_t layer) {
    for (size_t i = 0; i < json_array_size(layers); i++)
        if (json_integer_value(json_array_get(layers, i)) == (json_int_t)layer) return true;
    return false;
}

static esp_code fits_layers(const lora_config *config, model_text module, bool *out,
                            esp_error *err) {
    esp_code code = ESP_OK;
    *out = false;
    for (uint32_t i = 0; i < config->layer_pattern_count && !code; i++) {
        bool matches;
        uint32_t layer = UINT32_MAX;
        code = lora_pattern_match(config->layer_patterns[i], module, &matches, &layer, err);
        if (code || !matches) continue;
        *out = has_layer(config->layers, layer);
        break;
    }
    return code;
}

esp_code lora_config_targets(const lora_config *config, model_text module, bool *out,
                             esp_error *err) {
    bool excluded, whole;
    *out = false;
    esp_code code = fits(&config->excluded, module, &excluded, &whole, err);
    if (code || excluded) return code;
    if ((code = fits(&config->targets, module, out, &whole, err)) || !*out) return code;
    /* a module that is named in full is meant, whatever its layer */
    return config->layers && !whole ? fits_layers(config, module, out, err) : ESP_OK;
}

static esp_code find_number(const lora_numbers *numbers, model_text module, double *out,
                            esp_error *err) {
    esp_code code = ESP_OK;
    bool matches = false;
    for (uint32_t i = 0; i < numbers->count && !code && !matches; i++) {
        code = lora_pattern_match(numbers->patterns[i], module, &matches, NULL, err);
        if (matches) *out = numbers->values[i];
    }
    return code;
}

esp_code lora_config_scale(const lora_config *config, model_text module, uint32_t *rank,
                           float *scale, esp_error *err) {
    double r = config->rank, alpha = config->alpha;
    esp_code code = find_number(&config->ranks, module, &r, err);
    if (!code) code = find_number(&config->alphas, module, &alpha, err);
    *rank = (uint32_t)r;
    *scale = (float)(alpha / (config->rslora ? sqrt(r) : r));
    return code;
}

bool lora_config_saves(const lora_config *config, const char *module) {
    for (size_t i = 0; i < json_array_size(config->saved); i++) {
        const char *name = json_string_value(json_array_get(config->saved, i));
        const char *dot = strrchr(name, '.');
        if (strcmp(dot ? dot + 1 : name, module) == 0) return true;
    }
    return false;
}
