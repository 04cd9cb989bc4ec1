/* comm_local.c - ranks that are threads: they show each other pointers, and meet.
 *
 * A meeting is a number for each rank that only grows: a rank adds one to its own and waits until all others
 * have come as far. A collective is
 *
 *   show what I have - meet - copy out of what the others have - meet
 *
 * the second time because nobody may change what another one still reads; after a failure, too, nobody leaves
 * before the others have stopped copying. Waiting is as in the pool: a short look, then offers of the processor,
 * then sleep; in slices, to see an abort or a rank that is late. */
// SPDX-License-Identifier: Apache-2.0
#include "cluster/comm_local.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/comm_failure.h"
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
    _Atomic bool reads;                         /* what others have shown */
    signal_word moved;                          /* woken with each */
    shown shows;
} rank_state;

/* Shared by all ranks; the last one to close frees it. */
typedef struct group {
    rank_state *ranks; /* [size] */
    uint32_t size;
    _Atomic uint32_t open;
    comm_failure failure;
} group;

typedef struct local_comm {
    comm head;
    group *group;
    uint32_t meetings; /* that this rank has come to */
} local_comm;

/* ---- failing ---- */

static void fail(group *g, const esp_error *why) {
    comm_failure_keep(&g->failure, why);
    for (uint32_t rank = 0; rank < g->size; rank++)
        signal_wake(&g->ranks[rank].moved);
}

static void say_late(const local_comm *c, uint32_t rank) {
    esp_error why = {0};
    char name[COMM_RANK_NAME_BYTES], late[COMM_RANK_NAME_BYTES];
    esp_fail(&why, ESP_UNAVAILABLE, "%s %s; the replica ends: restart it",
             comm_rank_name(&c->head, rank, name), comm_late_words(&c->head, late));
    fail(c->group, &why);
}

static void local_abort(comm *head, const esp_error *why) {
    fail(((local_comm *)head)->group, why);
}

static esp_code local_check(comm *head, esp_error *err) {
    return comm_failure_tell(&((local_comm *)head)->group->failure, err);
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
        if (comm_failed(&c->group->failure)) return false;
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
    if (comm_failed(&g->failure)) return false;
    rank_state *own = &g->ranks[c->head.rank];
    atomic_store(&own->came, ++c->meetings);
    signal_wake(&own->moved);
    for (uint32_t rank = 0; rank < g->size; rank++)
        if (!await(c, rank)) return false;
    return true;
}

/* The group has failed: this rank's caller may do with what was shown as it likes when nobody reads it any more. */
static void wait_for_readers(const local_comm *c) {
    for (uint32_t rank = 0; rank < c->group->size; rank++)
        while (atomic_load(&c->group->ranks[rank].reads))
            sched_yield();
}

/* Once the group has failed nothing more is shown or read. True: what the others show may be read, until
 * stop_reading. */
static bool show(local_comm *c, shown what) {
    group *g = c->group;
    rank_state *own = &g->ranks[c->head.rank];
    if (comm_failed(&g->failure)) return false;
    own->shows = what;
    bool met = meet(c);
    /* Before the look at the failure, which who leaves has seen before it looks at this. */
    atomic_store(&own->reads, met);
    if (met && !comm_failed(&g->failure)) return true;
    atomic_store(&own->reads, false);
    wait_for_readers(c);
    return false;
}

static void stop_reading(local_comm *c) {
    atomic_store(&c->group->ranks[c->head.rank].reads, false);
    if (!meet(c)) wait_for_readers(c);
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
    stop_reading(c);
}

static void local_exchange(comm *head, const comm_part *parts) {
    local_comm *c = (local_comm *)head;
    if (!show(c, (shown){.parts = parts})) return;
    for (uint32_t rank = 0; rank < head->size; rank++) {
        const comm_part *from = &c->group->ranks[rank].shows.parts[head->rank];
        ESP_ASSERT(from->send_bytes == parts[rank].receive_bytes);
        if (from->send_bytes) memcpy(parts[rank].receive, from->send, from->send_bytes);
    }
    stop_reading(c);
}

static void local_broadcast(comm *head, void *at, size_t bytes) {
    local_comm *c = (local_comm *)head;
    if (!show(c, (shown){.at = at, .bytes = bytes})) return;
    shown from = c->group->ranks[0].shows;
    ESP_ASSERT(from.bytes == bytes);
    if (head->rank && bytes) memcpy(at, from.at, bytes);
    stop_reading(c);
}

/* ---- open and close ---- */

static void local_close(comm *head) {
    local_comm *c = (local_comm *)head;
    group *g = c->group;
    free(c);
    if (atomic_fetch_sub(&g->open, 1) > 1) return;
    comm_failure_close(&g->failure);
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
    ESP_ASSERT(g->ranks);
    comm_failure_open(&g->failure);
    g->size = size;
    atomic_init(&g->open, size);
    for (uint32_t rank = 0; rank < size; rank++) {
        local_comm *c = mem_new(1, sizeof *c);
        c->head = (comm){.ops = &local_ops,
                         .failure = &g->failure,
                         .rank = rank,
                         .size = size,
                         .local_rank = rank,
                         .patience_us = COMM_PATIENCE_US};
        c->group = g;
        out[rank] = &c->head;
    }
}
