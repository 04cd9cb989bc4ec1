/* lora_amx.c - low-rank updates of the AMX level: h = scale * A x on tiles; and, where sums lie in rows of tokens
 * (int8 activations), B h on vectors.
 *
 * In     x [T,K] bf16; the updates of dev->lora, by rows (lora_plan.h)
 * Out    h bf16, in state tiles
 * Temp   x in pairs in dev->inputs (pairs_amx.h), in its own order, for all workers
 * Work   tasks of a panel of ranks and a B tile of tokens, FOUR at a time, split statically
 * Shape  A is 16 ranks x 32 columns; of a panel of fewer the rows behind them are what follows, and dropped
 * Error  a sum is over blocks of 32 columns in order, as tdpbf16ps adds up a block, times scale, rounded to bf16
 * Cost   a product waits 52 cycles for the one before of its C tile, so that four of them go together */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/lora_amx.h"

#include "kernels/cpu/amx/pairs_amx.h"
#include "kernels/cpu/level/lora_rows.h"

enum { FOUR = 4 };

/* --- tasks ---------------------------------------------------------------------------------- */

typedef struct shrink_task {
    const cpu_lora_use *use;
    uint32_t panel, tile; /* the tile of the op */
} shrink_task;

static uint32_t tiles_of(const cpu_lora_use *use) {
    return (use->first + use->count - 1) / TILE_TOKENS - use->first / TILE_TOKENS + 1;
}

static uint32_t task_count(const cpu_lora_use *use) { return tiles_of(use) * use->layout.panels; }

/* Of a use: four tiles after four, of these panel after panel. So neighbours share what they can: a panel where there
 * are four tiles, else a tile. */
static shrink_task task_of(const cpu_lora_use *use, uint32_t number) {
    uint32_t quad = number / (FOUR * use->layout.panels), left = tiles_of(use) - quad * FOUR;
    uint32_t wide = left < FOUR ? left : FOUR, at = number % (FOUR * use->layout.panels);
    return (shrink_task){
        .use = use, .panel = at / wide, .tile = use->first / TILE_TOKENS + quad * FOUR + at % wide};
}

/* Goes through the tasks of all uses. */
typedef struct task_walk {
    const cpu_lora_plan *plan;
    uint32_t use, number; /* of the next task */
} task_walk;

static bool next_task(task_walk *walk, shrink_task *out) {
    while (walk->use < walk->plan->count &&
           walk->number == task_count(&walk->plan->uses[walk->use])) {
        walk->use++;
        walk->number = 0;
    }
    if (walk->use == walk->plan->count) return false;
    *out = task_of(&walk->plan->uses[walk->use], walk->number++);
    return true;
}

static task_walk walk_from(const cpu_lora_plan *plan, uint32_t task) {
    task_walk walk = {.plan = plan, .number = task};
    while (walk.use < plan->count && walk.number >= task_count(&plan->uses[walk.use]))
        walk.number -= task_count(&plan->uses[walk.use++]);
    return walk;
}

/* --- A x ------------------------------------------------------------------------------------ */

/* A task's way through its blocks. */
typedef struct shrink_stream {
    const uint16_t *a, *b;
    uint32_t block, left; /* the next; as many lie side by side */
    uint32_t a_step;      /* elements of a block of A */
} shrink_stream;

/* What the groups of a worker share. */
typedef struct shrink_work {
    const linear_job *job;
    uint32_t width; /* tokens of a B tile */
    float (*sums)[C_TILE];
} shrink_work;

static void read_on(const shrink_task *task, shrink_stream *stream) {
    stream->a = lora_unit(&task->use->layout.a[task->panel], task->use->lora->pieces, stream->block,
                          &stream->left);
}

static shrink_stream stream_of(const shrink_work *work, const shrink_task *task) {
    const linear_job *job = work->job;
    shrink_stream stream = {.a_step = cpu_lora_panel(&task->use->layout, task->panel) * TILE_COLS,
                            .b = amx_in_place(job) ? job->op->in
                                                   : amx_pairs_at(job, 0, task->tile, 0)};
    read_on(task, &stream);
    return stream;
}

/* Panel and inputs of stream n through tiles x, y into C tile n. */
#define PANEL_OF(n, x, y)                                                                          \
    do {                                                                                           \
        AMX_LOAD(x, s[n].a, ROW_BYTES);                                                            \
        AMX_MULTIPLY(n, x, y);                                                                     \
        s[n].a += s[n].a_step;                                                                     \
    } while (0)
#define INPUTS_OF(n, y)                                                                            \
    do {                                                                                           \
        AMX_LOAD(y, s[n].b, ROW_BYTES);                                                            \
        s[n].b += TILE;                                                                            \
    } while (0)

/* Some blocks of four tasks of one B tile. */
static void run_one_tile(const shrink_work *work, uint32_t blocks, shrink_stream *s) {
    for (uint32_t i = 0; i < blocks; i++) {
        AMX_LOAD(4, s[0].b, work->width * sizeof(uint32_t));
        s[0].b += work->width * TILE_COLS;
        PANEL_OF(0, 5, 4);
        PANEL_OF(1, 6, 4);
        PANEL_OF(2, 7, 4);
        PANEL_OF(3, 5, 4);
    }
}

/* Of four B tiles, which are whole then. */
static void run_tiles(uint32_t blocks, shrink_stream *s) {
    for (uint32_t i = 0; i < blocks; i++) {
        INPUTS_OF(0, 4);
        PANEL_OF(0, 6, 4);
        INPUTS_OF(1, 5);
        PANEL_OF(1, 7, 5);
        INPUTS_OF(2, 4);
        PANEL_OF(2, 6, 4);
        INPUTS_OF(3, 5);
        PANEL_OF(3, 7, 5);
    }
}

/* The same where all have one panel. */
static void run_one_panel(uint32_t blocks, shrink_stream *s) {
    for (uint32_t i = 0; i < blocks; i++) {
        INPUTS_OF(0, 4);
        PANEL_OF(0, 6, 4);
        INPUTS_OF(1, 5);
        AMX_MULTIPLY(1, 6, 5);
        INPUTS_OF(2, 4);
        AMX_MULTIPLY(2, 6, 4);
        INPUTS_OF(3, 5);
        AMX_MULTIPLY(3, 6, 5);
    }
}
#undef PANEL_OF
#undef INPUTS_OF

static bool one_tile(const shrink_task *tasks) {
    return tasks[1].tile == tasks[0].tile && tasks[2].tile == tasks[0].tile &&
           tasks[3].tile == tasks[0].tile;
}
static bool one_panel(const shrink_task *tasks) {
    bool same = true;
    for (uint32_t i = 1; i < FOUR; i++)
        same = same && tasks[i].use == tasks[0].use && tasks[i].panel == tasks[0].panel;
    return same;
}

static void run_blocks(const shrink_work *work, const shrink_task *tasks, uint32_t blocks,
                       shrink_stream *s) {
    if (one_tile(tasks))
        run_one_tile(work, blocks, s);
    else if (one_panel(tasks))
        run_one_panel(blocks, s);
    else
        run_tiles(blocks, s);
}

static void multiply_tasks(const shrink_work *work, const shrink_task *tasks) {
    shrink_stream s[FOUR];
    for (uint32_t i = 0; i < FOUR; i++)
        s[i] = stream_of(work, &tasks[i]);
    AMX_ZERO(0);
    AMX_ZERO(1);
    AMX_ZERO(2);
    AMX_ZERO(3);
    for (uint32_t block = 0, count; block < work->job->blocks; block += count) {
        count = work->job->blocks - block;
        for (uint32_t i = 0; i < FOUR; i++)
            count = cpu_lora_least(count, s[i].left);
        run_blocks(work, tasks, count, s);
        for (uint32_t i = 0; i < FOUR; i++) {
            s[i].block += count;
            s[i].left -= count;
            if (s[i].left == 0 && s[i].block < work->job->blocks) read_on(&tasks[i], &s[i]);
        }
    }
    AMX_STORE(0, work->sums[0], ROW_BYTES);
    AMX_STORE(1, work->sums[1], ROW_BYTES);
    AMX_STORE(2, work->sums[2], ROW_BYTES);
    AMX_STORE(3, work->sums[3], ROW_BYTES);
}

/* --- h -------------------------------------------------------------------------------------- */

/* Bit t: token t of the tile is of the use. */
static uint32_t tokens_of(const shrink_task *task) {
    uint32_t base = task->tile * TILE_TOKENS, first = task->use->first;
    uint32_t begin = first < base ? 0 : first - base;
    uint32_t end = cpu_lora_least(first + task->use->count - base, TILE_TOKENS);
    return (1u << end) - (1u << begin);
}

/* Ranks of a C tile to their halves of pairs. */
static void put_states(const cpu_lora_plan *plan, const shrink_task *task, const float *c) {
    const cpu_lora_layout *layout = &task->use->layout;
    uint32_t first = task->panel * LORA_PANEL, ranks = cpu_lora_panel(layout, task->panel), i = 0;
    uint32_t tokens = _pdep_u32(tokens_of(task), 0x55555555);
    for (uint32_t r = first; r < first + ranks; r++, c += TILE_TOKENS) {
        while (r >= layout->part[i].first + task->use->lora->part[i].rank)
            i++;
        uint32_t rank = r - layout->part[i].first, odd = rank % 2;
        uint16_t *out = cpu_lora_state(plan, task->use, task->tile,
                                       layout->part[i].state_first + rank / LORA_STATE_RANKS) +
                        rank % LORA_STATE_RANKS / 2 * TILE_COLS;
        vf h = v_mul(v_load(c), v_set1(task->use->lora->part[i].scale));
        __m512i pairs = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(h));
        pairs = _mm512_sll_epi32(pairs, _mm_cvtsi32_si128((int)(16 * odd)));
        _mm512_mask_storeu_epi16(out, tokens << odd, pairs);
    }
}

static void clear_states(const cpu_lora_plan *plan, uint32_t worker, uint32_t workers) {
    uint32_t begin, end;
    pool_share((uint32_t)(plan->state_bytes / CACHE_LINE_BYTES), 1, worker, workers, &begin, &end);
    memset(plan->states + (size_t)begin * CACHE_LINE_BYTES, 0,
           (size_t)(end - begin) * CACHE_LINE_BYTES);
}

static void run_tasks(const shrink_work *work, uint32_t begin, uint32_t end) {
    const cpu_lora_plan *plan = work->job->lora;
    task_walk walk = walk_from(plan, begin);
    for (uint32_t at = begin; at < end; at += FOUR) {
        shrink_task tasks[FOUR];
        uint32_t count = 0;
        while (count < FOUR && at + count < end && next_task(&walk, &tasks[count]))
            count++;
        for (uint32_t i = count; i < FOUR; i++)
            tasks[i] = tasks[count - 1];
        multiply_tasks(work, tasks);
        for (uint32_t i = 0; i < count; i++)
            put_states(plan, &tasks[i], work->sums[i]);
    }
}

static void shrink(void *arg, uint32_t worker, uint32_t workers) {
    const linear_job *job = arg;
    const cpu_lora_plan *plan = job->lora;
    uint32_t tokens = job->op->token_count, all = 0, begin, end;
    shrink_work work = {.job = job,
                        .width = amx_tile_tokens(tokens),
                        .sums = amx_scratch_of(job->dev, worker)->sums[0][0]};
    clear_states(plan, worker, workers);
    if (!amx_in_place(job)) amx_pair_tokens(job, 0, tokens, worker, workers);
    pool_barrier(job->dev->pool, worker);
    for (uint32_t u = 0; u < plan->count; u++)
        all += task_count(&plan->uses[u]);
    pool_share(all, FOUR, worker, workers, &begin, &end);
    amx_configure_tokens(work.width);
    run_tasks(&work, begin, end);
    amx_release();
}

void amx_lora_shrink(kern_device *dev, const kern_linear *op) {
    linear_job job = job_of(dev, op);
    job.planes = 1;
    job.order[0] = NULL; /* an update takes its inputs as they are */
    pool_run(dev->pool, shrink, &job);
}

/* --- B h of sums in rows ---------------------------------------------------------------------- */

/* 32 ranks from `first` on of a tile's 16 rows, `ranks` apart, as floats. */
static void read_ranks(const uint16_t *b, uint32_t ranks, uint32_t first, float (*out)[TILE_ROWS]) {
    __m512i rows[TILE_ROWS];
    for (uint32_t r = 0; r < TILE_ROWS; r++)
        rows[r] = _mm512_loadu_si512(b + (size_t)r * ranks + first);
    transpose_dwords(rows);
    for (uint32_t pair = 0; pair < LORA_STATE_RANKS / 2 && first + 2 * pair < ranks; pair++) {
        _mm512_storeu_si512(out[first + 2 * pair], _mm512_slli_epi32(rows[pair], 16));
        _mm512_storeu_si512(out[first + 2 * pair + 1],
                            _mm512_and_si512(rows[pair], _mm512_set1_epi32((int)0xffff0000)));
    }
}

/* The h of a token, of `ranks` ranks whose first state tile this is. */
static void read_states(const cpu_lora_plan *plan, const lora_rows *rows, uint32_t token,
                        uint32_t state, uint32_t ranks, float *out) {
    for (uint32_t r = 0; r < ranks; r++) {
        const uint16_t *at =
            cpu_lora_state(plan, rows->use, token / TILE_TOKENS, state + r / LORA_STATE_RANKS);
        uint32_t pair = r % LORA_STATE_RANKS / 2;
        out[r] = f32_of_bf16(at[pair * TILE_COLS + token % TILE_TOKENS * 2 + r % 2]);
    }
}

static void add_sums(const linear_job *job, const lora_rows *rows) {
    uint32_t rank = rows->use->lora->part[rows->part].rank;
    const cpu_lora_part *part = &rows->use->layout.part[rows->part];
    for (uint32_t g = 0; g < cpu_lora_groups(rank); g++) {
        lora_group_rows group;
        group.ranks = cpu_lora_group(rank, g);
        for (uint32_t first = 0; first < group.ranks; first += LORA_STATE_RANKS)
            read_ranks(lora_tile_unit(rows, &part->b[g]), group.ranks, first, group.b);
        for (uint32_t t = rows->begin; t < rows->end; t++) {
            float h[LORA_GROUP];
            read_states(job->lora, rows, t, part->state_first + g * LORA_GROUP / LORA_STATE_RANKS,
                        group.ranks, h);
            lora_add_group(&group, h, rows->y + (size_t)(t - rows->begin) * rows->stride);
        }
    }
}

void amx_lora_update(const linear_job *job, const strip *s, uint32_t base, uint32_t tokens,
                     float *sums, uint32_t stride) {
    lora_update_strip(add_sums, job, s, base, tokens, sums, stride);
}
