/* kernels.h - the op table: all arithmetic of a forward pass, one entry a fused op.
 *
 * A backend (ref, cpu, cuda) is one const table with every entry filled; choosing a device is
 * choosing a table. kernels/ref is the readable truth, float32 throughout; the others are held to
 * it by tests/unit/test_kernels.c. An op runs over the whole step batch and never asks whether a token is
 * prefill or decode. Law 1: a row's result depends on that row alone, never on how many ride along,
 * nor on the thread count: fixed shapes, fixed order of every sum, no atomics on floats.
 *
 * Memory   `void *` buffers come from alloc and hold elements of one kern_kind; only the backend knows
 *          their layout in bytes. They need not be host memory: upload, download and view lead there.
 *          What an op's comment calls host (ids, rows, the batch) is read before the op returns.
 * Steps    the ops of one forward pass stand between step_begin and step_end; others stand alone. A device that runs
 *          beside the host does all in the order of the calls, so that a step may be launched before
 *          the one before it is collected.
 * Thread   one owner thread per device calls everything but what says "any thread".
 * Errors   open, alloc and pack can fail; ops assert their shapes and cannot, device faults are sticky and
 *          come from sync. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_KERNELS_H
#define ESPALIER_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/batch.h"
#include "engine/base/quant.h"
#include "engine/base/sampling.h"
#include "engine/base/status.h"

struct thread_pool;

typedef struct kern_device kern_device; /* opaque: one opened backend */
typedef struct kern_matrix kern_matrix; /* opaque: a weight matrix, packed as the backend likes */

/* What a buffer's elements are. */
typedef enum kern_kind {
    KIND_F32, /* float32 everywhere: residual stream, q/k/v before attention, logits, norm weights */
    KIND_ACT, /* input of a linear: float32 on ref, bf16 on cpu and cuda */
} kern_kind;

typedef enum kern_level { LEVEL_AUTO, LEVEL_AVX2, LEVEL_AVX512, LEVEL_AMX } kern_level;

/* How a linear takes its inputs; ref has float32 alone. */
typedef enum kern_activations {
    ACT_BF16,
    ACT_INT8, /* cpu: blocks of 32 codes with a scale (kernels/cpu/integer/int8.h) */
} kern_activations;

/* As --kv-dtype has it. */
static inline const char *kern_kv_name(esp_dtype kv_dtype) {
    return kv_dtype == DT_BF16      ? "bf16"
           : kv_dtype == DT_F32     ? "f32"
           : kv_dtype == DT_KV_INT8 ? "int8"
                                    : dtype_info(kv_dtype)->name;
}

typedef struct kern_options {
    struct thread_pool *pool; /* borrowed; outlives the device */
    kern_level level;         /* cpu: which instructions; AUTO picks the best this machine has */
    /* cpu: DT_BF16 or DT_F32; cuda: DT_BF16 or DT_KV_INT8; ref: DT_F32 or DT_KV_INT8 (rope_store) */
    esp_dtype kv_dtype;
    kern_activations activations;
    uint32_t tokens_max;      /* most tokens of a batch: sizes the workspace, taken at open */
    uint32_t index;           /* which of the backend's devices; ref and cpu have one */
    bool no_replay; /* every step calls its ops (kern_step.repeats); tests compare both ways */
    /* Of a rank whose exchanges with others go between the ops of a step: the least of what all ranks say. All call
     * it alike, for they have to remember and replay the same steps. NULL: there are no others. */
    uint32_t (*least)(void *arg, uint32_t own);
    void *least_arg;
} kern_options;

/* The memory that alloc takes from. */
typedef struct kern_memory {
    uint64_t free, total; /* bytes */
    bool shared;          /* with everything else on this machine: it is host memory */
} kern_memory;

/* The most that a model's steps will be. */
typedef struct kern_reserve {
    uint32_t tokens, seqs, rows; /* rows: batch->row_count */
    uint32_t groups, table_stride;
    uint32_t heads, kv_heads, head_dim;
    /* Of linears that adapters touch: most outputs at once (tokens times rows of all matrices) and most
     * inputs; 0: no step has adapters. */
    uint64_t lora_outputs;
    uint32_t lora_cols;
    uint32_t logit_rows, vocab; /* of kern_sample; 0: none comes */
    uint32_t part_rows; /* rows of the largest matrix that comes with kern_parts; 0: none does */
} kern_reserve;

/* One forward pass. */
typedef struct kern_step {
    const step_batch *batch; /* not changed until step_end */
    /* Some sequence has an adapter; then the linears of all steps that have are called with segments or
     * without, as it happens. */
    bool adapters;
    /* The step's ops are the same, in the same order and over the same buffers, as those of every such
     * step of equal counts and equal `adapters`, but for the contents of the batch and for segments. */
    bool repeats;
    /* Set by step_begin where ops are computed for more tokens than the batch has, so that what goes between them
     * is, too: as many. NULL: nothing does. */
    uint32_t *computed;
} kern_step;

typedef struct kern_matrix_desc {
    esp_dtype dtype;
    uint32_t rows;    /* N, outputs */
    uint32_t cols;    /* K, inputs; a multiple of the format's block_elements */
    const void *data; /* rows one after another, blocks as in the file; read during pack only */
    /* Column c of the rows meets input order[c]: [K], each input once; read during pack only. NULL:
     * inputs in their own order. */
    const uint32_t *order;
    bool output; /* of the logits, maybe of the embedding too: few tokens of a step meet it */
} kern_matrix_desc;

/* What a packed matrix is of. */
typedef struct kern_matrix_shape {
    esp_dtype dtype;
    uint32_t rows, cols;
} kern_matrix_shape;

/* A packed matrix as it lies in memory, for a file that keeps it. */
typedef struct kern_image {
    esp_dtype dtype;
    uint32_t rows, cols;
    const uint32_t *order; /* [K], or NULL */
    const void *bytes;     /* for open_image 64-byte aligned */
    uint64_t count;
    bool output; /* as packed; no file keeps it: whoever opens the image knows what it is of */
} kern_image;

/* The shape of the pages of one page group. A frame holds, for each of its layers, K then V, each
 * kv_heads blocks of KV_PAGE_TOKENS x head_dim elements in the order that the backend likes. */
typedef struct kern_kv_shape {
    uint32_t layers;   /* layers of the group (frames of all groups are equal in size) */
    uint32_t kv_heads; /* of this rank */
    uint32_t head_dim;
} kern_kv_shape;

/* One layer's view of the pages. */
typedef struct kern_kv_layer {
    void *arena;            /* frame 0; from alloc, frame_count * frame_bytes */
    size_t frame_bytes;     /* kern_ops.frame_bytes of the shape */
    const kern_kv_shape *shape;
    uint32_t group;         /* which block tables of the batch */
    uint32_t layer;         /* index inside the group */
} kern_kv_layer;

/* out[t,:] = scale * row ids[t] of the table (+ row position[t] of the positions) (+ added), as float32 */
typedef struct kern_embed {
    const kern_matrix *table; /* [V,H] */
    const int32_t *ids;       /* [T] host, 0 <= id < V; or as in step_batch */
    uint32_t token_count;
    float scale;
    const kern_matrix *positions; /* [P,H] learned ones, or NULL */
    const uint32_t *position;     /* [T] host, < P; read with positions only */
    const void *added;            /* [H] F32, to every token; or NULL */
    void *out; /* [T,H] F32 */
} kern_embed;

/* RMSNorm (arXiv:1910.07467): y[i,:] = x * rsqrt(mean(x^2) + eps) * weight, x = in[rows ? rows[i] : i,:].
 * LayerNorm (arXiv:1607.06450), when a bias is given: the same of x - mean(x), plus bias.
 * out = y, an input of a linear; or, for a norm that stands behind a sublayer, out = out + y in the
 * residual stream. The means are summed in a fixed order in float32 or wider. */
typedef struct kern_norm {
    const void *in; /* [T,H] F32 */
    const uint32_t *rows; /* [count] host, or NULL for all */
    uint32_t count, width;
    const void *weight; /* [H] F32 */
    const void *bias;   /* [H] F32: LayerNorm; NULL: RMSNorm */
    float eps;
    bool residual; /* add to out instead; RMSNorm only */
    void *kept;    /* [count,H] F32: y in full as well; may be `in` when rows is NULL. NULL: not kept */
    void *out;     /* [count,H] ACT; residual: F32 */
} kern_norm;

typedef enum kern_epilogue {
    EPI_STORE,    /* out = y                      (out F32) */
    EPI_RESIDUAL, /* out = out + y                (out F32) */
    EPI_SILU_MUL, /* two matrices g,u of equal shape: out = silu(g) * u  (out ACT) */
    EPI_GELU_MUL, /* the same with gelu in its tanh form (arXiv:1606.08415, section 2) */
    EPI_SOFTCAP,  /* out = softcap * tanh(y / softcap)  (out F32) */
    EPI_GELU,     /* out = gelu(y), tanh form     (out ACT) */
    EPI_GELU_ERF, /* out = y * (1 + erf(y / sqrt(2))) / 2, the exact form (out ACT) */
} kern_epilogue;

/* Gate and up matrices are combined, not set side by side. */
static inline bool kern_is_gated(kern_epilogue epilogue) {
    return epilogue == EPI_SILU_MUL || epilogue == EPI_GELU_MUL;
}
/* What is written is the input of a linear. */
static inline bool kern_gives_act(kern_epilogue epilogue) {
    return kern_is_gated(epilogue) || epilogue == EPI_GELU || epilogue == EPI_GELU_ERF;
}

/* Which of a model's linears it is: for those who measure (op_timer.h), no arithmetic looks at it. */
typedef enum kern_role {
    ROLE_NONE,
    ROLE_QKV,
    ROLE_ATTENTION_OUT,
    ROLE_GATE_UP, /* of an MLP without a gate: up */
    ROLE_DOWN,
    ROLE_HEAD, /* hidden state to logits */
} kern_role;

enum {
    LINEAR_MATRICES_MAX = 3,
    LORA_RANK_MAX = 512,
    LORA_PIECE_MIN = 4096, /* bytes; the least piece_max */
};

/* The low-rank update of one adapter at one linear (LoRA, arXiv:2106.09685). With part i of matrix i,
 *   y[t,:] = ((W x[t,:] + scale * B (A x[t,:])) * magnitude + base's bias) + bias
 * before the epilogue; x in its own order, whatever order the matrix has. All values are finite. */
typedef struct kern_lora_part {
    uint32_t rank;          /* 0..LORA_RANK_MAX; 0: neither a nor b */
    uint32_t rows;          /* N of the base's matrix; 0: as if the part said nothing */
    float scale;            /* alpha / rank, or as the adapter says */
    const float *a;         /* [rank, K] */
    const float *b;         /* [N, rank] */
    const float *bias;      /* [N], or NULL */
    const float *magnitude; /* [N]: DoRA (arXiv:2402.09353), a row's magnitude over its norm; or NULL */
} kern_lora_part;

/* All memory is host memory, read during lora_pack only. */
typedef struct kern_lora_desc {
    uint32_t cols;       /* K */
    uint32_t part_count; /* at most as many as the linear has matrices */
    kern_lora_part part[LINEAR_MATRICES_MAX];
} kern_lora_desc;

/* A packed update: its shape, and where its pieces lie now. They may be moved as they are between steps. */
typedef struct kern_lora {
    uint32_t cols, part_count;
    struct {
        uint32_t rank, rows;
        float scale;
        bool bias, magnitude;
    } part[LINEAR_MATRICES_MAX];
    size_t piece_max;     /* that it was packed with */
    void *const *pieces;  /* [as many as lora_pieces says], each 64-byte aligned */
} kern_lora;

/* The update of a desc once packed; `pieces` stays the caller's. */
static inline kern_lora kern_lora_of(const kern_lora_desc *desc, size_t piece_max,
                                     void *const *pieces) {
    kern_lora lora = {.cols = desc->cols,
                      .part_count = desc->part_count,
                      .part = {{0, 0, 0, false, false}},
                      .piece_max = piece_max,
                      .pieces = pieces};
    for (uint32_t i = 0; i < desc->part_count; i++) {
        const kern_lora_part *part = &desc->part[i];
        lora.part[i].rank = part->rank;
        lora.part[i].rows = part->rows;
        lora.part[i].scale = part->scale;
        lora.part[i].bias = part->bias != NULL;
        lora.part[i].magnitude = part->magnitude != NULL;
    }
    return lora;
}

/* Neighbouring tokens (rows of a linear's input) of one adapter. */
typedef struct kern_lora_segment {
    uint32_t first, count;
    const kern_lora *lora; /* NULL: the base alone */
} kern_lora_segment;

enum {
    KERN_PARTS_MAX = 8,
    KERN_PART_COLUMNS = 64, /* parts end at multiples of it, or with the matrix */
};

/* A sum over the columns of a matrix that ranks may share, so defined that its bits do not depend on how many
 * do: each part of the columns is summed from 0, in the order of the backend; then neighbours are added two by
 * two, ((p0 + p1) + (p2 + p3)) + ... What a rank has is a node of that tree; kern_rank_sum adds the nodes. */
typedef struct kern_parts {
    uint32_t whole; /* of the model's matrix: 1, 2, 4 or 8; 0: its sums have no such order */
    uint32_t count; /* of them, here: whole, or a half of it, .. */
    uint32_t end[KERN_PARTS_MAX]; /* [count] ascending columns; the last is the matrix's end */
} kern_parts;

/* y[t,:] = W x[t,:] (+ bias). Up to three matrices share the input; their outputs are consecutive columns
 * of out or, in the gated epilogues, are combined. */
typedef struct kern_linear {
    const void *in; /* [T,K] ACT */
    uint32_t token_count;
    const kern_matrix *matrix[LINEAR_MATRICES_MAX];
    const void *bias[LINEAR_MATRICES_MAX]; /* [rows of that matrix] F32, or NULL */
    uint32_t matrix_count;
    /* Of the only matrix, with a plain epilogue, without an order of its own; NULL: in the order of the backend. */
    const kern_parts *parts;
    kern_epilogue epilogue;
    float softcap; /* EPI_SOFTCAP: > 0 */
    kern_role role;
    /* Tokens with an update: ascending, disjoint, gaps allowed. lora_count 0 costs nothing, and a token
     * without one has the bits it has then. */
    const kern_lora_segment *lora;
    uint32_t lora_count;
    /* Those of the linear that comes next, where it is known: a hint, to fetch them meanwhile. */
    const kern_lora_segment *lora_next;
    uint32_t lora_next_count;
    void *out;     /* [T, sum of rows] (gated: [T, rows]) */
} kern_linear;

#define KV_INT8_LEAST 1e-30f /* see below */

/* Norms q and k where weights are given (RMSNorm over each head), rotates both by position and stores k
 * and v into the pages.
 *   qkv[t] = q [heads,D] | k [kv_heads,D] | v [kv_heads,D]; q is changed in place.
 * The first `rotary` dims of each head turn: pairs (2i, 2i+1) if interleaved, else (i, i + rotary/2);
 * with rotary 0 nothing turns, and there are no tables.
 * cos_sin[p][i] = (cos, sin) of position p, pair i (RoFormer, arXiv:2104.09864). A model may have a second
 * table for sequences that outgrew its first context (LongRoPE, arXiv:2402.13753).
 *
 * DT_KV_INT8: of a key or value x [D] of one head of one token, and of nothing else,
 *   x[i] ~ scale * code[i],  scale = max |x| / 127,  code[i] = x[i] * (127 / max |x|), to nearest even
 * in float32; of a maximum below KV_INT8_LEAST scale and codes are 0, of one that is infinite or NaN
 * the scale is so and codes are 0. */
typedef struct kern_rope_store {
    const step_batch *batch;
    void *qkv; /* [T, (heads + 2*kv_heads) * D] F32 */
    uint32_t heads;
    uint32_t rotary; /* even, <= D */
    bool interleaved;
    const void *cos_sin; /* [max_context, rotary/2, 2] F32 */
    const void *long_cos_sin; /* the same for sequences whose batch->seq_long is 1; NULL: no such table */
    const void *q_norm, *k_norm; /* [D] F32, both or neither */
    float norm_eps;
    kern_kv_layer kv;
} kern_rope_store;

/* Causal attention over pages: for each token t at position p and query head h,
 *   out[t,h,:] = sum_j softmax_j(cap(scale * q[t,h] . k[j, h/G])) v[j, h/G],  j in (p - window, p]
 * with G = heads / kv_heads; window 0 = no window; cap(s) = softcap * tanh(s / softcap), or s. Keys are walked in position order in blocks that begin
 * at absolute multiples of KV_PAGE_TOKENS, so that chunking changes no bit.
 * Bidirectional: j in all of the sequence, which the batch must hold whole; no window. */
typedef struct kern_attention {
    const step_batch *batch;
    const void *qkv; /* [T, (heads + 2*kv_heads) * D] F32, after rope_store; only q is read */
    uint32_t heads;
    float scale;
    float softcap; /* 0: none */
    uint32_t window;
    bool bidirectional;
    kern_kv_layer kv;
    void *out; /* [T, heads * D] ACT */
} kern_attention;

/* One vector for a sequence out of the states of its tokens: their mean, or the first's or the last's;
 * then divided by its own length in the sense of L2, at least 1e-12, if `normalise`. */
typedef enum kern_pooling { POOL_NONE, POOL_MEAN, POOL_FIRST, POOL_LAST } kern_pooling;

/* Row i is of the sequence whose last token is batch->rows[i]. Mean and first want the batch to hold
 * the sequence whole. Sums go token by token. */
typedef struct kern_pool_states {
    const step_batch *batch;
    const void *in; /* [T,width] F32 */
    uint32_t width;
    kern_pooling pooling; /* not POOL_NONE */
    bool normalise;
    void *out; /* [batch->row_count, width] F32 */
} kern_pool_states;

/* A token for each row of logits: what engine/sample.h's sample_pick says, to the last bit of the id. The
 * rows of a step come in pieces, one after another. */
typedef struct kern_sample {
    const void *logits; /* [row_count, vocab] F32 */
    uint32_t row_count, vocab;
    uint32_t first, step_rows; /* rows [first, first + row_count) of so many */
    sample_row *rows; /* [row_count] host; `logits` of a row is not read */
} kern_sample;

/* What the ranks of a tensor parallel replica each computed of one sum, added in the order of the ranks:
 *   s[i] = ((in[0][i] + in[1][i]) + in[2][i]) + ...   in float32
 * or, where they are nodes of a tree (kern_parts), two by two:
 *   s[i] = ((in[0][i] + in[1][i]) + (in[2][i] + in[3][i])) + ...
 * out = s, or out = out + s in the residual stream. */
typedef struct kern_rank_sum {
    const void *in; /* [ranks, count] F32 */
    uint32_t ranks;
    bool tree; /* ranks is 1, 2, 4 or 8 */
    size_t count;
    bool residual;
    void *out; /* [count] F32 */
} kern_rank_sum;

/* out[t, first + i] = in[t, i]: the columns of a matrix that one rank computed, among all. */
typedef struct kern_place_columns {
    const void *in; /* [rows, cols] F32 */
    uint32_t rows, cols;
    uint32_t first; /* first + cols <= out_cols */
    uint32_t out_cols;
    void *out; /* [rows, out_cols] F32 */
} kern_place_columns;

/* Frame from_frames[i] of `from` becomes frame to_frames[i] of `to`, whole: within the pages, out of them into a run
 * of frames, and back. What is read is not written. Not within a step. */
typedef struct kern_move_frames {
    const void *from;
    void *to;                                /* both from alloc; they may be the same */
    const uint32_t *from_frames, *to_frames; /* [count] host; NULL: 0, 1, 2 .. */
    uint32_t count;
    size_t frame_bytes; /* a multiple of 64 */
} kern_move_frames;

typedef struct kern_ops {
    const char *name; /* "ref", "cpu", "cuda" */
    bool beside; /* it runs beside the host, and picks tokens; else ops are done when they return */
    bool parts;  /* linear and rank_sum add as kern_parts says; else neither is asked to */
    ESP_CHECKED esp_code (*open)(kern_device **out, const kern_options *options, esp_error *err);
    void (*close)(kern_device *dev); /* NULL is fine; buffers and matrices are freed before */
    /* The part of the numeric profile that the backend decides: "cpu:avx512,act=bf16,kv=bf16". */
    const char *(*profile)(const kern_device *dev);
    /* Names what the device's images look like inside, as "cpu-tiles-1"; a new number at the end
     * whenever that changes. */
    const char *(*layout)(const kern_device *dev);

    size_t (*element_bytes)(const kern_device *dev, kern_kind kind);
    /* Zeroed device memory, 64-byte aligned. */
    ESP_CHECKED esp_code (*alloc)(kern_device *dev, size_t bytes, void **out, esp_error *err);
    void (*release)(kern_device *dev, void *memory, size_t bytes);
    void (*upload)(kern_device *dev, void *to, const void *from_host, size_t bytes);
    void (*download)(kern_device *dev, void *to_host, const void *from, size_t bytes);
    /* What lies at from, as host memory: from itself, or a copy in `room` (host_take, as many bytes). Waits
     * for the ops that write it. */
    const void *(*view)(kern_device *dev, const void *from, size_t bytes, void *room);
    /* Zeroed host memory that copies to and from the device are fast with and that ops may read as if it
     * were the device's, if slowly; NULL: there is none. 64-byte aligned. Any thread. */
    void *(*host_take)(const kern_device *dev, size_t bytes);
    void (*host_give)(const kern_device *dev, void *memory, size_t bytes);
    /* upload beside the ops that run, which touch none of it; any thread, one at a time. Done on return. */
    void (*upload_beside)(kern_device *dev, void *to, const void *from_host, size_t bytes);
    void (*memory)(const kern_device *dev, kern_memory *out);
    /* Takes what a step needs besides, so that none has to; at most once, outside of steps. */
    ESP_CHECKED esp_code (*reserve)(kern_device *dev, const kern_reserve *most, esp_error *err);

    /* Whether the device computes layers of this shape; asked before anything is packed. ESP_INVALID says what it
     * has and which flag mends it; ops assert. */
    ESP_CHECKED esp_code (*check_layers)(const kern_device *dev, const kern_kv_shape *shape,
                                         esp_error *err);
    /* Copies and packs; desc->data may go away afterwards. Uses the pool. */
    ESP_CHECKED esp_code (*pack)(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                                 esp_error *err);
    kern_matrix_shape (*shape)(const kern_matrix *matrix);
    /* The matrix's own memory, valid while it is open. A device with memory of its own makes a copy for it:
     * ESP_EXHAUSTED, or the device's fault. */
    ESP_CHECKED esp_code (*image)(const kern_matrix *matrix, kern_image *out, esp_error *err);
    /* A matrix over the bytes of an image, which outlive it and are only read. ESP_INVALID unless
     * shape and order are possible and count is what they take. */
    ESP_CHECKED esp_code (*open_image)(kern_device *dev, const kern_image *image, kern_matrix **out,
                                       esp_error *err);
    void (*matrix_close)(kern_device *dev, kern_matrix *matrix);
    size_t (*matrix_bytes)(const kern_matrix *matrix);

    /* A packed update lies in pieces of at most piece_max bytes (LORA_PIECE_MIN or more), which the caller
     * places anywhere, 64-byte aligned. How many, and the bytes of each into `bytes` unless it is NULL:
     * shape, bias and magnitude being there or not, and piece_max alone decide; 0 where nothing is
     * touched. Any thread. */
    uint32_t (*lora_pieces)(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                            size_t *bytes);
    /* Fills the pieces, to the last byte. Any thread, also while ops run on other pieces. */
    void (*lora_pack)(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                      void *const *pieces);

    /* Bytes of one frame of this shape; a multiple of 64. */
    size_t (*frame_bytes)(const kern_device *dev, const kern_kv_shape *shape);

    /* false: the step is one that the device remembers, and no op is to be called. step_end follows
     * either way, before anything else is done with the device. */
    bool (*step_begin)(kern_device *dev, const kern_step *step);
    /* false: nothing was computed; all of it once more, from step_begin on. */
    bool (*step_end)(kern_device *dev);

    void (*embed)(kern_device *dev, const kern_embed *op);
    void (*norm)(kern_device *dev, const kern_norm *op);
    void (*linear)(kern_device *dev, const kern_linear *op);
    void (*rope_store)(kern_device *dev, const kern_rope_store *op);
    void (*attention)(kern_device *dev, const kern_attention *op);
    void (*pool_states)(kern_device *dev, const kern_pool_states *op);
    /* Has the device pick; not within a step. The next step's batch may name the rows. false: it leaves that
     * to the host, which has the logits or has to have a digest of them; or there is a fault. */
    bool (*sample)(kern_device *dev, const kern_sample *op);
    /* Waits for the oldest of at most two steps whose rows were all given to sample, and fills the rows of op,
     * whose logits are not read; with the last piece the step is forgotten. false: a fault, which sync tells. */
    bool (*sampled)(kern_device *dev, const kern_sample *op);
    void (*rank_sum)(kern_device *dev, const kern_rank_sum *op);
    void (*place_columns)(kern_device *dev, const kern_place_columns *op);
    void (*move_frames)(kern_device *dev, const kern_move_frames *op);

    /* Waits for all ops; the first device fault since open, for ever after. */
    ESP_CHECKED esp_code (*sync)(kern_device *dev, esp_error *err);
} kern_ops;

extern const kern_ops kern_ref;
extern const kern_ops kern_cpu;
/* In no library of this folder: a program links esp_cuda, whose open may say what is missing. */
extern const kern_ops kern_cuda;
/* CUDA devices of this machine; 0: `why` says what is missing, with code ESP_UNIMPLEMENTED where the build has
 * no CUDA at all. */
uint32_t kern_cuda_count(esp_error *why);
/* Whether this one, counted from 0, is there and new enough to be opened: ESP_UNAVAILABLE or, without CUDA in the
 * build, ESP_UNIMPLEMENTED where there is none; ESP_OUT_OF_RANGE; ESP_INVALID of one that is too old. */
ESP_CHECKED esp_code kern_cuda_check(uint32_t index, esp_error *err);
/* How far two different devices are from each other, as the driver ranks links: 0 the fastest; KERN_LINK_NONE where
 * neither reaches the other's memory. */
enum { KERN_LINK_NONE = 1 << 20 };
uint32_t kern_cuda_link(uint32_t device, uint32_t other);
/* The cudaStream_t of all its ops, of a device that kern_cuda opened: for exchanges between ranks. */
void *kern_cuda_stream(kern_device *dev);
/* Whether its ops launch anything now: in a step whose launches it remembers they may not. */
bool kern_cuda_launches(const kern_device *dev);

/* Whether an image's dtype, shape and order can be those of a matrix; for the backends. */
bool kern_image_is_sane(const kern_image *image);

/* Whether an op's parts are what kern_linear says, of a matrix of so many columns. */
bool kern_parts_fit(const kern_linear *op, uint32_t cols);

/* What every backend's lora_pieces and lora_pack assert. */
bool kern_lora_is_sane(const kern_lora_desc *desc, size_t piece_max);
/* Whether an op's segments are what kern_linear says, and their updates of its shapes; rows: of each matrix. */
bool kern_lora_fits(const kern_linear *op, const uint32_t *rows, uint32_t cols);

/* The best CPU level of this machine (CPUID and XGETBV); LEVEL_AUTO when not even AVX2 is there. */
kern_level kern_cpu_best_level(void);

#endif
