/* rpc_call.c - one call on the server side.
 *
 *   posted slot --arrived--> admitted --received--> on_request --> sending* --> finished
 *                               |  \__ message_ms passes: cut           \__ stall_ms passes: cut
 *                               \__ refused: finished at once
 *   uploads: received --on_request--> rpc_receive --received--> ... until half-closed: on_request(NULL)
 *   and from `arrived` on, whatever happens: closed, once.
 *
 * A reference is held for each operation under way, so the call outlives its last completion.
 * start() only queues work in the core: calling it under the call's lock is fine. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "proto/rpc_parts.h"
#include "proto/rpc_status.h"
#include "proto/wire.h"

/* ---- lifetime ---- */

void rpc_call_hold(rpc_call *call) {
    atomic_fetch_add_explicit(&call->references, 1, memory_order_relaxed);
}

bool rpc_call_hold_if_alive(rpc_call *call) {
    uint32_t seen = atomic_load_explicit(&call->references, memory_order_relaxed);
    while (seen)
        if (atomic_compare_exchange_weak(&call->references, &seen, seen + 1)) return true;
    return false;
}

static void list_add(rpc_call *call) {
    rpc_server *server = call->server;
    pthread_mutex_lock(&server->calls_lock);
    call->next = server->calls;
    if (call->next) call->next->previous = call;
    server->calls = call;
    pthread_mutex_unlock(&server->calls_lock);
}

static void list_remove(rpc_call *call) {
    rpc_server *server = call->server;
    pthread_mutex_lock(&server->calls_lock);
    if (call->previous)
        call->previous->next = call->next;
    else
        server->calls = call->next;
    if (call->next) call->next->previous = call->previous;
    pthread_mutex_unlock(&server->calls_lock);
}

/* Last: once the counts are down the server may be closed. */
static void leave(rpc_call *call) {
    rpc_server *server = call->server;
    grpc_call_unref(call->core);
    if (call->admitted) atomic_fetch_sub(&server->admitted, 1);
    if (call->counter) atomic_fetch_sub(call->counter, 1);
    signal_wake(&server->ended);
    atomic_fetch_sub(&server->live, 1);
}

static void end_call(rpc_call *call) {
    if (call->core) list_remove(call);
    if (call->message) grpc_byte_buffer_destroy(call->message);
    if (call->ending.last) grpc_byte_buffer_destroy(call->ending.last);
    grpc_slice_unref(call->ending.sentence);
    grpc_slice_unref(call->ending.details);
    grpc_call_details_destroy(&call->asked);
    grpc_metadata_array_destroy(&call->metadata);
    pthread_mutex_destroy(&call->lock);
    pthread_mutex_destroy(&call->events_lock);
    if (call->core) leave(call);
    free(call);
}

void rpc_call_release(rpc_call *call) {
    if (call && atomic_fetch_sub_explicit(&call->references, 1, memory_order_acq_rel) == 1)
        end_call(call);
}

/* Queues operations; the tag's completion owns a reference. */
static bool start(rpc_call *call, const grpc_op *ops, size_t count, rpc_tag *tag) {
    rpc_call_hold(call);
    RPC_TAG_GOES(tag);
    grpc_call_error error = grpc_call_start_batch(call->core, ops, count, tag, NULL);
    if (error == GRPC_CALL_OK) return true;
    log_event(LOG_ERROR, "rpc_start_batch", "reason=\"%s\"", grpc_call_error_to_string(error));
    rpc_call_release(call);
    return false;
}

/* ---- sending ---- */

static void set_cut(rpc_call *call, uint32_t ms) {
    atomic_store(&call->cut_us, clock_now_us() + (int64_t)ms * 1000);
}

static size_t add_headers(rpc_call *call, grpc_op *op) {
    if (call->headers_sent) return 0;
    call->headers_sent = true;
    op->op = GRPC_OP_SEND_INITIAL_METADATA;
    return 1;
}

size_t rpc_send(rpc_call *call, const ProtobufCMessage *message) {
    size_t bytes, count = 0;
    grpc_byte_buffer *buffer = rpc_pack(message, &bytes);
    grpc_op ops[2];
    memset(ops, 0, sizeof ops);
    pthread_mutex_lock(&call->lock);
    ESP_ASSERT(!call->sending);
    bool started = false;
    if (!call->over && !call->finished) {
        count += add_headers(call, ops);
        ops[count].op = GRPC_OP_SEND_MESSAGE;
        ops[count++].data.send_message.send_message = buffer;
        set_cut(call, call->server->options.stall_ms);
        started = call->sending = start(call, ops, count, &call->sent);
    }
    pthread_mutex_unlock(&call->lock);
    grpc_byte_buffer_destroy(buffer);
    return started ? (bytes ? bytes : 1) : 0;
}

/* Under the lock, no message under way. */
static void send_ending(rpc_call *call) {
    static const char key[] = "grpc-status-details-bin";
    rpc_ending *ending = &call->ending;
    grpc_op ops[3];
    size_t count = 0;
    grpc_metadata details;
    memset(ops, 0, sizeof ops);
    memset(&details, 0, sizeof details);
    call->ending_waits = false;
    count += add_headers(call, ops);
    if (ending->last) {
        ops[count].op = GRPC_OP_SEND_MESSAGE;
        ops[count++].data.send_message.send_message = ending->last;
    }
    details.key = grpc_slice_from_static_string(key);
    details.value = ending->details;
    ops[count].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    ops[count].data.send_status_from_server.status = ending->code;
    ops[count].data.send_status_from_server.status_details = &ending->sentence;
    if (GRPC_SLICE_LENGTH(ending->details)) {
        ops[count].data.send_status_from_server.trailing_metadata_count = 1;
        ops[count].data.send_status_from_server.trailing_metadata = &details;
    }
    count++;
    set_cut(call, call->server->options.stall_ms);
    start(call, ops, count, &call->ended);
}

/* Under the lock. */
static void set_error(rpc_ending *ending, const esp_error *error) {
    uint8_t details[RPC_STATUS_BYTES_MAX];
    size_t bytes = rpc_status_pack(error, details);
    ending->code = (grpc_status_code)error->code;
    ending->sentence = grpc_slice_from_copied_string(error->message);
    ending->details = grpc_slice_from_copied_buffer((const char *)details, bytes);
}

void rpc_finish(rpc_call *call, const ProtobufCMessage *last, const esp_error *error) {
    size_t bytes;
    grpc_byte_buffer *buffer = last ? rpc_pack(last, &bytes) : NULL;
    pthread_mutex_lock(&call->lock);
    if (!call->finished && !call->over) {
        call->finished = true;
        call->ending.last = buffer;
        buffer = NULL;
        if (error && error->code != ESP_OK) set_error(&call->ending, error);
        call->ending_waits = call->sending;
        if (!call->sending) send_ending(call);
    }
    pthread_mutex_unlock(&call->lock);
    if (buffer) grpc_byte_buffer_destroy(buffer);
}

void rpc_cut(rpc_call *call, esp_code code, const char *sentence) {
    /* The sentence need not outlive this; the core takes no lock of ours, at any time. */
    grpc_call_cancel_with_status(call->core, (grpc_status_code)code, sentence, NULL);
}

static void refuse(rpc_call *call, const esp_error *error) { rpc_finish(call, NULL, error); }

static void on_ended(void *owner, bool ok) {
    (void)ok; /* closed tells */
    rpc_call *call = owner;
    atomic_store(&call->cut_us, 0);
    rpc_call_release(call);
}

static void await_message(rpc_call *call);

/* One at a time: after RPC_CLOSED has been told nothing follows, so the user may be gone. */
static void tell(rpc_call *call, rpc_event event) {
    pthread_mutex_lock(&call->events_lock);
    pthread_mutex_lock(&call->lock);
    rpc_event_fn on_event = call->on_event;
    void *user = call->user;
    if (event == RPC_CLOSED) {
        call->over = true;
        call->close_waits = call->handling;
        if (call->handling)
            on_event = NULL;
        else
            call->on_event = NULL, call->user = NULL;
    }
    pthread_mutex_unlock(&call->lock);
    if (on_event) on_event(user, call, event);
    pthread_mutex_unlock(&call->events_lock);
}

static void on_sent(void *owner, bool ok) {
    rpc_call *call = owner;
    atomic_store(&call->cut_us, 0);
    pthread_mutex_lock(&call->lock);
    call->sending = false;
    bool ending = call->finished;
    if (call->ending_waits) send_ending(call);
    pthread_mutex_unlock(&call->lock);
    if (ok && !ending) {
        tell(call, RPC_SENT);
        if (call->method->many_requests) await_message(call);
    }
    rpc_call_release(call);
}

bool rpc_call_attach(rpc_call *call, rpc_event_fn on_event, void *user) {
    pthread_mutex_lock(&call->lock);
    bool open = !call->over;
    if (open) call->on_event = on_event, call->user = user;
    pthread_mutex_unlock(&call->lock);
    return open;
}

void *rpc_call_user(rpc_call *call) {
    pthread_mutex_lock(&call->lock);
    void *user = call->user;
    pthread_mutex_unlock(&call->lock);
    return user;
}

int64_t rpc_call_arrived_us(const rpc_call *call) { return call->arrived_us; }
int64_t rpc_call_deadline_us(const rpc_call *call) { return call->deadline_us; }
const rpc_method *rpc_call_method(const rpc_call *call) { return call->method; }

/* ---- receiving ---- */

static void decode_and_handle(rpc_call *call) {
    grpc_slice bytes;
    esp_error error = {0};
    if (!call->message) { /* an upload's end */
        call->method->on_request(call->server->options.arg, call, NULL);
        return;
    }
    bool readable = rpc_flatten(call->message, &bytes);
    grpc_byte_buffer_destroy(call->message);
    call->message = NULL;
    if (!readable) {
        (void)esp_fail(&error, ESP_INVALID, "the request message cannot be decompressed");
        refuse(call, &error);
        return;
    }
    size_t count = GRPC_SLICE_LENGTH(bytes);
    mem_arena *arena = mem_arena_open(wire_arena_bytes(count));
    ProtobufCMessage *message;
    esp_code code = wire_decode(call->method->request, GRPC_SLICE_START_PTR(bytes), count, arena,
                                &message, &error);
    if (code == ESP_OK)
        call->method->on_request(call->server->options.arg, call, message);
    else
        refuse(call, &error);
    mem_arena_close(arena);
    grpc_slice_unref(bytes);
}

/* false: the call is over. */
static bool begin_handling(rpc_call *call) {
    pthread_mutex_lock(&call->lock);
    bool live = !call->over;
    call->handling = live && call->method->uploads;
    pthread_mutex_unlock(&call->lock);
    return live;
}

static void end_handling(rpc_call *call) {
    pthread_mutex_lock(&call->lock);
    bool close = call->close_waits;
    call->handling = call->close_waits = false;
    bool receive = call->receive_asked && !close;
    call->receive_asked = false;
    pthread_mutex_unlock(&call->lock);
    if (close) tell(call, RPC_CLOSED);
    if (receive) await_message(call);
}

void rpc_call_work(rpc_call *call) {
    atomic_fetch_sub(&call->server->work_bytes, call->message_bytes);
    if (begin_handling(call)) {
        decode_and_handle(call);
        end_handling(call);
    }
    rpc_call_release(call);
}

void rpc_receive(rpc_call *call) {
    ESP_ASSERT(call->method->uploads);
    pthread_mutex_lock(&call->lock);
    ESP_ASSERT(call->handling && !call->receive_asked);
    call->receive_asked = true;
    pthread_mutex_unlock(&call->lock);
}

static void give_to_worker(rpc_call *call) {
    rpc_server *server = call->server;
    call->message_bytes = call->message ? grpc_byte_buffer_length(call->message) : 0;
    uint64_t waiting = atomic_fetch_add(&server->work_bytes, call->message_bytes);
    rpc_call_hold(call);
    if (waiting <= RPC_WORK_BYTES_MAX &&
        queue_push(call->method->bulk ? server->bulk : server->work, call)) {
        signal_wake(&server->work_signal);
        return;
    }
    atomic_fetch_sub(&server->work_bytes, call->message_bytes);
    esp_error error = {0};
    (void)esp_fail(&error, ESP_EXHAUSTED,
                   "as many requests of this kind wait to be read as this server keeps; try again");
    error.retry_ms = 1000;
    refuse(call, &error);
    rpc_call_release(call);
}

static void on_half_close(rpc_call *call) {
    esp_error error = {0};
    if (!call->method->many_requests)
        (void)esp_fail(&error, ESP_INVALID, "the call ended without a request message");
    rpc_finish(call, NULL, &error);
}

static bool too_long(rpc_call *call) {
    size_t bytes = grpc_byte_buffer_length(call->message), most = call->method->request_bytes_max;
    if (!most || bytes <= most) return false;
    esp_error error = {0};
    (void)esp_fail(&error, ESP_EXHAUSTED, "the request has %zu bytes, at most %zu are taken", bytes,
                   most);
    refuse(call, &error);
    return true;
}

static void on_received(void *owner, bool ok) {
    rpc_call *call = owner;
    atomic_store(&call->cut_us, 0);
    atomic_store(&call->awaiting, false);
    bool first = !call->begun;
    call->begun = true;
    if (!ok || (!call->message && call->core_cancelled))
        ; /* cancelled, or too big: the core has told the client */
    else if (!call->message && call->method->uploads && !first)
        give_to_worker(call);
    else if (!call->message)
        on_half_close(call);
    else if (too_long(call))
        ;
    else if (call->method->on_worker)
        give_to_worker(call);
    else
        decode_and_handle(call);
    rpc_call_release(call);
}

static void await_message(rpc_call *call) {
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &call->message;
    atomic_store(&call->awaiting, true);
    uint32_t ms = call->server->options.message_ms;
    if (call->method->calls_max && ms > RPC_OPEN_MESSAGE_MS) ms = RPC_OPEN_MESSAGE_MS;
    set_cut(call, ms);
    start(call, &op, 1, &call->received);
}

void rpc_call_expire(rpc_call *call) {
    if (atomic_load(&call->awaiting))
        rpc_cut(call, ESP_DEADLINE, "no request message came in time");
    else
        rpc_cut(call, ESP_EXHAUSTED, "slow reader: the answer was not taken in time");
}

/* ---- arrival ---- */

static void on_closed(void *owner, bool ok) {
    (void)ok;
    rpc_call *call = owner;
    tell(call, RPC_CLOSED);
    rpc_call_release(call);
}

static void watch_close(rpc_call *call) {
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    op.data.recv_close_on_server.cancelled = &call->core_cancelled;
    start(call, &op, 1, &call->closed);
}

static const rpc_method *find_method(const rpc_server *server, grpc_slice path) {
    for (uint32_t i = 0; i < server->options.method_count; i++)
        if (rpc_slice_is(path, server->options.methods[i].path)) return &server->options.methods[i];
    return NULL;
}

static bool token_allows(const rpc_call *call) {
    const rpc_options *o = &call->server->options;
    if (!o->authorise) return false;
    for (size_t i = 0; i < call->metadata.count; i++) {
        const grpc_metadata *m = &call->metadata.metadata[i];
        if (rpc_slice_is(m->key, "authorization"))
            return o->authorise(o->arg, (const char *)GRPC_SLICE_START_PTR(m->value),
                                GRPC_SLICE_LENGTH(m->value));
    }
    return o->authorise(o->arg, NULL, 0);
}

/* Room among the calls of its kind. Those that need no token have a bound of their own, so that strangers
 * never take the places of the others. */
static esp_code take_place(rpc_call *call, esp_error *err) {
    rpc_server *server = call->server;
    const rpc_method *method = call->method;
    uint32_t most = method->calls_max ? method->calls_max : server->options.calls_max;
    call->counter =
        method->calls_max ? &server->method_calls[method - server->options.methods] : &server->busy;
    if (atomic_fetch_add(call->counter, 1) < most) return ESP_OK;
    (void)esp_fail(err, ESP_EXHAUSTED, "%u calls of this kind are live, the most this server takes",
                   most);
    err->retry_ms = 1000;
    return err->code;
}

/* Known, room, allowed: in this order, so that an overloaded server does least. */
static esp_code admit(rpc_call *call, esp_error *err) {
    call->method = find_method(call->server, call->asked.method);
    if (!call->method) return esp_fail(err, ESP_UNIMPLEMENTED, "there is no such method");
    if (take_place(call, err) != ESP_OK) return err->code;
    if (!call->method->vital && atomic_load(&call->server->draining))
        return esp_fail(err, ESP_UNAVAILABLE, "the server is shutting down; ask another one");
    if (call->method->access == RPC_ACCESS_ANYONE) return ESP_OK;
    if (call->method->access != RPC_ACCESS_TOKEN)
        return esp_fail(err, ESP_DENIED, "nobody may call this method");
    if (token_allows(call)) return ESP_OK;
    return esp_fail(err, ESP_UNAUTHENTICATED,
                    "a token is wanted: send the metadata authorization: Bearer TOKEN");
}

static int64_t monotonic_us(gpr_timespec time) {
    if (gpr_time_cmp(time, gpr_inf_future(time.clock_type)) == 0) return 0;
    gpr_timespec left = gpr_time_sub(gpr_convert_clock_type(time, GPR_CLOCK_MONOTONIC),
                                     gpr_now(GPR_CLOCK_MONOTONIC));
    int64_t left_us = left.tv_sec > 1000000000 ? INT64_C(1000000000000000)
                                               : left.tv_sec * 1000000 + left.tv_nsec / 1000;
    int64_t at = clock_now_us() + left_us;
    return at > 0 ? at : 1;
}

static void on_arrived(void *owner, bool ok) {
    rpc_call *call = owner;
    if (!ok) { /* the server is shutting down and gives its slots back */
        rpc_call_release(call);
        return;
    }
    /* A slot first: the core queues calls without bound while none is posted. */
    rpc_call_post_slot(call->server);
    atomic_fetch_add(&call->server->live, 1);
    list_add(call);
    call->arrived_us = clock_now_us();
    call->deadline_us = monotonic_us(call->asked.deadline);
    watch_close(call);
    esp_error error = {0};
    if (admit(call, &error) == ESP_OK) {
        call->admitted = !call->method->vital;
        if (call->admitted) atomic_fetch_add(&call->server->admitted, 1);
        await_message(call);
    } else {
        refuse(call, &error);
    }
    rpc_call_release(call);
}

void rpc_call_post_slot(rpc_server *server) {
    if (atomic_load(&server->closing)) return;
    rpc_call *call = mem_new(1, sizeof *call);
    call->server = server;
    atomic_init(&call->references, 1);
    grpc_call_details_init(&call->asked);
    grpc_metadata_array_init(&call->metadata);
    pthread_mutex_init(&call->lock, NULL);
    pthread_mutex_init(&call->events_lock, NULL);
    call->ending.sentence = grpc_empty_slice();
    call->ending.details = grpc_empty_slice();
    call->arrived = (rpc_tag){on_arrived, call};
    call->closed = (rpc_tag){on_closed, call};
    call->received = (rpc_tag){on_received, call};
    call->sent = (rpc_tag){on_sent, call};
    call->ended = (rpc_tag){on_ended, call};
    RPC_TAG_GOES(&call->arrived);
    grpc_call_error error =
        grpc_server_request_call(server->core, &call->core, &call->asked, &call->metadata,
                                 server->queue, server->queue, &call->arrived);
    if (error != GRPC_CALL_OK) rpc_call_release(call);
}
