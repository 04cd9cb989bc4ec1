/* comm_local.c - ranks that are threads: they show each other pointers, and meet.
 *
 * A meeting is a number for each rank that only grows: a rank adds one to its own and waits until all others
 * have come as far. A collective is
 *
 *   show what I have - meet - copy out of what the others have - meet
 *
 * the second time because nobody may change what another one still reads. Waiting is as in the pool: a short
 * look, then offers of the processor, then sleep; in slices, to see an abort or a rank that is late. */
// SPDX-License-Identifier: Apache-2.0
#include "cluster/comm_local.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/queue.h"

enum { LOOKS = 64, OFFER_US = 150, SLICE_US = 50000, CACHE_LINE = 64 };

/* What a rank shows; written before it comes to a meeting, read by others after. */
typedef struct shown {
    const void *at;
    const comm_part *parts;
    size_t bytes;
} shown;

typedef struct rank_state {
    _Alignas(CACHE_LINE) _Atomic uint32_t came; /* meetings that it has come to */
    signal_word moved;                          /* woken with each */
    shown shows;
} rank_state;

/* Shared by all ranks; the last one to close frees it. */
typedef struct group {
    rank_state *ranks; /* [size] */
    uint32_t size;
    _Atomic uint32_t open;
    _Atomic bool failed; /* set after `why` */
    pthread_mutex_t lock;
    esp_error why;
} group;

typedef struct local_comm {
    comm head;
    group *group;
    uint32_t meetings; /* that this rank has come to */
} local_comm;

/* ---- failing ---- */

static void fail(group *g, const esp_error *why) {
    pthread_mutex_lock(&g->lock);
    if (!atomic_load(&g->failed)) g->why = *why;
    atomic_store(&g->failed, true);
    pthread_mutex_unlock(&g->lock);
    for (uint32_t rank = 0; rank < g->size; rank++)
        signal_wake(&g->ranks[rank].moved);
}

static void say_late(const local_comm *c, uint32_t rank) {
    esp_error why = {0};
    esp_fail(&why, ESP_UNAVAILABLE,
             "rank %u of %u did not come within %.1f s; the replica ends: restart it", rank,
             c->group->size, (double)c->head.patience_us * 1e-6);
    fail(c->group, &why);
}

static void local_abort(comm *head, const esp_error *why) {
    fail(((local_comm *)head)->group, why);
}

static esp_code local_check(comm *head, esp_error *err) {
    group *g = ((local_comm *)head)->group;
    if (!atomic_load(&g->failed)) return ESP_OK;
    pthread_mutex_lock(&g->lock);
    esp_error why = g->why;
    pthread_mutex_unlock(&g->lock);
    if (err) *err = why;
    return why.code;
}

/* ---- meeting ---- */

static bool has_come(const rank_state *r, uint32_t meeting) {
    return (int32_t)(atomic_load_explicit(&r->came, memory_order_acquire) - meeting) >= 0;
}

/* False: late, or the group has failed. */
static bool sleep_for(local_comm *c, uint32_t rank, int64_t began_us) {
    rank_state *r = &c->group->ranks[rank];
    for (;;) {
        uint32_t seen = signal_seen(&r->moved);
        if (has_come(r, c->meetings)) return true;
        if (atomic_load(&c->group->failed)) return false;
        if (c->head.patience_us >= 0 && clock_now_us() - began_us > c->head.patience_us) {
            say_late(c, rank);
            return false;
        }
        signal_wait(&r->moved, seen, SLICE_US);
    }
}

static bool await(local_comm *c, uint32_t rank) {
    const rank_state *r = &c->group->ranks[rank];
    for (int i = 0; i < LOOKS; i++)
        if (has_come(r, c->meetings)) return true;
    int64_t began_us = clock_now_us();
    do {
        sched_yield();
        if (has_come(r, c->meetings)) return true;
    } while (clock_now_us() - began_us < OFFER_US);
    return sleep_for(c, rank, began_us);
}

/* True: all are here. */
static bool meet(local_comm *c) {
    group *g = c->group;
    if (atomic_load(&g->failed)) return false;
    rank_state *own = &g->ranks[c->head.rank];
    atomic_store(&own->came, ++c->meetings);
    signal_wake(&own->moved);
    for (uint32_t rank = 0; rank < g->size; rank++)
        if (!await(c, rank)) return false;
    return true;
}

/* Once the group has failed nothing more is shown: a slower rank may still read what was. */
static bool show(local_comm *c, shown what) {
    if (atomic_load(&c->group->failed)) return false;
    c->group->ranks[c->head.rank].shows = what;
    return meet(c);
}

/* ---- collectives ---- */

static void local_all_gather(comm *head, const void *in, void *out, size_t bytes) {
    local_comm *c = (local_comm *)head;
    if (!show(c, (shown){.at = in, .bytes = bytes})) return;
    for (uint32_t rank = 0; rank < head->size; rank++) {
        shown from = c->group->ranks[rank].shows;
        ESP_ASSERT(from.bytes == bytes);
        memcpy((char *)out + rank * bytes, from.at, bytes);
    }
    (void)meet(c);
}

static void local_exchange(comm *head, const comm_part *parts) {
    local_comm *c = (local_comm *)head;
    if (!show(c, (shown){.parts = parts})) return;
    for (uint32_t rank = 0; rank < head->size; rank++) {
        const comm_part *from = &c->group->ranks[rank].shows.parts[head->rank];
        ESP_ASSERT(from->send_bytes == parts[rank].receive_bytes);
        if (from->send_bytes) memcpy(parts[rank].receive, from->send, from->send_bytes);
    }
    (void)meet(c);
}

static void local_broadcast(comm *head, void *at, size_t bytes) {
    local_comm *c = (local_comm *)head;
    if (!show(c, (shown){.at = at, .bytes = bytes})) return;
    shown from = c->group->ranks[0].shows;
    ESP_ASSERT(from.bytes == bytes);
    if (head->rank && bytes) memcpy(at, from.at, bytes);
    (void)meet(c);
}

/* ---- open and close ---- */

static void local_close(comm *head) {
    local_comm *c = (local_comm *)head;
    group *g = c->group;
    free(c);
    if (atomic_fetch_sub(&g->open, 1) > 1) return;
    pthread_mutex_destroy(&g->lock);
    mem_unmap(g->ranks, g->size * sizeof *g->ranks);
    free(g);
}

static const comm_ops local_ops = {
    .name = "local",
    .close = local_close,
    .all_gather = local_all_gather,
    .exchange = local_exchange,
    .broadcast = local_broadcast,
    .abort = local_abort,
    .check = local_check,
};

void comm_local_open(comm **out, uint32_t size) {
    ESP_ASSERT(size >= 1 && size <= COMM_RANKS_MAX);
    group *g = mem_new(1, sizeof *g);
    g->ranks = mem_map(size * sizeof *g->ranks); /* whole lines, which malloc does not promise */
    ESP_ASSERT(g->ranks && pthread_mutex_init(&g->lock, NULL) == 0);
    g->size = size;
    atomic_init(&g->open, size);
    for (uint32_t rank = 0; rank < size; rank++) {
        local_comm *c = mem_new(1, sizeof *c);
        c->head = (comm){.ops = &local_ops,
                         .rank = rank,
                         .size = size,
                         .local_rank = rank,
                         .patience_us = COMM_PATIENCE_US};
        c->group = g;
        out[rank] = &c->head;
    }
}
