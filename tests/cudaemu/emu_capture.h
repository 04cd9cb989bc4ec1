/* emu_capture.h - a graph being recorded. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_CAPTURE_H
#define EMU_CAPTURE_H

#include <map>
#include <set>
#include <vector>

#include <pthread.h>

#include "emu_event.h"

/* Operations in the order they were captured, which respects every dependency; run in that order. */
struct CUgraph_st {
    std::vector<cuemu::OperationRef> operations;
};
struct CUgraphExec_st {
    std::vector<cuemu::OperationRef> operations;
};

namespace cuemu {

struct Capture {
    CUgraph_st *graph;
    Stream *origin;
    pthread_t thread;
    cudaStreamCaptureMode mode;
    bool invalid;
    /* Of each other stream that was drawn in: operations in the graph when it last did something. */
    std::map<Stream *, size_t> forked;
    std::set<Stream *> drawn_in; /* all that ever were */
};

/* Records or awaits an event inside a capture. */
cudaError_t capture_record(Stream *stream, const MarkRef &mark);
cudaError_t capture_await(Stream *stream, const MarkRef &mark);

} // namespace cuemu

#endif
