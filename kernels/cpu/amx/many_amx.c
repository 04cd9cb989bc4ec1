/* many_amx.c - the way of linear_amx.c for more than FEW_TOKENS tokens: a panel of weights is unpacked, then meets
 * all tokens of a chunk, two tiles of each at a time: four products for four loads.
 *
 * A's blocks stay in L1 and B's come from L2, marked as read once so that they leave A there. What the
 * matrix unit does not need meanwhile is used. Between the products of a block the sums of the tokens
 * before are finished, and weights that come next are fetched; while the last tokens pass,
 * the next panel is unpacked, each block in the place of one that has been read for the last time. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/amx/linear_amx.h"
#include "kernels/cpu/amx/lora_amx.h"
#include "kernels/cpu/amx/pairs_amx.h"
#include "kernels/cpu/amx/panel_walk.h"

enum { PAIR_TOKENS = 2 * TILE_TOKENS };

/* --- chores ------------------------------------------------------------------------------- */

/* A panel on its way into A tiles, item by item: the tiles of a block, then the next block. */
typedef struct unpacking {
    source from[PAIR];
    uint32_t tiles, block, items, done;
} unpacking;

/* Sums of one or two B tiles that are whole, on their way out. */
typedef struct finishing {
    strip s;
    uint32_t token, end;          /* of the op; behind those that are out */
    float (*sums)[PAIR][C_TILE];  /* of `token` */
    uint32_t row, rows, per_step; /* of gates: combined so far, of all, in a step */
} finishing;

typedef struct many_task {
    const linear_job *job;
    amx_scratch *scratch;
    uint32_t base; /* token where the pairs in dev->inputs begin */
    panel_walk walk;
    panel now;
    uint32_t pairs;      /* so far: whose turn it is among the sums of a pair */
    unpacking next;      /* the panel behind */
    uint32_t fetched;    /* items of it */
    uint32_t due, steps; /* items * steps so far, modulo steps; steps of now */
    bool passed;         /* blocks of now are read for the last time: next takes their places */
    finishing finish;
} many_task;

static unpacking unpacking_of(const linear_job *job, const panel *p) {
    unpacking u = {.tiles = p->s.count, .block = p->block, .items = p->s.count * p->blocks};
    for (uint32_t i = 0; i < p->s.count; i++)
        u.from[i] = amx_source(job->op->matrix[p->s.matrix[i]], p->s.tile[i]);
    return u;
}

/* Packed tiles that are A tiles already lie so far apart that L1 would not hold a panel of them. */
static void copy_tile(const uint8_t *in, uint16_t *out) {
    UNROLL_16 for (uint32_t r = 0; r < TILE_ROWS; r++)
        _mm512_store_si512(out + r * TILE_COLS, _mm512_loadu_si512(in + r * ROW_BYTES));
}

static void unpack_item(many_task *task) {
    unpacking *u = &task->next;
    uint32_t i = u->done % u->tiles, at = u->done / u->tiles, b = u->block + at;
    const source *from = &u->from[i];
    const uint8_t *codes = from->codes + b * from->code_step;
    amx_scales *scales = &task->scratch->scales[0][0][0];
    if (from->read_scales) from->read_scales(from->scales, b, 1, scales);
    if (from->unpack)
        from->unpack(codes, scales, task->scratch->panel[i][at]);
    else
        copy_tile(codes, task->scratch->panel[i][at]);
    u->done++;
}

/* Up to the block whose place is free, or all. */
static void unpack_until(many_task *task, uint32_t blocks) {
    unpacking *u = &task->next;
    while (u->done < u->items && u->done / u->tiles < blocks)
        unpack_item(task);
}

/* Into L2, whose own prefetcher brings the second of two lines. Each line waited for takes one of few
 * places that the loads of tiles need as well; but of whole weights all lines are worth theirs. */
static void fetch_item(many_task *task) {
    const unpacking *u = &task->next;
    uint32_t b = u->block + task->fetched / u->tiles;
    const source *from = &u->from[task->fetched % u->tiles];
    const char *codes = (const char *)from->codes + b * from->code_step;
    const size_t apart = (from->unpack ? 2 : 1) * CACHE_LINE_BYTES;
    for (size_t at = 0; at < from->code_bytes; at += apart)
        _mm_prefetch(codes + at, _MM_HINT_T1);
    if (from->read_scales)
        _mm_prefetch((const char *)from->scales + cpu_scales_at(&cpu_formats[from->dtype], b),
                     _MM_HINT_T1);
    task->fetched++;
}

/* Rows of gate and up to what the next linear takes, in gate's place. */
static void combine_rows(const kern_linear *op, finishing *f, uint32_t most) {
    uint32_t left = f->rows - f->row, end = f->row + (left < most ? left : most);
    for (; f->row < end; f->row++) {
        float *gate = f->sums[f->row / TILE_ROWS][0] + f->row % TILE_ROWS * TILE_TOKENS;
        v_store(gate, v_mul(activate(op, v_load(gate)), v_load(gate + C_TILE)));
    }
}

static void finish_tile(many_task *task) {
    finishing *f = &task->finish;
    uint32_t left = f->end - f->token, tokens = left < TILE_TOKENS ? left : TILE_TOKENS;
    amx_finish(task->job, &f->s, f->token, tokens, f->sums[0], task->scratch->rows[0]);
    f->token += tokens;
    f->sums++;
}

static void finish_rest(many_task *task) {
    finishing *f = &task->finish;
    combine_rows(task->job->op, f, f->rows);
    while (f->token < f->end)
        finish_tile(task);
}

/* What goes on beside the products of a step. */
static void take_turn(many_task *task, uint32_t step) {
    finishing *f = &task->finish;
    task->due += task->next.items;
    while (task->due >= task->steps && task->fetched < task->next.items) {
        task->due -= task->steps;
        fetch_item(task);
    }
    if (f->row < f->rows)
        combine_rows(task->job->op, f, f->per_step);
    else if (f->token < f->end)
        finish_tile(task);
    if (task->passed) unpack_until(task, step + 1);
}

/* --- products ----------------------------------------------------------------------------- */

/* Some blocks of one or two weight tiles, and the tokens of one or two B tiles. */
typedef struct pair_task {
    const uint16_t *a[PAIR], *b[2];
    uint32_t blocks;
    bool begin;            /* sums begin at 0 */
    float (*sums)[C_TILE]; /* [B tile * PAIR + tile] */
    uint32_t first, t;     /* the tiles in the strip; the B tile of the op */
} pair_task;

#define BEGIN_SUM(c, at)                                                                           \
    do {                                                                                           \
        if (task->begin)                                                                           \
            AMX_ZERO(c);                                                                           \
        else                                                                                       \
            AMX_LOAD(c, task->sums[at], ROW_BYTES);                                                \
    } while (0)

/* count (tiles), wide (B tiles) are constants. */
ALWAYS_INLINE void run_pair(uint32_t count, uint32_t wide, many_task *many, const pair_task *task) {
    BEGIN_SUM(0, 0);
    if (count == 2) BEGIN_SUM(1, 1);
    if (wide == 2) BEGIN_SUM(2, 2);
    if (wide == 2 && count == 2) BEGIN_SUM(3, 3);
    for (uint32_t step = 0, at = 0; step < task->blocks; step++, at += TILE) {
        AMX_LOAD_ONCE(4, task->b[0] + at, ROW_BYTES);
        AMX_LOAD(6, task->a[0] + at, ROW_BYTES);
        AMX_MULTIPLY(0, 6, 4);
        if (count == 2) {
            AMX_LOAD(7, task->a[1] + at, ROW_BYTES);
            AMX_MULTIPLY(1, 7, 4);
        }
        if (wide == 2) {
            AMX_LOAD_ONCE(5, task->b[1] + at, ROW_BYTES);
            AMX_MULTIPLY(2, 6, 5);
        }
        if (wide == 2 && count == 2) AMX_MULTIPLY(3, 7, 5);
        take_turn(many, step);
    }
    if (many->job->lora && many->now.ends)
        amx_lora_expand_pair(many->job, &many->now.s, task->first, count, task->t, wide);
    finish_rest(many); /* before sums come to lie where theirs are */
    AMX_STORE(0, task->sums[0], ROW_BYTES);
    if (count == 2) AMX_STORE(1, task->sums[1], ROW_BYTES);
    if (wide == 2) AMX_STORE(2, task->sums[2], ROW_BYTES);
    if (wide == 2 && count == 2) AMX_STORE(3, task->sums[3], ROW_BYTES);
}

static void multiply_pair(uint32_t count, uint32_t wide, many_task *many, const pair_task *task) {
    if (count == 2 && wide == 2)
        run_pair(2, 2, many, task);
    else if (count == 2)
        run_pair(2, 1, many, task);
    else if (wide == 2)
        run_pair(1, 2, many, task);
    else
        run_pair(1, 1, many, task);
}

/* Tiles from `first` on that share a plane. */
static uint32_t same_inputs(const linear_job *job, const strip *s, uint32_t first) {
    uint32_t end = first + 1;
    while (end < s->count && plane_of(job, s, end) == plane_of(job, s, first))
        end++;
    return end - first;
}

/* Sums that are whole at once have two places in turns: those of one pair are finished beside the next one's products. */
static float (*sums_at(many_task *task, uint32_t token))[PAIR][C_TILE] {
    const panel *p = &task->now;
    float(*sums)[PAIR][C_TILE] = task->scratch->sums[p->slot];
    if (p->begins && p->ends) return sums + task->pairs++ % 2 * 2;
    return sums + (token - p->first) / TILE_TOKENS;
}

/* Tokens from `token` of now's, one or two tiles. */
static void multiply_tokens(many_task *task, uint32_t token, uint32_t tokens, bool last) {
    const linear_job *job = task->job;
    const panel *p = &task->now;
    const strip *s = &p->s;
    uint32_t wide = (tokens - 1) / TILE_TOKENS + 1, tile = (token - task->base) / TILE_TOKENS;
    float(*sums)[PAIR][C_TILE] = sums_at(task, token);
    for (uint32_t first = 0, count; first < s->count; first += count) {
        count = same_inputs(job, s, first);
        uint32_t plane = plane_of(job, s, first);
        task->passed = last && first + count == s->count;
        pair_task pair = {
            .a = {task->scratch->panel[first][0], task->scratch->panel[first + count - 1][0]},
            .b = {amx_pairs_at(job, plane, tile, p->block),
                  amx_pairs_at(job, plane, tile + wide - 1, p->block)},
            .blocks = p->blocks,
            .begin = p->begins,
            .sums = sums[0] + first,
            .first = first,
            .t = token / TILE_TOKENS};
        multiply_pair(count, wide, task, &pair);
    }
    if (!p->ends) return;
    bool gated = amx_gates_early(job, s);
    task->finish = (finishing){.s = *s,
                               .token = token,
                               .end = token + tokens,
                               .sums = sums,
                               .rows = gated ? wide * TILE_ROWS : 0,
                               .per_step = 2 * (wide * TILE_ROWS - 1) / p->blocks + 1};
}

static void multiply_panel(many_task *task) {
    uint32_t first = task->now.first, tokens = task->now.tokens;
    task->steps = (tokens + PAIR_TOKENS - 1) / PAIR_TOKENS * task->now.blocks;
    task->due = task->fetched = 0;
    for (uint32_t t = 0, count; t < tokens; t += count) {
        count = tokens - t < PAIR_TOKENS ? tokens - t : PAIR_TOKENS;
        multiply_tokens(task, first + t, count, t + count == tokens);
    }
}

/* --- panels ------------------------------------------------------------------------------- */

static void look_ahead(many_task *task) {
    panel_walk ahead = task->walk;
    panel behind = panel_walk_next(&ahead);
    task->next = unpacking_of(task->job, &behind);
}

/* To the next panel, and whatever of it is not unpacked yet; the one behind it is known. */
static void next_panel(many_task *task) {
    unpack_until(task, UINT32_MAX);
    task->now = panel_walk_next(&task->walk);
    look_ahead(task);
}

/* Tokens from task->base on, of whom this worker has a part. */
static void pair_inputs(const many_task *task, uint32_t tokens, uint32_t worker, uint32_t workers) {
    const linear_job *job = task->job;
    const panel_walk *walk = &task->walk;
    if (walk->alone)
        amx_pair_part(job, walk->token, walk->token_end, (walk->token - task->base) / TILE_TOKENS);
    else
        amx_pair_tokens(job, task->base, tokens, worker, workers);
    if (job->lora) amx_lora_shrink(job, worker, workers);
    if (!walk->alone || job->lora) pool_barrier(job->dev->pool, worker);
}

void amx_many_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    uint32_t total = job->op->token_count;
    uint32_t room = (uint32_t)(cpu_input_bytes(job->dev) / (TILE_COLS * sizeof(uint16_t)));
    for (uint32_t base = 0, tokens; base < total; base += tokens) {
        tokens = total - base < room ? total - base : room;
        many_task task = {.job = job,
                          .scratch = amx_scratch_of(job->dev, worker),
                          .base = base,
                          .walk = panel_walk_begin(job, base, tokens, worker, workers)};
        if (base > 0) pool_barrier(job->dev->pool, worker); /* inputs are overwritten */
        pair_inputs(&task, tokens, worker, workers);
        amx_configure_tokens(TILE_TOKENS);
        look_ahead(&task);
        for (next_panel(&task); task.now.s.count; next_panel(&task))
            multiply_panel(&task);
        finish_rest(&task);
        amx_release();
    }
}
