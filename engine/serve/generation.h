/* generation.h - running answers: tokens of the engine -> messages of a call.
 *
 * One stream thread waits for the engine's news. For each request that has some it turns new tokens
 * into text and sends; while a message of that call is under way the tokens gather and go out
 * together in the next one. When too many bytes gather the reader is cut. A call that ends,
 * however, cancels its request at once. The end of an answer is told by the stream thread alone, after
 * the request's place is free, the record of it taken and the answer counted.
 *
 *   made by the handler -- submit --> RUNNING --+-- request done --> last message, status
 *                                               +-- call closed ---> engine_cancel, request done
 *   References: the call's (until RPC_CLOSED) and the stream side's (until the request is done).
 *
 * Thread  generation_start: any. Lock order: the generation's lock > the call's own locks. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_GENERATION_H
#define ESPALIER_GENERATION_H

#include "engine/replicas.h"
#include "espalier/v1/inference.pb-c.h"
#include "proto/rpc.h"

typedef struct generations generations;

typedef struct generations_options {
    replicas *replicas;
    uint32_t unsent_bytes_max; /* beyond: the reader is cut */
    struct recorder *recorder; /* gets each request that ends; NULL: none */
    struct adapter_metrics *metrics; /* counts each request that ends; NULL: nobody counts */
} generations_options;

ESP_CHECKED esp_code generations_open(generations **out, const generations_options *options,
                                      esp_error *err);
/* From now on a cancelled request tells its client that the server is shutting down. */
void generations_drain(generations *all);
uint32_t generations_live(const generations *all);
/* Waits until none is live (the engine must still step, calls must be over), then stops the thread.
 */
void generations_close(generations *all);

/* Reads the request, submits it, and answers the call: errors too. */
void generation_start(generations *all, rpc_call *call, const Espalier__V1__GenerateRequest *in);

/* For the calls of another kind that wait for requests too (embedding.h): they count among those that
 * live, and the stream thread tells them of their news. */
engine *generations_engine(const generations *all); /* the first, which stands for all */
replicas *generations_replicas(const generations *all);
void generations_enter(generations *all);
void generations_leave(generations *all);
/* Of a request that is done, once, by the stream thread. */
void generations_count(const generations *all, const request *r);
/* What a client is told of a request that did not end well. */
void generations_explain(const generations *all, const request *r, esp_error *error);

#endif
