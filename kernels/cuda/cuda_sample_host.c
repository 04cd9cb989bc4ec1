/* cuda_sample_host.c - kernels.h's sample: policies and their lists go to the device in one copy, and the tokens come
 * back in another, so logits never leave it. */
// SPDX-License-Identifier: Apache-2.0
#include <assert.h>
#include <string.h>

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

static bool need_host(kern_device *dev, uint64_t bytes) {
    if (bytes <= dev->sample_host_bytes) return true;
    bytes = cuda_with_spare(dev->sample_host_bytes, bytes);
    cuda_sample_close(dev);
    if (!CUDA_OK(dev, cudaHostAlloc(&dev->sample_host, bytes, cudaHostAllocDefault))) return false;
    dev->sample_host_bytes = bytes;
    return true;
}

void cuda_sample_close(kern_device *dev) {
    if (dev->sample_host) (void)cudaFreeHost(dev->sample_host);
    dev->sample_host = NULL;
    dev->sample_host_bytes = 0;
}

static bool take_rooms(kern_device *dev, uint32_t rows, uint32_t vocab, uint64_t row_bytes) {
    uint64_t picks = rows * PICK_BYTES;
    return cuda_is_well(dev) && need_host(dev, row_bytes > picks ? row_bytes : picks) &&
           cuda_need_apart(dev, &dev->sample_work, cuda_sample_workspace(rows, vocab)) &&
           cuda_need_apart(dev, &dev->sample_rows, row_bytes) &&
           cuda_need_apart(dev, &dev->sample_picks, picks);
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
    uint64_t rows_bytes = list_bytes(most->logit_rows, sizeof(cuda_sample_row));
    (void)take_rooms(dev, most->logit_rows, most->vocab, rows_bytes + lists_bytes_most(most));
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

/* Copies a list to the host's part of the room; where it will lie on the device. */
static const void *put_list(kern_device *dev, uint64_t *used, const void *from, size_t count,
                            uint64_t bytes) {
    if (bytes == 0) return NULL;
    memcpy((char *)dev->sample_host + *used, from, count);
    const void *there = (const char *)dev->sample_rows.at + *used;
    *used += bytes;
    return there;
}

static cuda_sample_row row_of(kern_device *dev, const sample_row *row, uint64_t *used) {
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
        .history = put_list(dev, used, h->tokens, h->count * sizeof *h->tokens, history_bytes(row)),
        .prompt_count = h->prompt_count,
        .history_count = h->count,
        .bias = put_list(dev, used, p->bias, p->bias_count * sizeof *p->bias, bias_bytes(row)),
        .bias_count = p->bias_count,
        .top_logprobs = p->top_logprobs,
        .logprobs = p->logprobs};
}

static void put_rows(kern_device *dev, const kern_sample *op) {
    cuda_sample_row *rows = dev->sample_host;
    uint64_t used = list_bytes(op->row_count, sizeof *rows);
    for (uint32_t r = 0; r < op->row_count; r++)
        rows[r] = row_of(dev, &op->rows[r], &used);
}

/* ---- and back: all ids, all logprobs, all ids of the best, all their logprobs ---- */

static cuda_sample_args args_of(const kern_device *dev, const kern_sample *op) {
    cuda_sample_args args = {.logits = op->logits,
                             .row_count = op->row_count,
                             .vocab = op->vocab,
                             .row = dev->sample_rows.at,
                             .work = dev->sample_work.at,
                             .ids = dev->sample_picks.at};
    args.logprob = (float *)(args.ids + op->row_count);
    args.top_ids = (int32_t *)(args.logprob + op->row_count);
    args.top_logprobs = (float *)(args.top_ids + op->row_count * CUDA_SAMPLE_TOP);
    return args;
}

static void tell(const kern_device *dev, const kern_sample *op, uint32_t r) {
    const uint32_t rows = op->row_count;
    const int32_t *ids = dev->sample_host;
    const float *logprob = (const float *)(ids + rows);
    const int32_t *top_ids = (const int32_t *)(logprob + rows) + r * CUDA_SAMPLE_TOP;
    const float *top_logprobs =
        (const float *)(logprob + rows) + (rows + r) * (size_t)CUDA_SAMPLE_TOP;
    sample_row *row = &op->rows[r];
    row->code = ESP_OK;
    row->error = (esp_error){0};
    row->result = (sample_result){.id = ids[r], .logprob = logprob[r]};
    if (ids[r] < 0) {
        row->code = esp_fail(&row->error, ESP_INTERNAL, SAMPLE_NOTHING_FINITE, row->history.count);
        return;
    }
    for (uint32_t i = 0; i < CUDA_SAMPLE_TOP && top_ids[i] >= 0; i++)
        row->result.top[row->result.top_count++] =
            (sample_logprob){.id = top_ids[i], .logprob = top_logprobs[i]};
}

/* ---- the op ---- */

static bool wants_digest(const kern_sample *op) {
    for (uint32_t r = 0; r < op->row_count; r++)
        if (op->rows[r].digest) return true;
    return false;
}

static bool copied(kern_device *dev, void *to, const void *from, uint64_t bytes,
                   enum cudaMemcpyKind kind) {
    return CUDA_OK(dev, cudaMemcpyAsync(to, from, bytes, kind, dev->stream));
}

bool cuda_run_sample(kern_device *dev, const kern_sample *op) {
    ESP_ASSERT(!dev->step->batch); /* it waits */
    if (op->row_count == 0 || wants_digest(op)) return false;
    cuda_use(dev);
    uint64_t bytes = rows_bytes(op);
    if (!take_rooms(dev, op->row_count, op->vocab, bytes)) return false;
    put_rows(dev, op);
    const cuda_sample_args args = args_of(dev, op);
    bool well = copied(dev, dev->sample_rows.at, dev->sample_host, bytes, cudaMemcpyHostToDevice) &&
                CUDA_OK(dev, cuda_sample(&args, dev->stream)) &&
                copied(dev, dev->sample_host, dev->sample_picks.at, op->row_count * PICK_BYTES,
                       cudaMemcpyDeviceToHost) &&
                CUDA_OK(dev, cudaStreamSynchronize(dev->stream));
    for (uint32_t r = 0; well && r < op->row_count; r++)
        tell(dev, op, r);
    return well;
}
