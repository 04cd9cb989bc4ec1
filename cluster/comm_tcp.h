/* comm_tcp.h - collectives between processes that find each other at an address, here or on several hosts, over host
 * memory: for ranks on GPUs of several hosts without MPI.
 *
 * Rank 0 listens there; the others connect, and say who they are in a greeting of fixed size. All bytes go by way of
 * rank 0, which suits what a replica of GPUs tells each other (batches, agreements, NCCL's id) and is slow for
 * sums of ranks on processors. Nothing is encrypted, and whoever can connect first is believed: as with NCCL's own
 * connections the network has to be private. Who greets wrongly, or not within GREETING_US, is sent away. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CLUSTER_COMM_TCP_H
#define ESPALIER_CLUSTER_COMM_TCP_H

#include "cluster/comm.h"

typedef struct comm_tcp_options {
    const char *address; /* HOST:PORT of rank 0, the same for all */
    uint32_t rank, size;
    uint32_t each; /* more than 1: those are of processes, with so many ranks each (comm_nodes.h) */
    int64_t patience_us; /* how long all may take to come; 0: COMM_TCP_RENDEZVOUS_US */
} comm_tcp_options;

#define COMM_TCP_RENDEZVOUS_US ((int64_t)60000000)

/* This process's rank; waits for all others. ESP_INVALID: no HOST:PORT (--rendezvous), rank 0 was started for another
 * number of ranks (--tp), with another number of them in its process, or has this one already (--rank).
 * ESP_UNAVAILABLE: it cannot be listened or connected there, or not all came in time. */
ESP_CHECKED esp_code comm_tcp_open(comm **out, const comm_tcp_options *options, esp_error *err);

#endif
