/* test_address.c - HOST:PORT of listeners. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/serve/address.h"

static void host_and_port_are_read(void **state) {
    (void)state;
    static const struct {
        const char *text, *host;
        uint16_t port;
        bool loopback;
    } good[] = {{"127.0.0.1:8470", "127.0.0.1", 8470, true},
                {"127.1.2.3:0", "127.1.2.3", 0, true},
                {"[::1]:65535", "::1", 65535, true},
                {"localhost:1", "localhost", 1, true},
                {"0.0.0.0:8470", "0.0.0.0", 8470, false},
                {"[::]:8470", "::", 8470, false},
                {"10.0.0.1:8470", "10.0.0.1", 8470, false},
                {"node-7.example:8470", "node-7.example", 8470, false},
                {"127.0.0.1.example:1", "127.0.0.1.example", 1, false}};
    for (uint32_t i = 0; i < sizeof good / sizeof *good; i++) {
        address at;
        assert_int_equal(address_read(&at, good[i].text, "--grpc", NULL), ESP_OK);
        assert_string_equal(at.host, good[i].host);
        assert_int_equal(at.port, good[i].port);
        assert_int_equal(at.loopback, good[i].loopback);
    }
}

static void other_text_is_refused_naming_the_flag(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",      "8470",     ":8470", "127.0.0.1",  "127.0.0.1:",    "h:65536", "h:-1",
        "h:80x", "::1:8470", "[]:80", "h:00000080", "http://h:8470", "[::1]8",  "[::1:8470"};
    for (uint32_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        address at;
        esp_error error = {0};
        if (address_read(&at, bad[i], "--http", &error) == ESP_OK) fail_msg("%s was taken", bad[i]);
        assert_string_equal(error.field, "--http");
    }
}

static void port_in_use_is_told_with_the_reason(void **state) {
    (void)state;
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof any;
    char text[32];
    address at;
    esp_error error = {0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&any, sizeof any), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&any, &bytes), 0);
    snprintf(text, sizeof text, "127.0.0.1:%u", ntohs(any.sin_port));
    assert_int_equal(address_read(&at, text, "--grpc", NULL), ESP_OK);
    assert_int_equal(address_probe(&at, "--grpc", &error), ESP_UNAVAILABLE);
    assert_non_null(strstr(error.message, "Address already in use"));
    close(fd);
    assert_int_equal(address_probe(&at, "--grpc", &error), ESP_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_and_port_are_read),
        cmocka_unit_test(other_text_is_refused_naming_the_flag),
        cmocka_unit_test(port_in_use_is_told_with_the_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
