/* adapter_message.h - the header of a message about an adapter, as it goes to all ranks; shared by adapter_send.c and
 * adapter_follower.c. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ADAPTER_MESSAGE_H
#define ESPALIER_ADAPTER_MESSAGE_H

#include "cluster/comm.h"

typedef enum adapter_message_kind {
    ADAPTER_TABLES = 1,
    ADAPTER_FRAME,
    ADAPTER_WHOLE,
    ADAPTER_OUT
} adapter_message_kind;

typedef struct adapter_message {
    uint32_t kind, id;
    uint32_t places;      /* TABLES: that follow the tables, as uint32_t; 0: there is no arena */
    uint32_t index;       /* FRAME: which; WHOLE: which */
    uint32_t dtype, cols; /* WHOLE */
    uint64_t frame_bytes; /* TABLES */
    uint64_t at; /* WHOLE: the chunk of each rank's rows that begins there, if it has so many */
    uint64_t bytes[COMM_RANKS_MAX]; /* of each rank's part; WHOLE: of all its rows */
} adapter_message;

enum {
    ADAPTER_MESSAGE_CHUNK = 8 << 20,     /* of one exchange, and of a WHOLE; a multiple of 64 */
    ADAPTER_PACK_PATIENCE_US = 60000000, /* for ranks that pack a whole matrix */
};

/* What all ranks say of a whole matrix, for which one may take longer than for a step. */
ESP_CHECKED static inline esp_code adapter_message_agree(comm *c, esp_code code, esp_error *err) {
    int64_t usual_us = c->patience_us;
    if (usual_us >= 0 && usual_us < ADAPTER_PACK_PATIENCE_US)
        c->patience_us = ADAPTER_PACK_PATIENCE_US;
    esp_code agreed = comm_agree(c, code, err);
    c->patience_us = usual_us;
    return agreed;
}

/* How much of `bytes` goes in the exchange that begins there. */
static inline size_t adapter_message_some(uint64_t bytes, uint64_t at) {
    uint64_t left = bytes > at ? bytes - at : 0;
    return (size_t)(left < ADAPTER_MESSAGE_CHUNK ? left : ADAPTER_MESSAGE_CHUNK);
}

static inline uint64_t adapter_message_most(const adapter_message *m, uint32_t ranks) {
    uint64_t most = 0;
    for (uint32_t rank = 1; rank < ranks; rank++)
        if (m->bytes[rank] > most) most = m->bytes[rank];
    return most;
}

#endif
