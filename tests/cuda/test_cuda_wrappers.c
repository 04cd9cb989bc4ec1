/* test_cuda_wrappers.c - every wrapper of cu.h on data whose result is exact: the emulator's twin and
 * the device must give the same numbers. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>

#include "wrapper_kernels.h"

static uint32_t in[WRAPPER_WORDS], out[WRAPPER_WORDS];
static uint32_t random_state;

static uint32_t random_word(void) {
    random_state = random_state * 1664525u + 1013904223u;
    return random_state ^ random_state >> 15;
}

static int fresh_input(void **state) {
    (void)state;
    random_state = 1;
    for (int i = 0; i < WRAPPER_WORDS; i++)
        in[i] = random_word();
    memset(out, 0, sizeof out);
    return 0;
}

/* Runs a kernel over in and out: both go to the device, out comes back. */
static void run(wrapper_kernel *kernel) {
    void *from, *to;
    assert_int_equal(cudaMalloc(&from, sizeof in), cudaSuccess);
    assert_int_equal(cudaMalloc(&to, sizeof out), cudaSuccess);
    assert_int_equal(cudaMemcpy(from, in, sizeof in, cudaMemcpyHostToDevice), cudaSuccess);
    assert_int_equal(cudaMemcpy(to, out, sizeof out, cudaMemcpyHostToDevice), cudaSuccess);
    assert_int_equal(kernel(from, to, NULL), cudaSuccess);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    assert_int_equal(cudaMemcpy(out, to, sizeof out, cudaMemcpyDeviceToHost), cudaSuccess);
    assert_int_equal(cudaFree(from), cudaSuccess);
    assert_int_equal(cudaFree(to), cudaSuccess);
}

static uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
static float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* Small integers are exact in both. */
static uint16_t bf16_of(int value) { return (uint16_t)(bits_of((float)value) >> 16); }
static uint16_t f16_of(int value) {
    if (value == 0) return 0;
    uint32_t u = bits_of((float)abs(value));
    return (uint16_t)((value < 0 ? 0x8000 : 0) | ((u - 0x38000000) >> 13));
}
static int small(void) { return (int)(random_word() % 17) - 8; }

static void words_of_16_bytes_arrive_whichever_way(void **state) {
    (void)state;
    run(wrapper_loads);
    assert_memory_equal(out, in, 160 * sizeof in[0]);
}

static void asynchronous_copies_bring_data_or_zeros(void **state) {
    static const uint32_t zeros[160];
    (void)state;
    run(wrapper_copies);
    assert_memory_equal(out, in, sizeof zeros);
    assert_memory_equal(out + 160, zeros, sizeof zeros);
}

static void older_groups_arrive_first(void **state) {
    (void)state;
    run(wrapper_copy_groups);
    assert_memory_equal(out, in, 64 * sizeof in[0]);
}

/* PTX ISA, ldmatrix: lane l gets row l / 4, elements 2 (l % 4) and the next. */
static uint32_t matrix_pair(int matrix, int lane, int trans) {
    const uint16_t *m = (const uint16_t *)in + 64 * matrix;
    int g = lane / 4, t = lane % 4;
    uint32_t low = trans ? m[2 * t * 8 + g] : m[g * 8 + 2 * t];
    uint32_t high = trans ? m[(2 * t + 1) * 8 + g] : m[g * 8 + 2 * t + 1];
    return low | high << 16;
}

static void ldmatrix_deals_rows_to_lanes(void **state) {
    (void)state;
    run(wrapper_ldmatrix);
    for (int trans = 0; trans < 2; trans++) {
        const uint32_t *got = out + 224 * trans;
        for (int lane = 0; lane < 32; lane++) {
            assert_int_equal(got[lane], matrix_pair(0, lane, trans));
            for (int i = 0; i < 2; i++)
                assert_int_equal(got[32 + lane * 2 + i], matrix_pair(i, lane, trans));
            for (int i = 0; i < 4; i++)
                assert_int_equal(got[96 + lane * 4 + i], matrix_pair(i, lane, trans));
        }
    }
}

/* D = A B + C of small integers, 16 bits a value; `narrow` makes the value. */
static void check_float_product(wrapper_kernel *kernel, uint16_t (*narrow)(int)) {
    int a[16][16], b[8][16], c[16][8];
    uint16_t *halves = (uint16_t *)in;
    for (int i = 0; i < 256; i++)
        halves[i] = narrow(a[i / 16][i % 16] = small());
    for (int i = 0; i < 128; i++)
        halves[256 + i] = narrow(b[i / 16][i % 16] = small());
    for (int i = 0; i < 128; i++)
        in[192 + i] = bits_of((float)(c[i / 8][i % 8] = 100 * small()));
    run(kernel);
    for (int i = 0; i < 128; i++) {
        int want = c[i / 8][i % 8];
        for (int k = 0; k < 16; k++)
            want += a[i / 8][k] * b[i % 8][k];
        assert_int_equal((int)float_of(out[i]), want);
    }
}

static void mma_of_bf16_is_the_matrix_product(void **state) {
    (void)state;
    check_float_product(wrapper_mma_bf16, bf16_of);
}

static void mma_of_f16_is_the_matrix_product(void **state) {
    (void)state;
    check_float_product(wrapper_mma_f16, f16_of);
}

static void mma_of_s8_is_the_matrix_product(void **state) {
    (void)state;
    run(wrapper_mma_s8); /* random bytes and random sums: nothing rounds, all wraps */
    const int8_t *a = (const int8_t *)in, *b = a + 512;
    for (int i = 0; i < 128; i++) {
        uint32_t want = in[192 + i];
        for (int k = 0; k < 32; k++)
            want += (uint32_t)(a[i / 8 * 32 + k] * b[i % 8 * 32 + k]);
        assert_int_equal(out[i], want);
    }
}

static void shuffles_take_the_lane_they_name(void **state) {
    (void)state;
    run(wrapper_shuffles);
    uint32_t most = 0;
    for (int l = 0; l < 32; l++)
        if ((in[l] & 0xffff) > most) most = in[l] & 0xffff;
    for (int l = 0; l < 32; l++) {
        assert_int_equal(out[0 * 32 + l], in[5]);
        assert_int_equal(out[1 * 32 + l], in[(l & ~7) | ((l + 3) & 7)]);
        assert_int_equal(out[2 * 32 + l], in[l ^ 9]);
        assert_int_equal(out[3 * 32 + l], in[l ^ 3]);
        assert_int_equal(out[4 * 32 + l], in[l + 7 < 32 ? l + 7 : l]);
        assert_int_equal(out[5 * 32 + l], in[l % 16 + 3 < 16 ? l + 3 : l]);
        assert_int_equal(out[6 * 32 + l], in[l >= 4 ? l - 4 : l]);
        assert_int_equal(out[7 * 32 + l], in[l % 8 >= 5 ? l - 5 : l]);
        assert_int_equal(out[8 * 32 + l], 496);
        assert_int_equal(out[9 * 32 + l], most);
        assert_int_equal(out[10 * 32 + l], in[l ^ 1]);
    }
}

static void votes_count_every_lane(void **state) {
    (void)state;
    run(wrapper_votes);
    for (int l = 0; l < 32; l++) {
        uint32_t ballot = 0, match = 0;
        for (int i = 0; i < 32; i++) {
            ballot |= (in[i] & 1) << i;
            match |= (uint32_t)(in[i] % 5 == in[l] % 5) << i;
        }
        assert_int_equal(out[0 * 32 + l], ballot);
        assert_int_equal(out[1 * 32 + l] != 0, 1);
        assert_int_equal(out[2 * 32 + l] != 0, 0);
        assert_int_equal(out[3 * 32 + l] != 0, 0);
        assert_int_equal(out[4 * 32 + l] != 0, 1);
        assert_int_equal(out[5 * 32 + l], match);
    }
}

static void reductions_tell_signed_from_unsigned(void **state) {
    (void)state;
    uint32_t sum = 0, least = ~0u, most = 0, all = ~0u, any = 0, odd = 0;
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (int i = 0; i < 32; i++) {
        uint32_t v = in[i];
        sum += v, all &= v, any |= v, odd ^= v;
        least = v < least ? v : least;
        most = v > most ? v : most;
        low = (int32_t)v < low ? (int32_t)v : low;
        high = (int32_t)v > high ? (int32_t)v : high;
    }
    run(wrapper_reductions);
    const uint32_t want[9] = {sum, sum, least, (uint32_t)low, most, (uint32_t)high, all, any, odd};
    for (int op = 0; op < 9; op++)
        for (int l = 0; l < 32; l++)
            assert_int_equal(out[op * 32 + l], want[op]);
}

static uint32_t byte_of(uint64_t bytes, unsigned selector) {
    uint32_t byte = bytes >> (8 * (selector & 7)) & 0xff;
    if (selector & 8) byte = byte & 0x80 ? 0xff : 0;
    return byte;
}
static uint32_t permuted(uint32_t a, uint32_t b, unsigned select) {
    uint64_t bytes = (uint64_t)b << 32 | a;
    return byte_of(bytes, select & 15) | byte_of(bytes, select >> 4 & 15) << 8 |
           byte_of(bytes, select >> 8 & 15) << 16 | byte_of(bytes, select >> 12 & 15) << 24;
}
static uint32_t reversed(uint32_t a) {
    uint32_t r = 0;
    for (int i = 0; i < 32; i++)
        r = r << 1 | (a >> i & 1);
    return r;
}
static uint32_t dot_bytes(uint32_t a, uint32_t b, uint32_t sum, int is_signed) {
    for (int i = 0; i < 32; i += 8)
        sum += is_signed ? (uint32_t)((int8_t)(a >> i) * (int8_t)(b >> i))
                         : (a >> i & 0xff) * (b >> i & 0xff);
    return sum;
}

static void words_are_rearranged_bit_by_bit(void **state) {
    (void)state;
    run(wrapper_words);
    for (int l = 0; l < 32; l++) {
        uint32_t a = in[l], b = in[32 + l], c = in[64 + l];
        uint64_t both = (uint64_t)b << 32 | a;
        assert_int_equal(out[0 * 32 + l], (a & b) | (a & c) | (b & c));
        assert_int_equal(out[1 * 32 + l], a ^ b ^ c);
        assert_int_equal(out[2 * 32 + l], permuted(a, b, 0x7531));
        assert_int_equal(out[3 * 32 + l], permuted(a, b, 0x8c4f));
        assert_int_equal(out[4 * 32 + l], (uint32_t)(both << 5 >> 32));
        assert_int_equal(out[5 * 32 + l], (uint32_t)(both >> 5));
        assert_int_equal(out[6 * 32 + l], reversed(a));
        assert_int_equal(out[7 * 32 + l], (uint32_t)((uint64_t)a * b >> 32));
        assert_int_equal(out[8 * 32 + l], dot_bytes(a, b, c, 1));
        assert_int_equal(out[9 * 32 + l], __builtin_popcount(a) +
                                              64 * (a >> 9 ? __builtin_clz(a >> 9) : 32) +
                                              4096 * __builtin_ffs((int)b));
        assert_int_equal(out[10 * 32 + l], __builtin_popcountll(both) +
                                               256 * (a >> 4 ? __builtin_clzll(a >> 4) : 64));
        assert_int_equal(out[11 * 32 + l], dot_bytes(a, b, c, 0));
    }
}

static void small_integers_are_exact_in_every_type(void **state) {
    (void)state;
    int x[32], y[32];
    for (int l = 0; l < 32; l++) {
        in[l] = bits_of((float)(x[l] = small()));
        in[32 + l] = bits_of((float)(y[l] = small()));
    }
    run(wrapper_numbers);
    for (int l = 0; l < 32; l++) {
        int low = x[l] * y[l] + x[l], high = y[l] * y[l] + x[l];
        assert_int_equal(out[0 * 32 + l], bf16_of(x[l]) | (uint32_t)bf16_of(y[l]) << 16);
        assert_int_equal(out[1 * 32 + l], f16_of(x[l]) | (uint32_t)f16_of(y[l]) << 16);
        assert_int_equal(out[2 * 32 + l], bf16_of(low) | (uint32_t)bf16_of(high) << 16);
        assert_int_equal(out[3 * 32 + l], f16_of(low) | (uint32_t)f16_of(high) << 16);
        assert_true(float_of(out[4 * 32 + l]) == exp2f((float)x[l]));
        assert_true(float_of(out[5 * 32 + l]) == (float)(x[l] - y[l]));
        assert_int_equal(out[6 * 32 + l], bf16_of(x[l]) | (uint32_t)f16_of(y[l]) << 16);
        assert_true(float_of(out[7 * 32 + l]) == (float)(x[l] + y[l]));
        assert_int_equal((int32_t)out[8 * 32 + l], (int32_t)rintf((float)x[l] / 2));
        assert_int_equal((int32_t)out[9 * 32 + l], x[l] / 2);
        assert_true(float_of(out[10 * 32 + l]) == (float)low);
    }
}

static void atomics_lose_nothing_between_blocks(void **state) {
    (void)state;
    uint32_t sum = 0, least = ~0u, most = 0, all = ~0u, odd = 0, id;
    int32_t high = INT32_MIN;
    for (id = 0; id < 256; id++) {
        uint32_t v = in[id];
        sum += v, all &= v | 1, odd ^= v;
        least = v < least ? v : least;
        most = v > most ? v : most;
        high = (int32_t)v > high ? (int32_t)v : high;
    }
    out[3] = out[6] = ~0u;
    out[5] = (uint32_t)INT32_MIN;
    run(wrapper_atomics);
    assert_int_equal(out[0], sum);
    assert_int_equal((int32_t)out[1], -256 * 255 / 2);
    assert_int_equal((int32_t)out[2], -256);
    assert_int_equal(out[3], least);
    assert_int_equal(out[4], most);
    assert_int_equal((int32_t)out[5], high);
    assert_int_equal(out[6], all);
    assert_int_equal(out[7], ~0u);
    assert_int_equal(out[8], odd);
    assert_in_range(out[9], 1, 256); /* one of them was first */
    assert_int_equal(out[10], 77);
    assert_int_equal(out[11], 256 % 101);
    assert_int_equal(out[12], 256 * 255 / 2);
    assert_int_equal(out[13], 256);
}

static void barriers_order_and_count(void **state) {
    (void)state;
    run(wrapper_barriers);
    for (int t = 0; t < 96; t++) {
        assert_int_equal(out[t], in[95 - t]);
        assert_int_equal(out[96 + t], 32);
        assert_int_equal(out[192 + t] != 0, 1);
        assert_int_equal(out[288 + t] != 0, 0);
        assert_int_equal(out[384 + t] != 0, 0);
        assert_int_equal(out[480 + t], t);
    }
}

static void shared_memory_grows_by_opting_in(void **state) {
    (void)state;
    run(wrapper_shared);
    for (int t = 0; t < 96; t++)
        assert_int_equal(out[t], in[95 - t]);
}

int main(void) {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(words_of_16_bytes_arrive_whichever_way, fresh_input),
        cmocka_unit_test_setup(asynchronous_copies_bring_data_or_zeros, fresh_input),
        cmocka_unit_test_setup(older_groups_arrive_first, fresh_input),
        cmocka_unit_test_setup(ldmatrix_deals_rows_to_lanes, fresh_input),
        cmocka_unit_test_setup(mma_of_bf16_is_the_matrix_product, fresh_input),
        cmocka_unit_test_setup(mma_of_f16_is_the_matrix_product, fresh_input),
        cmocka_unit_test_setup(mma_of_s8_is_the_matrix_product, fresh_input),
        cmocka_unit_test_setup(shuffles_take_the_lane_they_name, fresh_input),
        cmocka_unit_test_setup(votes_count_every_lane, fresh_input),
        cmocka_unit_test_setup(reductions_tell_signed_from_unsigned, fresh_input),
        cmocka_unit_test_setup(words_are_rearranged_bit_by_bit, fresh_input),
        cmocka_unit_test_setup(small_integers_are_exact_in_every_type, fresh_input),
        cmocka_unit_test_setup(atomics_lose_nothing_between_blocks, fresh_input),
        cmocka_unit_test_setup(barriers_order_and_count, fresh_input),
        cmocka_unit_test_setup(shared_memory_grows_by_opting_in, fresh_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
