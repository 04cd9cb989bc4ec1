/* rows_amx.c - the way of linear_amx.c for more than FEW_TOKENS tokens where no gates are combined: a panel of weights
 * is unpacked, then meets all tokens of a chunk, two tiles of each at a time: four products for four loads.
 *
 * Here A is x, 16 tokens x 32 columns as they lie in memory, and B the weights, 16 pairs of columns x 16
 * rows; so C is 16 tokens x 16 rows, as outputs lie. The products, and the order of their sums, are those
 * of few_amx.c with its operands exchanged, and the bits are the same.
 *
 * Weights stay in L1 and inputs come from L2, marked as read once so that they leave the weights there. Between
 * the products of a block, weights and outputs that come next are fetched, and the tokens before finished. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/amx/linear_amx.h"
#include "kernels/cpu/amx/lined_amx.h"
#include "kernels/cpu/amx/lora_amx.h"
#include "kernels/cpu/amx/panel_walk.h"

enum {
    PAIR_TOKENS = 2 * TILE_TOKENS,
    SUMS_ROW = SUMS_STRIDE * sizeof(float),
};

/* --- chores ------------------------------------------------------------------------------- */

/* A panel on its way into B tiles, item by item: the tiles of a block, then the next block. */
typedef struct unpacking {
    source from[PAIR];
    uint32_t tiles, block, items, done;
    uint16_t (*out)[PANEL][TILE]; /* [tile] */
} unpacking;

/* Tokens whose sums are whole. */
typedef struct finishing {
    strip s;
    uint32_t token, end; /* of the op */
    float *sums;         /* of `token` */
    bool plain;
} finishing;

/* Where the sums of a pair of tiles go: a run of bytes of each token. */
typedef struct fetching {
    const char *at;
    size_t row, bytes;
    uint32_t tokens, per_step;
} fetching;

typedef struct many_task {
    const linear_job *job;
    amx_scratch *scratch;
    uint32_t base; /* token where the inputs of the walk begin */
    panel_walk walk;
    panel now;
    uint32_t pairs;      /* so far: whose turn it is among the sums of a pair */
    unpacking fetched;   /* of the panel behind it: what is unpacked then is fetched now */
    uint32_t due, steps; /* items * steps so far, modulo steps; steps of now */
    fetching outs;
    finishing finish;
    uint32_t finish_step; /* tokens finished in a step */
} many_task;

static unpacking unpacking_of(const linear_job *job, const panel *p, uint16_t (*out)[PANEL][TILE]) {
    unpacking u = {
        .tiles = p->s.count, .block = p->block, .items = p->s.count * p->blocks, .out = out};
    for (uint32_t i = 0; i < p->s.count; i++)
        u.from[i] = amx_source(job->op->matrix[p->s.matrix[i]], p->s.tile[i]);
    return u;
}

static void unpack_item(unpacking *u, amx_scales *room) {
    uint32_t i = u->done % u->tiles, at = u->done / u->tiles, b = u->block + at;
    const source *from = &u->from[i];
    from->turn(from->codes + b * from->code_step, from->scales, b, room, u->out[i][at]);
    u->done++;
}

/* Into L2, whose own prefetcher brings the second of two lines. Each line waited for takes one of few
 * places that the loads of tiles need as well. */
static void fetch_item(unpacking *u) {
    if (u->done == u->items) return;
    uint32_t b = u->block + u->done / u->tiles;
    const source *from = &u->from[u->done % u->tiles];
    const char *codes = (const char *)from->codes + b * from->code_step;
    for (size_t at = 0; at < from->code_bytes; at += 2 * CACHE_LINE_BYTES)
        _mm_prefetch(codes + at, _MM_HINT_T1);
    if (from->read_scales)
        _mm_prefetch((const char *)from->scales + cpu_scales_at(&cpu_formats[from->dtype], b),
                     _MM_HINT_T1);
    u->done++;
}

/* Nothing but the sums themselves, and all rows there. */
static bool is_plain(const linear_job *job, const strip *s) {
    const kern_linear *op = job->op;
    for (uint32_t i = 0; i < s->count; i++) {
        const kern_matrix *matrix = op->matrix[s->matrix[i]];
        if (job->lora && job->lora->after[s->matrix[i]]) return false;
        if (op->bias[s->matrix[i]] || (s->tile[i] + 1) * TILE_ROWS > matrix->rows) return false;
    }
    return true;
}

static void add_rows(const linear_job *job, const finishing *f, uint32_t tokens) {
    float *out = (float *)job->op->out + (size_t)f->token * job->out_cols +
                 job->first_col[f->s.matrix[0]] + (size_t)f->s.tile[0] * TILE_ROWS;
    const float *sums = f->sums;
    for (uint32_t t = 0; t < tokens; t++, sums += SUMS_STRIDE, out += job->out_cols) {
        v_store(out, v_add(v_load(out), v_load(sums)));
        if (f->s.count == 1) continue;
        v_store(out + TILE_ROWS, v_add(v_load(out + TILE_ROWS), v_load(sums + TILE_ROWS)));
    }
}

static void gate_rows(const linear_job *job, const finishing *f, uint32_t tokens) {
    uint16_t *out = (uint16_t *)job->op->out + (size_t)f->token * job->out_cols +
                    (size_t)f->s.tile[0] * TILE_ROWS;
    const kern_linear *op = job->op;
    const float *sums = f->sums;
    for (uint32_t t = 0; t < tokens; t++, sums += SUMS_STRIDE, out += job->out_cols)
        v_store_bf16(out, v_mul(activate(op, v_load(sums)), v_load(sums + TILE_ROWS)));
}

static void finish_tokens(many_task *task, uint32_t most) {
    finishing *f = &task->finish;
    if (f->token == f->end) return;
    uint32_t left = f->end - f->token, count = left < most ? left : most;
    if (f->plain && task->job->op->epilogue == EPI_RESIDUAL)
        add_rows(task->job, f, count);
    else if (f->plain && kern_is_gated(task->job->op->epilogue))
        gate_rows(task->job, f, count);
    else
        finish(task->job, &f->s, f->token, count, f->sums, SUMS_STRIDE);
    f->token += count;
    f->sums += count * SUMS_STRIDE;
}

/* Lines that the epilogue, or a tile, writes next. */
static void fetch_outs(many_task *task) {
    fetching *f = &task->outs;
    for (uint32_t i = 0; i < f->per_step && f->tokens > 0; i++, f->tokens--, f->at += f->row) {
        __builtin_prefetch(f->at, 1);
        __builtin_prefetch(f->at + f->bytes - 1, 1);
    }
}

/* What goes on beside the products of a step. */
static void take_turn(many_task *task) {
    fetch_outs(task);
    unpacking *f = &task->fetched;
    task->due += f->items;
    while (task->due >= task->steps && f->done < f->items) {
        task->due -= task->steps;
        fetch_item(f);
    }
    finish_tokens(task, task->finish_step);
}

/* --- products ----------------------------------------------------------------------------- */

/* Some blocks of one or two weight tiles, and one or two tiles of tokens. */
typedef struct pair_task {
    const char *a[2];
    size_t a_row, a_step;
    const uint16_t *b[PAIR];
    uint32_t blocks;
    const panel *p;
    uint32_t first, t;           /* the tiles in the strip; the tile of tokens of the op */
    const float *before;         /* sums; NULL: they begin at 0 */
    float *sums;                 /* [tokens][row_bytes]; a tile's rows lie side by side */
    size_t before_row, sums_row; /* bytes */
} pair_task;

#define BEGIN_SUM(c, wide, tile)                                                                   \
    do {                                                                                           \
        const char *at = (const char *)task->before + (wide)*TILE_TOKENS * task->before_row;       \
        if (task->before)                                                                          \
            AMX_LOAD(c, at + (tile)*FLOAT_ROW_BYTES, task->before_row);                            \
        else                                                                                       \
            AMX_ZERO(c);                                                                           \
    } while (0)
#define STORE_SUM(c, wide, tile)                                                                   \
    AMX_STORE(c,                                                                                   \
              (char *)task->sums + (wide)*TILE_TOKENS * task->sums_row + (tile)*FLOAT_ROW_BYTES,   \
              task->sums_row)

/* count (weight tiles), wide (tiles of tokens) are constants. */
ALWAYS_INLINE void run_pair(uint32_t count, uint32_t wide, many_task *many, const pair_task *task) {
    BEGIN_SUM(0, 0, 0);
    if (count == 2) BEGIN_SUM(1, 0, 1);
    if (wide == 2) BEGIN_SUM(2, 1, 0);
    if (wide == 2 && count == 2) BEGIN_SUM(3, 1, 1);
    const char *a0 = task->a[0], *a1 = task->a[1];
    for (uint32_t at = 0; at < task->blocks * TILE; at += TILE) {
        AMX_LOAD_ONCE(4, a0, task->a_row);
        AMX_LOAD(6, task->b[0] + at, ROW_BYTES);
        AMX_MULTIPLY(0, 4, 6);
        if (count == 2) {
            AMX_LOAD(7, task->b[1] + at, ROW_BYTES);
            AMX_MULTIPLY(1, 4, 7);
        }
        if (wide == 2) {
            AMX_LOAD_ONCE(5, a1, task->a_row);
            AMX_MULTIPLY(2, 5, 6);
        }
        if (wide == 2 && count == 2) AMX_MULTIPLY(3, 5, 7);
        a0 += task->a_step;
        a1 += task->a_step;
        take_turn(many);
    }
    if (many->job->lora && task->p->ends)
        amx_lora_expand_turned(many->job, &task->p->s, task->first, count, task->t, wide,
                               &many->scratch->lora);
    finish_tokens(many, PAIR_TOKENS); /* the rest: sums may come to lie where theirs are */
    STORE_SUM(0, 0, 0);
    if (count == 2) STORE_SUM(1, 0, 1);
    if (wide == 2) STORE_SUM(2, 1, 0);
    if (wide == 2 && count == 2) STORE_SUM(3, 1, 1);
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

static fetching outs_of(const linear_job *job, const panel *p, uint32_t token, uint32_t tokens) {
    const strip *s = &p->s;
    size_t size = kern_gives_act(job->op->epilogue) ? sizeof(uint16_t) : sizeof(float);
    size_t col = job->first_col[s->matrix[0]] + (size_t)s->tile[0] * TILE_ROWS;
    if (!p->ends) return (fetching){0};
    return (fetching){.at =
                          (const char *)job->op->out + (token * (size_t)job->out_cols + col) * size,
                      .row = job->out_cols * size,
                      .bytes = s->count / job->unit_tiles * TILE_ROWS * size,
                      .tokens = tokens,
                      .per_step = (tokens - 1) / p->blocks + 1};
}

static float *sums_at(many_task *task, uint32_t token) {
    const panel *p = &task->now;
    float(*sums)[SUMS_STRIDE] = (float(*)[SUMS_STRIDE])(void *)task->scratch->sums[p->slot];
    if (p->begins && p->ends) return sums[task->pairs++ % 2 * PAIR_TOKENS];
    return sums[token - p->first];
}

/* Tokens from `token` of now's, one or two tiles. */
static void multiply_tokens(many_task *task, uint32_t token, uint32_t tokens) {
    const linear_job *job = task->job;
    const panel *p = &task->now;
    const strip *s = &p->s;
    uint32_t wide = (tokens - 1) / TILE_TOKENS + 1;
    float *sums = sums_at(task, token), *out = sums;
    bool stores = p->ends && job->op->epilogue == EPI_STORE && is_plain(job, s);
    size_t out_row = stores ? job->out_cols * sizeof(float) : SUMS_ROW;
    if (stores)
        out = (float *)job->op->out + (size_t)token * job->out_cols + job->first_col[s->matrix[0]] +
              (size_t)s->tile[0] * TILE_ROWS;
    task->outs = outs_of(job, p, token, tokens);
    for (uint32_t first = 0, count; first < s->count; first += count) {
        count = same_inputs(job, s, first);
        input_view in = amx_inputs(job, plane_of(job, s, first), task->base);
        const char *a = in.at + (token - task->base) / TILE_TOKENS * in.tile + p->block * in.block;
        pair_task pair = {
            .a = {a, a + in.tile},
            .a_row = in.row,
            .a_step = in.block,
            .b = {task->scratch->panel[first][0], task->scratch->panel[first + count - 1][0]},
            .blocks = p->blocks,
            .p = p,
            .first = first,
            .t = token / TILE_TOKENS,
            .before = p->begins ? NULL : sums + first * TILE_ROWS,
            .before_row = SUMS_ROW,
            .sums = out + first * TILE_ROWS,
            .sums_row = out_row};
        multiply_pair(count, wide, task, &pair);
    }
    if (p->ends && !stores)
        task->finish = (finishing){.s = *s,
                                   .token = token,
                                   .end = token + tokens,
                                   .sums = sums,
                                   .plain = is_plain(job, s)};
    task->finish_step = (tokens - 1) / p->blocks + 1;
}

/* The last tokens, fewer than a tile, make A and C smaller. */
static void multiply_panel(many_task *task) {
    uint32_t first = task->now.first, tokens = task->now.tokens, rest = tokens % TILE_TOKENS;
    uint32_t pairs = (tokens + PAIR_TOKENS - 1) / PAIR_TOKENS, whole = tokens - rest;
    task->steps = pairs * task->now.blocks;
    task->due = 0;
    for (uint32_t t = 0; t < whole; t += PAIR_TOKENS)
        multiply_tokens(task, first + t, whole - t < PAIR_TOKENS ? whole - t : PAIR_TOKENS);
    if (rest == 0) return;
    amx_configure_rows(rest);
    multiply_tokens(task, first + whole, rest);
    amx_configure_rows(TILE_TOKENS);
}

/* --- panels ------------------------------------------------------------------------------- */

/* To the next panel, which is unpacked; the one behind it is known. */
static void next_panel(many_task *task) {
    task->now = panel_walk_next(&task->walk);
    unpacking u = unpacking_of(task->job, &task->now, task->scratch->panel);
    while (u.done < u.items)
        unpack_item(&u, task->scratch->scales[0][0]);
    panel_walk ahead = task->walk;
    panel behind = panel_walk_next(&ahead);
    task->fetched = unpacking_of(task->job, &behind, NULL);
}

static void multiply_all(const linear_job *job, uint32_t first, uint32_t tokens, uint32_t worker,
                         uint32_t workers) {
    many_task task = {.job = job,
                      .scratch = amx_scratch_of(job->dev, worker),
                      .base = first,
                      .walk = panel_walk_begin(job, first, tokens, worker, workers)};
    for (next_panel(&task); task.now.s.count; next_panel(&task))
        multiply_panel(&task);
    finish_tokens(&task, PAIR_TOKENS);
}

/* Inputs that must be lined up are, as many as have room. */
static void multiply_lined(const linear_job *job, uint32_t worker, uint32_t workers) {
    uint32_t total = job->op->token_count, room = amx_lined_room(job);
    for (uint32_t base = 0; base < total; base += room) {
        uint32_t tokens = total - base < room ? total - base : room;
        amx_line_up(job, base, tokens, worker, workers);
        pool_barrier(job->dev->pool, worker);
        multiply_all(job, base, tokens, worker, workers);
        pool_barrier(job->dev->pool, worker); /* before the inputs are overwritten */
    }
}

void amx_many_rows(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    if (job->lora) {
        amx_lora_shrink_share(job, worker, workers);
        pool_barrier(job->dev->pool, worker);
    }
    amx_configure_rows(TILE_TOKENS);
    if (amx_lines_up(job))
        multiply_lined(job, worker, workers);
    else
        multiply_all(job, 0, job->op->token_count, worker, workers);
    amx_release();
}
