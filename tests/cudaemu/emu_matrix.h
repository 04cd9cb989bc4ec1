/* emu_matrix.h - ldmatrix and mma.sync, with the fragment layouts of the PTX ISA, chapter
 * "Warp Level Matrix Instructions" (figures of m8n8, m16n8k16 and m16n8k32).
 *
 * In a fragment lane l is of group g = l / 4 and has place t = l % 4 in it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_MATRIX_H
#define EMU_MATRIX_H

#include <cstring>

#include "emu_core.h"
#include "emu_shared.h"
#include "emu_warp.h"

namespace cuemu {

/* One lane's part: the row it was asked to read, and what it gets. */
struct MatrixLoad {
    uint32_t row[4], result[4];
    const void *at;
};

template <int count, bool transposed> void matrix_distribute(void **lanes, unsigned mask);

/* Each lane reads its own row, here and not in the core, so that a sanitizer names it. */
template <int count, bool transposed>
inline void matrix_load(uint32_t *result, const void *at, Place place) {
    MatrixLoad m = {};
    m.at = at;
    if (processor.current->lane < 8 * count) {
        if (reinterpret_cast<uintptr_t>(at) & 15) fail("ldmatrix row not aligned to 16", place);
        if (!is_shared(at, 16)) fail("ldmatrix row not in shared memory", place);
        memcpy(m.row, at, 16);
    }
    warp_operation(~0u, matrix_distribute<count, transposed>, &m, "ldmatrix", place, false);
    for (int i = 0; i < count; i++)
        result[i] = m.result[i];
}

/* One lane's part of D = A B + C. */
struct MatrixProduct {
    const uint32_t *a, *b;
    const void *c;
    void *d;
};

void product_bf16(void **lanes, unsigned mask);
void product_f16(void **lanes, unsigned mask);
void product_s8(void **lanes, unsigned mask);

template <class T>
inline void matrix_product(Complete product, T *d, const uint32_t *a, const uint32_t *b, const T *c,
                           const char *what, Place place) {
    T sums[4];
    MatrixProduct m = {a, b, c, sums}; /* d may be c */
    warp_operation(~0u, product, &m, what, place, false);
    for (int i = 0; i < 4; i++)
        d[i] = sums[i];
}

} // namespace cuemu

#endif
