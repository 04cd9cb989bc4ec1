/* instruction.h - an instruction of AMX or AVX512-BF16, read from its bytes.
 *
 * Source  Intel SDM volume 2, chapter 2 (VEX, EVEX, ModRM, SIB, disp8*N) and the instructions' pages */
// SPDX-License-Identifier: Apache-2.0
#ifndef AMXEMU_INSTRUCTION_H
#define AMXEMU_INSTRUCTION_H

#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

typedef enum instruction_kind {
    LOAD_CONFIG,
    RELEASE,
    TILE_ZERO,
    TILE_LOAD,
    TILE_STORE,
    MULTIPLY_BF16, /* tdpbf16ps */
    MULTIPLY_INT8, /* tdpbssd */
    NARROW,        /* vcvtneps2bf16 */
    NARROW_TWO,    /* vcvtne2ps2bf16 */
    DOT_BF16,      /* vdpbf16ps */
    UNKNOWN,
} instruction_kind;

/* Tiles: c is written (and is what is loaded or stored), a and b are factors. Vectors: c is written, a the second operand
 * in the manual's order, b the third, unless in_memory. */
typedef struct instruction {
    instruction_kind kind;
    uint32_t length; /* bytes */
    uint32_t c, a, b;
    bool in_memory;
    uint64_t address;      /* in_memory; of a tile's first row */
    uint64_t stride_bytes; /* of tiles: from row to row */
    uint32_t vector_bytes; /* 16, 32, 64 */
    uint32_t mask;         /* opmask register; 0: all elements */
    bool zeroing, broadcast;
} instruction;

/* Of the instruction at regs' RIP. kind UNKNOWN: none of those, or as the manual forbids it. */
instruction instruction_read(const greg_t *regs);

#endif
