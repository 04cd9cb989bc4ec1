/* image.c - what every backend asks of an image before it looks at its bytes. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "engine/base/mem.h"
#include "kernels/kernels.h"

/* Each input once. */
static bool is_permutation(const uint32_t *order, uint32_t count) {
    uint8_t *seen = mem_new(count, 1);
    bool good = true;
    for (uint32_t i = 0; i < count && good; i++) {
        good = order[i] < count && !seen[order[i]];
        if (good) seen[order[i]] = 1;
    }
    free(seen);
    return good;
}

bool kern_image_is_sane(const kern_image *image) {
    if ((unsigned)image->dtype >= DT_COUNT || !image->rows || !image->cols) return false;
    if (image->cols % dtype_info(image->dtype)->block_elements) return false;
    if ((uintptr_t)image->bytes % 64) return false;
    return !image->order || is_permutation(image->order, image->cols);
}
