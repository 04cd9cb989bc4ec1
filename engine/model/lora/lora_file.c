/* lora_file.c - opens an adapter, a PEFT folder or a GGUF file, and says what it is. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/lora/lora_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/format/folder_files.h"
#include "engine/model/format/json_bytes.h"
#include "engine/model/format/model_folder.h"
#include "engine/model/lora/lora_inner.h"

/* ---- labels of a score head ---- */

static bool read_labels(lora_file *file, const json_t *names, uint32_t count) {
    char **out = mem_new(count, sizeof *out);
    bool all = json_object_size(names) == count;
    for (uint32_t i = 0; i < count && all; i++) {
        char key[16];
        snprintf(key, sizeof key, "%u", i);
        const json_t *name = json_object_get(names, key);
        all = json_is_string(name);
        if (all) out[i] = mem_copy_text(json_string_value(name), json_string_length(name));
    }
    for (uint32_t i = 0; i < count && !all; i++)
        free(out[i]);
    if (!all) {
        free(out);
        return false;
    }
    file->label_names = out;
    file->facts.label_names = (const char *const *)out;
    return true;
}

/* `id2label`, of the adapter's config, else of a config.json beside it; without one, or with one of other
 * labels, they go by their numbers. */
static esp_code find_labels(lora_file *file, const char *folder, esp_error *err) {
    static const char key[] = "id2label";
    uint32_t count = file->facts.whole_rows[LORA_SCORE];
    char path[PATH_MAX];
    if (!count || read_labels(file, json_object_get(file->config.root, key), count) || !folder)
        return ESP_OK;
    file_view view = {0};
    json_t *config = NULL;
    if (snprintf(path, sizeof path, "%s/" ADAPTER_LABELS_FILE, folder) >= (int)sizeof path)
        return ESP_OK;
    esp_code code = file_map(&view, path, "JSON", err);
    if (code == ESP_NOT_FOUND) return ESP_OK;
    if (!code && view.count > LORA_CONFIG_BYTES_MAX)
        code = esp_fail(err, ESP_INVALID, "%s: the file has %zu bytes; wanted %d at most",
                        view.name, view.count, LORA_CONFIG_BYTES_MAX);
    if (!code) code = json_read_object(&config, view.bytes, view.count, view.name, "the file", err);
    if (!code) read_labels(file, json_object_get(config, key), count);
    json_decref(config);
    file_unmap(&view);
    return code;
}

/* ---- reading ---- */

static void fill_names(lora_file *file) {
    lora_facts *facts = &file->facts;
    const model_tensor *score = lora_at(file, 0, SITE_SCORE)->piece[PIECE_WEIGHT];
    facts->name = file->name;
    facts->format = file->gguf ? "gguf" : "peft";
    facts->base_name = file->gguf ? file->base_name : file->config.base_name;
    facts->task = file->gguf ? file->task : file->config.task;
    facts->alpha = file->gguf ? file->alpha : (float)file->config.alpha;
    facts->rslora = file->config.rslora;
    facts->dora = file->config.dora;
    if (score && score->dim_count == 2 && score->dims[1] <= SPEC_VOCAB_MAX)
        facts->whole_rows[LORA_SCORE] = (uint32_t)score->dims[1];
}

/* Config, if any, and tensors are open. */
static esp_code read_all(lora_file *file, esp_error *err) {
    esp_code code = file->gguf ? lora_read_gguf(file, err) : ESP_OK;
    if (!code) code = lora_collect(file, err);
    if (!code) fill_names(file);
    if (!code && file->base) code = lora_check(file, err);
    return code;
}

/* The small files beside the tensors. */
enum { VIEW_CONFIG, VIEW_LABELS, VIEW_TOKENS, VIEWS = VIEW_TOKENS + ADAPTER_TOKEN_FILES };

static const char *view_name(uint32_t view) {
    if (view >= VIEW_TOKENS) return ADAPTER_TOKEN_FILE[view - VIEW_TOKENS];
    return view == VIEW_CONFIG ? ADAPTER_CONFIG_FILE : ADAPTER_LABELS_FILE;
}

/* Of the file that holds the tensors, bytes long: in front of the first one's numbers. */
static size_t head_bytes(const lora_file *file, const uint8_t *begin, size_t bytes) {
    for (uint32_t i = 0; i < lora_tensor_count(file); i++) {
        size_t at = (size_t)((const uint8_t *)lora_tensor(file, i)->data - begin);
        if (at < bytes) bytes = at;
    }
    return bytes;
}

/* The last of files [count] is that of the tensors: bytes of it are hashed. */
static void sum_files(char digest[ADAPTER_DIGEST_CHARS], const adapter_digest_file *files,
                      size_t count, const void *begin, size_t bytes) {
    adapter_digest_file sorted[ADAPTER_FILES_MAX];
    memcpy(sorted, files, count * sizeof *files);
    adapter_file_hash(sorted[count - 1].hash, begin, bytes, false);
    adapter_digest(digest, sorted, count);
}

/* views [VIEWS]: those without bytes are not there. */
static void fill_digests(lora_file *file, const file_view *views) {
    adapter_digest_file files[ADAPTER_FILES_MAX] = {0};
    size_t count = 0;
    for (uint32_t i = 0; i < VIEWS; i++) {
        if (!views[i].bytes) continue;
        files[count].name = view_name(i);
        adapter_file_hash(files[count++].hash, views[i].bytes, views[i].count, false);
        file->facts.bytes += views[i].count;
    }
    const safetensors_file *tensors = file->folder_tensors;
    files[count++].name = file->gguf ? ADAPTER_GGUF_FILE : ADAPTER_TENSORS_FILE;
    const void *begin = file->gguf ? gguf_data(file->gguf) : safetensors_data(tensors);
    uint64_t bytes = file->gguf ? gguf_bytes(file->gguf) : safetensors_bytes(tensors);
    file->facts.bytes += bytes;
    sum_files(file->facts.outline, files, count, begin, head_bytes(file, begin, (size_t)bytes));
    if (!file->outline) sum_files(file->facts.digest, files, count, begin, (size_t)bytes);
}

/* ---- a folder ---- */

static esp_code fail_no_tensors(const folder_place *place, esp_error *err) {
    static const char *const pickles[] = {"adapter_model.bin", "adapter_model.pt",
                                          "adapter_model.pth"};
    for (size_t i = 0; i < sizeof pickles / sizeof *pickles; i++)
        if (folder_has(place, pickles[i]))
            return esp_fail(err, ESP_INVALID,
                            "%s: the folder holds %s, a pickle, which is a program and is not run "
                            "here; wanted " ADAPTER_TENSORS_FILE
                            ": save the adapter again with safe_serialization=True",
                            place->name, pickles[i]);
    return esp_fail(err, ESP_NOT_FOUND, "%s: the folder holds no " ADAPTER_TENSORS_FILE,
                    place->name);
}

static esp_code map_file(const folder_place *place, const char *name, file_view *out,
                         esp_error *err) {
    char path[PATH_MAX];
    esp_code code = folder_file_find(place, name, path, err);
    return code ? code : file_map(out, path, "an adapter's file", err);
}

static esp_code open_tensors(lora_file *file, const folder_place *place, esp_error *err) {
    char path[PATH_MAX];
    if (!folder_has(place, ADAPTER_TENSORS_FILE)) return fail_no_tensors(place, err);
    esp_code code = folder_file_find(place, ADAPTER_TENSORS_FILE, path, err);
    return code ? code
                : safetensors_open_limited(&file->folder_tensors, path,
                                           SAFETENSORS_ADAPTER_HEADER_MAX, err);
}

/* Rows of a table are among the tensors. */
static bool has_tables(const safetensors_file *file) {
    const tensor_set *all = safetensors_tensors(file);
    lora_place place;
    for (uint32_t i = 0; i < all->count; i++) {
        if (!lora_parse_peft(all->at[i].name, &place)) continue;
        bool rows = place.piece == PIECE_WEIGHT || place.piece == PIECE_TOKENS;
        if (place.site == SITE_EMBEDDING || (place.site == SITE_OUTPUT && rows)) return true;
    }
    return false;
}

bool lora_folder_has_tables(const char *path) {
    lora_file file = {0};
    folder_place place;
    bool has = folder_place_find(&place, path, NULL) == ESP_OK &&
               open_tensors(&file, &place, NULL) == ESP_OK && has_tables(file.folder_tensors);
    safetensors_close(file.folder_tensors);
    return has;
}

/* The digest, with what counts of the folder's other files. */
static esp_code hash_folder(lora_file *file, const folder_place *place, file_view *views,
                            esp_error *err) {
    esp_code code = ESP_OK;
    file->facts.tables = has_tables(file->folder_tensors);
    for (uint32_t i = VIEW_LABELS; i < VIEWS && !code; i++)
        if ((i < VIEW_TOKENS || file->facts.tables) && folder_has(place, view_name(i)))
            code = map_file(place, view_name(i), &views[i], err);
    views[VIEW_CONFIG] = file->config_view;
    if (!code) fill_digests(file, views);
    for (uint32_t i = VIEW_LABELS; i < VIEWS; i++)
        file_unmap(&views[i]);
    return code;
}

esp_code lora_file_check_outline(const lora_file *file, const char *path, esp_error *err) {
    const lora_facts *facts = &file->facts;
    lora_file now = {
        .config_view = file->config_view, .folder_tensors = file->folder_tensors, .outline = true};
    folder_place place;
    file_view views[VIEWS] = {{0}};
    if (file->gguf || !(facts->tables || facts->whole_rows[LORA_SCORE])) return ESP_OK;
    esp_code code = folder_place_find(&place, path, err);
    if (!code) code = hash_folder(&now, &place, views, err);
    if (code || strcmp(now.facts.outline, facts->outline) == 0) return code;
    return esp_fail(err, ESP_DATA_LOSS,
                    "%s: its labels' or its tokenizer's files were replaced while they were read; "
                    "try again",
                    file->name);
}

static esp_code open_folder(lora_file *file, const char *path, esp_error *err) {
    folder_place place;
    file_view views[VIEWS] = {{0}};
    esp_code code = folder_place_find(&place, path, err);
    if (code) return code;
    snprintf(file->name, sizeof file->name, "%s", place.name);
    if (!folder_has(&place, ADAPTER_CONFIG_FILE))
        return esp_fail(err, ESP_NOT_FOUND,
                        "%s: the folder holds no " ADAPTER_CONFIG_FILE
                        "; wanted an adapter as PEFT saves it",
                        place.name);
    code = map_file(&place, ADAPTER_CONFIG_FILE, &file->config_view, err);
    if (!code)
        code =
            lora_config_read(&file->config, file->config_view.bytes, file->config_view.count, err);
    if (!code) code = open_tensors(file, &place, err);
    if (!code) code = hash_folder(file, &place, views, err);
    if (!code) code = read_all(file, err);
    return code ? code : find_labels(file, place.real, err);
}

static esp_code open_gguf(lora_file *file, const char *path, esp_error *err) {
    esp_code code = gguf_open(&file->gguf, path, err);
    if (code) return code;
    snprintf(file->name, sizeof file->name, "%s", gguf_name(file->gguf));
    fill_digests(file, (file_view[VIEWS]){{0}});
    return read_all(file, err);
}

static esp_code finish_open(lora_file **out, lora_file *file, esp_code code) {
    if (code)
        lora_file_close(file);
    else
        *out = file;
    return code;
}

static esp_code open_path(lora_file **out, const char *path, const checkpoint *base, bool outline,
                          esp_error *err) {
    ESP_ASSERT(out && path);
    *out = NULL;
    lora_file *file = mem_new(1, sizeof *file);
    file->base = base;
    file->outline = outline;
    file->config.task = "";
    return finish_open(out, file,
                       model_folder_is(path) ? open_folder(file, path, err)
                                             : open_gguf(file, path, err));
}

esp_code lora_file_open(lora_file **out, const char *path, const checkpoint *base, esp_error *err) {
    return open_path(out, path, base, false, err);
}

esp_code lora_file_open_outline(lora_file **out, const char *path, const checkpoint *base,
                                esp_error *err) {
    return open_path(out, path, base, true, err);
}

static esp_code open_memory(lora_file *file, const file_view *config, const void *tensors,
                            size_t tensor_bytes, esp_error *err) {
    esp_code code;
    if (config->bytes) {
        code = lora_config_read(&file->config, config->bytes, config->count, err);
        if (!code)
            code = safetensors_open_memory(&file->folder_tensors, tensors, tensor_bytes,
                                           ADAPTER_TENSORS_FILE, err);
    } else
        code = gguf_open_memory(&file->gguf, tensors, tensor_bytes, ADAPTER_GGUF_FILE, err);
    if (code) return code;
    fill_digests(file, (file_view[VIEWS]){[VIEW_CONFIG] = *config});
    file->facts.tables = !file->gguf && has_tables(file->folder_tensors);
    if ((code = read_all(file, err))) return code;
    return find_labels(file, NULL, err);
}

esp_code lora_file_open_memory(lora_file **out, const void *config, size_t config_bytes,
                               const void *tensors, size_t tensor_bytes, const checkpoint *base,
                               esp_error *err) {
    ESP_ASSERT(out && (tensors || !tensor_bytes));
    *out = NULL;
    lora_file *file = mem_new(1, sizeof *file);
    file->base = base;
    file->config.task = "";
    snprintf(file->name, sizeof file->name, "adapter");
    file_view view = {.bytes = config, .count = config_bytes};
    return finish_open(out, file, open_memory(file, &view, tensors, tensor_bytes, err));
}

void lora_file_close(lora_file *file) {
    if (!file) return;
    for (uint32_t i = 0; file->label_names && i < file->facts.whole_rows[LORA_SCORE]; i++)
        free(file->label_names[i]);
    free(file->label_names);
    free(file->updates);
    free(file->embedding_factor);
    lora_config_free(&file->config);
    safetensors_close(file->folder_tensors);
    gguf_close(file->gguf);
    file_unmap(&file->config_view);
    free(file);
}

const lora_facts *lora_file_facts(const lora_file *file) { return &file->facts; }

static bool is_gguf_adapter(const char *path) {
    gguf_file *gguf = NULL;
    bool found;
    model_text type = {"", 0};
    if (gguf_open(&gguf, path, NULL)) return false;
    bool is = gguf_get_text(gguf, "general.type", &found, &type, NULL) == ESP_OK &&
              type.bytes == 7 && memcmp(type.at, "adapter", 7) == 0;
    gguf_close(gguf);
    return is;
}

bool lora_path_is_adapter(const char *path) {
    folder_place place;
    if (!model_folder_is(path)) return is_gguf_adapter(path);
    return folder_place_find(&place, path, NULL) == ESP_OK &&
           folder_has(&place, ADAPTER_CONFIG_FILE) && !folder_has(&place, "model.safetensors") &&
           !folder_has(&place, "model.safetensors.index.json");
}
