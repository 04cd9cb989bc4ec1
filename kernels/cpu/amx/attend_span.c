/* attend_span.c - the three parts of attention on tiles, and their turns.
 *
 * Tiles   0 to 3 sums of 16 dims each, 4 and 5 scores, 6 K or V, 7 q or weights; all of 16 x 64 bytes
 * Cost    a page and tile of queries: D/8 multiplications for scores, D/32 for sums, 16 cycles each;
 *         16 exps of 16 lanes, about 6 cycles each
 * Error   2^x within 9e-5, weights to 2^-9, both after the maximum; scores 2^-16 of their terms */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/attend_span.h"

#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/level/simd.h"

enum {
    TILE_ROW_BYTES = TILE_COLS * 2,
    TILE_ELEMENTS = TILE_ROWS * TILE_COLS,
    PAGE_SCORES = KV_PAGE_TOKENS * AMX_QUERIES,
    PAIR_PAGES = TILE_COLS / KV_PAGE_TOKENS,
    GROUP_DIMS = 4 * TILE_ROWS, /* whose sums are in tiles together */
};

void span_configure(void) {
    amx_config config = {.palette = 1};
    for (uint32_t tile = 0; tile < 8; tile++) {
        config.row_bytes[tile] = TILE_ROW_BYTES;
        config.rows[tile] = TILE_ROWS;
    }
    amx_configure(&config);
}

static bool sees(const span_unit *unit, uint32_t page) {
    return page >= unit->first && page < unit->end;
}

/* --- scores ------------------------------------------------------------------------------- */

ALWAYS_INLINE void score_page(const span_shape *shape, const span_unit *unit, uint32_t page) {
    const uint16_t *keys = unit->span.keys[page], *q = unit->tile->queries;
    AMX_ZERO(4);
    for (uint32_t d = 0; d < shape->key_width; d += TILE_COLS, q += 2 * TILE_ELEMENTS) {
        AMX_LOAD(6, keys + d, shape->key_width * sizeof *keys);
        AMX_LOAD(7, q, TILE_ROW_BYTES);
        AMX_MULTIPLY(4, 6, 7);
        AMX_LOAD(7, q + TILE_ELEMENTS, TILE_ROW_BYTES);
        AMX_MULTIPLY(4, 6, 7);
    }
    AMX_STORE(4, unit->scores + page * PAGE_SCORES, AMX_QUERIES * sizeof(float));
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

/* Scores are made final, tops and sums set for them. */
static void find_tops(const span_shape *shape, span_unit *unit) {
    query_tile *tile = unit->tile;
    vf before = v_load(tile->top), tops[4] = {before, before, before, before};
    for (uint32_t page = unit->first; page < unit->end; page++) {
        float *scores = unit->scores + page * PAGE_SCORES;
        uint32_t begin = unit->span.begin + page * KV_PAGE_TOKENS;
        if (shape->softcap > 0) cap_scores(scores, shape->softcap);
        if (begin < tile->first_all || begin + KV_PAGE_TOKENS - 1 > tile->last_all)
            hide_keys(tile, begin, scores);
        raise_tops(scores, tops);
    }
    vf top = v_max(v_max(tops[0], tops[1]), v_max(tops[2], tops[3]));
    unit->shrinks = _mm512_cmp_ps_mask(top, before, _CMP_NEQ_UQ) != 0;
    if (!unit->shrinks) return;
    vf shrink = v_exp2(v_sub(before, top));
    v_store(unit->shrink, shrink);
    v_store(tile->top, top);
    v_store(tile->sum, v_mul(v_load(tile->sum), shrink));
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

/* Pages that nobody sees, beside ones that somebody does, weigh nothing. */
ALWAYS_INLINE void weigh_page(const span_unit *unit, uint32_t page) {
    uint16_t *weights = unit->weights + page * PAGE_SCORES;
    if (!sees(unit, page)) {
        memset(weights, 0, PAGE_SCORES * sizeof *weights);
        return;
    }
    query_tile *tile = unit->tile;
    const float *scores = unit->scores + page * PAGE_SCORES;
    const __m512i ones = _mm512_set1_epi32(0x3f803f80);
    vf top = v_load(tile->top), sum = v_load(tile->sum);
#pragma GCC unroll 8
    for (uint32_t k = 0; k < KV_PAGE_TOKENS; k += 2) {
        vf first = weight_of(v_sub(v_load(scores + k * AMX_QUERIES), top));
        vf second = weight_of(v_sub(v_load(scores + (k + 1) * AMX_QUERIES), top));
        __m512i pairs = round_pairs(first, second);
        _mm512_store_si512(weights + k * AMX_QUERIES, pairs);
        sum = _mm512_dpbf16_ps(sum, (__m512bh)pairs, (__m512bh)ones);
    }
    v_store(tile->sum, sum);
}

/* --- sums --------------------------------------------------------------------------------- */

void span_pack_values(const span_shape *shape, const key_span *span, uint16_t *out) {
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

/* tiles: 1 to 4 of 16 dims each. */
ALWAYS_INLINE void load_outs(const float *outs, uint32_t tiles) {
    const size_t row = AMX_QUERIES * sizeof *outs;
    AMX_LOAD(0, outs, row);
    if (tiles > 1) AMX_LOAD(1, outs + TILE_ROWS * AMX_QUERIES, row);
    if (tiles > 2) AMX_LOAD(2, outs + 2 * TILE_ROWS * AMX_QUERIES, row);
    if (tiles > 3) AMX_LOAD(3, outs + 3 * TILE_ROWS * AMX_QUERIES, row);
}

ALWAYS_INLINE void store_outs(float *outs, uint32_t tiles) {
    const size_t row = AMX_QUERIES * sizeof *outs;
    AMX_STORE(0, outs, row);
    if (tiles > 1) AMX_STORE(1, outs + TILE_ROWS * AMX_QUERIES, row);
    if (tiles > 2) AMX_STORE(2, outs + 2 * TILE_ROWS * AMX_QUERIES, row);
    if (tiles > 3) AMX_STORE(3, outs + 3 * TILE_ROWS * AMX_QUERIES, row);
}

/* values: of these dims and two pages. */
#define ADD_TILE(tile, values)                                                                     \
    do {                                                                                           \
        AMX_LOAD(6, values, TILE_ROW_BYTES);                                                       \
        AMX_MULTIPLY(tile, 6, 7);                                                                  \
    } while (0)

ALWAYS_INLINE void add_pages(const uint16_t *values, const uint16_t *weights, uint32_t tiles) {
    AMX_LOAD(7, weights, TILE_ROW_BYTES);
    ADD_TILE(0, values);
    if (tiles > 1) ADD_TILE(1, values + TILE_ELEMENTS);
    if (tiles > 2) ADD_TILE(2, values + 2 * TILE_ELEMENTS);
    if (tiles > 3) ADD_TILE(3, values + 3 * TILE_ELEMENTS);
}

static uint32_t tiles_from(const span_shape *shape, uint32_t d) {
    uint32_t left = (shape->value_width - d) / TILE_ROWS;
    return left < GROUP_DIMS / TILE_ROWS ? left : GROUP_DIMS / TILE_ROWS;
}

static bool sees_pair(const span_unit *unit, uint32_t page) {
    return sees(unit, page) || sees(unit, page + 1);
}

/* The pair that begins at page, into the sums of dims from d. */
ALWAYS_INLINE void add_pair(const span_shape *shape, const span_unit *unit, uint32_t page,
                            const uint16_t *values, uint32_t d, uint32_t tiles) {
    if (!sees_pair(unit, page)) return;
    values += ((size_t)page / PAIR_PAGES * shape->value_width + d) * TILE_COLS;
    add_pages(values, unit->weights + page * PAGE_SCORES, tiles);
}

/* Dims that the turns leave over. */
static void add_other_dims(const span_shape *shape, const span_unit *unit, const uint16_t *values) {
    for (uint32_t d = GROUP_DIMS; d < shape->value_width; d += GROUP_DIMS) {
        uint32_t tiles = tiles_from(shape, d);
        load_outs(unit->tile->outs + d * AMX_QUERIES, tiles);
        for (uint32_t page = 0; page < AMX_SPAN_PAGES; page += PAIR_PAGES)
            add_pair(shape, unit, page, values, d, tiles);
        store_outs(unit->tile->outs + d * AMX_QUERIES, tiles);
    }
}

/* --- turns -------------------------------------------------------------------------------- */

void span_step(const span_shape *shape, const span_unit *next, span_unit *now,
               const span_unit *last, const uint16_t *values) {
    uint32_t tiles = tiles_from(shape, 0);
    if (now->tile) find_tops(shape, now);
    if (last->tile && last->shrinks) shrink_outs(shape, last);
    for (uint32_t page = 0; page < AMX_SPAN_PAGES; page++) {
        if (next->tile && sees(next, page)) score_page(shape, next, page);
        if (now->tile && sees_pair(now, page & ~1u)) weigh_page(now, page);
        if (!last->tile) continue;
        if (page == 0) load_outs(last->tile->outs, tiles);
        if (page % 2) add_pair(shape, last, page & ~1u, values, 0, tiles);
    }
    if (!last->tile) return;
    store_outs(last->tile->outs, tiles);
    add_other_dims(shape, last, values);
}
