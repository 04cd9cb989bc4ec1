/* http.h - the operators' listener: /metrics, /healthz, /readyz, and the routes that a source posts to. Plain HTTP.
 *
 *   /healthz  200 while the engine makes progress (restart the process otherwise)
 *   /readyz   200 while new requests are taken (send them elsewhere otherwise)
 *
 * A post may take its time (it reads files): it is done by a thread of its own, one after the other,
 * while its connection sleeps, so that probes are answered meanwhile.
 *
 * Thread  one of its own; with posts a second. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_HTTP_H
#define ESPALIER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

typedef struct http http;

enum {
    HTTP_BODY_MAX = 64 << 10, /* of a post; beyond: 413 */
    HTTP_POSTS_MAX = 16,      /* that wait; beyond: 503 */
};

/* A post that came whole. */
typedef struct http_post {
    const char *path;
    const char *body; /* NUL-terminated, may hold others */
    size_t bytes;
} http_post;

typedef struct http_answer {
    unsigned status;
    bool json;  /* else plain text */
    char *body; /* malloc'd */
} http_answer;

/* Called on the listener's thread, but for post. */
typedef struct http_source {
    void *arg;
    char *(*metrics)(void *arg, size_t *bytes); /* malloc'd */
    bool (*alive)(void *arg);
    bool (*ready)(void *arg);
    /* All three, or post NULL: nothing is posted. authorise as in rpc.h. */
    bool (*posts_to)(void *arg, const char *path);
    bool (*authorise)(void *arg, const char *header, size_t bytes);
    void (*post)(void *arg, const http_post *in, http_answer *out);
} http_source;

/* ESP_UNAVAILABLE when the address cannot be bound. */
ESP_CHECKED esp_code http_open(http **out, const char *address, const http_source *source,
                               esp_error *err);
uint16_t http_port(const http *h);
void http_close(http *h); /* waits for the post at work; NULL is fine */

#endif
