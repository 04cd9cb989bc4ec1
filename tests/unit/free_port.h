/* free_port.h - an address of this host that nobody listens at now. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_FREE_PORT_H
#define ESPALIER_TESTS_FREE_PORT_H

#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FREE_PORT_BYTES = 32 };

/* "127.0.0.1:PORT"; returns the port. */
static inline uint16_t free_port(char out[FREE_PORT_BYTES]) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &bytes), 0);
    close(fd);
    snprintf(out, FREE_PORT_BYTES, "127.0.0.1:%u", ntohs(at.sin_port));
    return ntohs(at.sin_port);
}

#endif
