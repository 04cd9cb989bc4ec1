/* adapter_turns.c - the engine thread's side: who is moved to the device next, who holds what, whose
 * frames go. Allocates nothing, takes no lock. The states are drawn in adapters_inner.h. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/adapters/adapters_inner.h"

static void line_push(adapter_line *line, adapter *ad) {
    ad->next_in_line = NULL;
    *(line->tail ? &line->tail->next_in_line : &line->head) = ad;
    line->tail = ad;
}

static adapter *line_pop(adapter_line *line) {
    adapter *ad = line->head;
    line->head = ad->next_in_line;
    if (!line->head) line->tail = NULL;
    return ad;
}

static void line_remove(adapter_line *line, adapter *ad) {
    adapter *before = NULL, *at = line->head;
    for (; at != ad; at = at->next_in_line)
        before = at;
    *(before ? &before->next_in_line : &line->head) = ad->next_in_line;
    if (line->tail == ad) line->tail = before;
}

static bool is_pinned(const adapter *ad) {
    return atomic_load_explicit(&ad->pinned, memory_order_relaxed);
}

/* Somebody will use it. */
static bool is_asked_for(const adapter *ad) {
    return !ad->gone && (adapter_users(ad) > 0 || is_pinned(ad));
}

/* ---- into and out of the device ---- */

static void note_use(adapters *a, adapter *ad) {
    residency_note(&a->device_level, &ad->device_use, RESIDENCY_FROM_HOST, image_bytes(ad->image));
}

static void come_in(adapters *a, adapter *ad) {
    ad->turn = TURN_IN;
    ad->kept_until_us = a->now_us + KEPT_US;
    ad->in_index = a->in_count;
    a->in[a->in_count++] = ad;
    note_use(a, ad);
    atomic_fetch_add_explicit(&ad->loads, 1, memory_order_relaxed);
}

static void count_leased(adapters *a, uint32_t leased) {
    a->leased = leased;
    atomic_store_explicit(&a->leased_frames, leased, memory_order_relaxed);
}

/* Before anything else is said of its frames. */
static void leave_ranks(adapters *a, adapter *ad) {
    if (!a->options.comm) return;
    a->options.announce(a->options.arg);
    adapter_send_out(a->options.comm, ad->rank_id);
    a->ids[a->id_count++] = ad->rank_id;
}

static void leave_device(adapters *a, adapter *ad) {
    ad->turn = TURN_OUT;
    leave_ranks(a, ad);
    if (a->in_place) return;
    uint32_t frames = atomic_load_explicit(&ad->frame_count, memory_order_relaxed);
    sched_return(a->options.sched, frames, ad->frames);
    count_leased(a, a->leased - frames);
    atomic_store_explicit(&ad->on_device, false, memory_order_release);
}

static void evict(adapters *a, adapter *ad) {
    ESP_ASSERT(ad->turn == TURN_IN && ad->holds == 0);
    adapter *last = a->in[--a->in_count];
    a->in[ad->in_index] = last;
    last->in_index = ad->in_index;
    residency_leave(&a->device_level, &ad->device_use);
    leave_device(a, ad);
    atomic_fetch_add_explicit(&ad->evictions, 1, memory_order_relaxed);
    post_loader(a, ad, FOR_LOADER_OUT);
}

/* May it go for another one to come? Those who waited for it have it first, but not for ever: a sequence
 * that goes before them may wait for just these frames. */
static bool is_idle(const adapters *a, const adapter *ad) {
    if (ad->holds > 0 || is_pinned(ad)) return false;
    return adapter_users(ad) == 0 || a->now_us > ad->kept_until_us;
}

static adapter *least_idle(const adapters *a) {
    adapter *least = NULL;
    for (uint32_t i = 0; i < a->in_count; i++)
        if (is_idle(a, a->in[i]) &&
            (!least || a->in[i]->device_use.value < least->device_use.value))
            least = a->in[i];
    return least;
}

/* What a lease may count on: frames of idle adapters, which can go, and those that pinned ones have
 * besides the others' share. */
typedef struct lease_room {
    uint32_t idle, pinned;
} lease_room;

static lease_room look_for_room(const adapters *a) {
    lease_room room = {0};
    for (uint32_t i = 0; i < a->in_count; i++) {
        const adapter *ad = a->in[i];
        uint32_t frames = atomic_load_explicit(&ad->frame_count, memory_order_relaxed);
        if (is_pinned(ad)) room.pinned += frames;
        if (is_idle(a, ad)) room.idle += frames;
    }
    return room;
}

/* Evicts as many idle ones as a lease of count frames needs; none when all of them are not enough. */
static bool make_room(adapters *a, uint32_t count) {
    lease_room room = look_for_room(a);
    uint32_t most = a->frames_max + room.pinned;
    if (a->leased - room.idle + count > most || sched_leasable(a->options.sched, room.idle) < count)
        return false;
    while (a->leased + count > most || sched_leasable(a->options.sched, 0) < count)
        evict(a, least_idle(a));
    return true;
}

/* ---- the way in ---- */

static void want(adapters *a, adapter *ad) {
    if (ad->turn != TURN_OUT) return;
    ad->turn = TURN_WANTED;
    line_push(&a->wanted, ad);
}

static void settle_gone(adapters *a, adapter *ad) {
    if (!ad->gone) return;
    if (ad->turn == TURN_WANTED) {
        line_remove(&a->wanted, ad);
        ad->turn = TURN_OUT;
    }
    if (ad->turn == TURN_IN) evict(a, ad);
    if (ad->turn == TURN_OUT) post_loader(a, ad, FOR_LOADER_REAPED);
}

/* It is not moved after all. */
static void give_up(adapters *a, adapter *ad) {
    ad->turn = TURN_OUT;
    post_loader(a, ad, FOR_LOADER_OUT);
    settle_gone(a, ad);
}

static void ask_for_reads(adapters *a) {
    while (a->wanted.head && a->moving < MOVES_MAX) {
        adapter *ad = line_pop(&a->wanted);
        if (!is_asked_for(ad)) {
            give_up(a, ad);
            continue;
        }
        ad->turn = TURN_READING;
        a->moving++;
        post_loader(a, ad, FOR_LOADER_READ);
    }
}

/* First come, first served: a large one is not passed by small ones for ever. */
static void lease_frames(adapters *a) {
    while (a->leasing.head) {
        adapter *ad = a->leasing.head;
        uint32_t count = atomic_load_explicit(&ad->frame_count, memory_order_relaxed);
        if (!is_asked_for(ad)) {
            line_pop(&a->leasing);
            a->moving--;
            give_up(a, ad);
            continue;
        }
        if (!make_room(a, count) || !sched_lease(a->options.sched, count, ad->frames)) return;
        line_pop(&a->leasing);
        count_leased(a, a->leased + count);
        atomic_store_explicit(&ad->on_device, true, memory_order_release);
        ad->turn = TURN_COPYING;
        post_loader(a, ad, FOR_LOADER_COPY);
    }
}

/* ---- the other ranks ---- */

static void arrived(adapters *a, adapter *ad) {
    if (a->options.arrived) a->options.arrived(a->options.arg, ad);
}

/* This rank has it where it is computed with. */
static void is_here(adapters *a, adapter *ad) {
    if (a->options.comm) {
        ad->turn = TURN_SENDING;
        line_push(&a->sending, ad);
        return;
    }
    a->moving--;
    come_in(a, ad);
    arrived(a, ad);
}

static void begin_sending(adapters *a, adapter *ad) {
    ad->rank_id = a->ids[--a->id_count];
    a->sent = (adapter_sending){.comm = a->options.comm,
                                .image = ad->image,
                                .id = ad->rank_id,
                                .frame_bytes = a->frame_bytes,
                                .frames = a->in_place ? NULL : ad->frames,
                                .announce = a->options.announce,
                                .arg = a->options.arg};
}

/* All ranks have it. In place it stays home while it is in. */
static void end_sending(adapters *a, adapter *ad) {
    a->moving--;
    if (!a->in_place) post_loader(a, ad, FOR_LOADER_SENT);
    come_in(a, ad);
    arrived(a, ad);
    settle_gone(a, ad);
}

/* A rank has no room for it; the post of loader_fail does the rest. */
static void fail_sending(adapters *a, adapter *ad, const esp_error *why) {
    leave_device(a, ad);
    post_loader(a, ad, FOR_LOADER_OUT);
    loader_fail(a, ad, why);
}

/* Some of one adapter, then of the next: steps of those who run go between. */
static void send_some(adapters *a) {
    adapter *ad = a->sending.head;
    esp_error why = {0};
    bool done = false;
    if (!a->sent.image) begin_sending(a, ad);
    esp_code code = adapter_send_some(&a->sent, SEND_BYTES, &done, &why);
    if (code == ESP_OK && !done) return;
    line_pop(&a->sending);
    a->sent.image = NULL;
    if (code == ESP_OK)
        end_sending(a, ad);
    else
        fail_sending(a, ad, &why);
}

/* ---- what others have posted ---- */

static void image_is_ready(adapters *a, adapter *ad) {
    ESP_ASSERT(ad->turn == TURN_READING);
    if (a->in_place) {
        is_here(a, ad);
        return;
    }
    ad->turn = TURN_LEASING;
    line_push(&a->leasing, ad);
}

static void end_users(adapters *a, adapter *ad) {
    esp_error why = {0};
    adapter_error(ad, &why);
    if (a->options.end_users) a->options.end_users(a->options.arg, ad, &why);
}

static void take_post(adapters *a, adapter *ad, uint32_t bits) {
    if (bits & FOR_ENGINE_HOME) image_is_ready(a, ad);
    if (bits & FOR_ENGINE_FAILED) {
        a->moving--;
        ad->turn = TURN_OUT;
        arrived(a, ad);
    }
    if (bits & FOR_ENGINE_COPIED) is_here(a, ad);
    if (bits & FOR_ENGINE_PIN && is_asked_for(ad)) want(a, ad);
    if (bits & FOR_ENGINE_END) end_users(a, ad);
    if (bits & FOR_ENGINE_REAP) ad->gone = true;
    settle_gone(a, ad); /* the last: it may be freed at once */
}

void adapters_step(adapters *a, int64_t now_us) {
    a->now_us = now_us;
    for (adapter *ad; (ad = queue_pop(a->for_engine));)
        take_post(a, ad, atomic_exchange_explicit(&ad->for_engine, 0, memory_order_acq_rel));
    if (a->leasing.head) lease_frames(a);
    if (a->sending.head) send_some(a);
    if (a->sending.head && a->options.wake) a->options.wake(a->options.arg);
    if (a->wanted.head) ask_for_reads(a);
}

bool adapters_are_still(const adapters *a) {
    return !a->leasing.head && queue_count(a->for_engine) == 0;
}

/* ---- what the scheduler asks ---- */

static sched_turn hold(void *arg, void *what, int64_t now_us) {
    adapters *a = arg;
    adapter *ad = what;
    if (atomic_load_explicit(&ad->ended, memory_order_acquire)) return SCHED_NEVER;
    if (ad->turn == TURN_IN) {
        ad->holds++;
        ad->kept_until_us = now_us + KEPT_US;
        note_use(a, ad);
        atomic_store_explicit(&ad->last_use_us, now_us, memory_order_relaxed);
        return SCHED_HELD;
    }
    if (ad->turn == TURN_OUT && atomic_load_explicit(&ad->broken, memory_order_acquire))
        return SCHED_NEVER;
    want(a, ad);
    ask_for_reads(a);
    return SCHED_LATER;
}

static void want_early(void *arg, void *what) {
    adapters *a = arg;
    adapter *ad = what;
    bool never = atomic_load_explicit(&ad->ended, memory_order_relaxed) ||
                 atomic_load_explicit(&ad->broken, memory_order_relaxed);
    if (ad->turn != TURN_OUT || never) return;
    want(a, ad);
    ask_for_reads(a);
}

static void drop(void *arg, void *what) {
    (void)arg;
    adapter *ad = what;
    ESP_ASSERT(ad->turn == TURN_IN && ad->holds > 0);
    ad->holds--;
}

static sched_shed level_of(const adapter *ad) {
    return is_pinned(ad) ? SHED_PINNED : adapter_users(ad) > 0 ? SHED_WANTED : SHED_UNWANTED;
}

static bool shed(void *arg, sched_shed level, const void *but) {
    adapters *a = arg;
    adapter *least = NULL;
    for (uint32_t i = 0; i < a->in_count && !a->in_place; i++) {
        adapter *ad = a->in[i];
        if (ad == but || ad->holds > 0 || level_of(ad) > level) continue;
        if (!least || ad->device_use.value < least->device_use.value) least = ad;
    }
    if (least) evict(a, least);
    return least != NULL;
}

static uint32_t frames_of(void *arg, const void *what) {
    const adapters *a = arg;
    const adapter *ad = what;
    return a->in_place ? 0 : atomic_load_explicit(&ad->frame_count, memory_order_acquire);
}

static uint32_t pinned_frames(void *arg, const void *but) {
    const adapters *a = arg;
    if (a->in_place) return 0;
    uint32_t frames = atomic_load_explicit(&a->pinned_frames, memory_order_relaxed);
    uint32_t own = but && is_pinned(but) ? frames_of(arg, but) : 0;
    return frames > own ? frames - own : 0;
}

sched_adapters adapters_for_scheduler(adapters *a) {
    return (sched_adapters){.arg = a,
                            .hold = hold,
                            .drop = drop,
                            .want = want_early,
                            .shed = shed,
                            .frames = frames_of,
                            .pinned = pinned_frames};
}

const model_adapter *adapter_resident(const adapter *ad) {
    ESP_ASSERT(ad->image);
    return image_view(ad->image);
}

uint32_t adapter_rank_id(const adapter *ad) { return ad->rank_id; }

void turns_let_go(adapters *a, adapter *ad) {
    ESP_ASSERT(ad->holds == 0);
    if (!atomic_exchange(&ad->on_device, false)) return;
    sched_return(a->options.sched, atomic_load(&ad->frame_count), ad->frames);
}
