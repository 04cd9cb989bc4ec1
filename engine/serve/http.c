/* http.c - libmicrohttpd with its limits set. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/http.h"

#include <microhttpd.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/serve/address.h"
#include "engine/serve/http_posts.h"

enum { CONNECTIONS_MAX = 128, IDLE_SECONDS = 10, CONNECTION_BYTES = 16 << 10 };

struct http {
    http_source source;
    struct MHD_Daemon *daemon;
    http_posts *posts; /* or NULL */
    uint16_t port;
};

typedef enum MHD_Result mhd_result;

mhd_result http_respond(struct MHD_Connection *connection, unsigned status, const char *type,
                        char *body, size_t bytes, enum MHD_ResponseMemoryMode mode) {
    struct MHD_Response *response = MHD_create_response_from_buffer(bytes, body, mode);
    if (!response) return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    if (status == MHD_HTTP_UNAUTHORIZED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    mhd_result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static mhd_result respond_text(struct MHD_Connection *connection, unsigned status,
                               const char *text) {
    return http_respond(connection, status, "text/plain; charset=utf-8", (char *)(uintptr_t)text,
                        strlen(text), MHD_RESPMEM_PERSISTENT);
}

static mhd_result respond_state(struct MHD_Connection *connection, bool good,
                                const char *otherwise) {
    return good ? respond_text(connection, MHD_HTTP_OK, "ok\n")
                : respond_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, otherwise);
}

static mhd_result on_request(void *arg, struct MHD_Connection *connection, const char *url,
                             const char *method, const char *version, const char *upload,
                             size_t *upload_bytes, void **state) {
    (void)version;
    http *h = arg;
    const http_source *source = &h->source;
    if (*state ||
        (h->posts && !strcmp(method, MHD_HTTP_METHOD_POST) && source->posts_to(source->arg, url)))
        return http_posts_take(h->posts, connection, url, upload, upload_bytes, state);
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return respond_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "GET and HEAD only\n");
    if (!strcmp(url, "/metrics")) {
        size_t bytes;
        char *page = source->metrics(source->arg, &bytes);
        return http_respond(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8",
                            page, bytes, MHD_RESPMEM_MUST_FREE);
    }
    if (!strcmp(url, "/healthz"))
        return respond_state(connection, source->alive(source->arg), "the engine is stuck\n");
    if (!strcmp(url, "/readyz"))
        return respond_state(connection, source->ready(source->arg), "not serving\n");
    return respond_text(connection, MHD_HTTP_NOT_FOUND,
                        "there are /metrics, /healthz and /readyz\n");
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode how) {
    (void)arg, (void)connection, (void)how;
    http_posts_forget(*state);
    *state = NULL;
}

static struct MHD_Daemon *start(http *h, const struct sockaddr *at, uint16_t port) {
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME;
    if (at->sa_family == AF_INET6) flags |= MHD_USE_IPv6;
    return MHD_start_daemon(flags, port, NULL, NULL, on_request, h, MHD_OPTION_SOCK_ADDR, at,
                            MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
                            MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS,
                            MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES,
                            MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
                            MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_END);
}

esp_code http_open(http **out, const char *text, const http_source *source, esp_error *err) {
    address at;
    struct addrinfo *list = NULL;
    *out = NULL;
    esp_code code = address_read(&at, text, "--http", err);
    if (code == ESP_OK) code = address_probe(&at, "--http", err);
    if (code == ESP_OK) code = address_resolve(&at, "--http", &list, err);
    if (code != ESP_OK) return code;
    http *h = mem_new(1, sizeof *h);
    h->source = *source;
    if (source->post) code = http_posts_open(&h->posts, source, err);
    if (code == ESP_OK) h->daemon = start(h, list->ai_addr, at.port);
    freeaddrinfo(list);
    if (code == ESP_OK && !h->daemon)
        code = esp_fail_field(err, ESP_UNAVAILABLE, "--http", "--http: cannot listen on %s", text);
    if (code != ESP_OK) {
        http_close(h);
        return code;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_BIND_PORT);
    h->port = info ? info->port : at.port;
    *out = h;
    return ESP_OK;
}

uint16_t http_port(const http *h) { return h->port; }

void http_close(http *h) {
    if (!h) return;
    http_posts_stop(h->posts);
    if (h->daemon) MHD_stop_daemon(h->daemon);
    http_posts_close(h->posts);
    free(h);
}
