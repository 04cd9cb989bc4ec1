/* comm_tcp.c - collectives by way of rank 0, over a connection to each other rank.
 *
 *   broadcast    rank 0 -> all
 *   all_gather   all -> rank 0, then all of it -> all
 *   exchange     all -> rank 0: what goes to whom, then the bytes; rank 0 sorts them; -> all the same way
 *
 * A frame is a head (kind, number of the collective, bytes), then its bytes. A rank that fails says so in a frame of
 * its own, where it is not in the middle of another; where it only ends, the connection does. */
// SPDX-License-Identifier: Apache-2.0
#include "cluster/comm_tcp.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "cluster/comm_failure.h"
#include "cluster/grown.h"
#include "cluster/tcp_meet.h"
#include "engine/base/clock.h"

enum { SLICE_MS = 50, LOOK_AROUND_US = 200000 };
#define PACKET_BYTES_MAX ((uint64_t)1 << 30) /* of one rank in one exchange */

typedef enum frame_kind { FRAME_BYTES = 0x65737031, FRAME_FAILED } frame_kind;

typedef struct frame_head {
    uint32_t kind, number; /* of the collective, counted by all alike */
    uint64_t bytes;
} frame_head;

typedef struct failed_frame {
    frame_head head;
    esp_error why;
} failed_frame;
static_assert(sizeof(failed_frame) == sizeof(frame_head) + sizeof(esp_error), "no gap");

typedef struct tcp_comm {
    comm head;
    tcp_seats seats;
    uint32_t number;
    bool torn;         /* a frame was left half sent or half read */
    bool told;         /* the others know of the failure */
    int64_t looked_us; /* when connections were last looked at between collectives */
    comm_failure failure;
    grown in[COMM_RANKS_MAX], out[COMM_RANKS_MAX]; /* packets of an exchange */
} tcp_comm;

/* One frame on its way. */
typedef struct flow {
    uint32_t rank;
    bool out, done;
    frame_head head;
    size_t at;   /* bytes that are through, the head's among them */
    char *body;  /* head.bytes of them */
    grown *take; /* in: of any size; it comes here. NULL: head.bytes is what is expected */
} flow;

/* ---- failing ---- */

static void tcp_abort(comm *head, const esp_error *why) {
    comm_failure_keep(&((tcp_comm *)head)->failure, why);
}

static void fail_rank(tcp_comm *c, uint32_t rank, const char *what) {
    esp_error why = {0};
    char name[COMM_RANK_NAME_BYTES];
    esp_fail(&why, ESP_UNAVAILABLE, "%s %s; the replica ends: start it again",
             comm_rank_name(&c->head, rank, name), what);
    tcp_abort(&c->head, &why);
}

/* The ranks that this one is connected with. */
static bool has_seat(const tcp_comm *c, uint32_t rank) {
    return rank < c->head.size && c->seats.fds[rank] >= 0;
}

/* Once, as far as connections take it now: nobody waits for who listens no more. */
static void tell_others(tcp_comm *c) {
    failed_frame frame = {.head = {.kind = FRAME_FAILED, .bytes = sizeof(esp_error)}};
    if (c->told) return;
    c->told = true;
    frame.why.code = comm_failure_tell(&c->failure, &frame.why);
    for (uint32_t rank = 0; rank < c->head.size; rank++) {
        if (!has_seat(c, rank)) continue;
        if (!c->torn) (void)!send(c->seats.fds[rank], &frame, sizeof frame, MSG_NOSIGNAL);
        (void)shutdown(c->seats.fds[rank], SHUT_WR);
    }
}

/* ---- frames ---- */

/* What another rank says of its failure, which is ours now. */
static void take_failure(tcp_comm *c, const esp_error *said) {
    esp_error why = *said;
    why.message[sizeof why.message - 1] = why.field[sizeof why.field - 1] = 0;
    if (why.code <= ESP_OK || why.code > ESP_UNAUTHENTICATED) why.code = ESP_UNAVAILABLE;
    tcp_abort(&c->head, &why);
}

/* The head is whole: where its bytes go. False: it cannot be. */
static bool accept_head(tcp_comm *c, flow *f, const frame_head *came, esp_error *room) {
    if (came->kind == FRAME_FAILED && came->bytes == sizeof *room) {
        f->head = *came;
        f->body = (char *)room;
        return true;
    }
    if (came->kind != FRAME_BYTES || came->number != c->number) return false;
    if (!f->take) return came->bytes == f->head.bytes;
    if (came->bytes > PACKET_BYTES_MAX) return false;
    f->head = *came;
    f->body = grown_take(f->take, (size_t)came->bytes);
    return true;
}

/* The next bytes of a flow; -1: the connection has ended. */
static ssize_t move_some(const tcp_comm *c, const flow *f, frame_head *head) {
    int fd = c->seats.fds[f->rank];
    bool in_head = f->at < sizeof *head;
    char *at = in_head ? (char *)head + f->at : f->body + (f->at - sizeof *head);
    size_t left = (in_head ? sizeof *head : sizeof *head + f->head.bytes) - f->at;
    ssize_t bytes = f->out ? send(fd, at, left, MSG_NOSIGNAL) : recv(fd, at, left, 0);
    if (bytes > 0) return bytes;
    bool waits = bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
    return waits ? 0 : -1;
}

/* The connection takes or gives no more: what was said before stands, if there is something. */
static void note_end(tcp_comm *c, uint32_t rank) {
    failed_frame last;
    ssize_t bytes = recv(c->seats.fds[rank], &last, sizeof last, MSG_PEEK | MSG_DONTWAIT);
    if (bytes == (ssize_t)sizeof last && last.head.kind == FRAME_FAILED) take_failure(c, &last.why);
    fail_rank(c, rank, "has ended");
}

/* As far as it goes without waiting. */
static void move(tcp_comm *c, flow *f, frame_head *head, esp_error *room) {
    while (!f->done && !comm_failed(&c->failure)) {
        ssize_t bytes = move_some(c, f, head);
        if (bytes < 0) note_end(c, f->rank);
        if (bytes <= 0) return;
        f->at += (size_t)bytes;
        if (!f->out && f->at == sizeof *head && !accept_head(c, f, head, room)) {
            fail_rank(c, f->rank,
                      "sends what nobody asked for; start all ranks with the same "
                      "options");
            return;
        }
        f->done = f->at == sizeof *head + f->head.bytes;
    }
    if (f->done && !f->out && f->head.kind == FRAME_FAILED) take_failure(c, room);
}

static const flow *first_open(const flow *flows, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (!flows[i].done) return &flows[i];
    return NULL;
}

static void wait_for_some(const tcp_comm *c, const flow *flows, uint32_t count) {
    struct pollfd all[COMM_RANKS_MAX];
    uint32_t open = 0;
    for (uint32_t i = 0; i < count; i++)
        if (!flows[i].done)
            all[open++] = (struct pollfd){.fd = c->seats.fds[flows[i].rank],
                                          .events = flows[i].out ? POLLOUT : POLLIN};
    (void)poll(all, open, SLICE_MS);
}

/* All of them, at once; at most one a rank. */
static void run(tcp_comm *c, flow *flows, uint32_t count) {
    frame_head heads[COMM_RANKS_MAX];
    esp_error rooms[COMM_RANKS_MAX];
    int64_t began_us = clock_now_us();
    for (uint32_t i = 0; i < count; i++) {
        flows[i].head.kind = FRAME_BYTES;
        flows[i].head.number = c->number;
        heads[i] = flows[i].head;
    }
    for (const flow *open; !comm_failed(&c->failure) && (open = first_open(flows, count));) {
        for (uint32_t i = 0; i < count; i++)
            move(c, &flows[i], &heads[i], &rooms[i]);
        if (!(open = first_open(flows, count)) || comm_failed(&c->failure)) break;
        int64_t patience_us = c->head.patience_us;
        char late[COMM_RANK_NAME_BYTES];
        if (patience_us >= 0 && clock_now_us() - began_us > patience_us)
            fail_rank(c, open->rank, comm_late_words(&c->head, late));
        wait_for_some(c, flows, count);
    }
    for (uint32_t i = 0; i < count; i++)
        c->torn |= flows[i].out && flows[i].at > 0 && !flows[i].done;
    if (comm_failed(&c->failure)) tell_others(c);
}

/* ---- collectives ---- */

static flow sends(uint32_t rank, const void *at, size_t bytes) {
    return (flow){.rank = rank, .out = true, .head = {.bytes = bytes}, .body = (char *)at};
}

static flow receives(uint32_t rank, void *at, size_t bytes) {
    return (flow){.rank = rank, .head = {.bytes = bytes}, .body = at};
}

static bool begin(tcp_comm *c) {
    c->number++;
    if (comm_failed(&c->failure)) tell_others(c);
    return !comm_failed(&c->failure);
}

/* Rank 0's to all others. */
static void spread(tcp_comm *c, void *at, size_t bytes) {
    flow flows[COMM_RANKS_MAX] = {{0}};
    uint32_t count = 0;
    if (c->head.rank > 0) flows[count++] = receives(0, at, bytes);
    for (uint32_t rank = 1; c->head.rank == 0 && rank < c->head.size; rank++)
        flows[count++] = sends(rank, at, bytes);
    run(c, flows, count);
}

static void tcp_broadcast(comm *head, void *at, size_t bytes) {
    tcp_comm *c = (tcp_comm *)head;
    if (begin(c)) spread(c, at, bytes);
}

static void tcp_all_gather(comm *head, const void *in, void *out, size_t bytes) {
    tcp_comm *c = (tcp_comm *)head;
    flow flows[COMM_RANKS_MAX] = {{0}};
    uint32_t count = 0;
    if (!begin(c)) return;
    if (head->rank > 0) flows[count++] = sends(0, in, bytes);
    for (uint32_t rank = 1; head->rank == 0 && rank < head->size; rank++)
        flows[count++] = receives(rank, (char *)out + rank * bytes, bytes);
    if (head->rank == 0) memcpy(out, in, bytes);
    run(c, flows, count);
    if (!comm_failed(&c->failure)) spread(c, out, bytes * head->size);
}

/* A packet: a size for each rank, then the bytes to or from each. */
static size_t packet_bytes(const comm_part *parts, uint32_t size, bool send) {
    size_t bytes = size * sizeof(uint64_t);
    for (uint32_t rank = 0; rank < size; rank++)
        bytes += send ? parts[rank].send_bytes : parts[rank].receive_bytes;
    return bytes;
}

static size_t write_packet(const comm_part *parts, uint32_t size, grown *to) {
    size_t bytes = packet_bytes(parts, size, true);
    char *at = grown_take(to, bytes);
    for (uint32_t rank = 0; rank < size; rank++, at += sizeof(uint64_t))
        memcpy(at, &(uint64_t){parts[rank].send_bytes}, sizeof(uint64_t));
    for (uint32_t rank = 0; rank < size; at += parts[rank++].send_bytes)
        if (parts[rank].send_bytes) memcpy(at, parts[rank].send, parts[rank].send_bytes);
    return bytes;
}

static uint64_t size_in(const char *packet, uint32_t rank) {
    uint64_t bytes;
    memcpy(&bytes, packet + rank * sizeof bytes, sizeof bytes);
    return bytes;
}

/* The sizes of a packet that came are those of its bytes. */
static bool packet_is_whole(const char *packet, uint64_t bytes, uint32_t size) {
    uint64_t left = bytes;
    if (bytes < size * sizeof(uint64_t)) return false;
    left -= size * sizeof(uint64_t);
    for (uint32_t rank = 0; rank < size; rank++) {
        if (size_in(packet, rank) > left) return false;
        left -= size_in(packet, rank);
    }
    return left == 0;
}

static const char *part_in(const char *packet, uint32_t rank, uint32_t size) {
    const char *at = packet + size * sizeof(uint64_t);
    for (uint32_t other = 0; other < rank; other++)
        at += size_in(packet, other);
    return at;
}

/* What came for this rank. */
static void read_packet(tcp_comm *c, const char *packet, const comm_part *parts) {
    for (uint32_t rank = 0; rank < c->head.size; rank++) {
        if (size_in(packet, rank) != parts[rank].receive_bytes) {
            fail_rank(c, rank, "sends another size than was expected");
            return;
        }
        if (parts[rank].receive_bytes)
            memcpy(parts[rank].receive, part_in(packet, rank, c->head.size),
                   parts[rank].receive_bytes);
    }
}

/* Rank 0: of all ranks' packets the one for `to`. */
static size_t sort_packet(tcp_comm *c, uint32_t to) {
    comm_part parts[COMM_RANKS_MAX] = {{0}};
    for (uint32_t from = 0; from < c->head.size; from++) {
        const char *packet = c->in[from].at;
        parts[from].send = part_in(packet, to, c->head.size);
        parts[from].send_bytes = (size_t)size_in(packet, to);
    }
    return write_packet(parts, c->head.size, &c->out[to]);
}

static void exchange_as_host(tcp_comm *c, const comm_part *parts) {
    uint32_t size = c->head.size;
    flow flows[COMM_RANKS_MAX] = {{0}};
    for (uint32_t rank = 1; rank < size; rank++)
        flows[rank - 1] = (flow){.rank = rank, .take = &c->in[rank]};
    (void)write_packet(parts, size, &c->in[0]);
    run(c, flows, size - 1);
    for (uint32_t rank = 1; rank < size && !comm_failed(&c->failure); rank++)
        if (!packet_is_whole(c->in[rank].at, flows[rank - 1].head.bytes, size))
            fail_rank(c, rank, "sends a packet that is not whole");
    for (uint32_t to = 0; to < size && !comm_failed(&c->failure); to++) {
        size_t bytes = sort_packet(c, to);
        if (to > 0) flows[to - 1] = sends(to, c->out[to].at, bytes);
    }
    if (!comm_failed(&c->failure)) run(c, flows, size - 1);
    if (!comm_failed(&c->failure)) read_packet(c, c->out[0].at, parts);
}

static void exchange_as_guest(tcp_comm *c, const comm_part *parts) {
    uint32_t size = c->head.size;
    size_t bytes = write_packet(parts, size, &c->out[0]);
    flow there = sends(0, c->out[0].at, bytes), back = {.rank = 0, .take = &c->in[0]};
    run(c, &there, 1);
    if (!comm_failed(&c->failure)) run(c, &back, 1);
    if (comm_failed(&c->failure)) return;
    if (packet_is_whole(c->in[0].at, back.head.bytes, size))
        read_packet(c, c->in[0].at, parts);
    else
        fail_rank(c, 0, "sends a packet that is not whole");
}

static void tcp_exchange(comm *head, const comm_part *parts) {
    tcp_comm *c = (tcp_comm *)head;
    if (begin(c)) (head->rank ? exchange_as_guest : exchange_as_host)(c, parts);
}

/* ---- between collectives ---- */

/* A connection that has ended, or a failure that was told, though nobody sends or waits now. */
static void look_at(tcp_comm *c, uint32_t rank) {
    frame_head head = {0};
    ssize_t bytes = recv(c->seats.fds[rank], &head, sizeof head, MSG_PEEK | MSG_DONTWAIT);
    bool waits = bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
    if ((bytes <= 0 && !waits) || head.kind == FRAME_FAILED) note_end(c, rank);
}

static void look_around(tcp_comm *c) {
    int64_t now_us = clock_now_us();
    if (now_us - c->looked_us < LOOK_AROUND_US) return;
    c->looked_us = now_us;
    for (uint32_t rank = 0; rank < c->head.size && !comm_failed(&c->failure); rank++)
        if (has_seat(c, rank)) look_at(c, rank);
}

static esp_code tcp_check(comm *head, esp_error *err) {
    tcp_comm *c = (tcp_comm *)head;
    if (!comm_failed(&c->failure)) look_around(c);
    if (comm_failed(&c->failure)) tell_others(c);
    return comm_failure_tell(&c->failure, err);
}

/* ---- open and close ---- */

static void tcp_close(comm *head) {
    tcp_comm *c = (tcp_comm *)head;
    if (comm_failed(&c->failure)) tell_others(c);
    tcp_seats_close(&c->seats);
    for (uint32_t rank = 0; rank < COMM_RANKS_MAX; rank++) {
        free(c->in[rank].at);
        free(c->out[rank].at);
    }
    comm_failure_close(&c->failure);
    free(c);
}

static const comm_ops tcp_ops = {
    .name = "tcp",
    .close = tcp_close,
    .all_gather = tcp_all_gather,
    .exchange = tcp_exchange,
    .broadcast = tcp_broadcast,
    .abort = tcp_abort,
    .check = tcp_check,
};

esp_code comm_tcp_open(comm **out, const comm_tcp_options *options, esp_error *err) {
    tcp_comm *c = mem_new(1, sizeof *c);
    esp_code code = tcp_meet(&c->seats, options, err);
    if (code != ESP_OK) {
        free(c);
        return code;
    }
    c->head = (comm){.ops = &tcp_ops,
                     .failure = &c->failure,
                     .rank = options->rank,
                     .size = options->size,
                     .local_rank = c->seats.local_rank,
                     .patience_us = COMM_PATIENCE_US};
    comm_failure_open(&c->failure);
    *out = &c->head;
    return ESP_OK;
}
