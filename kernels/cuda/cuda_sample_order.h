/* cuda_sample_order.h - the candidates of a row, best first, some at a time; by one block of threads.
 *
 * Nothing sorts a row. The first ones: the largest scores of its blocks of 256 are known; at least as many tokens as
 * are wanted are no worse than the wanted-th largest of these, so those that are no worse are all that matters, and
 * they are few. Where that bar lets too many through, or more are wanted, the next ORDER_MOST are found by radix: a
 * histogram of eight bits of the candidates after another, from the top. What was found is sorted in shared memory.
 * Candidates are never equal (cuda_sample_math.h), so what comes in what order is exact, whoever found it first. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CUDA_SAMPLE_ORDER_H
#define ESPALIER_CUDA_SAMPLE_ORDER_H

#include "cuda_sample_math.h"

enum {
    SAMPLE_BLOCK = 256, /* values whose largest is known */
    ORDER_THREADS = 512,
    ORDER_MOST = 2048, /* candidates at a time */
    ORDER_FIRST = 128, /* of the first ones, at least, if there are as many blocks */
    ORDER_BINS = 256,
};

/* In shared memory. */
struct order_shared {
    uint64_t found[ORDER_MOST]; /* candidates, best first */
    float weights[ORDER_MOST];  /* the owner's; scratch while candidates are found */
    uint32_t bins[ORDER_BINS];
    uint32_t count;
    uint32_t digit, above;
};

/* The same in all threads. */
struct order_row {
    const float *scores, *largest; /* [vocab], [blocks] */
    uint32_t vocab, blocks, id_bits;
    uint64_t last; /* the worst that was given; all bits set: none was */
    uint32_t rounds;
    bool again; /* what is in shared memory is to be given again */
};

CU_DEV order_row order_begin(const float *scores, const float *largest, uint32_t vocab) {
    order_row row = {};
    row.scores = scores;
    row.largest = largest;
    row.vocab = vocab;
    row.blocks = (vocab + SAMPLE_BLOCK - 1) / SAMPLE_BLOCK;
    row.id_bits = 32 - (uint32_t)__clz((int)vocab);
    row.last = ~(uint64_t)0;
    return row;
}

/* From the best on again. */
CU_DEV void order_rewind(order_row &row) {
    row.again = row.rounds == 1;
    if (row.again) return;
    row.last = ~(uint64_t)0;
    row.rounds = 0;
}

/* 0: no candidate, or given already. */
CU_DEV uint64_t order_at(const order_row &row, uint32_t id) {
    const uint64_t candidate = sample_candidate(row.scores[id], id, row.id_bits);
    return candidate < row.last ? candidate : 0;
}

/* Bitonic (Batcher, AFIPS 1968), best first; count: a power of two. All threads. */
CU_DEV void order_sort(uint64_t *found, uint32_t count) {
    for (uint32_t size = 2; size <= count; size *= 2)
        for (uint32_t step = size / 2; step > 0; step /= 2) {
            __syncthreads();
            for (uint32_t i = threadIdx.x; i < count / 2; i += ORDER_THREADS) {
                const uint32_t low = i / step * step * 2 + i % step, high = low + step;
                const uint64_t a = found[low], b = found[high];
                const bool descends = (low & size) == 0;
                if ((a < b) == descends) {
                    found[low] = b;
                    found[high] = a;
                }
            }
        }
    __syncthreads();
}

CU_DEV uint32_t order_power(uint32_t count) {
    uint32_t power = 2;
    while (power < count)
        power *= 2;
    return power;
}

/* Zeros behind `count`, up to a power of two, and sorts. All threads. */
CU_DEV void order_arrange(order_shared &shared, uint32_t count) {
    const uint32_t power = order_power(count);
    __syncthreads();
    for (uint32_t i = count + threadIdx.x; i < power; i += ORDER_THREADS)
        shared.found[i] = 0;
    order_sort(shared.found, power);
}

/* Every thread with a candidate appends it; there may be more than fit. */
CU_DEV void order_append(order_shared &shared, uint64_t candidate) {
    const uint32_t at = atomicAdd(&shared.count, 1u);
    if (at < ORDER_MOST) shared.found[at] = candidate;
}

/* ---- the first ones ---- */

/* Leaves the blocks that may matter in shared.weights (their numbers), and how many in shared.digit; returns the
 * least key that matters. */
CU_DEV uint32_t order_first_bar(order_shared &shared, const order_row &row, uint32_t wanted) {
    for (uint32_t i = threadIdx.x; i < row.blocks; i += ORDER_THREADS)
        shared.found[i] = sample_candidate(row.largest[i], i, row.id_bits);
    order_arrange(shared, row.blocks);
    const uint32_t bar = (uint32_t)(shared.found[wanted - 1] >> row.id_bits);
    if (threadIdx.x == 0) shared.digit = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < row.blocks; i += ORDER_THREADS) {
        const uint64_t block = shared.found[i];
        if (block == 0 || (uint32_t)(block >> row.id_bits) < bar) continue;
        shared.weights[i] = __uint_as_float(sample_candidate_id(block, row.id_bits));
        atomicAdd(&shared.digit, 1u);
    }
    __syncthreads();
    return bar;
}

/* At least `wanted` of the best, if there are as many; false: too many for shared memory. */
CU_DEV bool order_first(order_shared &shared, const order_row &row, uint32_t wanted) {
    const uint32_t bar = order_first_bar(shared, row, wanted);
    const uint32_t blocks = shared.digit, warps = ORDER_THREADS / 32;
    if (threadIdx.x == 0) shared.count = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x / 32; i < blocks; i += warps) {
        const uint32_t first = __float_as_uint(shared.weights[i]) * SAMPLE_BLOCK;
        const uint32_t end = min(row.vocab, first + SAMPLE_BLOCK);
        for (uint32_t id = first + threadIdx.x % 32; id < end; id += 32) {
            const uint64_t candidate = order_at(row, id);
            if (candidate != 0 && (uint32_t)(candidate >> row.id_bits) >= bar)
                order_append(shared, candidate);
        }
    }
    __syncthreads();
    return shared.count <= ORDER_MOST;
}

/* ---- the next ones ---- */

/* How many candidates have each value of eight bits from `shift` on, of those whose bits above are `prefix`. */
CU_DEV void order_count_digits(order_shared &shared, const order_row &row, uint64_t prefix,
                               uint32_t shift) {
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < ORDER_BINS; i += ORDER_THREADS)
        shared.bins[i] = 0;
    __syncthreads();
    for (uint32_t id = threadIdx.x; id < row.vocab; id += ORDER_THREADS) {
        const uint64_t candidate = order_at(row, id);
        if (candidate == 0 || candidate >> shift >> 8 != prefix) continue;
        atomicAdd(&shared.bins[candidate >> shift & 0xff], 1u);
    }
    __syncthreads();
}

/* The largest digit so that `wanted` candidates have it or more (or 0), and how many have more. */
CU_DEV void order_pick_digit(order_shared &shared, uint32_t wanted) {
    if (threadIdx.x == 0) {
        uint32_t digit = ORDER_BINS, above = 0, here = 0;
        do {
            above += here;
            here = shared.bins[--digit];
        } while (digit > 0 && above + here < wanted);
        shared.digit = digit;
        shared.above = above;
    }
    __syncthreads();
}

/* The worst of the next `wanted` candidates, or something below all where there are fewer. */
CU_DEV uint64_t order_radix_bar(order_shared &shared, const order_row &row, uint32_t wanted) {
    const uint32_t bits = 32 + row.id_bits, digits = (bits + 7) / 8;
    uint64_t prefix = 0;
    for (uint32_t i = digits; i-- > 0;) {
        order_count_digits(shared, row, prefix, i * 8);
        order_pick_digit(shared, wanted);
        wanted -= shared.above;
        prefix = prefix << 8 | shared.digit;
    }
    return prefix;
}

/* The next ORDER_MOST, or as many as there are. */
CU_DEV void order_next_by_radix(order_shared &shared, const order_row &row, uint32_t wanted) {
    const uint64_t bar = order_radix_bar(shared, row, wanted);
    __syncthreads();
    if (threadIdx.x == 0) shared.count = 0;
    __syncthreads();
    for (uint32_t id = threadIdx.x; id < row.vocab; id += ORDER_THREADS) {
        const uint64_t candidate = order_at(row, id);
        if (candidate != 0 && candidate >= bar) order_append(shared, candidate);
    }
    __syncthreads();
}

/* ---- the door ---- */

/* The next candidates into shared.found, in order; how many: 0 when there are none left. As many as `wanted`, or
 * more, if shared memory holds as many. All threads of the block. */
CU_DEV uint32_t order_next(order_shared &shared, order_row &row, uint32_t wanted) {
    if (row.again) {
        row.again = false;
        return shared.count;
    }
    __syncthreads();
    const uint32_t first = min(wanted, (uint32_t)ORDER_FIRST);
    bool few = row.rounds == 0 && first <= row.blocks && row.blocks <= ORDER_MOST;
    if (few) few = order_first(shared, row, first);
    if (!few) order_next_by_radix(shared, row, min(wanted, (uint32_t)ORDER_MOST));
    const uint32_t count = shared.count;
    if (count > 0) {
        order_arrange(shared, count);
        row.last = shared.found[count - 1];
    }
    row.rounds++;
    return count;
}

#endif
