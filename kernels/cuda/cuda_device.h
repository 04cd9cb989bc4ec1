/* cuda_device.h - an opened CUDA device: the inside of the backend, shared by its host files.
 *
 *   cuda.c        open, close, probe, the table
 *   cuda_memory.c buffers, copies, workspaces, faults
 *   cuda_step.c   what a step's ops read: the batch and other host arrays, staged in device memory
 *   cuda_replay.c steps that are remembered as graphs
 *   cuda_sample_host.c kernels.h's sample: policies there, tokens back
 *   cuda_ops.c    an op of kernels.h -> a launcher of cuda_launch.h
 *
 * Streams  `stream` has all ops and all copies of the owner thread, in order; `copies` those of
 *          upload_beside, which nothing waits for but its caller.
 * Memory   Workspaces grow where they are asked for more than they have, which reserve does for all steps
 *          beforehand; graphs that knew the old ones are forgotten then. No graph knows those of sample.
 * Faults   The first one stays; from then on nothing is launched, and sync tells it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CUDA_DEVICE_H
#define ESPALIER_CUDA_DEVICE_H

#include <cuda_runtime_api.h>
#include <stdatomic.h>

#include "kernels/cuda/cuda_launch.h"

/* A linear with updates is computed for so many tokens at a time, as their sums take a float for each output: 59 MB
 * of a gate and up of 14,336 rows each, where a prefill of 2,048 tokens would take 235 MB. */
enum { CUDA_UPDATED_TOKENS = 512 };

/* The first call that failed. */
typedef struct cuda_fault {
    _Atomic uint32_t state; /* 0 none, 1 being written, 2 there */
    cudaError_t code;
    const char *call, *file;
    int line;
} cuda_fault;

/* Device memory that grows. */
typedef struct cuda_room {
    void *at;
    uint64_t bytes;
} cuda_room;

struct cuda_step;
struct cuda_replay;

struct kern_device {
    struct thread_pool *pool; /* borrowed */
    int index;                /* as the runtime counts */
    uint32_t tokens_max;
    bool replays; /* steps may be remembered */
    uint32_t (*least)(void *arg, uint32_t own); /* as in kern_options */
    void *least_arg;
    bool kv_int8; /* keys and values are codes with scales; else bf16 */
    char profile[72];
    cudaStream_t stream, copies;
    cuda_fault fault;
    struct cuda_step *step;
    struct cuda_replay *replay;

    /* Workspaces, each of one op at a time. */
    cuda_room attention, linear;
    cuda_room stack; /* of linears with parts (cuda_linear_stack) */
    cuda_room lora_states, lora_delta, lora_updated, lora_pointers, lora_whole;
    struct cuda_stage *stage;  /* for what is packed; NULL until then (cuda_stage.c) */
    struct cuda_order *orders; /* of packed matrices, each once (cuda_order.c) */
    cuda_room sample_work, sample_rows, sample_picks;
    cuda_room sampled;            /* the ids of the last step whose rows were all picked, by row */
    struct cuda_sampler *sampler; /* cuda_sample_host.c */
    uint64_t linear_bytes; /* what `linear` has to have for the matrices that were packed */
    uint64_t lora_piece;   /* the least piece_max of the updates seen; 0: none were */
    bool lora_magnitudes;  /* one of them had one */
};

/* ---- faults (cuda_memory.c) ---- */

/* Whether a call went well; the first one that did not is kept. Any thread. */
bool cuda_noted(kern_device *dev, cudaError_t code, const char *call, const char *file, int line);
#define CUDA_OK(dev, call) cuda_noted(dev, (cudaError_t)(call), #call, __FILE__, __LINE__)
static inline bool cuda_is_well(const kern_device *dev) {
    return atomic_load_explicit(&dev->fault.state, memory_order_acquire) == 0;
}
/* The fault as an error, or ESP_OK. */
esp_code cuda_tell_fault(kern_device *dev, esp_error *err);

/* Makes it this thread's device. */
void cuda_use(kern_device *dev);

/* ---- memory (cuda_memory.c) ---- */

/* At least so many bytes; NULL when there is a fault, or none are left, which is one. */
void *cuda_need(kern_device *dev, cuda_room *room, uint64_t bytes);
/* The same of a room that no graph knows, outside of steps: none is forgotten, and what grows step by step is
 * taken ever more rarely (cuda_with_spare). */
void *cuda_need_apart(kern_device *dev, cuda_room *room, uint64_t bytes);
/* What is taken where there is `had` and `bytes` are wanted, which are more: twice as much, if that is enough. */
static inline uint64_t cuda_with_spare(uint64_t had, uint64_t bytes) {
    return bytes > 2 * had ? bytes : 2 * had;
}
void cuda_room_close(cuda_room *room);

/* Linears over this matrix will need their workspace (cuda_linear_workspace); for pack and open_image. */
void cuda_expect_matrix(kern_device *dev, const struct cuda_matrix_view *matrix);

esp_code cuda_alloc(kern_device *dev, size_t bytes, void **out, esp_error *err);
void cuda_release(kern_device *dev, void *memory, size_t bytes);
void cuda_upload(kern_device *dev, void *to, const void *from_host, size_t bytes);
void cuda_upload_beside(kern_device *dev, void *to, const void *from_host, size_t bytes);
void cuda_download(kern_device *dev, void *to_host, const void *from, size_t bytes);
const void *cuda_view(kern_device *dev, const void *from, size_t bytes, void *room);
void *cuda_host_take(const kern_device *dev, size_t bytes);
void cuda_host_give(const kern_device *dev, void *memory, size_t bytes);
void cuda_memory(const kern_device *dev, kern_memory *out);
esp_code cuda_reserve(kern_device *dev, const kern_reserve *most, esp_error *err);

/* ---- matrices (cuda_pack.c) ---- */

esp_code cuda_pack(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                   esp_error *err);
kern_matrix_shape cuda_shape(const kern_matrix *matrix);
esp_code cuda_image(const kern_matrix *matrix, kern_image *out, esp_error *err) ESP_CHECKED;
esp_code cuda_open_image(kern_device *dev, const kern_image *image, kern_matrix **out,
                         esp_error *err);
void cuda_matrix_close(kern_device *dev, kern_matrix *matrix);
size_t cuda_matrix_bytes(const kern_matrix *matrix);

/* Pinned memory for so many bytes, which cuda_stage_send then copies to the device, without waiting; the owner
 * thread. NULL: there is none, or a fault. */
void *cuda_stage_next(kern_device *dev, uint64_t bytes);
void cuda_stage_send(kern_device *dev, void *to, uint64_t bytes);
void cuda_stage_close(kern_device *dev);

/* The order that these inputs are, taken into the list if it is new; for pack and open_image. */
esp_code cuda_order_take(kern_device *dev, const uint32_t *inputs, uint32_t cols,
                         struct cuda_order **out, esp_error *err);
void cuda_order_drop(kern_device *dev, struct cuda_order *order); /* NULL is fine */

/* ---- sampling (cuda_sample_host.c) ---- */

bool cuda_run_sample(kern_device *dev, const kern_sample *op);
bool cuda_run_sampled(kern_device *dev, const kern_sample *op);
void cuda_sample_open(kern_device *dev);
/* Room for the rows of a step and the longest lists that they can have, up to a bound. */
void cuda_reserve_sample(kern_device *dev, const kern_reserve *most);
void cuda_sample_close(kern_device *dev);

/* ---- ops (cuda_ops.c) ---- */

void cuda_run_embed(kern_device *dev, const kern_embed *op);
void cuda_run_norm(kern_device *dev, const kern_norm *op);
void cuda_run_linear(kern_device *dev, const kern_linear *op);
void cuda_run_rope_store(kern_device *dev, const kern_rope_store *op);
void cuda_run_attention(kern_device *dev, const kern_attention *op);
void cuda_run_pool_states(kern_device *dev, const kern_pool_states *op);
void cuda_run_rank_sum(kern_device *dev, const kern_rank_sum *op);
void cuda_run_place_columns(kern_device *dev, const kern_place_columns *op);
void cuda_run_move_frames(kern_device *dev, const kern_move_frames *op);

#endif
