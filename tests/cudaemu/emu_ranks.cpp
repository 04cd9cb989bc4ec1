/* emu_ranks.cpp - meetings of ranks. */
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "emu_ranks.h"

namespace cuemu {

static MeetingRef new_meeting(size_t wanted) {
    auto meeting = std::make_shared<Meeting>();
    meeting->wanted = wanted;
    return meeting;
}

/* The meeting of this rank's next collective. */
static MeetingRef next_collective(Communicator *comm) {
    Circle *circle = comm->circle.get();
    uint64_t number = comm->collectives++;
    MeetingRef meeting = circle->collectives[number];
    if (!meeting) {
        meeting = new_meeting(static_cast<size_t>(circle->ranks));
        circle->collectives[number] = meeting;
    }
    if (meeting->parts.size() + 1 == meeting->wanted) circle->collectives.erase(number);
    return meeting;
}

/* The oldest meeting that waits for this side of the pair, or a new one that waits for the other. */
static MeetingRef next_of_pair(const Part *part) {
    Circle *circle = part->comm->circle.get();
    bool sends = part->what == Exchanging::send;
    int rank = part->comm->rank;
    auto pair = sends ? std::make_pair(rank, part->peer) : std::make_pair(part->peer, rank);
    auto &mine = (sends ? circle->sends : circle->receives)[pair];
    auto &others = (sends ? circle->receives : circle->sends)[pair];
    MeetingRef meeting;
    if (others.empty()) {
        meeting = new_meeting(2);
        mine.push_back(meeting);
    } else {
        meeting = others.front();
        others.erase(others.begin());
    }
    return meeting;
}

void RankExchange::enter(Stream *stream, uint64_t number) {
    for (const PartRef &part : parts) {
        bool pair = part->what == Exchanging::send || part->what == Exchanging::receive;
        part->stream = stream;
        part->number = number;
        part->meeting = pair ? next_of_pair(part.get()) : next_collective(part->comm.get());
        part->meeting->parts.push_back(part);
    }
}

/* Leaves the meetings that did not take place: this rank was aborted, or its device lost. */
void RankExchange::withdraw() {
    for (const PartRef &part : parts) {
        auto &there = part->meeting->parts;
        there.erase(std::remove(there.begin(), there.end(), part), there.end());
    }
}

bool RankExchange::touches(const void *at, size_t bytes) const {
    for (const PartRef &part : parts)
        if (overlap(at, bytes, part->from, part->bytes) ||
            overlap(at, bytes, part->to, part->bytes * static_cast<size_t>(part->comm->circle->ranks)))
            return true;
    return false;
}

OperationRef RankExchange::again(const OperationRef &) {
    auto copy = std::make_shared<RankExchange>();
    for (const PartRef &part : parts)
        copy->parts.push_back(std::make_shared<Part>(*part));
    return copy;
}

static bool agree(const Meeting *meeting) {
    const Part *first = meeting->parts[0].get();
    for (const PartRef &part : meeting->parts) {
        if (part->bytes != first->bytes) return false;
        if (meeting->wanted == 2 && part->what == Exchanging::send) continue;
        if (meeting->wanted == 2 && part->what == Exchanging::receive) continue;
        if (part->what != first->what || part->peer != first->peer) return false;
    }
    return true;
}

/* The library would hang, or mix the bytes up. */
static void report_disagreement(const Meeting *meeting) {
    fprintf(stderr, "cudaemu: ranks disagree on what they exchange:\n");
    for (const PartRef &part : meeting->parts) {
        fprintf(stderr, "  rank %d: kind %d, %zu bytes, peer or root %d\n", part->comm->rank,
                static_cast<int>(part->what), part->bytes, part->peer);
        part->comm->error = ncclInvalidUsage;
    }
}

static void gather(const Meeting *meeting) {
    for (const PartRef &to : meeting->parts)
        for (const PartRef &from : meeting->parts)
            memmove(to->to + static_cast<size_t>(from->comm->rank) * to->bytes, from->from,
                    to->bytes);
}

/* From the root, or the sender, to all others. */
static void spread(const Meeting *meeting) {
    const Part *source = nullptr;
    for (const PartRef &part : meeting->parts)
        if (part->what == Exchanging::send ||
            (part->what == Exchanging::broadcast && part->comm->rank == part->peer))
            source = part.get();
    for (const PartRef &part : meeting->parts)
        if (part->to) memmove(part->to, source->from, source->bytes);
}

static void take_place(Meeting *meeting) {
    memory_open();
    if (!agree(meeting))
        report_disagreement(meeting);
    else if (meeting->parts[0]->what == Exchanging::gather)
        gather(meeting);
    else
        spread(meeting);
    memory_close();
    meeting->over = true;
    std::vector<PartRef>().swap(meeting->parts); /* parts and meeting hold each other */
    streams_changed();
}

static bool all_posted(const Meeting *meeting) {
    if (meeting->parts.size() < meeting->wanted) return false;
    for (const PartRef &part : meeting->parts)
        if (!part->posted) return false;
    return true;
}

/* Posts all parts, holds the meetings that are complete. */
bool RankExchange::ready() {
    bool over = true;
    for (const PartRef &part : parts) {
        part->posted = true;
        if (!part->meeting->over && all_posted(part->meeting.get()))
            take_place(part->meeting.get());
        over = over && (part->meeting->over || part->comm->aborted);
    }
    return over;
}

/* Brings another rank's part to the front of its stream and posts it. */
static bool bring(const PartRef &part) {
    if (part->posted) return true;
    if (!stream_pull(part->stream, part->number - 1)) return false;
    if (part->stream->finished == part->number - 1) part->stream->queue.front()->ready();
    return part->posted;
}

/* True if all of it can take place now: then the stream's next step is this operation's. */
bool RankExchange::pull() {
    bool can = true;
    for (const PartRef &part : parts) {
        std::vector<PartRef> others =
            part->meeting->parts; /* a copy: it may take place meanwhile */
        bool all = others.size() == part->meeting->wanted;
        for (const PartRef &other : others)
            all = bring(other) && all;
        can = can && (all || part->meeting->over);
    }
    return can;
}

} // namespace cuemu
