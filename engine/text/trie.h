/* trie.h - a vocabulary walked byte by byte: which tokens does a text begin with?
 *
 * Nodes are numbers, 0 is the root. Memory is a constant times the tokens' bytes.
 *
 * Thread  read-only after open: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_TRIE_H
#define ESPALIER_TEXT_TRIE_H

#include "engine/text/vocab.h"

enum { TRIE_ROOT = 0 };
#define TRIE_NONE UINT32_MAX

typedef struct trie_edge {
    uint64_t key;   /* node << 8 | byte */
    uint32_t child; /* TRIE_NONE: empty slot */
} trie_edge;

typedef struct trie {
    uint32_t node_count, node_capacity;
    int32_t *ids;     /* [node_capacity] token that ends at a node, or VOCAB_NONE */
    trie_edge *edges; /* [mask + 1] open addressing */
    uint32_t mask;
} trie;

/* Every token that plain text may turn into, under the id that vocab_find gives. */
void trie_open(trie *t, const vocab *v);
void trie_close(trie *t);

/* Slot of an edge, or the empty one where it would be. */
static inline uint32_t trie_slot(const trie *t, uint64_t key) {
    uint32_t slot = (uint32_t)((key * 0x9e3779b97f4a7c15u) >> 32) & t->mask;
    while (t->edges[slot].child != TRIE_NONE && t->edges[slot].key != key)
        slot = (slot + 1) & t->mask;
    return slot;
}

/* The node behind one more byte, or TRIE_NONE. */
static inline uint32_t trie_step(const trie *t, uint32_t node, uint8_t byte) {
    return t->edges[trie_slot(t, (uint64_t)node << 8 | byte)].child;
}

#endif
