/* comm_agree.c - what all ranks think of what each of them did. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "cluster/comm.h"

esp_code comm_agree(comm *c, esp_code code, esp_error *err) {
    esp_error own = {0}, all[COMM_RANKS_MAX] = {{0}};
    ESP_ASSERT(c->size <= COMM_RANKS_MAX);
    if (code != ESP_OK && err) own = *err;
    own.code = code;
    comm_all_gather(c, &own, all, sizeof own);
    esp_code failed = comm_check(c, err);
    if (failed != ESP_OK) return failed;
    for (uint32_t rank = 0; rank < c->size; rank++)
        if (all[rank].code != ESP_OK) {
            if (err) *err = all[rank];
            return all[rank].code;
        }
    return ESP_OK;
}
