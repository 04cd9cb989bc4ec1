/* cuda_step.h - what the ops of a step read besides matrices and buffers, staged in device memory.
 *
 *   | the batch | attention's plans | area: tables of adapters, other host arrays |
 *
 * Host arrays are written into pinned memory and copied behind the ops that were launched before, to an
 * address which depends on the counts of the batch alone: a graph finds the next step's where it found
 * its own. There are two pinned copies, used in turns, so that one can be written while the device still
 * reads the other; in device memory there is one, which the stream keeps in order.
 *
 * Thread  the device's owner. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CUDA_STEP_H
#define ESPALIER_CUDA_STEP_H

#include "kernels/cuda/cuda_device.h"

enum {
    STEP_KINDS_MAX = 4,        /* of attention in one model: with and without a window */
    STEP_AREA_BYTES = 4 << 20, /* at least */
    STEP_ALIGNMENT = 256,
    STEP_ARRAYS_MAX = 4, /* of one op */
};

/* How the ops of a step are taken. */
typedef enum step_mode {
    STEP_CALLED,   /* launched as they come */
    STEP_PADDED,   /* launched, but as they will be captured */
    STEP_CAPTURED, /* recorded; copies wait for step_send */
    STEP_WALKED,   /* not at all: the graph is there, and only tables of adapters are wanted */
} step_mode;

/* Attention's work for one kind of layers. */
typedef struct step_plan {
    cuda_attention_kind kind;
    uint64_t offset;
} step_plan;

typedef struct cuda_step {
    uint8_t *host[2];    /* pinned, `bytes` each */
    cudaEvent_t done[2]; /* the device has read it */
    uint32_t turn;
    uint8_t *there; /* device */
    uint64_t bytes;

    const step_batch *batch; /* the one that is staged; NULL outside of steps */
    step_mode mode;
    bool adapters;   /* kern_step.adapters; the next three of steps that are padded: */
    bool unfit;      /* something in it cannot be captured */
    uint32_t count;  /* of its tokens, when it is padded .. */
    uint32_t padded; /* .. to as many; else 0 */
    cuda_batch view;
    step_plan plans[STEP_KINDS_MAX];
    uint32_t plan_count;
    uint64_t plan_end;   /* what is staged before the area, .. */
    uint64_t area, used; /* .. where that begins, and what is used of all */
    uint32_t slots;      /* tables of adapters so far, in a padded step */
} cuda_step;

void step_open(kern_device *dev);
void step_close(kern_device *dev);
/* Room for all batches that are not larger. */
void step_reserve(kern_device *dev, const kern_reserve *most);

/* Stages a batch in the other pinned copy; padded: as a batch of so many sequences of one token each,
 * or 0. Copies it, unless the mode is one that waits for step_send. */
void step_stage(kern_device *dev, const step_batch *batch, uint32_t padded, step_mode mode);
/* Copies everything that was staged. */
void step_send(kern_device *dev);
/* The step is over. */
void step_leave(kern_device *dev);

/* The batch of an op, on the device; staged alone when no step is open. bytes: as step_make_room. */
const cuda_batch *step_batch_of(kern_device *dev, const step_batch *batch, uint64_t bytes);
/* An op begins that will stage arrays of so many bytes together: none then takes another's place. */
void step_make_room(kern_device *dev, uint64_t bytes);
/* A host array of an op, on the device: part of the batch, or copied now. NULL for NULL, and after
 * faults. */
const void *step_array(kern_device *dev, const void *host, uint64_t bytes);
/* The plan of attention of this kind; *host is where it was made, NULL in padded steps. */
const void *step_plan_of(kern_device *dev, const cuda_attention_kind *kind, const step_batch *batch,
                         const void **host);
/* A linear's table (cuda_lora_table); *host likewise. */
const void *step_table(kern_device *dev, const kern_lora_segment *segments, uint32_t count,
                       uint32_t tokens, const void **host);
/* How many tokens or rows an op over so many is launched for. */
uint32_t step_count(kern_device *dev, uint32_t count);
/* Whether nothing may be taken or waited for now; then the step is unfit, as this was asked. */
bool step_is_recorded(kern_device *dev);
/* Whether ops are to be launched at all. */
bool step_launches(const kern_device *dev);

#endif
