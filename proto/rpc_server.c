/* rpc_server.c - listener, pollers, workers, and the way down.
 *
 * Pollers wait on one completion queue and run what completed. Workers take the requests whose
 * handling is long (tokenising), so that health and cancels are never behind them. Each quarter of
 * a second one poller sweeps the live calls for those that let us wait too long. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "proto/rpc_parts.h"

enum {
    QUOTA_BYTES = 256 << 20, /* read and write buffers of all connections */
    METADATA_BYTES_MAX =
        64 << 10, /* below it this core's header tables go out of step and kill connections */
    STREAMS_A_CONNECTION = 1024,
    KEEPALIVE_MS = 30000,
    KEEPALIVE_TIMEOUT_MS = 10000,
    PING_EVERY_MS_MIN = 5000,
    HANDSHAKE_MS = 5000,
    SWEEP_BATCH = 64,
    POLL_MS = 250,
    WAIT_US = 10000,
};

/* ---- threads ---- */

/* Cuts the calls whose time has passed; a batch at a time, outside the lock. */
static void sweep(rpc_server *server, int64_t now_us) {
    rpc_call *late[SWEEP_BATCH];
    uint32_t count = 0;
    pthread_mutex_lock(&server->calls_lock);
    for (rpc_call *call = server->calls; call && count < SWEEP_BATCH; call = call->next) {
        int64_t cut_us = atomic_load(&call->cut_us);
        if (!cut_us || now_us < cut_us || !rpc_call_hold_if_alive(call)) continue;
        atomic_store(&call->cut_us, 0);
        late[count++] = call;
    }
    pthread_mutex_unlock(&server->calls_lock);
    for (uint32_t i = 0; i < count; i++) {
        rpc_call_expire(late[i]);
        rpc_call_release(late[i]);
    }
}

static void sweep_if_due(rpc_server *server) {
    int64_t now_us = clock_now_us(), due_us = atomic_load(&server->next_sweep_us);
    if (now_us >= due_us &&
        atomic_compare_exchange_strong(&server->next_sweep_us, &due_us, now_us + RPC_SWEEP_US))
        sweep(server, now_us);
}

/* Runs one completion if there is one in time; false once the queue is shut and empty. */
static bool poll_once(rpc_server *server) {
    grpc_event event = grpc_completion_queue_next(server->queue, rpc_time_in(POLL_MS), NULL);
    if (event.type == GRPC_QUEUE_SHUTDOWN) return false;
    if (event.type == GRPC_OP_COMPLETE) {
        rpc_tag *tag = event.tag;
        RPC_TAG_CAME(tag);
        tag->done(tag->owner, event.success != 0);
    }
    return true;
}

static void *poll_calls(void *arg) {
    rpc_server *server = arg;
    while (poll_once(server))
        sweep_if_due(server);
    return NULL;
}

/* The first worker never takes bulk work, so that a pile of it delays no generation. */
static rpc_call *next_work(rpc_server *server, bool bulk_too) {
    rpc_call *call = queue_pop(server->work);
    return call || !bulk_too ? call : queue_pop(server->bulk);
}

static void *work_calls(void *arg) {
    rpc_server *server = arg;
    bool bulk_too = atomic_fetch_add(&server->workers_begun, 1) > 0 || server->options.workers == 1;
    for (;;) {
        uint32_t seen = signal_seen(&server->work_signal);
        rpc_call *call = next_work(server, bulk_too);
        if (call)
            rpc_call_work(call);
        else if (atomic_load(&server->workers_stop))
            return NULL;
        else
            signal_wait(&server->work_signal, seen, -1);
    }
}

static bool start_threads(pthread_t *threads, uint32_t *count, uint32_t wanted, const char *name,
                          void *(*run)(void *), rpc_server *server) {
    for (; *count < wanted; ++*count) {
        if (pthread_create(&threads[*count], NULL, run, server)) return false;
        pthread_setname_np(threads[*count], name);
    }
    return true;
}

static void join_threads(pthread_t *threads, uint32_t *count) {
    while (*count > 0)
        pthread_join(threads[--*count], NULL);
}

/* ---- open ---- */

static grpc_arg integer(const char *key, int value) {
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

static grpc_server *make_core(const rpc_options *o) {
    grpc_resource_quota *quota = grpc_resource_quota_create("rpc");
    grpc_resource_quota_resize(quota, QUOTA_BYTES);
    grpc_arg args[] = {
        integer(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)o->message_bytes_max),
        integer(GRPC_ARG_MAX_METADATA_SIZE, METADATA_BYTES_MAX),
        integer(GRPC_ARG_MAX_CONCURRENT_STREAMS, STREAMS_A_CONNECTION),
        integer(GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_MS),
        integer(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_TIMEOUT_MS),
        integer(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        integer(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, PING_EVERY_MS_MIN),
        integer(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, HANDSHAKE_MS),
        /* The window stays small: a token stream whose reader stops is felt after kilobytes, not
           megabytes. */
        integer(GRPC_ARG_HTTP2_BDP_PROBE, 0),
        integer(GRPC_ARG_ALLOW_REUSEPORT, 0),
        integer(GRPC_ARG_ENABLE_CHANNELZ, 0),
        {.type = GRPC_ARG_POINTER,
         .key = (char *)GRPC_ARG_RESOURCE_QUOTA,
         .value.pointer = {.p = quota, .vtable = grpc_resource_quota_arg_vtable()}},
    };
    grpc_channel_args all = {.num_args = sizeof args / sizeof *args, .args = args};
    grpc_server *core = grpc_server_create(&all, NULL);
    grpc_resource_quota_unref(quota);
    return core;
}

static void fill_defaults(rpc_options *o) {
    if (!o->flag) o->flag = "--grpc";
    if (!o->calls_max) o->calls_max = 2048;
    if (!o->message_bytes_max) o->message_bytes_max = 4 << 20;
    if (!o->message_ms) o->message_ms = 10000;
    if (!o->stall_ms) o->stall_ms = 60000;
    if (!o->workers) o->workers = 2;
    if (o->workers > RPC_WORKERS_MAX) o->workers = RPC_WORKERS_MAX;
}

static void on_closed(void *owner, bool ok) {
    (void)ok;
    rpc_server *server = owner;
    atomic_store(&server->core_closed, true);
    signal_wake(&server->ended);
}

static esp_code bind_address(rpc_server *server, esp_error *err) {
    grpc_server_credentials *credentials = NULL;
    esp_code code = rpc_server_credentials(&credentials, &server->options.tls, err);
    if (code != ESP_OK) return code;
    int port = grpc_server_add_http2_port(server->core, server->options.address, credentials);
    grpc_server_credentials_release(credentials);
    if (port <= 0)
        return esp_fail_field(err, ESP_UNAVAILABLE, server->options.flag,
                              "%s: cannot listen on %s: the port is in use or the address is not "
                              "this host's",
                              server->options.flag, server->options.address);
    server->port = (uint16_t)port;
    return ESP_OK;
}

esp_code rpc_server_open(rpc_server **out, const rpc_options *options, esp_error *err) {
    ESP_ASSERT(out && options && options->address);
    ESP_ASSERT(options->method_count <= RPC_METHODS_MAX);
    rpc_core_up();
    rpc_server *server = mem_new(1, sizeof *server);
    server->options = *options;
    fill_defaults(&server->options);
    server->closed = (rpc_tag){on_closed, server};
    pthread_mutex_init(&server->calls_lock, NULL);
    server->work = queue_open(RPC_WORK_MAX);
    server->bulk = queue_open(RPC_BULK_MAX);
    server->core = make_core(&server->options);
    server->queue = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(server->core, server->queue, NULL);
    esp_code code = bind_address(server, err);
    if (code != ESP_OK) {
        rpc_server_close(server);
        server = NULL;
    }
    *out = server;
    return code;
}

esp_code rpc_server_start(rpc_server *server, esp_error *err) {
    ESP_ASSERT(!server->started);
    grpc_server_start(server->core);
    server->started = true;
    for (uint32_t i = 0; i < RPC_SLOTS; i++)
        rpc_call_post_slot(server);
    if (!start_threads(server->pollers, &server->poller_count, RPC_POLLERS, "rpc-poll", poll_calls,
                       server) ||
        !start_threads(server->workers, &server->worker_count, server->options.workers, "rpc-work",
                       work_calls, server))
        return esp_fail(err, ESP_EXHAUSTED,
                        "rpc: cannot start a thread; raise the limit of threads");
    return ESP_OK;
}

uint16_t rpc_server_port(const rpc_server *server) { return server->port; }
uint32_t rpc_server_calls(const rpc_server *server) { return atomic_load(&server->live); }

/* ---- the way down ---- */

void rpc_server_drain(rpc_server *server) { atomic_store(&server->draining, true); }

bool rpc_server_wait_drained(rpc_server *server, int64_t timeout_us) {
    ESP_ASSERT(atomic_load(&server->draining));
    int64_t until_us = clock_now_us() + timeout_us;
    for (;;) {
        uint32_t seen = signal_seen(&server->ended);
        if (atomic_load(&server->admitted) == 0) return true;
        int64_t left_us = until_us - clock_now_us();
        if (timeout_us >= 0 && left_us <= 0) return false;
        signal_wait(&server->ended, seen, timeout_us < 0 ? -1 : left_us);
    }
}

/* From here on the core gives posted slots back and cancels calls that still arrive. */
static void close_core(rpc_server *server) {
    rpc_server_drain(server);
    if (atomic_exchange(&server->closing, true)) return;
    RPC_TAG_GOES(&server->closed);
    grpc_server_shutdown_and_notify(server->core, server->queue, &server->closed);
}

void rpc_server_cancel_all(rpc_server *server) {
    close_core(server);
    grpc_server_cancel_all_calls(server->core);
}

static void stop_workers(rpc_server *server) {
    atomic_store(&server->workers_stop, true);
    signal_wake(&server->work_signal);
    join_threads(server->workers, &server->worker_count);
}

/* Until the core has let go of its calls and we of ours; workers still empty their queues. Also when start
 * failed half-way: with no worker or poller this thread does their part. */
static void wait_core(rpc_server *server) {
    for (;;) {
        for (rpc_call *call; !server->worker_count && (call = next_work(server, true));)
            rpc_call_release(call);
        uint32_t seen = signal_seen(&server->ended);
        if (atomic_load(&server->core_closed) && rpc_server_calls(server) == 0) return;
        if (server->poller_count)
            signal_wait(&server->ended, seen, WAIT_US);
        else
            poll_once(server);
    }
}

void rpc_server_close(rpc_server *server) {
    if (!server) return;
    rpc_server_cancel_all(server);
    /* A completion may still hand a call to the workers, so they go last. */
    wait_core(server);
    stop_workers(server);
    grpc_completion_queue_shutdown(server->queue);
    join_threads(server->pollers, &server->poller_count);
    while (poll_once(server)) /* what a poller that never started left */
        ;
    grpc_server_destroy(server->core);
    grpc_completion_queue_destroy(server->queue);
    queue_close(server->work);
    queue_close(server->bulk);
    pthread_mutex_destroy(&server->calls_lock);
    free(server);
    rpc_core_down();
}
