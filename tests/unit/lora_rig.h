/* lora_rig.h - a base of tests/vectors/families with an adapter on it, run by one backend: for tests of
 * how adapters are read. Updates are packed by the backend as the engine has them packed. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_LORA_RIG_H
#define ESPALIER_TESTS_LORA_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "engine/model/lora/lora_file.h"
#include "engine/model/model.h"

enum { RIG_TOKENS = 32, RIG_PAGES = RIG_TOKENS / KV_PAGE_TOKENS, RIG_PIECE = 1 << 16 };

/* A packed update and the memory of its pieces. */
typedef struct rig_update {
    kern_lora lora;
    void **pieces;
    size_t *bytes;
    uint32_t count;
} rig_update;

typedef struct lora_rig {
    const kern_ops *ops;
    kern_device *dev;
    thread_pool *pool;
    model_file *file;
    model *m;
    lora_file *adapter;
    rig_update *updates; /* [LORA_LINEARS * layers + 1], the head's last */
    const kern_lora **linears;
    kern_matrix *wholes[LORA_SCORE];
    model_adapter table;
} lora_rig;

static inline void rig_check(esp_code code, const char *what, const esp_error *err) {
    if (code) fail_msg("%s: %s", what, err->message);
}

static inline void rig_pack(lora_rig *r, const kern_lora_desc *desc, rig_update *out) {
    out->count = r->ops->lora_pieces(r->dev, desc, RIG_PIECE, NULL);
    out->bytes = mem_new(out->count + 1, sizeof *out->bytes);
    out->pieces = mem_new(out->count + 1, sizeof *out->pieces);
    r->ops->lora_pieces(r->dev, desc, RIG_PIECE, out->bytes);
    for (uint32_t i = 0; i < out->count; i++)
        assert_non_null(out->pieces[i] = mem_map(out->bytes[i]));
    r->ops->lora_pack(r->dev, desc, RIG_PIECE, out->pieces);
    out->lora = kern_lora_of(desc, RIG_PIECE, out->pieces);
}

static inline void rig_pack_layers(lora_rig *r, uint32_t layers, lora_scratch *scratch) {
    esp_error err = {0};
    for (uint32_t which = 0; which < LORA_LINEARS; which++) {
        for (uint32_t layer = 0; layer < layers; layer++) {
            kern_lora_desc desc;
            bool touched;
            size_t at = (size_t)which * layers + layer;
            rig_check(lora_file_read(r->adapter, layer, which, scratch, &desc, &touched, &err),
                      "read", &err);
            if (!touched) continue;
            rig_pack(r, &desc, &r->updates[at]);
            r->linears[at] = &r->updates[at].lora;
        }
        r->table.linears[which] = &r->linears[(size_t)which * layers];
    }
}

static inline void rig_pack_rest(lora_rig *r, rig_update *head, lora_scratch *scratch) {
    esp_error err = {0};
    kern_lora_desc desc;
    bool touched;
    rig_check(lora_file_read_head(r->adapter, scratch, &desc, &touched, &err), "head", &err);
    if (touched) {
        rig_pack(r, &desc, head);
        r->table.head = &head->lora;
    }
    for (lora_whole which = LORA_EMBEDDING; which < LORA_SCORE; which++) {
        kern_matrix_desc whole;
        uint32_t rows = lora_file_facts(r->adapter)->whole_rows[which];
        if (!rows) continue;
        rig_check(lora_file_read_whole(r->adapter, which, 0, rows, scratch, &whole, &err), "whole",
                  &err);
        rig_check(r->ops->pack(r->dev, &whole, &r->wholes[which], &err), "pack", &err);
    }
    r->table.embedding = r->wholes[LORA_EMBEDDING];
    r->table.output = r->wholes[LORA_OUTPUT];
    uint32_t rows = lora_file_facts(r->adapter)->whole_rows[LORA_OUTPUT];
    if (rows > model_get_spec(r->m)->vocab) r->table.vocab = rows;
}

/* base and adapter: paths; adapter NULL: none. */
static inline lora_rig rig_open(const kern_ops *ops, const char *base, const char *adapter) {
    lora_rig r = {.ops = ops};
    esp_error err = {0};
    rig_check(pool_open(&r.pool, 1, &err), "pool", &err);
    kern_options device = {.pool = r.pool, .kv_dtype = DT_F32, .tokens_max = RIG_TOKENS};
    rig_check(ops->open(&r.dev, &device, &err), "device", &err);
    rig_check(model_file_open(&r.file, base, &err), base, &err);
    model_options options = {.ops = ops,
                             .dev = r.dev,
                             .tokens_max = RIG_TOKENS,
                             .rows_max = RIG_TOKENS,
                             .context_max = RIG_TOKENS};
    rig_check(model_open(&r.m, r.file, &options, &err), base, &err);
    uint32_t layers = model_get_spec(r.m)->layers;
    size_t count = (size_t)LORA_LINEARS * layers;
    lora_scratch scratch = {0};
    r.updates = mem_new(count + 1, sizeof *r.updates);
    r.linears = mem_new(count, sizeof(kern_lora *));
    if (!adapter) return r;
    rig_check(lora_file_open(&r.adapter, adapter, model_file_weights(r.file), &err), adapter, &err);
    rig_pack_layers(&r, layers, &scratch);
    rig_pack_rest(&r, &r.updates[count], &scratch);
    lora_scratch_free(&scratch);
    return r;
}

static inline void rig_close(lora_rig *r) {
    size_t count = (size_t)LORA_LINEARS * model_get_spec(r->m)->layers + 1;
    for (size_t i = 0; i < count; i++) {
        for (uint32_t p = 0; p < r->updates[i].count; p++)
            mem_unmap(r->updates[i].pieces[p], r->updates[i].bytes[p]);
        free(r->updates[i].pieces);
        free(r->updates[i].bytes);
    }
    for (size_t i = 0; i < LORA_SCORE; i++)
        r->ops->matrix_close(r->dev, r->wholes[i]);
    free(r->updates);
    free(r->linears);
    lora_file_close(r->adapter);
    model_close(r->m);
    model_file_close(r->file);
    r->ops->close(r->dev);
    pool_close(r->pool);
}

/* Of a row of logits. */
static inline uint32_t rig_vocab(const lora_rig *r) {
    return r->table.vocab ? r->table.vocab : model_get_spec(r->m)->vocab;
}

/* Logits of all tokens of a prompt, [count, vocab]; free() them. */
static inline float *rig_run(lora_rig *r, const int32_t *prompt, uint32_t count) {
    uint32_t positions[RIG_TOKENS], zeros[RIG_TOKENS] = {0}, tables[KV_GROUPS_MAX * RIG_PAGES];
    uint32_t zero = 0, vocab = rig_vocab(r);
    int32_t ids[RIG_TOKENS], own = 0;
    uint8_t seq_long = 0;
    esp_error err = {0};
    void *arena;
    uint32_t groups = model_page_groups(r->m)->count;
    size_t bytes = groups * RIG_PAGES * r->ops->frame_bytes(r->dev, model_kv_shape(r->m));
    assert_true(count <= RIG_TOKENS);
    rig_check(r->ops->alloc(r->dev, bytes, &arena, &err), "arena", &err);
    for (uint32_t i = 0; i < count; i++) {
        ids[i] = prompt[i];
        positions[i] = i;
    }
    for (uint32_t i = 0; i < groups * RIG_PAGES; i++)
        tables[i] = i;
    step_batch batch = {.token_count = count,
                        .seq_count = 1,
                        .row_count = count,
                        .group_count = groups,
                        .table_stride = RIG_PAGES,
                        .ids = ids,
                        .positions = positions,
                        .token_seq = zeros,
                        .seq_first = &zero,
                        .seq_tokens = &count,
                        .seq_cached = &zero,
                        .seq_adapter = &own,
                        .seq_long = &seq_long,
                        .tables = tables,
                        .rows = positions};
    const model_adapter *adapters[] = {&r->table};
    logits_row seen[RIG_TOKENS];
    rig_check(model_forward(r->m, &batch, adapters, arena, &err), "forward", &err);
    rig_check(model_logits(r->m, 0, count, seen, &err), "logits", &err);
    float *out = mem_new((size_t)count * vocab, sizeof *out);
    memcpy(out, seen[0].at, (size_t)count * vocab * sizeof *out);
    r->ops->release(r->dev, arena, bytes);
    return out;
}

#endif
