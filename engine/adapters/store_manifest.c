/* store_manifest.c - blobs/sha256/<hex>/manifest.json: what lies there.
 *
 *   {"format": "espalier.adapter.v1", "digest": "sha256:<hex>", "imported": "2026-11-21T10:00:00Z",
 *    "files": [{"name": "adapter_config.json", "bytes": 1189, "sha256": "<hex>"}, ...],
 *    "parameters": 230400, "rank_min": 8, "rank_max": 8, "targets": "q_proj, v_proj",
 *    "base": "HuggingFaceTB/SmolLM2-135M-Instruct"}
 *
 * The digest is that of the files listed, or the manifest is not believed. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/adapters/store_inner.h"
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/model/format/json_bytes.h"

#define FORMAT "espalier.adapter.v1"

void store_print_time(char out[STORE_TIME_CHARS]) {
    time_t now = time(NULL);
    struct tm utc;
    ESP_ASSERT(gmtime_r(&now, &utc) && strftime(out, STORE_TIME_CHARS, "%Y-%m-%dT%H:%M:%SZ", &utc));
}

/* ---- reading ---- */

static bool read_number(const json_t *object, const char *key, uint64_t most, uint64_t *out) {
    const json_t *value = json_object_get(object, key);
    json_int_t number = json_is_integer(value) ? json_integer_value(value) : -1;
    *out = (uint64_t)number;
    return number >= 0 && (uint64_t)number <= most;
}

/* Printable ASCII that fits. */
static bool read_text(const json_t *object, const char *key, char *out, size_t room) {
    const char *text = json_string_value(json_object_get(object, key));
    size_t bytes = text ? strlen(text) : room;
    if (bytes >= room) return false;
    esp_show(out, room, text, bytes);
    return true;
}

static bool is_file_name(const char *name) {
    static const char *const names[] = {ADAPTER_CONFIG_FILE, ADAPTER_TENSORS_FILE,
                                        ADAPTER_LABELS_FILE, ADAPTER_GGUF_FILE};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) return true;
    return adapter_is_token_file(name);
}

static bool read_file(const json_t *object, store_file *out, adapter_digest_file *summed) {
    return read_text(object, "name", out->name, sizeof out->name) && is_file_name(out->name) &&
           read_number(object, "bytes", STORE_ADAPTER_BYTES_MAX, &out->bytes) &&
           read_text(object, "sha256", out->sha256, sizeof out->sha256) &&
           strlen(out->sha256) == SHA256_HEX_CHARS && sha256_read_hex(out->sha256, summed->hash);
}

static const char *read_files(const json_t *list, store_manifest *m) {
    adapter_digest_file summed[ADAPTER_FILES_MAX];
    char digest[ADAPTER_DIGEST_CHARS];
    size_t count = json_array_size(list);
    if (count == 0 || count > ADAPTER_FILES_MAX) return "wanted 1 to 6 files";
    for (size_t i = 0; i < count; i++) {
        store_file *file = &m->files[m->file_count++];
        if (!read_file(json_array_get(list, i), file, &summed[i])) return "a file is damaged";
        if (!check_add(m->bytes, file->bytes, &m->bytes)) return "the sizes overflow";
        summed[i].name = file->name;
    }
    adapter_digest(digest, summed, count);
    return strcmp(digest, m->digest) ? "the digest is not that of its files" : NULL;
}

/* What is wrong, or NULL. */
static const char *read_manifest(const json_t *root, store_manifest *m) {
    const char *format = json_string_value(json_object_get(root, "format"));
    uint64_t rank_min, rank_max;
    if (!format || strcmp(format, FORMAT) != 0) return "wanted format " FORMAT;
    if (!read_text(root, "digest", m->digest, sizeof m->digest) || !store_hex_of(m->digest))
        return "the digest is damaged";
    if (!read_text(root, "imported", m->imported, sizeof m->imported) ||
        !read_text(root, "targets", m->targets, sizeof m->targets) ||
        !read_text(root, "base", m->base, sizeof m->base))
        return "a text is missing or too long";
    if (!read_number(root, "parameters", INT64_MAX, &m->parameters) ||
        !read_number(root, "rank_min", UINT32_MAX, &rank_min) ||
        !read_number(root, "rank_max", UINT32_MAX, &rank_max))
        return "a number is missing or out of range";
    m->rank_min = (uint32_t)rank_min;
    m->rank_max = (uint32_t)rank_max;
    return read_files(json_object_get(root, "files"), m);
}

esp_code store_parse_manifest(const void *bytes, size_t count, store_manifest *out,
                              esp_error *err) {
    *out = (store_manifest){0};
    json_t *root;
    esp_code code = json_read_object(&root, bytes, count, STORE_MANIFEST_FILE, "the manifest", err);
    if (code != ESP_OK) return code;
    const char *wrong = read_manifest(root, out);
    json_decref(root);
    if (!wrong) return ESP_OK;
    return esp_fail(err, ESP_INVALID, STORE_MANIFEST_FILE ": %s; the adapter store is damaged",
                    wrong);
}

esp_code store_read_manifest(adapter_store *store, const char *digest, store_manifest *out,
                             esp_error *err) {
    char path[STORE_BLOB_PATH_CHARS], *bytes;
    size_t count;
    const char *hex = store_hex_of(digest);
    *out = (store_manifest){0};
    if (!hex) return esp_fail(err, ESP_INVALID, "a digest is \"sha256:\" and 64 digits");
    snprintf(path, sizeof path, "%s/" STORE_MANIFEST_FILE, hex);
    esp_code code = store_read(store, FOLDER_BLOBS, path, &bytes, &count, err);
    if (code == ESP_NOT_FOUND)
        return esp_fail(err, code, "the files of %s are not in the store; import them again",
                        digest);
    if (code == ESP_OK) code = store_parse_manifest(bytes, count, out, err);
    free(bytes);
    if (code == ESP_OK && strcmp(out->digest, digest) != 0)
        return esp_fail(err, ESP_INVALID,
                        STORE_MANIFEST_FILE ": is of %s; wanted %s: the adapter store is damaged",
                        out->digest, digest);
    return code;
}

/* ---- writing ---- */

char *store_print_manifest(const store_manifest *m) {
    json_t *files = json_array();
    int wrong = 0;
    for (uint32_t i = 0; i < m->file_count; i++)
        wrong |= json_array_append_new(files, json_pack("{s:s,s:I,s:s}", "name", m->files[i].name,
                                                        "bytes", (json_int_t)m->files[i].bytes,
                                                        "sha256", m->files[i].sha256));
    json_t *root =
        json_pack("{s:s,s:s,s:s,s:o,s:I,s:I,s:I,s:s,s:s}", "format", FORMAT, "digest", m->digest,
                  "imported", m->imported, "files", files, "parameters", (json_int_t)m->parameters,
                  "rank_min", (json_int_t)m->rank_min, "rank_max", (json_int_t)m->rank_max,
                  "targets", m->targets, "base", m->base);
    char *text = json_dumps(root, JSON_INDENT(1));
    ESP_ASSERT(!wrong && text);
    json_decref(root);
    return text;
}
