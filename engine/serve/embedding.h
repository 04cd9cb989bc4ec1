/* embedding.h - Embed and Classify: one call, a request of the engine for each of its inputs, one answer.
 *
 *   made by the handler -- submit each --> WAITING --+-- the last request done --> answer, status
 *                                                    +-- call closed ---> engine_cancel of each
 *   References: the call's (until RPC_CLOSED) and one for each submitted request (until it is done).
 *
 * A classification is an embedding whose vector is the logits of the adapter's labels.
 *
 * Thread  embedding_start, classification_start: any (the second may wait for a disk); embedding_take_news: the stream thread. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_EMBEDDING_H
#define ESPALIER_EMBEDDING_H

#include "engine/serve/generation.h"

enum {
    EMBED_INPUTS_MAX = 256,
    EMBED_ANSWER_BYTES_MAX = (4 << 20) - 65536, /* clients take 4 MiB a message by default */
};

/* Reads the request, submits its inputs, and answers the call: errors too. */
void embedding_start(generations *all, rpc_call *call, const Espalier__V1__EmbedRequest *in);

void classification_start(generations *all, rpc_call *call,
                          const Espalier__V1__ClassifyRequest *in);

/* A request with an embedding_width has news. */
void embedding_take_news(request *r);

#endif
