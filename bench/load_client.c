/* load_client.c - closed-loop load on a running server over the network; one JSON row.
 *
 *   load_client --protocol grpc|llama|openai --address HOST:PORT [--clients 1] [--requests N] [--prompt-tokens 128]
 *               [--output-tokens 64] [--seed 1] [--model NAME | --models FILE [--zipf S]]
 *
 * FILE holds names, one a line: each request asks for the next one, or with --zipf for the k-th with a chance
 * that falls as 1/k^S. For llama a name is the number of an adapter, which is on for that request alone.
 *
 * N clients ask at once; each sends its next request when an answer ends. Prompts are random ids, all distinct,
 * so no cache of prefixes helps anybody; the end of text is ignored, and an answer of another length is an
 * error. Figures as the client saw them:
 *
 *   output tok/s  output tokens / time from the first request to the last answer
 *   TTFT          request sent to its first piece
 *   ITL           between two pieces of one answer; a piece may hold several tokens
 *   client share  processor time of this program / wall time: how much of a core the measuring took */
// SPDX-License-Identifier: Apache-2.0
#include "bench/load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/status.h"

enum {
    CLIENTS_MAX = 1024,
    PROMPT_MAX = 4000,
    /* Ids that are text in every vocabulary used here: behind the control tokens, before its end. */
    ID_FIRST = 1000,
    ID_COUNT = 48000,
    READ_BYTES = 65536,
    EVENTS = 64,
    SILENCE_MS = 120000,
    MODELS_MAX = 65536,
};

/* Who is asked for. */
typedef struct models {
    char **name;
    uint32_t count;
    double zipf;    /* 0: one after the other */
    double *chance; /* [count] of it and those before it, of all; with zipf */
} models;

typedef struct options {
    const load_protocol *protocol;
    const char *address;
    models models;
    uint32_t clients, requests, prompt_tokens, output_tokens;
    uint64_t seed;
} options;

typedef struct samples {
    int64_t *us;
    size_t count;
} samples;

typedef struct client {
    int socket; /* -1: none */
    load_connection wire;
    int64_t sent_us, last_us; /* last_us 0: no piece yet */
} client;

typedef struct load {
    const options *o;
    struct sockaddr_in at;
    int epoll;
    client *clients;
    uint32_t sent, ended;
    uint64_t random, output_tokens;
    samples ttft, itl;
} load;

static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void die(const char *format, ...) {
    va_list list;
    va_start(list, format);
    fprintf(stderr, "load_client: ");
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
    exit(1);
}

/* ---- bytes ---- */

void load_add(load_bytes *b, const void *bytes, size_t count) {
    if (b->count + count > b->room) {
        b->room = 2 * (b->count + count);
        b->at = mem_resize(b->at, b->room, 1);
    }
    if (count) memcpy(b->at + b->count, bytes, count);
    b->count += count;
}

void load_print(load_bytes *b, const char *format, ...) {
    char text[1024];
    va_list list;
    va_start(list, format);
    int count = vsnprintf(text, sizeof text, format, list);
    va_end(list);
    ESP_ASSERT(count >= 0 && (size_t)count < sizeof text);
    load_add(b, text, (size_t)count);
}

void load_drop(load_bytes *b, size_t count) {
    ESP_ASSERT(count <= b->count);
    if (!count) return;
    b->count -= count;
    memmove(b->at, b->at + count, b->count);
}

/* ---- one client ---- */

static void connect_client(load *l, client *c) {
    c->socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->socket < 0 || connect(c->socket, (struct sockaddr *)&l->at, sizeof l->at))
        die("cannot connect to %s: %s", l->o->address, strerror(errno));
    int on = 1;
    setsockopt(c->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->socket, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->socket, &event)) die("epoll: %s", strerror(errno));
}

/* The next request opens another. */
static void hang_up(client *c) {
    close(c->socket);
    free(c->wire.in.at);
    free(c->wire.out.at);
    free(c->wire.body.at);
    *c = (client){.socket = -1};
}

/* Requests are a few kilobytes, so a socket that takes no more is a server that reads nothing. */
static void write_out(client *c) {
    load_bytes *out = &c->wire.out;
    if (!out->count) return;
    ssize_t sent = send(c->socket, out->at, out->count, MSG_NOSIGNAL);
    if (sent != (ssize_t)out->count) die("sending: %s", sent < 0 ? strerror(errno) : "cut short");
    out->count = 0;
}

/* Steele, Lea and Flood's SplitMix64. */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* NULL: the server's only one. */
static const char *next_model(load *l) {
    const models *m = &l->o->models;
    if (!m->count) return NULL;
    if (!m->chance) return m->name[l->sent % m->count];
    double at = (double)(next_random(&l->random) >> 11) * 0x1p-53;
    uint32_t low = 0, high = m->count - 1;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (m->chance[middle] > at)
            high = middle;
        else
            low = middle + 1;
    }
    return m->name[low];
}

static void send_next(load *l, client *c) {
    int32_t prompt[PROMPT_MAX];
    for (uint32_t i = 0; i < l->o->prompt_tokens; i++)
        prompt[i] = ID_FIRST + (int32_t)(next_random(&l->random) % ID_COUNT);
    load_request r = {.host = l->o->address,
                      .model = next_model(l),
                      .prompt = prompt,
                      .prompt_count = l->o->prompt_tokens,
                      .output_max = l->o->output_tokens};
    if (c->socket < 0) connect_client(l, c);
    l->o->protocol->ask(&c->wire, &r);
    c->last_us = 0;
    c->sent_us = clock_now_us();
    l->sent++;
    write_out(c);
}

static void take_pieces(load *l, client *c, uint32_t pieces, int64_t now_us) {
    for (; pieces; pieces--) {
        if (!c->last_us)
            l->ttft.us[l->ttft.count++] = now_us - c->sent_us;
        else
            l->itl.us[l->itl.count++] = now_us - c->last_us;
        c->last_us = now_us;
    }
}

static void take_end(load *l, client *c, uint32_t output_tokens) {
    if (output_tokens != l->o->output_tokens)
        die("an answer has %u tokens; wanted %u", output_tokens, l->o->output_tokens);
    l->ended++;
    l->output_tokens += output_tokens;
    if (l->o->protocol->once) hang_up(c);
    if (l->sent < l->o->requests) send_next(l, c);
}

static void read_client(load *l, client *c) {
    static uint8_t bytes[READ_BYTES];
    ssize_t got = recv(c->socket, bytes, sizeof bytes, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) die("the server closed a connection inside an answer");
    int64_t now_us = clock_now_us();
    load_add(&c->wire.in, bytes, (size_t)got);
    load_news news = {0};
    l->o->protocol->read(&c->wire, &news);
    if (news.error) die("%s", news.error);
    take_pieces(l, c, news.pieces, now_us);
    write_out(c);
    if (news.ended) take_end(l, c, news.output_tokens);
}

/* ---- all of them ---- */

static void drive(load *l) {
    struct epoll_event events[EVENTS];
    for (uint32_t i = 0; i < l->o->clients && l->sent < l->o->requests; i++)
        send_next(l, &l->clients[i]);
    while (l->ended < l->o->requests) {
        int count = epoll_wait(l->epoll, events, EVENTS, SILENCE_MS);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) die("the server was silent for %d s", SILENCE_MS / 1000);
        for (int i = 0; i < count; i++)
            read_client(l, events[i].data.ptr);
    }
}

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Nearest rank, in ms. */
static double percentile_ms(samples *s, double share) {
    if (!s->count) return 0;
    qsort(s->us, s->count, sizeof *s->us, by_value);
    return (double)s->us[(size_t)(share * (double)(s->count - 1) + 0.5)] / 1e3;
}

static double processor_s(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
           (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6;
}

static void print_row(load *l, double wall_s) {
    printf("{\"protocol\":\"%s\",\"clients\":%u,\"requests\":%u,\"prompt_tokens\":%u,"
           "\"output_tokens\":%u,\"output_tok_s\":%.3f,\"ttft_p50_ms\":%.3f,\"ttft_p99_ms\":%.3f,"
           "\"itl_p50_ms\":%.3f,\"itl_p99_ms\":%.3f,\"pieces\":%zu,\"client_share\":%.4f}\n",
           l->o->protocol->name, l->o->clients, l->ended, l->o->prompt_tokens, l->o->output_tokens,
           (double)l->output_tokens / wall_s, percentile_ms(&l->ttft, 0.5),
           percentile_ms(&l->ttft, 0.99), percentile_ms(&l->itl, 0.5), percentile_ms(&l->itl, 0.99),
           l->ttft.count + l->itl.count, processor_s() / wall_s);
}

static void run(const options *o) {
    load l = {.o = o, .random = o->seed, .epoll = epoll_create1(EPOLL_CLOEXEC)};
    const char *colon = strrchr(o->address, ':');
    char host[64] = {0};
    l.at.sin_family = AF_INET;
    if (colon && (size_t)(colon - o->address) < sizeof host) {
        memcpy(host, o->address, (size_t)(colon - o->address));
        l.at.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    }
    if (inet_pton(AF_INET, host, &l.at.sin_addr) != 1)
        die("--address is \"%s\"; wanted an IPv4 address and a port, as in 127.0.0.1:8470",
            o->address);
    l.clients = mem_new(o->clients, sizeof *l.clients);
    l.ttft.us = mem_new(o->requests, sizeof *l.ttft.us);
    l.itl.us = mem_new((size_t)o->requests * o->output_tokens, sizeof *l.itl.us);
    for (uint32_t i = 0; i < o->clients; i++)
        l.clients[i].socket = -1;
    int64_t began_us = clock_now_us();
    drive(&l);
    print_row(&l, (double)(clock_now_us() - began_us) * 1e-6);
}

/* ---- options ---- */

static const load_protocol *protocol(const char *name) {
    const load_protocol *const all[] = {&load_grpc, &load_llama, &load_openai};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(all[i]->name, name)) return all[i];
    die("--protocol is \"%s\"; wanted grpc, llama or openai", name);
}

static uint32_t number(const char *name, const char *text, uint32_t most) {
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*end || end == text || !value || value > most)
        die("--%s is \"%s\"; wanted 1 to %u", name, text, most);
    return (uint32_t)value;
}

static void add_model(models *m, const char *name) {
    if (m->count == MODELS_MAX) die("more than %d models", MODELS_MAX);
    m->name = mem_resize(m->name, m->count + 1, sizeof *m->name);
    m->name[m->count++] = mem_copy_text(name, strlen(name));
}

static void read_models(models *m, const char *path) {
    FILE *file = fopen(path, "re");
    char line[512];
    if (!file) die("--models: cannot read %s: %s", path, strerror(errno));
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = '\0';
        if (*line) add_model(m, line);
    }
    fclose(file);
    if (!m->count) die("--models: no name in %s", path);
}

/* The chances of Zipf's law, added up. */
static void set_zipf(models *m) {
    double sum = 0;
    if (m->zipf <= 0) return;
    m->chance = mem_new(m->count, sizeof *m->chance);
    for (uint32_t i = 0; i < m->count; i++)
        m->chance[i] = sum += pow(i + 1.0, -m->zipf);
    for (uint32_t i = 0; i < m->count; i++)
        m->chance[i] /= sum;
}

int main(int argc, char **argv) {
    static const struct option flags[] = {{"protocol", required_argument, NULL, 'p'},
                                          {"address", required_argument, NULL, 'a'},
                                          {"clients", required_argument, NULL, 'c'},
                                          {"requests", required_argument, NULL, 'r'},
                                          {"prompt-tokens", required_argument, NULL, 'i'},
                                          {"output-tokens", required_argument, NULL, 'o'},
                                          {"seed", required_argument, NULL, 's'},
                                          {"model", required_argument, NULL, 'm'},
                                          {"models", required_argument, NULL, 'M'},
                                          {"zipf", required_argument, NULL, 'z'},
                                          {0}};
    options o = {.clients = 1, .prompt_tokens = 128, .output_tokens = 64, .seed = 1};
    for (int flag; (flag = getopt_long(argc, argv, "", flags, NULL)) != -1;) {
        if (flag == 'p')
            o.protocol = protocol(optarg);
        else if (flag == 'a')
            o.address = optarg;
        else if (flag == 'c')
            o.clients = number("clients", optarg, CLIENTS_MAX);
        else if (flag == 'r')
            o.requests = number("requests", optarg, 1000000);
        else if (flag == 'i')
            o.prompt_tokens = number("prompt-tokens", optarg, PROMPT_MAX);
        else if (flag == 'o')
            o.output_tokens = number("output-tokens", optarg, PROMPT_MAX);
        else if (flag == 's')
            o.seed = strtoull(optarg, NULL, 10);
        else if (flag == 'm')
            add_model(&o.models, optarg);
        else if (flag == 'M')
            read_models(&o.models, optarg);
        else if (flag == 'z')
            o.models.zipf = strtod(optarg, NULL);
        else
            return 2;
    }
    if (!o.protocol || !o.address || optind != argc) die("--protocol and --address are needed");
    if (!o.requests) o.requests = 4 * o.clients;
    set_zipf(&o.models);
    run(&o);
    return 0;
}
