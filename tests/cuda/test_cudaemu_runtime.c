/* test_cudaemu_runtime.c - the emulated runtime: memory, streams, events, graphs, devices, errors. */
// SPDX-License-Identifier: Apache-2.0
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>

#include "emu_control.h"
#include "emu_kernels.h"

enum { COUNT = 200, BYTES = COUNT * 4 };

static uint32_t *device_words(uint32_t value) {
    void *p;
    uint32_t words[COUNT];
    for (int i = 0; i < COUNT; i++)
        words[i] = value;
    assert_int_equal(cudaMalloc(&p, BYTES), cudaSuccess);
    assert_int_equal(cudaMemcpy(p, words, BYTES, cudaMemcpyHostToDevice), cudaSuccess);
    return p;
}

/* The first word; all are the same. */
static uint32_t word_of(const uint32_t *memory) {
    uint32_t words[COUNT];
    assert_int_equal(cudaMemcpy(words, memory, BYTES, cudaMemcpyDeviceToHost), cudaSuccess);
    for (int i = 1; i < COUNT; i++)
        assert_int_equal(words[i], words[0]);
    return words[0];
}

static cudaStream_t new_stream(void) {
    cudaStream_t stream;
    assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    return stream;
}

static cudaEvent_t new_event(void) {
    cudaEvent_t event;
    assert_int_equal(cudaEventCreate(&event), cudaSuccess);
    return event;
}

static int eager(void **state) {
    (void)state;
    emu_trap_faults(false);
    emu_set_streams(EMU_STREAMS_EAGER);
    emu_set_devices(1);
    emu_set_sm(80);
    emu_reset();
    return cudaSetDevice(0) != cudaSuccess;
}

static int lazy(void **state) {
    eager(state);
    emu_set_streams(EMU_STREAMS_LAZY);
    return 0;
}

/* ---- memory */

static void device_memory_begins_as_all_ones(void **state) {
    (void)state;
    void *p;
    uint32_t words[COUNT];
    assert_int_equal(cudaMalloc(&p, BYTES), cudaSuccess);
    assert_int_equal(cudaMemcpy(words, p, BYTES, cudaMemcpyDeviceToHost), cudaSuccess);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(words[i], ~0u);
    assert_int_equal(cudaMemset(p, 0x11, BYTES), cudaSuccess);
    assert_int_equal(word_of(p), 0x11111111);
    assert_int_equal(cudaFree(p), cudaSuccess);
    assert_int_equal(cudaFree(NULL), cudaSuccess);
}

static void a_device_has_so_much_memory_and_tells(void **state) {
    (void)state;
    size_t before, after, total;
    void *p, *none;
    assert_int_equal(cudaMemGetInfo(&before, &total), cudaSuccess);
    assert_int_equal(cudaMalloc(&p, 1 << 20), cudaSuccess);
    assert_int_equal(cudaMemGetInfo(&after, &total), cudaSuccess);
    assert_int_equal(before - after, 1 << 20);
    assert_int_equal(cudaMalloc(&none, after + 1), cudaErrorMemoryAllocation);
    assert_null(none);
    assert_int_equal(cudaGetLastError(), cudaErrorMemoryAllocation);
    assert_int_equal(cudaFree(p), cudaSuccess);
    assert_int_equal(cudaMemGetInfo(&after, &total), cudaSuccess);
    assert_int_equal(before, after);
}

static void copies_are_held_against_the_allocations(void **state) {
    (void)state;
    uint32_t *p = device_words(1), host[COUNT] = {0};
    assert_int_equal(cudaMemcpy(p, host, BYTES + 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(p + 1, host, BYTES, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(host, p, BYTES, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(p, host, BYTES, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaMemset(host, 0, BYTES), cudaErrorInvalidValue);
    assert_int_equal(cudaMemset(p, 0, BYTES + 1), cudaErrorInvalidValue);
    assert_int_equal(cudaFree(host), cudaErrorInvalidValue);
    assert_int_equal(cudaFree(p), cudaSuccess);
    assert_int_equal(cudaFree(p), cudaErrorInvalidValue);
}

static void a_copy_in_two_dimensions_skips_the_rest_of_each_row(void **state) {
    (void)state;
    uint32_t host[20], back[COUNT], *p = device_words(7);
    for (uint32_t i = 0; i < 20; i++)
        host[i] = i;
    assert_int_equal(cudaMemcpy2DAsync(p, 32, host, 20, 12, 4, cudaMemcpyHostToDevice, NULL),
                     cudaSuccess);
    assert_int_equal(cudaMemcpy(back, p, BYTES, cudaMemcpyDeviceToHost), cudaSuccess);
    for (uint32_t i = 0; i < 32; i++)
        assert_int_equal(back[i], i % 8 < 3 ? i / 8 * 5 + i % 8 : 7);
    assert_int_equal(cudaFree(p), cudaSuccess);
}

static void pointers_say_what_memory_they_are(void **state) {
    (void)state;
    cudaPointerAttributes a;
    uint32_t *p = device_words(0), here = 0;
    void *pinned;
    assert_int_equal(cudaMallocHost(&pinned, 64), cudaSuccess);
    assert_int_equal(cudaPointerGetAttributes(&a, p + 3), cudaSuccess);
    assert_int_equal(a.type, cudaMemoryTypeDevice);
    assert_int_equal(a.device, 0);
    assert_int_equal(cudaPointerGetAttributes(&a, pinned), cudaSuccess);
    assert_int_equal(a.type, cudaMemoryTypeHost);
    assert_int_equal(cudaPointerGetAttributes(&a, &here), cudaSuccess);
    assert_int_equal(a.type, cudaMemoryTypeUnregistered);
    assert_int_equal(cudaFree(pinned), cudaErrorInvalidValue);
    assert_int_equal(cudaFreeHost(pinned), cudaSuccess);
    assert_int_equal(cudaHostRegister(&here, sizeof here, cudaHostRegisterDefault), cudaSuccess);
    assert_int_equal(cudaPointerGetAttributes(&a, &here), cudaSuccess);
    assert_int_equal(a.type, cudaMemoryTypeHost);
    assert_int_equal(cudaHostUnregister(&here), cudaSuccess);
    assert_int_equal(cudaHostUnregister(&here), cudaErrorInvalidValue);
    assert_int_equal(cudaFree(p), cudaSuccess);
}

/* ---- streams and events */

/* Two streams, no event between them: the second reads what was there before. */
static void a_forgotten_wait_reads_the_old_bytes_when_lazy(void **state) {
    (void)state;
    uint32_t *a = device_words(1), *b = device_words(2);
    cudaStream_t first = new_stream(), second = new_stream();
    assert_int_equal(emu_add(a, 10, COUNT, first), 0);
    assert_int_equal(emu_copy(b, a, COUNT, second), 0);
    assert_int_equal(cudaStreamSynchronize(second), cudaSuccess);
    assert_int_equal(word_of(b), 1);
    assert_int_equal(cudaStreamSynchronize(first), cudaSuccess);
    assert_int_equal(word_of(a), 11);
    assert_int_equal(cudaStreamDestroy(first), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(second), cudaSuccess);
    assert_int_equal(cudaFree(a), cudaSuccess);
    assert_int_equal(cudaFree(b), cudaSuccess);
}

static void an_event_orders_two_streams(void **state) {
    (void)state;
    uint32_t *a = device_words(1), *b = device_words(2);
    cudaStream_t first = new_stream(), second = new_stream();
    cudaEvent_t event = new_event();
    assert_int_equal(emu_add(a, 10, COUNT, first), 0);
    assert_int_equal(cudaEventRecord(event, first), cudaSuccess);
    assert_int_equal(emu_add(a, 100, COUNT, first), 0); /* behind the event */
    assert_int_equal(cudaStreamWaitEvent(second, event, 0), cudaSuccess);
    assert_int_equal(emu_copy(b, a, COUNT, second), 0);
    assert_int_equal(cudaStreamSynchronize(second), cudaSuccess);
    assert_int_equal(word_of(b), 11); /* no more than what it waited for */
    assert_int_equal(cudaEventDestroy(event), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(first), cudaSuccess);
    assert_int_equal(word_of(a), 111);
    assert_int_equal(cudaStreamDestroy(second), cudaSuccess);
    assert_int_equal(cudaFree(a), cudaSuccess);
    assert_int_equal(cudaFree(b), cudaSuccess);
}

/* Pinned memory is read when the copy runs, so that writing it too early is seen. */
static void pinned_staging_reused_too_early_sends_the_later_bytes(void **state) {
    (void)state;
    uint32_t *p = device_words(0), *staging;
    cudaStream_t stream = new_stream();
    assert_int_equal(cudaMallocHost((void **)&staging, BYTES), cudaSuccess);
    memset(staging, 1, BYTES);
    assert_int_equal(cudaMemcpyAsync(p, staging, BYTES, cudaMemcpyHostToDevice, stream),
                     cudaSuccess);
    memset(staging, 2, BYTES);
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    assert_int_equal(word_of(p), 0x02020202);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
    assert_int_equal(cudaFreeHost(staging), cudaSuccess);
    assert_int_equal(cudaFree(p), cudaSuccess);
}

static void pageable_memory_is_read_before_the_call_returns(void **state) {
    (void)state;
    uint32_t *p = device_words(0), host[COUNT];
    cudaStream_t stream = new_stream();
    memset(host, 1, BYTES);
    assert_int_equal(cudaMemcpyAsync(p, host, BYTES, cudaMemcpyHostToDevice, stream), cudaSuccess);
    memset(host, 2, BYTES);
    assert_int_equal(cudaMemcpyAsync(host, p, BYTES, cudaMemcpyDeviceToHost, stream), cudaSuccess);
    assert_int_equal(host[COUNT - 1], 0x01010101);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
    assert_int_equal(cudaFree(p), cudaSuccess);
}

/* An engine that polls sees "not ready" first, and an end. */
static void queries_let_time_go_by(void **state) {
    (void)state;
    uint32_t *p = device_words(0);
    cudaStream_t stream = new_stream();
    cudaEvent_t start = new_event(), end = new_event();
    assert_int_equal(cudaEventRecord(start, stream), cudaSuccess);
    for (int i = 0; i < 3; i++)
        assert_int_equal(emu_add(p, 1, COUNT, stream), 0);
    assert_int_equal(cudaEventRecord(end, stream), cudaSuccess);
    float ms = -1;
    assert_int_equal(cudaEventElapsedTime(&ms, start, end), cudaErrorNotReady);
    assert_int_equal(cudaEventQuery(end), cudaErrorNotReady);
    int polls = 1;
    while (cudaEventQuery(end) == cudaErrorNotReady)
        polls++;
    assert_in_range(polls, 3, 5);
    assert_int_equal(cudaStreamQuery(stream), cudaSuccess);
    assert_int_equal(cudaEventElapsedTime(&ms, start, end), cudaSuccess);
    assert_true(ms >= 0);
    assert_int_equal(word_of(p), 3);
    assert_int_equal(cudaEventDestroy(start), cudaSuccess);
    assert_int_equal(cudaEventDestroy(end), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
    assert_int_equal(cudaFree(p), cudaSuccess);
}

/* Who polls has to take "not ready" back, or the next launch seems to have failed. */
static void a_launch_tells_of_an_error_that_nobody_took_back(void **state) {
    (void)state;
    uint32_t *p = device_words(0);
    cudaStream_t stream = new_stream();
    assert_int_equal(emu_add(p, 1, COUNT, stream), 0);
    assert_int_equal(emu_add(p, 1, COUNT, stream), 0);
    assert_int_equal(cudaStreamQuery(stream), cudaErrorNotReady);
    assert_int_equal(emu_add(p, 1, COUNT, stream), cudaErrorNotReady);
    assert_int_equal(cudaStreamQuery(stream), cudaErrorNotReady);
    assert_int_equal(cudaGetLastError(), cudaErrorNotReady);
    assert_int_equal(emu_add(p, 1, COUNT, stream), 0);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
    assert_int_equal(word_of(p), 4);
    assert_int_equal(cudaFree(p), cudaSuccess);
}

/* The host must not look at what it fetches before it has waited, even if it knows what was there. */
static void what_is_fetched_is_all_ones_until_it_is_there(void **state) {
    (void)state;
    uint32_t *p = device_words(7), *here;
    cudaStream_t stream = new_stream();
    assert_int_equal(cudaMallocHost((void **)&here, BYTES), cudaSuccess);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(emu_add(p, 0, COUNT, stream), 0);
        assert_int_equal(cudaMemcpyAsync(here, p, BYTES, cudaMemcpyDeviceToHost, stream), 0);
        assert_int_equal(here[COUNT - 1], ~0u);
        assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
        assert_int_equal(here[COUNT - 1], 7);
    }
    here[0] = 5; /* on its way up: what comes down may not be poison before it has left */
    assert_int_equal(cudaMemcpyAsync(p, here, BYTES, cudaMemcpyHostToDevice, stream), 0);
    assert_int_equal(cudaMemcpyAsync(here, p, BYTES, cudaMemcpyDeviceToHost, stream), 0);
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    assert_int_equal(here[0], 5);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
    assert_int_equal(cudaFreeHost(here), cudaSuccess);
    assert_int_equal(cudaFree(p), cudaSuccess);
}

/* Two streams, no event between them: either may be first. */
static void a_forgotten_wait_is_seen_now_and_then_when_random(void **state) {
    (void)state;
    enum { TIMES = 64 };
    uint32_t *a = device_words(1), *b = device_words(2), old = 0;
    cudaStream_t first = new_stream(), second = new_stream();
    emu_set_streams(EMU_STREAMS_RANDOM);
    for (uint32_t i = 0; i < TIMES; i++) {
        assert_int_equal(emu_add(a, 1, COUNT, first), 0);
        assert_int_equal(emu_copy(b, a, COUNT, second), 0);
        assert_int_equal(cudaStreamSynchronize(second), cudaSuccess);
        assert_int_equal(cudaStreamSynchronize(first), cudaSuccess);
        old += word_of(b) == i + 1;
        assert_int_equal(word_of(a), i + 2);
    }
    assert_in_range(old, 1, TIMES - 1);
    assert_int_equal(cudaStreamDestroy(first), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(second), cudaSuccess);
    assert_int_equal(cudaFree(a), cudaSuccess);
    assert_int_equal(cudaFree(b), cudaSuccess);
}

static void the_legacy_stream_waits_for_those_that_are_ordered_with_it(void **state) {
    (void)state;
    uint32_t *a = device_words(1), *b = device_words(1);
    cudaStream_t ordered, free_one = new_stream();
    assert_int_equal(cudaStreamCreate(&ordered), cudaSuccess);
    assert_int_equal(emu_add(a, 1, COUNT, ordered), 0);
    assert_int_equal(emu_add(b, 1, COUNT, free_one), 0);
    assert_int_equal(word_of(a), 2);
    assert_int_equal(word_of(b), 1);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    assert_int_equal(word_of(b), 2);
    assert_int_equal(emu_add(a, 1, COUNT, NULL), 0);
    assert_int_equal(emu_copy(b, a, COUNT, ordered), 0);
    assert_int_equal(cudaStreamSynchronize(ordered), cudaSuccess);
    assert_int_equal(word_of(b), 3);
    assert_int_equal(cudaStreamDestroy(ordered), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(free_one), cudaSuccess);
    assert_int_equal(cudaFree(a), cudaSuccess);
    assert_int_equal(cudaFree(b), cudaSuccess);
}

static void note(void *data) { ++*(int *)data; }

static void host_functions_run_in_the_streams_order(void **state) {
    (void)state;
    int called = 0;
    uint32_t *p = device_words(0);
    cudaStream_t stream = new_stream();
    assert_int_equal(emu_add(p, 1, COUNT, stream), 0);
    assert_int_equal(cudaLaunchHostFunc(stream, note, &called), cudaSuccess);
    assert_int_equal(called, 0);
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    assert_int_equal(called, 1);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
    assert_int_equal(cudaFree(p), cudaSuccess);
}

/* ---- graphs */

static cudaGraphExec_t captured_addition(cudaStream_t stream, uint32_t *p, uint32_t value) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    size_t nodes = 0;
    assert_int_equal(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    assert_int_equal(emu_add(p, value, COUNT, stream), 0);
    value = 1000; /* frozen: what comes later does not count */
    assert_int_equal(emu_add(p, 1, COUNT, stream), 0);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    assert_int_equal(cudaGraphGetNodes(graph, NULL, &nodes), cudaSuccess);
    assert_int_equal(nodes, 2);
    assert_int_equal(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    assert_int_equal(cudaGraphDestroy(graph), cudaSuccess);
    return exec;
}

static void a_graph_replays_with_the_arguments_of_its_capture(void **state) {
    (void)state;
    uint32_t *p = device_words(5);
    cudaStream_t stream = new_stream();
    cudaGraphExec_t graph = captured_addition(stream, p, 10);
    assert_int_equal(word_of(p), 5); /* captured, not run */
    for (int i = 0; i < 3; i++)
        assert_int_equal(cudaGraphLaunch(graph, stream), cudaSuccess);
    assert_int_equal(cudaGraphExecDestroy(graph), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    assert_int_equal(word_of(p), 5 + 3 * 11);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
    assert_int_equal(cudaFree(p), cudaSuccess);
}

static void a_graph_that_outlives_its_memory_is_caught(void **state) {
    (void)state;
    uint32_t *p = device_words(5);
    cudaStream_t stream = new_stream();
    cudaGraphExec_t graph = captured_addition(stream, p, 10);
    assert_int_equal(cudaFree(p), cudaSuccess);
    emu_trap_faults(true);
    (void)cudaGraphLaunch(graph, stream);
    assert_int_equal(cudaStreamSynchronize(stream), cudaErrorIllegalAddress);
    emu_reset();
    assert_int_equal(cudaGraphExecDestroy(graph), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
}

static void a_capture_refuses_what_cannot_be_replayed(void **state) {
    (void)state;
    uint32_t *p = device_words(5), here[COUNT];
    void *more;
    cudaGraph_t graph;
    cudaStream_t stream = new_stream();
    enum cudaStreamCaptureStatus status;
    assert_int_equal(cudaStreamBeginCapture(NULL, cudaStreamCaptureModeGlobal),
                     cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(here, p, BYTES, cudaMemcpyDeviceToHost, stream),
                     cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamIsCapturing(stream, &status), cudaSuccess);
    assert_int_equal(status, cudaStreamCaptureStatusActive);
    assert_int_equal(cudaMalloc(&more, 4), cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamIsCapturing(stream, &status), cudaSuccess);
    assert_int_equal(status, cudaStreamCaptureStatusInvalidated);
    assert_int_equal(emu_add(p, 1, COUNT, stream), cudaErrorStreamCaptureInvalidated);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    assert_int_equal(cudaGetLastError(), cudaErrorStreamCaptureInvalidated);
    assert_null(graph);
    assert_int_equal(emu_add(p, 1, COUNT, stream), 0);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
    assert_int_equal(word_of(p), 6);
    assert_int_equal(cudaFree(p), cudaSuccess);
}

/* Also of streams and events that have no part in it: each ends the capture. */
static void a_thread_that_captures_waits_for_nothing(void **state) {
    (void)state;
    cudaGraph_t graph;
    cudaStream_t stream = new_stream(), other = new_stream();
    cudaEvent_t event = new_event();
    void *pinned;
    assert_int_equal(cudaMallocHost(&pinned, 64), cudaSuccess);
    for (int call = 0; call < 6; call++) {
        assert_int_equal(cudaEventRecord(event, other), cudaSuccess);
        assert_int_equal(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), 0);
        cudaError_t code = call == 0   ? cudaStreamSynchronize(other)
                           : call == 1 ? cudaStreamQuery(other)
                           : call == 2 ? cudaEventSynchronize(event)
                           : call == 3 ? cudaEventQuery(event)
                           : call == 4 ? cudaFreeHost(pinned)
                                       : cudaDeviceSynchronize();
        assert_int_equal(code, cudaErrorStreamCaptureUnsupported);
        assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    }
    (void)cudaGetLastError();
    assert_int_equal(cudaFreeHost(pinned), cudaSuccess);
    assert_int_equal(cudaEventDestroy(event), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(other), cudaSuccess);
}

static void a_capture_draws_in_streams_that_wait_for_it(void **state) {
    (void)state;
    uint32_t *p = device_words(0);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaStream_t stream = new_stream(), side = new_stream();
    cudaEvent_t fork = new_event(), join = new_event();
    for (int joined = 0; joined < 2; joined++) {
        assert_int_equal(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), 0);
        assert_int_equal(emu_add(p, 1, COUNT, stream), 0);
        assert_int_equal(cudaEventRecord(fork, stream), cudaSuccess);
        assert_int_equal(cudaStreamWaitEvent(side, fork, 0), cudaSuccess);
        assert_int_equal(emu_add(p, 2, COUNT, side), 0);
        assert_int_equal(cudaEventRecord(join, side), cudaSuccess);
        if (joined) assert_int_equal(cudaStreamWaitEvent(stream, join, 0), cudaSuccess);
        assert_int_equal(cudaStreamEndCapture(stream, &graph),
                         joined ? cudaSuccess : cudaErrorStreamCaptureUnjoined);
        (void)cudaGetLastError();
    }
    assert_int_equal(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    assert_int_equal(cudaGraphLaunch(exec, side), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(side), cudaSuccess);
    assert_int_equal(word_of(p), 3);
    assert_int_equal(cudaStreamWaitEvent(stream, join, 0), cudaErrorStreamCaptureIsolation);
    assert_int_equal(cudaGraphExecDestroy(exec), cudaSuccess);
    assert_int_equal(cudaGraphDestroy(graph), cudaSuccess);
    assert_int_equal(cudaEventDestroy(fork), cudaSuccess);
    assert_int_equal(cudaEventDestroy(join), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(side), cudaSuccess);
    assert_int_equal(cudaFree(p), cudaSuccess);
}

/* ---- launches, devices, errors */

static void launches_beyond_the_architecture_are_refused(void **state) {
    (void)state;
    assert_int_equal(emu_shape(1024, 0, NULL), 0);
    assert_int_equal(emu_shape(1025, 0, NULL), cudaErrorInvalidConfiguration);
    assert_int_equal(cudaGetLastError(), cudaSuccess); /* the launch has told it */
    assert_int_equal(emu_shape(0, 0, NULL), cudaErrorInvalidConfiguration);
    assert_int_equal(emu_shape(32, 49153, NULL), cudaErrorInvalidConfiguration);
    assert_int_equal(emu_opt_in(163 * 1024), 0);
    assert_int_equal(emu_shape(32, 163 * 1024, NULL), 0);
    assert_int_equal(emu_opt_in(163 * 1024 + 1), cudaErrorInvalidValue);
    emu_set_sm(86);
    assert_int_equal(emu_opt_in(100 * 1024), cudaErrorInvalidValue);
    emu_set_sm(90);
    assert_int_equal(emu_opt_in(227 * 1024), 0);
    assert_int_equal(emu_opt_in(48 * 1024), 0);
}

static void devices_are_counted_and_described(void **state) {
    (void)state;
    int count = 0, value = 0;
    cudaDeviceProp p;
    emu_set_devices(3);
    emu_set_sm(89);
    assert_int_equal(cudaGetDeviceCount(&count), cudaSuccess);
    assert_int_equal(count, 3);
    assert_int_equal(cudaGetDeviceProperties(&p, 2), cudaSuccess);
    assert_int_equal(p.major * 10 + p.minor, 89);
    assert_int_equal(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), 0);
    assert_int_equal(value, p.sharedMemPerBlockOptin);
    assert_int_equal(cudaGetDeviceProperties(&p, 3), cudaErrorInvalidDevice);
    assert_int_equal(cudaSetDevice(3), cudaErrorInvalidDevice);
    emu_set_devices(0);
    count = 7;
    assert_int_equal(cudaGetDeviceCount(&count), cudaErrorNoDevice);
    assert_int_equal(count, 7);
    assert_string_equal(cudaGetErrorName(cudaErrorNoDevice), "cudaErrorNoDevice");
    assert_string_equal(cudaGetErrorString(cudaErrorNoDevice),
                        "no CUDA-capable device is detected");
}

/* Streams, events, graphs and what a function may use are a device's; a thread has to choose it first. */
static void what_is_of_one_device_is_of_no_other(void **state) {
    (void)state;
    emu_set_devices(2);
    uint32_t *p = device_words(0);
    cudaStream_t first = new_stream();
    cudaEvent_t event = new_event();
    cudaGraphExec_t graph = captured_addition(first, p, 1);
    assert_int_equal(emu_opt_in(100 * 1024), 0);
    assert_int_equal(emu_shape(32, 100 * 1024, first), 0);
    assert_int_equal(cudaSetDevice(1), cudaSuccess);
    cudaStream_t second = new_stream();
    assert_int_equal(emu_shape(32, 100 * 1024, second), cudaErrorInvalidConfiguration);
    assert_int_equal(emu_shape(32, 0, first), cudaErrorInvalidResourceHandle);
    assert_int_equal(cudaEventRecord(event, second), cudaErrorInvalidResourceHandle);
    assert_int_equal(cudaStreamWaitEvent(second, event, 0), cudaSuccess);
    assert_int_equal(cudaMemsetAsync(p, 0, BYTES, first), cudaErrorInvalidResourceHandle);
    assert_int_equal(cudaGraphLaunch(graph, first), cudaErrorInvalidValue);
    (void)cudaGetLastError();
    assert_int_equal(cudaStreamDestroy(second), cudaSuccess);
    assert_int_equal(cudaSetDevice(0), cudaSuccess);
    assert_int_equal(emu_opt_in(48 * 1024), 0);
    assert_int_equal(cudaGraphExecDestroy(graph), cudaSuccess);
    assert_int_equal(cudaEventDestroy(event), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(first), cudaSuccess);
    assert_int_equal(cudaFree(p), cudaSuccess);
}

static void a_peers_memory_is_out_of_reach_until_it_is_enabled(void **state) {
    (void)state;
    int can = 0;
    emu_set_devices(2);
    emu_trap_faults(true);
    uint32_t *p = device_words(4);
    assert_int_equal(cudaSetDevice(1), cudaSuccess);
    assert_int_equal(emu_add(p, 1, COUNT, NULL), cudaErrorIllegalAddress);
    emu_reset();
    assert_int_equal(cudaDeviceCanAccessPeer(&can, 1, 0), cudaSuccess);
    assert_true(can);
    assert_int_equal(cudaDeviceEnablePeerAccess(0, 0), cudaSuccess);
    assert_int_equal(cudaDeviceEnablePeerAccess(0, 0), cudaErrorPeerAccessAlreadyEnabled);
    assert_int_equal(cudaGetLastError(), cudaErrorPeerAccessAlreadyEnabled);
    assert_int_equal(emu_add(p, 1, COUNT, NULL), cudaSuccess);
    assert_int_equal(word_of(p), 5);
    uint32_t *here = device_words(0);
    assert_int_equal(cudaMemcpyPeerAsync(here, 1, p, 0, BYTES, NULL), cudaSuccess);
    assert_int_equal(word_of(here), 5);
    assert_int_equal(cudaDeviceDisablePeerAccess(0), cudaSuccess);
    assert_int_equal(cudaDeviceDisablePeerAccess(0), cudaErrorPeerAccessNotEnabled);
    assert_int_equal(cudaFree(here), cudaSuccess);
    assert_int_equal(cudaFree(p), cudaSuccess);
}

static void a_kernel_gets_no_host_memory_by_mistake(void **state) {
    (void)state;
    uint32_t here[COUNT] = {0}, *p = device_words(0);
    emu_trap_faults(true);
    assert_int_equal(emu_add(here, 1, COUNT, NULL), cudaErrorIllegalAddress);
    emu_reset();
    assert_int_equal(cudaFree(p), cudaSuccess);
}

static void an_error_sticks_to_its_device(void **state) {
    (void)state;
    uint32_t here = 0, *p = device_words(0);
    void *more;
    emu_set_devices(2);
    emu_trap_faults(true);
    assert_int_equal(emu_add(&here, 1, 1, NULL), cudaErrorIllegalAddress);
    assert_int_equal(emu_add(p, 1, COUNT, NULL), cudaErrorIllegalAddress);
    assert_int_equal(cudaMalloc(&more, 4), cudaErrorIllegalAddress);
    assert_int_equal(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
    assert_int_equal(cudaSetDevice(1), cudaSuccess);
    assert_int_equal(cudaMalloc(&more, 4), cudaSuccess);
    assert_int_equal(cudaFree(more), cudaSuccess);
    assert_int_equal(cudaSetDevice(0), cudaSuccess);
    emu_reset();
    assert_int_equal(emu_add(p, 1, COUNT, NULL), cudaSuccess);
    assert_int_equal(word_of(p), 1);
    assert_int_equal(cudaFree(p), cudaSuccess);
}

/* ---- threads */

enum { ROUNDS = 20 };
struct worker {
    int device;
    uint32_t result;
};

static void *add_many_times(void *argument) {
    struct worker *w = argument;
    if (cudaSetDevice(w->device) != cudaSuccess) return NULL;
    uint32_t *p = device_words(0);
    cudaStream_t stream = new_stream();
    for (uint32_t i = 0; i < ROUNDS; i++)
        if (emu_add(p, (uint32_t)w->device + 1, COUNT, stream) != 0) return NULL;
    if (cudaStreamSynchronize(stream) != cudaSuccess) return NULL;
    w->result = word_of(p);
    (void)cudaStreamDestroy(stream);
    (void)cudaFree(p);
    return NULL;
}

static void threads_drive_devices_of_their_own(void **state) {
    (void)state;
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    struct worker workers[THREADS];
    emu_set_devices(THREADS);
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.device = i};
        assert_int_equal(pthread_create(&threads[i], NULL, add_many_times, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].result, ROUNDS * (i + 1));
    }
}

#define EAGER(test) cmocka_unit_test_setup(test, eager)
#define LAZY(test) cmocka_unit_test_setup(test, lazy)

int main(void) {
    const struct CMUnitTest tests[] = {
        EAGER(device_memory_begins_as_all_ones),
        EAGER(a_device_has_so_much_memory_and_tells),
        EAGER(copies_are_held_against_the_allocations),
        EAGER(a_copy_in_two_dimensions_skips_the_rest_of_each_row),
        EAGER(pointers_say_what_memory_they_are),
        LAZY(a_forgotten_wait_reads_the_old_bytes_when_lazy),
        LAZY(an_event_orders_two_streams),
        LAZY(pinned_staging_reused_too_early_sends_the_later_bytes),
        LAZY(pageable_memory_is_read_before_the_call_returns),
        EAGER(pageable_memory_is_read_before_the_call_returns),
        LAZY(queries_let_time_go_by),
        LAZY(a_launch_tells_of_an_error_that_nobody_took_back),
        LAZY(what_is_fetched_is_all_ones_until_it_is_there),
        LAZY(a_forgotten_wait_is_seen_now_and_then_when_random),
        LAZY(the_legacy_stream_waits_for_those_that_are_ordered_with_it),
        LAZY(host_functions_run_in_the_streams_order),
        EAGER(a_graph_replays_with_the_arguments_of_its_capture),
        LAZY(a_graph_replays_with_the_arguments_of_its_capture),
        EAGER(a_graph_that_outlives_its_memory_is_caught),
        EAGER(a_capture_refuses_what_cannot_be_replayed),
        EAGER(a_thread_that_captures_waits_for_nothing),
        LAZY(a_capture_draws_in_streams_that_wait_for_it),
        EAGER(launches_beyond_the_architecture_are_refused),
        EAGER(devices_are_counted_and_described),
        EAGER(what_is_of_one_device_is_of_no_other),
        EAGER(a_peers_memory_is_out_of_reach_until_it_is_enabled),
        EAGER(a_kernel_gets_no_host_memory_by_mistake),
        EAGER(an_error_sticks_to_its_device),
        EAGER(threads_drive_devices_of_their_own),
        LAZY(threads_drive_devices_of_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
