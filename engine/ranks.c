/* ranks.c - the other ranks' threads, and the way of a step batch to them. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/ranks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/comm_local.h"
#include "cluster/comm_nodes.h"
#include "engine/base/mem.h"
#include "engine/engine_parts.h"

/* One other rank. Its engine stays until all have ended: who is late may still read its memory. */
typedef struct rank_thread {
    model_config config;
    engine *e;
    pthread_t thread;
    bool started;
} rank_thread;

struct ranks {
    rank_thread
        of[COMM_RANKS_MAX]; /* [size] of this process; 0 is the caller's, without a thread */
    comm *comms[COMM_RANKS_MAX];
    uint32_t size;
};

/* ---- threads ---- */

static void *run(void *arg) {
    rank_thread *r = arg;
    esp_error err = {0};
    esp_code code = engine_open(&r->e, &r->config, NULL, NULL, &err);
    if (code == ESP_OK) code = engine_follow(r->e, &err);
    if (code != ESP_OK) comm_abort(r->config.comm, &err);
    return NULL;
}

static esp_code start(ranks *r, uint32_t index, const model_config *config, esp_error *err) {
    rank_thread *t = &r->of[index];
    uint32_t rank = r->comms[index]->rank;
    char name[16];
    t->config = *config;
    t->config.comm = r->comms[index];
    t->config.local_ranks = 0;
    t->config.closes_comm = false;
    t->config.op_timer = NULL; /* times rank 0 */
    t->config.digest = false;
    int failed = pthread_create(&t->thread, NULL, run, t);
    if (failed)
        return esp_fail_field(err, ESP_EXHAUSTED, "--tp", "rank %u cannot start its thread: %s",
                              rank, strerror(failed));
    snprintf(name, sizeof name, "rank-%u", (unsigned)(rank & 0xffu));
    pthread_setname_np(t->thread, name);
    t->started = true;
    return ESP_OK;
}

esp_code ranks_start(ranks **out, const model_config *config, uint32_t here, comm **own,
                     esp_error *err) {
    ESP_ASSERT(here > 1 && config->tp % here == 0 && config->tp <= COMM_RANKS_MAX);
    ranks *r = mem_new(1, sizeof *r);
    r->size = here;
    if (config->comm)
        comm_nodes_open(r->comms, config->comm, here);
    else
        comm_local_open(r->comms, here);
    esp_code code = ESP_OK;
    for (uint32_t rank = 1; rank < r->size && code == ESP_OK; rank++)
        code = start(r, rank, config, err);
    if (code != ESP_OK) {
        esp_error why = {.code = code, .message = "a rank could not be started"};
        comm_abort(r->comms[0], &why);
        ranks_close(r);
        return code;
    }
    *own = r->comms[0];
    *out = r;
    return ESP_OK;
}

void ranks_close(ranks *r) {
    if (!r) return;
    for (uint32_t rank = 1; rank < r->size; rank++)
        if (r->of[rank].started) pthread_join(r->of[rank].thread, NULL);
    for (uint32_t rank = 1; rank < r->size; rank++)
        engine_close(r->of[rank].e);
    for (uint32_t rank = 0; rank < r->size; rank++)
        comm_close(r->comms[rank]);
    free(r);
}

/* ---- steps, on rank 0 ---- */

void ranks_send(engine *e, const step_batch *b) {
    step_header h = step_header_of(b, e->step_adapter_count);
    step_message_write(b, e->step_ids, &h, e->message);
    comm_broadcast(e->comm, &h, sizeof h);
    comm_broadcast(e->comm, e->message, step_message_bytes(&h));
}

void ranks_send_adapter(engine *e) {
    step_header h = {.kind = STEP_ADAPTER};
    comm_broadcast(e->comm, &h, sizeof h);
}

void ranks_stop(engine *e) {
    step_header h = {.kind = STEP_STOP};
    comm_broadcast(e->comm, &h, sizeof h);
}

/* ---- steps, on the others ---- */

/* The largest batch there can be. */
static step_header most_of(const engine *e) {
    return (step_header){.token_count = e->config.step_tokens,
                         .seq_count = e->config.max_seqs,
                         .row_count = e->rows_max,
                         .group_count = e->batch.group_count,
                         .table_stride = e->batch.table_stride,
                         .adapter_count = e->config.max_seqs};
}

/* The collectives of rank 0's step: a forward pass, then the logits of each piece of its rows. */
static esp_code compute(engine *e, const step_batch *b, esp_error *err) {
    esp_code code = model_forward(e->model, b, e->step_adapters, e->arena, err);
    if (engine_embeds(e)) return code;
    for (uint32_t first = 0; first < b->row_count && code == ESP_OK; first += MODEL_LOGITS_ROWS) {
        uint32_t left = b->row_count - first;
        logits_row unseen[MODEL_LOGITS_ROWS];
        code = model_logits(e->model, first, left < MODEL_LOGITS_ROWS ? left : MODEL_LOGITS_ROWS,
                            unseen, err);
    }
    return code;
}

/* Waits for work as long as it takes. */
static esp_code receive(engine *e, step_header *h, esp_error *err) {
    e->comm->patience_us = COMM_FOR_EVER;
    comm_broadcast(e->comm, h, sizeof *h);
    e->comm->patience_us = engine_rank_patience_us(e);
    if (h->kind == STEP_STOP) return ESP_OK; /* rank 0 may be gone already, which is no failure */
    return comm_check(e->comm, err);
}

/* What forward reads of each adapter of a batch. */
static esp_code find_adapters(engine *e, const step_batch *b, const uint32_t *ids, uint32_t count,
                              esp_error *err) {
    bool known = true;
    for (uint32_t i = 0; i < count; i++) {
        e->step_adapters[i] = e->followed ? adapter_follower_find(e->followed, ids[i]) : NULL;
        known &= e->step_adapters[i] != NULL;
    }
    for (uint32_t s = 0; s < b->seq_count; s++)
        known &= b->seq_adapter[s] == BATCH_NO_ADAPTER ||
                 (b->seq_adapter[s] >= 0 && (uint32_t)b->seq_adapter[s] < count);
    if (known) return ESP_OK;
    return esp_fail(err, ESP_INTERNAL,
                    "rank %u was sent a step through an adapter that it does not have; start all "
                    "ranks with the same options",
                    e->comm->rank);
}

static esp_code run_step(engine *e, const step_header *h, esp_error *err) {
    step_header most = most_of(e);
    const uint32_t *ids;
    if (!step_header_fits(h, &most))
        return esp_fail(err, ESP_INTERNAL,
                        "rank %u was sent a step of %u tokens that it has no room for; start all "
                        "ranks with the same options",
                        e->comm->rank, h->token_count);
    comm_broadcast(e->comm, e->message, step_message_bytes(h));
    esp_code code = comm_check(e->comm, err);
    if (code != ESP_OK) return code;
    step_batch batch = step_message_read(h, e->message, &ids);
    code = find_adapters(e, &batch, ids, h->adapter_count, err);
    return code == ESP_OK ? compute(e, &batch, err) : code;
}

static esp_code follow(engine *e, esp_error *err) {
    for (;;) {
        step_header h = {0};
        esp_code code = receive(e, &h, err);
        if (code != ESP_OK || h.kind == STEP_STOP) return code;
        code = h.kind == STEP_ADAPTER && e->followed ? adapter_follower_take(e->followed, err)
                                                     : run_step(e, &h, err);
        if (code != ESP_OK) return code;
    }
}

esp_code engine_follow(engine *e, esp_error *err) {
    ESP_ASSERT(e->comm && e->comm->rank > 0);
    esp_error why = {0};
    pool_settle(e->pool);
    esp_code code = follow(e, &why);
    if (code == ESP_OK) return ESP_OK;
    comm_abort(e->comm, &why);
    if (err) *err = why;
    return code;
}

/* ---- both ---- */

void ranks_take_message(engine *e) {
    step_header most = most_of(e);
    e->message = mem_new(step_message_bytes(&most), 1);
}
