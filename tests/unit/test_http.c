/* test_http.c - the operators' listener, spoken to byte by byte. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/serve/http.h"

static _Atomic bool alive = true, ready = true;

static char *metrics(void *arg, size_t *bytes) {
    (void)arg;
    char *page = strdup("espalier_test 1\n");
    *bytes = strlen(page);
    return page;
}

static bool is_alive(void *arg) { return (void)arg, atomic_load(&alive); }
static bool is_ready(void *arg) { return (void)arg, atomic_load(&ready); }

static http *open_here(void) {
    http_source source = {.metrics = metrics, .alive = is_alive, .ready = is_ready};
    http *h;
    esp_error error = {0};
    if (http_open(&h, "127.0.0.1:0", &source, &error) != ESP_OK) fail_msg("%s", error.message);
    assert_int_not_equal(http_port(h), 0);
    return h;
}

/* Sends the text and reads until the server closes. */
static void talk(const http *h, const char *text, char *out, size_t room) {
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons(http_port(h)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
    size_t used = 0;
    for (ssize_t got; used < room - 1 && (got = read(fd, out + used, room - 1 - used)) > 0;)
        used += (size_t)got;
    out[used] = '\0';
    close(fd);
}

static int status_of(const http *h, const char *line) {
    char text[512], answer[4096];
    int status = 0;
    snprintf(text, sizeof text, "%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", line);
    talk(h, text, answer, sizeof answer);
    if (sscanf(answer, "HTTP/1.1 %d ", &status) != 1) fail_msg("no status in \"%s\"", answer);
    return status;
}

static void pages_answer(void **state) {
    (void)state;
    char answer[4096];
    http *h = open_here();
    talk(h, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", answer, sizeof answer);
    assert_non_null(strstr(answer, "Content-Type: text/plain; version=0.0.4"));
    assert_non_null(strstr(answer, "\r\n\r\nespalier_test 1\n"));
    assert_int_equal(status_of(h, "GET /healthz"), 200);
    assert_int_equal(status_of(h, "GET /readyz"), 200);
    assert_int_equal(status_of(h, "HEAD /metrics"), 200);
    http_close(h);
}

static void states_are_told_apart(void **state) {
    (void)state;
    http *h = open_here();
    atomic_store(&ready, false);
    assert_int_equal(status_of(h, "GET /readyz"), 503);
    assert_int_equal(status_of(h, "GET /healthz"), 200);
    atomic_store(&alive, false);
    assert_int_equal(status_of(h, "GET /healthz"), 503);
    atomic_store(&alive, true);
    atomic_store(&ready, true);
    http_close(h);
}

static void other_paths_and_methods_are_refused(void **state) {
    (void)state;
    http *h = open_here();
    static const char *const missing[] = {"GET /", "GET /metrics/", "GET /../metrics",
                                          "GET /metricsx", "GET /%2e%2e/etc/passwd"};
    static const char *const methods[] = {"POST /metrics", "DELETE /metrics", "PUT /",
                                          "BREW /readyz"};
    for (uint32_t i = 0; i < sizeof missing / sizeof *missing; i++)
        assert_int_equal(status_of(h, missing[i]), 404);
    for (uint32_t i = 0; i < sizeof methods / sizeof *methods; i++)
        assert_int_equal(status_of(h, methods[i]), 405);
    http_close(h);
}

/* Headers beyond the connection's memory, and bytes that are no HTTP: refused, and the next client is served. */
static void nonsense_is_survived(void **state) {
    (void)state;
    enum { BIG = 256 << 10 };
    char *big = malloc(BIG + 64), answer[4096];
    http *h = open_here();
    int head = sprintf(big, "GET /metrics HTTP/1.1\r\nX: ");
    memset(big + head, 'a', BIG);
    big[head + BIG] = '\0';
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons(http_port(h)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    (void)!send(fd, big, strlen(big), MSG_NOSIGNAL); /* it may be cut off on the way */
    close(fd);
    talk(h, "\x16\x03\x01 not http\r\n\r\n", answer, sizeof answer);
    assert_int_equal(status_of(h, "GET /healthz"), 200);
    free(big);
    http_close(h);
}

static void port_in_use_is_one_sentence(void **state) {
    (void)state;
    char text[32];
    esp_error error = {0};
    http *h = open_here(), *second;
    http_source source = {.metrics = metrics, .alive = is_alive, .ready = is_ready};
    snprintf(text, sizeof text, "127.0.0.1:%u", http_port(h));
    assert_int_equal(http_open(&second, text, &source, &error), ESP_UNAVAILABLE);
    assert_string_equal(error.field, "--http");
    http_close(h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_answer),
        cmocka_unit_test(states_are_told_apart),
        cmocka_unit_test(other_paths_and_methods_are_refused),
        cmocka_unit_test(nonsense_is_survived),
        cmocka_unit_test(port_in_use_is_one_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
