/* cuda_emu.h - CUDA C++ on the CPU: what kernels/cuda/cu.h includes where nvcc does not compile.
 *
 *   emu_words.h    qualifiers, vector types        emu_barrier.h  __syncthreads and kin, fences
 *   emu_types.h    half, bfloat16                  emu_warp.h     shuffles, votes, reductions
 *   emu_math.h     numbers and bits                emu_shared.h   shared memory
 *   emu_atomic.h   atomics on integers             emu_copy.h     cp.async
 *   emu_launch.h   launches                        emu_matrix.h   ldmatrix, mma
 *   cuda_runtime.h the runtime API */
// SPDX-License-Identifier: Apache-2.0
#ifndef CUDA_EMU_H
#define CUDA_EMU_H

#ifdef __CUDACC__
#error "the emulator is for host compilers; kernels include cu.h only"
#endif

#include "cuda_runtime.h"
#include "emu_atomic.h"
#include "emu_barrier.h"
#include "emu_copy.h"
#include "emu_launch.h"
#include "emu_math.h"
#include "emu_matrix.h"
#include "emu_shared.h"
#include "emu_types.h"
#include "emu_warp.h"

#endif
