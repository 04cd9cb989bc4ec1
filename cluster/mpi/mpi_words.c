/* mpi_words.c - libespalier_mpi.so: the few calls of MPI there are (MPI 3.1). */
// SPDX-License-Identifier: Apache-2.0
#include "cluster/mpi/mpi_words.h"

#include <assert.h>
#include <mpi.h>
#include <string.h>

enum { TAG = 1 };
static_assert(sizeof(MPI_Request) <= sizeof(mpi_request), "a request fits");

static mpi_request keep(MPI_Request request) {
    mpi_request kept = {0};
    memcpy(&kept, &request, sizeof request);
    return kept;
}

/* Errors come back instead of ending the process. */
static bool words_open(uint32_t *rank, uint32_t *size) {
    int own = 0, all = 0, given = MPI_THREAD_SINGLE, begun = 0;
    if (MPI_Initialized(&begun) != MPI_SUCCESS || begun) return false;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &given) != MPI_SUCCESS) return false;
    if (given < MPI_THREAD_SERIALIZED) return false;
    if (MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN) != MPI_SUCCESS) return false;
    if (MPI_Comm_rank(MPI_COMM_WORLD, &own) != MPI_SUCCESS) return false;
    if (MPI_Comm_size(MPI_COMM_WORLD, &all) != MPI_SUCCESS) return false;
    *rank = (uint32_t)own;
    *size = (uint32_t)all;
    return true;
}

static void words_close(bool orderly) {
    if (orderly) (void)MPI_Finalize();
}

static bool words_send(const void *at, size_t bytes, uint32_t to, mpi_request *out) {
    MPI_Request request;
    if (MPI_Isend(at, (int)bytes, MPI_BYTE, (int)to, TAG, MPI_COMM_WORLD, &request) != MPI_SUCCESS)
        return false;
    *out = keep(request);
    return true;
}

static bool words_receive(void *at, size_t bytes, uint32_t from, mpi_request *out) {
    MPI_Request request;
    if (MPI_Irecv(at, (int)bytes, MPI_BYTE, (int)from, TAG, MPI_COMM_WORLD, &request) !=
        MPI_SUCCESS)
        return false;
    *out = keep(request);
    return true;
}

static bool words_test(mpi_request *kept, bool *done) {
    MPI_Request request;
    int flag = 0;
    memcpy(&request, kept, sizeof request);
    if (MPI_Test(&request, &flag, MPI_STATUS_IGNORE) != MPI_SUCCESS) return false;
    *kept = keep(request);
    *done = flag != 0;
    return true;
}

extern const mpi_words espalier_mpi_words;
const mpi_words espalier_mpi_words = {
    .version = MPI_WORDS_VERSION,
    .open = words_open,
    .close = words_close,
    .send = words_send,
    .receive = words_receive,
    .test = words_test,
};
