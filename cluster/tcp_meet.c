/* tcp_meet.c - rank 0 listens and judges greetings, many at once so that nobody can hold the others up; the others
 * try until it is there. */
// SPDX-License-Identifier: Apache-2.0
#include "cluster/tcp_meet.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "cluster/tcp_greeting.h"
#include "engine/base/clock.h"

enum {
    HOST_BYTES_MAX = 256,
    GUESTS_MAX = 2 * COMM_RANKS_MAX, /* connections that have not greeted yet */
    GREETING_US = 3000000,
    AGAIN_MS = 100,
};

/* A connection whose greeting is on its way. */
typedef struct guest {
    int fd;
    size_t at; /* bytes that came */
    int64_t came_us;
    tcp_greeting greeting;
} guest;

/* Rank 0's, while the others come. */
typedef struct host {
    const comm_tcp_options *options;
    tcp_seats *seats;
    int listener;
    guest guests[GUESTS_MAX];
    uint32_t guest_count, missing;
    bool taken[COMM_RANKS_MAX];
    char machines[COMM_RANKS_MAX][TCP_HOST_BYTES];
} host;

/* ---- ranks ---- */

static tcp_place place_of(const comm_tcp_options *o) {
    return (tcp_place){.rank = o->rank, .size = o->size, .each = o->each ? o->each : 1};
}

/* As in --rank: "4" or "4-7". */
enum { SPAN_BYTES = 32 };
static const char *span(tcp_place p, uint32_t rank, char out[SPAN_BYTES]) {
    uint32_t first = rank * p.each;
    if (p.each > 1)
        snprintf(out, SPAN_BYTES, "%u-%u", first, first + p.each - 1);
    else
        snprintf(out, SPAN_BYTES, "%u", first);
    return out;
}

/* ---- addresses ---- */

static esp_code resolve(const char *text, bool listens, struct addrinfo **out, esp_error *err) {
    struct addrinfo wanted = {.ai_family = AF_UNSPEC,
                              .ai_socktype = SOCK_STREAM,
                              .ai_flags = AI_NUMERICSERV | (listens ? AI_PASSIVE : 0)};
    char name[HOST_BYTES_MAX];
    const char *colon = strrchr(text, ':'), *from = text;
    size_t bytes = colon ? (size_t)(colon - text) : 0;
    bool bracketed = bytes > 2 && text[0] == '[' && colon[-1] == ']';
    if (bracketed) from++, bytes -= 2;
    if (bytes == 0 || bytes >= sizeof name || !colon[1])
        return esp_fail_field(err, ESP_INVALID, "--rendezvous",
                              "--rendezvous: \"%.200s\" is no address; wanted HOST:PORT of rank 0",
                              text);
    snprintf(name, sizeof name, "%.*s", (int)bytes, from);
    int failed = getaddrinfo(name, colon + 1, &wanted, out);
    if (!failed) return ESP_OK;
    return esp_fail_field(err, ESP_UNAVAILABLE, "--rendezvous",
                          "--rendezvous: no address for \"%.200s\": %s", text,
                          gai_strerror(failed));
}

/* Which machine this is, for ranks that share one: all zero where it does not say. */
static void name_machine(char out[TCP_HOST_BYTES]) {
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    memset(out, 0, TCP_HOST_BYTES);
    if (!file) return;
    (void)!fgets(out, TCP_HOST_BYTES, file);
    fclose(file);
}

static void set_up(int fd) {
    int on = 1;
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

void tcp_seats_close(tcp_seats *seats) {
    for (uint32_t rank = 0; rank < COMM_RANKS_MAX; rank++)
        if (seats->fds[rank] >= 0) close(seats->fds[rank]);
}

/* Of few bytes, for which an empty connection has room. */
static bool say(int fd, const void *what, size_t bytes) {
    return send(fd, what, bytes, MSG_NOSIGNAL) == (ssize_t)bytes;
}

/* ---- rank 0 ---- */

static esp_code listen_at(host *h, esp_error *err) {
    struct addrinfo *list;
    int on = 1;
    esp_code code = resolve(h->options->address, true, &list, err);
    if (code != ESP_OK) return code;
    h->listener = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (h->listener >= 0) (void)setsockopt(h->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    bool listens = h->listener >= 0 && !bind(h->listener, list->ai_addr, list->ai_addrlen) &&
                   !listen(h->listener, COMM_RANKS_MAX);
    int why = errno;
    freeaddrinfo(list);
    if (listens) return ESP_OK;
    return esp_fail_field(err, ESP_UNAVAILABLE, "--rendezvous",
                          "--rendezvous: cannot listen at %.200s: %s", h->options->address,
                          strerror(why));
}

static void send_away(host *h, uint32_t i) {
    close(h->guests[i].fd);
    h->guests[i] = h->guests[--h->guest_count];
}

static void take_guests(host *h, int64_t now_us) {
    for (int fd; (fd = accept4(h->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0;) {
        if (h->guest_count == GUESTS_MAX) send_away(h, 0);
        set_up(fd);
        h->guests[h->guest_count++] = (guest){.fd = fd, .came_us = now_us};
    }
}

/* The whole greeting is here: a seat, or a word and the door. */
static void judge(host *h, uint32_t i) {
    guest *g = &h->guests[i];
    tcp_place own = place_of(h->options);
    uint32_t rank = g->greeting.rank;
    if (!tcp_greeting_is_ours(&g->greeting)) {
        send_away(h, i);
        return;
    }
    tcp_verdict verdict = tcp_greeting_judge(&g->greeting, own, h->taken);
    if (verdict != TCP_WELCOME) {
        tcp_welcome no = tcp_welcome_make(verdict, own, 0);
        (void)say(g->fd, &no, sizeof no);
        send_away(h, i);
        return;
    }
    h->taken[rank] = true;
    h->seats->fds[rank] = g->fd;
    memcpy(h->machines[rank], g->greeting.host, TCP_HOST_BYTES);
    h->missing--;
    h->guests[i] = h->guests[--h->guest_count];
}

/* False: the guest is gone, and another has its place. What has all come is judged, however late this looks. */
static bool hear(host *h, uint32_t i, int64_t now_us) {
    guest *g = &h->guests[i];
    char *at = (char *)&g->greeting + g->at;
    ssize_t bytes = recv(g->fd, at, sizeof g->greeting - g->at, 0);
    bool waits = bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
    if (bytes > 0) g->at += (size_t)bytes;
    if (g->at == sizeof g->greeting) {
        judge(h, i);
        return false;
    }
    if ((bytes <= 0 && !waits) || now_us - g->came_us > GREETING_US) {
        send_away(h, i);
        return false;
    }
    return true;
}

static void wait_for_guests(host *h) {
    struct pollfd all[GUESTS_MAX + 1] = {{.fd = h->listener, .events = POLLIN}};
    for (uint32_t i = 0; i < h->guest_count; i++)
        all[i + 1] = (struct pollfd){.fd = h->guests[i].fd, .events = POLLIN};
    (void)poll(all, h->guest_count + 1, AGAIN_MS);
}

static esp_code tell_missing(const host *h, esp_error *err) {
    tcp_place own = place_of(h->options);
    char text[SPAN_BYTES];
    uint32_t rank = 1;
    while (h->taken[rank])
        rank++;
    return esp_fail_field(
        err, ESP_UNAVAILABLE, "--rendezvous",
        "%u of %u ranks have not come to %.150s in time; start all of them there: "
        "--rank %s is missing",
        h->missing * own.each, own.size * own.each, h->options->address, span(own, rank, text));
}

static esp_code receive_all(host *h, int64_t until_us, esp_error *err) {
    while (h->missing > 0) {
        int64_t now_us = clock_now_us();
        wait_for_guests(h);
        take_guests(h, now_us);
        for (uint32_t i = 0; i < h->guest_count;)
            if (hear(h, i, now_us)) i++;
        if (h->missing > 0 && now_us > until_us) return tell_missing(h, err);
    }
    return ESP_OK;
}

static uint32_t local_rank(const host *h, uint32_t rank) {
    uint32_t before = 0;
    for (uint32_t other = 0; other < rank; other++)
        before += memcmp(h->machines[other], h->machines[rank], TCP_HOST_BYTES) == 0;
    return before;
}

static esp_code welcome_all(const host *h, esp_error *err) {
    for (uint32_t rank = 1; rank < h->options->size; rank++) {
        tcp_welcome yes = tcp_welcome_make(TCP_WELCOME, place_of(h->options), local_rank(h, rank));
        if (!say(h->seats->fds[rank], &yes, sizeof yes))
            return esp_fail(err, ESP_UNAVAILABLE, "rank %u has gone again", rank);
    }
    return ESP_OK;
}

static esp_code meet_as_host(tcp_seats *out, const comm_tcp_options *options, int64_t until_us,
                             esp_error *err) {
    host h = {.options = options, .seats = out, .listener = -1, .missing = options->size - 1};
    name_machine(h.machines[0]);
    esp_code code = listen_at(&h, err);
    if (code == ESP_OK) code = receive_all(&h, until_us, err);
    if (code == ESP_OK) code = welcome_all(&h, err);
    while (h.guest_count > 0)
        send_away(&h, 0);
    if (h.listener >= 0) close(h.listener);
    return code;
}

/* ---- the others ---- */

static bool wait_until(int fd, short events, int64_t until_us) {
    struct pollfd one = {.fd = fd, .events = events};
    for (int64_t now_us; (now_us = clock_now_us()) < until_us;)
        if (poll(&one, 1, AGAIN_MS) > 0) return true;
    return false;
}

/* -1: not there, or not yet. */
static int try_connect(const struct addrinfo *at, int64_t until_us) {
    int failed = 0, fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t bytes = sizeof failed;
    if (fd < 0) return -1;
    set_up(fd);
    bool started = connect(fd, at->ai_addr, at->ai_addrlen) == 0 || errno == EINPROGRESS;
    if (started && wait_until(fd, POLLOUT, until_us) &&
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &bytes) == 0 && !failed)
        return fd;
    close(fd);
    return -1;
}

static int connect_to(const struct addrinfo *list, int64_t until_us) {
    const struct timespec pause = {.tv_nsec = AGAIN_MS * 1000000};
    int fd = -1;
    while (fd < 0 && clock_now_us() < until_us) {
        for (const struct addrinfo *at = list; at && fd < 0; at = at->ai_next)
            fd = try_connect(at, until_us);
        if (fd < 0) nanosleep(&pause, NULL);
    }
    return fd;
}

static bool read_welcome(int fd, tcp_welcome *out, int64_t until_us) {
    for (size_t at = 0; at < sizeof *out;) {
        if (!wait_until(fd, POLLIN, until_us)) return false;
        ssize_t bytes = recv(fd, (char *)out + at, sizeof *out - at, 0);
        if (bytes == 0 || (bytes < 0 && errno != EAGAIN && errno != EINTR)) return false;
        if (bytes > 0) at += (size_t)bytes;
    }
    return tcp_welcome_is_ours(out);
}

static esp_code tell_verdict(const comm_tcp_options *o, const tcp_welcome *w, esp_error *err) {
    tcp_place own = place_of(o);
    char text[SPAN_BYTES];
    switch ((tcp_verdict)w->verdict) {
    case TCP_WELCOME:
        return ESP_OK;
    case TCP_OTHER_SIZE:
        return esp_fail_field(err, ESP_INVALID, "--tp",
                              "--tp %u: rank 0 at %.200s was started with --tp %u",
                              own.size * own.each, o->address, w->size * w->each);
    case TCP_OTHER_SHARE:
        return esp_fail_field(err, ESP_INVALID, "--rank",
                              "--rank %s: the process of rank 0 at %.200s has %u of the ranks, and "
                              "each other one must have as many",
                              span(own, o->rank, text), o->address, w->each);
    case TCP_RANK_TAKEN:
        return esp_fail_field(err, ESP_INVALID, "--rank",
                              "--rank %s: another process has that already; give each its own",
                              span(own, o->rank, text));
    case TCP_OTHER_BUILD:
        break;
    }
    return esp_fail_field(err, ESP_INVALID, "--rendezvous",
                          "--rendezvous: rank 0 at %.200s is another version of this program",
                          o->address);
}

static esp_code greet(int fd, const comm_tcp_options *o, int64_t until_us, uint32_t *local,
                      esp_error *err) {
    char machine[TCP_HOST_BYTES];
    tcp_welcome answer = {0};
    name_machine(machine);
    tcp_greeting hello = tcp_greeting_make(place_of(o), machine);
    if (!say(fd, &hello, sizeof hello) || !read_welcome(fd, &answer, until_us))
        return esp_fail_field(err, ESP_UNAVAILABLE, "--rendezvous",
                              "--rendezvous: who answers at %.200s is no rank 0, or not all ranks "
                              "have come in time",
                              o->address);
    *local = answer.local_rank;
    return tell_verdict(o, &answer, err);
}

static esp_code meet_as_guest(tcp_seats *out, const comm_tcp_options *o, int64_t until_us,
                              esp_error *err) {
    struct addrinfo *list;
    esp_code code = resolve(o->address, false, &list, err);
    if (code != ESP_OK) return code;
    out->fds[0] = connect_to(list, until_us);
    freeaddrinfo(list);
    if (out->fds[0] < 0)
        return esp_fail_field(err, ESP_UNAVAILABLE, "--rendezvous",
                              "--rendezvous: nobody listens at %.200s; start rank 0 there",
                              o->address);
    return greet(out->fds[0], o, until_us, &out->local_rank, err);
}

esp_code tcp_meet(tcp_seats *out, const comm_tcp_options *options, esp_error *err) {
    ESP_ASSERT(options->rank < options->size && options->size <= COMM_RANKS_MAX);
    int64_t patience_us = options->patience_us ? options->patience_us : COMM_TCP_RENDEZVOUS_US;
    int64_t until_us = clock_now_us() + patience_us;
    out->local_rank = 0;
    for (uint32_t rank = 0; rank < COMM_RANKS_MAX; rank++)
        out->fds[rank] = -1;
    esp_code code = options->rank ? meet_as_guest(out, options, until_us, err)
                                  : meet_as_host(out, options, until_us, err);
    if (code != ESP_OK) tcp_seats_close(out);
    return code;
}
