/* emu_ranks.h - ranks that exchange: who takes part in what, and when the bytes move.
 *
 * Every call is a part of a meeting: of all ranks of a communicator (its n-th collective), or of a
 * sender and a receiver (the n-th of that pair). Parts of one ncclGroup are one operation of a
 * stream. A part is posted when its operation is its stream's first; a meeting happens when all its
 * parts are posted, and moves the bytes of all of them at once. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_RANKS_H
#define EMU_RANKS_H

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "emu_stream.h"
#include "nccl.h"

namespace cuemu {

struct Part;
struct Communicator;
using PartRef = std::shared_ptr<Part>;
using CommunicatorRef = std::shared_ptr<Communicator>;

struct Meeting {
    std::vector<PartRef> parts;
    size_t wanted; /* parts */
    bool over;
};
using MeetingRef = std::shared_ptr<Meeting>;

struct Seat {
    int rank, device;
};

/* What the ranks of one unique id share. */
struct Circle {
    std::string id;
    int ranks;
    std::vector<Seat> joined;
    std::map<uint64_t, MeetingRef> collectives;                             /* not all there yet */
    std::map<std::pair<int, int>, std::vector<MeetingRef>> sends, receives; /* (from, to), ditto */
};

/* One rank's end. */
struct Communicator {
    std::shared_ptr<Circle> circle;
    int rank, device;
    bool blocking, aborted;
    ncclResult_t error; /* asynchronous */
    uint64_t collectives;
    bool complete() const { return circle->joined.size() == static_cast<size_t>(circle->ranks); }
};

enum class Exchanging { send, receive, gather, broadcast };

struct Part {
    Exchanging what;
    CommunicatorRef comm;
    const char *from;
    char *to;
    size_t bytes;
    int peer; /* or root */
    Stream *stream;
    uint64_t number;
    bool posted;
    MeetingRef meeting;
};

/* The parts of one group on one stream. */
struct RankExchange final : Operation {
    std::vector<PartRef> parts;
    bool ready() override;
    bool pull() override;
    void run(Stream *) override { withdraw(); }
    void skip() override { withdraw(); }
    void enter(Stream *stream, uint64_t number) override;
    bool touches(const void *at, size_t bytes) const override;
    OperationRef again(const OperationRef &self) override;

  private:
    void withdraw();
};

} // namespace cuemu

#endif
