/* forward.c - one step batch through any decoder or encoder that a model_spec describes.
 *
 *   x = embed(ids)
 *   each layer:  x += [norm] O . attention(rope([norm] QKV . norm(x)))
 *                x += [norm] Down . (act(Gate . n) * (Up . n)),  n = norm(x)
 *   logits = [cap] Output . norm(x[rows])
 *
 * What stands in brackets is there when the spec or the weights say so; act is silu or gelu.
 * An encoder's norms stand behind, its matrices have biases b, its MLP no gate:
 *
 *   x = norm(embed(ids) + position + type)
 *   each layer:  x = norm(x + O . attention(QKV . x + b) + b)
 *                x = norm(x + Down . act(Up . x + b) + b)
 *
 * A model that embeds ends in one vector for each text, pooled from x (a decoder's normed).
 *
 * An adapter's low-rank updates ride on the linears of its own tokens (segments.h); an embedding or output
 * matrix that it brings whole stands in for the base's on these tokens, and so does a classifier's score head.
 * Only sequence and shapes live here; all arithmetic is the backend's. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/weights.h"

static void norm(model *m, const void *in, const uint32_t *rows, uint32_t count, const void *weight,
                 void *out) {
    m->options.ops->norm(m->options.dev, &(kern_norm){.in = in,
                                                      .rows = rows,
                                                      .count = count,
                                                      .width = m->spec.hidden,
                                                      .weight = weight,
                                                      .eps = m->spec.norm_eps,
                                                      .out = out});
}

/* x = norm(x), in full and as the input of a linear. bias NULL: an RMSNorm. */
static void norm_in_place(model *m, uint32_t count, const void *weight, const void *bias) {
    m->options.ops->norm(m->options.dev, &(kern_norm){.in = m->x,
                                                      .count = count,
                                                      .width = m->spec.hidden,
                                                      .weight = weight,
                                                      .bias = bias,
                                                      .eps = m->spec.norm_eps,
                                                      .kept = m->x,
                                                      .out = m->act});
}

/* A linear of a layer, with what adapters add to it. */
static void linear(model *m, uint32_t layer, kern_linear op) {
    lora_segments lora = segments_of_layer(&m->segments, op.role, layer);
    lora_segments next = segments_after(&m->segments, op.role, layer, m->spec.layers);
    op.lora = lora.at;
    op.lora_count = lora.count;
    op.lora_next = next.at;
    op.lora_next_count = next.count;
    m->options.ops->linear(m->options.dev, &op);
}

/* For kern_linear.parts. */
static const kern_parts *parts_of(const model *m, const kern_parts *parts) {
    return m->options.ops->parts && parts->whole ? parts : NULL;
}

/* x += matrix . in (+ bias); with a post norm x += norm(matrix . in (+ bias)). split: each rank has columns
 * of the matrix, and what they compute is added up. */
static void add_branch(model *m, uint32_t layer, kern_linear op, const void *post_norm,
                       bool split) {
    void *out = post_norm ? m->branch : m->x;
    op.matrix_count = 1;
    op.epilogue = post_norm || split ? EPI_STORE : EPI_RESIDUAL;
    op.out = split ? m->sum.partial : out;
    linear(m, layer, op);
    rank_sum_order order = op.parts ? RANK_SUM_TREE : RANK_SUM_IN_ORDER;
    if (split) rank_sum_run(&m->sum, (size_t)m->computed * m->spec.hidden, order, !post_norm, out);
    if (post_norm)
        m->options.ops->norm(m->options.dev, &(kern_norm){.in = m->branch,
                                                          .count = op.token_count,
                                                          .width = m->spec.hidden,
                                                          .weight = post_norm,
                                                          .eps = m->spec.norm_eps,
                                                          .residual = true,
                                                          .out = m->x});
}

static void rope_store(model *m, const layer_weights *w, bool slides, const step_batch *batch,
                       const kern_kv_layer *kv) {
    const model_spec *s = &m->spec;
    bool local = slides && s->rope_local;
    m->options.ops->rope_store(m->options.dev,
                               &(kern_rope_store){.batch = batch,
                                                  .qkv = m->qkv,
                                                  .heads = s->heads,
                                                  .rotary = s->rotary,
                                                  .interleaved = s->rope_interleaved,
                                                  .cos_sin = local ? m->rope_local : m->rope,
                                                  .long_cos_sin = m->rope_long,
                                                  .q_norm = w->q_norm,
                                                  .k_norm = w->k_norm,
                                                  .norm_eps = s->norm_eps,
                                                  .kv = *kv});
}

static void attention(model *m, const layer_weights *w, uint32_t layer, const step_batch *batch,
                      void *arena) {
    const kern_ops *ops = m->options.ops;
    kern_device *dev = m->options.dev;
    const model_spec *s = &m->spec;
    uint32_t t = batch->token_count;
    kern_kv_layer kv = {.arena = arena,
                        .frame_bytes = ops->frame_bytes(dev, &m->kv_shape),
                        .shape = &m->kv_shape,
                        .group = m->groups.group_of[layer],
                        .layer = m->groups.index_of[layer]};

    if (!s->encoder) norm(m, m->x, NULL, t, w->attn_norm, m->act);
    linear(m, layer,
           (kern_linear){.in = m->act,
                         .token_count = t,
                         .matrix = {w->q, w->k, w->v},
                         .bias = {w->q_bias, w->k_bias, w->v_bias},
                         .matrix_count = 3,
                         .epilogue = EPI_STORE,
                         .role = ROLE_QKV,
                         .out = m->qkv});
    rope_store(m, w, s->slides[layer], batch, &kv);
    ops->attention(dev, &(kern_attention){.batch = batch,
                                          .qkv = m->qkv,
                                          .heads = s->heads,
                                          .scale = s->attention_scale,
                                          .softcap = s->attention_softcap,
                                          .window = s->slides[layer] ? s->window : 0,
                                          .bidirectional = s->encoder,
                                          .kv = kv,
                                          .out = m->act});
    add_branch(m, layer,
               (kern_linear){.in = m->act,
                             .token_count = t,
                             .matrix = {w->o},
                             .bias = {w->o_bias},
                             .parts = parts_of(m, &m->shard.o_parts),
                             .role = ROLE_ATTENTION_OUT},
               w->attn_post_norm, m->shard.attention);
    if (s->encoder) norm_in_place(m, t, w->attn_norm, w->attn_norm_bias);
}

static void down(model *m, const layer_weights *w, uint32_t layer, uint32_t t) {
    add_branch(m, layer,
               (kern_linear){.in = m->mid,
                             .token_count = t,
                             .matrix = {w->down},
                             .bias = {w->down_bias},
                             .parts = parts_of(m, &m->shard.down_parts),
                             .role = ROLE_DOWN},
               w->mlp_post_norm, m->shard.mlp);
}

static void gated_mlp(model *m, const layer_weights *w, uint32_t layer, uint32_t t) {
    bool gelu = m->spec.activation == ACTIVATION_GELU_TANH;
    norm(m, m->x, NULL, t, w->mlp_norm, m->act);
    linear(m, layer,
           (kern_linear){.in = m->act,
                         .token_count = t,
                         .matrix = {w->gate, w->up},
                         .matrix_count = 2,
                         .epilogue = gelu ? EPI_GELU_MUL : EPI_SILU_MUL,
                         .role = ROLE_GATE_UP,
                         .out = m->mid});
    down(m, w, layer, t);
}

static void encoder_mlp(model *m, const layer_weights *w, uint32_t layer, uint32_t t) {
    bool exact = m->spec.activation == ACTIVATION_GELU_ERF;
    linear(m, layer,
           (kern_linear){.in = m->act,
                         .token_count = t,
                         .matrix = {w->up},
                         .bias = {w->up_bias},
                         .matrix_count = 1,
                         .epilogue = exact ? EPI_GELU_ERF : EPI_GELU,
                         .role = ROLE_GATE_UP,
                         .out = m->mid});
    down(m, w, layer, t);
    norm_in_place(m, t, w->mlp_norm, w->mlp_norm_bias);
}

/* Tokens [first, first + count) from one table. */
static void embed_from(model *m, const step_batch *batch, const kern_matrix *table, uint32_t first,
                       uint32_t count) {
    const kern_ops *ops = m->options.ops;
    size_t row_bytes = m->spec.hidden * ops->element_bytes(m->options.dev, KIND_F32);
    ops->embed(m->options.dev, &(kern_embed){.table = table,
                                             .ids = batch->ids + first,
                                             .token_count = count,
                                             .scale = m->spec.embedding_scale,
                                             .positions = m->positions,
                                             .position = batch->positions + first,
                                             .added = m->token_type,
                                             .out = (char *)m->x + first * row_bytes});
}

static const kern_matrix *embedding_of(const model *m, const model_adapter *a) {
    return a && a->embedding ? a->embedding : m->embedding;
}

static const kern_matrix *output_of(const model *m, const model_adapter *a) {
    if (a && a->score) return a->score;
    return a && a->output ? a->output : m->output;
}

/* The matrix of a run, whose neighbours that have the same one are computed with it. */
typedef const kern_matrix *(*whole_matrix)(const model *m, const model_adapter *a);

/* Cuts [first, end) where another matrix begins; the end of the first piece, and its matrix. Without
 * runs all is the base's. */
static uint32_t piece_end(const model *m, const adapter_runs *runs, whole_matrix of, uint32_t first,
                          uint32_t end, const kern_matrix **matrix) {
    *matrix = of(m, NULL);
    bool begun = false;
    for (uint32_t i = 0; i < runs->count; i++) {
        const adapter_run *run = &runs->at[i];
        const kern_matrix *own = of(m, run->adapter);
        if (run->first + run->count <= first) continue;
        if (run->first >= end || (begun && own != *matrix))
            return run->first < end ? run->first : end;
        *matrix = own;
        begun = true;
    }
    return end;
}

static void embed(model *m, const step_batch *batch) {
    const kern_matrix *table;
    for (uint32_t first = 0, end; first < batch->token_count; first = end) {
        end = piece_end(m, &m->segments.tokens, embedding_of, first, batch->token_count, &table);
        embed_from(m, batch, table, first, end - first);
    }
    if (m->embedding_norm)
        norm_in_place(m, batch->token_count, m->embedding_norm, m->embedding_norm_bias);
}

static kern_pooling pooling_of(spec_pooling pooling) {
    switch (pooling) {
    case POOLING_MEAN:
        return POOL_MEAN;
    case POOLING_FIRST:
        return POOL_FIRST;
    case POOLING_LAST:
        return POOL_LAST;
    case POOLING_NONE:
        break;
    }
    return POOL_NONE;
}

static void pool(model *m, const step_batch *batch) {
    if (m->final_norm) norm_in_place(m, batch->token_count, m->final_norm, NULL);
    m->options.ops->pool_states(m->options.dev,
                                &(kern_pool_states){.batch = batch,
                                                    .in = m->x,
                                                    .width = m->spec.hidden,
                                                    .pooling = pooling_of(m->spec.pooling),
                                                    .normalise = m->spec.normalise,
                                                    .out = m->pooled});
}

/* Whether all ranks did what they were to; before anything waits for the device alone. */
static esp_code check_ranks(model *m, esp_error *err) {
    return m->shard.ranks ? comm_check(m->options.comm, err) : ESP_OK;
}

/* The first fault of a rank, or of the device. */
static esp_code finish(model *m, esp_error *err) {
    esp_code code = check_ranks(m, err);
    return code == ESP_OK ? m->options.ops->sync(m->options.dev, err) : code;
}

static void layers(model *m, const step_batch *batch, void *arena) {
    embed(m, batch);
    for (uint32_t i = 0; i < m->spec.layers; i++) {
        attention(m, &m->layers[i], i, batch, arena);
        (m->spec.encoder ? encoder_mlp : gated_mlp)(m, &m->layers[i], i, batch->token_count);
    }
    if (batch->row_count && m->pooled)
        pool(m, batch);
    else if (batch->row_count)
        norm(m, m->x, batch->rows, batch->row_count, m->final_norm, m->picked);
}

/* Embeddings that adapters bring cut a batch where they happen to stand. */
static bool brings_embedding(const adapter_runs *runs) {
    for (uint32_t i = 0; i < runs->count; i++)
        if (runs->at[i].adapter && runs->at[i].adapter->embedding) return true;
    return false;
}

esp_code model_forward(model *m, const step_batch *batch, const model_adapter *const *adapters,
                       void *arena, esp_error *err) {
    const kern_ops *ops = m->options.ops;
    kern_device *dev = m->options.dev;
    ESP_ASSERT(batch->token_count <= m->options.tokens_max);
    ESP_ASSERT(batch->row_count <= m->options.rows_max);

    segments_plan(&m->segments, batch, adapters);
    m->row_count = batch->row_count;
    const adapter_runs *runs = &m->segments.tokens;
    kern_step step = {.batch = batch,
                      .adapters = runs->count > 0,
                      .repeats = !brings_embedding(runs),
                      .computed = &m->computed};
    do {
        m->computed = batch->token_count;
        if (ops->step_begin(dev, &step)) layers(m, batch, arena);
    } while (!ops->step_end(dev));
    /* Who takes rows waits for them. */
    return batch->row_count ? ESP_OK : finish(m, err);
}

esp_code model_pooled(model *m, const float **rows, esp_error *err) {
    ESP_ASSERT(m->pooled);
    const kern_ops *ops = m->options.ops;
    size_t bytes = (size_t)m->row_count * m->spec.hidden * sizeof(float);
    esp_code code = check_ranks(m, err);
    if (code != ESP_OK) return code;
    *rows = ops->view(m->options.dev, m->pooled, bytes, m->seen);
    return ops->sync(m->options.dev, err);
}

static size_t logits_bytes(const model *m, size_t floats) {
    return floats * m->options.ops->element_bytes(m->options.dev, KIND_F32);
}

/* Rows [first, first + count) by one output matrix, to `to` of this rank's logits. */
static void logits_by(model *m, const kern_matrix *output, uint32_t first, uint32_t count,
                      size_t to) {
    const kern_ops *ops = m->options.ops;
    kern_device *dev = m->options.dev;
    size_t in_bytes = m->spec.hidden * ops->element_bytes(dev, KIND_ACT);
    lora_segments lora = segments_of_head(&m->segments, first, count);
    ops->linear(dev, &(kern_linear){.in = (const char *)m->picked + first * in_bytes,
                                    .token_count = count,
                                    .matrix = {output},
                                    .matrix_count = 1,
                                    .epilogue = m->spec.logit_softcap > 0 ? EPI_SOFTCAP : EPI_STORE,
                                    .softcap = m->spec.logit_softcap,
                                    .role = ROLE_HEAD,
                                    .lora = lora.at,
                                    .lora_count = lora.count,
                                    .out = (char *)m->own_logits + logits_bytes(m, to)});
}

/* The other ranks' parts of a piece, one behind the other, from `at` on. */
static char *expect_parts(model *m, const logits_piece *piece, char *at,
                          comm_part parts[COMM_RANKS_MAX]) {
    const model_shard *s = &m->shard;
    for (uint32_t rank = 1; rank < s->ranks; rank++) {
        size_t cols = shard_vocab(s, piece->vocab, rank).count;
        parts[rank] =
            (comm_part){.receive = at, .receive_bytes = piece->count * cols * sizeof(float)};
        at += parts[rank].receive_bytes;
    }
    return at;
}

static void place_parts(model *m, const logits_piece *piece, const void *own,
                        const comm_part parts[COMM_RANKS_MAX]) {
    for (uint32_t rank = 0; rank < m->shard.ranks; rank++) {
        shard_range cols = shard_vocab(&m->shard, piece->vocab, rank);
        m->options.ops->place_columns(
            m->options.dev,
            &(kern_place_columns){.in = rank ? parts[rank].receive : own,
                                  .rows = piece->count,
                                  .cols = cols.count,
                                  .first = cols.first,
                                  .out_cols = piece->vocab,
                                  .out = (char *)m->logits + logits_bytes(m, piece->at)});
    }
}

/* The ranks' parts of the vocabulary side by side, on rank 0. */
static void join_logits(model *m) {
    char *at = m->logit_pieces;
    for (uint32_t i = 0; i < m->logits_piece_count; i++) {
        const logits_piece *piece = &m->logits_pieces[i];
        comm_part parts[COMM_RANKS_MAX] = {{0}};
        char *own = (char *)m->own_logits + logits_bytes(m, piece->own_at);
        if (m->shard.rank == 0) at = expect_parts(m, piece, at, parts);
        if (m->shard.rank > 0) {
            parts[0].send = own;
            parts[0].send_bytes = (size_t)piece->count * piece->own_cols * sizeof(float);
        }
        comm_exchange(m->options.comm, parts);
        if (m->shard.rank == 0) place_parts(m, piece, own, parts);
    }
}

/* Each row alone: they lie as far apart as those of the vocabulary. */
static void scores_by(model *m, const kern_matrix *score, uint32_t first, uint32_t count,
                      size_t to) {
    const kern_ops *ops = m->options.ops;
    kern_device *dev = m->options.dev;
    size_t in_bytes = m->spec.hidden * ops->element_bytes(dev, KIND_ACT);
    for (uint32_t i = 0; i < count; i++)
        ops->linear(dev, &(kern_linear){.in = (const char *)m->picked + (first + i) * in_bytes,
                                        .token_count = 1,
                                        .matrix = {score},
                                        .matrix_count = 1,
                                        .epilogue = EPI_STORE,
                                        .role = ROLE_HEAD,
                                        .out = (char *)m->own_logits +
                                               logits_bytes(m, to + (size_t)i * m->spec.vocab)});
}

/* Whose row it is; NULL: the base's. */
static const model_adapter *adapter_of_row(const model *m, uint32_t row) {
    const adapter_runs *runs = &m->segments.rows;
    for (uint32_t i = 0; i < runs->count; i++)
        if (row >= runs->at[i].first && row - runs->at[i].first < runs->at[i].count)
            return runs->at[i].adapter;
    return NULL;
}

/* Where `count` more rows of an adapter come: behind the last piece, as a part of it where they are as wide.
 * Returns the floats before them in this rank's logits. */
static size_t add_rows(model *m, const model_adapter *a, uint32_t count) {
    uint32_t vocab = a && a->vocab ? a->vocab : m->whole.vocab;
    logits_piece *pieces = m->logits_pieces, *last = NULL, next = {.vocab = vocab};
    ESP_ASSERT(vocab <= m->whole.vocab + MODEL_ADDED_TOKENS_MAX);
    if (m->logits_piece_count) last = &pieces[m->logits_piece_count - 1];
    if (last) {
        next.first = last->first + last->count;
        next.at = last->at + (size_t)last->count * last->vocab;
        next.own_at = last->own_at + (size_t)last->count * last->own_cols;
    }
    if (last && last->vocab == vocab) {
        last->count += count;
        return next.own_at;
    }
    next.count = count;
    next.own_cols = m->shard.ranks ? shard_vocab(&m->shard, vocab, m->shard.rank).count : vocab;
    pieces[m->logits_piece_count++] = next;
    return next.own_at;
}

/* Of rows [first, first + count), each by its own output matrix. */
static void make_logits(model *m, uint32_t first, uint32_t count) {
    ESP_ASSERT(m->output && count <= MODEL_LOGITS_ROWS && first + count <= m->options.rows_max);
    const kern_matrix *output;
    m->logits_piece_count = 0;
    for (uint32_t at = first, end; at < first + count; at = end) {
        end = piece_end(m, &m->segments.rows, output_of, at, first + count, &output);
        const model_adapter *a = adapter_of_row(m, at);
        size_t to = add_rows(m, a, end - at);
        (a && a->score ? scores_by : logits_by)(m, output, at, end - at, to);
    }
    if (m->shard.ranks) join_logits(m);
}

static void point_at_rows(const model *m, const float *logits, logits_row *rows) {
    for (uint32_t i = 0; i < m->logits_piece_count; i++) {
        const logits_piece *piece = &m->logits_pieces[i];
        for (uint32_t r = 0; r < piece->count; r++)
            rows[piece->first + r] =
                (logits_row){logits + piece->at + (size_t)r * piece->vocab, piece->vocab};
    }
}

/* Of all pieces. */
static size_t logits_count(const model *m) {
    if (m->logits_piece_count == 0) return 0;
    const logits_piece *last = &m->logits_pieces[m->logits_piece_count - 1];
    return last->at + (size_t)last->count * last->vocab;
}

/* On rank 0. */
static esp_code view_logits(model *m, logits_row *rows, esp_error *err) {
    const kern_ops *ops = m->options.ops;
    esp_code code = check_ranks(m, err);
    if (code != ESP_OK) return code;
    if (m->shard.rank == 0)
        point_at_rows(
            m, ops->view(m->options.dev, m->logits, logits_count(m) * sizeof(float), m->seen),
            rows);
    return finish(m, err);
}

esp_code model_logits(model *m, uint32_t first, uint32_t count, logits_row *rows, esp_error *err) {
    make_logits(m, first, count);
    return view_logits(m, rows, err);
}

/* Of a fault that the device did not keep. */
static esp_code fault_of(model *m, esp_error *err) {
    esp_code code = finish(m, err);
    return code != ESP_OK ? code : esp_fail(err, ESP_INTERNAL, "the device picked no tokens");
}

esp_code model_pick(model *m, uint32_t first, uint32_t count, sample_row *rows, esp_error *err) {
    make_logits(m, first, count);
    esp_code code = check_ranks(m, err);
    for (uint32_t i = 0; i < m->logits_piece_count && code == ESP_OK; i++) {
        const logits_piece *piece = &m->logits_pieces[i];
        kern_sample op = {.logits = (char *)m->logits + logits_bytes(m, piece->at),
                          .row_count = piece->count,
                          .vocab = piece->vocab,
                          .first = first + piece->first,
                          .step_rows = m->row_count,
                          .rows = rows + piece->first};
        if (!m->options.ops->sample(m->options.dev, &op)) code = fault_of(m, err);
    }
    return code;
}

esp_code model_picked(model *m, uint32_t step_rows, uint32_t first, uint32_t count,
                      sample_row *rows, esp_error *err) {
    kern_sample op = {.row_count = count,
                      .vocab = m->whole.vocab,
                      .first = first,
                      .step_rows = step_rows,
                      .rows = rows};
    return m->options.ops->sampled(m->options.dev, &op) ? ESP_OK : fault_of(m, err);
}
