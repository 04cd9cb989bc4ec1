/* page_groups.h - which page group holds a layer's keys and values.
 *
 * A page is one frame of the arena, so all groups have equally many layers; each group has layers of
 * one kind: they see everything, or they see the same window and free what it has left behind. The
 * last group of a kind may have room for layers that are not there.
 *
 *   Gemma 3 270M, 18 layers, every 6th sees all:  3 layers a page; 1 group sees all, 5 a window */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_PAGE_GROUPS_H
#define ESPALIER_MODEL_PAGE_GROUPS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/batch.h"
#include "engine/model/spec.h"

typedef struct page_groups {
    uint32_t count;                     /* groups, 1..KV_GROUPS_MAX */
    uint32_t layers;                    /* layers of each, the last of a kind maybe padded */
    uint32_t windows[KV_GROUPS_MAX];    /* tokens that the group's layers see; 0: all */
    uint16_t group_of[SPEC_LAYERS_MAX]; /* of each of the model's layers */
    uint16_t index_of[SPEC_LAYERS_MAX]; /* its place inside the group */
} page_groups;

/* The groups with which a sequence of context_max tokens takes the least memory, padding counted;
 * one group, in which nothing is freed, when that is as good (no window is shorter than context_max)
 * or with keep_all. */
void page_groups_plan(page_groups *out, const model_spec *spec, uint32_t context_max,
                      bool keep_all);

#endif
