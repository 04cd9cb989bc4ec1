/* comm_cases.h - what every backend of the collectives must do: run by each rank, which returns how many
 * bytes or bits were not what they should be. Ranks are threads, processes or emulated GPUs; memory is the
 * host's. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_COMM_CASES_H
#define ESPALIER_COMM_CASES_H

#include <stdlib.h>
#include <string.h>

#include "cluster/rank_sum.h"
#include "engine/base/mem.h"
#include "engine/base/pool.h"

enum { CASE_BYTES_MAX = 300000 };

static inline uint8_t case_byte(uint32_t from, uint32_t to, size_t i) {
    return (uint8_t)(31 * from + 7 * to + i * 13 + i / 251);
}

static inline uint32_t case_wrong(const uint8_t *at, size_t bytes, uint32_t from, uint32_t to) {
    uint32_t wrong = 0;
    for (size_t i = 0; i < bytes; i++)
        wrong += at[i] != case_byte(from, to, i);
    return wrong;
}

static inline void case_fill(uint8_t *at, size_t bytes, uint32_t from, uint32_t to) {
    for (size_t i = 0; i < bytes; i++)
        at[i] = case_byte(from, to, i);
}

static inline uint32_t case_all_gather(comm *c, size_t bytes) {
    uint8_t *in = mem_new(bytes + 1, 1), *out = mem_new(bytes * c->size + 1, 1);
    uint32_t wrong = 0;
    case_fill(in, bytes, c->rank, 0);
    comm_all_gather(c, in, out, bytes);
    for (uint32_t rank = 0; rank < c->size; rank++)
        wrong += case_wrong(out + rank * bytes, bytes, rank, 0);
    free(in);
    free(out);
    return wrong;
}

/* Rank s sends (s + 2r) % 5 times the unit to rank r: some parts are empty. */
static inline size_t case_part(uint32_t from, uint32_t to, size_t unit) {
    return (from + 2 * to) % 5 * unit;
}

static inline uint32_t case_exchange(comm *c, size_t unit) {
    comm_part parts[COMM_RANKS_MAX];
    uint32_t wrong = 0;
    for (uint32_t rank = 0; rank < c->size; rank++) {
        comm_part *p = &parts[rank];
        p->send_bytes = case_part(c->rank, rank, unit);
        p->receive_bytes = case_part(rank, c->rank, unit);
        uint8_t *send = mem_new(p->send_bytes + 1, 1);
        case_fill(send, p->send_bytes, c->rank, rank);
        p->send = send;
        p->receive = mem_new(p->receive_bytes + 1, 1);
    }
    comm_exchange(c, parts);
    for (uint32_t rank = 0; rank < c->size; rank++) {
        wrong += case_wrong(parts[rank].receive, parts[rank].receive_bytes, rank, c->rank);
        free((void *)parts[rank].send);
        free(parts[rank].receive);
    }
    return wrong;
}

static inline uint32_t case_broadcast(comm *c, size_t bytes) {
    uint8_t *at = mem_new(bytes + 1, 1);
    if (c->rank == 0) case_fill(at, bytes, 0, 9);
    comm_broadcast(c, at, bytes);
    uint32_t wrong = case_wrong(at, bytes, 0, 9);
    free(at);
    return wrong;
}

/* Values whose sum depends on the order of the additions. */
static inline float case_value(uint32_t rank, size_t i) {
    static const float scale[] = {1e4f, 1.0f / 3, 1e-3f, 77.7f};
    return scale[(rank + i) % 4] * (float)((int)((i * 2654435761u + rank * 40503u) % 2001) - 1000);
}

static inline float case_in_order(uint32_t ranks, size_t i) {
    float sum = case_value(0, i);
    for (uint32_t rank = 1; rank < ranks; rank++)
        sum += case_value(rank, i);
    return sum;
}

/* Of ranks [first, first + count), two by two. */
static inline float case_tree(uint32_t first, uint32_t count, size_t i) {
    if (count == 1) return case_value(first, i);
    return case_tree(first, count / 2, i) + case_tree(first + count / 2, count / 2, i);
}

/* On device memory of the host; what `residual` adds to is the same on all ranks. */
static inline uint32_t case_sum_in(comm *c, const kern_ops *ops, kern_device *dev, size_t count,
                                   rank_sum_order order, bool residual) {
    rank_sum s;
    uint32_t wrong = 0;
    float *out = mem_new(count, sizeof *out);
    ESP_ASSERT(rank_sum_open(&s, c, ops, dev, count, NULL) == ESP_OK);
    float *partial = s.partial;
    for (size_t i = 0; i < count; i++) {
        partial[i] = case_value(c->rank, i);
        out[i] = case_value(99, i);
    }
    rank_sum_run(&s, count, order, residual, out);
    for (size_t i = 0; i < count; i++) {
        float before = case_value(99, i);
        float sum = order == RANK_SUM_TREE ? case_tree(0, c->size, i) : case_in_order(c->size, i);
        float wanted = residual ? before + sum : sum;
        wrong += memcmp(&out[i], &wanted, sizeof wanted) != 0;
    }
    rank_sum_close(&s);
    free(out);
    return wrong;
}

/* In the order of the ranks; and as a tree, where the backend and the number of ranks are such. */
static inline uint32_t case_sum(comm *c, const kern_ops *ops, kern_device *dev, size_t count,
                                bool residual) {
    uint32_t wrong = case_sum_in(c, ops, dev, count, RANK_SUM_IN_ORDER, residual);
    if (ops->parts && c->size <= KERN_PARTS_MAX && (c->size & (c->size - 1)) == 0)
        wrong += case_sum_in(c, ops, dev, count, RANK_SUM_TREE, residual);
    return wrong;
}

static inline uint32_t case_sums(comm *c, const kern_ops *ops, esp_dtype kv_dtype) {
    /* Around a cache line, a slice of each rank, the border between small and large. */
    static const size_t counts[] = {1,     3,     63,    64,    65,    576,  16383,
                                    16384, 16385, 16448, 20001, 65536, 70001};
    thread_pool *pool;
    kern_device *dev;
    uint32_t wrong = 0;
    ESP_ASSERT(pool_open(&pool, 1, NULL) == ESP_OK);
    kern_options o = {.pool = pool, .kv_dtype = kv_dtype, .tokens_max = 1};
    ESP_ASSERT(ops->open(&dev, &o, NULL) == ESP_OK);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int residual = 0; residual < 2; residual++)
            wrong += case_sum(c, ops, dev, counts[i], residual);
    ops->close(dev);
    pool_close(pool);
    return wrong;
}

/* All of it. */
static inline uint32_t case_run(comm *c) {
    static const size_t bytes[] = {0, 1, 64, 4095, 4096, 65536, CASE_BYTES_MAX};
    uint32_t wrong = 0;
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
            wrong += case_all_gather(c, bytes[i]);
            wrong += case_exchange(c, bytes[i] / 4);
            wrong += case_broadcast(c, bytes[i]);
        }
    wrong += case_sums(c, &kern_ref, DT_F32);
    if (kern_cpu_best_level() != LEVEL_AUTO) wrong += case_sums(c, &kern_cpu, DT_BF16);
    return wrong + (comm_check(c, NULL) != ESP_OK);
}

#endif
