/* quant_config.c - quantization_config -> how each module's matrix is packed. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/packed/quant_config.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { GROUP_SIZE_MAX = 1 << 20, MATCH_STEPS_MAX = 10000, MATCH_HEAP_KIB = 256 };
/* Each module is held against each target. */
enum { TARGETS_MAX = 8192, PATTERNS_MAX = 64, TARGET_BYTES_MAX = 512 };

/* What reads one object of the configuration. */
typedef struct reader {
    const json_t *object;
    const char *file;
    const char *path; /* of the object: "quantization_config" */
    esp_error *err;
} reader;

/* --- values ------------------------------------------------------------------------------------ */

/* A value as its error sentence shows it. */
static const char *show(const json_t *value, char *out, size_t bytes) {
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    snprintf(out, bytes, "%.40s", text ? text : "null");
    free(text);
    return out;
}

static esp_code refuse(const reader *r, const char *key, const char *wanted) {
    char seen[48];
    return esp_fail(r->err, ESP_INVALID, "%s: %s.%s is %s; wanted %s", r->file, r->path, key,
                    show(json_object_get(r->object, key), seen, sizeof seen), wanted);
}

/* NULL where the key is absent or null: PEFT and the like write many nulls. */
static const json_t *value_at(const reader *r, const char *key) {
    const json_t *value = json_object_get(r->object, key);
    return json_is_null(value) ? NULL : value;
}

static const json_t *either(const reader *r, const char *key, const char *older) {
    const json_t *value = value_at(r, key);
    return value ? value : value_at(r, older);
}

static const char *text_at(const reader *r, const char *key) {
    return json_string_value(value_at(r, key));
}

static bool true_at(const reader *r, const char *key) { return json_is_true(value_at(r, key)); }

/* An empty list or object says as much as none. */
static bool has_something(const reader *r, const char *key) {
    const json_t *value = value_at(r, key);
    return value && !json_is_false(value) && json_array_size(value) + json_object_size(value) > 0;
}

static esp_code read_bits(const reader *r, const char *key, const char *older, packed_scheme *out) {
    json_int_t bits = json_integer_value(either(r, key, older));
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8) return refuse(r, key, "2, 3, 4 or 8");
    out->bits = (uint32_t)bits;
    return ESP_OK;
}

/* Columns of a scale; -1: all. */
static esp_code read_group_size(const reader *r, const char *key, const char *older,
                                packed_scheme *out) {
    const json_t *value = either(r, key, older);
    json_int_t size = json_integer_value(value);
    if (!json_is_integer(value) || (size < 1 && size != -1) || size > GROUP_SIZE_MAX)
        return refuse(r, key, "a number of columns, or -1");
    out->group_cols = size < 0 ? 0 : (uint32_t)size;
    return ESP_OK;
}

/* [rows, columns] of the weights that share a scale. */
static esp_code read_block(const reader *r, const char *key, packed_scheme *out) {
    const json_t *value = value_at(r, key);
    json_int_t rows = json_integer_value(json_array_get(value, 0));
    json_int_t cols = json_integer_value(json_array_get(value, 1));
    if (json_array_size(value) != 2 || rows < 1 || rows > GROUP_SIZE_MAX || cols < 1 ||
        cols > GROUP_SIZE_MAX)
        return refuse(r, key, "two numbers, rows and columns");
    out->block_rows = (uint32_t)rows;
    out->group_cols = (uint32_t)cols;
    return ESP_OK;
}

/* A text that may be left out, whatever its case. */
static esp_code want_text(const reader *r, const char *key, const char *wanted) {
    const json_t *value = value_at(r, key);
    if (!value || (json_is_string(value) && strcasecmp(json_string_value(value), wanted) == 0))
        return ESP_OK;
    return refuse(r, key, wanted);
}

static quant_group *add_group(quant_config *out, packing_kind packing) {
    ESP_ASSERT(out->group_count < QUANT_GROUPS_MAX);
    quant_group *group = &out->groups[out->group_count++];
    *group = (quant_group){.scheme = {.packing = packing, .bits = 8}};
    return group;
}

/* --- methods of one scheme --------------------------------------------------------------------- */

static esp_code read_gptq(quant_config *out, const reader *r) {
    packed_scheme *scheme = &add_group(out, PACKING_GPTQ)->scheme;
    esp_code code = read_bits(r, "bits", "bits", scheme);
    if (code || (code = read_group_size(r, "group_size", "group_size", scheme))) return code;
    const char *key = value_at(r, "checkpoint_format") ? "checkpoint_format" : "format";
    const char *format = value_at(r, key) ? text_at(r, key) : "gptq";
    if (!format || (strcmp(format, "gptq") != 0 && strcmp(format, "gptq_v2") != 0))
        return refuse(r, key, "gptq or gptq_v2; other layouts are for single GPU kernels");
    if (true_at(r, "is_marlin_format")) return refuse(r, "is_marlin_format", "false");
    if (has_something(r, "dynamic")) return refuse(r, "dynamic", "one scheme for all modules");
    scheme->zero_bias = strcmp(format, "gptq") == 0;
    scheme->wants_groups = true_at(r, "desc_act");
    return ESP_OK;
}

static esp_code read_awq(quant_config *out, const reader *r) {
    packed_scheme *scheme = &add_group(out, PACKING_AWQ)->scheme;
    esp_code code = read_bits(r, "bits", "w_bit", scheme);
    if (code || (code = read_group_size(r, "group_size", "q_group_size", scheme))) return code;
    if ((code = want_text(r, "version", "gemm"))) return code;
    if ((code = want_text(r, "format", "gemm"))) return code;
    if ((code = want_text(r, "backend", "autoawq"))) return code;
    return json_is_false(value_at(r, "zero_point")) ? refuse(r, "zero_point", "true") : ESP_OK;
}

/* Both of transformers' own. */
static esp_code read_fp8(quant_config *out, const reader *r) {
    packed_scheme *scheme = &add_group(out, PACKING_FP8)->scheme;
    esp_code code = want_text(r, "fmt", "e4m3");
    if (code) return code;
    out->activations = "float8 as trained, not rounded here";
    return value_at(r, "weight_block_size") ? read_block(r, "weight_block_size", scheme) : ESP_OK;
}

/* --- compressed-tensors ------------------------------------------------------------------------ */

static const struct {
    const char *format;
    packing_kind packing;
    const char *type; /* of the weights */
} FORMATS[] = {
    {"pack-quantized", PACKING_WORDS, "int"},  {"int-quantized", PACKING_INT8, "int"},
    {"naive-quantized", PACKING_INT8, "int"},  {"naive-quantized", PACKING_FP8, "float"},
    {"float-quantized", PACKING_FP8, "float"},
};

/* r is the scheme of the weights; format stands in the group or beside all of them. */
static esp_code read_packing(const reader *r, const char *format, packed_scheme *out) {
    const char *type = value_at(r, "type") ? text_at(r, "type") : "int";
    for (size_t i = 0; type && format && i < sizeof FORMATS / sizeof *FORMATS; i++)
        if (strcmp(FORMATS[i].format, format) == 0 && strcmp(FORMATS[i].type, type) == 0) {
            out->packing = FORMATS[i].packing;
            return ESP_OK;
        }
    return esp_fail(r->err, ESP_INVALID,
                    "%s: the format %s of %s weights is unknown; known are pack-quantized and "
                    "int-quantized of int, float-quantized of float, naive-quantized of both",
                    r->file, format ? format : "(none)", type ? type : "(no type)");
}

static esp_code read_strategy(const reader *r, packed_scheme *out) {
    const char *strategy = text_at(r, "strategy");
    if (!strategy) strategy = value_at(r, "group_size") ? "group" : "tensor";
    if (strcmp(strategy, "tensor") == 0 || strcmp(strategy, "channel") == 0) return ESP_OK;
    if (strcmp(strategy, "group") == 0 && out->packing != PACKING_FP8)
        return read_group_size(r, "group_size", "group_size", out);
    if (strcmp(strategy, "block") == 0 && out->packing == PACKING_FP8)
        return read_block(r, "block_structure", out);
    return refuse(r, "strategy",
                  "tensor, channel, group (of whole numbers) or block (of 8-bit floats)");
}

static esp_code read_weights(const reader *r, const char *format, packed_scheme *out) {
    esp_code code = read_packing(r, format, out);
    if (code || (code = read_bits(r, "num_bits", "num_bits", out))) return code;
    if (out->packing == PACKING_FP8 && out->bits != 8) return refuse(r, "num_bits", "8");
    out->symmetric = !json_is_false(value_at(r, "symmetric"));
    if (out->packing == PACKING_FP8 && !out->symmetric) return refuse(r, "symmetric", "true");
    if (json_is_true(value_at(r, "dynamic"))) return refuse(r, "dynamic", "false");
    return read_strategy(r, out);
}

/* Rounding to 8-bit floats is left out, to whole numbers refused: they are far coarser. */
static esp_code read_activations(quant_config *out, const reader *r) {
    const json_t *input = value_at(r, "input_activations");
    if (value_at(r, "output_activations")) return refuse(r, "output_activations", "null");
    if (!input) return ESP_OK;
    const char *type = json_string_value(json_object_get(input, "type"));
    if (!type || strcmp(type, "float") != 0)
        return esp_fail(r->err, ESP_UNIMPLEMENTED,
                        "%s: %s.input_activations rounds activations to whole numbers, which is "
                        "not computed; take a checkpoint with quantised weights alone (w8a16, "
                        "w4a16)",
                        r->file, r->path);
    out->activations = "float8 as trained, not rounded here";
    return ESP_OK;
}

/* Of all groups together. */
typedef struct target_count {
    size_t all, patterns;
} target_count;

static esp_code check_targets(const reader *r, target_count *count) {
    const json_t *targets = value_at(r, "targets"), *target;
    size_t i;
    count->all += json_array_size(targets);
    json_array_foreach(targets, i, target) {
        const char *text = json_string_value(target);
        if (!text || strlen(text) > TARGET_BYTES_MAX)
            return refuse(r, "targets", "a list of texts of 512 bytes at most");
        count->patterns += strncmp(text, "re:", 3) == 0;
    }
    if (count->all <= TARGETS_MAX && count->patterns <= PATTERNS_MAX) return ESP_OK;
    return esp_fail(r->err, ESP_INVALID,
                    "%s: up to %s.targets there are %zu targets, %zu of them patterns; wanted %d "
                    "and %d at most",
                    r->file, r->path, count->all, count->patterns, TARGETS_MAX, PATTERNS_MAX);
}

static esp_code read_group(quant_config *out, const reader *all, const char *name,
                           const json_t *object, target_count *count) {
    char path[96], weights_path[112];
    snprintf(path, sizeof path, "config_groups.%.60s", name);
    snprintf(weights_path, sizeof weights_path, "%s.weights", path);
    reader r = {.object = object, .file = all->file, .path = path, .err = all->err};
    if (out->group_count == QUANT_GROUPS_MAX)
        return refuse(all, "config_groups", "16 groups at most");
    if (!json_is_object(object)) return refuse(all, "config_groups", "groups that are objects");
    reader w = {
        .object = value_at(&r, "weights"), .file = r.file, .path = weights_path, .err = r.err};
    if (!json_is_object(w.object)) return refuse(&r, "weights", "a scheme of the weights");
    quant_group *group = add_group(out, PACKING_NONE);
    group->targets = value_at(&r, "targets");
    const char *format = value_at(&r, "format") ? text_at(&r, "format") : text_at(all, "format");
    esp_code code = check_targets(&r, count);
    if (!code) code = read_activations(out, &r);
    return code ? code : read_weights(&w, format, &group->scheme);
}

/* What changes a model's arithmetic beside the groups. */
static esp_code refuse_extras(const reader *r) {
    const json_t *sparsity = value_at(r, "sparsity_config");
    const char *format = json_string_value(json_object_get(sparsity, "format"));
    if (json_object_size(sparsity) && (!format || strcmp(format, "dense") != 0))
        return refuse(r, "sparsity_config", "none, or the format dense");
    if (has_something(r, "transform_config")) return refuse(r, "transform_config", "none");
    if (has_something(r, "kv_cache_scheme")) return refuse(r, "kv_cache_scheme", "none");
    return ESP_OK;
}

static esp_code read_compressed(quant_config *out, const reader *r) {
    const char *name;
    target_count count = {0};
    json_t *group;
    json_t *groups = json_object_get(r->object, "config_groups");
    esp_code code = refuse_extras(r);
    if (code) return code;
    if (json_object_size(groups) == 0) return refuse(r, "config_groups", "a scheme for each group");
    json_object_foreach(groups, name, group) {
        if ((code = read_group(out, r, name, group, &count))) return code;
    }
    return ESP_OK;
}

/* --- the door ---------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    esp_code (*read)(quant_config *out, const reader *r);
} METHODS[] = {
    {"gptq", read_gptq}, {"awq", read_awq},        {"compressed-tensors", read_compressed},
    {"fp8", read_fp8},   {"fbgemm_fp8", read_fp8},
};

/* Older quantize_config.json and quant_config.json do not name their method. */
static const char *method_of(const reader *r, bool guess) {
    const char *method = text_at(r, "quant_method");
    if (!method && guess) return value_at(r, "w_bit") ? "awq" : "gptq";
    return method;
}

esp_code quant_config_read(quant_config *out, const json_t *object, bool guess, const char *file,
                           esp_error *err) {
    *out = (quant_config){.file = file};
    reader r = {.object = object, .file = file, .path = "quantization_config", .err = err};
    if (!json_is_object(object))
        return esp_fail(err, ESP_INVALID, "%s: quantization_config is no object", file);
    out->json = json_incref((json_t *)(uintptr_t)object);
    out->method = method_of(&r, guess);
    for (size_t i = 0; out->method && i < sizeof METHODS / sizeof *METHODS; i++)
        if (strcmp(METHODS[i].name, out->method) == 0) return METHODS[i].read(out, &r);
    return refuse(&r, "quant_method", "gptq, awq, compressed-tensors, fp8 or fbgemm_fp8");
}

void quant_config_free(quant_config *config) {
    json_decref(config->json);
    *config = (quant_config){0};
}

/* --- which module is packed, and how ----------------------------------------------------------- */

/* Python's re.match: from the beginning, not to the end. */
static bool matches_pattern(const char *pattern, model_text module) {
    int error;
    size_t at;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED,
                                     &error, &at, NULL);
    if (!code) return false;
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(code, NULL);
    pcre2_set_match_limit(limits, MATCH_STEPS_MAX);
    pcre2_set_heap_limit(limits, MATCH_HEAP_KIB);
    int found = pcre2_match(code, (PCRE2_SPTR)module.at, module.bytes, 0, 0, data, limits);
    pcre2_match_data_free(data);
    pcre2_match_context_free(limits);
    pcre2_code_free(code);
    return found >= 0;
}

/* Modules go by their bare names here (family_bare_name); targets are written with all of it. */
static bool matches_below(const char *target, const char *above, model_text module) {
    char name[256];
    int bytes = snprintf(name, sizeof name, "%s%.*s", above, (int)module.bytes, module.at);
    if (bytes >= (int)sizeof name) return false;
    if (strncmp(target, "re:", 3) != 0) return strcmp(target, name) == 0;
    return matches_pattern(target + 3, (model_text){name, (size_t)bytes});
}

static bool matches(const char *target, model_text module) {
    static const char *const above[] = {"", "model.", "model.language_model.",
                                        "language_model.model."};
    for (size_t i = 0; i < sizeof above / sizeof *above; i++)
        if (matches_below(target, above[i], module)) return true;
    return false;
}

/* Every matrix of a decoder is a Linear. */
static bool is_class(const char *target) { return strcmp(target, "Linear") == 0; }

/* Whether a group names the module or, by_class, its class. */
static bool has_target(const quant_group *group, model_text module, bool by_class) {
    size_t i;
    const json_t *target;
    json_array_foreach(group->targets, i, target) {
        const char *text = json_string_value(target);
        if (text && (by_class ? is_class(text) : matches(text, module))) return true;
    }
    return false;
}

/* Names go before classes. */
static const packed_scheme *scheme_of(const quant_config *config, model_text module) {
    if (config->group_count == 1) return &config->groups[0].scheme;
    for (int by_class = 0; by_class < 2; by_class++)
        for (uint32_t i = 0; i < config->group_count; i++)
            if (has_target(&config->groups[i], module, by_class)) return &config->groups[i].scheme;
    return NULL;
}

static const model_tensor *tensor_of(const tensor_set *tensors, model_text module,
                                     const char *suffix) {
    char name[256];
    int bytes = snprintf(name, sizeof name, "%.*s.%s", (int)module.bytes, module.at, suffix);
    return bytes < (int)sizeof name ? tensor_set_find(tensors, name) : NULL;
}

/* Something of the module that is no plain matrix; NULL: there is no such thing. */
static const model_tensor *packed_tensor(const tensor_set *tensors, model_text module) {
    const model_tensor *tensor = tensor_of(tensors, module, "qweight");
    if (!tensor) tensor = tensor_of(tensors, module, "weight_packed");
    if (tensor) return tensor;
    tensor = tensor_of(tensors, module, "weight");
    return tensor && tensor->raw != RAW_NONE ? tensor : NULL;
}

esp_code quant_config_find(const quant_config *config, const tensor_set *tensors, model_text module,
                           packed_matrix *out, esp_error *err) {
    *out = (packed_matrix){0};
    const model_tensor *tensor = packed_tensor(tensors, module);
    if (!tensor) return ESP_OK;
    const packed_scheme *scheme = scheme_of(config, module);
    if (scheme) return packed_find(out, tensors, module, scheme, err);
    return esp_fail(
        err, ESP_INVALID, "%s: tensor %.*s is packed (%s), but no quantization_config says how",
        tensor->file, (int)tensor->name.bytes, tensor->name.at, tensor_type_name(tensor));
}
