/* rank_sum.h - sums over the ranks of a replica: partial sums are exchanged, then added in the order of the
 * ranks, or as the tree whose nodes they are (kern_parts).
 *
 * A small message goes to everyone, and everyone adds all of it. A large one is cut into a slice for each rank,
 * which adds its slice and sends the sum to all. An element's sum is the same additions in the same order
 * either way, so its bits depend neither on the size nor on who else is in the batch.
 *
 * Thread  the rank's. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CLUSTER_RANK_SUM_H
#define ESPALIER_CLUSTER_RANK_SUM_H

#include "cluster/comm.h"
#include "kernels/kernels.h"

enum { RANK_SUM_SMALL_BYTES = 64 << 10 }; /* at most this of one rank's goes to everyone */

/* All-zero: no ranks. */
typedef struct rank_sum {
    comm *comm; /* borrowed; moves memory of this device */
    const kern_ops *ops;
    kern_device *dev;
    size_t count_max;
    /* Device memory, F32, with room for slices of whole units. */
    void *partial;  /* [count_max] what this rank has: a linear writes here */
    void *gathered; /* [size][of a small message, or of a slice] */
    void *summed;   /* [count_max] of a large message */
    size_t partial_bytes, gathered_bytes;
} rank_sum;

/* Sums of at most count_max elements. ESP_EXHAUSTED: no memory. rank_sum_close takes what is half open. */
ESP_CHECKED esp_code rank_sum_open(rank_sum *s, comm *c, const kern_ops *ops, kern_device *dev,
                                   size_t count_max, esp_error *err);
void rank_sum_close(rank_sum *s);

/* The tree is for backends that know parts, and 2, 4 or 8 ranks. */
typedef enum rank_sum_order { RANK_SUM_IN_ORDER, RANK_SUM_TREE } rank_sum_order;

/* out [count] F32 = the sum of the ranks' partial[0..count), or out + it if `residual`. After a failure of
 * the comm out is anything. */
void rank_sum_run(rank_sum *s, size_t count, rank_sum_order order, bool residual, void *out);

#endif
