/* instruction.c - reading an instruction's bytes. */
// SPDX-License-Identifier: Apache-2.0
#include "tests/amxemu/instruction.h"

#include <stddef.h>
#include <string.h>

enum {
    VEX3 = 0xc4,
    EVEX = 0x62,
    MAP_0F38 = 2,
    PREFIX_NONE = 0, /* pp; 1 is 66 */
    PREFIX_F3 = 2,
    PREFIX_F2 = 3,
    NO_INDEX = 4,
};

/* The manual's numbers of general registers, as the system's. */
static const int REGISTERS[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                REG_R12, REG_R13, REG_R14, REG_R15};

typedef struct reader {
    const uint8_t *at;
    const greg_t *regs;
    uint32_t base_high, index_high; /* 0 or 8, added to the three bits of ModRM and SIB */
    uint32_t disp8_scale;
    bool has_sib;
} reader;

typedef struct prefix {
    uint32_t reg, vvvv; /* reg: what is added to ModRM's */
    uint32_t pp;
} prefix;

static uint64_t value_of(const reader *r, uint32_t number) {
    return (uint64_t)r->regs[REGISTERS[number]];
}

/* What ModRM and SIB say; r->at ends behind the displacement. An index goes to stride_bytes. */
static void read_memory(reader *r, uint32_t modrm, instruction *i) {
    uint32_t mode = modrm >> 6, rm = modrm & 7, base = rm + r->base_high;
    bool no_base = false;
    i->in_memory = true;
    r->has_sib = rm == 4;
    if (r->has_sib) {
        uint32_t sib = *r->at++, index = ((sib >> 3) & 7) + r->index_high;
        base = (sib & 7) + r->base_high;
        no_base = (sib & 7) == 5 && mode == 0;
        if (index != NO_INDEX) i->stride_bytes = value_of(r, index) << (sib >> 6);
    }
    bool from_rip = rm == 5 && mode == 0;
    int64_t displacement = 0;
    if (mode == 1) {
        displacement = (int64_t)(int8_t)*r->at++ * r->disp8_scale;
    } else if (mode == 2 || no_base || from_rip) {
        int32_t wide;
        memcpy(&wide, r->at, sizeof wide);
        r->at += sizeof wide;
        displacement = wide;
    }
    /* RIP is the next instruction's; none of ours has an immediate operand behind. */
    uint64_t from = from_rip ? (uint64_t)(uintptr_t)r->at : no_base ? 0 : value_of(r, base);
    i->address = from + (uint64_t)displacement;
}

/* Of all but tiles' rows an index is a part of the address. */
static void add_index(instruction *i) {
    i->address += i->stride_bytes;
    i->stride_bytes = 0;
}

static instruction_kind tile_kind(uint32_t opcode, uint32_t pp, bool in_memory, uint32_t reg) {
    switch (opcode) {
    case 0x49:
        if (pp == PREFIX_F2) return in_memory ? UNKNOWN : TILE_ZERO;
        if (pp == PREFIX_NONE && reg == 0) return in_memory ? LOAD_CONFIG : RELEASE;
        return UNKNOWN;
    case 0x4b:
        if (!in_memory || pp == PREFIX_NONE) return UNKNOWN;
        return pp == PREFIX_F3 ? TILE_STORE : TILE_LOAD;
    case 0x5c:
        return !in_memory && pp == PREFIX_F3 ? MULTIPLY_BF16 : UNKNOWN;
    case 0x5e:
        return !in_memory && pp == PREFIX_F2 ? MULTIPLY_INT8 : UNKNOWN;
    }
    return UNKNOWN;
}

static instruction_kind vector_kind(uint32_t opcode, uint32_t pp) {
    if (opcode == 0x72 && pp == PREFIX_F3) return NARROW;
    if (opcode == 0x72 && pp == PREFIX_F2) return NARROW_TWO;
    if (opcode == 0x52 && pp == PREFIX_F3) return DOT_BF16;
    return UNKNOWN;
}

/* Bits of registers' numbers are stored inverted. */
static uint32_t high(uint32_t byte, uint32_t bit, uint32_t worth) {
    return (byte >> bit) & 1 ? 0 : worth;
}

/* What a tile instruction's other bits must be. */
static bool is_sound(const instruction *i, const reader *r, uint32_t rm) {
    bool two_factors = i->kind == MULTIPLY_BF16 || i->kind == MULTIPLY_INT8;
    if (!two_factors && i->b != 0) return false; /* vvvv names nothing */
    if (i->kind == TILE_ZERO || i->kind == RELEASE) return rm == 0;
    if (i->kind == TILE_LOAD || i->kind == TILE_STORE) return r->has_sib;
    return true;
}

static void read_tiles(reader *r, instruction *i) {
    uint32_t b1 = r->at[1], b2 = r->at[2], opcode = r->at[3], modrm = r->at[4];
    if ((b1 & 31) != MAP_0F38 || (b2 & 0x84) != 0) return; /* W and L are 0 */
    prefix p = {.reg = high(b1, 7, 8), .vvvv = 15 - ((b2 >> 3) & 15), .pp = b2 & 3};
    r->index_high = high(b1, 6, 8);
    r->base_high = high(b1, 5, 8);
    r->disp8_scale = 1;
    r->at += 5;
    if (modrm >> 6 != 3) read_memory(r, modrm, i);
    i->c = ((modrm >> 3) & 7) + p.reg;
    i->a = (modrm & 7) + r->base_high;
    i->b = p.vvvv;
    i->kind = tile_kind(opcode, p.pp, i->in_memory, i->c);
    if (i->kind == LOAD_CONFIG) add_index(i);
    if (!is_sound(i, r, modrm & 7)) i->kind = UNKNOWN;
}

static void read_vectors(reader *r, instruction *i) {
    uint32_t p0 = r->at[1], p1 = r->at[2], p2 = r->at[3], opcode = r->at[4], modrm = r->at[5];
    if ((p0 & 15) != MAP_0F38 || (p1 & 0x84) != 0x04) return; /* bits that are fixed, W */
    prefix p = {.reg = high(p0, 7, 8) + high(p0, 4, 16),
                .vvvv = 15 - ((p1 >> 3) & 15) + high(p2, 3, 16),
                .pp = p1 & 3};
    uint32_t width = (p2 >> 5) & 3;
    r->index_high = high(p0, 6, 8);
    r->base_high = high(p0, 5, 8);
    i->vector_bytes = 16u << width;
    i->zeroing = p2 >> 7;
    i->broadcast = (p2 >> 4) & 1;
    i->mask = p2 & 7;
    r->disp8_scale = i->broadcast ? 4 : i->vector_bytes;
    r->at += 6;
    if (modrm >> 6 != 3) read_memory(r, modrm, i);
    add_index(i);
    i->c = ((modrm >> 3) & 7) + p.reg;
    i->a = p.vvvv;
    i->b = (modrm & 7) + r->base_high + high(p0, 6, 16); /* of a register, X is the fifth bit */
    i->kind = vector_kind(opcode, p.pp);
    if (width == 3 || (i->broadcast && !i->in_memory) || (i->zeroing && i->mask == 0) ||
        (i->kind == NARROW && i->a != 0))
        i->kind = UNKNOWN;
}

instruction instruction_read(const greg_t *regs) {
    const uint8_t *start = (const uint8_t *)(uintptr_t)regs[REG_RIP];
    reader r = {.at = start, .regs = regs};
    instruction i = {.kind = UNKNOWN};
    if (*start == VEX3) read_tiles(&r, &i);
    if (*start == EVEX) read_vectors(&r, &i);
    i.length = (uint32_t)(r.at - start);
    return i;
}
