/* store_remove.c - takes versions and names away, and the files that then have none. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "engine/adapters/store_inner.h"

static esp_code remove_name(const adapter_store *store, const store_name *name, esp_error *err) {
    char file[STORE_NAME_FILE_CHARS];
    esp_code code = ESP_OK;
    for (uint32_t i = 0; code == ESP_OK && i < name->count; i++)
        code = store_mark(store, store_hex_of(name->versions[i].digest), err);
    store_name_file(file, name->name);
    if (code == ESP_OK) code = store_unlink(store, FOLDER_NAMES, file, err);
    if (code == ESP_OK) code = store_sync(store, store->folders[FOLDER_NAMES], file, err);
    return code;
}

static esp_code remove_version(const adapter_store *store, store_name *name,
                               const store_version *version, esp_error *err) {
    if (name->count == 1) return remove_name(store, name, err);
    if (version->version == name->alias)
        return esp_fail_field(err, ESP_PRECONDITION, "name",
                              "%s@%u is the version that %s means; move the alias first (espalier "
                              "adapter alias %s VERSION)",
                              name->name, name->alias, name->name, name->name);
    esp_code code = store_mark(store, store_hex_of(version->digest), err);
    if (code != ESP_OK) return code;
    size_t at = (size_t)(version - name->versions), behind = --name->count - at;
    memmove(&name->versions[at], &name->versions[at + 1], behind * sizeof *version);
    return store_write_name(store, name, err);
}

/* *name is as it was before, but for the version that went. */
static esp_code remove_meant(adapter_store *store, const store_reference *wanted, store_name *name,
                             uint32_t *versions, esp_error *err) {
    const store_version *version;
    bool whole = !wanted->version && !wanted->prefix[0];
    esp_code code = store_read_name(store, wanted->name, name, err);
    if (code != ESP_OK) return code;
    *versions = whole ? name->count : 1;
    if (whole) return remove_name(store, name, err);
    code = store_find_version(name, wanted, &version, err);
    return code == ESP_OK ? remove_version(store, name, version, err) : code;
}

esp_code store_remove(adapter_store *store, const char *reference, uint32_t *versions,
                      esp_error *err) {
    store_reference wanted;
    store_name name = {0};
    uint32_t count = 0;
    int lock;
    esp_code code = store_parse_reference(reference, &wanted, err);
    if (code == ESP_OK) code = store_lock(store, &lock, err);
    if (code != ESP_OK) return code;
    code = remove_meant(store, &wanted, &name, &count, err);
    store_settle(store);
    store_unlock(lock);
    store_name_free(&name);
    if (versions) *versions = code == ESP_OK ? count : 0;
    return code;
}
