/* cuda_memory.c - buffers, copies, workspaces and faults of a CUDA device. */
// SPDX-License-Identifier: Apache-2.0
#include <sched.h>
#include <string.h>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_replay.h"
#include "kernels/cuda/cuda_step.h"

/* ---- faults ---- */

bool cuda_noted(kern_device *dev, cudaError_t code, const char *call, const char *file, int line) {
    if (code == cudaSuccess) return true;
    uint32_t none = 0;
    if (atomic_compare_exchange_strong(&dev->fault.state, &none, 1)) {
        dev->fault.code = code;
        dev->fault.call = call;
        dev->fault.file = file;
        dev->fault.line = line;
        atomic_store_explicit(&dev->fault.state, 2, memory_order_release);
    }
    return false;
}

esp_code cuda_tell_fault(kern_device *dev, esp_error *err) {
    const cuda_fault *f = &dev->fault;
    if (cuda_is_well(dev)) return ESP_OK;
    while (atomic_load_explicit(&f->state, memory_order_acquire) == 1)
        sched_yield(); /* another thread is writing four words down */
    const char *file = strrchr(f->file, '/');
    file = file ? file + 1 : f->file;
    if (f->code == cudaErrorMemoryAllocation)
        return esp_fail_field(err, ESP_EXHAUSTED, "--step-tokens",
                              "cuda:%d: %s at %s:%d found no memory: lower --step-tokens or "
                              "--gpu-memory-utilization, or end what else uses the device",
                              dev->index, f->call, file, f->line);
    return esp_fail_field(err, ESP_UNAVAILABLE, "--device",
                          "cuda:%d: %s failed at %s:%d: %s; start again, and if that comes back "
                          "see the driver's log (dmesg, nvidia-smi -q) or use another --device",
                          dev->index, f->call, file, f->line, cudaGetErrorString(f->code));
}

void cuda_use(kern_device *dev) { (void)CUDA_OK(dev, cudaSetDevice(dev->index)); }

/* ---- buffers ---- */

static esp_code no_room(kern_device *dev, size_t bytes, esp_error *err) {
    kern_memory memory;
    cuda_memory(dev, &memory);
    return esp_fail_field(
        err, ESP_EXHAUSTED, "--device",
        "cuda:%d: %zu bytes are wanted, and of %llu MiB %llu are free: end what else uses the "
        "device, lower --kv-memory or --step-tokens, make the weights smaller with --quantize "
        "q4_k, share them out with --tp N, or use --device cpu",
        dev->index, bytes, (unsigned long long)(memory.total >> 20),
        (unsigned long long)(memory.free >> 20));
}

esp_code cuda_alloc(kern_device *dev, size_t bytes, void **out, esp_error *err) {
    cuda_use(dev);
    *out = NULL;
    cudaError_t code = cudaMalloc(out, bytes ? bytes : 1);
    if (code == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* not a fault: who asked for too much is told so */
        return no_room(dev, bytes, err);
    }
    if (!CUDA_OK(dev, code) || !CUDA_OK(dev, cudaMemsetAsync(*out, 0, bytes, dev->stream)) ||
        !CUDA_OK(dev, cudaStreamSynchronize(dev->stream)))
        return cuda_tell_fault(dev, err);
    return ESP_OK;
}

void cuda_release(kern_device *dev, void *memory, size_t bytes) {
    (void)bytes;
    if (!memory) return;
    cuda_use(dev);
    replay_forget(dev); /* which waits, too: a graph may know the memory */
    (void)CUDA_OK(dev, cudaFree(memory));
}

/* Waits, so that the host's memory is the caller's again. */
static void copy(kern_device *dev, void *to, const void *from, size_t bytes,
                 enum cudaMemcpyKind kind, cudaStream_t stream) {
    if (bytes == 0 || !cuda_is_well(dev)) return;
    cuda_use(dev);
    if (CUDA_OK(dev, cudaMemcpyAsync(to, from, bytes, kind, stream)))
        (void)CUDA_OK(dev, cudaStreamSynchronize(stream));
}

void cuda_upload(kern_device *dev, void *to, const void *from_host, size_t bytes) {
    copy(dev, to, from_host, bytes, cudaMemcpyHostToDevice, dev->stream);
}

void cuda_upload_beside(kern_device *dev, void *to, const void *from_host, size_t bytes) {
    copy(dev, to, from_host, bytes, cudaMemcpyHostToDevice, dev->copies);
}

void cuda_download(kern_device *dev, void *to_host, const void *from, size_t bytes) {
    copy(dev, to_host, from, bytes, cudaMemcpyDeviceToHost, dev->stream);
}

const void *cuda_view(kern_device *dev, const void *from, size_t bytes, void *room) {
    cuda_download(dev, room, from, bytes);
    return room;
}

/* Pinned: the device's copies read it without the help of a processor, kernels over the bus. */
void *cuda_host_take(const kern_device *dev, size_t bytes) {
    void *memory = NULL;
    if (cudaSetDevice(dev->index) != cudaSuccess ||
        cudaHostAlloc(&memory, bytes, cudaHostAllocPortable | cudaHostAllocMapped) != cudaSuccess) {
        (void)cudaGetLastError();
        return NULL;
    }
    memset(memory, 0, bytes);
    return memory;
}

void cuda_host_give(const kern_device *dev, void *memory, size_t bytes) {
    (void)bytes;
    if (!memory) return;
    (void)cudaSetDevice(dev->index);
    (void)cudaFreeHost(memory);
}

void cuda_memory(const kern_device *dev, kern_memory *out) {
    size_t free_bytes = 0, total = 0;
    if (cudaSetDevice(dev->index) != cudaSuccess ||
        cudaMemGetInfo(&free_bytes, &total) != cudaSuccess)
        (void)cudaGetLastError(); /* then there is none */
    *out = (kern_memory){.free = free_bytes, .total = total};
}

/* ---- workspaces ---- */

/* As many bytes as one wishes, or else as one needs. What lay there is lost, once nothing reads it. */
static void *take_room(kern_device *dev, cuda_room *room, uint64_t wish, uint64_t bytes) {
    if (!CUDA_OK(dev, cudaStreamSynchronize(dev->stream))) return NULL;
    cuda_room_close(room);
    if (wish > bytes && cudaMalloc(&room->at, wish) == cudaSuccess) {
        room->bytes = wish;
        return room->at;
    }
    (void)cudaGetLastError();
    if (!CUDA_OK(dev, cudaMalloc(&room->at, bytes))) return NULL;
    room->bytes = bytes;
    return room->at;
}

void *cuda_need(kern_device *dev, cuda_room *room, uint64_t bytes) {
    if (bytes <= room->bytes) return room->at;
    if (!cuda_is_well(dev) || step_is_recorded(dev)) return NULL;
    replay_forget(dev);
    return take_room(dev, room, bytes, bytes);
}

void *cuda_need_apart(kern_device *dev, cuda_room *room, uint64_t bytes) {
    if (bytes <= room->bytes) return room->at;
    if (!cuda_is_well(dev)) return NULL;
    return take_room(dev, room, cuda_with_spare(room->bytes, bytes), bytes);
}

void cuda_room_close(cuda_room *room) {
    if (room->at) (void)cudaFree(room->at);
    *room = (cuda_room){0};
}

void cuda_expect_matrix(kern_device *dev, const struct cuda_matrix_view *matrix) {
    uint64_t bytes = cuda_linear_workspace(matrix, dev->tokens_max);
    if (bytes > dev->linear_bytes) dev->linear_bytes = bytes;
}

/* Sums of the tokens of the widest linear that are computed at a time, or of all logits. */
static uint64_t delta_outputs(const kern_reserve *most) {
    uint64_t width = (most->lora_outputs + most->tokens - 1) / most->tokens;
    uint64_t logits = (uint64_t)most->logit_rows * most->vocab;
    uint64_t outputs = width * CUDA_UPDATED_TOKENS;
    if (outputs < logits) outputs = logits;
    return outputs < most->lora_outputs ? outputs : most->lora_outputs;
}

static void reserve_lora(kern_device *dev, const kern_reserve *most) {
    uint64_t pointers = 2ull * most->tokens * LINEAR_MATRICES_MAX * sizeof(float *);
    cuda_need(dev, &dev->lora_states, cuda_lora_workspace(most->tokens, most->lora_cols));
    cuda_need(dev, &dev->lora_delta, delta_outputs(most) * sizeof(float));
    cuda_need(dev, &dev->lora_updated, most->tokens);
    cuda_need(dev, &dev->lora_pointers, pointers);
}

esp_code cuda_reserve(kern_device *dev, const kern_reserve *most, esp_error *err) {
    cuda_use(dev);
    cuda_need(dev, &dev->linear, dev->linear_bytes);
    cuda_need(dev, &dev->attention, CUDA_ATTENTION_WORK_BYTES);
    if (most->part_rows)
        cuda_need(dev, &dev->stack, cuda_linear_stack(most->part_rows, dev->tokens_max));
    if (most->lora_outputs) reserve_lora(dev, most);
    if (most->logit_rows) cuda_reserve_sample(dev, most);
    step_reserve(dev, most);
    replay_reserve(dev, most);
    if (dev->fault.code == cudaErrorMemoryAllocation)
        return esp_fail_field(err, ESP_EXHAUSTED, "--step-tokens",
                              "cuda:%d: no memory for the workspace of steps of %u tokens; lower "
                              "--step-tokens, or give --device cuda:N a device with more memory",
                              dev->index, most->tokens);
    return cuda_tell_fault(dev, err);
}
