/* cuda_launch.h - what the host side of the CUDA backend calls: one launcher for an op, with a plain struct.
 *
 * A launcher enqueues its op's kernels on `stream` (a cudaStream_t) and returns the cudaError_t of doing so,
 * 0 for success; it neither waits nor allocates nor copies, so that it may be captured into a graph. The
 * structs mirror kernels.h with DEVICE pointers; every pointer is one unless its comment says "host". The
 * struct itself lies on the host and is read before the launcher returns.
 *
 * What a captured graph freezes: every field of these structs. So what differs from step to step stands in
 * device memory at an address that stays (cuda_batch, tables, plans), and kernels read it there. A step that
 * is replayed may be padded: tokens [live tokens, token_count) belong to no sequence, their
 * token_seq is CUDA_NO_SEQUENCE. Ops by row compute something for them that nobody reads; rope_store and
 * attention leave them alone.
 *
 * Elements: F32 float; ACT and KV bf16 in uint16_t. Buffers begin at multiples of 256 bytes; rows of an
 * activation or of the residual stream at multiples of their own length only. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CUDA_LAUNCH_H
#define ESPALIER_CUDA_LAUNCH_H

#include <stdint.h>

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CUDA_CHUNK_TOKENS = 256, /* attention splits at multiples of it, absolute positions */
};
#define CUDA_NO_SEQUENCE 0xffffffffu

/* A matrix of this backend as a kernel sees it; the launcher copies it (cuda_matrix.h). */
struct cuda_matrix_view;

/* ---- the step (cuda_step.c) ---- */

/* The step batch in device memory. Counts are those of the launch: of a padded step, the padded ones. */
typedef struct cuda_batch {
    uint32_t token_count, seq_count, row_count;
    uint32_t group_count, table_stride;
    const int32_t *ids;        /* [T]; -1-r: the id that the step before sampled for its row r */
    const uint32_t *positions; /* [T] */
    const uint32_t *token_seq; /* [T] or CUDA_NO_SEQUENCE */
    const uint32_t *seq_first, *seq_tokens, *seq_cached; /* [S]; a padded sequence has 0 tokens */
    const uint8_t *seq_long;                             /* [S]; never NULL here */
    const uint32_t *tables;                              /* [group_count][S][table_stride] */
    const uint32_t *rows;                                /* [R]; a padded row is 0 */
} cuda_batch;

/* One layer's view of the pages; what lies where in a frame: cuda_kv.h. */
typedef struct cuda_kv_layer {
    void *arena;
    uint64_t frame_bytes;
    uint64_t k_offset, v_offset; /* of the layer's K and V in a frame, in bytes: cuda_kv_offset */
    uint32_t kv_heads, head_dim;
    uint32_t group; /* which block tables */
    bool int8;      /* codes and scales; else bf16 */
} cuda_kv_layer;

/* ---- embed (cuda_embed.cu): as kern_embed ---- */

typedef struct cuda_embed_args {
    const struct cuda_matrix_view *table; /* host */
    const int32_t *ids;                   /* [T] */
    const int32_t *sampled;               /* by rows, for ids below 0; one below 0 is read as 0 */
    uint32_t token_count;
    float scale;
    const struct cuda_matrix_view *positions; /* host; or NULL */
    const uint32_t *position;                 /* [T] */
    const float *added;                       /* [H] or NULL */
    float *out;                               /* [T,H] */
} cuda_embed_args;

int cuda_embed(const cuda_embed_args *args, void *stream);

/* ---- norm (cuda_norm.cu): as kern_norm ---- */

typedef struct cuda_norm_args {
    const float *in;      /* [T,H] */
    const uint32_t *rows; /* [count] or NULL */
    uint32_t count, width;
    const float *weight; /* [H] */
    const float *bias;   /* [H] or NULL */
    float eps;
    float *kept;     /* [count,H] or NULL; may be `in` */
    float *residual; /* [count,H]: y is added here and `out` is NULL; or NULL */
    uint16_t *out;   /* [count,H] */
} cuda_norm_args;

int cuda_norm(const cuda_norm_args *args, void *stream);

/* ---- pool_states (cuda_pool_states.cu): as kern_pool_states ---- */

typedef struct cuda_pool_states_args {
    cuda_batch batch;
    const float *in; /* [T,width] */
    uint32_t width;
    kern_pooling pooling;
    bool normalise;
    float *out; /* [R,width] */
} cuda_pool_states_args;

int cuda_pool_states(const cuda_pool_states_args *args, void *stream);

/* ---- ranks (cuda_rank_sum.cu, cuda_place_columns.cu): as kern_rank_sum and kern_place_columns ---- */

typedef struct cuda_rank_sum_args {
    const float *in; /* [ranks, count] */
    uint32_t ranks;
    uint64_t count;
    bool tree, residual;
    float *out; /* [count] */
} cuda_rank_sum_args;

int cuda_rank_sum(const cuda_rank_sum_args *args, void *stream);

typedef struct cuda_place_columns_args {
    const float *in; /* [rows, cols] */
    uint32_t rows, cols, first, out_cols;
    float *out; /* [rows, out_cols] */
} cuda_place_columns_args;

int cuda_place_columns(const cuda_place_columns_args *args, void *stream);

/* ---- linear (cuda_linear.cu): as kern_linear ---- */

typedef struct cuda_linear_args {
    const uint16_t *in; /* [T,K] bf16, in its own order */
    uint32_t token_count;
    uint32_t matrix_count;
    const struct cuda_matrix_view *matrix[LINEAR_MATRICES_MAX]; /* host */
    const float *bias[LINEAR_MATRICES_MAX];                     /* or NULL */
    const kern_parts *parts;                                    /* host; or NULL */
    kern_epilogue epilogue;
    float softcap;
    /* Updates of adapters, from cuda_lora; NULL: no token has one. delta [T, rows of all matrices] is read
     * only where updated[t] is not 0: y = W x + delta. */
    const float *delta;
    const uint8_t *updated; /* [T] */
    /* Of matrix i and token t, magnitude and bias of its adapter: [T, matrix_count] pointers, entries or
     * the array NULL: y = ((W x + delta) * magnitude + bias[i]) + lora_bias. Where delta is. */
    const float *const *magnitude;
    const float *const *lora_bias;
    void *out; /* [T, rows of all]; gated: [T, rows] */
    /* As cuda_linear_workspace says; NULL when that is 0. */
    void *work;
    void *stack; /* as cuda_linear_stack says, where there are parts */
} cuda_linear_args;

int cuda_linear(const cuda_linear_args *args, void *stream);

/* What the current device runs of this file, and so of all that were compiled as it was: the capability that its
 * instructions are of, and that of the PTX they come from, each times ten. The two differ where a driver made
 * instructions for a device that is newer than the build. */
typedef struct cuda_code {
    int binary, ptx;
} cuda_code;

int cuda_linear_code(cuda_code *out);

/* Bytes of `work` for linears of at most tokens_max tokens over a matrix (host) and others of its shape; mostly 0. */
uint64_t cuda_linear_workspace(const struct cuda_matrix_view *matrix, uint32_t tokens_max);
/* Bytes of `stack` for linears with parts, of so many rows and tokens at most; 0 where the current device has
 * shared memory for it. */
uint64_t cuda_linear_stack(uint32_t rows, uint32_t tokens_max);

/* ---- rope_store (cuda_rope_store.cu): as kern_rope_store ---- */

typedef struct cuda_rope_store_args {
    cuda_batch batch;
    float *qkv; /* [T, (heads + 2*kv_heads) * D] */
    uint32_t heads;
    uint32_t rotary;
    bool interleaved;
    const float *cos_sin;
    const float *long_cos_sin;    /* or NULL */
    const float *q_norm, *k_norm; /* or NULL */
    float norm_eps;
    cuda_kv_layer kv;
} cuda_rope_store_args;

int cuda_rope_store(const cuda_rope_store_args *args, void *stream);

/* ---- attention (cuda_attention.cu): as kern_attention ---- */

/* What a plan depends on besides the batch: layers of one kind share theirs. */
typedef struct cuda_attention_kind {
    uint32_t heads, kv_heads, head_dim; /* of this rank; head_dim even, <= CUDA_HEAD_DIM_MAX */
    uint32_t window;
    bool bidirectional;
    uint64_t work_bytes; /* of `work`; with less of it fewer sequences are split, that is all */
} cuda_attention_kind;

enum {
    CUDA_HEAD_DIM_MAX = 256,
    CUDA_ATTENTION_WORK_BYTES = 50331648, /* splits 32 sequences of 8k tokens of 32 heads */
};

/* The work of a step's attention (cuda_attention_plan.h), made on the host once per step for each kind
 * and copied with the batch. Plain bytes, aligned to 4; a replayed graph reads the next plan at the old
 * address. Bytes that it takes at most for batches of so many tokens. */
uint64_t cuda_attention_plan_max(const cuda_attention_kind *kind, uint32_t tokens);
/* Writes it to host memory; the bytes that are to be copied. */
uint64_t cuda_attention_plan_make(const cuda_attention_kind *kind, const step_batch *batch,
                                  void *plan);

typedef struct cuda_attention_args {
    cuda_batch batch; /* only tables, seq_count and table_stride are read */
    cuda_attention_kind kind;
    const float *qkv; /* [T, (heads + 2*kv_heads) * D] */
    float scale;
    float softcap;
    cuda_kv_layer kv;
    const void *plan; /* device copy of the plan */
    /* host: the same bytes, to size the grid. NULL: the launch is captured; it then serves every plan of
     * a batch in which no sequence has more than one token. */
    const void *host_plan;
    void *work;    /* kind.work_bytes */
    uint16_t *out; /* [T, heads * D] */
} cuda_attention_args;

int cuda_attention(const cuda_attention_args *args, void *stream);

/* ---- adapters (cuda_lora.cu) ---- */

/* The segments of one linear, as they are staged each step: which tokens have which update (cuda_lora.h). The
 * bytes of the table of so many tokens; and filling it, in host memory, from where it is copied to a multiple
 * of 64 bytes. A table of no segments is valid and does nothing. Where the updates lie now is read then. */
uint64_t cuda_lora_table_bytes(const kern_lora_segment *segments, uint32_t count, uint32_t tokens);
void cuda_lora_table(const kern_lora_segment *segments, uint32_t count, uint32_t tokens,
                     void *table);
/* Whether some update has a magnitude: then the op needs cuda_lora_args.magnitude and lora_bias. */
bool cuda_lora_has_magnitude(const kern_lora_segment *segments, uint32_t count);

/* Bytes of `states`, for at most so many tokens and columns. */
uint64_t cuda_lora_workspace(uint32_t tokens_max, uint32_t cols_max);
/* Bytes of `whole`, for updates packed with piece_max: nearly always 0, then it may be NULL. */
uint64_t cuda_lora_whole_bytes(uint32_t tokens, uint32_t rows_of_all, uint32_t rows_largest,
                               uint64_t piece_max);

typedef struct cuda_lora_args {
    const uint16_t *in; /* [T,K] bf16 */
    uint32_t token_count, cols;
    uint32_t matrix_count, rows[LINEAR_MATRICES_MAX];
    const void *table; /* device copy; its token_count is this one */
    const void *host_table; /* host: the same bytes, to size the grid; NULL: captured, any table fits */
    float *states;
    float *delta;     /* [T, rows of all]: all of a token that has an update, nothing else is written */
    uint8_t *updated; /* [T], all written: 1 where delta is */
    /* [T, matrix_count], all written, NULL where there is none; or both NULL: no update has a magnitude. A
     * bias without a magnitude is in delta already. */
    const float **magnitude, **lora_bias;
    float *whole; /* room for magnitudes and biases that no piece can hold in one; or NULL */
} cuda_lora_args;

int cuda_lora(const cuda_lora_args *args, void *stream);

/* ---- pages (cuda_page_copy.cu): as kern_move_frames ---- */

typedef struct cuda_move_frames_args {
    const void *from;
    void *to;
    const uint32_t *from_frames, *to_frames; /* [count]; NULL: 0, 1, 2 .. */
    uint32_t count;
    uint64_t frame_bytes; /* a multiple of 64, or cudaErrorInvalidValue */
} cuda_move_frames_args;

int cuda_move_frames(const cuda_move_frames_args *args, void *stream);

/* ---- sample (cuda_sample.cu): one token out of each row, the one that engine/sample.c picks ---- */

enum { CUDA_SAMPLE_TOP = 20 };

/* One row's policy: sample_policy (engine/sample.h), checked, with its lists in device memory. All zero: greedy. */
typedef struct cuda_sample_row {
    float temperature; /* 0: greedy */
    uint32_t top_k;    /* 0: off */
    float top_p, min_p;
    float repetition_penalty, presence_penalty, frequency_penalty;
    uint32_t position; /* of the token that is picked */
    uint64_t seed;
    const int32_t *history; /* prompt, then output; ids as in cuda_batch; for penalties only */
    uint32_t prompt_count, history_count;
    const sample_bias *bias; /* [bias_count] */
    uint32_t bias_count;
    uint32_t top_logprobs; /* 0..CUDA_SAMPLE_TOP */
    const uint32_t *mask;  /* [(vocab + 31) / 32] bits of ids that may be picked; NULL: all */
    bool logprobs;
} cuda_sample_row;

typedef struct cuda_sample_args {
    const float *logits; /* [R,V]; read only */
    uint32_t row_count, vocab;
    const cuda_sample_row *row; /* [R] */
    const int32_t *sampled;     /* as in cuda_embed_args, for histories */
    void *work;                 /* cuda_sample_workspace bytes, whatever they hold */
    int32_t *ids;               /* [R]; -1: no finite logit that may be picked */
    float *logprob;             /* [R] of the one picked, in the logits as they are; 0 unless wanted */
    int32_t *top_ids;           /* [R,CUDA_SAMPLE_TOP] best first; -1 behind the last */
    float *top_logprobs;        /* [R,CUDA_SAMPLE_TOP] */
} cuda_sample_args;

int cuda_sample(const cuda_sample_args *args, void *stream);
uint64_t cuda_sample_workspace(uint32_t rows, uint32_t vocab);

#ifdef __cplusplus
}
#endif

#endif
