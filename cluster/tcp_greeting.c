/* tcp_greeting.c - see tcp_greeting.h. */
// SPDX-License-Identifier: Apache-2.0
#include "cluster/tcp_greeting.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>

static_assert(BYTE_ORDER == LITTLE_ENDIAN, "words go as they lie in memory");

static const char magic[8] = {'e', 's', 'p', 'r', 'a', 'n', 'k', '\n'};

tcp_greeting tcp_greeting_make(uint32_t rank, uint32_t size, const char *host) {
    tcp_greeting g = {.version = TCP_VERSION, .rank = rank, .size = size};
    memcpy(g.magic, magic, sizeof magic);
    snprintf(g.host, sizeof g.host, "%s", host);
    return g;
}

tcp_welcome tcp_welcome_make(tcp_verdict verdict, uint32_t size, uint32_t local_rank) {
    tcp_welcome w = {
        .version = TCP_VERSION, .verdict = verdict, .size = size, .local_rank = local_rank};
    memcpy(w.magic, magic, sizeof magic);
    return w;
}

bool tcp_greeting_is_ours(const tcp_greeting *g) {
    return memcmp(g->magic, magic, sizeof magic) == 0 && g->zero == 0 &&
           memchr(g->host, 0, sizeof g->host) != NULL;
}

bool tcp_welcome_is_ours(const tcp_welcome *w) {
    return memcmp(w->magic, magic, sizeof magic) == 0 && w->verdict >= TCP_WELCOME &&
           w->verdict <= TCP_OTHER_BUILD;
}

tcp_verdict tcp_greeting_judge(const tcp_greeting *g, uint32_t size, const bool *taken) {
    if (g->version != TCP_VERSION) return TCP_OTHER_BUILD;
    if (g->size != size) return TCP_OTHER_SIZE;
    if (g->rank == 0 || g->rank >= size || taken[g->rank]) return TCP_RANK_TAKEN;
    return TCP_WELCOME;
}
