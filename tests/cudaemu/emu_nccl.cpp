/* emu_nccl.cpp - the calls of NCCL: communicators come and go, groups collect their parts. */
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstring>

#include "emu_device.h"
#include "emu_ranks.h"

struct ncclComm {
    cuemu::CommunicatorRef state;
};

namespace cuemu {

/* Circles that some rank has yet to join. */
static std::vector<std::shared_ptr<Circle>> &forming() {
    static auto *all = new std::vector<std::shared_ptr<Circle>>;
    return *all;
}

static std::shared_ptr<Circle> circle_of(const std::string &id, int ranks) {
    for (auto &circle : forming())
        if (circle->id == id) return circle;
    auto circle = std::make_shared<Circle>();
    circle->id = id;
    circle->ranks = ranks;
    forming().push_back(circle);
    return circle;
}

static void forget_forming(const std::shared_ptr<Circle> &circle) {
    auto &all = forming();
    for (size_t i = 0; i < all.size(); i++)
        if (all[i] == circle) {
            all.erase(all.begin() + static_cast<long>(i));
            return;
        }
}

static ncclResult_t complain(const char *what) {
    fprintf(stderr, "cudaemu: nccl: %s\n", what);
    return ncclInvalidUsage;
}

static ncclResult_t may_join(const Circle *circle, int ranks, int rank) {
    if (circle->ranks != ranks) return complain("ranks disagree on how many they are");
    for (const Seat &other : circle->joined) {
        if (other.rank == rank) return complain("two ranks of one number");
        if (other.device == current_device()) return complain("two ranks on one device");
    }
    return ncclSuccess;
}

/* A rank's own thread and what it has begun in a group. */
struct Pending {
    CommunicatorRef comm;
    Stream *stream;
    PartRef part; /* null: the communicator is being made */
};
static thread_local int group_depth;
static thread_local std::vector<Pending> pending;

static ncclResult_t wait_for_all_ranks(Communicator *comm) {
    while (!comm->complete() && !comm->aborted)
        streams_sleep();
    return comm->aborted ? ncclSystemError : ncclSuccess;
}

static ncclResult_t join(ncclComm_t *out, int ranks, const ncclUniqueId &id, int rank,
                         bool blocking) {
    *out = nullptr;
    if (device_none()) return ncclUnhandledCudaError;
    if (ranks < 1 || rank < 0 || rank >= ranks) return ncclInvalidArgument;
    Locked lock;
    auto circle = circle_of(std::string(id.internal, sizeof id.internal), ranks);
    ncclResult_t result = may_join(circle.get(), ranks, rank);
    if (result != ncclSuccess) return result;
    auto comm = std::make_shared<Communicator>();
    comm->circle = circle;
    comm->rank = rank;
    comm->device = current_device();
    comm->blocking = blocking;
    circle->joined.push_back(Seat{rank, comm->device});
    if (comm->complete()) forget_forming(circle);
    streams_changed();
    *out = new ncclComm{comm};
    if (group_depth) {
        pending.push_back(Pending{comm, nullptr, nullptr});
        return ncclSuccess;
    }
    return blocking ? wait_for_all_ranks(comm.get()) : ncclInProgress;
}

/* Puts the parts of one communicator and stream, from the i-th on, on that stream as one operation. */
static ncclResult_t enter_exchange(size_t i) {
    auto exchange = std::make_shared<RankExchange>();
    Pending first = pending[i];
    for (size_t j = i; j < pending.size(); j++) {
        Pending &p = pending[j];
        if (!p.part || p.comm != first.comm || p.stream != first.stream) continue;
        exchange->parts.push_back(p.part);
        p.part = nullptr;
    }
    return stream_enter(first.stream, exchange) == cudaSuccess ? ncclSuccess
                                                               : ncclUnhandledCudaError;
}

static ncclResult_t end_group() {
    ncclResult_t result = ncclSuccess;
    bool blocking = true;
    for (size_t i = 0; i < pending.size() && result == ncclSuccess; i++) {
        bool making = !pending[i].stream;
        blocking = blocking && pending[i].comm->blocking;
        if (pending[i].part) result = enter_exchange(i);
        if (making && pending[i].comm->blocking) result = wait_for_all_ranks(pending[i].comm.get());
    }
    pending.clear();
    return result == ncclSuccess && !blocking ? ncclInProgress : result;
}

static size_t bytes_of(ncclDataType_t type) {
    switch (type) {
    case ncclInt8:
    case ncclUint8:
        return 1;
    case ncclFloat16:
    case ncclBfloat16:
        return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
        return 4;
    default:
        return 8;
    }
}

static bool memory_of_device(const void *at, size_t bytes, int device) {
    if (bytes == 0) return true;
    const Allocation *a = allocation_of(at, bytes);
    return a && (a->device < 0 || a->device == device);
}

static ncclResult_t check_memory(const Part *part) {
    const Communicator *comm = part->comm.get();
    size_t into = part->bytes;
    if (part->what == Exchanging::gather) into *= static_cast<size_t>(comm->circle->ranks);
    bool reads = part->what != Exchanging::receive &&
                 !(part->what == Exchanging::broadcast && part->peer != comm->rank);
    if (reads && !memory_of_device(part->from, part->bytes, comm->device)) {
        complain("sends what is no memory of its device");
        return ncclInvalidArgument;
    }
    if (part->what != Exchanging::send && !memory_of_device(part->to, into, comm->device)) {
        complain("receives into what is no memory of its device");
        return ncclInvalidArgument;
    }
    return ncclSuccess;
}

/* Into the group that is open, or one of its own. */
static ncclResult_t exchange(ncclComm_t handle, const Part &asked, cudaStream_t stream_handle) {
    if (!handle) return ncclInvalidArgument;
    Locked lock;
    cudaError_t error;
    Stream *stream = stream_of(stream_handle, &error);
    if (!stream) return ncclInvalidArgument;
    CommunicatorRef comm = handle->state;
    auto part = std::make_shared<Part>(asked);
    part->comm = comm;
    if (!comm->complete() || comm->aborted) return complain("a communicator that is not ready");
    if (comm->error != ncclSuccess) return comm->error;
    if (part->peer < 0 || part->peer >= comm->circle->ranks || stream->device != comm->device)
        return ncclInvalidArgument;
    ncclResult_t result = check_memory(part.get());
    if (result != ncclSuccess) return result;
    pending.push_back(Pending{comm, stream, part});
    return group_depth ? ncclSuccess : end_group();
}

static Part part_of(Exchanging what, const void *from, void *to, size_t count, ncclDataType_t type,
                    int peer) {
    Part part = {};
    part.what = what;
    part.from = static_cast<const char *>(from);
    part.to = static_cast<char *>(to);
    part.bytes = count * bytes_of(type);
    part.peer = peer;
    return part;
}

/* Its own operations go on as if done; other ranks wait for it in vain, as with the library. */
static void leave(Communicator *comm) {
    comm->aborted = true;
    auto circle = comm->circle;
    if (!comm->complete()) {
        forget_forming(circle);
        circle->joined.clear();
    }
    streams_changed();
    streams_progress();
}

} // namespace cuemu

using namespace cuemu;

ncclResult_t ncclGetVersion(int *version) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    Locked lock;
    static unsigned count;
    *id = ncclUniqueId{};
    snprintf(id->internal, sizeof id->internal, "emulated %u", ++count);
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
    switch (result) {
    case ncclSuccess:
        return "no error";
    case ncclUnhandledCudaError:
        return "unhandled cuda error";
    case ncclSystemError:
        return "unhandled system error";
    case ncclInternalError:
        return "internal error";
    case ncclInvalidArgument:
        return "invalid argument";
    case ncclInvalidUsage:
        return "invalid usage";
    case ncclRemoteError:
        return "remote process exited or there was a network error";
    case ncclInProgress:
        return "NCCL operation in progress";
    default:
        return "unknown result code";
    }
}

const char *ncclGetLastError(ncclComm_t) { return ""; }

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank) {
    return join(comm, ranks, id, rank, true);
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
    return join(comm, ranks, id, rank, !config || config->blocking != 0);
}

ncclResult_t ncclCommInitAll(ncclComm_t *comms, int devices, const int *device_list) {
    ncclUniqueId id;
    int before;
    if (cudaGetDevice(&before) != cudaSuccess) return ncclUnhandledCudaError;
    ncclGetUniqueId(&id);
    for (int i = 0; i < devices; i++)
        comms[i] = nullptr;
    ncclGroupStart();
    ncclResult_t result = ncclSuccess;
    for (int i = 0; i < devices && result == ncclSuccess; i++) {
        if (cudaSetDevice(device_list ? device_list[i] : i) != cudaSuccess)
            result = ncclInvalidArgument;
        else
            result = ncclCommInitRank(&comms[i], devices, id, i);
    }
    if (result != ncclSuccess) pending.clear();
    ncclResult_t ended = ncclGroupEnd();
    (void)cudaSetDevice(before);
    if (result == ncclSuccess) return ended;
    for (int i = 0; i < devices; i++)
        (void)ncclCommAbort(comms[i]);
    return result;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) { return comm ? ncclSuccess : ncclInvalidArgument; }

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
    if (!comm) return ncclInvalidArgument;
    Locked lock;
    leave(comm->state.get());
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error) {
    if (!comm) return ncclInvalidArgument;
    Locked lock;
    *error = comm->state->error;
    if (*error == ncclSuccess && !comm->state->complete()) *error = ncclInProgress;
    return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int *ranks) {
    *ranks = comm->state->circle->ranks;
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank) {
    *rank = comm->state->rank;
    return ncclSuccess;
}

ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int *device) {
    *device = comm->state->device;
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void) {
    group_depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void) {
    if (group_depth == 0) return ncclInvalidUsage;
    if (--group_depth) return ncclSuccess;
    Locked lock;
    return end_group();
}

ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
    return exchange(comm, part_of(Exchanging::send, from, nullptr, count, type, peer), stream);
}

ncclResult_t ncclRecv(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
    return exchange(comm, part_of(Exchanging::receive, nullptr, to, count, type, peer), stream);
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
    return exchange(comm, part_of(Exchanging::gather, from, to, count, type, 0), stream);
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
    return exchange(comm, part_of(Exchanging::broadcast, from, to, count, type, root), stream);
}
