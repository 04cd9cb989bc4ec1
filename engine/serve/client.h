/* client.h - what the commands `chat` and `health` need of a running server, over the public API. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_SERVE_CLIENT_H
#define ESPALIER_SERVE_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

typedef struct client client;

typedef struct client_options {
    const char *address;   /* "127.0.0.1:8470" */
    const char *token;     /* bearer token or NULL */
    const char *ca_file;   /* TLS when set: PEM roots */
    const char *cert_file, *key_file; /* mTLS when set */
} client_options;

ESP_CHECKED esp_code client_open(client **out, const client_options *options, esp_error *err);
void client_close(client *c);

/* grpc.health.v1 Check of service "": ESP_OK when SERVING, ESP_UNAVAILABLE when not or not reachable. */
ESP_CHECKED esp_code client_health(client *c, int64_t timeout_ms, esp_error *err);

typedef struct client_message {
    const char *role, *content;
} client_message;

typedef struct client_result {
    uint32_t prompt_tokens, output_tokens;
    uint64_t seed;
    char finish_reason[16];
    double ttft_ms;    /* call begun to first text, as the client saw it */
    double total_ms;
    char *text;        /* whole answer, malloc'd */
} client_result;

/* One streamed answer; on_text is called with each piece as it arrives. model may be "". Cancel from a signal
 * handler is not supported; closing the client cancels. */
ESP_CHECKED esp_code client_chat(client *c, const char *model, const client_message *messages,
                                 uint32_t count, uint32_t max_tokens,
                                 void (*on_text)(void *arg, const char *text, size_t bytes), void *arg,
                                 client_result *out, esp_error *err);

#endif
