/* recorder.h - writes finished requests to a file, behind a bounded queue, on a thread of its own.
 *
 * Who has a request that is done hands it over and goes on. Lines are appended by one write each. A
 * full disk or a full queue costs records, never requests: each lost one is counted, and the log
 * says so at once, then every ten seconds while it goes on, and at the end.
 *
 * Thread  open and close by the owner; take and stats by anyone between. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_RECORDER_H
#define ESPALIER_RECORDER_H

#include "engine/engine.h"

typedef struct recorder recorder;

typedef struct record_stats {
    uint64_t written, lost;
} record_stats;

enum { RECORDER_WAITING_MAX = 1024 }; /* requests whose lines are not written yet */

/* Whether the file can be opened so, and makes it when it is not there: to be asked before a model
 * is loaded. Errors as of recorder_open. */
ESP_CHECKED esp_code recorder_check(const char *path, esp_error *err);
/* Appends to the file at path, made with mode 0600. ESP_DENIED when others may read a file that is
 * there: it holds what clients sent; ESP_UNAVAILABLE when another recorder has it open. The engine
 * outlives the recorder, and its config asked for the digest. */
ESP_CHECKED esp_code recorder_open(recorder **out, const char *path, const engine *e,
                                   esp_error *err);
/* Takes its own reference to a request that is done. Embeddings are passed over. */
void recorder_take(recorder *r, request *done);
void recorder_read_stats(const recorder *r, record_stats *out);
/* Writes what waits, then ends. NULL is fine. Returns how many records were lost. */
uint64_t recorder_close(recorder *r);

#endif
