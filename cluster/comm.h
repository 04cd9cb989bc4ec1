/* comm.h - collectives between the ranks of one replica: a table that threads, processes or GPUs fill.
 *
 *   comm_local   ranks are threads of one process, memory is the host's (comm_local.h)
 *   comm_mpi     ranks are processes, here or on other hosts (comm_mpi.h)
 *   comm_tcp     ranks are processes that meet at an address (comm_tcp.h)
 *   comm_nodes   ranks are threads of several processes (comm_nodes.h)
 *   comm_nccl    ranks are GPUs, memory is the device's (comm_nccl.h)
 *
 * Bytes are moved, never added: whoever sums adds what came in the order of the ranks, by its own code
 * (rank_sum.h), so all of them give the same bits.
 *
 * Every rank calls the same collectives in the same order and with the same sizes. None of them returns an
 * error: the first failure (a rank that did not come within `patience_us`, one that ended, one that called
 * comm_abort) is kept, what follows does nothing and leaves its outputs as they are, and comm_check tells it. So
 * no rank waits for a dead one for longer than its patience.
 *
 * Thread  one for each rank; comm_abort from any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CLUSTER_COMM_H
#define ESPALIER_CLUSTER_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

enum {
    COMM_RANKS_MAX = 64,
    COMM_PATIENCE_US = 5000000, /* while a replica serves */
};
/* While weights are loaded, and for a rank that waits for work: until a rank fails. */
#define COMM_FOR_EVER ((int64_t)-1)

typedef struct comm comm;

/* What goes to one rank, and what comes from it. What a rank says to send is what its peer says to receive;
 * a rank may send to itself. No part overlaps another. */
typedef struct comm_part {
    const void *send;
    void *receive;
    size_t send_bytes, receive_bytes; /* 0: nothing */
} comm_part;

typedef struct comm_ops {
    const char *name;
    void (*close)(comm *c); /* NULL is not fine here: see comm_close */
    /* out: the `in` of all ranks, in their order, [size][bytes]; the two do not overlap. */
    void (*all_gather)(comm *c, const void *in, void *out, size_t bytes);
    void (*exchange)(comm *c, const comm_part *parts);  /* [size] */
    void (*broadcast)(comm *c, void *at, size_t bytes); /* rank 0's to all others */
    /* All ranks fail with this, from their next wait on; the first failure stays. Other processes are told when this
     * rank calls anything next, or looks (check), or closes; over MPI they see it leave, or lose their patience. */
    void (*abort)(comm *c, const esp_error *why);
    /* The first failure of this rank; ESP_OK: none so far. */
    ESP_CHECKED esp_code (*check)(comm *c, esp_error *err);
} comm_ops;

/* Head of every backend's own struct. */
struct comm {
    const comm_ops *ops;
    struct comm_failure *failure; /* over host memory: the first failure so far (comm_failure.h) */
    uint32_t rank, size;
    uint32_t local_rank; /* among the ranks of this machine */
    int64_t patience_us; /* may be set between collectives */
    /* What sentences call rank r, where it is not "rank r of size" (comm_nodes.h): the ranks from first + r * each on,
     * so many, of `of`. All-zero: as it is. */
    uint32_t first, each, of;
};

static inline void comm_close(comm *c) {
    if (c) c->ops->close(c);
}
static inline void comm_all_gather(comm *c, const void *in, void *out, size_t bytes) {
    c->ops->all_gather(c, in, out, bytes);
}
static inline void comm_exchange(comm *c, const comm_part *parts) { c->ops->exchange(c, parts); }
static inline void comm_broadcast(comm *c, void *at, size_t bytes) {
    c->ops->broadcast(c, at, bytes);
}
static inline void comm_abort(comm *c, const esp_error *why) { c->ops->abort(c, why); }
ESP_CHECKED static inline esp_code comm_check(comm *c, esp_error *err) {
    return c->ops->check(c, err);
}

/* Every rank says how its part went; each gets the first failure in the order of the ranks, or what
 * comm_check says. For host memory. */
ESP_CHECKED esp_code comm_agree(comm *c, esp_code code, esp_error *err);

#endif
