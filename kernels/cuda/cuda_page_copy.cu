/* cuda_page_copy.cu - whole frames from place to place: within the arena, into one run of them, and back.
 *
 * In     frames of the arena, numbers [count] u32; or a run of frames, one after another
 * Out    the same
 * Grid   (pieces of a frame, count) x 256 threads; a thread moves 64 bytes, 16 at a time
 * Needs  frame_bytes a multiple of 64; what is read is not written
 * Cost   2*frame_bytes a frame: bandwidth bound
 * Error  none: bytes */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cu.h"
#include "kernels/cuda/cuda_launch.h"

namespace {

constexpr int THREADS = 256, EACH = 4; /* words of 16 bytes */

/* One side of a move: a base, and which frames of it; NULL: 0, 1, 2 ... */
struct Side {
    unsigned char *base;
    const uint32_t *frames;
};

CU_DEV unsigned char *frame_at(const Side &side, uint64_t frame_bytes, uint32_t i) {
    return side.base + (side.frames ? side.frames[i] : i) * frame_bytes;
}

__global__ void __launch_bounds__(THREADS)
    move_frames(Side from, Side to, uint64_t frame_bytes, uint32_t count) {
    const uint64_t words = frame_bytes / 16;
    const uint64_t first = (uint64_t)blockIdx.x * (THREADS * EACH) + threadIdx.x;
    for (uint32_t i = blockIdx.y; i < count; i += gridDim.y) {
        const unsigned char *source = frame_at(from, frame_bytes, i);
        unsigned char *target = frame_at(to, frame_bytes, i);
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const uint64_t word = first + (uint64_t)j * THREADS;
            if (word < words) cu_store16(target + word * 16, cu_load16_once(source + word * 16));
        }
    }
}

int move(Side from, Side to, uint64_t frame_bytes, uint32_t count, void *stream) {
    if (frame_bytes % 64) return cudaErrorInvalidValue;
    if (frame_bytes == 0 || count == 0) return cudaSuccess;
    const uint64_t bytes = THREADS * EACH * 16;
    const dim3 grid((unsigned)((frame_bytes + bytes - 1) / bytes), count < 65535 ? count : 65535);
    return CU_LAUNCH(move_frames, grid, dim3(THREADS), 0, static_cast<cudaStream_t>(stream), from,
                     to, frame_bytes, count);
}

} // namespace

extern "C" int cuda_page_copy(const cuda_page_copy_args *args, void *stream) {
    unsigned char *arena = static_cast<unsigned char *>(args->arena);
    return move(Side{arena, args->from}, Side{arena, args->to}, args->frame_bytes, args->count,
                stream);
}

extern "C" int cuda_page_gather(const cuda_page_gather_args *args, void *stream) {
    const Side pages = {static_cast<unsigned char *>(args->arena), args->frames};
    const Side run = {static_cast<unsigned char *>(args->run), nullptr};
    return args->scatter ? move(run, pages, args->frame_bytes, args->count, stream)
                         : move(pages, run, args->frame_bytes, args->count, stream);
}
