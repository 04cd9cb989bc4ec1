/* tiny_forward.h - one start of a small model and the logits of one short prompt, for tests of how
 * weights are read. The prompt fits one page per 16 tokens of one page group. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TINY_FORWARD_H
#define ESPALIER_TINY_FORWARD_H

#include <stdlib.h>
#include <string.h>

#include "engine/base/pool.h"
#include "engine/model/model.h"

enum { TINY_TOKENS_MAX = 32, TINY_PAGES = 2 };

/* Runs the prompt; the logits of all its tokens, [count, vocab], free() them. */
static inline float *tiny_run(model *m, const kern_ops *ops, kern_device *dev, const int32_t *ids,
                              uint32_t count) {
    uint32_t positions[TINY_TOKENS_MAX], zeros[TINY_TOKENS_MAX] = {0}, tables[TINY_PAGES] = {0, 1};
    uint32_t zero = 0, vocab = model_get_spec(m)->vocab;
    int32_t own_ids[TINY_TOKENS_MAX], slot = BATCH_NO_ADAPTER;
    uint8_t seq_long = 0;
    void *arena;
    size_t bytes = TINY_PAGES * ops->frame_bytes(dev, model_kv_shape(m));
    ESP_ASSERT(count <= TINY_TOKENS_MAX && ops->alloc(dev, bytes, &arena, NULL) == ESP_OK);
    for (uint32_t i = 0; i < count; i++) {
        own_ids[i] = ids[i];
        positions[i] = i;
    }
    step_batch batch = {.token_count = count,
                        .seq_count = 1,
                        .row_count = count,
                        .group_count = 1,
                        .table_stride = TINY_PAGES,
                        .ids = own_ids,
                        .positions = positions,
                        .token_seq = zeros,
                        .seq_first = &zero,
                        .seq_tokens = &count,
                        .seq_cached = &zero,
                        .seq_adapter = &slot,
                        .seq_long = &seq_long,
                        .tables = tables,
                        .rows = positions};
    logits_row seen[MODEL_LOGITS_ROWS];
    ESP_ASSERT(model_forward(m, &batch, NULL, arena, NULL) == ESP_OK);
    ESP_ASSERT(model_logits(m, 0, count, seen, NULL) == ESP_OK);
    float *out = malloc((size_t)count * vocab * sizeof *out);
    memcpy(out, seen[0].at, (size_t)count * vocab * sizeof *out);
    ops->release(dev, arena, bytes);
    return out;
}

/* A device, the model of a path, its logits. options: what is not of device and sizes. NULL when
 * the model does not open, with the error. */
static inline float *tiny_logits(const kern_ops *ops, const char *path, model_options options,
                                 const int32_t *ids, uint32_t count, uint32_t *vocab,
                                 esp_error *err) {
    thread_pool *pool;
    kern_device *dev;
    model_file *file = NULL;
    model *m = NULL;
    float *out = NULL;
    ESP_ASSERT(pool_open(&pool, 2, NULL) == ESP_OK);
    kern_options device = {.pool = pool, .kv_dtype = DT_F32, .tokens_max = TINY_TOKENS_MAX};
    ESP_ASSERT(ops->open(&dev, &device, NULL) == ESP_OK);
    options.ops = ops;
    options.dev = dev;
    options.pool = pool;
    options.tokens_max = options.rows_max = options.context_max = TINY_TOKENS_MAX;
    if (model_file_open(&file, path, err) == ESP_OK &&
        model_open(&m, file, &options, err) == ESP_OK) {
        *vocab = model_get_spec(m)->vocab;
        out = tiny_run(m, ops, dev, ids, count);
    }
    model_file_close(file);
    model_close(m);
    ops->close(dev);
    pool_close(pool);
    return out;
}

#endif
