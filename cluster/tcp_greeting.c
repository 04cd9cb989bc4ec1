/* tcp_greeting.c - see tcp_greeting.h. */
// SPDX-License-Identifier: Apache-2.0
#include "cluster/tcp_greeting.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>

static_assert(BYTE_ORDER == LITTLE_ENDIAN, "words go as they lie in memory");

static const char magic[8] = {'e', 's', 'p', 'r', 'a', 'n', 'k', '\n'};

tcp_greeting tcp_greeting_make(tcp_place own, const char *host) {
    tcp_greeting g = {.version = TCP_VERSION, .rank = own.rank, .size = own.size, .each = own.each};
    memcpy(g.magic, magic, sizeof magic);
    snprintf(g.host, sizeof g.host, "%s", host);
    return g;
}

tcp_welcome tcp_welcome_make(tcp_verdict verdict, tcp_place host, uint32_t local_rank) {
    tcp_welcome w = {.version = TCP_VERSION,
                     .verdict = verdict,
                     .size = host.size,
                     .each = host.each,
                     .local_rank = local_rank};
    memcpy(w.magic, magic, sizeof magic);
    return w;
}

bool tcp_greeting_is_ours(const tcp_greeting *g) {
    return memcmp(g->magic, magic, sizeof magic) == 0 &&
           memchr(g->host, 0, sizeof g->host) != NULL;
}

bool tcp_welcome_is_ours(const tcp_welcome *w) {
    return memcmp(w->magic, magic, sizeof magic) == 0 && w->verdict >= TCP_WELCOME &&
           w->verdict <= TCP_OTHER_BUILD;
}

/* What they count together tells more than how they share it. */
tcp_verdict tcp_greeting_judge(const tcp_greeting *g, tcp_place host, const bool *taken) {
    if (g->version != TCP_VERSION) return TCP_OTHER_BUILD;
    if ((uint64_t)g->size * g->each != (uint64_t)host.size * host.each) return TCP_OTHER_SIZE;
    if (g->each != host.each) return TCP_OTHER_SHARE;
    if (g->rank == 0 || g->rank >= host.size || taken[g->rank]) return TCP_RANK_TAKEN;
    return TCP_WELCOME;
}
