/* comm_failure.c - one error behind a lock, and a flag that is read without it. */
// SPDX-License-Identifier: Apache-2.0
#include "cluster/comm_failure.h"

#include <stdio.h>

void comm_failure_open(comm_failure *f) { ESP_ASSERT(pthread_mutex_init(&f->lock, NULL) == 0); }
void comm_failure_close(comm_failure *f) { pthread_mutex_destroy(&f->lock); }

void comm_failure_keep(comm_failure *f, const esp_error *why) {
    pthread_mutex_lock(&f->lock);
    if (!comm_failed(f)) f->why = *why;
    atomic_store(&f->failed, true);
    pthread_mutex_unlock(&f->lock);
}

esp_code comm_failure_tell(comm_failure *f, esp_error *err) {
    if (!comm_failed(f)) return ESP_OK;
    pthread_mutex_lock(&f->lock);
    esp_error why = f->why;
    pthread_mutex_unlock(&f->lock);
    if (err) *err = why;
    return why.code;
}

const char *comm_rank_name(const comm *c, uint32_t rank, char out[COMM_RANK_NAME_BYTES]) {
    uint32_t each = c->each ? c->each : 1, all = c->of ? c->of : c->size;
    uint32_t first = c->first + rank * each;
    if (each > 1)
        snprintf(out, COMM_RANK_NAME_BYTES, "the process of ranks %u to %u of %u", first,
                 first + each - 1, all);
    else
        snprintf(out, COMM_RANK_NAME_BYTES, "rank %u of %u", first, all);
    return out;
}

const char *comm_late_words(const comm *c, char out[COMM_RANK_NAME_BYTES]) {
    snprintf(out, COMM_RANK_NAME_BYTES, "did not come within %.1f s",
             (double)c->patience_us * 1e-6);
    return out;
}
