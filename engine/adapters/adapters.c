/* adapters.c - opens and closes residency; posts between its threads; references. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/adapters/adapters.h"

#include <stdlib.h>

#include "engine/adapters/adapters_inner.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"

/* Frames of images that are used where they lie. */
enum { IN_PLACE_FRAME_BYTES = 1 << 20, IN_PLACE_FRAMES_MAX = 1 << 16 };

/* ---- open and close ---- */

/* An arena of frames that are too small for a piece is none. */
static void choose_frames(adapters *a) {
    const adapters_options *o = &a->options;
    a->in_place = !o->sched || o->frame_bytes < LORA_PIECE_MIN;
    a->frame_bytes = a->in_place ? IN_PLACE_FRAME_BYTES : o->frame_bytes;
    a->frames_max = a->in_place ? IN_PLACE_FRAMES_MAX : o->frame_count / 2;
}

static void make_ids(adapters *a) {
    a->ids = mem_new(ADAPTERS_MAX, sizeof *a->ids);
    for (uint32_t id = ADAPTERS_MAX; id > 0; id--)
        a->ids[a->id_count++] = id - 1;
}

esp_code adapters_open(adapters **out, const adapters_options *options, esp_error *err) {
    ESP_ASSERT(out && options && (options->base || (options->reader && options->layers)));
    adapters *a = mem_new(1, sizeof *a);
    a->options = *options;
    a->layers = options->base ? options->base->spec.layers : options->layers;
    a->vocab = options->base ? options->base->spec.vocab : 0;
    choose_frames(a);
    pthread_mutex_init(&a->lock, NULL);
    pthread_mutex_init(&a->why_lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&a->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    a->for_loader = queue_open(ADAPTERS_MAX);
    a->for_engine = queue_open(ADAPTERS_MAX);
    a->in = mem_new(ADAPTERS_MAX, sizeof *a->in);
    a->homes = mem_new(ADAPTERS_MAX, sizeof *a->homes);
    if (options->comm) make_ids(a);
    a->reader = options->reader;
    if (!a->reader) {
        a->files =
            file_reader_open(&(file_reader_options){.base = options->base,
                                                    .tok = options->tok,
                                                    .allow_other_base = options->allow_other_base,
                                                    .ops = options->ops,
                                                    .device = options->device,
                                                    .shards = options->shards});
        a->reader = file_reader_door(a->files);
    }
    esp_code code = options->by_hand ? ESP_OK : loader_start(a, err);
    if (code != ESP_OK) {
        adapters_close(a);
        a = NULL;
    }
    *out = a;
    return code;
}

static void close_named(adapters *a, adapter_entry *entry) {
    while (entry->versions) {
        adapter *ad = entry->versions;
        entry->versions = ad->next_version;
        ad->next_version = a->unnamed;
        a->unnamed = ad;
    }
    free(entry);
}

static void close_all(adapters *a) {
    for (uint32_t i = 0; i < NAME_BUCKETS; i++)
        while (a->names[i]) {
            adapter_entry *entry = a->names[i];
            a->names[i] = entry->next;
            close_named(a, entry);
        }
    while (a->unnamed) {
        turns_let_go(a, a->unnamed);
        adapter_free(a, a->unnamed);
    }
}

void adapters_close(adapters *a) {
    if (!a) return;
    loader_stop(a);
    close_all(a);
    ESP_ASSERT(atomic_load(&a->host_bytes) == 0);
    file_reader_close(a->files);
    queue_close(a->for_loader);
    queue_close(a->for_engine);
    free(a->in);
    free(a->homes);
    free(a->ids);
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
    pthread_mutex_destroy(&a->why_lock);
    free(a);
}

/* ---- posts ---- */

/* An adapter stands in a queue at most once, so that the queue never is full. */
static bool post(queue *to, _Atomic uint32_t *bits, uint32_t more, adapter *ad) {
    if (atomic_fetch_or_explicit(bits, more, memory_order_acq_rel) != 0) return false;
    bool pushed = queue_push(to, ad);
    ESP_ASSERT(pushed);
    return true;
}

void post_loader(adapters *a, adapter *ad, uint32_t bits) {
    if (post(a->for_loader, &ad->for_loader, bits, ad)) signal_wake(&a->loader_signal);
}

void post_engine(adapters *a, adapter *ad, uint32_t bits) {
    if (post(a->for_engine, &ad->for_engine, bits, ad) && a->options.wake)
        a->options.wake(a->options.arg);
}

/* ---- references ---- */

void give_reference(adapter *ad) {
    uint32_t before = atomic_fetch_add_explicit(&ad->users, 1, memory_order_acq_rel);
    ESP_ASSERT(!(before & USERS_LEAVING));
}

/* Nothing of it is touched after the count went down, but by the last user of one that is leaving, who
 * alone asks for its end. */
void adapter_release(adapters *a, adapter *ad) {
    if (!ad) return;
    uint32_t before = atomic_fetch_sub_explicit(&ad->users, 1, memory_order_acq_rel);
    ESP_ASSERT((before & ~USERS_LEAVING) > 0);
    if (before == (USERS_LEAVING | 1)) post_loader(a, ad, FOR_LOADER_REAP);
}

void adapter_unpin(adapters *a, adapter *ad) {
    if (atomic_exchange(&ad->pinned, false)) atomic_fetch_sub(&a->pinned_frames, ad->frame_count);
}

void adapter_leave(adapters *a, adapter *ad) {
    adapter_entry *entry = ad->entry;
    uint32_t before = atomic_fetch_or_explicit(&ad->users, USERS_LEAVING, memory_order_acq_rel);
    if (before & USERS_LEAVING) return;
    adapter_unpin(a, ad);
    if (entry->current == ad) {
        entry->current = NULL;
        for (adapter *v = entry->versions; v && !entry->current; v = v->next_version)
            if (!adapter_is_leaving(v)) entry->current = v;
    }
    if (before == 0) post_loader(a, ad, FOR_LOADER_REAP);
}

/* ---- what cannot be had ---- */

/* Of two who fail at once one says why, and the other finds it said. */
static void say_why(adapter *ad, const esp_error *why) {
    bool unsound = why->code == ESP_INVALID || why->code == ESP_NOT_FOUND;
    if (adapter_is_broken(ad)) return;
    ad->error = *why;
    if (unsound) ad->error.code = ESP_PRECONDITION;
    ad->broken_us = clock_now_us();
    atomic_store_explicit(&ad->broken, true, memory_order_release);
}

void adapter_break(adapters *a, adapter *ad, const esp_error *why) {
    atomic_fetch_add_explicit(&a->failures, 1, memory_order_relaxed);
    log_event(LOG_WARN, "adapter_failed", "adapter=\"%s\" version=%u reason=\"%s\"", ad->name,
              ad->version, why->message);
    pthread_mutex_lock(&a->why_lock);
    say_why(ad, why);
    pthread_mutex_unlock(&a->why_lock);
}
