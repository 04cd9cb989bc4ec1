/* emu_graph.cpp - graphs: what a stream is told is recorded, with its arguments as they are, and run later.
 *
 *   none --begin--> active --end--> none, with a graph
 *                     |--a forbidden call--> invalid --end--> none, with an error */
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "emu_capture.h"
#include "emu_device.h"

namespace cuemu {

static std::vector<Capture *> &captures() {
    static auto *all = new std::vector<Capture *>;
    return *all;
}

/* Does this capture object to a call that might wait or allocate, from the calling thread? */
static bool objects(const Capture *c) {
    if (c->mode == cudaStreamCaptureModeRelaxed) return false;
    return c->mode == cudaStreamCaptureModeGlobal || pthread_equal(c->thread, pthread_self());
}

cudaError_t capture_forbids() {
    bool any = false;
    for (Capture *c : captures()) {
        if (!objects(c)) continue;
        any = c->invalid = true;
    }
    if (!any) return cudaSuccess;
    return refused(cudaErrorStreamCaptureUnsupported, "this call is not allowed during a capture");
}

static cudaError_t check(const Capture *c) {
    return c->invalid ? failed(cudaErrorStreamCaptureInvalidated) : cudaSuccess;
}

static void touch(Capture *c, Stream *stream) {
    if (stream == c->origin) return;
    c->forked[stream] = c->graph->operations.size();
    c->drawn_in.insert(stream);
}

cudaError_t capture_enter(Stream *stream, const OperationRef &operation) {
    Capture *c = stream->capture;
    cudaError_t error = check(c);
    if (error != cudaSuccess) return error;
    c->graph->operations.push_back(operation);
    touch(c, stream);
    return cudaSuccess;
}

cudaError_t capture_record(Stream *stream, const MarkRef &mark) {
    mark->capture = stream->capture;
    mark->stream = stream;
    mark->captured = stream->capture->graph->operations.size();
    return check(stream->capture);
}

/* Draws the stream into the capture, or takes back what was forked. */
cudaError_t capture_await(Stream *stream, const MarkRef &mark) {
    bool alive = std::count(captures().begin(), captures().end(), mark->capture) == 1;
    if (!alive || (stream->capture && stream->capture != mark->capture))
        return refused(cudaErrorStreamCaptureIsolation,
                       "waits for an event across a capture's edge");
    Capture *c = mark->capture;
    cudaError_t error = check(c);
    if (error != cudaSuccess) return error;
    stream->capture = c;
    touch(c, stream);
    auto fork = c->forked.find(mark->stream);
    if (stream == c->origin && fork != c->forked.end() && fork->second <= mark->captured)
        c->forked.erase(fork);
    return cudaSuccess;
}

static void end(Capture *c) {
    auto &all = captures();
    all.erase(std::find(all.begin(), all.end(), c));
    c->origin->capture = nullptr;
    for (Stream *other : c->drawn_in)
        other->capture = nullptr;
    delete c;
}

} // namespace cuemu

using namespace cuemu;

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
    Locked lock;
    cudaError_t error;
    Stream *stream = stream_of(handle, &error);
    if (!stream) return error;
    if (stream == legacy_stream(stream->device))
        return refused(cudaErrorStreamCaptureUnsupported, "the legacy stream cannot be captured");
    if (stream->capture) return failed(cudaErrorIllegalState);
    auto *c = new Capture{new CUgraph_st, stream, pthread_self(), mode, false, {}, {}};
    captures().push_back(c);
    stream->capture = c;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *out) {
    Locked lock;
    cudaError_t error;
    *out = nullptr;
    Stream *stream = stream_of(handle, &error);
    if (!stream) return error;
    Capture *c = stream->capture;
    if (!c) return failed(cudaErrorIllegalState);
    if (c->origin != stream) return failed(cudaErrorStreamCaptureUnmatched);
    if (c->mode != cudaStreamCaptureModeRelaxed && !pthread_equal(c->thread, pthread_self()))
        return failed(cudaErrorStreamCaptureWrongThread);
    error = c->invalid           ? failed(cudaErrorStreamCaptureInvalidated)
            : !c->forked.empty() ? failed(cudaErrorStreamCaptureUnjoined)
                                 : cudaSuccess;
    if (error == cudaSuccess)
        *out = c->graph;
    else
        delete c->graph;
    end(c);
    return error;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus *out) {
    Locked lock;
    cudaError_t error;
    Stream *stream = stream_of(handle, &error);
    if (!stream) return error;
    *out = !stream->capture           ? cudaStreamCaptureStatusNone
           : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                      : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) {
    if (nodes) return failed(cudaErrorNotSupported);
    *count = graph->operations.size();
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long) {
    if (!graph) return failed(cudaErrorInvalidValue);
    *out = new CUgraphExec_st{graph->operations};
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t handle) {
    Locked lock;
    cudaError_t error;
    Stream *stream = stream_of(handle, &error);
    if (!stream) return error;
    if (stream->capture) return failed(cudaErrorNotSupported);
    if (stream->device != current_device())
        return refused(cudaErrorInvalidValue, "launches a graph on another device's stream");
    for (const OperationRef &operation : graph->operations) {
        error = stream_enter(stream, operation->again(operation));
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
