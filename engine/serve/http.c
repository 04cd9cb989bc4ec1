/* http.c - libmicrohttpd with its limits set. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/http.h"

#include <limits.h>
#include <microhttpd.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/serve/address.h"
#include "engine/serve/http_posts.h"

enum { CONNECTIONS_MAX = 128, IDLE_SECONDS = 10, CONNECTION_BYTES = 16 << 10 };

struct http {
    http_source source;
    struct MHD_Daemon *daemon;
    http_posts *posts; /* or NULL */
    uint16_t port;
    pthread_t thread;
    bool started;
    int epoll; /* the daemon's */
    int wake;  /* an eventfd, or -1: look at stop, and at what was resumed */
    _Atomic bool stop;
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

/* ---- the listener's thread ---- */

/* Not libmicrohttpd's own: that one handles requests while MHD_stop_daemon is at work, and 0.9.75 reads through a null
 * pointer where a request must be refused then. This one has ended before. */
static void *run(void *arg) {
    http *h = arg;
    struct pollfd waits[] = {{.fd = h->epoll, .events = POLLIN}, {.fd = h->wake, .events = POLLIN}};
    while (!atomic_load(&h->stop)) {
        MHD_UNSIGNED_LONG_LONG ms;
        eventfd_t times;
        bool timed = MHD_get_timeout(h->daemon, &ms) == MHD_YES;
        (void)poll(waits, 2, !timed ? -1 : ms < INT_MAX ? (int)ms : INT_MAX);
        (void)eventfd_read(h->wake, &times);
        MHD_run(h->daemon);
    }
    return NULL;
}

static esp_code start_thread(http *h, esp_error *err) {
    if (pthread_create(&h->thread, NULL, run, h))
        return esp_fail_field(err, ESP_EXHAUSTED, "--http",
                              "--http: cannot start a thread; raise the limit of threads");
    pthread_setname_np(h->thread, "http");
    h->started = true;
    return ESP_OK;
}

static void stop_thread(http *h) {
    if (!h->started) return;
    atomic_store(&h->stop, true);
    (void)eventfd_write(h->wake, 1);
    pthread_join(h->thread, NULL);
}

static struct MHD_Daemon *start(http *h, const struct sockaddr *at, uint16_t port) {
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME;
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
    h->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (h->wake < 0)
        code = esp_fail_field(err, ESP_EXHAUSTED, "--http",
                              "--http: cannot make an eventfd; raise the limit of open files");
    if (code == ESP_OK && source->post) code = http_posts_open(&h->posts, source, h->wake, err);
    if (code == ESP_OK) h->daemon = start(h, list->ai_addr, at.port);
    freeaddrinfo(list);
    if (code == ESP_OK && !h->daemon)
        code = esp_fail_field(err, ESP_UNAVAILABLE, "--http", "--http: cannot listen on %s", text);
    if (code == ESP_OK) {
        h->port = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_BIND_PORT)->port;
        h->epoll = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
        code = start_thread(h, err);
    }
    if (code == ESP_OK)
        *out = h;
    else
        http_close(h);
    return code;
}

uint16_t http_port(const http *h) { return h->port; }

void http_close(http *h) {
    if (!h) return;
    http_posts_stop(h->posts);
    stop_thread(h);
    if (h->daemon) MHD_stop_daemon(h->daemon);
    http_posts_close(h->posts);
    if (h->wake >= 0) close(h->wake);
    free(h);
}
