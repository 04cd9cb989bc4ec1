/* comm_nodes.c - each collective among the ranks of a process, and by its leader among the processes.
 *
 *   broadcast    leaders, then within each process
 *   all_gather   within, to the leader; leaders; within, from it
 *   exchange     all show the leader their parts; leaders exchange, for each pair of processes, the parts of all pairs
 *                of ranks in one message; all wait until the leader has put each in its place
 *
 * Who waits for its leader waits longer than the leader does for others: so it is the leader's sentence that is told,
 * which knows who is missing. */
// SPDX-License-Identifier: Apache-2.0
#include "cluster/comm_nodes.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/comm_failure.h"
#include "cluster/comm_local.h"
#include "cluster/grown.h"

enum { LEADER_US = 30000000 }; /* one that is alive has failed long before */

/* Of the ranks of one process; the last one to close frees it. */
typedef struct node {
    comm *between; /* borrowed; its collectives and checks are the leader's, abort is anyone's */
    uint32_t each;
    _Atomic uint32_t open;
    _Atomic bool copies; /* the leader, from or to what the others have shown */
    grown out, in;       /* the leader's */
} node;

typedef struct node_comm {
    comm head;
    comm *within;
    node *node;
} node_comm;

/* What the leader and its own have shown each other: [each], each [size]. */
typedef const comm_part *shown_parts[COMM_RANKS_MAX];

static bool leads(const node_comm *c) { return c->within->rank == 0; }

/* ---- failing ---- */

static void nodes_abort(comm *head, const esp_error *why) {
    node_comm *c = (node_comm *)head;
    comm_abort(c->within, why);
    comm_abort(c->node->between, why);
}

/* The leader carries a failure from one level to the other. True: there is none. */
static bool is_well(node_comm *c) {
    comm *from = NULL, *to = NULL, *between = c->node->between;
    esp_error why = {0};
    if (comm_failed(c->within->failure))
        from = c->within, to = between;
    else if (leads(c) && comm_failed(between->failure))
        from = between, to = c->within;
    if (!from) return true;
    if (leads(c) && comm_failure_tell(from->failure, &why) != ESP_OK) comm_abort(to, &why);
    return false;
}

/* The leader looks for ends of other processes, and tells them of a failure here. */
static esp_code nodes_check(comm *head, esp_error *err) {
    node_comm *c = (node_comm *)head;
    (void)is_well(c);
    if (leads(c) && comm_check(c->node->between, NULL) != ESP_OK) (void)is_well(c);
    return comm_check(c->within, err);
}

/* ---- patience ---- */

/* For ranks that come by themselves. */
static void wait_for_ranks(node_comm *c) {
    c->within->patience_us = c->head.patience_us;
    if (leads(c)) c->node->between->patience_us = c->head.patience_us;
}

/* For a leader that waits for others first. */
static void wait_for_leader(node_comm *c) {
    int64_t patience_us = c->head.patience_us;
    if (!leads(c) && patience_us >= 0) c->within->patience_us = 2 * patience_us + LEADER_US;
}

/* ---- broadcast, gather ---- */

static void nodes_broadcast(comm *head, void *at, size_t bytes) {
    node_comm *c = (node_comm *)head;
    wait_for_ranks(c);
    if (leads(c) && is_well(c)) comm_broadcast(c->node->between, at, bytes);
    wait_for_leader(c);
    if (is_well(c)) comm_broadcast(c->within, at, bytes);
}

static void gather_to_leader(node_comm *c, const void *in, size_t bytes) {
    comm_part parts[COMM_RANKS_MAX] = {{.send = in, .send_bytes = bytes}};
    char *to = leads(c) ? grown_take(&c->node->out, c->node->each * bytes) : NULL;
    for (uint32_t rank = 0; leads(c) && rank < c->node->each; rank++) {
        parts[rank].receive = to + rank * bytes;
        parts[rank].receive_bytes = bytes;
    }
    comm_exchange(c->within, parts);
}

static void nodes_all_gather(comm *head, const void *in, void *out, size_t bytes) {
    node_comm *c = (node_comm *)head;
    wait_for_ranks(c);
    gather_to_leader(c, in, bytes);
    if (leads(c) && is_well(c))
        comm_all_gather(c->node->between, c->node->out.at, out, c->node->each * bytes);
    wait_for_leader(c);
    if (is_well(c)) comm_broadcast(c->within, out, head->size * bytes);
}

/* ---- exchange ---- */

/* Nobody of the process leaves while its leader copies, failed or not. False: it has failed. */
static bool begin_copying(node_comm *c) {
    atomic_store(&c->node->copies, true);
    if (!comm_failed(c->within->failure)) return true;
    atomic_store(&c->node->copies, false);
    return false;
}

static void end_copying(node_comm *c) { atomic_store(&c->node->copies, false); }

static void leave(const node_comm *c) {
    while (atomic_load(&c->node->copies))
        sched_yield();
}

/* Bytes between the ranks here and those of a process. */
static size_t bytes_with(const node_comm *c, shown_parts all, uint32_t process, bool out) {
    size_t bytes = 0;
    for (uint32_t own = 0; own < c->node->each; own++)
        for (uint32_t i = 0; i < c->node->each; i++) {
            const comm_part *part = &all[own][process * c->node->each + i];
            bytes += out ? part->send_bytes : part->receive_bytes;
        }
    return bytes;
}

/* A message: of each rank that sends, ascending, what goes to each that receives, ascending. */
static char *write_message(const node_comm *c, shown_parts all, uint32_t process, char *at) {
    for (uint32_t from = 0; from < c->node->each; from++)
        for (uint32_t to = 0; to < c->node->each; to++) {
            const comm_part *part = &all[from][process * c->node->each + to];
            if (part->send_bytes) memcpy(at, part->send, part->send_bytes);
            at += part->send_bytes;
        }
    return at;
}

static const char *read_message(const node_comm *c, shown_parts all, uint32_t process,
                                const char *at) {
    for (uint32_t from = 0; from < c->node->each; from++)
        for (uint32_t to = 0; to < c->node->each; to++) {
            const comm_part *part = &all[to][process * c->node->each + from];
            if (part->receive_bytes) memcpy(part->receive, at, part->receive_bytes);
            at += part->receive_bytes;
        }
    return at;
}

/* Messages to and from each process, one after another in the memory that is staged; none with this one. */
static void place_messages(node_comm *c, shown_parts all, comm_part *messages) {
    const comm *between = c->node->between;
    size_t out = 0, in = 0;
    for (uint32_t p = 0; p < between->size; p++) {
        messages[p] = (comm_part){0};
        if (p == between->rank) continue;
        out += messages[p].send_bytes = bytes_with(c, all, p, true);
        in += messages[p].receive_bytes = bytes_with(c, all, p, false);
    }
    char *to = grown_take(&c->node->out, out), *from = grown_take(&c->node->in, in);
    for (uint32_t p = 0; p < between->size; p++) {
        messages[p].send = to;
        messages[p].receive = from;
        if (messages[p].send_bytes) to = write_message(c, all, p, to);
        from += messages[p].receive_bytes;
    }
}

static void exchange_as_leader(node_comm *c, shown_parts all) {
    comm *between = c->node->between;
    comm_part messages[COMM_RANKS_MAX];
    if (!begin_copying(c)) return;
    place_messages(c, all, messages);
    end_copying(c);
    comm_exchange(between, messages);
    if (!is_well(c) || !begin_copying(c)) return;
    for (uint32_t p = 0; p < between->size; p++)
        if (messages[p].receive_bytes) (void)read_message(c, all, p, messages[p].receive);
    end_copying(c);
}

/* Parts between ranks of this process. */
static void exchange_within(node_comm *c, const comm_part *parts) {
    comm_exchange(c->within, parts + c->head.rank - c->within->rank);
}

static void nodes_exchange(comm *head, const comm_part *parts) {
    node_comm *c = (node_comm *)head;
    shown_parts all;
    wait_for_ranks(c);
    exchange_within(c, parts);
    comm_all_gather(c->within, &parts, all, sizeof parts);
    if (!is_well(c)) {
        leave(c);
        return;
    }
    if (leads(c)) exchange_as_leader(c, all);
    wait_for_leader(c);
    if (is_well(c)) comm_broadcast(c->within, NULL, 0); /* a meeting */
    leave(c);
}

/* ---- open and close ---- */

static void nodes_close(comm *head) {
    node_comm *c = (node_comm *)head;
    node *n = c->node;
    comm_close(c->within);
    free(c);
    if (atomic_fetch_sub(&n->open, 1) > 1) return;
    free(n->out.at);
    free(n->in.at);
    free(n);
}

static const comm_ops nodes_ops = {
    .name = "nodes",
    .close = nodes_close,
    .all_gather = nodes_all_gather,
    .exchange = nodes_exchange,
    .broadcast = nodes_broadcast,
    .abort = nodes_abort,
    .check = nodes_check,
};

static comm *open_rank(node *n, comm *within) {
    node_comm *c = mem_new(1, sizeof *c);
    c->head = (comm){.ops = &nodes_ops,
                     .failure = within->failure,
                     .rank = n->between->rank * n->each + within->rank,
                     .size = n->between->size * n->each,
                     .local_rank = n->between->local_rank * n->each + within->rank,
                     .patience_us = COMM_PATIENCE_US};
    within->first = n->between->rank * n->each;
    within->each = 1;
    within->of = c->head.size;
    c->within = within;
    c->node = n;
    return &c->head;
}

void comm_nodes_open(comm **out, comm *between, uint32_t each) {
    ESP_ASSERT(each >= 1 && between->size * each <= COMM_RANKS_MAX);
    comm *within[COMM_RANKS_MAX];
    node *n = mem_new(1, sizeof *n);
    n->between = between;
    n->each = each;
    atomic_init(&n->open, each);
    between->each = each;
    between->of = between->size * each;
    comm_local_open(within, each);
    for (uint32_t i = 0; i < each; i++)
        out[i] = open_rank(n, within[i]);
}
