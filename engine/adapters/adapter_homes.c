/* adapter_homes.c - adapters with packed memory of their own, as a heap: the least worth keeping first.
 * All of it under the lock. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/adapters/adapters_inner.h"

static void put(adapters *a, uint32_t at, adapter *ad) {
    a->homes[at] = ad;
    ad->home_at = at + 1;
}

/* Of two that are worth the same the one that was used before the other. */
static bool is_less(const adapter *x, const adapter *y) {
    if (x->host_use.value != y->host_use.value) return x->host_use.value < y->host_use.value;
    return x->home_used < y->home_used;
}

static void sift_up(adapters *a, uint32_t at, adapter *ad) {
    for (; at > 0 && is_less(ad, a->homes[(at - 1) / 2]); at = (at - 1) / 2)
        put(a, at, a->homes[(at - 1) / 2]);
    put(a, at, ad);
}

static void sift_down(adapters *a, uint32_t at, adapter *ad) {
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child + 1 < a->home_count && is_less(a->homes[child + 1], a->homes[child])) child++;
        if (child >= a->home_count || !is_less(a->homes[child], ad)) break;
        put(a, at, a->homes[child]);
        at = child;
    }
    put(a, at, ad);
}

void homes_note(adapters *a, adapter *ad) {
    residency_note(&a->host_level, &ad->host_use, RESIDENCY_FROM_DISK, ad->packed_bytes);
    ad->home_used = ++a->homes_used;
    if (!ad->home_at) {
        ESP_ASSERT(a->home_count < ADAPTERS_MAX);
        sift_up(a, a->home_count++, ad);
        return;
    }
    sift_down(a, ad->home_at - 1, ad); /* worth more than before */
}

void homes_leave(adapters *a, adapter *ad) {
    if (!ad->home_at) return;
    uint32_t at = ad->home_at - 1;
    adapter *last = a->homes[--a->home_count];
    if (last != ad) {
        sift_down(a, at, last);
        if (a->homes[at] == last) sift_up(a, at, last);
    }
    ad->home_at = 0;
}

/* Below one that may go nobody is worth less. */
static adapter *search(const adapters *a, uint32_t at, bool (*may_go)(const adapter *),
                       adapter *least) {
    if (at >= a->home_count || (least && !is_less(a->homes[at], least))) return least;
    if (may_go(a->homes[at])) return a->homes[at];
    least = search(a, 2 * at + 1, may_go, least);
    return search(a, 2 * at + 2, may_go, least);
}

adapter *homes_least(const adapters *a, bool (*may_go)(const adapter *)) {
    return search(a, 0, may_go, NULL);
}
