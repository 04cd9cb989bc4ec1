/* comm_nccl.c - collectives as operations of a CUDA stream.
 *
 * Within a step that is captured into a graph they are captured with it, on all ranks (cuda_replay.h).
 *
 * What waits for a dead rank is a kernel on the device, which nothing but ncclCommAbort ends. So who waits for the
 * stream looks at it in turns (comm_check), and aborts when the other ranks failed or the time is over. */
// SPDX-License-Identifier: Apache-2.0
#include "cluster/comm_nccl.h"

#include <cuda_runtime_api.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "cluster/nccl/nccl_words.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"

enum { OFFER_US = 5000, NAP_NS = 50000 };

typedef struct nccl_comm {
    comm head;
    comm *control;
    nccl_words words;
    void *comm;          /* NULL: aborted */
    kern_device *dev;
    cudaStream_t stream; /* the device's */
    esp_error why;       /* code ESP_OK: well */
} nccl_comm;

/* ---- failing ---- */

/* The first failure stays; kernels that wait for others end. */
static void fail(nccl_comm *c, const esp_error *why) {
    if (c->why.code == ESP_OK) c->why = *why;
    comm_abort(c->control, why);
    if (c->comm) (void)c->words.abort(c->comm);
    c->comm = NULL;
}

static void note(nccl_comm *c, int result, const char *call) {
    esp_error why = {0};
    if (result == NCCL_OK || result == NCCL_IN_PROGRESS) return;
    esp_fail(&why, ESP_UNAVAILABLE, "%s of rank %u failed: %s; the replica ends: restart it", call,
             c->head.rank, c->words.text(result));
    fail(c, &why);
}

static void nccl_abort(comm *head, const esp_error *why) {
    comm_abort(((nccl_comm *)head)->control, why); /* each rank sees it where it waits */
}

/* ---- waiting ---- */

/* False: it is time to give up. */
static bool may_wait(nccl_comm *c, int64_t waited_us) {
    esp_error why = {0};
    int error = NCCL_OK;
    if (comm_check(c->control, &why) != ESP_OK) {
        fail(c, &why);
        return false;
    }
    if (c->words.async_error(c->comm, &error) == NCCL_OK) note(c, error, "an exchange");
    if (!c->comm) return false;
    if (c->head.patience_us < 0 || waited_us <= c->head.patience_us) return true;
    esp_fail(&why, ESP_UNAVAILABLE,
             "rank %u of %u waited %.1f s for what the others' devices compute; the replica ends: "
             "restart it",
             c->head.rank, c->head.size, (double)waited_us * 1e-6);
    fail(c, &why);
    return false;
}

static void wait_for_stream(nccl_comm *c) {
    int64_t began_us = clock_now_us();
    while (cudaStreamQuery(c->stream) == cudaErrorNotReady) {
        (void)cudaGetLastError(); /* or the next launch would tell of it */
        int64_t waited_us = clock_now_us() - began_us;
        if (!may_wait(c, waited_us)) return;
        if (waited_us < OFFER_US)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
    }
}

/* A fault of the stream itself is the device's, and sync tells it. */
static esp_code nccl_check(comm *head, esp_error *err) {
    nccl_comm *c = (nccl_comm *)head;
    esp_error why = {0};
    if (c->comm) wait_for_stream(c);
    if (c->comm && comm_check(c->control, &why) != ESP_OK) fail(c, &why);
    if (c->why.code != ESP_OK && err) *err = c->why;
    return c->why.code;
}

/* ---- collectives ---- */

/* A step that the device remembers has its exchanges with it. */
static bool exchanges(const nccl_comm *c) { return c->comm && kern_cuda_launches(c->dev); }

static void nccl_all_gather(comm *head, const void *in, void *out, size_t bytes) {
    nccl_comm *c = (nccl_comm *)head;
    if (!exchanges(c) || !bytes) return;
    note(c, c->words.all_gather(in, out, bytes, NCCL_BYTES, c->comm, c->stream), "an all-gather");
}

static void post(nccl_comm *c, const comm_part *part, int rank) {
    if (part->receive_bytes)
        note(c,
             c->words.receive(part->receive, part->receive_bytes, NCCL_BYTES, rank, c->comm,
                              c->stream),
             "a receive");
    if (c->comm && part->send_bytes)
        note(c, c->words.send(part->send, part->send_bytes, NCCL_BYTES, rank, c->comm, c->stream),
             "a send");
}

static void nccl_exchange(comm *head, const comm_part *parts) {
    nccl_comm *c = (nccl_comm *)head;
    const comm_part *own = &parts[head->rank];
    if (!exchanges(c)) return;
    ESP_ASSERT(own->send_bytes == own->receive_bytes);
    if (own->send_bytes) /* its fault is the device's */
        (void)cudaMemcpyAsync(own->receive, own->send, own->send_bytes, cudaMemcpyDeviceToDevice,
                              c->stream);
    note(c, c->words.group_start(), "an exchange");
    for (uint32_t rank = 0; rank < head->size && c->comm; rank++)
        if (rank != head->rank) post(c, &parts[rank], (int)rank);
    if (c->comm) note(c, c->words.group_end(), "an exchange");
}

static void nccl_broadcast(comm *head, void *at, size_t bytes) {
    nccl_comm *c = (nccl_comm *)head;
    if (!exchanges(c) || !bytes) return;
    note(c, c->words.broadcast(at, at, bytes, NCCL_BYTES, 0, c->comm, c->stream), "a broadcast");
}

/* ---- open and close ---- */

/* Abort also where all is well: it alone waits for nobody. */
static void nccl_close(comm *head) {
    nccl_comm *c = (nccl_comm *)head;
    if (c->comm) (void)c->words.abort(c->comm);
    free(c);
}

static const comm_ops nccl_ops = {
    .name = "nccl",
    .close = nccl_close,
    .all_gather = nccl_all_gather,
    .exchange = nccl_exchange,
    .broadcast = nccl_broadcast,
    .abort = nccl_abort,
    .check = nccl_check,
};

static esp_code begin(nccl_comm *c, nccl_id *id, esp_error *err) {
    esp_code code = nccl_words_load(&c->words, err);
    if (code != ESP_OK || c->head.rank > 0) return code;
    int result = c->words.get_id(id);
    if (result == NCCL_OK) return ESP_OK;
    return esp_fail(err, ESP_UNAVAILABLE, "NCCL does not start: %s", c->words.text(result));
}

/* All of them, once all have come so far. */
static esp_code join(nccl_comm *c, nccl_id *id, esp_error *err) {
    comm_broadcast(c->control, id, sizeof *id);
    esp_code code = comm_check(c->control, err);
    if (code != ESP_OK) return code;
    int result = c->words.init(&c->comm, (int)c->head.size, *id, (int)c->head.rank);
    (void)cudaGetLastError(); /* of what the library tried and did without */
    if (result == NCCL_OK) return ESP_OK;
    c->comm = NULL;
    return esp_fail(err, ESP_UNAVAILABLE, "rank %u cannot join the others by NCCL: %s",
                    c->head.rank, c->words.text(result));
}

esp_code comm_nccl_open(comm **out, comm *control, kern_device *dev, esp_error *err) {
    nccl_comm *c = mem_new(1, sizeof *c);
    nccl_id id = {{0}};
    c->head = (comm){.ops = &nccl_ops,
                     .rank = control->rank,
                     .size = control->size,
                     .local_rank = control->local_rank,
                     .patience_us = COMM_PATIENCE_US};
    c->control = control;
    c->dev = dev;
    c->stream = kern_cuda_stream(dev);
    esp_code code = comm_agree(control, begin(c, &id, err), err);
    if (code == ESP_OK) code = join(c, &id, err);
    if (code != ESP_OK) {
        nccl_close(&c->head);
        return code;
    }
    *out = &c->head;
    return ESP_OK;
}
