/* cuda_page_copy.cu - whole frames from place to place: within the arena, into one run of them, and back.
 *
 * In     frames at `from`, their numbers [count] u32 or those from 0 on
 * Out    the same at `to`
 * Grid   (pieces of a frame, count) x 256 threads; a thread moves 64 bytes, 16 at a time
 * Needs  frame_bytes a multiple of 64; what is read is not written
 * Cost   2*frame_bytes a frame: bandwidth bound
 * Error  none: bytes */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cu.h"
#include "kernels/cuda/cuda_launch.h"

namespace {

constexpr int THREADS = 256, EACH = 4; /* words of 16 bytes */

__global__ void __launch_bounds__(THREADS) move_frames(const cuda_move_frames_args a) {
    const uint64_t words = a.frame_bytes / 16;
    const uint64_t first = (uint64_t)blockIdx.x * (THREADS * EACH) + threadIdx.x;
    for (uint32_t i = blockIdx.y; i < a.count; i += gridDim.y) {
        const unsigned char *source = static_cast<const unsigned char *>(a.from) +
                                      (a.from_frames ? a.from_frames[i] : i) * a.frame_bytes;
        unsigned char *target = static_cast<unsigned char *>(a.to) +
                                (a.to_frames ? a.to_frames[i] : i) * a.frame_bytes;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const uint64_t word = first + (uint64_t)j * THREADS;
            if (word < words) cu_store16(target + word * 16, cu_load16_once(source + word * 16));
        }
    }
}

} // namespace

extern "C" int cuda_move_frames(const cuda_move_frames_args *args, void *stream) {
    if (args->frame_bytes % 64) return cudaErrorInvalidValue;
    if (args->frame_bytes == 0 || args->count == 0) return cudaSuccess;
    const uint64_t bytes = THREADS * EACH * 16;
    const dim3 grid((unsigned)((args->frame_bytes + bytes - 1) / bytes),
                    args->count < 65535 ? args->count : 65535);
    return CU_LAUNCH(move_frames, grid, dim3(THREADS), 0, static_cast<cudaStream_t>(stream), *args);
}
