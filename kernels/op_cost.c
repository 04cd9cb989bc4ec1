/* op_cost.c - see op_cost.h. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/op_cost.h"

static const double F32_BYTES = sizeof(float);

static double act_bytes(const kern_ops *ops, const kern_device *dev) {
    return (double)ops->element_bytes(dev, KIND_ACT);
}

op_cost op_cost_embed(const kern_ops *ops, const kern_device *dev, const kern_embed *op) {
    (void)dev;
    kern_matrix_shape table = ops->shape(op->table);
    double row = (double)ops->matrix_bytes(op->table) / table.rows;
    return (op_cost){.bytes = op->token_count * (row + table.cols * F32_BYTES)};
}

op_cost op_cost_norm(const kern_ops *ops, const kern_device *dev, const kern_norm *op) {
    /* A residual is read as well as written. */
    double out = op->residual ? 2 * F32_BYTES : act_bytes(ops, dev);
    if (op->kept) out += F32_BYTES;
    return (op_cost){.bytes = (double)op->count * op->width * (F32_BYTES + out)};
}

/* What updates read and multiply; each segment's by itself. */
static op_cost lora_cost(const kern_ops *ops, const kern_device *dev, const kern_linear *op) {
    op_cost cost = {0};
    for (uint32_t s = 0; s < op->lora_count; s++) {
        const kern_lora *lora = op->lora[s].lora;
        for (uint32_t i = 0; lora && i < lora->part_count; i++) {
            double values = (double)lora->part[i].rank * (lora->cols + lora->part[i].rows);
            cost.bytes += values * act_bytes(ops, dev);
            cost.flops += 2 * values * op->lora[s].count;
        }
    }
    return cost;
}

op_cost op_cost_linear(const kern_ops *ops, const kern_device *dev, const kern_linear *op) {
    op_cost cost = lora_cost(ops, dev, op);
    kern_matrix_shape shape = {0};
    double rows = 0, out = kern_gives_act(op->epilogue) ? act_bytes(ops, dev) : F32_BYTES;
    for (uint32_t i = 0; i < op->matrix_count; i++) {
        shape = ops->shape(op->matrix[i]);
        cost.bytes += (double)ops->matrix_bytes(op->matrix[i]);
        cost.flops += 2.0 * shape.rows * shape.cols * op->token_count;
        rows += shape.rows;
    }
    if (op->epilogue == EPI_RESIDUAL) out *= 2;
    if (kern_is_gated(op->epilogue)) rows /= 2;
    cost.bytes += op->token_count * (shape.cols * act_bytes(ops, dev) + rows * out);
    return cost;
}

/* Keys and values of one token in one layer. */
static double kv_token_bytes(const kern_ops *ops, const kern_device *dev, const kern_kv_layer *kv) {
    return (double)ops->frame_bytes(dev, kv->shape) / kv->shape->layers / KV_PAGE_TOKENS;
}

op_cost op_cost_rope_store(const kern_ops *ops, const kern_device *dev, const kern_rope_store *op) {
    const kern_kv_shape *shape = op->kv.shape;
    double q = (double)op->heads * shape->head_dim, kv = 2.0 * shape->kv_heads * shape->head_dim;
    double token = (2 * q + kv) * F32_BYTES + kv_token_bytes(ops, dev, &op->kv);
    return (op_cost){.bytes = op->batch->token_count * token};
}

double op_cost_seen(uint32_t first, uint32_t count, uint32_t window) {
    double from = first, to = (double)first + count; /* positions */
    if (!window) return (to * (to + 1) - from * (from + 1)) / 2;
    double ramp_end = to < window ? to : window; /* before it, a token sees all before itself */
    double ramp = from < ramp_end ? (ramp_end * (ramp_end + 1) - from * (from + 1)) / 2 : 0;
    double flat = to - (from > ramp_end ? from : ramp_end);
    return ramp + (flat > 0 ? flat * window : 0);
}

op_cost op_cost_attention(const kern_ops *ops, const kern_device *dev, const kern_attention *op) {
    const step_batch *batch = op->batch;
    double seen = 0, keys = 0, width = (double)op->heads * op->kv.shape->head_dim;
    for (uint32_t s = 0; s < batch->seq_count; s++) {
        uint32_t first = batch->seq_cached[s], count = batch->seq_tokens[s];
        uint32_t end = first + count, back = op->window ? op->window - 1 : first;
        seen += op->bidirectional ? (double)count * count : op_cost_seen(first, count, op->window);
        keys += end - (first > back ? first - back : 0);
    }
    return (op_cost){.flops = 4 * seen * width,
                     .bytes = keys * kv_token_bytes(ops, dev, &op->kv) +
                              batch->token_count * width * (F32_BYTES + act_bytes(ops, dev))};
}

op_cost op_cost_pool_states(const kern_pool_states *op) {
    double rows = (double)op->batch->token_count + op->batch->row_count;
    return (op_cost){.bytes = rows * op->width * F32_BYTES};
}
