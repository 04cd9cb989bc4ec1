/* serve.h - the front: gRPC and HTTP listeners over the replicas of one model, until a signal says stop.
 *
 * Thread  serve_run by the main thread; it owns every other thread it makes. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_SERVE_H
#define ESPALIER_SERVE_H

#include "engine/config.h"
#include "engine/replicas.h"

/* Listens, serves, and returns ESP_OK after a drain (SIGTERM or SIGINT: health NOT_SERVING, running
 * streams finish up to the grace time; a second signal ends them at once). The replicas are open and
 * not started; serve_run starts and drains them; the caller closes them. ESP_UNAVAILABLE after a drain: the last one
 * of several has failed. Call serve_block_signals first thing in main,
 * before any thread is made. */
void serve_block_signals(void);
/* What is wrong with the addresses, before anything is loaded: ESP_OUT_OF_RANGE (usage), ESP_UNAVAILABLE (a
 * port in use). serve_run checks again. */
ESP_CHECKED esp_code serve_check(const serve_config *config, esp_error *err);
ESP_CHECKED esp_code serve_run(replicas *all, const serve_config *config, esp_error *err);

#endif
