/* page_groups.c - layers dealt out to groups of equal size. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/page_groups.h"

#include "engine/base/status.h"
#include "kvcache/kvcache.h"

/* What decides: layers that see everything and layers that free pages, and the pages that a
 * sequence of context_max tokens has in a group of either kind. */
typedef struct group_question {
    uint32_t full, sliding;
    uint32_t full_pages, sliding_pages;
} group_question;

static uint32_t groups_for(uint32_t layers, uint32_t size) { return (layers + size - 1) / size; }

/* Layers a group so that a long sequence takes the least memory; of equals the most layers. 0: it
 * takes no less than when every layer keeps all its pages. */
static uint32_t choose_size(const group_question *q) {
    uint32_t total = q->full + q->sliding, best = 0;
    uint64_t least = (uint64_t)total * q->full_pages;
    for (uint32_t size = q->sliding ? total : 0; size >= 1; size--) {
        uint32_t full = groups_for(q->full, size), sliding = groups_for(q->sliding, size);
        uint64_t cost =
            (uint64_t)size * full * q->full_pages + (uint64_t)size * sliding * q->sliding_pages;
        if (full + sliding > KV_GROUPS_MAX || cost >= least) continue;
        least = cost;
        best = size;
    }
    return best;
}

static void keep_all_pages(page_groups *out, const model_spec *spec) {
    *out = (page_groups){.count = 1, .layers = spec->layers};
    for (uint32_t i = 0; i < spec->layers; i++)
        out->index_of[i] = (uint16_t)i;
}

/* The groups of layers that see everything come first. */
static void deal(page_groups *out, const model_spec *spec, const group_question *q, uint32_t size) {
    uint32_t full = 0, sliding = 0, first_sliding = groups_for(q->full, size);
    *out = (page_groups){.count = first_sliding + groups_for(q->sliding, size), .layers = size};
    for (uint32_t i = 0; i < spec->layers; i++) {
        uint32_t nth = spec->slides[i] ? sliding++ : full++;
        uint32_t group = (spec->slides[i] ? first_sliding : 0) + nth / size;
        out->group_of[i] = (uint16_t)group;
        out->index_of[i] = (uint16_t)(nth % size);
        out->windows[group] = spec->slides[i] ? spec->window : 0;
    }
}

void page_groups_plan(page_groups *out, const model_spec *spec, uint32_t context_max,
                      bool keep_all) {
    ESP_ASSERT(spec->layers >= 1 && spec->layers <= SPEC_LAYERS_MAX);
    group_question q = {.full_pages = kv_group_pages(0, 1, context_max),
                        .sliding_pages = kv_group_pages(spec->window, 1, context_max)};
    for (uint32_t i = 0; i < spec->layers; i++)
        *(spec->slides[i] ? &q.sliding : &q.full) += 1;
    uint32_t size = keep_all || spec->window == 0 ? 0 : choose_size(&q);
    if (size == 0)
        keep_all_pages(out, spec);
    else
        deal(out, spec, &q, size);
}
