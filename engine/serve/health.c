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

typedef struct watcher {
    health *health;
    rpc_call *call;
    bool known, sending, told;
    serving_status last;
    struct watcher *next, *previous;
} watcher;

struct health {
    pthread_mutex_t lock; /* everything; outer to the calls' own locks */
    bool serving, ending;
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

static bool is_known(const char *service) {
    return !*service || !strcmp(service, "espalier.v1.Inference");
}

/* ---- under the lock ---- */

static serving_status status_of(const health *h, bool known) {
    if (!known) return STATUS(SERVICE_UNKNOWN);
    return h->serving ? STATUS(SERVING) : STATUS(NOT_SERVING);
}

static void send_change(watcher *w) {
    serving_status now = status_of(w->health, w->known);
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

void health_set(health *h, bool serving) {
    pthread_mutex_lock(&h->lock);
    h->serving = serving;
    for (watcher *w = h->watchers; w; w = w->next)
        send_change(w);
    pthread_mutex_unlock(&h->lock);
}

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
    if (!is_known(asked->service)) {
        esp_error error = {0};
        (void)esp_fail_field(&error, ESP_NOT_FOUND, "service",
                             "service: not served here; wanted \"\" or \"espalier.v1.Inference\"");
        rpc_finish(call, NULL, &error);
        return;
    }
    answer.status = health_serving(h) ? STATUS(SERVING) : STATUS(NOT_SERVING);
    rpc_finish(call, &answer.base, NULL);
}

void health_watch(health *h, rpc_call *call, const ProtobufCMessage *message) {
    const Grpc__Health__V1__HealthCheckRequest *asked = (const void *)message;
    watcher *w = mem_new(1, sizeof *w);
    w->health = h;
    w->call = call;
    w->known = is_known(asked->service);
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
