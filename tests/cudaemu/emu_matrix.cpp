/* emu_matrix.cpp - one warp's matrix instructions, done by its last lane. */
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <type_traits>

#include "emu_matrix.h"
#include "emu_types.h"

namespace cuemu {

static MatrixLoad *load_of(void **lanes, int i) { return static_cast<MatrixLoad *>(lanes[i]); }

/* Eight rows of 16 bytes fall on 8 groups of banks; each repeated group costs a cycle more. */
static void count_conflicts(void **lanes, int first) {
    int hits[8] = {}, most = 0;
    for (int i = 0; i < 8; i++) {
        uintptr_t at = reinterpret_cast<uintptr_t>(load_of(lanes, first + i)->at);
        int now = ++hits[at / 16 % 8];
        if (now > most) most = now;
    }
    processor.counts.ldmatrix_reads++;
    processor.counts.ldmatrix_conflicts += static_cast<uint64_t>(most - 1);
}

/* Element (row, column) of the 8x8 matrix of 16 bits whose rows the lanes from `first` read. */
static uint16_t element(void **lanes, int first, int row, int column) {
    uint16_t value;
    memcpy(&value, reinterpret_cast<const char *>(load_of(lanes, first + row)->row) + 2 * column,
           2);
    return value;
}

/* Lane l gets elements (g, 2t) and (g, 2t + 1); transposed: (2t, g) and (2t + 1, g). */
template <int count, bool transposed> void matrix_distribute(void **lanes, unsigned) {
    for (int matrix = 0; matrix < count; matrix++) {
        int first = 8 * matrix;
        count_conflicts(lanes, first);
        for (int l = 0; l < LANES; l++) {
            int g = l / 4, t = l % 4;
            uint32_t low, high;
            if (transposed) {
                low = element(lanes, first, 2 * t, g);
                high = element(lanes, first, 2 * t + 1, g);
            } else {
                low = element(lanes, first, g, 2 * t);
                high = element(lanes, first, g, 2 * t + 1);
            }
            load_of(lanes, l)->result[matrix] = low | high << 16;
        }
    }
}
template void matrix_distribute<1, false>(void **, unsigned);
template void matrix_distribute<2, false>(void **, unsigned);
template void matrix_distribute<4, false>(void **, unsigned);
template void matrix_distribute<1, true>(void **, unsigned);
template void matrix_distribute<2, true>(void **, unsigned);
template void matrix_distribute<4, true>(void **, unsigned);

/* A [16][8n] and B [8n][8] out of the lanes' registers, n values a word: register i of A is row
 * g + 8 (i % 2), columns from (4 (i / 2) + t) n; register i of B is column g, rows from (4i + t) n. */
template <class T, int n, T (*value)(uint32_t word, int which)>
static void gather(void **lanes, T (&a)[16][8 * n], T (&b)[8 * n][8]) {
    for (int l = 0; l < LANES; l++) {
        const MatrixProduct *m = static_cast<const MatrixProduct *>(lanes[l]);
        int g = l / 4, t = l % 4;
        for (int k = 0; k < n; k++) {
            for (int i = 0; i < 4; i++)
                a[g + 8 * (i % 2)][(4 * (i / 2) + t) * n + k] = value(m->a[i], k);
            for (int i = 0; i < 2; i++)
                b[(4 * i + t) * n + k][g] = value(m->b[i], k);
        }
    }
}

/* Four columns of one row of A B; each is summed in the order of k. */
template <class T, int depth>
static void multiply_row(const T *row, const T (&b)[depth][8], int column, T *sums) {
    typedef T Four __attribute__((vector_size(4 * sizeof(T))));
    Four all = {};
    for (int k = 0; k < depth; k++) {
        Four four;
        memcpy(&four, b[k] + column, sizeof four);
        all += row[k] * four;
    }
    memcpy(sums + column, &all, sizeof all);
}

/* To a float, towards zero: what a device's adders leave. */
static float cut(double sum) {
    const float near = static_cast<float>(sum);
    return fabs(double{near}) > fabs(sum) ? nextafterf(near, 0.0f) : near;
}

/* Products are exact; whatever the order of their sum, it is cut once. */
template <int depth>
static float cut_sum(const float *row, const float (&b)[depth][8], int column, float c) {
    double sum = double{c};
    for (int k = 0; k < depth; k++)
        sum += double{row[k]} * double{b[k][column]};
    return cut(sum);
}

template <int depth>
static void multiply_rough(void **lanes, const float (&a)[16][depth], const float (&b)[depth][8]) {
    for (int l = 0; l < LANES; l++) {
        const MatrixProduct *m = static_cast<const MatrixProduct *>(lanes[l]);
        const float *c = static_cast<const float *>(m->c);
        for (int i = 0; i < 4; i++)
            static_cast<float *>(m->d)[i] =
                cut_sum<depth>(a[l / 4 + 8 * (i / 2)], b, 2 * (l % 4) + i % 2, c[i]);
    }
}

/* Accumulator i of a lane is row g + 8 (i / 2), column 2t + i % 2. */
template <class T, int depth>
static void multiply(void **lanes, const T (&a)[16][depth], const T (&b)[depth][8]) {
    T sums[16][8];
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 8; column += 4)
            multiply_row<T, depth>(a[row], b, column, sums[row]);
    for (int l = 0; l < LANES; l++) {
        const MatrixProduct *m = static_cast<const MatrixProduct *>(lanes[l]);
        const T *c = static_cast<const T *>(m->c);
        for (int i = 0; i < 4; i++)
            static_cast<T *>(m->d)[i] = c[i] + sums[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2];
    }
}

static float bf16_value(uint32_t word, int which) {
    return __uint_as_float(which ? word & 0xffff0000u : word << 16);
}
static float f16_value(uint32_t word, int which) {
    return __half2float(__half{static_cast<uint16_t>(word >> (16 * which))});
}
/* Unsigned, for sums that wrap. */
static uint32_t s8_value(uint32_t word, int which) {
    return static_cast<uint32_t>(static_cast<int8_t>(word >> (8 * which)));
}

template <class T, int n, T (*value)(uint32_t word, int which)> static void product(void **lanes) {
    T a[16][8 * n], b[8 * n][8];
    gather<T, n, value>(lanes, a, b);
    if constexpr (std::is_same<T, float>::value)
        if (processor.rough) return multiply_rough<8 * n>(lanes, a, b);
    multiply<T, 8 * n>(lanes, a, b);
}

void product_bf16(void **lanes, unsigned) { product<float, 2, bf16_value>(lanes); }
void product_f16(void **lanes, unsigned) { product<float, 2, f16_value>(lanes); }
void product_s8(void **lanes, unsigned) { product<uint32_t, 4, s8_value>(lanes); }

} // namespace cuemu
