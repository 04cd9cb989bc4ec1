/* cuda_sample_host.c - kernels.h's sample and sampled: policies and their lists go to the device, the tokens come back,
 * logits never leave it.
 *
 *   sample, for each piece      sampled, a step later
 *   up   host -> rows           down: wait for it, tell
 *   pick -> picks
 *   the last piece: picks -> down, ids -> sampled
 *
 * Two steps may be on their way: each has pinned memory of its own, up and down. What lies on the device there is
 * once, as the stream keeps the steps in order; but for `sampled`, which the next step reads while it picks. */
// SPDX-License-Identifier: Apache-2.0
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_step.h"

enum {
    LISTS_BYTES_MAX = 64 << 20, /* that are reserved: of 64 rows of 200,000 tokens all */
    LIST_ALIGNMENT = 16
};

static_assert((int)CUDA_SAMPLE_TOP == (int)SAMPLE_LOGPROBS_MAX, "what the device tells");

/* ---- rooms ---- */

/* Of a row's pick: id, logprob, and the best. */
static const uint64_t PICK_BYTES =
    sizeof(int32_t) + sizeof(float) + CUDA_SAMPLE_TOP * (sizeof(int32_t) + sizeof(float));
static const uint64_t SHORT_PICK_BYTES = sizeof(int32_t) + sizeof(float);

/* Pinned memory. */
typedef struct pinned_room {
    void *at;
    uint64_t bytes;
} pinned_room;

/* A step on its way. */
typedef struct sample_flight {
    pinned_room up, down;
    uint64_t used;    /* of up */
    uint32_t rows;    /* of the step */
    bool logprobs;    /* some row wants them */
    cudaEvent_t done; /* its picks are in down */
} sample_flight;

typedef struct cuda_sampler {
    sample_flight flights[2];
    uint32_t launched, told; /* steps, counted; never more than two apart */
    uint32_t next;           /* the row that the next piece begins with */
} cuda_sampler;

void cuda_sample_open(kern_device *dev) {
    cuda_sampler *s = dev->sampler = mem_new(1, sizeof *s);
    for (uint32_t i = 0; i < 2; i++)
        (void)CUDA_OK(dev, cudaEventCreateWithFlags(&s->flights[i].done, cudaEventDisableTiming));
}

static void pinned_close(pinned_room *room) {
    if (room->at) (void)cudaFreeHost(room->at);
    *room = (pinned_room){0};
}

void cuda_sample_close(kern_device *dev) {
    cuda_sampler *s = dev->sampler;
    if (!s) return;
    for (uint32_t i = 0; i < 2; i++) {
        pinned_close(&s->flights[i].up);
        pinned_close(&s->flights[i].down);
        if (s->flights[i].done) (void)cudaEventDestroy(s->flights[i].done);
    }
    free(s);
    dev->sampler = NULL;
}

/* What it held is gone; the device is done with it. */
static bool pinned_need(kern_device *dev, pinned_room *room, uint64_t bytes) {
    if (bytes <= room->bytes) return true;
    if (!CUDA_OK(dev, cudaStreamSynchronize(dev->stream))) return false;
    uint64_t wish = cuda_with_spare(room->bytes, bytes);
    pinned_close(room);
    if (cudaHostAlloc(&room->at, wish, cudaHostAllocDefault) == cudaSuccess) {
        room->bytes = wish;
        return true;
    }
    (void)cudaGetLastError();
    if (!CUDA_OK(dev, cudaHostAlloc(&room->at, bytes, cudaHostAllocDefault))) return false;
    room->bytes = bytes;
    return true;
}

/* A place in `up` for the rows of a piece, which grow with their histories. */
static bool need_up(kern_device *dev, sample_flight *f, uint64_t bytes) {
    if (f->used + bytes <= f->up.bytes) return true;
    if (!CUDA_OK(dev, cudaStreamSynchronize(dev->stream))) return false;
    f->used = 0;
    return pinned_need(dev, &f->up, bytes);
}

/* Of a step of so many rows, `piece` of them at once, which take row_bytes. */
static bool take_rooms(kern_device *dev, uint32_t rows, uint32_t piece, uint32_t vocab,
                       uint64_t row_bytes) {
    return cuda_is_well(dev) &&
           cuda_need_apart(dev, &dev->sample_work, cuda_sample_workspace(piece, vocab)) &&
           cuda_need_apart(dev, &dev->sample_rows, row_bytes) &&
           cuda_need_apart(dev, &dev->sample_picks, rows * PICK_BYTES) &&
           cuda_need(dev, &dev->sampled, rows * sizeof(int32_t));
}

static uint64_t list_bytes(uint64_t count, size_t size) {
    return (count * size + LIST_ALIGNMENT - 1) / LIST_ALIGNMENT * LIST_ALIGNMENT;
}

/* All that the model sees as history and as many biases as there may be, of each sequence. */
static uint64_t lists_bytes_most(const kern_reserve *most) {
    uint64_t context = (uint64_t)most->table_stride * KV_PAGE_TOKENS;
    uint64_t rows = most->logit_rows < most->seqs ? most->logit_rows : most->seqs;
    uint64_t bytes = rows * (list_bytes(context, sizeof(int32_t)) +
                             list_bytes(SAMPLE_BIAS_MAX, sizeof(sample_bias)));
    return bytes < LISTS_BYTES_MAX ? bytes : LISTS_BYTES_MAX;
}

void cuda_reserve_sample(kern_device *dev, const kern_reserve *most) {
    uint64_t lists = lists_bytes_most(most);
    uint64_t piece_bytes = list_bytes(most->logit_rows, sizeof(cuda_sample_row)) + lists;
    uint64_t step_bytes = list_bytes(most->rows, sizeof(cuda_sample_row)) + lists;
    if (!take_rooms(dev, most->rows, most->logit_rows, most->vocab, piece_bytes)) return;
    for (uint32_t i = 0; i < 2; i++) {
        sample_flight *f = &dev->sampler->flights[i];
        (void)(pinned_need(dev, &f->up, step_bytes) &&
               pinned_need(dev, &f->down, most->rows * PICK_BYTES));
    }
}

/* ---- there: rows, then their lists ---- */

static bool has_penalties(const sample_policy *p) {
    return (p->repetition_penalty != 0 && p->repetition_penalty != 1) || p->presence_penalty != 0 ||
           p->frequency_penalty != 0;
}

static uint64_t history_bytes(const sample_row *row) {
    return has_penalties(row->policy) ? list_bytes(row->history.count, sizeof(int32_t)) : 0;
}
static uint64_t bias_bytes(const sample_row *row) {
    return list_bytes(row->policy->bias_count, sizeof(sample_bias));
}

static uint64_t rows_bytes(const kern_sample *op) {
    uint64_t bytes = list_bytes(op->row_count, sizeof(cuda_sample_row));
    for (uint32_t r = 0; r < op->row_count; r++)
        bytes += history_bytes(&op->rows[r]) + bias_bytes(&op->rows[r]);
    return bytes;
}

/* A piece being written: `used` bytes of what goes from one place to the other. */
typedef struct piece_writer {
    char *up, *there;
    uint64_t used;
} piece_writer;

/* Copies a list to the host's part of the room; where it will lie on the device. */
static const void *put_list(piece_writer *w, const void *from, size_t count, uint64_t bytes) {
    if (bytes == 0) return NULL;
    memcpy(w->up + w->used, from, count);
    const void *there = w->there + w->used;
    w->used += bytes;
    return there;
}

/* The token that is not there yet is named by its row. */
static const int32_t *put_history(piece_writer *w, const sample_row *row) {
    const sample_history *h = &row->history;
    uint64_t bytes = history_bytes(row), at = w->used;
    uint32_t known = h->count - (h->awaited > 0);
    const int32_t *there = put_list(w, h->tokens, known * sizeof *h->tokens, bytes);
    if (there && h->awaited) ((int32_t *)(void *)(w->up + at))[known] = -(int32_t)h->awaited;
    return there;
}

static cuda_sample_row row_of(piece_writer *w, const sample_row *row) {
    const sample_policy *p = row->policy;
    const sample_history *h = &row->history;
    return (cuda_sample_row){
        .temperature = p->temperature,
        .top_k = p->top_k,
        .top_p = p->top_p,
        .min_p = p->min_p,
        .repetition_penalty = p->repetition_penalty,
        .presence_penalty = p->presence_penalty,
        .frequency_penalty = p->frequency_penalty,
        .position = h->count,
        .seed = p->seed,
        .history = put_history(w, row),
        .prompt_count = h->prompt_count,
        .history_count = h->count,
        .bias = put_list(w, p->bias, p->bias_count * sizeof *p->bias, bias_bytes(row)),
        .bias_count = p->bias_count,
        .top_logprobs = p->top_logprobs,
        .logprobs = p->logprobs};
}

static void put_rows(kern_device *dev, const sample_flight *f, const kern_sample *op) {
    piece_writer w = {.up = (char *)f->up.at + f->used,
                      .there = dev->sample_rows.at,
                      .used = list_bytes(op->row_count, sizeof(cuda_sample_row))};
    cuda_sample_row *rows = (void *)w.up;
    for (uint32_t r = 0; r < op->row_count; r++)
        rows[r] = row_of(&w, &op->rows[r]);
}

/* ---- and back: all ids, all logprobs, all ids of the best, all their logprobs ---- */

/* Of a step's picks. */
typedef struct pick_layout {
    uint64_t logprob, top_ids, top_logprobs; /* where they begin, in bytes */
} pick_layout;

static pick_layout picks_of(uint64_t rows) {
    return (pick_layout){.logprob = rows * sizeof(int32_t),
                         .top_ids = rows * SHORT_PICK_BYTES,
                         .top_logprobs =
                             rows * (SHORT_PICK_BYTES + CUDA_SAMPLE_TOP * sizeof(int32_t))};
}

static cuda_sample_args args_of(const kern_device *dev, const kern_sample *op) {
    char *picks = dev->sample_picks.at;
    const pick_layout at = picks_of(op->step_rows);
    const uint64_t top = (uint64_t)op->first * CUDA_SAMPLE_TOP;
    return (cuda_sample_args){.logits = op->logits,
                              .row_count = op->row_count,
                              .vocab = op->vocab,
                              .row = dev->sample_rows.at,
                              .sampled = dev->sampled.at,
                              .work = dev->sample_work.at,
                              .ids = (int32_t *)(void *)picks + op->first,
                              .logprob = (float *)(void *)(picks + at.logprob) + op->first,
                              .top_ids = (int32_t *)(void *)(picks + at.top_ids) + top,
                              .top_logprobs = (float *)(void *)(picks + at.top_logprobs) + top};
}

/* Row r of the step. */
static void tell(const sample_flight *f, uint32_t r, sample_row *row) {
    const char *down = f->down.at;
    const pick_layout at = picks_of(f->rows);
    const int32_t id = ((const int32_t *)(const void *)down)[r];
    row->code = ESP_OK;
    row->error = (esp_error){0};
    row->result = (sample_result){.id = id};
    if (id < 0)
        row->code = esp_fail(&row->error, ESP_INTERNAL, SAMPLE_NOTHING_FINITE, row->history.count);
    if (id < 0 || !f->logprobs) return;
    const uint64_t top = (uint64_t)r * CUDA_SAMPLE_TOP;
    const int32_t *ids = (const int32_t *)(const void *)(down + at.top_ids) + top;
    const float *logprobs = (const float *)(const void *)(down + at.top_logprobs) + top;
    row->result.logprob = ((const float *)(const void *)(down + at.logprob))[r];
    for (uint32_t i = 0; i < CUDA_SAMPLE_TOP && ids[i] >= 0; i++)
        row->result.top[row->result.top_count++] =
            (sample_logprob){.id = ids[i], .logprob = logprobs[i]};
}

/* ---- the ops ---- */

static bool wants_digest(const kern_sample *op) {
    for (uint32_t r = 0; r < op->row_count; r++)
        if (op->rows[r].digest) return true;
    return false;
}

static bool wants_logprobs(const kern_sample *op) {
    for (uint32_t r = 0; r < op->row_count; r++)
        if (op->rows[r].policy->logprobs || op->rows[r].policy->top_logprobs) return true;
    return false;
}

static bool copied(kern_device *dev, void *to, const void *from, uint64_t bytes,
                   enum cudaMemcpyKind kind) {
    return CUDA_OK(dev, cudaMemcpyAsync(to, from, bytes, kind, dev->stream));
}

/* The piece's rows go to the device and are picked. */
static bool pick(kern_device *dev, sample_flight *f, const kern_sample *op) {
    uint64_t bytes = rows_bytes(op);
    if (!take_rooms(dev, op->step_rows, op->row_count, op->vocab, bytes)) return false;
    if (!need_up(dev, f, bytes)) return false;
    put_rows(dev, f, op);
    const cuda_sample_args args = args_of(dev, op);
    bool well = copied(dev, dev->sample_rows.at, (char *)f->up.at + f->used, bytes,
                       cudaMemcpyHostToDevice) &&
                CUDA_OK(dev, cuda_sample(&args, dev->stream));
    f->used += bytes;
    return well;
}

/* All rows are picked. */
static bool send_down(kern_device *dev, sample_flight *f) {
    uint64_t bytes = f->rows * (f->logprobs ? PICK_BYTES : SHORT_PICK_BYTES);
    return pinned_need(dev, &f->down, f->rows * PICK_BYTES) &&
           copied(dev, f->down.at, dev->sample_picks.at, bytes, cudaMemcpyDeviceToHost) &&
           CUDA_OK(dev, cudaEventRecord(f->done, dev->stream)) &&
           copied(dev, dev->sampled.at, dev->sample_picks.at, f->rows * sizeof(int32_t),
                  cudaMemcpyDeviceToDevice);
}

bool cuda_run_sample(kern_device *dev, const kern_sample *op) {
    cuda_sampler *s = dev->sampler;
    ESP_ASSERT(!dev->step->batch && op->first == s->next && s->launched - s->told < 2);
    ESP_ASSERT(op->first + op->row_count <= op->step_rows);
    if (op->row_count == 0 || wants_digest(op)) return false;
    cuda_use(dev);
    sample_flight *f = &s->flights[s->launched % 2];
    if (op->first == 0) {
        f->used = 0;
        f->rows = op->step_rows;
        f->logprobs = false;
    }
    ESP_ASSERT(f->rows == op->step_rows);
    f->logprobs |= wants_logprobs(op);
    if (!pick(dev, f, op)) return false;
    s->next += op->row_count;
    if (s->next < f->rows) return true;
    s->next = 0;
    s->launched++;
    return send_down(dev, f);
}

bool cuda_run_sampled(kern_device *dev, const kern_sample *op) {
    cuda_sampler *s = dev->sampler;
    sample_flight *f = &s->flights[s->told % 2];
    ESP_ASSERT(s->told != s->launched && f->rows == op->step_rows);
    ESP_ASSERT(op->first + op->row_count <= op->step_rows);
    cuda_use(dev);
    if (!cuda_is_well(dev) || !CUDA_OK(dev, cudaEventSynchronize(f->done))) return false;
    for (uint32_t r = 0; r < op->row_count; r++)
        tell(f, op->first + r, &op->rows[r]);
    if (op->first + op->row_count == f->rows) s->told++;
    return true;
}
