/* fuzz_store_manifest.c - any bytes as a manifest of the adapter store: refused with a sentence, or one
 * that is written and read again as the same. Seeds: corpus/store_manifest, made by
 * make_store_corpus.py. */
// SPDX-License-Identifier: Apache-2.0
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/adapters/store_inner.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_same(const store_manifest *a, const store_manifest *b) {
    ESP_ASSERT(!strcmp(a->digest, b->digest) && !strcmp(a->imported, b->imported));
    ESP_ASSERT(!strcmp(a->targets, b->targets) && !strcmp(a->base, b->base));
    ESP_ASSERT(a->bytes == b->bytes && a->parameters == b->parameters);
    ESP_ASSERT(a->rank_min == b->rank_min && a->rank_max == b->rank_max);
    ESP_ASSERT(a->file_count == b->file_count);
    for (uint32_t i = 0; i < a->file_count; i++)
        ESP_ASSERT(!strcmp(a->files[i].name, b->files[i].name) &&
                   a->files[i].bytes == b->files[i].bytes &&
                   !strcmp(a->files[i].sha256, b->files[i].sha256));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    store_manifest manifest, again;
    esp_error err = {0};
    esp_code code = store_parse_manifest(data, size, &manifest, &err);
    ESP_ASSERT(code == ESP_OK || (err.code == code && err.message[0]));
    if (code != ESP_OK) return 0;
    char *text = store_print_manifest(&manifest);
    ESP_ASSERT(store_parse_manifest(text, strlen(text), &again, &err) == ESP_OK);
    check_same(&manifest, &again);
    free(text);
    return 0;
}
