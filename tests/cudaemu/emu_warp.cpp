/* emu_warp.cpp - where the lanes of a mask meet. */
// SPDX-License-Identifier: Apache-2.0
#include "emu_warp.h"
#include "emu_sanitizers.h"

namespace cuemu {

/* The meeting that this call belongs to: same mask, operation and line. Opens it if need be. */
static Collective *meeting(Warp *warp, unsigned mask, Complete complete, Place place) {
    for (int i = 0; i < warp->pending_count; i++) {
        Collective *c = &warp->pending[i];
        if (c->mask == mask && c->complete == complete && c->line == place.line) return c;
    }
    if (warp->pending_count == COLLECTIVES_MAX) fail("too many divergent warp operations", place);
    Collective *c = &warp->pending[warp->pending_count++];
    c->mask = mask;
    c->complete = complete;
    c->arrived = 0;
    c->line = place.line;
    return c;
}

static void complete_meeting(Warp *warp, Collective *c, Fiber *self) {
    Collective now = *c;
    *c = warp->pending[--warp->pending_count];
    if (now.complete) now.complete(now.args, now.mask);
    for (int i = 0; i < LANES; i++)
        if ((now.mask >> i & 1) && i != self->lane) make_ready(self->warp * LANES + i);
    if (!processor.shuffled) return;
    make_ready(self->index); /* with a seed the last lane is not always the first to go on */
    run_next();
}

static void wait_in_meeting(Fiber *self, unsigned mask, const char *what, Place place) {
    self->wait = Wait::warp;
    self->place = place;
    self->what = what;
    self->mask = mask;
    run_next();
}

void warp_operation(unsigned mask, Complete complete, void *arg, const char *what, Place place,
                    bool ordered) {
    Fiber *self = processor.current;
    Warp *warp = &processor.warps[self->warp];
    unsigned bit = 1u << self->lane;
    processor.counts.warp_operations++;
    if (!(mask & bit)) fail("the calling lane is not in its own mask", place);
    Collective *c = meeting(warp, mask, complete, place);
    c->args[self->lane] = arg;
    c->arrived |= bit;
    unsigned generation = warp->generation;
    if (ordered) order_release(&warp->order[generation & 1]);
    if (c->arrived == mask) {
        if (ordered) warp->generation++;
        complete_meeting(warp, c, self);
    } else {
        wait_in_meeting(self, mask, what, place);
    }
    if (ordered) order_acquire(&warp->order[generation & 1]);
}

static Exchange *lane_of(void **lanes, int i) { return static_cast<Exchange *>(lanes[i]); }

/* The value of an absent lane is undefined on the device; here it is all ones. */
static uint64_t value_of(void **lanes, unsigned mask, int i) {
    return mask >> i & 1 ? lane_of(lanes, i)->value : ~0ull;
}

/* Each lane takes the value of lane source(own exchange, own index). */
template <class Source> static void shuffle(void **lanes, unsigned mask, Source source) {
    for (int i = 0; i < LANES; i++) {
        if (!(mask >> i & 1)) continue;
        Exchange *e = lane_of(lanes, i);
        e->result = value_of(lanes, mask, source(e, i));
    }
}

void shuffle_xor(void **lanes, unsigned mask) {
    shuffle(lanes, mask, [](const Exchange *e, int i) {
        int segment = ~(e->width - 1), j = i ^ e->operand;
        return j > LANES - 1 || (j & segment) > (i & segment) ? i : j;
    });
}

void shuffle_index(void **lanes, unsigned mask) {
    shuffle(lanes, mask, [](const Exchange *e, int i) {
        return (i & ~(e->width - 1)) | (e->operand & (e->width - 1));
    });
}

void shuffle_down(void **lanes, unsigned mask) {
    shuffle(lanes, mask, [](const Exchange *e, int i) {
        return (i & (e->width - 1)) + e->operand >= e->width ? i : i + e->operand;
    });
}

void shuffle_up(void **lanes, unsigned mask) {
    shuffle(lanes, mask, [](const Exchange *e, int i) {
        return (i & (e->width - 1)) < e->operand ? i : i - e->operand;
    });
}

static unsigned lanes_with(void **lanes, unsigned mask, uint64_t value) {
    unsigned bits = 0;
    for (int i = 0; i < LANES; i++)
        if ((mask >> i & 1) && lane_of(lanes, i)->value == value) bits |= 1u << i;
    return bits;
}

void vote_ballot(void **lanes, unsigned mask) {
    unsigned bits = lanes_with(lanes, mask, 1);
    for (int i = 0; i < LANES; i++)
        if (mask >> i & 1) lane_of(lanes, i)->result = bits;
}

void vote_match(void **lanes, unsigned mask) {
    for (int i = 0; i < LANES; i++)
        if (mask >> i & 1)
            lane_of(lanes, i)->result = lanes_with(lanes, mask, lane_of(lanes, i)->value);
}

template <Reduce op, class T> static T reduce_two(T a, T b) {
    switch (op) {
    case Reduce::add:
        return static_cast<T>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
    case Reduce::min:
        return b < a ? b : a;
    case Reduce::max:
        return b > a ? b : a;
    case Reduce::bit_and:
        return a & b;
    case Reduce::bit_or:
        return a | b;
    default:
        return a ^ b;
    }
}

template <Reduce op, class T> void reduce_lanes(void **lanes, unsigned mask) {
    T all{};
    bool first = true;
    for (int i = 0; i < LANES; i++) {
        if (!(mask >> i & 1)) continue;
        T value = static_cast<T>(lane_of(lanes, i)->value);
        all = first ? value : reduce_two<op, T>(all, value);
        first = false;
    }
    for (int i = 0; i < LANES; i++)
        if (mask >> i & 1) lane_of(lanes, i)->result = static_cast<uint32_t>(all);
}

template void reduce_lanes<Reduce::add, unsigned>(void **, unsigned);
template void reduce_lanes<Reduce::add, int>(void **, unsigned);
template void reduce_lanes<Reduce::min, unsigned>(void **, unsigned);
template void reduce_lanes<Reduce::min, int>(void **, unsigned);
template void reduce_lanes<Reduce::max, unsigned>(void **, unsigned);
template void reduce_lanes<Reduce::max, int>(void **, unsigned);
template void reduce_lanes<Reduce::bit_and, unsigned>(void **, unsigned);
template void reduce_lanes<Reduce::bit_or, unsigned>(void **, unsigned);
template void reduce_lanes<Reduce::bit_xor, unsigned>(void **, unsigned);

} // namespace cuemu
