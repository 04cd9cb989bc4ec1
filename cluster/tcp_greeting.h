/* tcp_greeting.h - what ranks say when they meet, and the head of what they send afterwards (comm_tcp.c). All sizes
 * are fixed; numbers are little-endian.
 *
 *   greeting  to rank 0    magic[8] version u32 rank u32 size u32 each u32 host[64]
 *   welcome   from rank 0  magic[8] version u32 verdict u32 size u32 each u32 local_rank u32
 *
 * Where processes have several ranks each, they are what is counted here, and `each` says how many. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CLUSTER_TCP_GREETING_H
#define ESPALIER_CLUSTER_TCP_GREETING_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

enum { TCP_VERSION = 2, TCP_HOST_BYTES = 64 };

typedef enum tcp_verdict {
    TCP_WELCOME = 1,
    TCP_OTHER_SIZE,  /* rank 0 was started for another number of ranks */
    TCP_RANK_TAKEN,  /* one with this number has come already, or it is 0 */
    TCP_OTHER_SHARE, /* rank 0's process has another number of ranks */
    TCP_OTHER_BUILD, /* another version of all this */
} tcp_verdict;

typedef struct tcp_greeting {
    char magic[8];
    uint32_t version, rank, size, each;
    char host[TCP_HOST_BYTES];
} tcp_greeting;
static_assert(sizeof(tcp_greeting) == 24 + TCP_HOST_BYTES, "as it is sent");

typedef struct tcp_welcome {
    char magic[8];
    uint32_t version, verdict, size, each, local_rank;
} tcp_welcome;
static_assert(sizeof(tcp_welcome) == 28, "as it is sent");

/* Which of how many, with how many ranks each. */
typedef struct tcp_place {
    uint32_t rank, size, each;
} tcp_place;

tcp_greeting tcp_greeting_make(tcp_place own, const char *host);
/* host: rank 0's. */
tcp_welcome tcp_welcome_make(tcp_verdict verdict, tcp_place host, uint32_t local_rank);

/* Whether the bytes are of this program at all; who is not is not answered. */
bool tcp_greeting_is_ours(const tcp_greeting *g);
bool tcp_welcome_is_ours(const tcp_welcome *w);
/* taken[rank]: has come. */
tcp_verdict tcp_greeting_judge(const tcp_greeting *g, tcp_place host, const bool *taken);

#endif
