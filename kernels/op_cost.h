/* op_cost.h - what an op moves and multiplies at least, from its shapes alone.
 *
 * bytes: weights once, whatever the number of tokens; inputs read, outputs written; keys and values
 * that a sequence's tokens see, once a sequence. flops: multiplications and additions of matrices
 * and attention scores; what else is computed rides along with the bytes and is not counted. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_OP_COST_H
#define ESPALIER_OP_COST_H

#include "kernels/kernels.h"

typedef struct op_cost {
    double flops, bytes;
} op_cost;

op_cost op_cost_embed(const kern_ops *ops, const kern_device *dev, const kern_embed *op);
op_cost op_cost_norm(const kern_ops *ops, const kern_device *dev, const kern_norm *op);
op_cost op_cost_linear(const kern_ops *ops, const kern_device *dev, const kern_linear *op);
op_cost op_cost_rope_store(const kern_ops *ops, const kern_device *dev, const kern_rope_store *op);
op_cost op_cost_attention(const kern_ops *ops, const kern_device *dev, const kern_attention *op);
op_cost op_cost_pool_states(const kern_pool_states *op);

/* Pairs of a query and a key that it sees, for tokens [first, first + count) of a sequence. window
 * 0: no window. */
double op_cost_seen(uint32_t first, uint32_t count, uint32_t window);

#endif
