/* fuzz_store_name.c - any bytes as a name's file of the adapter store, and as a reference: refused with
 * a sentence, or versions whose numbers hold together. Seeds: corpus/store_name, made by
 * make_store_corpus.py. */
// SPDX-License-Identifier: Apache-2.0
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/adapters/store_inner.h"
#include "engine/base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look_at(const store_name *name) {
    ESP_ASSERT(name->count > 0 && name->count <= STORE_VERSIONS_MAX);
    bool alias = false;
    for (uint32_t i = 0; i < name->count; i++) {
        const store_version *v = &name->versions[i];
        ESP_ASSERT(v->version > 0 && v->version < name->next && store_hex_of(v->digest));
        ESP_ASSERT(i == 0 || v->version > name->versions[i - 1].version);
        alias = alias || v->version == name->alias;
    }
    ESP_ASSERT(alias);
    const store_version *meant;
    store_reference bare = {0};
    ESP_ASSERT(store_find_version(name, &bare, &meant, NULL) == ESP_OK);
    ESP_ASSERT(meant->version == name->alias);
}

static void try_reference(const uint8_t *data, size_t size) {
    char *text = mem_copy_text((const char *)data, size);
    store_reference reference;
    esp_error err = {0};
    esp_code code = store_parse_reference(text, &reference, &err);
    ESP_ASSERT(code == ESP_OK || (err.code == code && err.message[0]));
    if (code == ESP_OK) {
        ESP_ASSERT(store_check_name(reference.name, strlen(reference.name), NULL) == ESP_OK);
        ESP_ASSERT(!strpbrk(reference.name, "/\\") && !strstr(reference.name, ".."));
        size_t digits = strlen(reference.prefix);
        ESP_ASSERT(digits == 0 || (digits >= STORE_PREFIX_MIN && !reference.version));
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    store_name name;
    esp_error err = {0};
    esp_code code = store_parse_name("fuzz", data, size, &name, &err);
    ESP_ASSERT(code == ESP_OK || (err.code == code && err.message[0]));
    if (code == ESP_OK) look_at(&name);
    store_name_free(&name);
    try_reference(data, size);
    return 0;
}
