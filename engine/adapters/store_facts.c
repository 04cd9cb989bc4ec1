/* store_facts.c - what an adapter's files say that they are, for its manifest. */
// SPDX-License-Identifier: Apache-2.0
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/adapters/store_inner.h"
#include "engine/model/lora/lora_file.h"

static int compare_texts(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* "q_proj, v_proj" */
static void print_targets(const lora_facts *facts, store_manifest *out) {
    const char *targets[LORA_TARGETS_MAX];
    char shown[40];
    size_t used = 0;
    static_assert(LORA_TARGETS_MAX * (sizeof shown + 2) <= sizeof out->targets, "all of them fit");
    memcpy(targets, facts->targets, facts->target_count * sizeof *targets);
    qsort(targets, facts->target_count, sizeof *targets, compare_texts);
    for (uint32_t i = 0; i < facts->target_count; i++) {
        esp_show(shown, sizeof shown, targets[i], strlen(targets[i]));
        used += (size_t)snprintf(out->targets + used, sizeof out->targets - used, "%s%s",
                                 i ? ", " : "", shown);
    }
}

/* Files that do not count are none of the digest's. */
static esp_code check_token_files(const lora_facts *facts, const store_manifest *m,
                                  esp_error *err) {
    for (uint32_t i = 0; i < m->file_count && !facts->tables; i++)
        if (adapter_is_token_file(m->files[i].name))
            return esp_fail_field(err, ESP_INVALID, "file",
                                  "%s came with an adapter that brings no rows of embed_tokens or "
                                  "lm_head; leave it away",
                                  m->files[i].name);
    return ESP_OK;
}

esp_code store_read_facts(const char *path, store_manifest *out, esp_error *err) {
    lora_file *file;
    esp_code code = lora_file_open(&file, path, NULL, err);
    if (code != ESP_OK) return code;
    const lora_facts *facts = lora_file_facts(file);
    code = check_token_files(facts, out, err);
    if (code == ESP_OK && strcmp(facts->digest, out->digest) != 0) {
        code = esp_fail(err, ESP_DATA_LOSS, "the staged files are not what came: %s; wanted %s",
                        facts->digest, out->digest);
    } else if (code == ESP_OK) {
        out->parameters = facts->parameters;
        out->rank_min = facts->rank_min;
        out->rank_max = facts->rank_max;
        print_targets(facts, out);
        esp_show(out->base, sizeof out->base, facts->base_name, strlen(facts->base_name));
    }
    lora_file_close(file);
    return code;
}
