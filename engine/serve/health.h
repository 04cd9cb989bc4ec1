/* health.h - grpc.health.v1: SERVING or not, asked once or watched.
 *
 *   "", "espalier.v1.Inference"       requests are taken
 *   "espalier.v1.Inference/replicas"  ... by all replicas
 *
 * The main thread says how things are (health_set); watchers are told of each change.
 *
 * Thread  any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_HEALTH_H
#define ESPALIER_HEALTH_H

#include <stdbool.h>

#include "proto/rpc.h"

typedef struct health health;

health *health_open(void);    /* not serving */
void health_close(health *h); /* no call may live; NULL is fine */
void health_set(health *h, bool serving);
void health_set_whole(health *h, bool whole); /* all replicas are up */
bool health_serving(health *h);
/* Ends all watches, and new ones at once: a watch never ends by itself, so the drain would wait for
 * it. */
void health_end_watches(health *h);

void health_check(health *h, rpc_call *call, const ProtobufCMessage *message);
void health_watch(health *h, rpc_call *call, const ProtobufCMessage *message);

#endif
