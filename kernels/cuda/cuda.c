/* cuda.c - the CUDA backend: open, close, probe, and its table. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_kv.h"
#include "kernels/cuda/cuda_lora_host.h"
#include "kernels/cuda/cuda_replay.h"
#include "kernels/cuda/cuda_step.h"

enum { CAPABILITY_LEAST = 80 };

/* Why there is no device, in a sentence that a person without one can act on. */
static esp_code no_device(cudaError_t code, esp_error *err) {
    if (code == cudaErrorInsufficientDriver)
        return esp_fail_field(err, ESP_UNAVAILABLE, "--device",
                              "--device cuda: no NVIDIA driver is loaded here, or one that is too "
                              "old for this build; install it, or use --device cpu");
    return esp_fail_field(err, ESP_UNAVAILABLE, "--device",
                          "--device cuda: there is no CUDA device here (%s); use --device cpu",
                          code == cudaSuccess ? "none found" : cudaGetErrorString(code));
}

uint32_t kern_cuda_count(esp_error *why) {
    int count = 0; /* left alone when there is no driver */
    cudaError_t code = cudaGetDeviceCount(&count);
    if (code == cudaSuccess && count > 0) return (uint32_t)count;
    (void)cudaGetLastError();
    (void)!no_device(code, why);
    return 0;
}

static bool peer_attribute(int *out, enum cudaDeviceP2PAttr which, int from, int to) {
    if (cudaDeviceGetP2PAttribute(out, which, from, to) == cudaSuccess) return true;
    (void)cudaGetLastError();
    return false;
}

uint32_t kern_cuda_link(uint32_t device, uint32_t other) {
    int from = (int)device, to = (int)other, reaches = 0, rank = 0;
    ESP_ASSERT(from != to);
    if (!peer_attribute(&reaches, cudaDevP2PAttrAccessSupported, from, to) || !reaches)
        return KERN_LINK_NONE;
    if (!peer_attribute(&rank, cudaDevP2PAttrPerformanceRank, from, to) || rank < 0)
        return KERN_LINK_NONE;
    return rank < KERN_LINK_NONE ? (uint32_t)rank : KERN_LINK_NONE;
}

void *kern_cuda_stream(kern_device *dev) { return dev->stream; }
bool kern_cuda_launches(const kern_device *dev) { return step_launches(dev); }

/* -1: it does not say. */
static int attribute(uint32_t index, enum cudaDeviceAttr which) {
    int value = -1;
    if (cudaDeviceGetAttribute(&value, which, (int)index) == cudaSuccess) return value;
    (void)cudaGetLastError();
    return -1;
}

static const char *name_of(uint32_t index, struct cudaDeviceProp *properties) {
    if (cudaGetDeviceProperties(properties, (int)index) == cudaSuccess) return properties->name;
    (void)cudaGetLastError();
    return "device";
}

static esp_code check_capability(uint32_t index, esp_error *err) {
    struct cudaDeviceProp properties; /* C: the toolkit has no typedef of it */
    int major = attribute(index, cudaDevAttrComputeCapabilityMajor);
    int minor = attribute(index, cudaDevAttrComputeCapabilityMinor);
    if (10 * major + minor >= CAPABILITY_LEAST) return ESP_OK;
    if (major < 0 || minor < 0)
        return esp_fail_field(err, ESP_UNAVAILABLE, "--device",
                              "--device cuda:%u: the driver does not say what this device is; see "
                              "whether nvidia-smi does, or use --device cpu",
                              index);
    return esp_fail_field(err, ESP_INVALID, "--device",
                          "--device cuda:%u: this %s has compute capability %d.%d, and 8.0 or "
                          "higher is wanted; use another with --device cuda:N, or --device cpu",
                          index, name_of(index, &properties), major, minor);
}

esp_code kern_cuda_check(uint32_t index, esp_error *err) {
    uint32_t count = kern_cuda_count(err);
    if (count == 0) return ESP_UNAVAILABLE;
    if (index >= count)
        return esp_fail_field(err, ESP_OUT_OF_RANGE, "--device",
                              "--device cuda:%u: this machine has %u, the first of which is cuda:0",
                              index, count);
    return check_capability(index, err);
}

static esp_code check_options(const kern_options *options, esp_error *err) {
    esp_code code = kern_cuda_check(options->index, err);
    if (code != ESP_OK) return code;
    if (options->kv_dtype != DT_BF16 && options->kv_dtype != DT_KV_INT8)
        return esp_fail_field(err, ESP_INVALID, "--kv-dtype",
                              "the cuda device keeps its KV cache in bf16 or int8, not %s; use "
                              "--kv-dtype bf16 or --device cpu",
                              kern_kv_name(options->kv_dtype));
    if (options->activations != ACT_BF16)
        return esp_fail_field(err, ESP_INVALID, "--activations",
                              "--activations int8: the cuda device computes with bf16; use "
                              "--device cpu, or leave --activations away");
    if (options->tokens_max == 0)
        return esp_fail_field(err, ESP_INVALID, "--step-tokens",
                              "a step of 0 tokens computes nothing; raise --step-tokens");
    return ESP_OK;
}

/* Bits depend on the instructions that run, not on the device that runs them: those that were built for an older
 * capability of its generation, "sm_86"; or such as its driver made of PTX, "sm_120/ptx_90/driver_13.0". */
static void name_code(kern_device *dev, char *out, size_t bytes) {
    cuda_code code = {0};
    int driver = 0;
    if (!CUDA_OK(dev, cuda_linear_code(&code)) || !CUDA_OK(dev, cudaDriverGetVersion(&driver)))
        return;
    if (code.binary == code.ptx)
        snprintf(out, bytes, "sm_%d", code.binary);
    else
        snprintf(out, bytes, "sm_%d/ptx_%d/driver_%d.%d", code.binary, code.ptx, driver / 1000,
                 driver % 1000 / 10);
}

static esp_code name_profile(kern_device *dev, esp_error *err) {
    char code[48] = "";
    cuda_use(dev);
    name_code(dev, code, sizeof code);
    snprintf(dev->profile, sizeof dev->profile, "cuda:%s,act=bf16,kv=%s", code,
             dev->kv_int8 ? "int8" : "bf16");
    return cuda_tell_fault(dev, err);
}

static void cuda_close(kern_device *dev) {
    if (!dev) return;
    cuda_room *rooms[] = {&dev->attention,   &dev->linear,       &dev->lora_states,
                          &dev->lora_delta,  &dev->lora_updated, &dev->lora_pointers,
                          &dev->stack,       &dev->lora_whole,   &dev->sample_work,
                          &dev->sample_rows, &dev->sample_picks, &dev->sampled};
    (void)cudaSetDevice(dev->index);
    if (dev->stream) (void)cudaStreamSynchronize(dev->stream);
    replay_close(dev);
    step_close(dev);
    cuda_stage_close(dev);
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++)
        cuda_room_close(rooms[i]);
    cuda_sample_close(dev);
    if (dev->copies) (void)cudaStreamDestroy(dev->copies);
    if (dev->stream) (void)cudaStreamDestroy(dev->stream);
    free(dev);
}

static esp_code open_streams(kern_device *dev, esp_error *err) {
    cuda_use(dev);
    (void)CUDA_OK(dev, cudaStreamCreateWithFlags(&dev->stream, cudaStreamNonBlocking));
    (void)CUDA_OK(dev, cudaStreamCreateWithFlags(&dev->copies, cudaStreamNonBlocking));
    replay_open(dev);
    cuda_sample_open(dev);
    step_open(dev);
    return cuda_tell_fault(dev, err);
}

static esp_code cuda_open(kern_device **out, const kern_options *options, esp_error *err) {
    ESP_ASSERT(out && options && options->pool);
    *out = NULL;
    esp_code code = check_options(options, err);
    if (code != ESP_OK) return code;
    kern_device *dev = mem_new(1, sizeof *dev);
    dev->pool = options->pool;
    dev->index = (int)options->index;
    dev->tokens_max = options->tokens_max;
    dev->replays = !options->no_replay;
    dev->least = options->least;
    dev->least_arg = options->least_arg;
    dev->kv_int8 = options->kv_dtype == DT_KV_INT8;
    code = name_profile(dev, err);
    if (code == ESP_OK) code = open_streams(dev, err);
    if (code != ESP_OK) {
        cuda_close(dev);
        return code;
    }
    *out = dev;
    return ESP_OK;
}

static const char *cuda_profile(const kern_device *dev) { return dev->profile; }

static const char *cuda_layout(const kern_device *dev) {
    (void)dev;
    return "cuda-tiles-2";
}

static size_t cuda_element_bytes(const kern_device *dev, kern_kind kind) {
    (void)dev;
    return kind == KIND_ACT ? sizeof(uint16_t) : sizeof(float);
}

static size_t cuda_frame_bytes(const kern_device *dev, const kern_kv_shape *shape) {
    return cuda_kv_frame_bytes(shape, dev->kv_int8);
}

static esp_code cuda_check_layers(const kern_device *dev, const kern_kv_shape *shape,
                                  esp_error *err) {
    uint32_t dim = shape->head_dim;
    if (dim > 0 && dim <= CUDA_HEAD_DIM_MAX && dim % 2 == 0) return ESP_OK;
    return esp_fail_field(err, ESP_INVALID, "--device",
                          "cuda:%d: the model's heads have %u dims; the CUDA backend wants an even "
                          "number of at most %d: use --device cpu",
                          dev->index, dim, CUDA_HEAD_DIM_MAX);
}

static esp_code cuda_sync(kern_device *dev, esp_error *err) {
    if (cuda_is_well(dev)) (void)CUDA_OK(dev, cudaStreamSynchronize(dev->stream));
    return cuda_tell_fault(dev, err);
}

const kern_ops kern_cuda = {
    .name = "cuda",
    .beside = true,
    .parts = true,
    .open = cuda_open,
    .close = cuda_close,
    .profile = cuda_profile,
    .layout = cuda_layout,
    .element_bytes = cuda_element_bytes,
    .alloc = cuda_alloc,
    .release = cuda_release,
    .upload = cuda_upload,
    .download = cuda_download,
    .view = cuda_view,
    .host_take = cuda_host_take,
    .host_give = cuda_host_give,
    .upload_beside = cuda_upload_beside,
    .memory = cuda_memory,
    .reserve = cuda_reserve,
    .check_layers = cuda_check_layers,
    .pack = cuda_pack,
    .shape = cuda_shape,
    .image = cuda_image,
    .open_image = cuda_open_image,
    .matrix_close = cuda_matrix_close,
    .matrix_bytes = cuda_matrix_bytes,
    .lora_pieces = cuda_lora_pieces,
    .lora_pack = cuda_lora_pack,
    .frame_bytes = cuda_frame_bytes,
    .step_begin = cuda_step_begin,
    .step_end = cuda_step_end,
    .embed = cuda_run_embed,
    .norm = cuda_run_norm,
    .linear = cuda_run_linear,
    .rope_store = cuda_run_rope_store,
    .attention = cuda_run_attention,
    .pool_states = cuda_run_pool_states,
    .sample = cuda_run_sample,
    .sampled = cuda_run_sampled,
    .rank_sum = cuda_run_rank_sum,
    .place_columns = cuda_run_place_columns,
    .move_frames = cuda_run_move_frames,
    .sync = cuda_sync,
};
