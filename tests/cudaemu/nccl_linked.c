/* nccl_linked.c - the emulated NCCL as the table that comm_nccl.c asks for. */
// SPDX-License-Identifier: Apache-2.0
#include <assert.h>
#include <nccl.h>
#include <string.h>

#include "cluster/nccl/nccl_words.h"

static_assert(NCCL_ID_BYTES == NCCL_UNIQUE_ID_BYTES && (int)NCCL_BYTES == (int)ncclInt8 &&
                  (int)NCCL_OK == (int)ncclSuccess && (int)NCCL_IN_PROGRESS == (int)ncclInProgress,
              "numbers of the interface");

static int linked_get_id(nccl_id *id) {
    ncclUniqueId own;
    int result = ncclGetUniqueId(&own);
    memcpy(id, &own, sizeof own);
    return result;
}

static int linked_init(void **comm, int ranks, nccl_id id, int rank) {
    ncclUniqueId own;
    memcpy(&own, &id, sizeof own);
    return ncclCommInitRank((ncclComm_t *)comm, ranks, own, rank);
}

static int linked_abort(void *comm) { return ncclCommAbort(comm); }

static int linked_async_error(void *comm, int *error) {
    ncclResult_t result = ncclSuccess;
    int code = ncclCommGetAsyncError(comm, &result);
    *error = result;
    return code;
}

static const char *linked_text(int result) { return ncclGetErrorString((ncclResult_t)result); }
static int linked_group_start(void) { return ncclGroupStart(); }
static int linked_group_end(void) { return ncclGroupEnd(); }

static int linked_send(const void *from, size_t count, int type, int peer, void *comm,
                       void *stream) {
    return ncclSend(from, count, (ncclDataType_t)type, peer, comm, stream);
}

static int linked_receive(void *to, size_t count, int type, int peer, void *comm, void *stream) {
    return ncclRecv(to, count, (ncclDataType_t)type, peer, comm, stream);
}

static int linked_all_gather(const void *from, void *to, size_t count, int type, void *comm,
                             void *stream) {
    return ncclAllGather(from, to, count, (ncclDataType_t)type, comm, stream);
}

static int linked_broadcast(const void *from, void *to, size_t count, int type, int root,
                            void *comm, void *stream) {
    return ncclBroadcast(from, to, count, (ncclDataType_t)type, root, comm, stream);
}

esp_code nccl_words_load(nccl_words *out, esp_error *err) {
    (void)err;
    *out = (nccl_words){.get_id = linked_get_id,
                        .init = linked_init,
                        .abort = linked_abort,
                        .async_error = linked_async_error,
                        .text = linked_text,
                        .group_start = linked_group_start,
                        .group_end = linked_group_end,
                        .send = linked_send,
                        .receive = linked_receive,
                        .all_gather = linked_all_gather,
                        .broadcast = linked_broadcast};
    return ESP_OK;
}
