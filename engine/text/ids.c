/* ids.c - the growable array of ids. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/ids.h"

#include <stdlib.h>

#include "engine/base/mem.h"

void tok_ids_add(tok_ids *ids, int32_t id) {
    if (ids->count == ids->capacity) {
        ESP_ASSERT(ids->capacity < 1u << 30);
        ids->capacity = ids->capacity ? ids->capacity * 2 : 64;
        ids->at = mem_resize(ids->at, ids->capacity, sizeof *ids->at);
    }
    ids->at[ids->count++] = id;
}

void tok_ids_free(tok_ids *ids) {
    free(ids->at);
    *ids = (tok_ids){0};
}
