/* cuda_ops.c - an op of kernels.h becomes a launch: host arrays are staged, counts of padded steps taken. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_kv.h"
#include "kernels/cuda/cuda_matrix.h"
#include "kernels/cuda/cuda_replay.h"
#include "kernels/cuda/cuda_step.h"

/* A launch that cannot be recorded is no fault: the step is then called op by op. */
static void launched(kern_device *dev, int code, const char *call, int line) {
    if (code == 0) return;
    if (dev->step->mode == STEP_CAPTURED)
        dev->step->unfit = true;
    else
        (void)cuda_noted(dev, (cudaError_t)code, call, __FILE__, line);
}

#define LAUNCH(dev, op, args) launched(dev, op(args, (dev)->stream), #op, __LINE__)

/* Outside of steps nobody has made it this thread's device yet. bytes: of the host's arrays. */
static void begin(kern_device *dev, uint64_t bytes) {
    if (!dev->step->batch) cuda_use(dev);
    step_make_room(dev, bytes);
}

void cuda_run_embed(kern_device *dev, const kern_embed *op) {
    size_t bytes = op->token_count * sizeof(uint32_t);
    begin(dev, 2 * bytes);
    cuda_embed_args args = {
        .table = &op->table->view,
        .ids = step_array(dev, op->ids, bytes),
        .sampled = dev->sampled.at,
        .token_count = step_count(dev, op->token_count),
        .scale = op->scale,
        .positions = op->positions ? &op->positions->view : NULL,
        .position = op->positions ? step_array(dev, op->position, bytes) : NULL,
        .added = op->added,
        .out = op->out,
    };
    if (step_launches(dev) && args.ids && args.token_count) LAUNCH(dev, cuda_embed, &args);
}

void cuda_run_norm(kern_device *dev, const kern_norm *op) {
    ESP_ASSERT(!(op->residual && (op->bias || op->kept)) && !(op->kept && op->rows));
    begin(dev, op->rows ? op->count * sizeof(uint32_t) : 0);
    cuda_norm_args args = {
        .in = op->in,
        .rows = step_array(dev, op->rows, op->count * sizeof(uint32_t)),
        .count = step_count(dev, op->count),
        .width = op->width,
        .weight = op->weight,
        .bias = op->bias,
        .eps = op->eps,
        .kept = op->kept,
        .residual = op->residual ? op->out : NULL,
        .out = op->residual ? NULL : op->out,
    };
    bool staged = args.rows || !op->rows;
    if (step_launches(dev) && staged && args.count) LAUNCH(dev, cuda_norm, &args);
}

/* ---- linear ---- */

static void check_linear(const kern_device *dev, const kern_linear *op) {
    ESP_ASSERT(op->matrix_count >= 1 && op->matrix_count <= LINEAR_MATRICES_MAX);
    for (uint32_t m = 1; m < op->matrix_count; m++)
        ESP_ASSERT(op->matrix[m]->view.cols == op->matrix[0]->view.cols);
    ESP_ASSERT(op->token_count <= dev->tokens_max);
    ESP_ASSERT(kern_parts_fit(op, op->matrix[0]->view.cols) &&
               !(op->parts && op->matrix[0]->view.order));
    if (kern_is_gated(op->epilogue))
        ESP_ASSERT(op->matrix_count == 2 && op->matrix[0]->view.rows == op->matrix[1]->view.rows);
}

/* Graphs were captured for updates packed as those before, and without magnitudes where none was seen. */
static void note_updates(kern_device *dev, const kern_linear *op) {
    uint64_t piece = dev->lora_piece;
    bool magnitudes = dev->lora_magnitudes || cuda_lora_has_magnitude(op->lora, op->lora_count);
    for (uint32_t i = 0; i < op->lora_count; i++) {
        const kern_lora *lora = op->lora[i].lora;
        if (lora && (!piece || lora->piece_max < piece)) piece = lora->piece_max;
    }
    if (piece == dev->lora_piece && magnitudes == dev->lora_magnitudes) return;
    if (step_is_recorded(dev)) return;
    replay_forget(dev);
    dev->lora_piece = piece;
    dev->lora_magnitudes = magnitudes;
}

static uint64_t rows_of_all(const cuda_lora_args *a, uint32_t *largest) {
    uint64_t rows = 0;
    *largest = 0;
    for (uint32_t m = 0; m < a->matrix_count; m++) {
        rows += a->rows[m];
        if (a->rows[m] > *largest) *largest = a->rows[m];
    }
    return rows;
}

/* Workspaces of an update over the op's tokens; false: there are none. */
static bool take_rooms(kern_device *dev, cuda_lora_args *a) {
    uint32_t largest;
    uint64_t rows = rows_of_all(a, &largest), tokens = a->token_count;
    uint64_t pointers = tokens * a->matrix_count;
    uint64_t whole = dev->lora_magnitudes ? cuda_lora_whole_bytes(a->token_count, (uint32_t)rows,
                                                                  largest, dev->lora_piece)
                                          : 0;
    a->states = cuda_need(dev, &dev->lora_states, cuda_lora_workspace(dev->tokens_max, a->cols));
    a->delta = cuda_need(dev, &dev->lora_delta, tokens * rows * sizeof(float));
    a->updated = cuda_need(dev, &dev->lora_updated, dev->tokens_max);
    if (dev->lora_magnitudes) {
        a->magnitude = cuda_need(dev, &dev->lora_pointers, 2 * pointers * sizeof(float *));
        if (!a->magnitude) return false;
        a->lora_bias = a->magnitude + pointers;
    }
    a->whole = whole ? cuda_need(dev, &dev->lora_whole, whole) : NULL;
    return a->states && a->delta && a->updated && (a->whole || !whole);
}

/* The updates' sums of a linear's tokens; a step that is padded has them for every linear, as another
 * one may need them. */
static bool run_updates(kern_device *dev, const kern_linear *op, cuda_linear_args *linear) {
    const cuda_step *s = dev->step;
    cuda_lora_args a = {.in = op->in,
                        .token_count = linear->token_count,
                        .cols = op->matrix[0]->view.cols,
                        .matrix_count = op->matrix_count};
    for (uint32_t m = 0; m < op->matrix_count; m++)
        a.rows[m] = op->matrix[m]->view.rows;
    ESP_ASSERT(kern_lora_fits(op, a.rows, a.cols));
    if (op->lora_count == 0 && !(s->padded && s->adapters)) return true;
    note_updates(dev, op);
    a.table = step_table(dev, op->lora, op->lora_count, a.token_count, &a.host_table);
    if (!step_launches(dev) || !a.table || !take_rooms(dev, &a)) return false;
    LAUNCH(dev, cuda_lora, &a);
    linear->delta = a.delta;
    linear->updated = a.updated;
    linear->magnitude = (const float *const *)a.magnitude;
    linear->lora_bias = (const float *const *)a.lora_bias;
    return true;
}

static void run_linear(kern_device *dev, const kern_linear *op) {
    begin(dev, cuda_lora_table_bytes(op->lora, op->lora_count, op->token_count));
    cuda_linear_args args = {.in = op->in,
                             .token_count = step_count(dev, op->token_count),
                             .matrix_count = op->matrix_count,
                             .parts = op->parts,
                             .epilogue = op->epilogue,
                             .softcap = op->softcap,
                             .out = op->out};
    uint64_t stack = op->parts ? cuda_linear_stack(op->matrix[0]->view.rows, dev->tokens_max) : 0;
    for (uint32_t m = 0; m < op->matrix_count; m++) {
        args.matrix[m] = &op->matrix[m]->view;
        args.bias[m] = op->bias[m];
    }
    if (!run_updates(dev, op, &args) || !step_launches(dev)) return;
    args.work = cuda_need(dev, &dev->linear, dev->linear_bytes);
    args.stack = cuda_need(dev, &dev->stack, stack);
    if ((args.work || !dev->linear_bytes) && (args.stack || !stack))
        LAUNCH(dev, cuda_linear, &args);
}

/* The segments of tokens [first, first + count), counted from there; how many there are. */
static uint32_t cut_segments(const kern_linear *op, uint32_t first, uint32_t count,
                             kern_lora_segment out[CUDA_UPDATED_TOKENS]) {
    uint32_t cut = 0;
    for (uint32_t s = 0; s < op->lora_count; s++) {
        const kern_lora_segment *all = &op->lora[s];
        uint32_t begin = all->first > first ? all->first : first;
        uint32_t end = all->first + all->count, last = first + count;
        if (end > last) end = last;
        if (begin < end) out[cut++] = (kern_lora_segment){begin - first, end - begin, all->lora};
    }
    return cut;
}

/* As many tokens at a time as sums of updates have room for; a token's bits do not depend on it. */
static void run_updated(kern_device *dev, const kern_linear *op) {
    kern_lora_segment segments[CUDA_UPDATED_TOKENS];
    size_t in = op->matrix[0]->view.cols * sizeof(uint16_t), rows = op->matrix[0]->view.rows;
    for (uint32_t m = 1; m < op->matrix_count && !kern_is_gated(op->epilogue); m++)
        rows += op->matrix[m]->view.rows;
    size_t out = rows * (kern_gives_act(op->epilogue) ? sizeof(uint16_t) : sizeof(float));
    for (uint32_t first = 0, count; first < op->token_count; first += count) {
        kern_linear part = *op;
        count = op->token_count - first;
        if (count > CUDA_UPDATED_TOKENS) count = CUDA_UPDATED_TOKENS;
        part.in = (const char *)op->in + first * in;
        part.out = (char *)op->out + first * out;
        part.token_count = count;
        part.lora = segments;
        part.lora_count = cut_segments(op, first, count, segments);
        run_linear(dev, &part);
    }
}

void cuda_run_linear(kern_device *dev, const kern_linear *op) {
    check_linear(dev, op);
    if (op->token_count == 0) return;
    if (op->lora_count && op->token_count > CUDA_UPDATED_TOKENS)
        run_updated(dev, op);
    else
        run_linear(dev, op);
}

/* ---- attention ---- */

static cuda_kv_layer layer_of(const kern_device *dev, const kern_kv_layer *kv) {
    return (cuda_kv_layer){.arena = kv->arena,
                           .frame_bytes = kv->frame_bytes,
                           .k_offset = cuda_kv_offset(kv->shape, dev->kv_int8, kv->layer, 0),
                           .v_offset = cuda_kv_offset(kv->shape, dev->kv_int8, kv->layer, 1),
                           .kv_heads = kv->shape->kv_heads,
                           .head_dim = kv->shape->head_dim,
                           .group = kv->group,
                           .int8 = dev->kv_int8};
}

static void check_layer(const kern_kv_layer *kv, const step_batch *batch) {
    ESP_ASSERT(kv->shape->head_dim <= CUDA_HEAD_DIM_MAX && kv->shape->head_dim % 2 == 0);
    ESP_ASSERT(kv->layer < kv->shape->layers && kv->group < batch->group_count);
}

void cuda_run_rope_store(kern_device *dev, const kern_rope_store *op) {
    check_layer(&op->kv, op->batch);
    ESP_ASSERT(op->rotary % 2 == 0 && op->rotary <= op->kv.shape->head_dim);
    ESP_ASSERT(!op->q_norm == !op->k_norm);
    begin(dev, 0);
    const cuda_batch *batch = step_batch_of(dev, op->batch, 0);
    cuda_rope_store_args args = {
        .batch = *batch,
        .qkv = op->qkv,
        .heads = op->heads,
        .rotary = op->rotary,
        .interleaved = op->interleaved,
        .cos_sin = op->cos_sin,
        .long_cos_sin = op->long_cos_sin,
        .q_norm = op->q_norm,
        .k_norm = op->k_norm,
        .norm_eps = op->norm_eps,
        .kv = layer_of(dev, &op->kv),
    };
    if (step_launches(dev) && batch->token_count) LAUNCH(dev, cuda_rope_store, &args);
}

static void check_attention(const kern_attention *op) {
    check_layer(&op->kv, op->batch);
    ESP_ASSERT(op->heads % op->kv.shape->kv_heads == 0);
    ESP_ASSERT(!(op->bidirectional && op->window));
    for (uint32_t s = 0; op->bidirectional && s < op->batch->seq_count; s++)
        ESP_ASSERT(op->batch->seq_cached[s] == 0);
}

void cuda_run_attention(kern_device *dev, const kern_attention *op) {
    check_attention(op);
    begin(dev, 0);
    const cuda_attention_kind kind = {.heads = op->heads,
                                      .kv_heads = op->kv.shape->kv_heads,
                                      .head_dim = op->kv.shape->head_dim,
                                      .window = op->window,
                                      .bidirectional = op->bidirectional,
                                      .work_bytes = CUDA_ATTENTION_WORK_BYTES};
    uint64_t plan_bytes = cuda_attention_plan_max(&kind, op->batch->token_count);
    const cuda_batch *batch = step_batch_of(dev, op->batch, plan_bytes);
    cuda_attention_args args = {.batch = *batch,
                                .kind = kind,
                                .qkv = op->qkv,
                                .scale = op->scale,
                                .softcap = op->softcap,
                                .kv = layer_of(dev, &op->kv),
                                .out = op->out};
    args.plan = step_plan_of(dev, &kind, op->batch, &args.host_plan);
    if (!step_launches(dev) || !args.plan || !batch->token_count) return;
    args.work = cuda_need(dev, &dev->attention, kind.work_bytes);
    if (args.work) LAUNCH(dev, cuda_attention, &args);
}

void cuda_run_pool_states(kern_device *dev, const kern_pool_states *op) {
    ESP_ASSERT(op->pooling != POOL_NONE);
    begin(dev, 0);
    const cuda_batch *batch = step_batch_of(dev, op->batch, 0);
    cuda_pool_states_args args = {.batch = *batch,
                                  .in = op->in,
                                  .width = op->width,
                                  .pooling = op->pooling,
                                  .normalise = op->normalise,
                                  .out = op->out};
    if (step_launches(dev) && batch->row_count) LAUNCH(dev, cuda_pool_states, &args);
}

/* ---- ranks ---- */

void cuda_run_rank_sum(kern_device *dev, const kern_rank_sum *op) {
    ESP_ASSERT(op->ranks > 0 && (!op->tree || op->ranks <= KERN_PARTS_MAX));
    begin(dev, 0);
    cuda_rank_sum_args args = {.in = op->in,
                               .ranks = op->ranks,
                               .count = op->count,
                               .tree = op->tree,
                               .residual = op->residual,
                               .out = op->out};
    if (step_launches(dev) && op->count) LAUNCH(dev, cuda_rank_sum, &args);
}

void cuda_run_place_columns(kern_device *dev, const kern_place_columns *op) {
    ESP_ASSERT((uint64_t)op->first + op->cols <= op->out_cols);
    begin(dev, 0);
    cuda_place_columns_args args = {.in = op->in,
                                    .rows = op->rows,
                                    .cols = op->cols,
                                    .first = op->first,
                                    .out_cols = op->out_cols,
                                    .out = op->out};
    if (step_launches(dev) && op->rows) LAUNCH(dev, cuda_place_columns, &args);
}

/* ---- pages ---- */

void cuda_run_move_frames(kern_device *dev, const kern_move_frames *op) {
    ESP_ASSERT(!dev->step->batch && op->frame_bytes % 64 == 0);
    size_t bytes = op->count * sizeof(uint32_t);
    begin(dev, 2 * bytes);
    cuda_move_frames_args args = {.from = op->from,
                                  .to = op->to,
                                  .from_frames = step_array(dev, op->from_frames, bytes),
                                  .to_frames = step_array(dev, op->to_frames, bytes),
                                  .count = op->count,
                                  .frame_bytes = op->frame_bytes};
    if (cuda_is_well(dev) && op->count) LAUNCH(dev, cuda_move_frames, &args);
}
