/* rank_sum.c - the two ways of a sum over ranks. */
// SPDX-License-Identifier: Apache-2.0
#include "cluster/rank_sum.h"

enum { SLICE_UNIT = 64 }; /* elements: slices begin on cache lines */

/* Elements that each rank adds of a large message; the last ones' may lie beyond count. */
static size_t slice_of(size_t count, uint32_t ranks) {
    size_t share = (count + ranks - 1) / ranks;
    return (share + SLICE_UNIT - 1) / SLICE_UNIT * SLICE_UNIT;
}

static bool is_small(size_t count) { return count * sizeof(float) <= RANK_SUM_SMALL_BYTES; }

esp_code rank_sum_open(rank_sum *s, comm *c, const kern_ops *ops, kern_device *dev,
                       size_t count_max, esp_error *err) {
    ESP_ASSERT(c->size <= COMM_RANKS_MAX && count_max > 0);
    size_t slice = slice_of(count_max, c->size);
    size_t small = is_small(count_max) ? count_max : RANK_SUM_SMALL_BYTES / sizeof(float);
    *s = (rank_sum){.comm = c, .ops = ops, .dev = dev, .count_max = count_max};
    s->partial_bytes = c->size * slice * sizeof(float);
    s->gathered_bytes = c->size * (slice > small ? slice : small) * sizeof(float);
    esp_code code = ops->alloc(dev, s->partial_bytes, &s->partial, err);
    if (code == ESP_OK) code = ops->alloc(dev, s->gathered_bytes, &s->gathered, err);
    if (code == ESP_OK) code = ops->alloc(dev, s->partial_bytes, &s->summed, err);
    return code;
}

void rank_sum_close(rank_sum *s) {
    if (s->partial) s->ops->release(s->dev, s->partial, s->partial_bytes);
    if (s->gathered) s->ops->release(s->dev, s->gathered, s->gathered_bytes);
    if (s->summed) s->ops->release(s->dev, s->summed, s->partial_bytes);
    *s = (rank_sum){0};
}

/* Slice r of mine goes to rank r, and mine of rank r comes to row r of gathered. */
static void scatter(rank_sum *s, size_t slice_bytes) {
    comm_part parts[COMM_RANKS_MAX];
    for (uint32_t rank = 0; rank < s->comm->size; rank++)
        parts[rank] = (comm_part){.send = (char *)s->partial + rank * slice_bytes,
                                  .receive = (char *)s->gathered + rank * slice_bytes,
                                  .send_bytes = slice_bytes,
                                  .receive_bytes = slice_bytes};
    comm_exchange(s->comm, parts);
}

/* Adds a slice of each rank's, in op's order, and gathers the sums: what op adds is then one row. */
static void sum_slices(rank_sum *s, kern_rank_sum *op) {
    kern_rank_sum own = *op;
    own.count = slice_of(op->count, s->comm->size);
    own.residual = false;
    own.out = s->partial;
    scatter(s, own.count * sizeof(float));
    s->ops->rank_sum(s->dev, &own);
    comm_all_gather(s->comm, s->partial, s->summed, own.count * sizeof(float));
    op->in = s->summed;
    op->ranks = 1;
}

void rank_sum_run(rank_sum *s, size_t count, rank_sum_order order, bool residual, void *out) {
    ESP_ASSERT(count > 0 && count <= s->count_max);
    ESP_ASSERT(order == RANK_SUM_IN_ORDER || s->ops->parts);
    kern_rank_sum op = {.in = s->gathered,
                        .ranks = s->comm->size,
                        .tree = order == RANK_SUM_TREE,
                        .count = count,
                        .residual = residual,
                        .out = out};
    if (is_small(count))
        comm_all_gather(s->comm, s->partial, s->gathered, count * sizeof(float));
    else
        sum_slices(s, &op);
    s->ops->rank_sum(s->dev, &op);
}
