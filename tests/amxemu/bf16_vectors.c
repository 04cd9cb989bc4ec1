/* bf16_vectors.c - see bf16_vectors.h.
 *
 * A vector register is kept in three parts: registers 0..15 have 16 bytes among the oldest, 16 behind the header of
 * AVX, and 32 with AVX-512's upper halves; 16..31 lie whole elsewhere. A part whose bit in the header is not set holds
 * zeros, whatever the memory says. */
// SPDX-License-Identifier: Apache-2.0
#include "tests/amxemu/bf16_vectors.h"

#include <cpuid.h>
#include <math.h>
#include <string.h>

#include "engine/base/quant.h"
#include "tests/amxemu/amxemu.h"

enum {
    PART_SSE = 1, /* state components, XCR0's bits */
    PART_AVX = 2,
    PART_MASKS = 5,
    PART_UPPER = 6,
    PART_MORE = 7,
    PARTS,
    LANES = 16,
    AT_SSE = 160,
    AT_HEADER = 512,
};

static uint32_t part_at[PARTS];

void bf16_vectors_open(void) {
    part_at[PART_SSE] = AT_SSE;
    for (uint32_t part = PART_AVX; part < PARTS; part++) {
        uint32_t eax, ebx = 0, ecx, edx;
        __cpuid_count(0xd, part, eax, ebx, ecx, edx);
        part_at[part] = ebx;
    }
}

/* The pieces of a register, in order. */
typedef struct piece {
    uint32_t part, offset, bytes;
} piece;

typedef struct vector {
    uint32_t at[LANES];
} vector;

static uint32_t pieces_of(uint32_t number, piece pieces[3]) {
    if (number >= 16) {
        pieces[0] = (piece){PART_MORE, (number - 16) * 64, 64};
        return 1;
    }
    pieces[0] = (piece){PART_SSE, number * 16, 16};
    pieces[1] = (piece){PART_AVX, number * 16, 16};
    pieces[2] = (piece){PART_UPPER, number * 32, 32};
    return 3;
}

static uint8_t *saved(ucontext_t *context) { return (uint8_t *)context->uc_mcontext.fpregs; }

static uint64_t in_use(ucontext_t *context) {
    uint64_t bits;
    memcpy(&bits, saved(context) + AT_HEADER, sizeof bits);
    return bits;
}

static vector get(ucontext_t *context, uint32_t number) {
    vector v = {{0}};
    piece pieces[3];
    uint32_t count = pieces_of(number, pieces), at = 0;
    for (uint32_t p = 0; p < count; p++) {
        if ((in_use(context) >> pieces[p].part) & 1)
            memcpy((uint8_t *)&v + at, saved(context) + part_at[pieces[p].part] + pieces[p].offset,
                   pieces[p].bytes);
        at += pieces[p].bytes;
    }
    return v;
}

static void put(ucontext_t *context, uint32_t number, vector v) {
    static const uint32_t part_bytes[PARTS] = {
        [PART_SSE] = 256, [PART_AVX] = 256, [PART_UPPER] = 512, [PART_MORE] = 1024};
    piece pieces[3];
    uint32_t count = pieces_of(number, pieces), at = 0;
    uint64_t used = in_use(context);
    for (uint32_t p = 0; p < count; p++) {
        uint8_t *part = saved(context) + part_at[pieces[p].part];
        if (!((used >> pieces[p].part) & 1)) memset(part, 0, part_bytes[pieces[p].part]);
        used |= (uint64_t)1 << pieces[p].part;
        memcpy(part + pieces[p].offset, (uint8_t *)&v + at, pieces[p].bytes);
        at += pieces[p].bytes;
    }
    memcpy(saved(context) + AT_HEADER, &used, sizeof used);
}

static uint64_t mask_of(ucontext_t *context, uint32_t number) {
    uint64_t bits = 0;
    if (number == 0) return ~bits;
    if ((in_use(context) >> PART_MASKS) & 1)
        memcpy(&bits, saved(context) + part_at[PART_MASKS] + 8 * number, sizeof bits);
    return bits;
}

static vector third(ucontext_t *context, const instruction *i) {
    if (!i->in_memory) return get(context, i->b);
    /* The processor would not touch what is masked; nothing of ours does that. */
    if (i->mask != 0) amxemu_fail("an operand in memory that is masked is not emulated");
    vector v = {{0}};
    const void *from = (const void *)(uintptr_t)i->address;
    memcpy(&v, from, i->broadcast ? 4 : i->vector_bytes);
    for (uint32_t n = 1; i->broadcast && n < LANES; n++)
        v.at[n] = v.at[0];
    return v;
}

/* A float32's bits as bf16; denormals become zero. */
static uint16_t narrow(uint32_t bits) {
    bool denormal = (bits & 0x7fffffff) < 0x00800000;
    return denormal ? (uint16_t)((bits >> 16) & 0x8000) : bf16_of_f32(f32_of_bits(bits));
}

/* Element n of c, 16 bits wide, is of the narrowed floats of b, and above them, if there are two, of a. */
static vector narrowed(const instruction *i, vector before, vector a, vector b, uint64_t mask) {
    uint32_t lanes = i->vector_bytes / 4, count = i->kind == NARROW_TWO ? 2 * lanes : lanes;
    uint16_t out[2 * LANES] = {0}, kept[2 * LANES];
    memcpy(kept, &before, sizeof kept);
    for (uint32_t n = 0; n < count; n++) {
        uint32_t from = n < lanes ? b.at[n] : a.at[n - lanes];
        if ((mask >> n) & 1)
            out[n] = narrow(from);
        else
            out[n] = i->zeroing ? 0 : kept[n];
    }
    vector c;
    memcpy(&c, out, sizeof c);
    return c;
}

/* The odd product is added to c first, then the even one. */
static vector dots(const instruction *i, vector before, vector a, vector b, uint64_t mask) {
    vector c = {{0}};
    for (uint32_t n = 0; n < i->vector_bytes / 4; n++) {
        float sum = f32_of_bits(before.at[n]);
        sum = fmaf(f32_of_bits(a.at[n] & 0xffff0000), f32_of_bits(b.at[n] & 0xffff0000), sum);
        sum = fmaf(f32_of_bits(a.at[n] << 16), f32_of_bits(b.at[n] << 16), sum);
        if ((mask >> n) & 1)
            c.at[n] = bits_of_f32(sum);
        else
            c.at[n] = i->zeroing ? 0 : before.at[n];
    }
    return c;
}

void bf16_vectors_do(const instruction *i, ucontext_t *context) {
    vector before = get(context, i->c), a = get(context, i->a), b = third(context, i);
    uint64_t mask = mask_of(context, i->mask);
    put(context, i->c,
        i->kind == DOT_BF16 ? dots(i, before, a, b, mask) : narrowed(i, before, a, b, mask));
}
