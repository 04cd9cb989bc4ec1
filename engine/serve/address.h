/* address.h - HOST:PORT of a listener: is it well formed, only for this host, and free? */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ADDRESS_H
#define ESPALIER_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"

struct addrinfo;

enum {
    ADDRESS_HOST_BYTES = 256,
    ADDRESS_TEXT_BYTES = ADDRESS_HOST_BYTES + sizeof "[]:65535" - 1, /* of HOST:PORT */
};

typedef struct address {
    char host[ADDRESS_HOST_BYTES]; /* without brackets */
    uint16_t port;                 /* 0: any free one */
    bool loopback;                 /* 127.0.0.0/8, ::1 or localhost */
} address;

/* "127.0.0.1:8470", "[::1]:8470", "localhost:8470". ESP_INVALID naming the flag otherwise. */
ESP_CHECKED esp_code address_read(address *out, const char *text, const char *flag, esp_error *err);

/* The numeric addresses of a listener there; freeaddrinfo by the caller. */
ESP_CHECKED esp_code address_resolve(const address *at, const char *flag, struct addrinfo **out,
                                     esp_error *err);

/* ESP_UNAVAILABLE with the system's reason when it cannot be bound now. Libraries say only that it
 * failed. */
ESP_CHECKED esp_code address_probe(const address *at, const char *flag, esp_error *err);

#endif
