/* rpc.h - remote calls: the gRPC C core behind one small door.
 *
 * Server   a table of methods, each with who may call it and one function. A call's life:
 *
 *            arrives -> known? room? allowed? -> its message is awaited (message_ms) -> decoded
 *                    -> on_request(call, message), on a poller or a worker
 *            answer:    rpc_finish                             one message or an error
 *                       rpc_send, wait for RPC_SENT, rpc_send, ..., rpc_finish
 *            the end:   RPC_CLOSED, exactly once, last: delivered, or cancelled, or the client is
 * gone
 *
 *            uploads:   on_request, rpc_receive, on_request, ..., on_request with NULL: all was sent
 *
 *          One message of a call is under way at a time; a reader that takes none for stall_ms is
 * cut. Client   blocking: rpc_unary, or a stream read message by message.
 *
 * Thread   server functions: any thread; on_request and on_event are called on threads of the
 * server and must not block. Each client stream belongs to one thread; rpc_stream_cancel: any.
 * Locks    rpc_* functions may be called under the user's locks. Events of one call come one at a
 * time; a callback may take the user's locks, so rpc_server_close is called under none. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_RPC_H
#define ESPALIER_RPC_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

typedef struct rpc_server rpc_server;
typedef struct rpc_call rpc_call;
typedef struct rpc_method rpc_method;

/* Who may call. Zero, the answer for a row that says nothing, is nobody. */
typedef enum rpc_access {
    RPC_ACCESS_NOBODY,
    RPC_ACCESS_ANYONE,
    RPC_ACCESS_TOKEN, /* rpc_options.authorise decides */
} rpc_access;

struct rpc_method {
    const char *path; /* "/espalier.v1.Inference/Generate" */
    rpc_access access;
    const ProtobufCMessageDescriptor *request;
    /* message and what it points to live until this returns. */
    void (*on_request)(void *arg, rpc_call *call, const ProtobufCMessage *message);
    bool on_worker;     /* on_request takes more than microseconds: not on a poller */
    /* After each rpc_send the next request is awaited; half-close ends the call. */
    bool many_requests;
    bool bulk; /* with on_worker: long work that must not delay the others' */
    /* With on_worker: a stream of requests. Each on_request ends in rpc_receive, which asks for the next one, or in
     * rpc_finish; a NULL message says that the client has sent its last. RPC_CLOSED waits for an on_request that
     * runs, so what was attached lives as long. */
    bool uploads;
    bool vital;         /* answered while draining (health) */
    uint32_t calls_max; /* > 0: a bound of its own on live calls, which then don't count in
                         * rpc_options.calls_max; for what strangers may call */
    uint32_t request_bytes_max; /* > 0: less than rpc_options.message_bytes_max */
};

/* PEM files, or all NULL for plain text. */
typedef struct rpc_tls {
    const char *cert_file, *key_file; /* both or none */
    const char
        *ca_file; /* server: clients must show a certificate of this authority. client: roots */
} rpc_tls;

/* Zero means the default in brackets. Strings and methods are borrowed while the server lives. */
typedef struct rpc_options {
    const char *address; /* "127.0.0.1:8470", "[::1]:0", "unix:/path" */
    const char *flag;    /* what errors about the address name ["--grpc"] */
    rpc_tls tls;
    const rpc_method *methods;
    uint32_t method_count;
    void *arg; /* given to on_request and authorise */
    /* header: the value of "authorization", NULL when there is none. NULL function: nobody. */
    bool (*authorise)(void *arg, const char *header, size_t bytes);
    uint32_t calls_max; /* live calls in all [2048]; beyond: ESP_EXHAUSTED with a retry hint */
    uint32_t message_bytes_max; /* one request [4 MiB]; beyond: ESP_EXHAUSTED */
    uint32_t message_ms;        /* from a call's arrival to its request [10,000] */
    uint32_t stall_ms;          /* from a send to its being taken by the transport [60,000] */
    uint32_t workers;           /* threads for on_worker methods [2] */
} rpc_options;

/* Binds the address. ESP_UNAVAILABLE when it cannot be bound; ESP_INVALID for unusable TLS files.
 */
ESP_CHECKED esp_code rpc_server_open(rpc_server **out, const rpc_options *options, esp_error *err);
ESP_CHECKED esp_code rpc_server_start(rpc_server *server, esp_error *err);
uint16_t rpc_server_port(const rpc_server *server);
uint32_t rpc_server_calls(const rpc_server *server); /* live now */
/* New calls are refused with ESP_UNAVAILABLE, but for vital ones; live ones go on. */
void rpc_server_drain(rpc_server *server);
/* After drain: waits until no call but vital ones lives; false when timeout_us passed before. */
ESP_CHECKED bool rpc_server_wait_drained(rpc_server *server, int64_t timeout_us);
/* The listener closes and every call ends; clients see ESP_UNAVAILABLE. */
void rpc_server_cancel_all(rpc_server *server);
/* Cancels what lives, joins all threads. NULL is fine. */
void rpc_server_close(rpc_server *server);

/* ---- one call, server side ---- */

typedef enum rpc_event {
    RPC_SENT,   /* the message was taken by the transport: the next may go */
    RPC_CLOSED, /* the call is over; the last event */
} rpc_event;
typedef void (*rpc_event_fn)(void *user, rpc_call *call, rpc_event event);

/* The call's events go to user from now on. false: the call is closed already, no event will come.
 */
ESP_CHECKED bool rpc_call_attach(rpc_call *call, rpc_event_fn on_event, void *user);
/* The call's object lives while held; the core's and RPC_CLOSED's own references are separate. */
void rpc_call_hold(rpc_call *call);
void rpc_call_release(rpc_call *call); /* NULL is fine */

/* What was attached; NULL: nothing yet, or RPC_CLOSED was told. */
void *rpc_call_user(rpc_call *call);

/* When the call arrived, monotonic us. */
int64_t rpc_call_arrived_us(const rpc_call *call);
/* Monotonic microseconds of the client's deadline; 0 = none. */
int64_t rpc_call_deadline_us(const rpc_call *call);
const rpc_method *rpc_call_method(const rpc_call *call);

/* Sends one message; RPC_SENT follows. Returns its encoded bytes; 0: the call is closed or
 * finished. No other send may be under way. */
size_t rpc_send(rpc_call *call, const ProtobufCMessage *message);
/* Of a method that uploads: asks for the next message, once for each on_request and last in it. One that
 * does not come within message_ms ends the call. */
void rpc_receive(rpc_call *call);
/* Ends the call: last (may be NULL) and then OK, or error as status with details. Waits for a send
 * under way by itself. Only the first finish counts. */
void rpc_finish(rpc_call *call, const ProtobufCMessage *last, const esp_error *error);
/* Ends the call at once: what is under way is dropped. */
void rpc_cut(rpc_call *call, esp_code code, const char *sentence);

/* ---- client ---- */

typedef struct rpc_channel rpc_channel;
typedef struct rpc_stream rpc_stream;

typedef struct rpc_channel_options {
    const char *address;        /* "127.0.0.1:8470" */
    const char *token;          /* sent as "authorization: Bearer ..."; NULL: none */
    bool secure;                /* TLS even when tls is all NULL (the system's roots) */
    rpc_tls tls;                /* any set: TLS */
    uint32_t message_bytes_max; /* one answer [4 MiB] */
} rpc_channel_options;

/* Connects when first used. */
ESP_CHECKED esp_code rpc_channel_open(rpc_channel **out, const rpc_channel_options *options,
                                      esp_error *err);
void rpc_channel_close(rpc_channel *channel);

/* Begins a call with one request, or with NULL for rpc_stream_send to follow; timeout_ms < 0: none. */
ESP_CHECKED esp_code rpc_stream_open(rpc_stream **out, rpc_channel *channel, const char *path,
                                     const ProtobufCMessage *request, int64_t timeout_ms,
                                     esp_error *err);
/* The next answer into *out, or NULL when the stream ended well; otherwise the call's status. The
 * caller frees it with protobuf_c_message_free_unpacked(m, NULL). */
ESP_CHECKED esp_code rpc_stream_next(rpc_stream *stream, const ProtobufCMessageDescriptor *type,
                                     ProtobufCMessage **out, esp_error *err);
/* A further request, until rpc_stream_send_end; waits until the transport took it. false: the call is
 * over, and rpc_stream_next tells why. */
ESP_CHECKED bool rpc_stream_send(rpc_stream *stream, const ProtobufCMessage *request);
ESP_CHECKED bool rpc_stream_send_end(rpc_stream *stream);
void rpc_stream_cancel(rpc_stream *stream);
void rpc_stream_close(rpc_stream *stream); /* cancels what is left; NULL is fine */

/* One request, one answer (freed by the caller as above). */
ESP_CHECKED esp_code rpc_unary(rpc_channel *channel, const char *path,
                               const ProtobufCMessage *request,
                               const ProtobufCMessageDescriptor *type, int64_t timeout_ms,
                               ProtobufCMessage **out, esp_error *err);

#endif
