/* gpu_groups.c - a search over ways to fill the places of all groups, that leaves a way as soon as it cannot
 * become better than the best one so far.
 *
 * Each way is looked at once: a group's devices ascend, and so do the first ones of the groups. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/gpu_groups.h"

#include <string.h>

#include "engine/base/status.h"

enum { LOOKS_MAX = 200000 };

typedef struct cost {
    uint32_t worst; /* of all links inside groups */
    uint64_t sum;
} cost;

typedef struct search {
    const gpu_groups_options *o;
    uint32_t places;                     /* of all groups */
    uint32_t least_link;                 /* no link is better */
    uint64_t taken;                      /* a bit a device */
    uint32_t at[GPU_GROUPS_DEVICES_MAX]; /* [places] */
    uint32_t best[GPU_GROUPS_DEVICES_MAX];
    cost best_cost;
    bool found;
    uint32_t looks;
} search;

static uint32_t link(const search *s, uint32_t a, uint32_t b) {
    uint32_t there = s->o->links[a * s->o->device_count + b];
    uint32_t back = s->o->links[b * s->o->device_count + a];
    return there > back ? there : back;
}

/* Links of group members that are not placed yet, by number. */
static uint64_t links_to_come(const search *s, uint32_t place) {
    uint64_t size = s->o->group_size, whole = s->o->group_count * (size * (size - 1) / 2);
    uint64_t groups = place / size, inside = place % size;
    return whole - groups * (size * (size - 1) / 2) - (inside ? inside * (inside - 1) / 2 : 0);
}

static bool can_be_better(const search *s, uint32_t place, cost so_far) {
    if (!s->found) return true;
    uint64_t to_come = links_to_come(s, place);
    if (to_come && so_far.worst < s->least_link) so_far.worst = s->least_link;
    if (so_far.worst != s->best_cost.worst) return so_far.worst < s->best_cost.worst;
    return so_far.sum + to_come * s->least_link < s->best_cost.sum;
}

/* The lowest device that may stand in a place. */
static uint32_t lowest(const search *s, uint32_t place) {
    uint32_t size = s->o->group_size;
    if (place % size) return s->at[place - 1] + 1;
    return place ? s->at[place - size] + 1 : s->o->first;
}

static cost cost_with(const search *s, uint32_t place, uint32_t device, cost so_far) {
    for (uint32_t p = place - place % s->o->group_size; p < place; p++) {
        uint32_t one = link(s, s->at[p], device);
        so_far.sum += one;
        if (one > so_far.worst) so_far.worst = one;
    }
    return so_far;
}

static void keep(search *s, cost found) {
    memcpy(s->best, s->at, s->places * sizeof *s->at);
    s->best_cost = found;
    s->found = true;
}

/* A place deeper each time. */
static void fill(search *s, uint32_t place, cost so_far) {
    if (!can_be_better(s, place, so_far)) return;
    if (place == s->places) {
        keep(s, so_far);
        return;
    }
    for (uint32_t d = lowest(s, place); d < s->o->device_count; d++) {
        if (s->taken >> d & 1) continue;
        if (s->found && ++s->looks > LOOKS_MAX) return;
        s->at[place] = d;
        s->taken |= 1ull << d;
        fill(s, place + 1, cost_with(s, place, d, so_far));
        s->taken &= ~(1ull << d);
    }
}

static uint32_t least_link(const search *s) {
    uint32_t least = UINT32_MAX;
    for (uint32_t a = s->o->first; a < s->o->device_count; a++)
        for (uint32_t b = a + 1; b < s->o->device_count; b++)
            if (link(s, a, b) < least) least = link(s, a, b);
    return least;
}

bool gpu_groups_choose(const gpu_groups_options *o, uint32_t *out) {
    ESP_ASSERT(o->device_count <= GPU_GROUPS_DEVICES_MAX && o->group_size && o->group_count);
    uint64_t places = (uint64_t)o->group_size * o->group_count;
    if (o->first > o->device_count || places > o->device_count - o->first) return false;
    search s = {.o = o, .places = (uint32_t)places};
    s.least_link = least_link(&s);
    fill(&s, 0, (cost){0});
    ESP_ASSERT(s.found);
    memcpy(out, s.best, s.places * sizeof *out);
    return true;
}
