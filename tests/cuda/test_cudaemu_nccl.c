/* test_cudaemu_nccl.c - emulated ranks: threads of one process with a device and a stream each. */
// SPDX-License-Identifier: Apache-2.0
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <nccl.h>

#include "emu_control.h"
#include "emu_kernels.h"

enum { RANKS = 4, COUNT = 96, BYTES = COUNT * 4 };

/* One rank: its thread, and what it has on its device. */
struct rank {
    int number;
    ncclUniqueId id;
    ncclComm_t comm;
    cudaStream_t stream;
    uint32_t *mine, *all; /* COUNT and RANKS * COUNT words */
    uint32_t got[RANKS * COUNT];
    int failed; /* the line of the first check that did not hold */
};

#define CHECK(r, truth)                                                                            \
    do {                                                                                           \
        if (!(truth) && !(r)->failed) (r)->failed = __LINE__;                                      \
    } while (0)

static void open_device(struct rank *r) {
    CHECK(r, cudaSetDevice(r->number) == cudaSuccess);
    CHECK(r, cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking) == cudaSuccess);
    CHECK(r, cudaMalloc((void **)&r->mine, BYTES) == cudaSuccess);
    CHECK(r, cudaMalloc((void **)&r->all, RANKS * BYTES) == cudaSuccess);
    CHECK(r, cudaMemsetAsync(r->mine, 0, BYTES, r->stream) == cudaSuccess);
    CHECK(r, emu_add(r->mine, (uint32_t)r->number + 1, COUNT, r->stream) == 0);
}

static void close_device(struct rank *r) {
    CHECK(r, cudaStreamDestroy(r->stream) == cudaSuccess);
    CHECK(r, cudaFree(r->mine) == cudaSuccess);
    CHECK(r, cudaFree(r->all) == cudaSuccess);
}

static void open_rank(struct rank *r) {
    open_device(r);
    CHECK(r, ncclCommInitRank(&r->comm, RANKS, r->id, r->number) == ncclSuccess);
}

static void close_rank(struct rank *r) {
    CHECK(r, ncclCommDestroy(r->comm) == ncclSuccess);
    close_device(r);
}

/* Sends all to the host; behind everything on the stream. */
static void fetch(struct rank *r) {
    CHECK(r, cudaMemcpyAsync(r->got, r->all, sizeof r->got, cudaMemcpyDeviceToHost, r->stream) ==
                 cudaSuccess);
    CHECK(r, cudaStreamSynchronize(r->stream) == cudaSuccess);
}

/* Every block of COUNT words of got holds one value: that of values. */
static void expect_blocks(struct rank *r, const uint32_t values[RANKS]) {
    for (int i = 0; i < RANKS * COUNT; i++)
        CHECK(r, r->got[i] == values[i / COUNT]);
}

static void run_ranks(void *(*body)(void *)) {
    static struct rank ranks[RANKS];
    pthread_t threads[RANKS];
    ncclUniqueId id;
    assert_int_equal(ncclGetUniqueId(&id), ncclSuccess);
    memset(ranks, 0, sizeof ranks);
    for (int i = 0; i < RANKS; i++) {
        ranks[i].number = i;
        ranks[i].id = id;
        assert_int_equal(pthread_create(&threads[i], NULL, body, &ranks[i]), 0);
    }
    for (int i = 0; i < RANKS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < RANKS; i++)
        assert_int_equal(ranks[i].failed, 0);
}

static int with(emu_streams when) {
    emu_trap_faults(false);
    emu_set_streams(when);
    emu_set_devices(RANKS);
    emu_reset();
    return 0;
}
static int eager(void **state) { return (void)state, with(EMU_STREAMS_EAGER); }
static int lazy(void **state) { return (void)state, with(EMU_STREAMS_LAZY); }

/* ---- collectives */

static void *gather_body(void *argument) {
    static const uint32_t want[RANKS] = {1, 2, 3, 4};
    struct rank *r = argument;
    open_rank(r);
    CHECK(r, ncclAllGather(r->mine, r->all, COUNT, ncclFloat32, r->comm, r->stream) == ncclSuccess);
    fetch(r);
    expect_blocks(r, want);
    int number = -1, count = -1, device = -1;
    CHECK(r, ncclCommCount(r->comm, &count) == ncclSuccess && count == RANKS);
    CHECK(r, ncclCommUserRank(r->comm, &number) == ncclSuccess && number == r->number);
    CHECK(r, ncclCommCuDevice(r->comm, &device) == ncclSuccess && device == r->number);
    close_rank(r);
    return NULL;
}

static void each_rank_gathers_what_all_have(void **state) {
    (void)state;
    run_ranks(gather_body);
}

static void *broadcast_body(void *argument) {
    struct rank *r = argument;
    open_rank(r);
    for (int root = 0; root < RANKS; root++)
        CHECK(r, ncclBroadcast(r->mine, r->all + root * COUNT, BYTES, ncclUint8, root, r->comm,
                               r->stream) == ncclSuccess);
    static const uint32_t want[RANKS] = {1, 2, 3, 4};
    fetch(r);
    expect_blocks(r, want);
    close_rank(r);
    return NULL;
}

static void a_root_tells_the_others(void **state) {
    (void)state;
    run_ranks(broadcast_body);
}

/* Each sends to all others and receives from all, in one group: the order of calls does not matter. */
static void *exchange_body(void *argument) {
    struct rank *r = argument;
    open_rank(r);
    CHECK(r, ncclGroupStart() == ncclSuccess);
    for (int i = 1; i <= RANKS; i++) {
        int to = (r->number + i) % RANKS, from = (r->number + RANKS - i) % RANKS;
        CHECK(r, ncclSend(r->mine, COUNT, ncclInt32, to, r->comm, r->stream) == ncclSuccess);
        CHECK(r, ncclRecv(r->all + from * COUNT, COUNT, ncclInt32, from, r->comm, r->stream) ==
                     ncclSuccess);
    }
    CHECK(r, ncclGroupEnd() == ncclSuccess);
    /* Behind the exchange: it has read what was there, and this is not sent. */
    CHECK(r, emu_add(r->mine, 100, COUNT, r->stream) == 0);
    static const uint32_t want[RANKS] = {1, 2, 3, 4};
    fetch(r);
    expect_blocks(r, want);
    close_rank(r);
    return NULL;
}

static void a_group_exchanges_with_everybody_at_once(void **state) {
    (void)state;
    run_ranks(exchange_body);
}

/* A ring without a group: even ranks send first. */
static void *ring_body(void *argument) {
    struct rank *r = argument;
    open_rank(r);
    int next = (r->number + 1) % RANKS, last = (r->number + RANKS - 1) % RANKS;
    for (int half = 0; half < 2; half++)
        if ((r->number + half) % 2 == 0)
            CHECK(r, ncclSend(r->mine, COUNT, ncclInt32, next, r->comm, r->stream) == 0);
        else
            CHECK(r, ncclRecv(r->all, COUNT, ncclInt32, last, r->comm, r->stream) == 0);
    fetch(r);
    for (int i = 0; i < COUNT; i++)
        CHECK(r, r->got[i] == (uint32_t)last + 1);
    close_rank(r);
    return NULL;
}

static void a_ring_turns(void **state) {
    (void)state;
    run_ranks(ring_body);
}

/* A captured collective meets the others' anew at each launch. */
static void *graph_body(void *argument) {
    struct rank *r = argument;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    open_rank(r);
    CHECK(r, cudaStreamBeginCapture(r->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CHECK(r, emu_add(r->mine, 10, COUNT, r->stream) == 0);
    CHECK(r, ncclAllGather(r->mine, r->all, COUNT, ncclInt32, r->comm, r->stream) == ncclSuccess);
    CHECK(r, cudaStreamEndCapture(r->stream, &graph) == cudaSuccess);
    CHECK(r, cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    for (uint32_t i = 1; i <= 3; i++) {
        const uint32_t want[RANKS] = {1 + 10 * i, 2 + 10 * i, 3 + 10 * i, 4 + 10 * i};
        CHECK(r, cudaGraphLaunch(exec, r->stream) == cudaSuccess);
        fetch(r);
        expect_blocks(r, want);
    }
    CHECK(r, cudaGraphExecDestroy(exec) == cudaSuccess);
    CHECK(r, cudaGraphDestroy(graph) == cudaSuccess);
    close_rank(r);
    return NULL;
}

static void graphs_hold_collectives(void **state) {
    (void)state;
    run_ranks(graph_body);
}

/* ---- one thread with all devices */

static void one_thread_may_hold_all_ranks(void **state) {
    (void)state;
    static struct rank ranks[RANKS];
    static const uint32_t want[RANKS] = {1, 2, 3, 4};
    ncclComm_t comms[RANKS];
    memset(ranks, 0, sizeof ranks);
    assert_int_equal(ncclCommInitAll(comms, RANKS, NULL), ncclSuccess);
    for (int i = 0; i < RANKS; i++) {
        ranks[i].number = i;
        ranks[i].comm = comms[i];
        open_device(&ranks[i]);
    }
    assert_int_equal(ncclGroupStart(), ncclSuccess);
    for (int i = 0; i < RANKS; i++)
        assert_int_equal(ncclAllGather(ranks[i].mine, ranks[i].all, COUNT, ncclInt32, ranks[i].comm,
                                       ranks[i].stream),
                         ncclSuccess);
    assert_int_equal(ncclGroupEnd(), ncclSuccess);
    for (int i = 0; i < RANKS; i++) {
        fetch(&ranks[i]);
        expect_blocks(&ranks[i], want);
        close_rank(&ranks[i]);
        assert_int_equal(ranks[i].failed, 0);
    }
    assert_int_equal(cudaSetDevice(0), cudaSuccess);
}

/* ---- what goes wrong */

/* Rank 0 never comes. The others see no end, abort, and their streams are free again. */
static void *abandoned_body(void *argument) {
    struct rank *r = argument;
    open_rank(r);
    ncclResult_t error = ncclInternalError;
    if (r->number != 0) {
        CHECK(r, ncclAllGather(r->mine, r->all, COUNT, ncclInt32, r->comm, r->stream) == 0);
        for (int i = 0; i < 5; i++)
            CHECK(r, cudaStreamQuery(r->stream) == cudaErrorNotReady);
        CHECK(r, ncclCommGetAsyncError(r->comm, &error) == ncclSuccess && error == ncclSuccess);
    }
    CHECK(r, ncclCommAbort(r->comm) == ncclSuccess);
    CHECK(r, cudaStreamSynchronize(r->stream) == cudaSuccess);
    close_device(r);
    return NULL;
}

static void a_rank_that_waits_in_vain_can_abort(void **state) {
    (void)state;
    run_ranks(abandoned_body);
}

/* A watchdog aborts while the rank's thread waits for its stream. */
static void *abort_soon(void *argument) {
    usleep(20000);
    (void)ncclCommAbort(argument);
    return NULL;
}

static void *watched_body(void *argument) {
    struct rank *r = argument;
    pthread_t watchdog;
    open_rank(r);
    if (r->number != 0)
        CHECK(r, ncclAllGather(r->mine, r->all, COUNT, ncclInt32, r->comm, r->stream) == 0);
    CHECK(r, pthread_create(&watchdog, NULL, abort_soon, r->comm) == 0);
    CHECK(r, cudaStreamSynchronize(r->stream) == cudaSuccess);
    pthread_join(watchdog, NULL);
    close_device(r);
    return NULL;
}

static void an_abort_from_outside_ends_a_wait(void **state) {
    (void)state;
    run_ranks(watched_body);
}

static void *disagreeing_body(void *argument) {
    struct rank *r = argument;
    open_rank(r);
    size_t count = r->number == 2 ? COUNT / 2 : COUNT;
    CHECK(r, ncclAllGather(r->mine, r->all, count, ncclInt32, r->comm, r->stream) == ncclSuccess);
    CHECK(r, cudaStreamSynchronize(r->stream) == cudaSuccess);
    ncclResult_t error = ncclSuccess;
    CHECK(r, ncclCommGetAsyncError(r->comm, &error) == ncclSuccess && error == ncclInvalidUsage);
    CHECK(r,
          ncclAllGather(r->mine, r->all, COUNT, ncclInt32, r->comm, r->stream) == ncclInvalidUsage);
    close_rank(r);
    return NULL;
}

static void ranks_that_disagree_are_told(void **state) {
    (void)state;
    run_ranks(disagreeing_body);
}

/* Not blocking: calls say "in progress", and a rank whose peers never come can still leave. */
static void a_rank_need_not_block_while_others_come(void **state) {
    (void)state;
    ncclComm_t comms[2];
    ncclUniqueId id;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclResult_t error;
    config.blocking = 0;
    for (int come = 0; come < 2; come++) {
        assert_int_equal(ncclGetUniqueId(&id), ncclSuccess);
        assert_int_equal(cudaSetDevice(0), cudaSuccess);
        assert_int_equal(ncclCommInitRankConfig(&comms[0], 2, id, 0, &config), ncclInProgress);
        assert_int_equal(ncclCommGetAsyncError(comms[0], &error), ncclSuccess);
        assert_int_equal(error, ncclInProgress);
        if (come) {
            assert_int_equal(cudaSetDevice(1), cudaSuccess);
            assert_int_equal(ncclCommInitRankConfig(&comms[1], 2, id, 1, &config), ncclInProgress);
            assert_int_equal(ncclCommGetAsyncError(comms[0], &error), ncclSuccess);
            assert_int_equal(error, ncclSuccess);
            assert_int_equal(ncclCommAbort(comms[1]), ncclSuccess);
        }
        assert_int_equal(ncclCommAbort(comms[0]), ncclSuccess);
    }
    assert_int_equal(cudaSetDevice(0), cudaSuccess);
}

static void what_is_no_rank_or_no_memory_is_refused(void **state) {
    (void)state;
    ncclComm_t comm, second;
    ncclUniqueId id;
    uint32_t here[COUNT] = {0}, *p;
    assert_int_equal(cudaSetDevice(0), cudaSuccess);
    assert_int_equal(cudaMalloc((void **)&p, BYTES), cudaSuccess);
    assert_int_equal(ncclGetUniqueId(&id), ncclSuccess);
    assert_int_equal(ncclCommInitRank(&comm, 1, id, 1), ncclInvalidArgument);
    assert_int_equal(ncclCommInitRank(&comm, 1, id, 0), ncclSuccess);
    assert_int_equal(ncclSend(here, COUNT, ncclInt32, 0, comm, NULL), ncclInvalidArgument);
    assert_int_equal(ncclSend(p, COUNT + 1, ncclInt32, 0, comm, NULL), ncclInvalidArgument);
    assert_int_equal(ncclSend(p, COUNT, ncclInt32, 1, comm, NULL), ncclInvalidArgument);
    assert_int_equal(ncclAllGather(p, p, COUNT, ncclInt32, comm, NULL), ncclSuccess);
    assert_int_equal(ncclCommDestroy(comm), ncclSuccess);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    assert_int_equal(ncclGetUniqueId(&id), ncclSuccess);
    assert_int_equal(ncclCommInitRankConfig(&comm, 2, id, 0, &config), ncclInProgress);
    assert_int_equal(ncclCommInitRankConfig(&second, 2, id, 1, &config), ncclInvalidUsage);
    assert_int_equal(ncclAllGather(p, p, 1, ncclInt32, comm, NULL), ncclInvalidUsage);
    assert_int_equal(ncclCommAbort(comm), ncclSuccess);
    assert_int_equal(cudaFree(p), cudaSuccess);
    assert_int_equal(ncclGroupEnd(), ncclInvalidUsage);
}

#define BOTH(test) cmocka_unit_test_setup(test, eager), cmocka_unit_test_setup(test, lazy)

int main(void) {
    const struct CMUnitTest tests[] = {
        BOTH(each_rank_gathers_what_all_have),
        BOTH(a_root_tells_the_others),
        BOTH(a_group_exchanges_with_everybody_at_once),
        BOTH(a_ring_turns),
        BOTH(graphs_hold_collectives),
        BOTH(one_thread_may_hold_all_ranks),
        BOTH(a_rank_that_waits_in_vain_can_abort),
        BOTH(an_abort_from_outside_ends_a_wait),
        BOTH(ranks_that_disagree_are_told),
        BOTH(a_rank_need_not_block_while_others_come),
        BOTH(what_is_no_rank_or_no_memory_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
