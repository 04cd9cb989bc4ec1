/* bf16_vectors.h - AVX512-BF16's instructions over the registers that Linux saved when they trapped.
 *
 * Source  Intel SDM volume 2 (VCVTNEPS2BF16, VCVTNE2PS2BF16, VDPBF16PS), volume 1, 13.4 (XSAVE's layout) */
// SPDX-License-Identifier: Apache-2.0
#ifndef AMXEMU_BF16_VECTORS_H
#define AMXEMU_BF16_VECTORS_H

#include "tests/amxemu/instruction.h"

/* Reads where XSAVE keeps what; before the first trap. */
void bf16_vectors_open(void);
/* Does what i says with the registers of context. */
void bf16_vectors_do(const instruction *i, ucontext_t *context);

#endif
