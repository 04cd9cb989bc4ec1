/* unload_wait.c - one list, one thread. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/unload_wait.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/queue.h"

enum { LOOK_US = 20000 };

/* From unload_wait to RPC_CLOSED. */
typedef struct waiter {
    unload_waits *all;
    rpc_call *call; /* held */
    char *reference;
    const ProtobufCMessage *answer;
    bool answered;
    struct waiter *next, *previous;
} waiter;

struct unload_waits {
    adapter_group *adapters;
    pthread_t thread;
    bool started;
    _Atomic bool stop;
    signal_word news;     /* one more waits, or stop */
    pthread_mutex_t lock; /* everything below */
    waiter *first;
};

bool adapter_is_named(const adapter_info *info, const char *reference) {
    size_t bytes = strcspn(reference, "@");
    if (strlen(info->name) != bytes || memcmp(info->name, reference, bytes) != 0) return false;
    if (!reference[bytes]) return true;
    const char *which = reference + bytes + 1;
    if (!strncmp(which, "sha256:", 7)) return !strncmp(info->digest, which, strlen(which));
    char version[16];
    snprintf(version, sizeof version, "%u", info->version);
    return !strcmp(version, which);
}

/* ---- the list; under its lock ---- */

static void add(unload_waits *all, waiter *w) {
    w->next = all->first;
    if (w->next) w->next->previous = w;
    all->first = w;
}

static void take_out(unload_waits *all, waiter *w) {
    if (w->previous)
        w->previous->next = w->next;
    else
        all->first = w->next;
    if (w->next) w->next->previous = w->previous;
}

/* Of those that are leaving lists show none but who have some. */
static bool has_users(const waiter *w, const adapter_info *infos, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (infos[i].state == ADAPTER_LEAVING && adapter_is_named(&infos[i], w->reference))
            return true;
    return false;
}

static bool any_waits(const unload_waits *all) {
    for (const waiter *w = all->first; w; w = w->next)
        if (!w->answered) return true;
    return false;
}

/* Answers those whose users have ended. */
static void answer_ready(unload_waits *all) {
    adapter_info *infos;
    size_t count;
    group_list(all->adapters, &infos, &count);
    for (waiter *w = all->first; w; w = w->next) {
        if (w->answered || has_users(w, infos, count)) continue;
        w->answered = true;
        rpc_finish(w->call, w->answer, NULL);
    }
    free(infos);
}

/* ---- the thread ---- */

static void *run(void *arg) {
    unload_waits *all = arg;
    while (!atomic_load(&all->stop)) {
        uint32_t seen = signal_seen(&all->news);
        pthread_mutex_lock(&all->lock);
        bool some = any_waits(all);
        if (some) answer_ready(all);
        pthread_mutex_unlock(&all->lock);
        signal_wait(&all->news, seen, some ? LOOK_US : -1);
    }
    return NULL;
}

/* ---- the door ---- */

esp_code unload_waits_open(unload_waits **out, adapter_group *from, esp_error *err) {
    unload_waits *all = mem_new(1, sizeof *all);
    *out = all;
    all->adapters = from;
    pthread_mutex_init(&all->lock, NULL);
    if (pthread_create(&all->thread, NULL, run, all))
        return esp_fail(err, ESP_EXHAUSTED,
                        "serve: cannot start a thread; raise the limit of threads");
    pthread_setname_np(all->thread, "unload-wait");
    all->started = true;
    return ESP_OK;
}

void unload_waits_close(unload_waits *all) {
    if (!all) return;
    atomic_store(&all->stop, true);
    signal_wake(&all->news);
    if (all->started) pthread_join(all->thread, NULL);
    ESP_ASSERT(!all->first);
    pthread_mutex_destroy(&all->lock);
    free(all);
}

static void drop(waiter *w) {
    pthread_mutex_lock(&w->all->lock);
    take_out(w->all, w);
    pthread_mutex_unlock(&w->all->lock);
    rpc_call_release(w->call);
    free(w->reference);
    free(w);
}

static void on_event(void *user, rpc_call *call, rpc_event event) {
    (void)call;
    if (event == RPC_CLOSED) drop(user);
}

void unload_wait(unload_waits *all, rpc_call *call, const char *reference,
                 const ProtobufCMessage *answer) {
    waiter *w = mem_new(1, sizeof *w);
    *w = (waiter){.all = all,
                  .call = call,
                  .reference = mem_copy_text(reference, strlen(reference)),
                  .answer = answer};
    rpc_call_hold(call);
    pthread_mutex_lock(&all->lock);
    add(all, w);
    answer_ready(all); /* mostly there is nobody to wait for */
    pthread_mutex_unlock(&all->lock);
    signal_wake(&all->news);
    if (!rpc_call_attach(call, on_event, w)) drop(w);
}
