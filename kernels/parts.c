/* parts.c - what the backends ask of the parts of a sum. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/kernels.h"

static bool is_power(uint32_t count) { return count > 0 && (count & (count - 1)) == 0; }

bool kern_parts_fit(const kern_linear *op, uint32_t cols) {
    const kern_parts *p = op->parts;
    if (!p) return true;
    if (op->matrix_count != 1 || kern_is_gated(op->epilogue)) return false;
    if (!is_power(p->whole) || !is_power(p->count)) return false;
    if (p->whole > KERN_PARTS_MAX || p->count > p->whole) return false;
    for (uint32_t i = 0, first = 0; i + 1 < p->count; first = p->end[i++])
        if (p->end[i] <= first || p->end[i] % KERN_PART_COLUMNS) return false;
    return p->end[p->count - 1] == cols && (p->count == 1 || p->end[p->count - 2] < cols);
}
