/* emu_event.cpp - the calls of events. */
// SPDX-License-Identifier: Apache-2.0
#include <ctime>

#include "emu_capture.h"
#include "emu_device.h"
#include "emu_event.h"

struct CUevent_st {
    cuemu::MarkRef mark; /* null: never recorded, which counts as passed */
    bool timed;
    int device;
};

namespace cuemu {

static double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

void RecordMark::enter(Stream *stream, uint64_t number) {
    mark->stream = stream;
    mark->number = number;
}

void RecordMark::run(Stream *) {
    mark->seconds = now();
    mark->passed = true;
}

} // namespace cuemu

using namespace cuemu;

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    if (device_none()) return failed(cudaErrorNoDevice);
    *out = new CUevent_st{nullptr, !(flags & cudaEventDisableTiming), current_device()};
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out) {
    return cudaEventCreateWithFlags(out, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    if (!event) return failed(cudaErrorInvalidResourceHandle);
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
    Locked lock;
    cudaError_t error;
    Stream *stream = stream_of(handle, &error);
    if (!stream) return error;
    if (!event) return failed(cudaErrorInvalidResourceHandle);
    if (event->device != stream->device)
        return refused(cudaErrorInvalidResourceHandle, "records an event of another device");
    MarkRef mark = std::make_shared<Mark>();
    if (stream->capture)
        error = capture_record(stream, mark);
    else
        error = stream_enter(stream, std::make_shared<RecordMark>(mark));
    if (error == cudaSuccess) event->mark = mark;
    return error;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
    Locked lock;
    cudaError_t error;
    Stream *stream = stream_of(handle, &error);
    if (!stream) return error;
    if (!event) return failed(cudaErrorInvalidResourceHandle);
    MarkRef mark = event->mark;
    if (!mark) return cudaSuccess;
    if (stream->capture || mark->capture) return capture_await(stream, mark);
    return stream_enter(stream, std::make_shared<AwaitMark>(mark));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    Locked lock;
    if (!event) return failed(cudaErrorInvalidResourceHandle);
    MarkRef mark = event->mark;
    if (!mark) return cudaSuccess;
    if (mark->capture)
        return refused(cudaErrorStreamCaptureUnsupported, "waits for an event of a capture");
    if (cudaError_t error = capture_forbids()) return error;
    if (mark->passed) return cudaSuccess;
    return stream_wait(mark->stream, mark->number);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    Locked lock;
    if (!event) return failed(cudaErrorInvalidResourceHandle);
    MarkRef mark = event->mark;
    if (!mark) return cudaSuccess;
    if (mark->capture)
        return refused(cudaErrorStreamCaptureUnsupported, "queries an event of a capture");
    if (cudaError_t error = capture_forbids()) return error;
    if (!mark->passed && !stream_poll(mark->stream, mark->number))
        return failed(cudaErrorNotReady);
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
    Locked lock;
    if (!start || !end || !start->timed || !end->timed || !start->mark || !end->mark ||
        start->device != end->device)
        return failed(cudaErrorInvalidResourceHandle);
    if (!start->mark->passed || !end->mark->passed) return failed(cudaErrorNotReady);
    *milliseconds = static_cast<float>((end->mark->seconds - start->mark->seconds) * 1e3);
    return cudaSuccess;
}
