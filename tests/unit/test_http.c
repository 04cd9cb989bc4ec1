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

/* ---- posts ---- */

static _Atomic uint32_t posts_begun, posts_may_end;

static bool posts_to(void *arg, const char *path) { return (void)arg, !strcmp(path, "/do"); }

static bool allow_right(void *arg, const char *header, size_t bytes) {
    (void)arg;
    return header && bytes == 12 && !memcmp(header, "Bearer right", 12);
}

/* Says how long the body was; "wait" waits. */
static void do_post(void *arg, const http_post *in, http_answer *out) {
    (void)arg;
    assert_string_equal(in->path, "/do");
    atomic_fetch_add(&posts_begun, 1);
    while (!strcmp(in->body, "wait") && !atomic_load(&posts_may_end))
        usleep(1000);
    *out = (http_answer){.status = 201, .json = true};
    assert_true(asprintf(&out->body, "{\"bytes\":%zu}", in->bytes) > 0);
}

static http *open_posts(void) {
    http_source source = {.metrics = metrics,
                          .alive = is_alive,
                          .ready = is_ready,
                          .posts_to = posts_to,
                          .authorise = allow_right,
                          .post = do_post};
    http *h;
    esp_error error = {0};
    if (http_open(&h, "127.0.0.1:0", &source, &error) != ESP_OK) fail_msg("%s", error.message);
    return h;
}

typedef struct sent {
    const char *token, *type, *body;
    size_t bytes; /* 0: strlen(body) */
} sent;

static int begin_post(const http *h, const sent *p) {
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons(http_port(h)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char head[512];
    size_t bytes = p->bytes ? p->bytes : strlen(p->body);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    int count = snprintf(head, sizeof head,
                         "POST /do HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: %s\r\n"
                         "Content-Type: %s\r\nContent-Length: %zu\r\n\r\n",
                         p->token ? p->token : "Bearer right",
                         p->type ? p->type : "application/json", bytes);
    assert_int_equal(send(fd, head, (size_t)count, MSG_NOSIGNAL), count);
    (void)!send(fd, p->body, bytes, MSG_NOSIGNAL); /* it may be refused on the way */
    return fd;
}

static int end_post(int fd, char *answer, size_t room) {
    size_t used = 0;
    int status = 0;
    for (ssize_t got; used < room - 1 && (got = read(fd, answer + used, room - 1 - used)) > 0;)
        used += (size_t)got;
    answer[used] = '\0';
    close(fd);
    sscanf(answer, "HTTP/1.1 %d ", &status);
    return status;
}

static int post(const http *h, const sent *p, char *answer, size_t room) {
    return end_post(begin_post(h, p), answer, room);
}

static void post_is_worked_off_and_answered(void **state) {
    (void)state;
    char answer[4096], *big = calloc(1, HTTP_BODY_MAX + 1);
    memset(big, ' ', HTTP_BODY_MAX);
    http *h = open_posts();
    assert_int_equal(post(h, &(sent){.body = "{\"a\":1}"}, answer, sizeof answer), 201);
    assert_non_null(strstr(answer, "Content-Type: application/json"));
    assert_non_null(strstr(answer, "\r\n\r\n{\"bytes\":7}"));
    sent charset = {.body = "", .type = "Application/JSON; charset=utf-8"};
    assert_int_equal(post(h, &charset, answer, sizeof answer), 201);
    sent nul = {.body = "a\0b", .bytes = 3};
    assert_int_equal(post(h, &nul, answer, sizeof answer), 201);
    assert_non_null(strstr(answer, "{\"bytes\":3}"));
    assert_int_equal(post(h, &(sent){.body = big}, answer, sizeof answer), 201);
    free(big);
    http_close(h);
}

/* Each in its own way, none reaches the worker, and only what is posted to is posted. */
static void posts_are_refused_before_they_are_worked_off(void **state) {
    (void)state;
    char answer[4096], *big = calloc(1, HTTP_BODY_MAX + 2);
    memset(big, ' ', HTTP_BODY_MAX + 1);
    http *h = open_posts();
    atomic_store(&posts_begun, 0);
    sent wrong = {.body = "{}", .token = "Bearer wrong"};
    assert_int_equal(post(h, &wrong, answer, sizeof answer), 401);
    assert_non_null(strstr(answer, "WWW-Authenticate: Bearer"));
    static const char *const types[] = {"text/plain", "application/jsonp", "", "multipart/form-data"};
    for (uint32_t i = 0; i < sizeof types / sizeof *types; i++) {
        sent other = {.body = "{}", .type = types[i]};
        assert_int_equal(post(h, &other, answer, sizeof answer), 415);
    }
    assert_int_equal(post(h, &(sent){.body = big}, answer, sizeof answer), 413);
    assert_int_equal(status_of(h, "GET /do"), 404);
    assert_int_equal(status_of(h, "PUT /do"), 405);
    assert_int_equal(status_of(h, "POST /metrics"), 405);
    assert_int_equal(atomic_load(&posts_begun), 0);
    free(big);
    http_close(h);
}

/* While one post takes its time probes are answered; what waits behind it is bounded. */
static void probes_are_answered_while_a_post_is_at_work(void **state) {
    (void)state;
    char answer[4096];
    int fds[HTTP_POSTS_MAX + 2], refused = 0;
    http *h = open_posts();
    atomic_store(&posts_begun, 0);
    atomic_store(&posts_may_end, 0);
    fds[0] = begin_post(h, &(sent){.body = "wait"});
    while (!atomic_load(&posts_begun))
        usleep(1000);
    for (int i = 1; i < HTTP_POSTS_MAX + 2; i++)
        fds[i] = begin_post(h, &(sent){.body = "{}"});
    assert_int_equal(status_of(h, "GET /healthz"), 200);
    atomic_store(&posts_may_end, 1);
    for (int i = 0; i < HTTP_POSTS_MAX + 2; i++) {
        int status = end_post(fds[i], answer, sizeof answer);
        assert_true(status == 201 || status == 503);
        refused += status == 503;
    }
    assert_in_range(refused, 0, 1);
    http_close(h);
}

/* The post at work is answered or dropped, nobody hangs. */
static void closing_ends_posts(void **state) {
    (void)state;
    char answer[4096];
    http *h = open_posts();
    atomic_store(&posts_begun, 0);
    atomic_store(&posts_may_end, 0);
    int gone = begin_post(h, &(sent){.body = "wait"});
    while (!atomic_load(&posts_begun))
        usleep(1000);
    int waits = begin_post(h, &(sent){.body = "{}"});
    close(gone); /* while it is worked off */
    atomic_store(&posts_may_end, 1);
    http_close(h);
    end_post(waits, answer, sizeof answer);
}

/* Requests that must be refused, half of one, and a post, each as the listener is being stopped. */
static void closing_amid_requests_is_survived(void **state) {
    (void)state;
    enum { ROUNDS = 120, BIG = 40 << 10 };
    static char big[BIG + 1];
    memset(big, 'a', BIG);
    memcpy(big, "GET /metrics HTTP/1.1\r\nX: ", 26);
    const char *texts[] = {big, "GET /metr",
                           "POST /do HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer right\r\n"
                           "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"};
    for (uint32_t i = 0; i < ROUNDS; i++) {
        http *h = open_posts();
        struct sockaddr_in at = {.sin_family = AF_INET,
                                 .sin_port = htons(http_port(h)),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
        (void)!send(fd, texts[i % 3], strlen(texts[i % 3]), MSG_NOSIGNAL);
        usleep(i * 7 % 200);
        http_close(h);
        close(fd);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_answer),
        cmocka_unit_test(states_are_told_apart),
        cmocka_unit_test(other_paths_and_methods_are_refused),
        cmocka_unit_test(nonsense_is_survived),
        cmocka_unit_test(port_in_use_is_one_sentence),
        cmocka_unit_test(post_is_worked_off_and_answered),
        cmocka_unit_test(posts_are_refused_before_they_are_worked_off),
        cmocka_unit_test(probes_are_answered_while_a_post_is_at_work),
        cmocka_unit_test(closing_ends_posts),
        cmocka_unit_test(closing_amid_requests_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
