/* address.c - see address.h. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

static bool is_loopback(const char *host) {
    struct in_addr v4;
    struct in6_addr v6;
    if (!strcasecmp(host, "localhost")) return true;
    if (inet_pton(AF_INET, host, &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static bool read_port(const char *text, uint16_t *out) {
    if (!*text || strspn(text, "0123456789") != strlen(text) || strlen(text) > 5) return false;
    unsigned long port = strtoul(text, NULL, 10);
    *out = (uint16_t)port;
    return port <= UINT16_MAX;
}

esp_code address_read(address *out, const char *text, const char *flag, esp_error *err) {
    memset(out, 0, sizeof *out);
    const char *colon = strrchr(text, ':'), *host = text;
    size_t bytes = colon ? (size_t)(colon - text) : 0;
    bool bracketed = bytes >= 2 && text[0] == '[' && colon[-1] == ']';
    if (bracketed) host++, bytes -= 2;
    bool good = bytes > 0 && bytes < sizeof out->host && (bracketed || !memchr(host, ':', bytes)) &&
                read_port(colon + 1, &out->port);
    if (!good)
        return esp_fail_field(
            err, ESP_OUT_OF_RANGE, flag,
            "%s: \"%.200s\" is no address; wanted HOST:PORT, as 127.0.0.1:8470 or "
            "[::1]:8470",
            flag, text);
    memcpy(out->host, host, bytes);
    out->loopback = is_loopback(out->host);
    return ESP_OK;
}

esp_code address_resolve(const address *at, const char *flag, struct addrinfo **out,
                         esp_error *err) {
    struct addrinfo wanted = {.ai_family = AF_UNSPEC,
                              .ai_socktype = SOCK_STREAM,
                              .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    char port[8];
    snprintf(port, sizeof port, "%u", at->port);
    int failed = getaddrinfo(at->host, port, &wanted, out);
    if (!failed) return ESP_OK;
    return esp_fail_field(err, ESP_UNAVAILABLE, flag, "%s: no address for \"%.200s\": %s", flag,
                          at->host, gai_strerror(failed));
}

/* 0, or why not. */
static int try_bind(const struct addrinfo *at) {
    int on = 1, failed = 0;
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, at->ai_addr, at->ai_addrlen) || listen(fd, 1)) failed = errno;
    close(fd);
    return failed;
}

esp_code address_probe(const address *at, const char *flag, esp_error *err) {
    struct addrinfo *list;
    esp_code code = address_resolve(at, flag, &list, err);
    if (code != ESP_OK) return code;
    int failed = try_bind(list);
    freeaddrinfo(list);
    if (!failed) return ESP_OK;
    return esp_fail_field(err, ESP_UNAVAILABLE, flag,
                          "%s: cannot listen on port %u of %.200s: %s; choose another with %s "
                          "HOST:PORT",
                          flag, at->port, at->host, strerror(failed), flag);
}
