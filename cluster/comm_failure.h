/* comm_failure.h - the first failure of a comm over host memory, kept by whoever sees it and told to whoever asks; and
 * how its sentences call a rank.
 *
 * Thread  any, but for open and close. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CLUSTER_COMM_FAILURE_H
#define ESPALIER_CLUSTER_COMM_FAILURE_H

#include <pthread.h>
#include <stdatomic.h>

#include "cluster/comm.h"

struct comm_failure {
    _Atomic bool failed; /* set after `why` */
    pthread_mutex_t lock;
    esp_error why;
};
typedef struct comm_failure comm_failure;

void comm_failure_open(comm_failure *f);
void comm_failure_close(comm_failure *f);

/* Looks for nothing new, as comm_check does. */
static inline bool comm_failed(const comm_failure *f) { return atomic_load(&f->failed); }
/* The first one stays. */
void comm_failure_keep(comm_failure *f, const esp_error *why);
/* ESP_OK: none so far. */
ESP_CHECKED esp_code comm_failure_tell(comm_failure *f, esp_error *err);

/* "rank 3 of 4"; where a rank of the comm is a process of several, "the process of ranks 4 to 7 of 8". */
enum { COMM_RANK_NAME_BYTES = 64 };
const char *comm_rank_name(const comm *c, uint32_t rank, char out[COMM_RANK_NAME_BYTES]);
/* "did not come within 5.0 s" */
const char *comm_late_words(const comm *c, char out[COMM_RANK_NAME_BYTES]);

#endif
