/* cuda_stage.c - bytes made on the host travel to the device while the next ones are made.
 *
 * Two pinned buffers, taken at the first use and kept until the device is closed; one is filled while the other
 * is copied, by `stream`, so that what comes later on it finds the bytes there. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "engine/base/mem.h"
#include "kernels/cuda/cuda_device.h"

enum { STAGE_BUFFERS = 2, STAGE_BYTES = 16 << 20 /* at least, of each */ };

struct cuda_stage {
    void *buffer[STAGE_BUFFERS];
    cudaEvent_t sent[STAGE_BUFFERS]; /* the buffer's last copy is over */
    uint64_t bytes;                  /* of each buffer */
    uint32_t turn;                   /* the buffer to be filled */
};

static void drop_buffers(kern_device *dev) {
    struct cuda_stage *stage = dev->stage;
    if (dev->stream) (void)CUDA_OK(dev, cudaStreamSynchronize(dev->stream));
    for (uint32_t i = 0; i < STAGE_BUFFERS; i++) {
        cuda_host_give(dev, stage->buffer[i], stage->bytes);
        stage->buffer[i] = NULL;
    }
    stage->bytes = 0;
}

static bool take_buffers(kern_device *dev, uint64_t bytes) {
    struct cuda_stage *stage = dev->stage;
    drop_buffers(dev);
    for (uint32_t i = 0; i < STAGE_BUFFERS; i++) {
        stage->buffer[i] = cuda_host_take(dev, bytes);
        if (!stage->buffer[i]) return false;
    }
    stage->bytes = bytes;
    return true;
}

static bool open_stage(kern_device *dev) {
    dev->stage = mem_new(1, sizeof *dev->stage);
    for (uint32_t i = 0; i < STAGE_BUFFERS; i++)
        if (!CUDA_OK(dev, cudaEventCreateWithFlags(&dev->stage->sent[i], cudaEventDisableTiming)))
            return false;
    return true;
}

void *cuda_stage_next(kern_device *dev, uint64_t bytes) {
    cuda_use(dev);
    if (!cuda_is_well(dev) || (!dev->stage && !open_stage(dev))) return NULL;
    struct cuda_stage *stage = dev->stage;
    if (bytes > stage->bytes && !take_buffers(dev, bytes > STAGE_BYTES ? bytes : STAGE_BYTES))
        return NULL;
    if (!CUDA_OK(dev, cudaEventSynchronize(stage->sent[stage->turn]))) return NULL;
    return stage->buffer[stage->turn];
}

void cuda_stage_send(kern_device *dev, void *to, uint64_t bytes) {
    struct cuda_stage *stage = dev->stage;
    uint32_t turn = stage->turn;
    if (CUDA_OK(dev, cudaMemcpyAsync(to, stage->buffer[turn], bytes, cudaMemcpyHostToDevice,
                                     dev->stream)))
        (void)CUDA_OK(dev, cudaEventRecord(stage->sent[turn], dev->stream));
    stage->turn = (turn + 1) % STAGE_BUFFERS;
}

void cuda_stage_close(kern_device *dev) {
    if (!dev->stage) return;
    drop_buffers(dev);
    for (uint32_t i = 0; i < STAGE_BUFFERS; i++)
        if (dev->stage->sent[i]) (void)cudaEventDestroy(dev->stage->sent[i]);
    free(dev->stage);
    dev->stage = NULL;
}
