/* tiny_nodes.h - an engine whose ranks are those of several processes, which here are groups of threads: the first is
 * the caller's, with rank 0; the others follow in threads of their own. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TINY_NODES_H
#define ESPALIER_TINY_NODES_H

#include <pthread.h>

#include "cluster/comm_local.h"
#include "tests/unit/tiny_engine.h"

enum { TINY_NODES_MAX = 4 };

/* As open_engine does in a process of followers. */
typedef struct tiny_node {
    model_config config;
    pthread_t thread;
    esp_code code;
    esp_error err;
} tiny_node;

typedef struct tiny_nodes {
    tiny_node of[TINY_NODES_MAX]; /* [count] but for the first */
    uint32_t count;
    float others_patience_seconds; /* of their ranks; 0: the config's */
} tiny_nodes;

static inline void *tiny_node_run(void *arg) {
    tiny_node *n = arg;
    engine *e = NULL;
    n->code = engine_open(&e, &n->config, NULL, NULL, &n->err);
    if (n->code == ESP_OK) n->code = engine_follow(e, &n->err);
    engine_close(e);
    return NULL;
}

/* `count` processes of `each` ranks; *all is zero but for the patience. */
static inline esp_code tiny_nodes_open(tiny_nodes *all, engine **out, model_config config,
                                       uint32_t count, uint32_t each, esp_error *err) {
    comm *between[COMM_RANKS_MAX];
    all->count = count;
    comm_local_open(between, count);
    if (!config.threads) config.threads = each;
    if (!config.rank_patience_seconds) config.rank_patience_seconds = HANG_SECONDS;
    config.local_ranks = each;
    config.closes_comm = true;
    for (uint32_t i = 1; i < count; i++) {
        tiny_node *n = &all->of[i];
        n->config = config;
        if (all->others_patience_seconds)
            n->config.rank_patience_seconds = all->others_patience_seconds;
        n->config.comm = between[i];
        ESP_ASSERT(pthread_create(&n->thread, NULL, tiny_node_run, n) == 0);
    }
    config.comm = between[0];
    return engine_open(out, &config, NULL, NULL, err);
}

/* After engine_close of the first one's. */
static inline void tiny_nodes_join(tiny_nodes *all) {
    for (uint32_t i = 1; i < all->count; i++)
        pthread_join(all->of[i].thread, NULL);
}

#endif
