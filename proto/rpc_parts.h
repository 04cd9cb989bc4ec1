/* rpc_parts.h - what the files of the rpc module share; not for outsiders.
 *
 *   rpc_server.c   listener, pollers, workers, slots, sweep, drain
 *   rpc_call.c     one call on the server side
 *   rpc_client.c   channel and streams
 *   rpc_tls.c      credentials from PEM files
 *   rpc_core.c     small helpers over the C core */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_RPC_PARTS_H
#define ESPALIER_RPC_PARTS_H

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <pthread.h>
#include <stdatomic.h>

#include "engine/base/queue.h"
#include "proto/rpc.h"

/* What a completion queue gives back: one per operation that may be under way. */
typedef struct rpc_tag {
    void (*done)(void *owner, bool ok);
    void *owner;
} rpc_tag;

/* The C core is not instrumented, so ThreadSanitizer does not see that what was written before an
 * operation is read after its completion. */
#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#define RPC_TAG_GOES(tag) __tsan_release(tag)
#define RPC_TAG_CAME(tag) __tsan_acquire(tag)
#else
#define RPC_TAG_GOES(tag) (void)(tag)
#define RPC_TAG_CAME(tag) (void)(tag)
#endif

/* How a call ends; filled once, sent when no message is under way. */
typedef struct rpc_ending {
    grpc_byte_buffer *last; /* or NULL */
    grpc_status_code code;
    grpc_slice sentence;
    grpc_slice details; /* google.rpc.Status; empty when OK */
} rpc_ending;

struct rpc_call {
    rpc_server *server;
    _Atomic uint32_t references; /* one per operation under way, one per holder */
    grpc_call *core;
    grpc_call_details asked;
    grpc_metadata_array metadata;
    const rpc_method *method;
    int64_t deadline_us;

    rpc_tag arrived, closed, received, sent, ended;
    grpc_byte_buffer *message;
    int core_cancelled;

    /* When the sweep cuts it, monotonic us; 0 = never. */
    _Atomic int64_t cut_us;
    _Atomic bool awaiting;     /* its request has not come yet */
    bool begun;                /* one has come; of the thread that receives */
    bool admitted;             /* counted in server->admitted */
    _Atomic uint32_t *counter; /* which count it is in: busy or its method's; NULL: none */
    int64_t arrived_us;
    size_t message_bytes; /* while it waits for a worker */

    /* Lock order: events_lock (callbacks are made under it) > the users' own locks > lock. */
    pthread_mutex_t events_lock;
    pthread_mutex_t lock; /* everything below */
    bool sending, headers_sent, finished, over;
    bool handling;      /* uploads: on_request runs */
    bool receive_asked; /* and has asked for the next message: when it returns */
    bool close_waits;   /* RPC_CLOSED is told when it returns */
    bool ending_waits;
    rpc_ending ending;
    rpc_event_fn on_event;
    void *user;

    rpc_call *next, *previous; /* server->calls, under server->calls_lock */
};

enum {
    RPC_POLLERS =
        2, /* with one, a flood of resets starves dispatch and memory grows without bound */
    RPC_SLOTS = 256, /* calls the core may hand over before we post again */
    RPC_WORKERS_MAX = 16,
    RPC_WORK_MAX = 4096,           /* requests that wait for a worker */
    RPC_WORK_BYTES_MAX = 64 << 20, /* and their bytes */
    RPC_BULK_MAX = 16,             /* bulk requests that wait */
    RPC_METHODS_MAX = 32,
    RPC_OPEN_MESSAGE_MS = 2000, /* a caller without a token is given less time */
    RPC_SWEEP_US = 250000,
};

struct rpc_server {
    rpc_options options;
    grpc_server *core;
    grpc_completion_queue *queue;
    uint16_t port;
    bool started;

    pthread_t pollers[RPC_POLLERS];
    uint32_t poller_count;
    pthread_t workers[RPC_WORKERS_MAX];
    uint32_t worker_count;
    queue *work;                 /* rpc_call with its message, reference held */
    queue *bulk;                 /* the same, for methods marked bulk */
    _Atomic uint64_t work_bytes; /* of the messages in both */
    _Atomic uint32_t workers_begun;
    signal_word work_signal;
    _Atomic bool workers_stop;

    _Atomic bool
        draining; /* new calls are refused, by us: the core would cancel them without a word */
    _Atomic bool closing; /* the core is shutting down */
    rpc_tag closed;
    _Atomic bool core_closed;
    signal_word ended; /* a call has ended, or the core is closed */

    _Atomic uint32_t live; /* all calls */
    _Atomic uint32_t busy; /* those that calls_max bounds: their method has no bound of its own */
    _Atomic uint32_t method_calls[RPC_METHODS_MAX]; /* of each method with one */
    _Atomic uint32_t admitted;                      /* those that a drain waits for */
    _Atomic int64_t next_sweep_us;
    pthread_mutex_t calls_lock; /* inner to nothing, held only for list work */
    rpc_call *calls;
};

/* rpc_core.c */
void rpc_core_up(void); /* grpc_init, log routing */
void rpc_core_down(void);
grpc_byte_buffer *rpc_pack(const ProtobufCMessage *message, size_t *bytes);
/* The whole buffer as one slice; empty slice when it cannot be read (bad compression). */
bool rpc_flatten(grpc_byte_buffer *buffer, grpc_slice *out);
bool rpc_slice_is(grpc_slice slice, const char *text);
gpr_timespec rpc_time_in(int64_t timeout_ms);

/* rpc_tls.c */
esp_code rpc_server_credentials(grpc_server_credentials **out, const rpc_tls *tls, esp_error *err);
esp_code rpc_channel_credentials(grpc_channel_credentials **out, const rpc_tls *tls, bool secure,
                                 esp_error *err);

/* rpc_call.c */
void rpc_call_post_slot(rpc_server *server);
void rpc_call_work(rpc_call *call); /* on a worker */
bool rpc_call_hold_if_alive(rpc_call *call);
void rpc_call_expire(rpc_call *call);

#endif
