/* model_describe.c - the JSON object that `espalier inspect` prints of a model file. */
// SPDX-License-Identifier: Apache-2.0
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/model/model_file_inner.h"

/* JSON wants UTF-8; other bytes of a file's text become '?'. */
static json_t *json_text(const char *at, size_t bytes) {
    json_t *text = json_stringn(at, bytes);
    if (text) return text;
    char *ascii = mem_copy_text(at, bytes);
    for (size_t i = 0; i < bytes; i++)
        if (ascii[i] < 0x20 || ascii[i] > 0x7e) ascii[i] = '?';
    text = json_stringn(ascii, bytes);
    free(ascii);
    return text;
}

/* null for no id */
static json_t *json_id(int32_t id) { return id < 0 ? json_null() : json_integer(id); }

static void set(json_t *object, const char *key, json_t *value) {
    /* fails only when memory does, or for a NULL that the lines above rule out */
    ESP_ASSERT(json_object_set_new(object, key, value) == 0);
}

/* Index of a tensor's type among all: raw ones stand behind the dtypes. */
static uint32_t type_index(const model_tensor *tensor) {
    return tensor->raw == RAW_NONE ? (uint32_t)tensor->dtype : DT_COUNT + (uint32_t)tensor->raw;
}

/* Parameters and tensors of each type; the one with most parameters names the quantisation. */
static void describe_types(json_t *root, const tensor_set *all) {
    enum { TYPES = DT_COUNT + RAW_COUNT };
    uint64_t tensors[TYPES] = {0}, parameters[TYPES] = {0}, total = 0;
    const char *names[TYPES] = {0};
    uint32_t most = 0;
    for (uint32_t i = 0; i < all->count; i++) {
        const model_tensor *tensor = &all->at[i];
        uint32_t type = type_index(tensor);
        names[type] = tensor_type_name(tensor);
        tensors[type]++;
        parameters[type] += tensor_element_count(tensor);
        total += tensor_element_count(tensor);
    }
    json_t *types = json_object();
    for (uint32_t type = 0; type < TYPES; type++) {
        if (parameters[type] > parameters[most]) most = type;
        if (tensors[type] == 0) continue;
        json_t *row = json_object();
        set(row, "tensors", json_integer((json_int_t)tensors[type]));
        set(row, "parameters", json_integer((json_int_t)parameters[type]));
        set(types, names[type], row);
    }
    set(root, "parameters", json_integer((json_int_t)total));
    set(root, "quantization", names[most] ? json_string(names[most]) : json_null());
    set(root, "types", types);
}

/* What a folder says of its packing. The words of packed matrices are no types of weights. */
static void describe_packing(json_t *root, const quant_config *quant) {
    if (!quant->method) return;
    set(root, "quantization", json_string(quant->method));
    if (quant->activations) set(root, "activations", json_string(quant->activations));
}

static void describe_spec(json_t *root, const model_spec *spec) {
    set(root, "layers", json_integer(spec->layers));
    set(root, "hidden", json_integer(spec->hidden));
    set(root, "heads", json_integer(spec->heads));
    set(root, "kv_heads", json_integer(spec->kv_heads));
    set(root, "head_dim", json_integer(spec->head_dim));
    set(root, "intermediate", json_integer(spec->intermediate));
    set(root, "vocab", json_integer(spec->vocab));
    set(root, "context", json_integer(spec->context));
    set(root, "rope_theta", spec->rotary ? json_real(spec->rope.theta) : json_null());
    set(root, "norm_eps", json_real((double)spec->norm_eps));
    set(root, "window", spec->window ? json_integer(spec->window) : json_null());
    set(root, "tied_embeddings", json_boolean(spec->tied_embeddings));
}

static uint32_t input_max(const model_spec *spec) {
    return spec->input_max ? spec->input_max : spec->context;
}

/* null for a model that generates */
static json_t *describe_embedding(const model_spec *spec) {
    static const char *const names[] = {
        [POOLING_MEAN] = "mean", [POOLING_FIRST] = "cls", [POOLING_LAST] = "last"};
    if (spec->pooling == POOLING_NONE) return json_null();
    json_t *object = json_object();
    set(object, "width", json_integer(spec->hidden));
    set(object, "pooling", json_string(names[spec->pooling]));
    set(object, "normalised", json_boolean(spec->normalise));
    set(object, "tokens_max", json_integer(input_max(spec)));
    return object;
}

static json_t *describe_tokenizer(const tok_source *source) {
    json_t *object = json_object(), *eog = json_array();
    for (uint32_t i = 0; i < source->eog_count; i++)
        ESP_ASSERT(json_array_append_new(eog, json_integer(source->eog[i])) == 0);
    set(object, "kind", json_string(source->kind));
    set(object, "pre", json_string(source->pre));
    set(object, "tokens", json_integer(source->token_count));
    set(object, "merges", json_integer(source->merge_count));
    set(object, "bos", json_id(source->bos));
    set(object, "eos", json_id(source->eos));
    set(object, "also_ends", eog);
    set(object, "add_bos", json_boolean(source->add_bos));
    set(object, "add_eos", json_boolean(source->add_eos));
    return object;
}

/* Shapes as [rows, columns], outermost first, as everywhere outside the format itself. */
static json_t *describe_tensor(const model_tensor *tensor) {
    json_t *object = json_object(), *shape = json_array();
    for (uint32_t i = tensor->dim_count; i-- > 0;)
        ESP_ASSERT(json_array_append_new(shape, json_integer((json_int_t)tensor->dims[i])) == 0);
    set(object, "name", json_text(tensor->name.at, tensor->name.bytes));
    set(object, "dtype", json_string(tensor_type_name(tensor)));
    set(object, "shape", shape);
    return object;
}

static json_t *describe_tensors(const tensor_set *all) {
    json_t *array = json_array();
    for (uint32_t i = 0; i < all->count; i++)
        ESP_ASSERT(json_array_append_new(array, describe_tensor(&all->at[i])) == 0);
    return array;
}

static uint64_t all_bytes(const gguf_file *gguf) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < gguf_part_count(gguf); i++)
        bytes += gguf_bytes(gguf_part(gguf, i));
    return bytes;
}

static void describe_gguf(json_t *root, const gguf_file *gguf) {
    bool found;
    char format[24];
    model_text name = {"", 0};
    snprintf(format, sizeof format, "GGUF v%u", gguf_version(gguf));
    esp_code code = gguf_get_text(gguf, "general.name", &found, &name, NULL);
    set(root, "format", json_string(format));
    /* a name of another type is no reason to refuse a model */
    set(root, "name", code || !found ? json_null() : json_text(name.at, name.bytes));
    set(root, "files", json_integer(gguf_part_count(gguf)));
    set(root, "file_bytes", json_integer((json_int_t)all_bytes(gguf)));
}

static void describe_folder(json_t *root, const model_folder *folder) {
    set(root, "format", json_string("safetensors"));
    set(root, "name", json_string(model_folder_name(folder)));
    set(root, "files", json_integer(model_folder_shard_count(folder)));
    set(root, "file_bytes", json_integer((json_int_t)model_folder_bytes(folder)));
}

char *model_file_describe(model_file *file) {
    json_t *root = json_object();
    set(root, "kind", json_string(file->weights.spec.encoder ? "encoder" : "model"));
    set(root, "file", json_string(model_file_name(file)));
    if (file->gguf)
        describe_gguf(root, file->gguf);
    else
        describe_folder(root, file->folder);
    set(root, "family", json_string(file->weights.spec.family));
    describe_types(root, &file->weights.tensors);
    describe_packing(root, &file->weights.quant);
    describe_spec(root, &file->weights.spec);
    set(root, "embedding", describe_embedding(&file->weights.spec));
    bool has_tokens = file->tokens.source.kind != NULL;
    set(root, "tokenizer", has_tokens ? describe_tokenizer(&file->tokens.source) : json_null());
    set(root, "chat_template", json_boolean(file->chat_template.at != NULL));
    set(root, "digest", json_string(model_file_digest(file)));
    set(root, "tensors", describe_tensors(&file->weights.tensors));
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    ESP_ASSERT(text);
    json_decref(root);
    return text;
}
