/* model_file.c - opens a model file and checks all that can be known of it without packing a
 * weight: family, spec, every tensor's shape, tokenizer data, chat template. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/mem.h"
#include "engine/model/checkpoint_gguf.h"
#include "engine/model/model_file_inner.h"

/* Files that are GGUF, but no whole model. */
static esp_code refuse_parts(const gguf_file *gguf, esp_error *err) {
    bool found;
    uint32_t parts = 0;
    esp_code code = gguf_get_u32(gguf, "split.count", &found, &parts, err);
    if (code) return code;
    if (parts > 1)
        return esp_fail(err, ESP_INVALID,
                        "%s: split.count is %u, so this is one part of a model; join the parts "
                        "with llama.cpp's gguf-split --merge",
                        gguf_name(gguf), parts);
    model_text type = {"", 0};
    code = gguf_get_text(gguf, "general.type", &found, &type, err);
    if (code) return code;
    if (found && (type.bytes != 5 || memcmp(type.at, "model", 5) != 0))
        return esp_fail(err, ESP_INVALID,
                        "%s: general.type is not \"model\"; wanted a model, not an adapter or a "
                        "projector",
                        gguf_name(gguf));
    return ESP_OK;
}

static esp_code check_vocabulary(const model_file *file, esp_error *err) {
    uint32_t tokens = file->tokens.source.token_count;
    if (tokens <= file->weights.spec.vocab) return ESP_OK;
    return esp_fail(err, ESP_INVALID,
                    "%s: tokenizer.ggml.tokens has %u entries; wanted no more than the %u rows of "
                    "the embedding",
                    gguf_name(file->gguf), tokens, file->weights.spec.vocab);
}

static esp_code read_template(const gguf_file *gguf, const char *key, model_text *out,
                              esp_error *err) {
    bool found;
    model_text text = {NULL, 0};
    esp_code code = gguf_get_text(gguf, key, &found, &text, err);
    if (!code && found) *out = text;
    return code;
}

/* Of a model with several templates, the others are named in their keys. */
static esp_code read_templates(model_file *file, esp_error *err) {
    esp_code code = read_template(file->gguf, "tokenizer.chat_template", &file->chat_template, err);
    return code ? code
                : read_template(file->gguf, "tokenizer.chat_template.tool_use",
                                &file->tool_template, err);
}

static esp_code read_all(model_file *file, esp_error *err) {
    esp_code code = refuse_parts(file->gguf, err);
    if (code) return code;
    if ((code = checkpoint_read_gguf(&file->weights, file->gguf, err))) return code;
    if ((code = token_source_read(&file->tokens, file->gguf, err))) return code;
    if ((code = check_vocabulary(file, err))) return code;
    return read_templates(file, err);
}

/* Takes the opened gguf over, also when it fails. */
static esp_code finish_open(model_file **out, gguf_file *gguf, esp_error *err) {
    model_file *file = mem_new(1, sizeof *file);
    file->gguf = gguf;
    ESP_ASSERT(pthread_mutex_init(&file->digest_lock, NULL) == 0);
    esp_code code = read_all(file, err);
    if (code) {
        model_file_close(file);
        return code;
    }
    *out = file;
    return ESP_OK;
}

esp_code model_file_open(model_file **out, const char *path, esp_error *err) {
    ESP_ASSERT(out && path);
    gguf_file *gguf;
    *out = NULL;
    esp_code code = gguf_open(&gguf, path, err);
    return code ? code : finish_open(out, gguf, err);
}

esp_code model_file_open_memory(model_file **out, const void *bytes, size_t count, const char *name,
                                esp_error *err) {
    ESP_ASSERT(out);
    gguf_file *gguf;
    *out = NULL;
    esp_code code = gguf_open_memory(&gguf, bytes, count, name, err);
    return code ? code : finish_open(out, gguf, err);
}

void model_file_close(model_file *file) {
    if (!file) return;
    token_source_free(&file->tokens);
    tensor_set_free(&file->weights.tensors);
    gguf_close(file->gguf);
    pthread_mutex_destroy(&file->digest_lock);
    free(file);
}

const checkpoint *model_file_weights(const model_file *file) { return &file->weights; }

const model_spec *model_file_spec(const model_file *file) { return &file->weights.spec; }

esp_code model_file_tokenizer(const model_file *file, tokenizer **out, esp_error *err) {
    esp_error inner = {0};
    esp_code code = tok_open(out, &file->tokens.source, &inner);
    if (code) return esp_fail(err, code, "%s: %s", gguf_name(file->gguf), inner.message);
    return ESP_OK;
}

const char *model_file_template(const model_file *file, size_t *bytes) {
    *bytes = file->chat_template.bytes;
    return file->chat_template.at;
}

const char *model_file_tool_template(const model_file *file, size_t *bytes) {
    *bytes = file->tool_template.bytes;
    return file->tool_template.at;
}

static void print_digest(char *out, size_t out_bytes, XXH128_hash_t hash) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    size_t used = (size_t)snprintf(out, out_bytes, "xxh3-128:");
    for (size_t i = 0; i < sizeof canonical.digest; i++, used += 2)
        snprintf(out + used, out_bytes - used, "%02x", canonical.digest[i]);
}

const char *model_file_digest(model_file *file) {
    ESP_ASSERT(pthread_mutex_lock(&file->digest_lock) == 0);
    if (!file->digest[0])
        print_digest(file->digest, sizeof file->digest,
                     XXH3_128bits(gguf_data(file->gguf), gguf_bytes(file->gguf)));
    ESP_ASSERT(pthread_mutex_unlock(&file->digest_lock) == 0);
    return file->digest;
}
