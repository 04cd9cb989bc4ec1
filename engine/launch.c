/* launch.c - stages 2 and 3 of a step: the plan becomes a batch, the device gets it and what is to be done with its rows.
 *
 * A device that runs beside the host may get the next step before this one is collected. The sequences then are
 * one token longer than the host knows: the batch names that token by its row in this step, and the step's
 * work for a sequence that turns out to have ended with it is thrown away. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/engine_parts.h"

/* ---- stage 2: plan -> batch ---- */

/* Token `index` of a sequence; the one that no one knows yet by its row in the step before. */
static int32_t token_at(const request *r, uint32_t index) {
    if (index < r->prompt_count + r->output_count) return r->tokens[index];
    ESP_ASSERT(r->ahead == 1 && index == r->prompt_count + r->output_count);
    return -(int32_t)r->awaited;
}

static void add_work(engine *e, step_flight *f, uint32_t index, int64_t now_us) {
    step_batch *b = &e->batch;
    const sched_work *work = &f->works[b->seq_count];
    request *r = work->owner;
    uint32_t s = b->seq_count++;
    if (!r->scheduled_us) {
        r->scheduled_us = now_us;
        engine_count(&e->counters.prompt_tokens, r->prompt_count);
    }
    b->seq_first[s] = b->token_count;
    b->seq_tokens[s] = work->count;
    b->seq_cached[s] = work->first;
    b->seq_adapter[s] = e->order.slots[index];
    b->seq_long[s] = work->outgrown;
    for (uint32_t i = 0; i < work->count; i++, b->token_count++) {
        b->ids[b->token_count] = token_at(r, work->first + i);
        b->positions[b->token_count] = work->first + i;
        b->token_seq[b->token_count] = s;
    }
    if (work->row) {
        f->row_work[b->row_count] = s;
        b->rows[b->row_count++] = b->token_count - 1;
    }
}

static void fill_tables(engine *e, const sched_plan *plan) {
    step_batch *b = &e->batch;
    const kv_cache *kv = sched_kv(e->sched);
    for (uint32_t g = 0; g < b->group_count; g++)
        for (uint32_t s = 0; s < plan->work_count; s++) {
            kv_list list = kv_pages(kv, plan->work[e->order.order[s]].table, g);
            /* Kernels find table s of group g at (g * seq_count + s) * table_stride. */
            uint32_t *table = b->tables + ((size_t)g * plan->work_count + s) * b->table_stride;
            /* What lies behind a window is not copied, but for one KV_PAGE_NONE: who reads too far
             * back reads far outside the arena. */
            uint32_t first = list.begin - (list.begin > 0);
            memcpy(table + first, list.pages + first, (list.end - first) * sizeof *table);
        }
}

/* Sequences of one adapter side by side, the base's first; and what forward reads of each adapter. */
static void order_works(engine *e, const sched_plan *plan) {
    adapter_order_begin(&e->order);
    for (uint32_t i = 0; i < plan->work_count; i++) {
        const request *r = plan->work[i].owner;
        adapter_order_add(&e->order, i, r->adapter);
    }
    adapter_order_sort(&e->order, plan->work_count);
    e->step_adapter_count = e->order.slot_count;
    for (uint32_t i = 0; i < e->order.slot_count; i++) {
        e->step_adapters[i] = adapter_resident(e->order.adapters[i]);
        e->step_ids[i] = adapter_rank_id(e->order.adapters[i]);
    }
}

static void build_batch(engine *e, step_flight *f, const sched_plan *plan, int64_t now_us) {
    step_batch *b = &e->batch;
    b->token_count = b->seq_count = b->row_count = 0;
    order_works(e, plan);
    for (uint32_t s = 0; s < plan->work_count; s++) {
        f->works[s] = plan->work[e->order.order[s]];
        add_work(e, f, e->order.order[s], now_us);
    }
    fill_tables(e, plan);
    f->work_count = b->seq_count;
    f->row_count = b->row_count;
}

/* ---- stage 3: to the device ---- */

static request *owner_of_row(const step_flight *f, uint32_t row) {
    return f->works[f->row_work[row]].owner;
}

/* Digests are made of logits, and classifiers' logits are no rows to pick from: both are the host's. */
static bool device_picks(const engine *e, const step_flight *f) {
    if (!e->ops->beside || engine_embeds(e)) return false;
    for (uint32_t row = 0; row < f->row_count; row++) {
        const request *r = owner_of_row(f, row);
        if (r->row_digests || engine_is_classifier(r)) return false;
    }
    return f->row_count > 0;
}

/* For the token behind those that are known or in flight. */
static void ask_for_token(sample_row *row, const request *r) {
    ESP_ASSERT(r->ahead <= 1 && !r->row_digests);
    *row = (sample_row){.policy = &r->policy,
                        .history = {.tokens = r->tokens,
                                    .prompt_count = r->prompt_count,
                                    .count = r->prompt_count + r->output_count + r->ahead,
                                    .awaited = r->ahead ? r->awaited : 0}};
}

/* The device picks the rows of a step, at most MODEL_LOGITS_ROWS at once. */
static esp_code pick(engine *e, const step_flight *f, esp_error *err) {
    sample_row *rows = sample_rows_at(e->sampling);
    esp_code code = ESP_OK;
    for (uint32_t first = 0; first < f->row_count && code == ESP_OK; first += MODEL_LOGITS_ROWS) {
        uint32_t left = f->row_count - first;
        uint32_t count = left < MODEL_LOGITS_ROWS ? left : MODEL_LOGITS_ROWS;
        for (uint32_t i = 0; i < count; i++)
            ask_for_token(&rows[i], owner_of_row(f, first + i));
        code = model_pick(e->model, first, count, rows, err);
    }
    return code;
}

/* Its sequences have one more token each, whichever that will be; unless it is their last one. */
static void count_ahead(engine *e, const step_flight *f) {
    for (uint32_t row = 0; row < f->row_count; row++) {
        request *r = owner_of_row(f, row);
        r->ahead++;
        r->awaited = row + 1;
        if (r->output_count + r->ahead < r->output_max)
            sched_append(e->sched, f->works[f->row_work[row]].seq);
    }
}

esp_code engine_launch(engine *e, const sched_plan *plan, int64_t now_us, esp_error *err) {
    ESP_ASSERT(e->flight_count < SCHED_FLIGHTS_MAX);
    step_flight *f = &e->flights[(e->flight_first + e->flight_count) % SCHED_FLIGHTS_MAX];
    build_batch(e, f, plan, now_us);
    if (e->comm) ranks_send(e, &e->batch);
    esp_code code = model_forward(e->model, &e->batch, e->step_adapters, e->arena, err);
    if (code != ESP_OK) return code;
    engine_count(&e->counters.steps_ahead, e->flight_count);
    sched_launched(e->sched);
    e->flight_count++;
    f->picked = device_picks(e, f);
    if (f->picked) code = pick(e, f, err);
    if (code == ESP_OK) count_ahead(e, f);
    return code;
}

void engine_take_flights(engine *e) {
    for (uint32_t i = 0; i < SCHED_FLIGHTS_MAX; i++) {
        e->flights[i].works = mem_new(e->config.max_seqs, sizeof *e->flights[i].works);
        e->flights[i].row_work = mem_new(e->config.max_seqs, sizeof *e->flights[i].row_work);
    }
}

void engine_give_flights(engine *e) {
    for (uint32_t i = 0; i < SCHED_FLIGHTS_MAX; i++) {
        free(e->flights[i].works);
        free(e->flights[i].row_work);
    }
}
