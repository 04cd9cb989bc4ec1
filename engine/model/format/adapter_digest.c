/* adapter_digest.c - what a LoRA adapter is, by the content of its files. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/format/adapter_digest.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"

const char *const ADAPTER_TOKEN_FILE[ADAPTER_TOKEN_FILES] = {"added_tokens.json", "tokenizer.json",
                                                             "tokenizer_config.json"};

bool adapter_is_token_file(const char *name) {
    for (size_t i = 0; i < ADAPTER_TOKEN_FILES; i++)
        if (strcmp(name, ADAPTER_TOKEN_FILE[i]) == 0) return true;
    return false;
}

void adapter_file_hash(uint8_t out[SHA256_BYTES], const void *bytes, size_t count, bool mapped) {
    enum { STEP = 4 << 20 };
    sha256_sum *sum = sha256_open();
    for (size_t at = 0; at < count; at += STEP) {
        size_t left = count - at, now = left < STEP ? left : STEP;
        const uint8_t *step = (const uint8_t *)bytes + at;
        sha256_add(sum, step, now);
        if (mapped) file_done_with(step, now);
    }
    sha256_end(sum, out);
    sha256_close(sum);
}

static void add_line(sha256_sum *sum, const uint8_t hash[SHA256_BYTES], const char *name) {
    char hex[SHA256_HEX_CHARS + 1];
    sha256_hex(hex, hash);
    sha256_add(sum, hex, SHA256_HEX_CHARS);
    sha256_add(sum, "  ", 2);
    sha256_add(sum, name, strlen(name));
    sha256_add(sum, "\n", 1);
}

static int compare_names(const void *a, const void *b) {
    const adapter_digest_file *x = a, *y = b;
    return strcmp(x->name, y->name);
}

void adapter_digest(char out[ADAPTER_DIGEST_CHARS], adapter_digest_file *files, size_t count) {
    uint8_t hash[SHA256_BYTES];
    sha256_sum *sum = sha256_open();
    qsort(files, count, sizeof *files, compare_names);
    for (size_t i = 0; i < count; i++)
        add_line(sum, files[i].hash, files[i].name);
    sha256_end(sum, hash);
    sha256_close(sum);
    memcpy(out, ADAPTER_DIGEST_PREFIX, sizeof ADAPTER_DIGEST_PREFIX);
    sha256_hex(out + strlen(ADAPTER_DIGEST_PREFIX), hash);
}
