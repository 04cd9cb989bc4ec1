/* adapter_send.h - an adapter's way from rank 0 to the other ranks of a replica, between its step batches.
 *
 *   rank 0   reads the files, packs every rank's part (adapter_image.h), decides who comes and goes
 *   others   hold what they were sent: tables, frames in their own arena under rank 0's numbers, whole matrices
 *
 *   TABLES   tables and places of the frames; all agree    -+
 *   FRAME    the used bytes of one frame, as often as        |  in this order, with steps between
 *   WHOLE    some of a whole matrix's rows, as often as      |
 *            it takes; the last: packed there; all agree    -+
 *   OUT      it is forgotten; its frames are another's from now on
 *
 * A message is announced by a step header (step_message.h), then it is a header to all, then to each rank its own
 * bytes. What rank 0 sends before a step is there when the step is computed, for all of it goes through the one order
 * of collectives (ranks.h). What goes between two steps is bounded, also of a whole matrix; what waits for it as one is
 * its packing, when all of it has come.
 *
 * Thread  the rank's. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ADAPTER_SEND_H
#define ESPALIER_ADAPTER_SEND_H

#include "cluster/comm.h"
#include "engine/adapters/adapter_image.h"

/* ---- rank 0 ---- */

/* What is sent of one adapter, item by item: tables, frames, whole matrices. */
typedef struct adapter_sending {
    comm *comm;
    adapter_image *image;        /* home until all is sent */
    uint32_t id;                 /* what the ranks call it, until OUT */
    size_t frame_bytes;          /* of the image */
    void (*announce)(void *arg); /* called before each message, so that the others listen */
    void *arg;
    const uint32_t *frames; /* places in the arena; NULL: there is none, the others take memory */
    uint32_t next;          /* item; 0 at first */
    uint64_t at;            /* bytes of it that all ranks who have so many have got; 0 at first */
} adapter_sending;

/* Sends items worth at least so many bytes, or all that are left. *done: there are none left. On an error, which
 * is another rank's, OUT must follow. */
ESP_CHECKED esp_code adapter_send_some(adapter_sending *s, uint64_t bytes, bool *done,
                                       esp_error *err);
void adapter_send_out(comm *c, uint32_t id); /* announced by the caller */

/* ---- the other ranks ---- */

typedef struct adapter_follower adapter_follower;
typedef struct follower_options {
    const kern_ops *ops;
    kern_device *dev;
    comm *comm;                     /* borrowed */
    const model *model;             /* borrowed: what comes is held against it */
    void *arena;
    size_t frame_bytes;
    uint32_t frame_count; /* of the arena */
    uint32_t ids_max;
} follower_options;

adapter_follower *adapter_follower_open(const follower_options *options);
/* After the last step. NULL is fine. */
void adapter_follower_close(adapter_follower *f);
/* Takes the message that rank 0 sends now. An error ends the replica; that one adapter has no room here is told
 * to rank 0, and none. */
ESP_CHECKED esp_code adapter_follower_take(adapter_follower *f, esp_error *err);
/* What forward reads; NULL: rank 0 sent none of this id. */
const model_adapter *adapter_follower_find(const adapter_follower *f, uint32_t id);

#endif
