/* model_file.c - opens a model, a GGUF file or a Hugging Face folder, and checks all that can be
 * known of it without packing a weight: family, spec, every tensor's shape, tokenizer data, chat
 * template. */
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/model/checkpoint_folder.h"
#include "engine/model/checkpoint_gguf.h"
#include "engine/model/model_file_inner.h"

/* Files that are GGUF, but no whole model. */
static esp_code refuse_parts(const gguf_file *gguf, esp_error *err) {
    bool found;
    uint32_t parts = 0;
    esp_code code = gguf_get_u32(gguf, "split.count", &found, &parts, err);
    if (code) return code;
    if (parts > 1 && gguf_part_count(gguf) == 1) /* from memory: nothing lies beside it */
        return esp_fail(err, ESP_INVALID,
                        "%s: split.count is %u, so this is one part of a model; wanted all of it",
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
                    "%s: the tokenizer has %u tokens; wanted no more than the %u rows of the "
                    "embedding",
                    model_file_name(file), tokens, file->weights.spec.vocab);
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

static esp_code read_gguf(model_file *file, esp_error *err) {
    esp_code code = refuse_parts(file->gguf, err);
    if (code) return code;
    if ((code = checkpoint_read_gguf(&file->weights, file->gguf, err))) return code;
    if ((code = token_source_read(&file->tokens, file->gguf, err))) return code;
    if ((code = check_vocabulary(file, err))) return code;
    return read_templates(file, err);
}

/* A folder without a tokenizer still computes: model_file_tokenizer says what is missing. A
 * tokenizer may have more tokens than the embedding has rows (Gemma 3's mark for images): a prompt
 * with such a one is refused (engine/request.c). */
static esp_code read_text(model_file *file, esp_error *err) {
    const char *path = model_folder_path(file->folder);
    esp_error why = {0};
    esp_code code = token_source_read_folder(&file->tokens, path, &why);
    if (code == ESP_NOT_FOUND) {
        token_source_free(&file->tokens);
        file->tokens = (token_source){0};
        return ESP_OK;
    }
    if (code) return esp_fail(err, code, "%s", why.message);
    chat_source *chat = &file->folder_chat;
    if ((code = chat_source_read_folder(chat, path, err))) return code;
    file->chat_template = (model_text){chat->text, chat->bytes};
    file->tool_template = (model_text){chat->tool_use, chat->tool_use_bytes};
    return ESP_OK;
}

static esp_code read_folder(model_file *file, esp_error *err) {
    hf_config *config;
    esp_code code = hf_config_open(&config, model_folder_path(file->folder), err);
    if (code == ESP_NOT_FOUND)
        return esp_fail(err, code,
                        "%s: the folder holds no config.json; wanted all of the model's files",
                        model_folder_name(file->folder));
    if (code) return code;
    code = checkpoint_read_folder(&file->weights, file->folder, config, err);
    hf_config_close(config);
    return code ? code : read_text(file, err);
}

/* Takes the opened gguf or folder over, also when it fails. */
static esp_code finish_open(model_file **out, gguf_file *gguf, model_folder *folder,
                            esp_error *err) {
    model_file *file = mem_new(1, sizeof *file);
    file->gguf = gguf;
    file->folder = folder;
    ESP_ASSERT(pthread_mutex_init(&file->digest_lock, NULL) == 0);
    esp_code code = gguf ? read_gguf(file, err) : read_folder(file, err);
    if (code) {
        model_file_close(file);
        return code;
    }
    *out = file;
    return ESP_OK;
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), bytes = strlen(end);
    return length >= bytes && strcmp(text + length - bytes, end) == 0;
}

/* A path where no model can be. */
static esp_code check_path(const char *path, esp_error *err) {
    char name[256];
    if (access(path, F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR)) {
        file_show_path(name, sizeof name, path);
        return esp_fail(err, ESP_NOT_FOUND,
                        "%s: no such file or folder; wanted a GGUF file or a Hugging Face folder",
                        name);
    }
    if (!ends_with(path, ".safetensors") || model_folder_is(path)) return ESP_OK;
    file_show_name(name, sizeof name, path);
    return esp_fail(err, ESP_INVALID,
                    "%s: is one file of a model; give the folder that it lies in, with its "
                    "config.json and tokenizer",
                    name);
}

esp_code model_file_open(model_file **out, const char *path, esp_error *err) {
    ESP_ASSERT(out && path);
    gguf_file *gguf = NULL;
    model_folder *folder = NULL;
    *out = NULL;
    esp_code code = check_path(path, err);
    if (code) return code;
    pack_identity identity = pack_identity_of(path);
    code =
        model_folder_is(path) ? model_folder_open(&folder, path, err) : gguf_open(&gguf, path, err);
    if (code == ESP_OK) code = finish_open(out, gguf, folder, err);
    if (code == ESP_OK) (*out)->identity = identity;
    return code;
}

esp_code model_file_open_memory(model_file **out, const void *bytes, size_t count, const char *name,
                                esp_error *err) {
    ESP_ASSERT(out);
    gguf_file *gguf;
    *out = NULL;
    esp_code code = gguf_open_memory(&gguf, bytes, count, name, err);
    return code ? code : finish_open(out, gguf, NULL, err);
}

void model_file_close(model_file *file) {
    if (!file) return;
    token_source_free(&file->tokens);
    chat_source_free(&file->folder_chat);
    tensor_set_free(&file->weights.tensors);
    quant_config_free(&file->weights.quant);
    gguf_close(file->gguf);
    model_folder_close(file->folder);
    pthread_mutex_destroy(&file->digest_lock);
    free(file);
}

const char *model_file_name(const model_file *file) {
    return file->gguf ? gguf_name(file->gguf) : model_folder_name(file->folder);
}

const checkpoint *model_file_weights(const model_file *file) { return &file->weights; }

const model_spec *model_file_spec(const model_file *file) { return &file->weights.spec; }

esp_code model_file_tokenizer(const model_file *file, tokenizer **out, esp_error *err) {
    esp_error inner = {0};
    if (!file->tokens.source.kind)
        return esp_fail(
            err, ESP_UNIMPLEMENTED,
            "%s: the folder has no tokenizer.json, tekken.json or tokenizer.model; copy them "
            "beside config.json, or give token ids",
            model_file_name(file));
    esp_code code = tok_open(out, &file->tokens.source, &inner);
    if (code) return esp_fail(err, code, "%s: %s", model_file_name(file), inner.message);
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

static void digest_gguf(const gguf_file *gguf, char out[MODEL_DIGEST_CHARS]) {
    uint32_t count = gguf_part_count(gguf);
    digest_file *files = mem_new(count, sizeof *files);
    for (uint32_t i = 0; i < count; i++) {
        const gguf_file *part = gguf_part(gguf, i);
        files[i] = (digest_file){gguf_name(part), gguf_data(part), (size_t)gguf_bytes(part),
                                 gguf_is_mapped(part)};
    }
    model_digest(out, files, count);
    free(files);
}

pack_identity model_file_identity(const model_file *file) { return file->identity; }

const char *model_file_digest(model_file *file) {
    ESP_ASSERT(pthread_mutex_lock(&file->digest_lock) == 0);
    if (!file->digest[0] && file->gguf) digest_gguf(file->gguf, file->digest);
    if (!file->digest[0] && file->folder) model_folder_digest(file->folder, file->digest);
    ESP_ASSERT(pthread_mutex_unlock(&file->digest_lock) == 0);
    return file->digest;
}
