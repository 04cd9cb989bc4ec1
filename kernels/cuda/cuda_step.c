/* cuda_step.c - see cuda_step.h. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_step.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cuda/cuda_replay.h"

/* ---- staging memory ---- */

static void drop_memory(cuda_step *s) {
    for (uint32_t i = 0; i < 2; i++)
        if (s->host[i]) (void)cudaFreeHost(s->host[i]);
    if (s->there) (void)cudaFree(s->there);
    s->host[0] = s->host[1] = s->there = NULL;
    s->bytes = 0;
}

/* What was staged is staged again by who asked for more. */
static bool grow(kern_device *dev, uint64_t bytes) {
    cuda_step *s = dev->step;
    if (bytes <= s->bytes) return true;
    if (!cuda_is_well(dev)) return false;
    replay_forget(dev);
    (void)CUDA_OK(dev, cudaStreamSynchronize(dev->stream));
    drop_memory(s);
    for (uint32_t i = 0; i < 2; i++)
        if (!CUDA_OK(dev, cudaHostAlloc((void **)&s->host[i], bytes, cudaHostAllocDefault)))
            return false;
    if (!CUDA_OK(dev, cudaMalloc((void **)&s->there, bytes))) return false;
    s->bytes = bytes;
    return true;
}

void step_open(kern_device *dev) {
    cuda_step *s = dev->step = mem_new(1, sizeof *s);
    for (uint32_t i = 0; i < 2; i++)
        (void)CUDA_OK(dev, cudaEventCreateWithFlags(&s->done[i], cudaEventDisableTiming));
    (void)grow(dev, STEP_AREA_BYTES);
}

void step_close(kern_device *dev) {
    if (!dev->step) return;
    drop_memory(dev->step);
    for (uint32_t i = 0; i < 2; i++)
        if (dev->step->done[i]) (void)cudaEventDestroy(dev->step->done[i]);
    free(dev->step);
    dev->step = NULL;
}

/* ---- where the batch lies ---- */

/* The counts of a launch. */
typedef struct step_shape {
    uint32_t tokens, seqs, rows, groups, stride;
} step_shape;

typedef struct step_layout {
    uint64_t ids, positions, token_seq, seq_first, seq_tokens, seq_cached, seq_long, rows, tables;
    uint64_t end;
} step_layout;

static uint64_t take(uint64_t *at, uint64_t bytes) {
    uint64_t from = *at;
    *at = (from + bytes + STEP_ALIGNMENT - 1) / STEP_ALIGNMENT * STEP_ALIGNMENT;
    return from;
}

static step_layout lay_out(const step_shape *n) {
    step_layout l = {0};
    const uint64_t word = sizeof(uint32_t);
    l.ids = take(&l.end, n->tokens * word);
    l.positions = take(&l.end, n->tokens * word);
    l.token_seq = take(&l.end, n->tokens * word);
    l.seq_first = take(&l.end, n->seqs * word);
    l.seq_tokens = take(&l.end, n->seqs * word);
    l.seq_cached = take(&l.end, n->seqs * word);
    l.seq_long = take(&l.end, n->seqs);
    l.rows = take(&l.end, n->rows * word);
    l.tables = take(&l.end, word * n->groups * n->seqs * n->stride);
    return l;
}

static step_shape shape_of(const step_batch *b, uint32_t padded) {
    return (step_shape){.tokens = padded ? padded : b->token_count,
                        .seqs = padded ? padded : b->seq_count,
                        .rows = padded ? padded : b->row_count,
                        .groups = b->group_count,
                        .stride = b->table_stride};
}

static uint64_t plan_bytes(const cuda_step *s, uint32_t tokens) {
    uint64_t end = 0;
    for (uint32_t i = 0; i < s->plan_count; i++)
        (void)take(&end, cuda_attention_plan_max(&s->plans[i].kind, tokens));
    return end;
}

void step_reserve(kern_device *dev, const kern_reserve *most) {
    uint32_t padded = replay_size(most->seqs);
    const step_shape n = {.tokens = most->tokens > padded ? most->tokens : padded,
                          .seqs = padded,
                          .rows = most->rows > padded ? most->rows : padded,
                          .groups = most->groups,
                          .stride = most->table_stride};
    /* One kind with a window, one without; their plans depend on the heads alone. */
    const cuda_attention_kind kind = {.heads = most->heads,
                                      .kv_heads = most->kv_heads,
                                      .head_dim = most->head_dim,
                                      .work_bytes = CUDA_ATTENTION_WORK_BYTES};
    uint64_t plans = 2 * (cuda_attention_plan_max(&kind, most->tokens) + STEP_ALIGNMENT);
    (void)grow(dev, lay_out(&n).end + plans + STEP_AREA_BYTES);
}

/* ---- staging a batch ---- */

static void put(cuda_step *s, uint64_t offset, const void *from, size_t bytes) {
    if (bytes) memcpy(s->host[s->turn] + offset, from, bytes);
}

static void fill(cuda_step *s, uint64_t offset, uint32_t first, uint32_t end, uint32_t value) {
    uint32_t *at = (uint32_t *)(void *)(s->host[s->turn] + offset);
    for (uint32_t i = first; i < end; i++)
        at[i] = value;
}

/* Tokens, sequences and rows that are none: nobody's, and without any effect. */
static void put_padding(cuda_step *s, const step_layout *l, const step_batch *b, uint32_t padded) {
    uint32_t from = b->token_count;
    fill(s, l->ids, from, padded, 0);
    fill(s, l->positions, from, padded, 0);
    fill(s, l->token_seq, from, padded, CUDA_NO_SEQUENCE);
    fill(s, l->seq_first, from, padded, 0);
    fill(s, l->seq_tokens, from, padded, 0);
    fill(s, l->seq_cached, from, padded, 0);
    fill(s, l->rows, from, padded, 0);
    memset(s->host[s->turn] + l->seq_long + from, 0, padded - from);
}

static void put_tables(cuda_step *s, uint64_t offset, const step_batch *b, const step_shape *n) {
    size_t bytes = (size_t)b->seq_count * b->table_stride * sizeof *b->tables;
    for (uint32_t g = 0; g < b->group_count; g++)
        put(s, offset + sizeof *b->tables * ((size_t)g * n->seqs * n->stride),
            b->tables + (size_t)g * b->seq_count * b->table_stride, bytes);
}

static void put_batch(cuda_step *s, const step_layout *l, const step_batch *b,
                      const step_shape *n) {
    const size_t t = b->token_count * sizeof(uint32_t), q = b->seq_count * sizeof(uint32_t);
    if (b->ids)
        put(s, l->ids, b->ids, t);
    else /* of an op alone, which reads none */
        fill(s, l->ids, 0, b->token_count, 0);
    put(s, l->positions, b->positions, t);
    put(s, l->token_seq, b->token_seq, t);
    put(s, l->seq_first, b->seq_first, q);
    put(s, l->seq_tokens, b->seq_tokens, q);
    put(s, l->seq_cached, b->seq_cached, q);
    if (b->seq_long)
        put(s, l->seq_long, b->seq_long, b->seq_count);
    else
        memset(s->host[s->turn] + l->seq_long, 0, b->seq_count);
    put(s, l->rows, b->rows, b->row_count * sizeof(uint32_t));
    if (b->tables) put_tables(s, l->tables, b, n);
}

static const uint32_t *words(const cuda_step *s, uint64_t offset) {
    return (const uint32_t *)(const void *)(s->there + offset);
}

static cuda_batch view_of(const cuda_step *s, const step_layout *l, const step_shape *n) {
    return (cuda_batch){.token_count = n->tokens,
                        .seq_count = n->seqs,
                        .row_count = n->rows,
                        .group_count = n->groups,
                        .table_stride = n->stride,
                        .ids = (const int32_t *)words(s, l->ids),
                        .positions = words(s, l->positions),
                        .token_seq = words(s, l->token_seq),
                        .seq_first = words(s, l->seq_first),
                        .seq_tokens = words(s, l->seq_tokens),
                        .seq_cached = words(s, l->seq_cached),
                        .seq_long = s->there + l->seq_long,
                        .rows = words(s, l->rows),
                        .tables = words(s, l->tables)};
}

/* The other pinned copy, once the device has read it. */
static void turn(kern_device *dev) {
    cuda_step *s = dev->step;
    (void)CUDA_OK(dev, cudaEventRecord(s->done[s->turn], dev->stream));
    s->turn ^= 1;
    (void)CUDA_OK(dev, cudaEventSynchronize(s->done[s->turn]));
}

static void copy_range(kern_device *dev, uint64_t offset, uint64_t bytes) {
    cuda_step *s = dev->step;
    if (bytes && cuda_is_well(dev))
        (void)CUDA_OK(dev, cudaMemcpyAsync(s->there + offset, s->host[s->turn] + offset, bytes,
                                           cudaMemcpyHostToDevice, dev->stream));
}

/* Plans of the kinds that are known, each at its largest, so that they lie where they lay. */
static void put_plans(cuda_step *s, const step_batch *batch, uint64_t from, uint32_t tokens) {
    s->plan_end = s->area = from;
    for (uint32_t i = 0; i < s->plan_count; i++) {
        step_plan *plan = &s->plans[i];
        plan->offset = take(&s->area, cuda_attention_plan_max(&plan->kind, tokens));
        s->plan_end = plan->offset +
                      cuda_attention_plan_make(&plan->kind, batch, s->host[s->turn] + plan->offset);
    }
    s->used = s->area;
}

static bool waits(step_mode mode) { return mode == STEP_CAPTURED || mode == STEP_WALKED; }

/* area_bytes: at least so many behind it. */
static void stage(kern_device *dev, const step_batch *batch, uint32_t padded, step_mode mode,
                  uint64_t area_bytes) {
    cuda_step *s = dev->step;
    const step_shape n = shape_of(batch, padded);
    const step_layout l = lay_out(&n);
    turn(dev);
    if (!grow(dev, l.end + plan_bytes(s, n.tokens) + area_bytes)) return;
    put_batch(s, &l, batch, &n);
    if (padded) put_padding(s, &l, batch, padded);
    put_plans(s, batch, l.end, n.tokens);
    s->view = view_of(s, &l, &n);
    s->batch = batch;
    s->mode = mode;
    s->count = batch->token_count;
    s->padded = padded;
    s->unfit = false;
    s->slots = 0;
    if (!waits(mode)) copy_range(dev, 0, s->plan_end);
}

void step_stage(kern_device *dev, const step_batch *batch, uint32_t padded, step_mode mode) {
    stage(dev, batch, padded, mode, STEP_AREA_BYTES);
}

void step_send(kern_device *dev) { copy_range(dev, 0, dev->step->used); }

void step_leave(kern_device *dev) {
    dev->step->batch = NULL;
    dev->step->mode = STEP_CALLED;
    dev->step->padded = 0;
}

/* ---- what ops ask for ---- */

bool step_launches(const kern_device *dev) {
    return cuda_is_well(dev) && dev->step->mode != STEP_WALKED;
}

bool step_is_recorded(kern_device *dev) {
    bool recorded = waits(dev->step->mode);
    dev->step->unfit |= recorded;
    return recorded;
}

uint32_t step_count(kern_device *dev, uint32_t count) {
    cuda_step *s = dev->step;
    if (!s->padded) return count;
    if (count != s->count) s->unfit = true;
    return s->padded;
}

const cuda_batch *step_batch_of(kern_device *dev, const step_batch *batch, uint64_t bytes) {
    cuda_step *s = dev->step;
    if (s->batch != batch) {
        ESP_ASSERT(!s->batch); /* a step has one batch */
        stage(dev, batch, 0, STEP_CALLED, bytes + STEP_AREA_BYTES);
        s->batch = NULL;
    }
    step_make_room(dev, bytes);
    return &s->view;
}

void step_make_room(kern_device *dev, uint64_t bytes) {
    cuda_step *s = dev->step;
    bytes += STEP_ARRAYS_MAX * STEP_ALIGNMENT;
    if (s->mode != STEP_CALLED || s->used + bytes <= s->bytes || !cuda_is_well(dev)) return;
    (void)CUDA_OK(dev, cudaStreamSynchronize(dev->stream)); /* what lies there was read */
    s->used = s->area;
    if (s->used + bytes <= s->bytes) return;
    ESP_ASSERT(!s->batch); /* a step's arrays fit what was reserved */
    (void)grow(dev, s->used + bytes);
}

/* Host memory of the area for so many bytes; NULL when there is none left. */
static void *take_area(cuda_step *s, uint64_t bytes, uint64_t *offset) {
    if (s->used + bytes > s->bytes) return NULL;
    *offset = take(&s->used, bytes);
    if (s->used > s->bytes) s->used = s->bytes;
    return s->host[s->turn] + *offset;
}

/* Where an array of the batch lies, if `host` is in it. */
static const void *in_batch(const cuda_step *s, const void *host) {
    const step_batch *b = s->batch;
    if (!b) return NULL;
    const struct {
        const void *from;
        uint32_t count;
        const void *there;
    } arrays[] = {{b->ids, b->token_count, s->view.ids},
                  {b->positions, b->token_count, s->view.positions},
                  {b->rows, b->row_count, s->view.rows}};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        uintptr_t from = (uintptr_t)arrays[i].from, at = (uintptr_t)host;
        if (at >= from && at < from + arrays[i].count * sizeof(uint32_t))
            return (const char *)arrays[i].there + (at - from);
    }
    return NULL;
}

const void *step_array(kern_device *dev, const void *host, uint64_t bytes) {
    cuda_step *s = dev->step;
    const void *there = host ? in_batch(s, host) : NULL;
    if (there || !host || !cuda_is_well(dev)) return there;
    uint64_t offset;
    void *room = s->padded ? NULL : take_area(s, bytes, &offset);
    s->unfit |= !room;
    if (!room) return NULL;
    memcpy(room, host, bytes);
    copy_range(dev, offset, bytes);
    return s->there + offset;
}

static bool same_kind(const cuda_attention_kind *a, const cuda_attention_kind *b) {
    return a->heads == b->heads && a->kv_heads == b->kv_heads && a->head_dim == b->head_dim &&
           a->window == b->window && a->bidirectional == b->bidirectional &&
           a->work_bytes == b->work_bytes;
}

/* The kind is met for the first time: later steps have its plan beside the batch. */
static const void *plan_now(kern_device *dev, const cuda_attention_kind *kind,
                            const step_batch *batch, const void **host) {
    cuda_step *s = dev->step;
    uint64_t offset;
    void *room = take_area(s, cuda_attention_plan_max(kind, s->view.token_count), &offset);
    s->unfit |= !room;
    if (!room) return NULL;
    copy_range(dev, offset, cuda_attention_plan_make(kind, batch, room));
    *host = s->padded ? NULL : room;
    s->area = s->used; /* the other layers read it too */
    if (s->batch && s->plan_count < STEP_KINDS_MAX) {
        s->plans[s->plan_count++] = (step_plan){.kind = *kind, .offset = offset};
        replay_forget(dev); /* the area will begin elsewhere */
    }
    return s->there + offset;
}

const void *step_plan_of(kern_device *dev, const cuda_attention_kind *kind, const step_batch *batch,
                         const void **host) {
    cuda_step *s = dev->step;
    *host = NULL;
    for (uint32_t i = 0; s->batch && i < s->plan_count; i++) {
        if (!same_kind(&s->plans[i].kind, kind)) continue;
        if (!s->padded) *host = s->host[s->turn] + s->plans[i].offset;
        return s->there + s->plans[i].offset;
    }
    return step_is_recorded(dev) || !cuda_is_well(dev) ? NULL : plan_now(dev, kind, batch, host);
}

/* Of a padded step, every table has as much room: a word and a tile for each token, and pointers to four
 * pieces of its update, and for 64 more. */
static uint64_t slot_bytes(uint32_t tokens) {
    uint64_t bytes = 0;
    (void)take(&bytes, 128 + 64 * 8 + (uint64_t)tokens * (4 + 32 + 4 * 8));
    return bytes;
}

const void *step_table(kern_device *dev, const kern_lora_segment *segments, uint32_t count,
                       uint32_t tokens, const void **host) {
    cuda_step *s = dev->step;
    uint64_t bytes = cuda_lora_table_bytes(segments, count, tokens), offset;
    uint64_t room_bytes = s->padded ? slot_bytes(tokens) : bytes;
    *host = NULL;
    bool fits = bytes <= room_bytes && cuda_is_well(dev);
    void *room = fits ? take_area(s, room_bytes, &offset) : NULL;
    s->unfit |= !room;
    if (!room) return NULL;
    s->slots++;
    cuda_lora_table(segments, count, tokens, room);
    if (!waits(s->mode)) copy_range(dev, offset, bytes);
    if (!s->padded) *host = room;
    return s->there + offset;
}
