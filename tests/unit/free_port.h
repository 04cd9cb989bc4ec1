/* free_port.h - an address of this host that nobody listens at now. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_FREE_PORT_H
#define ESPALIER_TESTS_FREE_PORT_H

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FREE_PORT_BYTES = 32, FREE_PORT_FIRST = 20000, FREE_PORT_COUNT = 12000 };

/* "127.0.0.1:PORT"; returns the port. None of those that the kernel deals out, which a connection of another test could
 * have before somebody listens: where to look first depends on the process. */
static inline uint16_t free_port(char out[FREE_PORT_BYTES]) {
    static uint32_t turn;
    for (int tries = 0; tries < FREE_PORT_COUNT; tries++) {
        uint32_t port =
            FREE_PORT_FIRST + ((uint32_t)getpid() * 37 + turn++ * 101) % FREE_PORT_COUNT;
        struct sockaddr_in at = {.sin_family = AF_INET,
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                 .sin_port = htons((uint16_t)port)};
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        assert_true(fd >= 0);
        bool free = bind(fd, (struct sockaddr *)&at, sizeof at) == 0;
        close(fd);
        if (!free) continue;
        snprintf(out, FREE_PORT_BYTES, "127.0.0.1:%u", port);
        return (uint16_t)port;
    }
    fail_msg("no port is free");
    return 0;
}

#endif
