/* emu_stream.h - streams: queues of operations, and who runs them when.
 *
 * No thread of its own runs a stream. Eager: whatever can run runs inside the call that made it
 * possible. Lazy: an operation runs only when a call waits for it, or for what comes behind it, or
 * for what waits for it by an event; so that who forgets to wait reads what was there before, and
 * who reuses a buffer too early has the later bytes copied. Random: as lazy, but with every call some
 * streams go on by some operations, so that what is late in one run is early in another. What is being
 * fetched to pinned memory is all ones until it is there.
 *
 * Thread     all under the runtime's lock, which only host functions are run without. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_STREAM_H
#define EMU_STREAM_H

#include <cstdint>
#include <deque>
#include <memory>

#include "emu_runtime.h"

namespace cuemu {

struct Operation;
struct Capture;
using OperationRef = std::shared_ptr<Operation>;

} // namespace cuemu

struct CUstream_st {
    int device;
    bool with_legacy; /* ordered with the legacy stream, as streams are unless NonBlocking */
    std::deque<cuemu::OperationRef> queue;
    uint64_t entered, finished; /* operations, since the stream was made */
    bool running, pulled;       /* its first one runs; is being pulled (lazy) */
    cuemu::Capture *capture;
};

namespace cuemu {

using Stream = CUstream_st;

/* One thing that a stream does. */
struct Operation {
    virtual ~Operation() = default;
    virtual void run(Stream *stream) = 0;
    /* Its turn has come, on a device that is lost. */
    virtual void skip() {}
    /* May it run, being the first of its stream? */
    virtual bool ready() { return true; }
    /* Lazy: lets go on what it waits for; true if that may have helped. */
    virtual bool pull() { return false; }
    /* It enters a stream: operation `number` of it. */
    virtual void enter(Stream *, uint64_t) {}
    /* May it read or write some of this pinned memory? */
    virtual bool touches(const void *, size_t) const { return true; }
    /* What a launch of a graph puts on the stream in its place. */
    virtual OperationRef again(const OperationRef &self) { return self; }
};

/* The stream that a handle means for the calling thread, or null with the error noted. */
Stream *stream_of(cudaStream_t handle, cudaError_t *error);
Stream *legacy_stream(int device);

/* Puts it behind all others of the stream, or into the graph that the stream is captured to. */
cudaError_t stream_enter(Stream *stream, const OperationRef &operation);

/* Until the stream has finished `count` operations; gives up the lock meanwhile. Returns the
 * device's error. */
cudaError_t stream_wait(Stream *stream, uint64_t count);
bool stream_pull(Stream *stream, uint64_t count);
/* Goes on by an operation at most, as time would; true when `count` are finished. */
bool stream_poll(Stream *stream, uint64_t count);

/* Something outside of the streams has changed that operations wait for (ranks of a group). */
void streams_changed();
/* Waits for such a change. */
void streams_sleep();
void streams_progress();

/* For host functions: run with no lock held, and nobody else runs this stream meanwhile. */
struct Unlocked {
    Unlocked() { runtime_unlock(); }
    ~Unlocked() { runtime_lock(); }
};

/* May some operation that has not run yet, of any stream, touch this pinned memory? Not counting one. */
bool is_awaited(const void *at, size_t bytes, const Operation *but);

inline bool overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes) {
    const char *p = static_cast<const char *>(a), *q = static_cast<const char *>(b);
    return p < q + b_bytes && q < p + a_bytes;
}

/* The calling thread does what must not happen during a capture; cudaSuccess or why not. */
cudaError_t capture_forbids();
cudaError_t capture_enter(Stream *stream, const OperationRef &operation);

} // namespace cuemu

#endif
