/* http.h - the operators' listener: /metrics, /healthz, /readyz. Plain HTTP, no secrets, nothing to
 * change.
 *
 *   /healthz  200 while the engine makes progress (restart the process otherwise)
 *   /readyz   200 while new requests are taken (send them elsewhere otherwise)
 *
 * Thread  one of its own. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_HTTP_H
#define ESPALIER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

typedef struct http http;

/* Called on the listener's thread. */
typedef struct http_source {
    void *arg;
    char *(*metrics)(void *arg, size_t *bytes); /* malloc'd */
    bool (*alive)(void *arg);
    bool (*ready)(void *arg);
} http_source;

/* ESP_UNAVAILABLE when the address cannot be bound. */
ESP_CHECKED esp_code http_open(http **out, const char *address, const http_source *source,
                               esp_error *err);
uint16_t http_port(const http *h);
void http_close(http *h); /* NULL is fine */

#endif
