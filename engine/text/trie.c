/* trie.c - edges in one hash table, grown as tokens come. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/trie.h"

#include <stdlib.h>

#include "engine/base/mem.h"

enum { FIRST_NODES = 256 };

static void take_edges(trie *t, uint32_t capacity) {
    t->edges = mem_new(capacity, sizeof *t->edges);
    t->mask = capacity - 1;
    for (uint32_t i = 0; i < capacity; i++)
        t->edges[i].child = TRIE_NONE;
}

/* Room for twice as many nodes; at most half the edges' slots are taken. */
static void grow(trie *t) {
    trie_edge *old = t->edges;
    uint32_t old_mask = t->mask;
    ESP_ASSERT(t->node_capacity < 1u << 30);
    t->node_capacity *= 2;
    t->ids = mem_resize(t->ids, t->node_capacity, sizeof *t->ids);
    take_edges(t, t->node_capacity * 2);
    for (uint32_t i = 0; i <= old_mask; i++) {
        if (old[i].child != TRIE_NONE) t->edges[trie_slot(t, old[i].key)] = old[i];
    }
    free(old);
}

static uint32_t step_or_add(trie *t, uint32_t node, uint8_t byte) {
    uint64_t key = (uint64_t)node << 8 | byte;
    uint32_t slot = trie_slot(t, key);
    if (t->edges[slot].child != TRIE_NONE) return t->edges[slot].child;
    if (t->node_count == t->node_capacity) {
        grow(t);
        slot = trie_slot(t, key);
    }
    t->ids[t->node_count] = VOCAB_NONE;
    t->edges[slot] = (trie_edge){key, t->node_count};
    return t->node_count++;
}

void trie_open(trie *t, const vocab *v) {
    *t = (trie){.node_count = 1, .node_capacity = FIRST_NODES};
    t->ids = mem_new(FIRST_NODES, sizeof *t->ids);
    t->ids[TRIE_ROOT] = VOCAB_NONE;
    take_edges(t, FIRST_NODES * 2);
    for (uint32_t id = 0; id < v->count; id++) {
        tok_text token = vocab_bytes(v, id);
        if (!vocab_is_text(v, id)) continue;
        uint32_t node = TRIE_ROOT;
        for (size_t i = 0; i < token.bytes; i++)
            node = step_or_add(t, node, (uint8_t)token.at[i]);
        t->ids[node] = vocab_find(v, token.at, token.bytes);
    }
}

void trie_close(trie *t) {
    free(t->ids);
    free(t->edges);
    *t = (trie){0};
}
