/* emu_event.h - events: marks in streams. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_EVENT_H
#define EMU_EVENT_H

#include "emu_stream.h"

namespace cuemu {

/* One record of an event; the event may be recorded anew while others still wait for this one. */
struct Mark {
    Stream *stream;
    uint64_t number; /* the recording operation of that stream */
    double seconds;  /* when it was passed */
    bool passed;
    Capture *capture; /* recorded into a graph: orders within it only */
    size_t captured;  /* operations in the graph then */
};
using MarkRef = std::shared_ptr<Mark>;

struct RecordMark final : Operation {
    MarkRef mark;
    explicit RecordMark(const MarkRef &m) : mark(m) {}
    void enter(Stream *stream, uint64_t number) override;
    void run(Stream *stream) override;
    void skip() override { mark->passed = true; }
    bool touches(const void *, size_t) const override { return false; }
};

struct AwaitMark final : Operation {
    MarkRef mark;
    explicit AwaitMark(const MarkRef &m) : mark(m) {}
    bool ready() override { return mark->passed; }
    bool touches(const void *, size_t) const override { return false; }
    bool pull() override { return stream_pull(mark->stream, mark->number); }
    void run(Stream *) override {}
};

} // namespace cuemu

#endif
