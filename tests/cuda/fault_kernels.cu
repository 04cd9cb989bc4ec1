/* fault_kernels.cu - the faults that the emulator must find, each in a kernel that is right without it. */
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include "cu.h"
#include "fault_kernels.h"

#define KERNEL(name)                                                                               \
    template <bool planted>                                                                        \
    static __global__ void name(float *out, [[maybe_unused]] const float *in)

#define FAULT(name, blocks, threads, bytes)                                                        \
    extern "C" int fault_##name(float *out, const float *in, bool planted) {                       \
        const cudaStream_t none = nullptr;                                                         \
        if (planted)                                                                               \
            return CU_LAUNCH((name<true>), dim3(blocks), dim3(threads), bytes, none, out, in);     \
        return CU_LAUNCH((name<false>), dim3(blocks), dim3(threads), bytes, none, out, in);        \
    }

/* ---- barriers and order */

KERNEL(missing_barrier) {
    CU_SHARED(float, s, [64]);
    const int t = threadIdx.x;
    s[t] = in[63 - t];
    if (!planted) __syncthreads();
    out[t] = s[63 - t];
}
FAULT(missing_barrier, 1, 64, 0)

/* Each round writes what the last round's slow threads still read. */
KERNEL(barrier_missing_in_loop) {
    CU_SHARED(float, s, [64]);
    const int t = threadIdx.x;
    float sum = 0;
    for (int round = 0; round < 4; round++) {
        s[t] = in[t] + (float)round;
        __syncthreads();
        sum += s[63 - t];
        if (!planted) __syncthreads();
    }
    out[63 - t] = (sum - 6) / 4;
}
FAULT(barrier_missing_in_loop, 1, 64, 0)

/* Right as long as thread 0 happens to run first. */
KERNEL(order_by_luck) {
    CU_SHARED(float, s, [1]);
    const int t = threadIdx.x;
    if (t == 0) s[0] = in[1];
    if (!planted) __syncthreads();
    out[t] = in[t] * s[0];
}
FAULT(order_by_luck, 1, 64, 0)

KERNEL(missing_syncwarp) {
    CU_SHARED(float, s, [64]);
    const int t = threadIdx.x;
    s[t] = in[t];
    if (!planted) __syncwarp();
    out[t ^ 1] = s[t ^ 1];
}
FAULT(missing_syncwarp, 1, 64, 0)

KERNEL(exit_before_barrier) {
    const int t = threadIdx.x;
    if (planted && t >= 48) return;
    __syncthreads();
    out[t] = in[t];
}
FAULT(exit_before_barrier, 1, 64, 0)

KERNEL(two_barriers) {
    const int t = threadIdx.x;
    if (planted && t < 32)
        __syncthreads();
    else
        __syncthreads();
    out[t] = in[t];
}
FAULT(two_barriers, 1, 64, 0)

KERNEL(absent_lanes) {
    const int t = threadIdx.x;
    float v = in[t];
    if (!planted || (t & 31) < 16) v = __shfl_sync(CU_FULL, v, t & 31);
    out[t] = v;
}
FAULT(absent_lanes, 1, 64, 0)

/* ---- bounds */

KERNEL(dynamic_overrun) {
    CU_DYN_SHARED(float, s);
    const int t = threadIdx.x, at = planted ? t + 1 : t;
    s[at] = in[t];
    __syncthreads();
    out[t] = s[at];
}
FAULT(dynamic_overrun, 1, 64, 256)

KERNEL(shared_overrun) {
    CU_SHARED(float, s, [64]);
    const int t = threadIdx.x, at = planted ? t + 1 : t;
    float *p = s;
    p[at] = in[t];
    __syncthreads();
    out[t] = p[at];
}
FAULT(shared_overrun, 1, 64, 0)

KERNEL(global_write_overrun) {
    const int t = threadIdx.x;
    out[t] = in[t];
    if (planted && t == 63) out[64] = 64;
}
FAULT(global_write_overrun, 1, 64, 0)

KERNEL(global_read_overrun) {
    const int t = threadIdx.x;
    float next = planted || t < 63 ? in[t + 1] : 64;
    if (t == 63) next = 64; /* the value is not even used */
    out[t] = next - 1;
}
FAULT(global_read_overrun, 1, 64, 0)

/* ---- memory that nobody wrote */

KERNEL(unwritten_shared) {
    CU_SHARED(float, s, [64]);
    const int t = threadIdx.x;
    if (!planted || t != 5) s[t] = in[t];
    __syncthreads();
    out[t] = s[t];
}
FAULT(unwritten_shared, 1, 64, 0)

KERNEL(unwritten_global) {
    const int t = threadIdx.x;
    if (!planted) out[t] = 0;
    out[t] += in[t];
}
FAULT(unwritten_global, 1, 64, 0)

/* ---- asynchronous copies */

KERNEL(copy_not_waited) {
    CU_SHARED_A(16, float, s, [64]);
    const int t = threadIdx.x;
    if (t < 16) cu_cp_async16(&s[t * 4], in + t * 4);
    cu_cp_async_commit();
    if (!planted) cu_cp_async_wait<0>();
    __syncthreads();
    out[t] = s[t];
    cu_cp_async_wait<0>();
}
FAULT(copy_not_waited, 1, 64, 0)

KERNEL(copy_not_synced) {
    CU_SHARED_A(16, float, s, [64]);
    const int t = threadIdx.x;
    if (t < 16) cu_cp_async16(&s[t * 4], in + t * 4);
    cu_cp_async_commit();
    cu_cp_async_wait<0>();
    if (!planted) __syncthreads();
    out[t] = s[t];
}
FAULT(copy_not_synced, 1, 64, 0)

KERNEL(copy_left_in_flight) {
    CU_SHARED_A(16, float, s, [64]);
    const int t = threadIdx.x;
    if (t < 16) cu_cp_async16(&s[t * 4], in + t * 4);
    cu_cp_async_commit();
    if (!planted) cu_cp_async_wait<0>();
    out[t] = in[t];
}
FAULT(copy_left_in_flight, 1, 64, 0)

KERNEL(copy_misaligned) {
    CU_SHARED_A(16, float, s, [64]);
    const int t = threadIdx.x;
    if (t < 15) cu_cp_async16(&s[t * 4], in + t * 4 + (planted ? 1 : 0));
    cu_cp_async_commit();
    cu_cp_async_wait<0>();
    __syncthreads();
    out[t] = t < 60 ? s[t] - (planted ? 1 : 0) : in[t];
}
FAULT(copy_misaligned, 1, 64, 0)

/* ---- alignment */

KERNEL(misaligned_load) {
    const int t = threadIdx.x, shift = planted ? 1 : 0;
    const uint4 v = t < 15 ? cu_load16(in + t * 4 + shift) : cu_zero16();
    out[t] = in[t];
    __syncthreads();
    if (t < 15) out[t * 4 + shift] = __uint_as_float(v.x);
}
FAULT(misaligned_load, 1, 64, 0)

/* Without the wrapper: the sanitizer for alignment sees it. */
KERNEL(misaligned_vector) {
    const int t = threadIdx.x, shift = planted ? 1 : 0;
    if (t < 15) {
        float4 *to = reinterpret_cast<float4 *>(out + shift + t * 4);
        const float *f = in + shift + t * 4;
        *to = make_float4(f[0], f[1], f[2], f[3]);
    }
    if (t == 0) out[0] = in[0];
    if (t >= 60) out[t] = in[t];
}
FAULT(misaligned_vector, 1, 64, 0)

KERNEL(ldmatrix_misaligned) {
    CU_SHARED_A(16, uint32_t, s, [68]);
    const int t = threadIdx.x, l = cu_lane();
    s[t] = (uint32_t)t;
    if (t < 4) s[64 + t] = 0;
    __syncthreads();
    uint32_t r[2];
    cu_ldmatrix_x2(r, s + (planted ? 1 : 0) + (l & 15) * 4);
    out[t] = (float)r[t / 32];
}
FAULT(ldmatrix_misaligned, 1, 64, 0)

/* ---- global memory */

/* Both threads write the same: hardware does not mind, but nothing orders them. */
KERNEL(same_value_race) {
    const int t = threadIdx.x;
    if (!planted) out[t] = in[t];
    if (planted) {
        out[t / 2] = in[t / 2];
        out[32 + t / 2] = in[32 + t / 2];
    }
}
FAULT(same_value_race, 1, 64, 0)

KERNEL(lost_update) {
    const int t = threadIdx.x;
    int *count = reinterpret_cast<int *>(out);
    if (t == 0) *count = 0;
    __syncthreads();
    if (planted)
        *count += 1;
    else
        atomicAdd(count, 1);
    __syncthreads();
    const int all = *count;
    __syncthreads();
    out[t] = in[t] + (float)(all - 64);
}
FAULT(lost_update, 1, 64, 0)

KERNEL(race_between_blocks) {
    const int t = threadIdx.x, at = (blockIdx.x * 16 + t) & 63;
    if (planted || t < 16) out[at] = in[at];
}
FAULT(race_between_blocks, 4, 32, 0)

/* ---- the launch */

KERNEL(host_pointer) { out[threadIdx.x] = in[threadIdx.x]; }
extern "C" int fault_host_pointer(float *out, const float *in, bool planted) {
    const cudaStream_t none = nullptr;
    static float here[FAULT_WORDS];
    for (int i = 0; i < FAULT_WORDS; i++)
        here[i] = (float)i;
    const float *from = planted ? here : in;
    return CU_LAUNCH((host_pointer<false>), dim3(1), dim3(64), 0, none, out, from);
}

KERNEL(no_dynamic_memory) {
    CU_DYN_SHARED(float, s);
    const int t = threadIdx.x;
    s[t] = in[t];
    out[t] = s[t];
}
extern "C" int fault_no_dynamic_memory(float *out, const float *in, bool planted) {
    const cudaStream_t none = nullptr;
    const size_t bytes = planted ? 0 : 256;
    return CU_LAUNCH((no_dynamic_memory<false>), dim3(1), dim3(64), bytes, none, out, in);
}

/* ---- pointers that no argument shows */

struct Ends {
    float *out;
    const float *in;
};

static __global__ void copy_between(Ends ends) { ends.out[threadIdx.x] = ends.in[threadIdx.x]; }

/* Host memory in a struct: what a launcher does that passes its own args on. */
extern "C" int fault_host_in_struct(float *out, const float *in, bool planted) {
    const cudaStream_t none = nullptr;
    float *here = static_cast<float *>(malloc(FAULT_WORDS * sizeof(float)));
    for (int i = 0; i < FAULT_WORDS; i++)
        here[i] = (float)i;
    const int code =
        CU_LAUNCH(copy_between, dim3(1), dim3(64), 0, none, (Ends{out, planted ? here : in}));
    free(here);
    return code;
}

static __global__ void copy_from_table(float *out, const float *const *table) {
    out[threadIdx.x] = table[0][threadIdx.x];
}

/* The same in a table that lies in device memory. */
extern "C" int fault_host_in_table(float *out, const float *in, bool planted) {
    const cudaStream_t none = nullptr;
    float here[FAULT_WORDS];
    for (int i = 0; i < FAULT_WORDS; i++)
        here[i] = (float)i;
    void *table;
    const void *from = planted ? here : in;
    int code = cudaMalloc(&table, sizeof from);
    if (!code) code = cudaMemcpy(table, &from, sizeof from, cudaMemcpyHostToDevice);
    if (!code)
        code = CU_LAUNCH(copy_from_table, dim3(1), dim3(64), 0, none, out,
                         static_cast<const float *const *>(table));
    return code ? code : (int)cudaFree(table);
}

/* Another device's memory, and no access to it was enabled. */
extern "C" int fault_peer_in_struct(float *out, const float *in, bool planted) {
    const cudaStream_t none = nullptr;
    void *there;
    int code = cudaSetDevice(planted ? 1 : 0);
    if (!code) code = cudaMalloc(&there, FAULT_WORDS * sizeof(float));
    if (!code) code = cudaMemcpy(there, in, FAULT_WORDS * sizeof(float), cudaMemcpyDeviceToDevice);
    if (!code) code = cudaSetDevice(0);
    if (!code)
        code = CU_LAUNCH(copy_between, dim3(1), dim3(64), 0, none,
                         (Ends{out, static_cast<const float *>(there)}));
    return code ? code : (int)cudaFree(there);
}

/* Freed memory that a struct still names. */
extern "C" int fault_kept_too_long(float *out, const float *in, bool planted) {
    const cudaStream_t none = nullptr;
    void *kept;
    int code = cudaMalloc(&kept, FAULT_WORDS * sizeof(float));
    if (!code) code = cudaMemcpy(kept, in, FAULT_WORDS * sizeof(float), cudaMemcpyDeviceToDevice);
    if (!code && planted) code = cudaFree(kept);
    if (!code)
        code = CU_LAUNCH(copy_between, dim3(1), dim3(64), 0, none,
                         (Ends{out, static_cast<const float *>(kept)}));
    if (!code && !planted) code = cudaFree(kept);
    return code;
}

/* ---- as much as a block has */

KERNEL(static_and_dynamic) {
    CU_DYN_SHARED(float, s);
    CU_SHARED(float, more, [64]);
    const int t = threadIdx.x;
    s[t] = in[t];
    more[t] = s[t];
    out[t] = more[t];
}
extern "C" int fault_static_and_dynamic(float *out, const float *in, bool planted) {
    const cudaStream_t none = nullptr;
    const size_t bytes = 48 * 1024 - (planted ? 0 : 256);
    return CU_LAUNCH((static_and_dynamic<false>), dim3(1), dim3(64), bytes, none, out, in);
}
