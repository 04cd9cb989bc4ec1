/* health.c - the watchers are a list; each has at most one message under way. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/health.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "grpc/health/v1/health.pb-c.h"

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus serving_status;
#define STATUS(name) GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__##name

typedef enum service { SERVICE_NONE, SERVICE_ANY_REPLICA, SERVICE_ALL_REPLICAS } service;

typedef struct watcher {
    health *health;
    rpc_call *call;
    service of;
    bool sending, told;
    serving_status last;
    struct watcher *next, *previous;
} watcher;

struct health {
    pthread_mutex_t lock; /* everything; outer to the calls' own locks */
    bool serving, whole, ending;
    watcher *watchers;
};

health *health_open(void) {
    health *h = mem_new(1, sizeof *h);
    pthread_mutex_init(&h->lock, NULL);
    return h;
}

void health_close(health *h) {
    if (!h) return;
    ESP_ASSERT(!h->watchers);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

static service service_of(const char *name) {
    if (!*name || !strcmp(name, "espalier.v1.Inference")) return SERVICE_ANY_REPLICA;
    return strcmp(name, "espalier.v1.Inference/replicas") ? SERVICE_NONE : SERVICE_ALL_REPLICAS;
}

/* ---- under the lock ---- */

static serving_status status_of(const health *h, service of) {
    if (of == SERVICE_NONE) return STATUS(SERVICE_UNKNOWN);
    bool good = h->serving && (of == SERVICE_ANY_REPLICA || h->whole);
    return good ? STATUS(SERVING) : STATUS(NOT_SERVING);
}

static void send_change(watcher *w) {
    serving_status now = status_of(w->health, w->of);
    if (w->sending || (w->told && now == w->last)) return;
    Grpc__Health__V1__HealthCheckResponse answer = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    answer.status = now;
    w->last = now;
    w->told = true;
    w->sending = rpc_send(w->call, &answer.base) > 0;
}

static void end_if_drained(watcher *w) {
    if (!w->health->ending || w->sending) return;
    esp_error error = {0};
    (void)esp_fail(&error, ESP_UNAVAILABLE, "the server is shutting down");
    rpc_finish(w->call, NULL, &error);
}

static void link_watcher(watcher *w) {
    w->next = w->health->watchers;
    if (w->next) w->next->previous = w;
    w->health->watchers = w;
}

static void unlink_watcher(watcher *w) {
    if (w->previous)
        w->previous->next = w->next;
    else
        w->health->watchers = w->next;
    if (w->next) w->next->previous = w->previous;
}

/* ---- events ---- */

static void on_event(void *user, rpc_call *call, rpc_event event) {
    watcher *w = user;
    health *h = w->health;
    pthread_mutex_lock(&h->lock);
    if (event == RPC_SENT) {
        w->sending = false;
        send_change(w);
        end_if_drained(w);
    } else {
        unlink_watcher(w);
    }
    pthread_mutex_unlock(&h->lock);
    if (event == RPC_CLOSED) {
        rpc_call_release(call);
        free(w);
    }
}

static void set(health *h, bool *what, bool now) {
    pthread_mutex_lock(&h->lock);
    *what = now;
    for (watcher *w = h->watchers; w; w = w->next)
        send_change(w);
    pthread_mutex_unlock(&h->lock);
}

void health_set(health *h, bool serving) { set(h, &h->serving, serving); }
void health_set_whole(health *h, bool whole) { set(h, &h->whole, whole); }

bool health_serving(health *h) {
    pthread_mutex_lock(&h->lock);
    bool serving = h->serving;
    pthread_mutex_unlock(&h->lock);
    return serving;
}

void health_end_watches(health *h) {
    pthread_mutex_lock(&h->lock);
    h->ending = true;
    for (watcher *w = h->watchers; w; w = w->next)
        end_if_drained(w);
    pthread_mutex_unlock(&h->lock);
}

void health_check(health *h, rpc_call *call, const ProtobufCMessage *message) {
    const Grpc__Health__V1__HealthCheckRequest *asked = (const void *)message;
    Grpc__Health__V1__HealthCheckResponse answer = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    service of = service_of(asked->service);
    if (of == SERVICE_NONE) {
        esp_error error = {0};
        (void)esp_fail_field(&error, ESP_NOT_FOUND, "service",
                             "service: not served here; wanted \"\", \"espalier.v1.Inference\" or "
                             "\"espalier.v1.Inference/replicas\"");
        rpc_finish(call, NULL, &error);
        return;
    }
    pthread_mutex_lock(&h->lock);
    answer.status = status_of(h, of);
    pthread_mutex_unlock(&h->lock);
    rpc_finish(call, &answer.base, NULL);
}

void health_watch(health *h, rpc_call *call, const ProtobufCMessage *message) {
    const Grpc__Health__V1__HealthCheckRequest *asked = (const void *)message;
    watcher *w = mem_new(1, sizeof *w);
    w->health = h;
    w->call = call;
    w->of = service_of(asked->service);
    /* Under the lock from here: the end of the call may be told before this returns. */
    pthread_mutex_lock(&h->lock);
    bool open = rpc_call_attach(call, on_event, w);
    if (open) {
        rpc_call_hold(call);
        link_watcher(w);
        send_change(w);
        end_if_drained(w);
    }
    pthread_mutex_unlock(&h->lock);
    if (!open) free(w);
}
