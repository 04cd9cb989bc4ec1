/* model_digest.c - what a model is, by the content of its files. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/format/model_digest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/file.h"
#include "engine/base/status.h"

static void print_digest(char out[MODEL_DIGEST_CHARS], XXH128_hash_t hash) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    size_t used = (size_t)snprintf(out, MODEL_DIGEST_CHARS, "xxh3-128:");
    for (size_t i = 0; i < sizeof canonical.digest; i++, used += 2)
        snprintf(out + used, MODEL_DIGEST_CHARS - used, "%02x", canonical.digest[i]);
}

static int compare_names(const void *a, const void *b) {
    const digest_file *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* The whole model may be larger than the memory. */
static void add_bytes(XXH3_state_t *state, const digest_file *file) {
    enum { STEP = 4 << 20 };
    for (size_t at = 0; at < file->count; at += STEP) {
        size_t left = file->count - at, bytes = left < STEP ? left : STEP;
        const uint8_t *step = (const uint8_t *)file->bytes + at;
        XXH3_128bits_update(state, step, bytes);
        if (file->mapped) file_done_with(step, bytes);
    }
}

static void add_file(XXH3_state_t *state, const digest_file *file) {
    uint8_t size[8];
    for (int i = 0; i < 8; i++)
        size[i] = (uint8_t)((uint64_t)file->count >> 8 * i);
    XXH3_128bits_update(state, file->name, strlen(file->name) + 1);
    XXH3_128bits_update(state, size, sizeof size);
    add_bytes(state, file);
}

void model_digest(char out[MODEL_DIGEST_CHARS], digest_file *files, size_t count) {
    XXH3_state_t *state = XXH3_createState();
    ESP_ASSERT(state);
    XXH3_128bits_reset(state);
    qsort(files, count, sizeof *files, compare_names);
    if (count == 1) add_bytes(state, &files[0]);
    for (size_t i = 0; count > 1 && i < count; i++)
        add_file(state, &files[i]);
    print_digest(out, XXH3_128bits_digest(state));
    XXH3_freeState(state);
}
