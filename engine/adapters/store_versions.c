/* store_versions.c - names/<name>.json: a name's versions and its alias.
 *
 *   {"format": "espalier.adapter-name.v1", "alias": 2, "next": 4, "versions": [
 *     {"version": 1, "digest": "sha256:<hex>", "imported": "2026-11-21T10:00:00Z"}, ...]}
 *
 * Versions ascend, digests differ, the alias is one of them, next is above all. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/adapters/store_inner.h"
#include "engine/base/mem.h"
#include "engine/model/format/json_bytes.h"

#define FORMAT "espalier.adapter-name.v1"

void store_name_file(char out[STORE_NAME_FILE_CHARS], const char *name) {
    snprintf(out, STORE_NAME_FILE_CHARS, "%s.json", name);
}

void store_name_free(store_name *name) {
    free(name->versions);
    *name = (store_name){0};
}

/* ---- reading ---- */

/* A number from 1 to UINT32_MAX, or 0. */
static uint32_t number_of(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    json_int_t number = json_is_integer(value) ? json_integer_value(value) : 0;
    return number > 0 && number <= UINT32_MAX ? (uint32_t)number : 0;
}

/* False: absent, or longer than there is room. */
static bool copy_text(char *out, size_t room, const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    size_t bytes = text ? strlen(text) : room;
    if (bytes >= room) return false;
    esp_show(out, room, text, bytes);
    return true;
}

static bool read_version(const json_t *from, store_version *out) {
    out->version = number_of(from, "version");
    return out->version && copy_text(out->digest, sizeof out->digest, from, "digest") &&
           store_hex_of(out->digest) &&
           copy_text(out->imported, sizeof out->imported, from, "imported");
}

static bool has_digest(const store_name *name, const char *digest) {
    for (uint32_t i = 0; i < name->count; i++)
        if (!strcmp(name->versions[i].digest, digest)) return true;
    return false;
}

static const char *read_versions(const json_t *list, store_name *out) {
    size_t count = json_array_size(list);
    if (count == 0 || count > STORE_VERSIONS_MAX) return "wanted 1 to 1024 versions";
    out->versions = mem_new(count, sizeof *out->versions);
    uint32_t last = 0;
    for (size_t i = 0; i < count; i++) {
        store_version version = {0};
        if (!read_version(json_array_get(list, i), &version)) return "a version is damaged";
        if (version.version <= last) return "the versions do not ascend";
        if (has_digest(out, version.digest)) return "two versions have one digest";
        last = version.version;
        out->versions[out->count++] = version;
    }
    return last < out->next ? NULL : "next is not above all versions";
}

static bool has_version(const store_name *name, uint32_t version) {
    for (uint32_t i = 0; i < name->count; i++)
        if (name->versions[i].version == version) return true;
    return false;
}

/* What is wrong, or NULL. */
static const char *read_name(const json_t *root, store_name *out) {
    const char *format = json_string_value(json_object_get(root, "format"));
    if (!format || strcmp(format, FORMAT) != 0) return "wanted format " FORMAT;
    out->alias = number_of(root, "alias");
    out->next = number_of(root, "next");
    const char *wrong = read_versions(json_object_get(root, "versions"), out);
    if (wrong) return wrong;
    return has_version(out, out->alias) ? NULL : "the alias is none of the versions";
}

esp_code store_parse_name(const char *name, const void *bytes, size_t count, store_name *out,
                          esp_error *err) {
    *out = (store_name){0};
    char file[STORE_NAME_FILE_CHARS];
    store_name_file(file, name);
    snprintf(out->name, sizeof out->name, "%s", name);
    json_t *root;
    esp_code code = json_read_object(&root, bytes, count, file, "the name's versions", err);
    if (code != ESP_OK) return code;
    const char *wrong = read_name(root, out);
    json_decref(root);
    if (!wrong) return ESP_OK;
    return esp_fail(err, ESP_INVALID, "%s: %s; the adapter store is damaged", file, wrong);
}

esp_code store_read_name(adapter_store *store, const char *name, store_name *out, esp_error *err) {
    *out = (store_name){0};
    char file[STORE_NAME_FILE_CHARS], *bytes;
    size_t count;
    esp_code code = store_check_name(name, strlen(name), err);
    if (code != ESP_OK) return code;
    store_name_file(file, name);
    code = store_read(store, FOLDER_NAMES, file, &bytes, &count, err);
    if (code == ESP_NOT_FOUND)
        return esp_fail_field(
            err, ESP_NOT_FOUND, "name",
            "no adapter \"%s\" is in the store; espalier adapter list tells which "
            "are",
            name);
    if (code == ESP_OK) code = store_parse_name(name, bytes, count, out, err);
    free(bytes);
    return code;
}

/* ---- finding ---- */

static bool matches(const store_name *name, const store_version *v, const store_reference *r) {
    if (r->prefix[0]) return !strncmp(store_hex_of(v->digest), r->prefix, strlen(r->prefix));
    return v->version == (r->version ? r->version : name->alias);
}

/* "1, 2, 5", as many as fit. */
static void print_versions(const store_name *name, char *out, size_t room) {
    size_t used = 0;
    for (uint32_t i = 0; i < name->count && used + 16 < room; i++)
        used += (size_t)snprintf(out + used, room - used, "%s%u", i ? ", " : "",
                                 name->versions[i].version);
}

esp_code store_find_version(const store_name *name, const store_reference *reference,
                            const store_version **out, esp_error *err) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < name->count; i++)
        if (matches(name, &name->versions[i], reference)) {
            *out = &name->versions[i];
            count++;
        }
    if (count == 1) return ESP_OK;
    char list[160] = "", wanted[80];
    print_versions(name, list, sizeof list);
    if (reference->prefix[0])
        snprintf(wanted, sizeof wanted, "digest sha256:%s", reference->prefix);
    else
        snprintf(wanted, sizeof wanted, "version %u", reference->version);
    if (count > 1)
        return esp_fail_field(err, ESP_INVALID, "name",
                              "adapter \"%s\": %u versions have %s...; give more digits",
                              name->name, count, wanted);
    return esp_fail_field(err, ESP_NOT_FOUND, "name", "adapter \"%s\" has no %s; its versions: %s",
                          name->name, wanted, list);
}

/* ---- writing ---- */

static char *print_name(const store_name *name) {
    json_t *root = json_object(), *list = json_array();
    int wrong = json_object_set_new(root, "format", json_string(FORMAT)) |
                json_object_set_new(root, "alias", json_integer(name->alias)) |
                json_object_set_new(root, "next", json_integer(name->next)) |
                json_object_set_new(root, "versions", list);
    for (uint32_t i = 0; i < name->count; i++) {
        const store_version *v = &name->versions[i];
        wrong |= json_array_append_new(list,
                                       json_pack("{s:I,s:s,s:s}", "version", (json_int_t)v->version,
                                                 "digest", v->digest, "imported", v->imported));
    }
    char *text = json_dumps(root, JSON_INDENT(1));
    ESP_ASSERT(!wrong && text);
    json_decref(root);
    return text;
}

esp_code store_write_name(const adapter_store *store, const store_name *name, esp_error *err) {
    char id[STORE_ID_CHARS], file[STORE_NAME_FILE_CHARS];
    store_make_id(id, name->name);
    store_name_file(file, name->name);
    char *text = print_name(name);
    esp_code code = store_write(store, store->folders[FOLDER_STAGE], id, text, strlen(text), err);
    free(text);
    if (code == ESP_OK) code = store_publish(store, id, FOLDER_NAMES, file, false, err);
    if (code != ESP_OK) store_discard(store, id);
    return code;
}
