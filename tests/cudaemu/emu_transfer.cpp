/* emu_transfer.cpp - copies and fills as operations of a stream.
 *
 * Pinned memory is read and written when the operation runs. Of pageable memory the runtime promises
 * less and more: what is sent is read before the call returns, what is fetched is there when it
 * returns. */
// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <vector>

#include "emu_device.h"
#include "emu_stream.h"

namespace cuemu {

/* height rows of width bytes, each side with its own distance between rows. */
struct Rows {
    char *to;
    const char *from;
    size_t to_pitch, from_pitch, width, height;
};

/* Bytes from the first row's begin to the last one's end. */
static size_t span(size_t pitch, const Rows &r) { return (r.height - 1) * pitch + r.width; }

struct Transfer final : Operation {
    Rows rows;
    std::vector<char> staged; /* what pageable memory held when it was sent */
    bool fetches = false;     /* to pinned memory */
    explicit Transfer(const Rows &r) : rows(r) {}
    void stage();
    void enter(Stream *, uint64_t) override;
    bool touches(const void *at, size_t bytes) const override {
        return overlap(at, bytes, rows.to, span(rows.to_pitch, rows)) ||
               overlap(at, bytes, rows.from, span(rows.from_pitch, rows));
    }
    void run(Stream *) override {
        for (size_t i = 0; i < rows.height; i++)
            memmove(rows.to + i * rows.to_pitch, rows.from + i * rows.from_pitch, rows.width);
    }
};

void Transfer::stage() {
    for (size_t i = 0; i < rows.height; i++) {
        const char *row = rows.from + i * rows.from_pitch;
        staged.insert(staged.end(), row, row + rows.width);
    }
    rows.from = staged.data();
    rows.from_pitch = rows.width;
}

/* From now on the host must not look; who does sees that. */
void Transfer::enter(Stream *, uint64_t) {
    if (!fetches || is_awaited(rows.to, span(rows.to_pitch, rows), this)) return;
    for (size_t i = 0; i < rows.height; i++)
        memset(rows.to + i * rows.to_pitch, 0xff, rows.width);
}

struct Fill final : Operation {
    void *at;
    int value;
    size_t bytes;
    Fill(void *a, int v, size_t n) : at(a), value(v), bytes(n) {}
    void run(Stream *) override { memset(at, value, bytes); }
    bool touches(const void *p, size_t n) const override { return overlap(at, bytes, p, n); }
};

enum class Side { device, pinned, pageable, bad };

/* What the range is; bad when it begins in an allocation and leaves it. */
static Side side_of(const void *at, size_t bytes) {
    const Allocation *begin = allocation_of(at, 1);
    if (!begin) return Side::pageable;
    if (!allocation_of(at, bytes)) return Side::bad;
    return begin->device >= 0 ? Side::device : Side::pinned;
}

static bool fits(cudaMemcpyKind kind, Side to, Side from) {
    bool to_device = to == Side::device, from_device = from == Side::device;
    switch (kind) {
    case cudaMemcpyHostToHost:
        return !to_device && !from_device;
    case cudaMemcpyHostToDevice:
        return to_device && !from_device;
    case cudaMemcpyDeviceToHost:
        return !to_device && from_device;
    case cudaMemcpyDeviceToDevice:
        return to_device && from_device;
    case cudaMemcpyDefault:
        return true;
    }
    return false;
}

/* Enters the copy; *waits: it must be over before the call returns. */
static cudaError_t enter_copy(const Rows &rows, cudaMemcpyKind kind, Stream *stream, bool *waits) {
    *waits = false;
    if (rows.width == 0 || rows.height == 0) return cudaSuccess;
    if (!rows.to || !rows.from || rows.to_pitch < rows.width || rows.from_pitch < rows.width)
        return failed(cudaErrorInvalidValue);
    Side to = side_of(rows.to, span(rows.to_pitch, rows));
    Side from = side_of(rows.from, span(rows.from_pitch, rows));
    if (to == Side::bad || from == Side::bad)
        return refused(cudaErrorInvalidValue, "a copy leaves the allocation that it begins in");
    if (!fits(kind, to, from))
        return refused(cudaErrorInvalidValue, "a copy's kind is not what its two sides are");
    bool pageable = to == Side::pageable || from == Side::pageable;
    if (pageable && stream->capture)
        return refused(cudaErrorStreamCaptureUnsupported, "captures a copy of pageable memory");
    auto copy = std::make_shared<Transfer>(rows);
    if (from == Side::pageable) copy->stage();
    copy->fetches = from == Side::device && to == Side::pinned;
    *waits = to == Side::pageable;
    return stream_enter(stream, copy);
}

static Rows one_row(void *to, const void *from, size_t bytes) {
    return Rows{static_cast<char *>(to), static_cast<const char *>(from), bytes, bytes, bytes, 1};
}

static cudaError_t copy(const Rows &rows, cudaMemcpyKind kind, cudaStream_t handle, bool wait) {
    Locked lock;
    cudaError_t error;
    Stream *stream = stream_of(handle, &error);
    if (!stream) return error;
    if (wait && (error = capture_forbids()) != cudaSuccess) return error;
    bool waits;
    error = enter_copy(rows, kind, stream, &waits);
    if (error != cudaSuccess || !(wait || waits)) return error;
    return stream_wait(stream, stream->entered);
}

static cudaError_t fill(void *memory, int value, size_t bytes, cudaStream_t handle, bool legacy) {
    Locked lock;
    cudaError_t error;
    Stream *stream = stream_of(handle, &error);
    if (!stream) return error;
    if (legacy && (error = capture_forbids()) != cudaSuccess) return error;
    if (stream->device != current_device())
        return refused(cudaErrorInvalidResourceHandle, "a fill on another device's stream");
    if (bytes == 0) return cudaSuccess;
    Side side = side_of(memory, bytes);
    if (side == Side::bad || side == Side::pageable)
        return refused(cudaErrorInvalidValue, "fills what is no memory of a device");
    return stream_enter(stream, std::make_shared<Fill>(memory, value, bytes));
}

} // namespace cuemu

using namespace cuemu;

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    return copy(one_row(to, from, bytes), kind, cudaStreamLegacy, true);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    return copy(one_row(to, from, bytes), kind, stream, false);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream) {
    Rows rows = {static_cast<char *>(to),
                 static_cast<const char *>(from),
                 to_pitch,
                 from_pitch,
                 width,
                 height};
    return copy(rows, kind, stream, false);
}

cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device,
                                size_t bytes, cudaStream_t stream) {
    if (!device_valid(to_device) || !device_valid(from_device))
        return failed(cudaErrorInvalidDevice);
    return copy(one_row(to, from, bytes), cudaMemcpyDeviceToDevice, stream, false);
}

cudaError_t cudaMemset(void *memory, int value, size_t bytes) {
    return fill(memory, value, bytes, cudaStreamLegacy, true);
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream) {
    return fill(memory, value, bytes, stream, false);
}
