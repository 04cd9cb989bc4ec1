/* ranks.h - the engines of a tensor parallel replica: rank 0's plans, samples and answers; the others have a
 * model, pages and a thread each, and compute every step batch that rank 0 sends.
 *
 *   engine_open of rank 0 --- ranks_start ---> a thread for each other rank: engine_open, engine_follow
 *          both: weights loaded, agree; pages of equal number taken, agree (engine.c, engine_memory.c)
 *   engine_step           --- adapters    ---> adapter_follower_take (adapters/adapter_send.h)
 *                         --- ranks_send  ---> forward and logits, in the same order of collectives
 *   engine_close          --- ranks_stop  ---> engine_follow returns, the thread ends
 *
 * A rank that fails aborts the collectives: rank 0's step fails with its sentence, and the engine breaks down.
 * Where ranks are processes (cluster/comm_mpi.h) each opens its engine itself and nothing is started here. Where
 * processes have several each (cluster/comm_nodes.h), the first of each starts the others of its own: it follows rank 0
 * as they do, or is rank 0. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_RANKS_H
#define ESPALIER_RANKS_H

#include "engine/engine.h"

typedef struct ranks ranks;

/* Starts the `here` ranks of this process but for the first, which calls this, as threads; config is its own with all
 * defaults resolved, and outlives them. *own is its end, closed by ranks_close. */
ESP_CHECKED esp_code ranks_start(ranks **out, const model_config *config, uint32_t here, comm **own,
                                 esp_error *err);
/* After ranks_stop, its arrival or an abort: waits for the threads, closes their engines. NULL is fine. */
void ranks_close(ranks *r);

/* Rank 0: what the others compute next; and that nothing comes any more. */
void ranks_send(engine *e, const step_batch *b);
void ranks_send_adapter(engine *e); /* a message about an adapter: the caller sends it */
void ranks_stop(engine *e);

#endif
