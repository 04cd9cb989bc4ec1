/* cuda_replay.c - see cuda_replay.h. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_replay.h"

#include <stdlib.h>

#include "engine/base/mem.h"
#include "kernels/cuda/cuda_step.h"

static const uint32_t sizes[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128};
enum { REPLAY_SIZES = sizeof sizes / sizeof *sizes };

typedef enum replay_state { REPLAY_NEW, REPLAY_MET, REPLAY_READY, REPLAY_REFUSED } replay_state;

typedef struct replay_graph {
    replay_state state;
    cudaGraphExec_t exec; /* READY */
    uint32_t tables;      /* of adapters that its step has */
} replay_graph;

typedef struct cuda_replay {
    uint32_t size_max;                    /* sequences; 0: nothing is remembered */
    uint32_t groups, stride;              /* of the batches */
    replay_graph graphs[REPLAY_SIZES][2]; /* without and with adapters */
    replay_graph *now;                    /* the step's; NULL: it is none of them */
    bool again;                           /* the step is called a second time, as it is */
    bool launched;                        /* it is on its way already */
    uint64_t bytes, count;
} cuda_replay;

void replay_open(kern_device *dev) { dev->replay = mem_new(1, sizeof *dev->replay); }

static void forget(replay_graph *g) {
    if (g->exec) (void)cudaGraphExecDestroy(g->exec);
    *g = (replay_graph){0};
}

void replay_forget(kern_device *dev) {
    cuda_replay *r = dev->replay;
    (void)cudaStreamSynchronize(dev->stream); /* one may be on its way */
    for (uint32_t i = 0; i < REPLAY_SIZES; i++)
        for (uint32_t adapters = 0; adapters < 2; adapters++)
            forget(&r->graphs[i][adapters]);
    r->bytes = 0;
}

void replay_close(kern_device *dev) {
    if (!dev->replay) return;
    replay_forget(dev);
    free(dev->replay);
    dev->replay = NULL;
}

void replay_reserve(kern_device *dev, const kern_reserve *most) {
    cuda_replay *r = dev->replay;
    uint32_t room = most->tokens < most->rows ? most->tokens : most->rows;
    r->size_max = 0;
    for (uint32_t i = 0; i < REPLAY_SIZES && dev->replays; i++)
        if (sizes[i] <= room) r->size_max = sizes[i];
}

uint32_t replay_size(uint32_t seqs) {
    for (uint32_t i = 0; i < REPLAY_SIZES; i++)
        if (sizes[i] >= seqs) return sizes[i];
    return seqs;
}

uint64_t replay_count(const kern_device *dev) { return dev->replay->count; }

/* ---- other ranks ---- */

static uint32_t least_of_all(const kern_device *dev, uint32_t own) {
    return dev->least ? dev->least(dev->least_arg, own) : own;
}

/* As far as the last rank is; NULL: there one is refused. */
static replay_graph *as_all(kern_device *dev, replay_graph *g) {
    uint32_t own = g->state == REPLAY_REFUSED ? 0 : 1 + g->state, least = least_of_all(dev, own);
    if (least == 0) return NULL;
    if (least < own) {
        uint32_t tables = g->tables;
        (void)CUDA_OK(dev, cudaStreamSynchronize(dev->stream)); /* it may be on its way */
        forget(g);
        g->tables = tables;
        g->state = (replay_state)(least - 1);
    }
    return g;
}

/* ---- begin ---- */

static bool is_decode(const step_batch *b) {
    if (b->token_count != b->seq_count || b->row_count != b->seq_count) return false;
    for (uint32_t s = 0; s < b->seq_count; s++)
        if (b->seq_tokens[s] != 1) return false;
    return b->seq_count > 0;
}

/* The graph of a step, and for how many sequences; NULL: it has none. */
static replay_graph *graph_of(kern_device *dev, const kern_step *step, uint32_t *size) {
    cuda_replay *r = dev->replay;
    const step_batch *b = step->batch;
    if (!step->repeats || b->seq_count > r->size_max || !is_decode(b)) return NULL;
    uint32_t i = 0;
    while (sizes[i] < b->seq_count)
        i++;
    *size = sizes[i];
    return as_all(dev, &r->graphs[i][step->adapters]);
}

static void launch(kern_device *dev, const replay_graph *g) {
    if (!cuda_is_well(dev)) return;
    (void)CUDA_OK(dev, cudaGraphLaunch(g->exec, dev->stream));
    dev->replay->count++;
}

/* Graphs find a batch where the one lay that they were captured with. */
static void check_shape(kern_device *dev, const step_batch *b) {
    cuda_replay *r = dev->replay;
    if (r->groups == b->group_count && r->stride == b->table_stride) return;
    replay_forget(dev);
    r->groups = b->group_count;
    r->stride = b->table_stride;
}

static bool begin_capture(kern_device *dev) {
    cudaGraph_t nothing = NULL;
    bool begun =
        cudaStreamBeginCapture(dev->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess;
    if (least_of_all(dev, begun)) return true;
    if (begun && cudaStreamEndCapture(dev->stream, &nothing) == cudaSuccess && nothing)
        (void)cudaGraphDestroy(nothing);
    return false;
}

/* No capture could begin: what is called would run at once, over what the step before staged. */
static bool begin_without(kern_device *dev, const kern_step *step, replay_graph *g) {
    (void)cudaGetLastError(); /* no fault: the step goes on without */
    g->state = REPLAY_REFUSED;
    dev->replay->now = NULL;
    dev->replay->launched = false;
    step_leave(dev);
    step_stage(dev, step->batch, 0, STEP_CALLED);
    return true;
}

static bool begin_graph(kern_device *dev, const kern_step *step, replay_graph *g, uint32_t size) {
    static const step_mode modes[] = {[REPLAY_NEW] = STEP_PADDED, [REPLAY_MET] = STEP_CAPTURED};
    bool ready = g->state == REPLAY_READY, at_once = ready && !step->adapters;
    step_mode mode = ready ? STEP_WALKED : modes[g->state];
    dev->replay->now = g;
    step_stage(dev, step->batch, size, mode);
    dev->step->adapters = step->adapters;
    if (mode == STEP_CAPTURED && !begin_capture(dev)) return begin_without(dev, step, g);
    if (step->computed) *step->computed = size;
    dev->replay->launched = at_once;
    if (at_once) {
        step_send(dev);
        launch(dev, g);
    }
    return !at_once;
}

bool cuda_step_begin(kern_device *dev, const kern_step *step) {
    cuda_replay *r = dev->replay;
    uint32_t size = 0;
    cuda_use(dev);
    ESP_ASSERT(!dev->step->batch); /* the last step has ended */
    check_shape(dev, step->batch);
    replay_graph *g = r->again ? NULL : graph_of(dev, step, &size);
    r->again = false;
    r->now = NULL;
    r->launched = false;
    if (g) return begin_graph(dev, step, g, size);
    step_stage(dev, step->batch, 0, STEP_CALLED);
    return true;
}

/* ---- end ---- */

static uint64_t free_bytes(kern_device *dev) {
    kern_memory memory;
    cuda_memory(dev, &memory);
    return memory.free;
}

/* What was recorded becomes a graph that can be launched; false: it could not. */
static bool make_exec(kern_device *dev, replay_graph *g, bool wanted) {
    cudaGraph_t graph = NULL;
    bool ended = cudaStreamEndCapture(dev->stream, &graph) == cudaSuccess && graph;
    uint64_t before = free_bytes(dev);
    bool made = ended && wanted && cudaGraphInstantiate(&g->exec, graph, 0) == cudaSuccess;
    if (graph) (void)cudaGraphDestroy(graph);
    if (!made) {
        (void)cudaGetLastError(); /* no fault: the step goes on without */
        return false;
    }
    uint64_t after = free_bytes(dev);
    dev->replay->bytes += before > after ? before - after : 0;
    return true;
}

/* The step was launched op by op; next time it is captured, unless something stands against it. */
static bool end_padded(kern_device *dev, replay_graph *g) {
    cuda_step *s = dev->step;
    bool room = dev->replay->bytes < REPLAY_BYTES_MAX;
    enum { UNFIT, NO_ROOM, FIT };
    uint32_t all = least_of_all(dev, s->unfit ? UNFIT : room ? FIT : NO_ROOM);
    g->state = all == FIT ? REPLAY_MET : REPLAY_REFUSED;
    g->tables = s->slots;
    return all != UNFIT;
}

static bool end_captured(kern_device *dev, replay_graph *g) {
    cuda_step *s = dev->step;
    bool made = make_exec(dev, g, !s->unfit && s->slots == g->tables);
    if (!least_of_all(dev, made)) {
        forget(g);
        g->state = REPLAY_REFUSED;
        return false;
    }
    g->state = REPLAY_READY;
    step_send(dev);
    launch(dev, g);
    return true;
}

static bool end_walked(kern_device *dev, const replay_graph *g) {
    cuda_step *s = dev->step;
    if (!least_of_all(dev, !s->unfit && s->slots == g->tables)) return false;
    step_send(dev);
    launch(dev, g);
    return true;
}

/* false: it has to be called once more. */
static bool end_graph(kern_device *dev, replay_graph *g) {
    switch (dev->step->mode) {
    case STEP_PADDED:
        return end_padded(dev, g);
    case STEP_CAPTURED:
        return end_captured(dev, g);
    case STEP_WALKED:
        return end_walked(dev, g);
    case STEP_CALLED:
        break;
    }
    return true;
}

bool cuda_step_end(kern_device *dev) {
    cuda_replay *r = dev->replay;
    bool done = !r->now || r->launched || end_graph(dev, r->now) || !cuda_is_well(dev);
    step_leave(dev);
    r->again = !done;
    return done;
}
