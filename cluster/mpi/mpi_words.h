/* mpi_words.h - what comm_mpi.c asks of MPI, as a table in an object of its own (mpi_words.c): the program is built
 * and runs without MPI, and loads the object only where mpirun started it.
 *
 * Thread  one at a time; `open` and `close` by the same one. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CLUSTER_MPI_WORDS_H
#define ESPALIER_CLUSTER_MPI_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MPI_WORDS_VERSION = 1, MPI_WORDS_BYTES_MAX = 1 << 30 /* of one message */ };
#define MPI_WORDS_SYMBOL "espalier_mpi_words"

/* A message on its way; only the object knows what is in it. */
typedef struct mpi_request {
    uint64_t opaque;
} mpi_request;

typedef struct mpi_words {
    uint32_t version; /* MPI_WORDS_VERSION */
    bool (*open)(uint32_t *rank, uint32_t *size);
    /* orderly: waits for the others, who do the same. Else nothing is waited for. */
    void (*close)(bool orderly);
    /* Messages between two ranks arrive in the order in which they were sent. False: it failed. */
    bool (*send)(const void *at, size_t bytes, uint32_t to, mpi_request *out);
    bool (*receive)(void *at, size_t bytes, uint32_t from, mpi_request *out);
    bool (*test)(mpi_request *request, bool *done);
} mpi_words;

#endif
