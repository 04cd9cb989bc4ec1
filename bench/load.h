/* load.h - the load client: what its loop and its three protocols share.
 *
 * One thread and one epoll drive every client, each with a connection of its own, so that what is measured is the
 * server: beside two busy cores a client of threads or of Python would be part of the figure. A protocol turns
 * a prompt into bytes and bytes into pieces; the loop owns sockets, clocks and samples. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BENCH_LOAD_H
#define ESPALIER_BENCH_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that grow. All-zero is empty. */
typedef struct load_bytes {
    uint8_t *at;
    size_t count, room;
} load_bytes;

void load_add(load_bytes *b, const void *bytes, size_t count);
void load_print(load_bytes *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void load_drop(load_bytes *b, size_t count); /* the first count */

typedef struct load_request {
    const char *host;  /* "127.0.0.1:8470" */
    const char *model; /* what the server calls it, llama: an adapter's number; NULL: not said */
    const int32_t *prompt;
    uint32_t prompt_count, output_max;
} load_request;

/* What a protocol saw in the bytes that came. */
typedef struct load_news {
    uint32_t pieces;        /* messages that held output */
    bool ended;             /* the answer is complete */
    uint32_t output_tokens; /* with ended: as the server counted them */
    const char *error;      /* the answer failed; static or inside the connection's bytes */
} load_news;

/* One client's connection as a protocol sees it. */
typedef struct load_connection {
    load_bytes in;   /* read from the socket, not yet understood */
    load_bytes out;  /* to be written */
    load_bytes body; /* the body behind the framing, not yet understood */
    bool greeted;    /* grpc: the preface went out */
    uint32_t stream; /* grpc: the call's stream id */
    uint32_t left;   /* http: of the chunk under way */
    bool in_body;    /* http: the header is behind */
    uint32_t tokens; /* output tokens the server told */
    bool last;       /* the answer's last message was seen */
    char why[256];   /* what an error said */
} load_connection;

typedef struct load_protocol {
    const char *name;
    bool
        once; /* a connection serves one request: llama-server closes it behind a streamed answer */
    void (*ask)(load_connection *c, const load_request *r);
    /* Takes what it can of c->in. */
    void (*read)(load_connection *c, load_news *news);
} load_protocol;

extern const load_protocol load_grpc;   /* espalier.v1.Inference/Generate over HTTP/2 */
extern const load_protocol load_llama;  /* llama-server's POST /completion, server-sent events */
extern const load_protocol load_openai; /* POST /v1/completions, server-sent events */

#endif
