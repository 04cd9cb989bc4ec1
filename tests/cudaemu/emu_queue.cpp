/* emu_queue.cpp - the streams of all devices, and what runs next. */
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <vector>

#include "emu_device.h"
#include "emu_event.h"
#include "emu_settings.h"
#include "emu_stream.h"

namespace cuemu {

static std::mutex mutex;

void runtime_lock() { mutex.lock(); }
void runtime_unlock() { mutex.unlock(); }

/* Never destroyed: threads may still wait when the process ends. */
struct Queues {
    std::vector<Stream *> streams;
    Stream *legacy[DEVICES_MAX];
    std::condition_variable changed;
};
static Queues &queues() {
    static auto *q = new Queues();
    return *q;
}

static Stream *new_stream(int device, bool with_legacy) {
    auto *stream = new Stream();
    stream->device = device;
    stream->with_legacy = with_legacy;
    queues().streams.push_back(stream);
    return stream;
}

Stream *legacy_stream(int device) {
    Stream *&legacy = queues().legacy[device];
    if (!legacy) legacy = new_stream(device, false);
    return legacy;
}

Stream *stream_of(cudaStream_t handle, cudaError_t *error) {
    *error = cudaSuccess;
    if (device_none()) {
        *error = failed(cudaErrorNoDevice);
        return nullptr;
    }
    if (!handle || handle == cudaStreamLegacy) return legacy_stream(current_device());
    auto &all = queues().streams;
    if (std::find(all.begin(), all.end(), handle) != all.end()) return handle;
    *error = refused(cudaErrorInvalidResourceHandle, "no such stream");
    return nullptr;
}

void streams_changed() { queues().changed.notify_all(); }

/* Who waits for long waits for ever, as a rule: a rank that never comes. */
void streams_sleep() {
    std::unique_lock<std::mutex> lock(mutex, std::adopt_lock);
    if (queues().changed.wait_for(lock, std::chrono::seconds(30)) == std::cv_status::timeout)
        fprintf(stderr,
                "cudaemu: device %d of this thread: nothing has moved for 30 s; is a rank of "
                "an exchange missing?\n",
                current_device());
    lock.release();
}

/* Runs the stream's first operation if that can be. On a lost device it just leaves. */
static bool step(Stream *stream) {
    if (stream->running || stream->queue.empty()) return false;
    OperationRef operation = stream->queue.front();
    bool lost = device_error(stream->device) != cudaSuccess;
    if (!lost && !operation->ready()) return false;
    stream->running = true;
    memory_open();
    if (lost)
        operation->skip();
    else
        operation->run(stream);
    memory_close();
    stream->running = false;
    stream->queue.pop_front();
    stream->finished++;
    streams_changed();
    return true;
}

/* By index: a host function may make or destroy streams meanwhile. */
static void run_all_that_can() {
    auto &all = queues().streams;
    for (bool any = true; any;) {
        any = false;
        for (size_t i = 0; i < all.size(); i++)
            while (i < all.size() && step(all[i]))
                any = true;
    }
}

/* Random: time goes by, for these streams and for those not. */
static void run_some() {
    uint64_t &random = settings()->random;
    auto &all = queues().streams;
    for (int tries = 0; tries < 2 && !all.empty(); tries++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if (random >> 60 < 8) step(all[random % all.size()]);
    }
}

void streams_progress() {
    if (settings()->streams == EMU_STREAMS_EAGER) run_all_that_can();
    if (settings()->streams == EMU_STREAMS_RANDOM) run_some();
}

bool is_awaited(const void *at, size_t bytes, const Operation *but) {
    for (const Stream *stream : queues().streams)
        for (const OperationRef &operation : stream->queue)
            if (operation.get() != but && operation->touches(at, bytes)) return true;
    return false;
}

bool stream_pull(Stream *stream, uint64_t count) {
    if (stream->pulled) return false; /* it waits for itself in a circle, so far */
    stream->pulled = true;
    bool goes_on = true;
    while (stream->finished < count && goes_on && !stream->queue.empty())
        goes_on = step(stream) || (!stream->running && stream->queue.front()->pull());
    stream->pulled = false;
    return stream->finished >= count;
}

cudaError_t stream_wait(Stream *stream, uint64_t count) {
    for (;;) {
        streams_progress();
        if (settings()->streams != EMU_STREAMS_EAGER) stream_pull(stream, count);
        if (stream->finished >= count) return failed(device_error(stream->device));
        streams_sleep();
    }
}

bool stream_poll(Stream *stream, uint64_t count) {
    streams_progress();
    if (settings()->streams != EMU_STREAMS_EAGER && stream->finished < count && !step(stream) &&
        !stream->queue.empty())
        stream->queue.front()->pull();
    return stream->finished >= count;
}

static void push(Stream *stream, const OperationRef &operation) {
    stream->queue.push_back(operation);
    operation->enter(stream, ++stream->entered);
}

/* What enters `later` runs after all that is in `earlier` now. */
static void put_behind(Stream *later, Stream *earlier) {
    if (earlier->queue.empty()) return;
    MarkRef mark = std::make_shared<Mark>();
    push(earlier, std::make_shared<RecordMark>(mark));
    push(later, std::make_shared<AwaitMark>(mark));
}

static cudaError_t order_with_legacy(Stream *stream) {
    Stream *legacy = queues().legacy[stream->device];
    if (!legacy) return cudaSuccess;
    if (stream->with_legacy) put_behind(stream, legacy);
    if (stream != legacy) return cudaSuccess;
    for (Stream *other : queues().streams) {
        if (other->device != stream->device || !other->with_legacy) continue;
        if (other->capture)
            return refused(cudaErrorStreamCaptureImplicit, "the legacy stream is used during a "
                                                           "capture of a stream ordered with it");
        put_behind(legacy, other);
    }
    return cudaSuccess;
}

cudaError_t stream_enter(Stream *stream, const OperationRef &operation) {
    cudaError_t error = device_error(stream->device);
    if (error != cudaSuccess) return failed(error);
    if (stream->capture) return capture_enter(stream, operation);
    error = order_with_legacy(stream);
    if (error != cudaSuccess) return error;
    push(stream, operation);
    streams_changed();
    streams_progress();
    return cudaSuccess;
}

/* Of one device, or of all (-1). */
static cudaError_t wait_for_streams(int device) {
    auto &all = queues().streams;
    for (size_t i = 0; i < all.size(); i++)
        if (device < 0 || all[i]->device == device) stream_wait(all[i], all[i]->entered);
    return device < 0 ? cudaSuccess : failed(device_error(device));
}

} // namespace cuemu

using namespace cuemu;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    Locked lock;
    if (device_none()) return failed(cudaErrorNoDevice);
    if (flags & ~unsigned{cudaStreamNonBlocking}) return failed(cudaErrorInvalidValue);
    *out = new_stream(current_device(), !(flags & cudaStreamNonBlocking));
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *out) {
    return cudaStreamCreateWithFlags(out, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int) {
    return cudaStreamCreateWithFlags(out, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
    Locked lock;
    cudaError_t error;
    Stream *stream = stream_of(handle, &error);
    if (!stream) return error;
    if (stream == queues().legacy[stream->device]) return failed(cudaErrorInvalidResourceHandle);
    stream_wait(stream, stream->entered);
    auto &all = queues().streams;
    all.erase(std::find(all.begin(), all.end(), stream));
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    Locked lock;
    cudaError_t error;
    Stream *stream = stream_of(handle, &error);
    if (!stream) return error;
    if (stream->capture)
        return refused(cudaErrorStreamCaptureUnsupported, "cudaStreamSynchronize during a capture");
    if ((error = capture_forbids()) != cudaSuccess) return error;
    return stream_wait(stream, stream->entered);
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
    Locked lock;
    cudaError_t error;
    Stream *stream = stream_of(handle, &error);
    if (!stream) return error;
    if (stream->capture)
        return refused(cudaErrorStreamCaptureUnsupported, "cudaStreamQuery during a capture");
    if ((error = capture_forbids()) != cudaSuccess) return error;
    if (!stream_poll(stream, stream->entered)) return failed(cudaErrorNotReady);
    return failed(device_error(stream->device));
}

cudaError_t cudaDeviceSynchronize(void) {
    Locked lock;
    if (device_none()) return failed(cudaErrorNoDevice);
    cudaError_t error = capture_forbids();
    return error != cudaSuccess ? error : wait_for_streams(current_device());
}

cudaError_t cudaDeviceReset(void) { return cudaDeviceSynchronize(); }

void emu_set_streams(emu_streams when) {
    Locked lock;
    wait_for_streams(-1);
    settings()->streams = when;
}
