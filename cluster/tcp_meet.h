/* tcp_meet.h - how the ranks of comm_tcp.h come together: a connection between rank 0 and each other one. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CLUSTER_TCP_MEET_H
#define ESPALIER_CLUSTER_TCP_MEET_H

#include "cluster/comm_tcp.h"

typedef struct tcp_seats {
    int fds
        [COMM_RANKS_MAX]; /* not blocking; on rank 0 [1..size) to the others, else [0] to it; the rest -1 */
    uint32_t local_rank; /* among the ranks of this machine */
} tcp_seats;

/* As comm_tcp_open says; on an error there is nothing to close. */
ESP_CHECKED esp_code tcp_meet(tcp_seats *out, const comm_tcp_options *options, esp_error *err);
void tcp_seats_close(tcp_seats *seats);

#endif
