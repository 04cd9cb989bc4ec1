/* load_grpc.c - Generate over HTTP/2, the few frames that one call at a time on one connection needs.
 *
 *   frame    length u24, type u8, flags u8, stream u32 (big-endian)
 *   message  0 u8, length u32 (big-endian), protobuf; in DATA frames, cut anywhere
 *
 * Response headers are not decoded: an answer is complete when its message with `final` came and the stream
 * ended. Receive windows are opened to their most once, so no update is ever owed.
 *
 * Source RFC 9113 (frames), RFC 7541 (header literals), the gRPC over HTTP/2 protocol description */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/load.h"
#include "engine/base/status.h"
#include "espalier/v1/inference.pb-c.h"

enum {
    FRAME_DATA = 0,
    FRAME_HEADERS = 1,
    FRAME_RESET = 3,
    FRAME_SETTINGS = 4,
    FRAME_PING = 6,
    FRAME_GOAWAY = 7,
    FRAME_WINDOW = 8,
    FLAG_ACK = 1,
    FLAG_END_STREAM = 1,
    FLAG_END_HEADERS = 4,
    SETTING_WINDOW = 4,
    HEAD_BYTES = 9,
    PREFIX_BYTES = 5,
    WINDOW_MOST = 0x7fffffff,
    WINDOW_FIRST = 65535,
    PAYLOAD_MOST = 16384, /* of a frame, which every server takes */
};

static void add_u32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (24 - 8 * i));
}

static uint32_t read_u32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void add_frame(load_bytes *b, uint8_t type, uint8_t flags, uint32_t stream,
                      const load_bytes *payload) {
    uint8_t head[HEAD_BYTES] = {0};
    uint32_t count = payload ? (uint32_t)payload->count : 0;
    add_u32(head, count << 8);
    head[3] = type;
    head[4] = flags;
    add_u32(head + 5, stream);
    load_add(b, head, sizeof head);
    if (count) load_add(b, payload->at, count);
}

static void greet(load_connection *c) {
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    uint8_t setting[6] = {0, SETTING_WINDOW}, window[4];
    load_add(&c->out, preface, sizeof preface - 1);
    add_u32(setting + 2, WINDOW_MOST);
    add_frame(&c->out, FRAME_SETTINGS, 0, 0, &(load_bytes){.at = setting, .count = sizeof setting});
    add_u32(window, WINDOW_MOST - WINDOW_FIRST);
    add_frame(&c->out, FRAME_WINDOW, 0, 0, &(load_bytes){.at = window, .count = sizeof window});
    c->greeted = true;
}

/* A literal that is kept in no table. */
static void add_text(load_bytes *b, const char *text) {
    uint8_t bytes = (uint8_t)strlen(text); /* < 127 */
    load_add(b, &bytes, 1);
    load_add(b, text, bytes);
}

static void add_headers(load_connection *c, const char *host) {
    load_bytes b = {0};
    load_add(&b, "\x83\x86\x04", 3); /* :method POST, :scheme http, :path follows */
    add_text(&b, "/espalier.v1.Inference/Generate");
    load_add(&b, "\x01", 1); /* :authority follows */
    add_text(&b, host);
    load_add(&b, "\x0f\x10", 2); /* content-type follows: name 31 of the static table */
    add_text(&b, "application/grpc");
    load_add(&b, "\x00", 1); /* a new name */
    add_text(&b, "te");
    add_text(&b, "trailers");
    add_frame(&c->out, FRAME_HEADERS, FLAG_END_HEADERS, c->stream, &b);
    free(b.at);
}

static void add_request(load_connection *c, const load_request *r) {
    Espalier__V1__GenerateRequest ask = ESPALIER__V1__GENERATE_REQUEST__INIT;
    Espalier__V1__TokenIds ids = ESPALIER__V1__TOKEN_IDS__INIT;
    ids.ids = (int32_t *)(uintptr_t)r->prompt;
    ids.n_ids = r->prompt_count;
    if (r->model) ask.model = (char *)(uintptr_t)r->model;
    ask.input_case = ESPALIER__V1__GENERATE_REQUEST__INPUT_TOKEN_IDS;
    ask.token_ids = &ids;
    ask._max_tokens_case = ESPALIER__V1__GENERATE_REQUEST___MAX_TOKENS_MAX_TOKENS;
    ask.max_tokens = r->output_max;
    ask.ignore_eos = true;
    uint8_t packed[PAYLOAD_MOST];
    size_t bytes = protobuf_c_message_get_packed_size(&ask.base);
    ESP_ASSERT(bytes <= PAYLOAD_MOST - PREFIX_BYTES);
    packed[0] = 0;
    add_u32(packed + 1, (uint32_t)bytes);
    protobuf_c_message_pack(&ask.base, packed + PREFIX_BYTES);
    load_bytes payload = {.at = packed, .count = PREFIX_BYTES + bytes};
    add_frame(&c->out, FRAME_DATA, FLAG_END_STREAM, c->stream, &payload);
}

static void ask_grpc(load_connection *c, const load_request *r) {
    if (!c->greeted) {
        greet(c);
        c->stream = (uint32_t)-1; /* the first is 1 */
    }
    c->stream += 2;
    c->body.count = 0;
    c->last = false;
    c->tokens = 0;
    add_headers(c, r->host);
    add_request(c, r);
}

/* ---- answers ---- */

static void take_message(load_connection *c, const uint8_t *bytes, size_t count, load_news *news) {
    Espalier__V1__GenerateResponse *got =
        espalier__v1__generate_response__unpack(NULL, count, bytes);
    if (!got) {
        news->error = "a message is no GenerateResponse";
        return;
    }
    if (got->n_token_ids) news->pieces++;
    if (got->final) {
        c->last = true;
        c->tokens = got->final->usage ? got->final->usage->output_tokens : 0;
    }
    espalier__v1__generate_response__free_unpacked(got, NULL);
}

static void take_messages(load_connection *c, load_news *news) {
    size_t used = 0;
    while (c->body.count - used >= PREFIX_BYTES && !news->error) {
        uint32_t bytes = read_u32(c->body.at + used + 1);
        if (c->body.count - used - PREFIX_BYTES < bytes) break;
        take_message(c, c->body.at + used + PREFIX_BYTES, bytes, news);
        used += PREFIX_BYTES + bytes;
    }
    load_drop(&c->body, used);
}

/* Printable bytes of a block of headers: enough to read what a refused call was told. */
static void keep_why(load_connection *c, const uint8_t *bytes, size_t count) {
    size_t kept = (size_t)snprintf(c->why, sizeof c->why, "the call failed: ");
    for (size_t i = 0; i < count && kept + 1 < sizeof c->why; i++)
        if (bytes[i] >= ' ' && bytes[i] < 127) c->why[kept++] = (char)bytes[i];
    c->why[kept] = '\0';
}

static void take_end(load_connection *c, load_news *news) {
    news->ended = true;
    news->output_tokens = c->tokens;
    if (!c->last) news->error = c->why[0] ? c->why : "the stream ended without its last message";
}

static void take_frame(load_connection *c, const uint8_t *head, const load_bytes *payload,
                       load_news *news) {
    uint8_t type = head[3], flags = head[4];
    bool here = read_u32(head + 5) == c->stream;
    if (type == FRAME_SETTINGS && !(flags & FLAG_ACK)) add_frame(&c->out, type, FLAG_ACK, 0, NULL);
    if (type == FRAME_PING && !(flags & FLAG_ACK)) add_frame(&c->out, type, FLAG_ACK, 0, payload);
    if (type == FRAME_GOAWAY) news->error = "the server closed the connection";
    if (type == FRAME_RESET && here) news->error = "the server reset the call";
    if (type == FRAME_HEADERS && here && !c->last) keep_why(c, payload->at, payload->count);
    if (type == FRAME_DATA && here) {
        load_add(&c->body, payload->at, payload->count);
        take_messages(c, news);
    }
    bool may_end = type == FRAME_DATA || type == FRAME_HEADERS;
    if (may_end && here && flags & FLAG_END_STREAM) take_end(c, news);
}

static void read_grpc(load_connection *c, load_news *news) {
    size_t used = 0;
    while (c->in.count - used >= HEAD_BYTES && !news->error) {
        const uint8_t *head = c->in.at + used;
        uint32_t bytes = read_u32(head) >> 8;
        if (c->in.count - used - HEAD_BYTES < bytes) break;
        load_bytes payload = {.at = c->in.at + used + HEAD_BYTES, .count = bytes};
        take_frame(c, head, &payload, news);
        used += HEAD_BYTES + bytes;
    }
    load_drop(&c->in, used);
}

const load_protocol load_grpc = {.name = "grpc", .ask = ask_grpc, .read = read_grpc};
