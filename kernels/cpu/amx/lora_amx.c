/* lora_amx.c - low-rank updates of the AMX level: h = scale * A x on tiles; and, where sums lie in rows of tokens
 * (int8 activations), B h on vectors.
 *
 * In     x [T,K] bf16; the updates of dev->lora, by rows (lora_plan.h)
 * Out    h bf16, in state tiles
 * Work   tasks of a panel of ranks and a tile of 16 tokens, FOUR at a time, split statically
 * Shape  the tile unit's A is x as it lies in memory, 16 tokens x 32 columns; its B the update's A, 16 pairs of columns x
 *        16 ranks; so C is 16 tokens x 16 ranks. Of a panel of fewer ranks C's other columns are of what lies behind,
 *        and dropped
 * Error  a sum is over blocks of 32 columns in order, as tdpbf16ps adds up a block, times scale, rounded to bf16
 * Cost   a product waits 52 cycles for the one before of its C tile, so that four of them go together */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/lora_amx.h"

#include "kernels/cpu/amx/epilogue_amx.h"
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

static uint32_t all_tasks(const cpu_lora_plan *plan) {
    uint32_t all = 0;
    for (uint32_t u = 0; u < plan->count; u++)
        all += task_count(&plan->uses[u]);
    return all;
}

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
    const uint16_t *x, *a;
    uint32_t block, left; /* the next; as many of A lie side by side */
    uint32_t a_row;       /* bytes of a row of A's tile: of as many ranks as there are */
} shrink_stream;

/* Four tasks and their streams. */
typedef struct shrink_group {
    const linear_job *job;
    shrink_task task[FOUR];
    shrink_stream s[FOUR];
    size_t x_row, x_step; /* bytes between tokens; elements between blocks */
} shrink_group;

static void read_on(const shrink_task *task, shrink_stream *s) {
    s->a =
        lora_unit(&task->use->layout.a[task->panel], task->use->lora->pieces, s->block, &s->left);
}

/* Inputs of stream n through a tile; its A through another, times the inputs' tile, to C tile n. */
#define INPUTS_OF(n, to)                                                                           \
    do {                                                                                           \
        AMX_LOAD(to, s[n].x, g->x_row);                                                            \
        s[n].x += g->x_step;                                                                       \
    } while (0)
#define PANEL_OF(n, inputs, to)                                                                    \
    do {                                                                                           \
        AMX_LOAD(to, s[n].a, s[n].a_row);                                                          \
        AMX_MULTIPLY(n, inputs, to);                                                               \
        s[n].a += s[n].a_row * (TILE / ROW_BYTES);                                                 \
    } while (0)

/* Some blocks of four tasks of one tile of tokens. */
static void run_one_tile(shrink_group *g, uint32_t blocks) {
    shrink_stream *s = g->s;
    for (uint32_t i = 0; i < blocks; i++) {
        INPUTS_OF(0, 4);
        PANEL_OF(0, 4, 5);
        PANEL_OF(1, 4, 6);
        PANEL_OF(2, 4, 7);
        PANEL_OF(3, 4, 5);
    }
}

/* Of four tiles, which are whole then. */
static void run_tiles(shrink_group *g, uint32_t blocks) {
    shrink_stream *s = g->s;
    for (uint32_t i = 0; i < blocks; i++) {
        INPUTS_OF(0, 4);
        PANEL_OF(0, 4, 6);
        INPUTS_OF(1, 5);
        PANEL_OF(1, 5, 7);
        INPUTS_OF(2, 4);
        PANEL_OF(2, 4, 6);
        INPUTS_OF(3, 5);
        PANEL_OF(3, 5, 7);
    }
}

/* The same where all have one panel. */
static void run_one_panel(shrink_group *g, uint32_t blocks) {
    shrink_stream *s = g->s;
    for (uint32_t i = 0; i < blocks; i++) {
        INPUTS_OF(0, 4);
        PANEL_OF(0, 4, 6);
        INPUTS_OF(1, 5);
        AMX_MULTIPLY(1, 5, 6);
        INPUTS_OF(2, 4);
        AMX_MULTIPLY(2, 4, 6);
        INPUTS_OF(3, 5);
        AMX_MULTIPLY(3, 5, 6);
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

static void run_blocks(shrink_group *g, uint32_t blocks) {
    if (one_tile(g->task))
        run_one_tile(g, blocks);
    else if (one_panel(g->task))
        run_one_panel(g, blocks);
    else
        run_tiles(g, blocks);
}

/* Tokens of a tile of the op. */
static uint32_t tokens_in(const linear_job *job, uint32_t tile) {
    return least(job->op->token_count - tile * TILE_TOKENS, TILE_TOKENS);
}

static const uint16_t *inputs_of(const linear_job *job, uint32_t tile) {
    return (const uint16_t *)job->op->in + (size_t)tile * TILE_TOKENS * job->cols;
}

/* The last block where it is no whole one: its columns and zeros, for they are no other token's business. */
static void run_rest(shrink_group *g) {
    const linear_job *job = g->job;
    uint16_t rest[FOUR][TILE_TOKENS][TILE_COLS];
    uint32_t first = job->blocks * TILE_COLS - TILE_COLS, count = job->cols - first;
    for (uint32_t i = 0; i < FOUR; i++) {
        const uint16_t *x = inputs_of(job, g->task[i].tile) + first;
        for (uint32_t t = 0; t < tokens_in(job, g->task[i].tile); t++) {
            memset(rest[i][t], 0, sizeof rest[i][t]);
            memcpy(rest[i][t], x + (size_t)t * job->cols, count * sizeof *x);
        }
        g->s[i].x = rest[i][0];
    }
    g->x_row = ROW_BYTES;
    run_blocks(g, 1);
}

static void multiply_group(shrink_group *g, float (*sums)[C_TILE]) {
    const linear_job *job = g->job;
    uint32_t whole = job->cols / TILE_COLS;
    AMX_ZERO(0);
    AMX_ZERO(1);
    AMX_ZERO(2);
    AMX_ZERO(3);
    for (uint32_t block = 0, count; block < job->blocks; block += count) {
        count = block < whole ? whole - block : 1;
        for (uint32_t i = 0; i < FOUR; i++) {
            if (g->s[i].left == 0) read_on(&g->task[i], &g->s[i]);
            count = least(count, g->s[i].left);
        }
        if (block < whole)
            run_blocks(g, count);
        else
            run_rest(g);
        for (uint32_t i = 0; i < FOUR; i++) {
            g->s[i].block += count;
            g->s[i].left -= count;
        }
    }
    AMX_STORE(0, sums[0], ROW_BYTES);
    AMX_STORE(1, sums[1], ROW_BYTES);
    AMX_STORE(2, sums[2], ROW_BYTES);
    AMX_STORE(3, sums[3], ROW_BYTES);
}

/* --- h -------------------------------------------------------------------------------------- */

/* Bit t: token t of the tile is of the use. */
static uint32_t tokens_of(const shrink_task *task) {
    uint32_t base = task->tile * TILE_TOKENS, first = task->use->first;
    uint32_t begin = first < base ? 0 : first - base;
    uint32_t end = least(first + task->use->count - base, TILE_TOKENS);
    return (1u << end) - (1u << begin);
}

/* Row `row` of a part's state tiles for a tile of tokens: its half of each dword; two halves are two ranks. */
static uint16_t *state_row(const cpu_lora_plan *plan, const shrink_task *task, uint32_t part,
                           uint32_t rank) {
    uint32_t first = task->use->layout.part[part].state_first;
    return cpu_lora_state(plan, task->use, task->tile, first + rank / LORA_STATE_RANKS) +
           rank % LORA_STATE_RANKS / 2 * TILE_COLS;
}

/* h of one rank of a part and 16 tokens; of other updates' tokens zero. */
static void put_rank(const cpu_lora_plan *plan, const shrink_task *task, uint32_t part,
                     uint32_t rank, __m512i sums) {
    uint32_t odd = rank % 2;
    vf scale = v_set1(task->use->lora->part[part].scale);
    vf h = _mm512_maskz_mul_ps((__mmask16)tokens_of(task), _mm512_castsi512_ps(sums), scale);
    __m512i halves = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(h));
    halves = _mm512_sll_epi32(halves, _mm_cvtsi32_si128((int)(16 * odd)));
    _mm512_mask_storeu_epi16(state_row(plan, task, part, rank), 0x55555555u << odd, halves);
}

/* Zeros behind a part's last rank. */
static void end_part(const cpu_lora_plan *plan, const shrink_task *task, uint32_t part) {
    uint32_t rank = task->use->lora->part[part].rank,
             end = cpu_lora_states(rank) * LORA_STATE_RANKS;
    if (rank % 2)
        _mm512_mask_storeu_epi16(state_row(plan, task, part, rank), 0xaaaaaaaau,
                                 _mm512_setzero_si512());
    for (rank += rank % 2; rank < end; rank += 2)
        _mm512_storeu_si512(state_row(plan, task, part, rank), _mm512_setzero_si512());
}

/* Ranks of a C tile to state tiles. */
static void put_states(const cpu_lora_plan *plan, const shrink_task *task, const float *c) {
    const cpu_lora_layout *layout = &task->use->layout;
    const kern_lora *lora = task->use->lora;
    uint32_t first = task->panel * LORA_PANEL, ranks = cpu_lora_panel(layout, task->panel), i = 0;
    __m512i rows[TILE_TOKENS];
    amx_turned(c, rows);
    for (uint32_t r = first; r < first + ranks; r++) {
        while (r >= layout->part[i].first + lora->part[i].rank)
            i++;
        uint32_t rank = r - layout->part[i].first;
        put_rank(plan, task, i, rank, rows[r - first]);
        if (rank + 1 == lora->part[i].rank) end_part(plan, task, i);
    }
}

/* Up to `most` tasks, none of fewer tokens beside one of more; those that are missing repeat the last. */
static uint32_t take_group(task_walk *walk, uint32_t most, shrink_group *g) {
    uint32_t count = 0;
    task_walk ahead = *walk;
    while (count < FOUR && count < most && next_task(&ahead, &g->task[count])) {
        uint32_t tokens = tokens_in(g->job, g->task[count].tile);
        if (tokens != tokens_in(g->job, g->task[0].tile)) break;
        *walk = ahead;
        count++;
    }
    for (uint32_t i = count; i < FOUR; i++)
        g->task[i] = g->task[count - 1];
    g->x_row = g->job->cols * sizeof(uint16_t);
    g->x_step = TILE_COLS;
    for (uint32_t i = 0; i < FOUR; i++)
        g->s[i] =
            (shrink_stream){.x = inputs_of(g->job, g->task[i].tile),
                            .a_row = cpu_lora_panel(&g->task[i].use->layout, g->task[i].panel) *
                                     (uint32_t)sizeof(uint32_t)};
    return count;
}

/* C 0..3 and 4 of as many rows as a tile has tokens; the others whole. */
static void configure(uint32_t tokens) {
    amx_config config = {.palette = 1};
    for (uint32_t tile = 0; tile < 8; tile++) {
        config.row_bytes[tile] = ROW_BYTES;
        config.rows[tile] = (uint8_t)(tile < 5 ? tokens : TILE_TOKENS);
    }
    amx_configure(&config);
}

static void run_tasks(const linear_job *job, float (*sums)[C_TILE], uint32_t begin, uint32_t end) {
    task_walk walk = walk_from(job->lora, begin);
    shrink_group group = {.job = job};
    uint32_t configured = 0;
    for (uint32_t count; begin < end; begin += count) {
        count = take_group(&walk, end - begin, &group);
        uint32_t tokens = tokens_in(job, group.task[0].tile);
        if (tokens != configured) configure(tokens);
        configured = tokens;
        multiply_group(&group, sums);
        for (uint32_t i = 0; i < count; i++)
            put_states(job->lora, &group.task[i], sums[i]);
    }
    if (configured) amx_release();
}

void amx_lora_shrink(const linear_job *job, uint32_t worker, uint32_t workers) {
    const cpu_lora_plan *plan = job->lora;
    uint32_t begin, end;
    pool_share(all_tasks(plan), FOUR, worker, workers, &begin, &end);
    run_tasks(job, amx_scratch_of(job->dev, worker)->sums[0][0], begin, end);
}

static void shrink_share(void *job, uint32_t worker, uint32_t workers) {
    amx_lora_shrink(job, worker, workers);
}

void amx_lora_shrink_all(const linear_job *job) {
    pool_run(job->dev->pool, shrink_share, (void *)job);
}

/* --- legs --------------------------------------------------------------------------------------- */

/* Where tiles tile .. tile + count of a group of ranks lie. */
static void take_tiles(const lora_run *run, void *const *pieces, uint32_t tile, uint32_t count,
                       lora_fetch *fetch, const char *b[STRIP_TILES]) {
    lora_fetch_units(fetch, run, pieces, tile, count);
    for (uint32_t i = 0, together; i < count;) {
        const char *at = lora_unit(run, pieces, tile + i, &together);
        together = least(together, count - i);
        for (; together > 0; together--, at += run->unit_bytes)
            b[i++] = at;
    }
}

/* All ranks of a use in matrix m. */
static void take_use(const cpu_lora_plan *plan, const cpu_lora_use *use, uint32_t m, uint32_t tile,
                     amx_lora_leg *leg) {
    const uint32_t rank = m < use->lora->part_count ? use->lora->part[m].rank : 0;
    const cpu_lora_part *part = &use->layout.part[m];
    const bool in[2] = {use->first<TILE_TOKENS, use->first + use->count> TILE_TOKENS};
    const char *b[STRIP_TILES] = {NULL};
    for (uint32_t first = 0; first < rank; first += LORA_STATE_RANKS) {
        uint32_t g = first / LORA_GROUP, state = part->state_first + first / LORA_STATE_RANKS;
        uint32_t number = leg->count++, at = first % LORA_GROUP * (uint32_t)sizeof(uint16_t);
        if (at == 0) take_tiles(&part->b[g], use->lora->pieces, tile, leg->tiles, &leg->fetch, b);
        for (uint32_t i = 0; i < leg->tiles; i++)
            leg->product[number].b[i] = b[i] + at;
        leg->product[number].row = cpu_lora_group(rank, g) * sizeof(uint16_t);
        for (uint32_t w = 0; w < 2; w++)
            leg->product[number].h[w] = in[w] ? cpu_lora_state(plan, use, w, state) : NULL;
    }
}

void amx_lora_begin_leg(const linear_job *job, const strip *s, uint32_t first, uint32_t tiles,
                        uint32_t steps, amx_lora_leg *leg) {
    leg->count = 0;
    lora_fetch_clear(&leg->fetch);
    leg->tiles = tiles;
    for (uint32_t u = 0; u < job->lora->count; u++)
        take_use(job->lora, &job->lora->uses[u], s->matrix[first], s->tile[first], leg);
    lora_fetch_within(&leg->fetch, steps);
}

void amx_lora_fetch_next(const linear_job *job, uint32_t worker, uint32_t workers,
                         lora_fetch *fetch) {
    const cpu_lora_plan *plan = job->dev->lora_next;
    uint32_t begin, end;
    pool_share(all_tasks(plan), FOUR, worker, workers, &begin, &end);
    task_walk walk = walk_from(plan, begin);
    shrink_task task;
    for (; begin < end && fetch->per_step < LORA_AHEAD_LINES && next_task(&walk, &task); begin++) {
        const lora_run *run = &task.use->layout.a[task.panel];
        lora_fetch_units(fetch, run, task.use->lora->pieces, 0, run->units);
    }
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

/* One tile and group: B as floats, for all tokens. */
typedef struct group_rows {
    _Alignas(CACHE_LINE_BYTES) float b[LORA_GROUP][TILE_ROWS];
    uint32_t ranks;
} group_rows;

static void add_group(const group_rows *group, const float *h, float *y) {
    vf p[VECTORS];
    for (uint32_t v = 0; v < VECTORS; v++)
        p[v] = v_zero();
    for (uint32_t r = 0; r < group->ranks; r++)
        UNROLL for (uint32_t v = 0; v < VECTORS; v++) p[v] =
            v_fma(v_load(&group->b[r][v * LANES]), v_set1(h[r]), p[v]);
    for (uint32_t v = 0; v < VECTORS; v++)
        v_store(y + v * LANES, v_add(v_load(y + v * LANES), p[v]));
}

static void add_tile(const linear_job *job, const lora_rows *rows, uint32_t i) {
    uint32_t rank = rows->use->lora->part[rows->part].rank;
    const cpu_lora_part *part = &rows->use->layout.part[rows->part];
    for (uint32_t g = 0; g < cpu_lora_groups(rank); g++) {
        group_rows group;
        group.ranks = cpu_lora_group(rank, g);
        for (uint32_t first = 0; first < group.ranks; first += LORA_STATE_RANKS)
            read_ranks(lora_tile_unit(rows, i, &part->b[g]), group.ranks, first, group.b);
        for (uint32_t t = rows->begin; t < rows->end; t++) {
            float h[LORA_GROUP];
            read_states(job->lora, rows, t, part->state_first + g * LORA_GROUP / LORA_STATE_RANKS,
                        group.ranks, h);
            add_group(&group, h,
                      rows->y + (size_t)(t - rows->begin) * rows->stride + i * TILE_ROWS);
        }
    }
}

static void add_sums(const linear_job *job, const lora_rows *rows) {
    for (uint32_t i = 0; i < rows->tiles; i++)
        add_tile(job, rows, i);
}

void amx_lora_update(const linear_job *job, const strip *s, uint32_t base, uint32_t tokens,
                     float *sums, uint32_t stride) {
    lora_update_strip(add_sums, job, s, base, tokens, sums, stride);
}
