/* attend_span.c - the three parts of attention on tiles, and their turns.
 *
 * Tiles   0 to 3 scores of a page each, or sums of 16 dims each; 5 and 7 q, or weights and V; 6 K; all
 *         of 16 x 64 bytes
 * Cost    a page and tile of queries: D/8 multiplications for scores, D/32 for sums, 16 cycles each;
 *         16 exps of 16 lanes, about 6 cycles each
 * Error   2^x within 9e-5, weights to 2^-9, both after the maximum; scores 2^-16 of their terms */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/attend_span.h"

#include <float.h>

#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/level/simd.h"

enum {
    TILE_ROW_BYTES = TILE_COLS * 2,
    TILE_ELEMENTS = TILE_ROWS * TILE_COLS,
    PAGE_SCORES = KV_PAGE_TOKENS * AMX_QUERIES, /* floats of a tile */
    PAIR_PAGES = TILE_COLS / KV_PAGE_TOKENS,
    GROUP_DIMS = 4 * TILE_ROWS, /* whose sums are in tiles together */
    TURN_PAIRS = 2,             /* of keys that are weighed between multiplications */
};

#define TOP_SLACK 8.0f /* weights are up to 2^8 */

void span_configure(void) {
    amx_config config = {.palette = 1};
    for (uint32_t tile = 0; tile < 8; tile++) {
        config.row_bytes[tile] = TILE_ROW_BYTES;
        config.rows[tile] = TILE_ROWS;
    }
    amx_configure(&config);
}

/* An instruction names its tile: 0 to 3 here. */
#define ON_TILE(tile, DO, ...)                                                                     \
    do {                                                                                           \
        if ((tile) == 0) DO(0, __VA_ARGS__);                                                       \
        if ((tile) == 1) DO(1, __VA_ARGS__);                                                       \
        if ((tile) == 2) DO(2, __VA_ARGS__);                                                       \
        if ((tile) == 3) DO(3, __VA_ARGS__);                                                       \
    } while (0)

#define LOAD_SUMS(tile, from) AMX_LOAD(tile, from, AMX_QUERIES * sizeof(float))
#define STORE_SUMS(tile, to) AMX_STORE(tile, to, AMX_QUERIES * sizeof(float))

static bool sees(const span_unit *unit, uint32_t page) {
    return page >= unit->first && page < unit->end;
}

static bool sees_pair(const span_unit *unit, uint32_t page) {
    return sees(unit, page) || sees(unit, page ^ 1);
}

/* --- scores ------------------------------------------------------------------------------- */

/* 32 dims of the queries, high and low part. */
ALWAYS_INLINE void load_queries(const span_unit *unit, uint32_t d) {
    const uint16_t *q = unit->tile->queries + (size_t)2 * d * AMX_QUERIES;
    AMX_LOAD(5, q, TILE_ROW_BYTES);
    AMX_LOAD(7, q + TILE_ELEMENTS, TILE_ROW_BYTES);
}

#define SCORE(tile, keys, row)                                                                     \
    do {                                                                                           \
        AMX_LOAD(6, keys, row);                                                                    \
        AMX_MULTIPLY(tile, 6, 5);                                                                  \
        AMX_MULTIPLY(tile, 6, 7);                                                                  \
    } while (0)

/* The same dims of all keys of a page, whose scores are in the tile of its number. */
ALWAYS_INLINE void score_page(const span_shape *shape, const span_unit *unit, uint32_t page,
                              uint32_t d) {
    if (!sees(unit, page)) return;
    const uint16_t *keys = unit->span->keys[page] + d;
    const size_t row = shape->key_width * sizeof *keys;
    ON_TILE(page, SCORE, keys, row);
}

ALWAYS_INLINE void store_scores(const span_unit *unit, uint32_t page) {
    if (sees(unit, page)) ON_TILE(page, STORE_SUMS, unit->scores + page * PAGE_SCORES);
}

/* --- weights ------------------------------------------------------------------------------ */

static void cap_scores(float *scores, float softcap) {
    for (uint32_t k = 0; k < KV_PAGE_TOKENS; k++, scores += AMX_QUERIES)
        v_store(scores, v_softcap(v_load(scores), softcap));
}

/* -infinity where a query does not see the key. */
static void hide_keys(const query_tile *tile, uint32_t begin, float *scores) {
    __m512i first = _mm512_loadu_si512(tile->first), last = _mm512_loadu_si512(tile->last);
    for (uint32_t k = 0; k < KV_PAGE_TOKENS; k++, scores += AMX_QUERIES) {
        __m512i key = _mm512_set1_epi32((int)(begin + k));
        __mmask16 seen =
            _mm512_mask_cmple_epu32_mask(_mm512_cmple_epu32_mask(first, key), key, last);
        v_store(scores, _mm512_mask_blend_ps(seen, v_set1(-INFINITY), v_load(scores)));
    }
}

static void raise_tops(const float *scores, vf *tops) {
    for (uint32_t k = 0; k < KV_PAGE_TOKENS; k += 4)
        for (uint32_t i = 0; i < 4; i++)
            tops[i] = v_max(v_load(scores + (k + i) * AMX_QUERIES), tops[i]);
}

/* Scores of a page that the tile sees are made final; tops rise to them. */
static void finish_scores(const span_shape *shape, const span_unit *unit, uint32_t page, vf *tops) {
    const query_tile *tile = unit->tile;
    float *scores = unit->scores + page * PAGE_SCORES;
    uint32_t begin = unit->span->begin + page * KV_PAGE_TOKENS;
    if (shape->softcap > 0) cap_scores(scores, shape->softcap);
    if (begin < tile->first_all || begin + KV_PAGE_TOKENS - 1 > tile->last_all)
        hide_keys(tile, begin, scores);
    raise_tops(scores, tops);
}

static void hide_page(float *scores) {
    for (uint32_t k = 0; k < KV_PAGE_TOKENS; k++)
        v_store(scores + k * AMX_QUERIES, v_set1(-INFINITY));
}

/* A query's top follows its scores only when they leave it far behind, so that sums seldom shrink; a
 * query without a top yet has no sums. */
static void set_tops(span_unit *unit, vf top) {
    query_tile *tile = unit->tile;
    vf before = v_load(tile->top), limit = v_add(before, v_set1(TOP_SLACK));
    __mmask16 rises = _mm512_cmp_ps_mask(top, limit, _CMP_GT_OQ);
    __mmask16 begun = _mm512_cmp_ps_mask(before, v_set1(-FLT_MAX), _CMP_NEQ_UQ);
    unit->shrinks = (rises & begun) != 0;
    if (!rises) return;
    top = _mm512_mask_blend_ps(rises, before, top);
    v_store(tile->top, top);
    if (!unit->shrinks) return;
    vf shrink = v_exp2(v_sub(before, top));
    v_store(unit->shrink, shrink);
    v_store(tile->sum, v_mul(v_load(tile->sum), shrink));
}

static void find_tops(const span_shape *shape, span_unit *unit) {
    vf none = v_set1(-FLT_MAX), tops[4] = {none, none, none, none};
    for (uint32_t page = 0; page < AMX_SPAN_PAGES; page++)
        if (sees(unit, page))
            finish_scores(shape, unit, page, tops);
        else if (sees_pair(unit, page))
            hide_page(unit->scores + page * PAGE_SCORES);
    set_tops(unit, v_max(v_max(tops[0], tops[1]), v_max(tops[2], tops[3])));
}

/* 2^x, x at most 0: 2^fraction as a polynomial of least maximal relative error, ours, exactly 1 at 0.
 */
ALWAYS_INLINE vf weight_of(vf x) {
    vf fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vf y = v_fma(fraction, v_set1(0.0770671591f), v_set1(0.2276448607f));
    y = v_fma(y, fraction, v_set1(0.6951168180f));
    y = v_fma(y, fraction, v_set1(1.0f));
    return _mm512_scalef_ps(y, x);
}

/* Both rounded to bf16, halves up, side by side in each dword. */
ALWAYS_INLINE __m512i round_pairs(vf first, vf second) {
    const __m512i half = _mm512_set1_epi32(0x8000);
    __m512i low = _mm512_add_epi32(_mm512_castps_si512(first), half);
    __m512i high = _mm512_add_epi32(_mm512_castps_si512(second), half);
    return _mm512_mask_mov_epi16(_mm512_srli_epi32(low, 16), 0xaaaaaaaau, high);
}

/* A unit on its way through its pairs of keys. */
typedef struct weighing {
    const span_unit *unit; /* NULL: nothing to do */
    uint32_t at;           /* pairs of keys so far */
    vf top, sum;
} weighing;

ALWAYS_INLINE weighing begin_weighing(const span_unit *unit) {
    if (!unit->tile) return (weighing){.at = AMX_SPAN_KEYS / 2};
    return (weighing){.unit = unit, .top = v_load(unit->tile->top), .sum = v_load(unit->tile->sum)};
}

/* Some pairs more; those of pages that nobody will multiply have no weights. */
ALWAYS_INLINE void weigh_keys(weighing *w) {
    const __m512i ones = _mm512_set1_epi32(0x3f803f80);
    uint32_t key = 2 * w->at;
    if (w->at >= AMX_SPAN_KEYS / 2) return;
    w->at += TURN_PAIRS;
    if (!sees_pair(w->unit, key / KV_PAGE_TOKENS)) return;
    const float *scores = w->unit->scores + key * AMX_QUERIES;
    uint16_t *weights = w->unit->weights + key * AMX_QUERIES;
    for (uint32_t i = 0; i < TURN_PAIRS; i++) {
        vf first = weight_of(v_sub(v_load(scores + 2 * i * AMX_QUERIES), w->top));
        vf second = weight_of(v_sub(v_load(scores + (2 * i + 1) * AMX_QUERIES), w->top));
        __m512i pairs = round_pairs(first, second);
        _mm512_store_si512(weights + 2 * i * AMX_QUERIES, pairs);
        w->sum = _mm512_dpbf16_ps(w->sum, (__m512bh)pairs, (__m512bh)ones);
    }
}

ALWAYS_INLINE void end_weighing(weighing *w) {
    while (w->at < AMX_SPAN_KEYS / 2)
        weigh_keys(w);
    if (w->unit) v_store(w->unit->tile->sum, w->sum);
}

/* --- sums --------------------------------------------------------------------------------- */

void span_pack_values(const span_shape *shape, const key_span *span) {
    uint16_t *out = span->packed;
    for (uint32_t page = 0; page < AMX_SPAN_PAGES; page += PAIR_PAGES) {
        const uint16_t *first = span->values[page], *second = span->values[page + 1];
        for (uint32_t d = 0; d < shape->value_width && (first || second); d++) {
            size_t at = (size_t)d * KV_PAGE_TOKENS;
            __m256i low = _mm256_setzero_si256(), high = low;
            if (first) low = _mm256_loadu_si256((const __m256i *)(first + at));
            if (second) high = _mm256_loadu_si256((const __m256i *)(second + at));
            __m512i row = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
            _mm512_store_si512(out + 2 * at, row);
        }
        out += (size_t)shape->value_width * TILE_COLS;
    }
}

static void shrink_outs(const span_shape *shape, const span_unit *unit) {
    vf shrink = v_load(unit->shrink);
    float *outs = unit->tile->outs;
    for (uint32_t d = 0; d < shape->value_width; d++, outs += AMX_QUERIES)
        v_store(outs, v_mul(v_load(outs), shrink));
}

/* values: of these dims and two pages. */
#define ADD_TILE(tile, values)                                                                     \
    do {                                                                                           \
        AMX_LOAD(7, values, TILE_ROW_BYTES);                                                       \
        AMX_MULTIPLY(tile, 7, 5);                                                                  \
    } while (0)

static uint32_t tiles_from(const span_shape *shape, uint32_t d) {
    uint32_t left = (shape->value_width - d) / TILE_ROWS;
    return left < GROUP_DIMS / TILE_ROWS ? left : GROUP_DIMS / TILE_ROWS;
}

/* Of a page's pair, from dim d. */
static const uint16_t *values_at(const span_shape *shape, const span_unit *unit, uint32_t page,
                                 uint32_t d) {
    size_t row = (size_t)page / PAIR_PAGES * shape->value_width + d;
    return unit->span->packed + row * TILE_COLS;
}

/* --- turns -------------------------------------------------------------------------------- */

/* What goes on between multiplications. */
typedef struct span_turns {
    weighing w;
    const span_shape *shape;
    const key_span *ahead;
    uint32_t fetched; /* half blocks of ahead */
} span_turns;

enum { FETCHES = 4 * AMX_SPAN_PAGES };

/* Half of a page's keys or values. */
ALWAYS_INLINE void fetch_ahead(span_turns *turns) {
    if (turns->fetched == FETCHES) return;
    uint32_t i = turns->fetched++, page = i / 4;
    bool values = i / 2 % 2;
    const uint16_t *block = values ? turns->ahead->values[page] : turns->ahead->keys[page];
    if (!block) return;
    uint32_t width = values ? turns->shape->value_width : turns->shape->key_width;
    size_t bytes = (size_t)width * KV_PAGE_TOKENS * sizeof *block / 2;
    const char *from = (const char *)block + (i % 2 ? bytes : 0);
    for (size_t at = 0; at < bytes; at += CACHE_LINE_BYTES)
        _mm_prefetch(from + at, _MM_HINT_T1);
}

ALWAYS_INLINE void take_turn(span_turns *turns) {
    fetch_ahead(turns);
    weigh_keys(&turns->w);
}

ALWAYS_INLINE void end_turns(span_turns *turns) {
    while (turns->fetched < FETCHES)
        fetch_ahead(turns);
    end_weighing(&turns->w);
}

ALWAYS_INLINE void score_span(const span_shape *shape, const span_unit *unit, span_turns *turns) {
    AMX_ZERO(0);
    AMX_ZERO(1);
    AMX_ZERO(2);
    AMX_ZERO(3);
    for (uint32_t d = 0; d < shape->key_width; d += TILE_COLS) {
        load_queries(unit, d);
        for (uint32_t page = 0; page < AMX_SPAN_PAGES; page++) {
            score_page(shape, unit, page, d);
            take_turn(turns);
        }
    }
    for (uint32_t page = 0; page < AMX_SPAN_PAGES; page++)
        store_scores(unit, page);
}

/* Dims from d, as many as there are tiles for. */
ALWAYS_INLINE void add_dims(const span_shape *shape, const span_unit *unit, uint32_t d,
                            span_turns *turns) {
    uint32_t tiles = tiles_from(shape, d);
    float *outs = unit->tile->outs + (size_t)d * AMX_QUERIES;
    for (uint32_t tile = 0; tile < tiles; tile++)
        ON_TILE(tile, LOAD_SUMS, outs + tile * PAGE_SCORES);
    for (uint32_t page = 0; page < AMX_SPAN_PAGES; page += PAIR_PAGES) {
        if (!sees_pair(unit, page)) continue;
        AMX_LOAD(5, unit->weights + page * PAGE_SCORES, TILE_ROW_BYTES);
        for (uint32_t tile = 0; tile < tiles; tile++) {
            ON_TILE(tile, ADD_TILE, values_at(shape, unit, page, d + tile * TILE_ROWS));
            take_turn(turns);
        }
    }
    for (uint32_t tile = 0; tile < tiles; tile++)
        ON_TILE(tile, STORE_SUMS, outs + tile * PAGE_SCORES);
}

ALWAYS_INLINE void add_span(const span_shape *shape, const span_unit *unit, span_turns *turns) {
    for (uint32_t d = 0; d < shape->value_width; d += GROUP_DIMS)
        add_dims(shape, unit, d, turns);
}

void span_step(const span_shape *shape, const span_unit *next, span_unit *now,
               const span_unit *last, const key_span *ahead) {
    if (now->tile) find_tops(shape, now);
    if (last->tile && last->shrinks) shrink_outs(shape, last);
    span_turns turns = {
        .w = begin_weighing(now), .shape = shape, .ahead = ahead, .fetched = ahead ? 0 : FETCHES};
    if (next->tile) score_span(shape, next, &turns);
    if (last->tile) add_span(shape, last, &turns);
    end_turns(&turns);
}
