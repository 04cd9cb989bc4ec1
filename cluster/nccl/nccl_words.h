/* nccl_words.h - the calls of NCCL that comm_nccl.c makes, as a table: of libnccl.so.2, loaded when ranks are GPUs
 * (nccl_load.c), or of the emulator (tests/cudaemu/nccl_linked.c). So the program is built and runs without NCCL.
 *
 * Types and numbers are those of NCCL's binary interface (2.x), which its header documents. No reduction is
 * among the calls: bytes are moved, and added by our own kernels. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CLUSTER_NCCL_WORDS_H
#define ESPALIER_CLUSTER_NCCL_WORDS_H

#include <stddef.h>

#include "engine/base/status.h"

enum { NCCL_OK = 0, NCCL_IN_PROGRESS = 7, NCCL_BYTES = 0 /* ncclInt8 */, NCCL_ID_BYTES = 128 };

typedef struct nccl_id {
    char bytes[NCCL_ID_BYTES];
} nccl_id;

typedef struct nccl_words {
    int (*get_id)(nccl_id *id);
    int (*init)(void **comm, int ranks, nccl_id id, int rank);
    int (*abort)(void *comm);
    int (*async_error)(void *comm, int *error);
    const char *(*text)(int result);
    int (*group_start)(void);
    int (*group_end)(void);
    int (*send)(const void *from, size_t count, int type, int peer, void *comm, void *stream);
    int (*receive)(void *to, size_t count, int type, int peer, void *comm, void *stream);
    int (*all_gather)(const void *from, void *to, size_t count, int type, void *comm, void *stream);
    int (*broadcast)(const void *from, void *to, size_t count, int type, int root, void *comm,
                     void *stream);
} nccl_words;

/* ESP_UNAVAILABLE: the library is not there, or lacks a call. */
ESP_CHECKED esp_code nccl_words_load(nccl_words *out, esp_error *err);

#endif
