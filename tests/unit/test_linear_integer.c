/* test_linear_integer.c - linear with activations as integers: every way it is computed, against the definition
 * of kernels/cpu/integer/integer.h in plain C, bit for bit. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "kernels/cpu/cpu.h"
#include "tests/amxemu/amxemu.h"
#include "tests/unit/linear_case.h"

/* --- every way there is ------------------------------------------------------------------- */

typedef struct way {
    const char *name;
    kern_activations activations;
    kern_level level;
    cpu_linear_fn *linear;
    bool exists;
} way;

enum { WAYS = 9, KINDS = 3 };

static void find_ways(way out[WAYS]) {
    kern_level best = kern_cpu_best_level();
    bool wide = best >= LEVEL_AVX512, vnni = wide && cpu_has(CPU_AVX512_VNNI);
    bool some = best >= LEVEL_AVX2, some_vnni = some && cpu_has(CPU_AVX_VNNI);
    bool tiles = best >= LEVEL_AMX && vnni && cpu_has(CPU_AMX_INT8);
    const way all[WAYS] = {
        {"8 bits, avx2", ACT_INT8, LEVEL_AVX2, linear_int8_avx2, some},
        {"8 bits, avx2_vnni", ACT_INT8, LEVEL_AVX2, linear_int8_avx2_vnni, some_vnni},
        {"8 bits, avx512", ACT_INT8, LEVEL_AVX512, linear_int8_avx512, wide},
        {"8 bits, avx512_vnni", ACT_INT8, LEVEL_AVX512, linear_int8_avx512_vnni, vnni},
        {"8 bits, amx", ACT_INT8, LEVEL_AMX, linear_int8_amx, tiles},
        {"16 bits, avx2", ACT_BF16, LEVEL_AVX2, linear_int16_avx2, some},
        {"16 bits, avx2_vnni", ACT_BF16, LEVEL_AVX2, linear_int16_avx2_vnni, some_vnni},
        {"16 bits, avx512", ACT_BF16, LEVEL_AVX512, linear_int16_avx512, wide},
        {"16 bits, avx512_vnni", ACT_BF16, LEVEL_AVX512, linear_int16_avx512_vnni, vnni},
    };
    memcpy(out, all, sizeof all);
    for (uint32_t i = 0; i < WAYS && amxemu_on(); i++)
        out[i].exists = out[i].exists && out[i].level == LEVEL_AMX;
}

/* Ways of one kind give the same bits. */
static uint32_t kind_of(const way *w) {
    return w->activations == ACT_BF16 ? 2 : w->level == LEVEL_AMX ? 1 : 0;
}

static lab open_way(const way *w, uint32_t threads) {
    lab l = lab_open_for(w->activations, &kern_cpu, w->level, DT_BF16, threads);
    l.dev->linear_integer = w->linear;
    return l;
}

/* --- the definition ------------------------------------------------------------------------ */

/* 32 weights: w = scale[h] * (value - zero) + offset[h]. */
typedef struct piece {
    int value[TILE_COLS];
    uint32_t halves; /* that have a scale of their own: 1 or 2 */
    float scale[2], offset[2], zero;
    bool has_offset;
} piece;

static piece q8_piece(const block_q8_0 *block) {
    uint16_t d;
    memcpy(&d, block->d, sizeof d);
    piece out = {.halves = 1, .scale = {f32_of_f16(d)}};
    for (uint32_t i = 0; i < TILE_COLS; i++)
        out.value[i] = block->q[i];
    return out;
}

/* Piece p of a row's blocks. */
static piece piece_of(esp_dtype dtype, const uint8_t *row, uint32_t p) {
    const quant_coding *coding = dtype_info(dtype)->coding;
    if (dtype == DT_Q8_0) return q8_piece((const block_q8_0 *)(const void *)row + p);
    quant_piece q;
    coding->read(row, p, &q);
    piece out = {.halves = TILE_COLS / coding->scale_cols, .has_offset = coding->offset != 0};
    for (uint32_t i = 0; i < TILE_COLS; i++)
        out.value[i] = coding->values ? coding->values[q.codes[i]] : coding->first + q.codes[i];
    for (uint32_t h = 0; h < 2; h++) {
        out.scale[h] = coding->grouped ? q.group_scale : f32_of_f16(q.d) * (float)q.scale[h];
        out.offset[h] = (float)coding->offset * f32_of_f16(q.m) * (float)q.minimum[h];
    }
    if (coding->grouped) out.zero = (float)q.zero;
    return out;
}

typedef struct inputs {
    float scale;
    int code[TILE_COLS];
} inputs;

/* What x, 32 of the matrix's inputs, becomes. */
static inputs quantised(uint32_t kind, const float *x) {
    inputs out = {0};
    float largest = 0;
    for (uint32_t i = 0; i < TILE_COLS; i++)
        largest = fmaxf(largest, fabsf(x[i]));
    if (largest < 0x1p-100f) return out;
    float factor = 127 / largest;
    out.scale = largest / 127;
    if (kind == 2) {
        out.scale = ldexpf(1, ilogbf(largest) - 14);
        factor = 1 / out.scale;
    }
    for (uint32_t i = 0; i < TILE_COLS; i++)
        out.code[i] = (int)nearbyintf(x[i] * factor);
    return out;
}

static float add_piece(const piece *w, const inputs *x, float acc) {
    uint32_t cols = TILE_COLS / w->halves;
    float y = 0;
    for (uint32_t h = 0; h < w->halves; h++) {
        int p = 0, sum = 0;
        for (uint32_t i = h * cols; i < (h + 1) * cols; i++) {
            p += w->value[i] * x->code[i];
            sum += x->code[i];
        }
        y = fmaf(w->scale[h], fmaf(-w->zero, (float)sum, (float)p), y);
        if (w->has_offset) y = fmaf(w->offset[h], (float)sum, y);
    }
    return fmaf(x->scale, y, acc);
}

/* 32 weights that are no whole numbers: as the AVX levels have them. */
static float add_other_piece(esp_dtype dtype, const uint8_t *row, const float *w, const float *x,
                             uint32_t at, float acc) {
    const dtype_row *info = dtype_info(dtype);
    const uint8_t *block = row + (size_t)at * info->block_bytes; /* of DT_F8_E4M3 */
    float scale = 1, p = 0;
    if (dtype == DT_F8_E4M3) memcpy(&scale, block, sizeof scale);
    for (uint32_t i = 0; i < TILE_COLS; i++)
        p = fmaf(dtype == DT_F8_E4M3 ? f32_of_e4m3(block[sizeof scale + i]) : w[i], x[i], p);
    return fmaf(scale, p, acc);
}

/* One row of weights times one token, whose inputs lie in the columns' order. */
static float row_times(uint32_t kind, esp_dtype dtype, const uint8_t *row, const float *x,
                       uint32_t cols) {
    const dtype_row *info = dtype_info(dtype);
    float acc = 0;
    if (info->coding || dtype == DT_Q8_0) {
        for (uint32_t p = 0; p < cols / TILE_COLS; p++) {
            piece w = piece_of(dtype, row, p);
            inputs in = quantised(kind, x + (size_t)p * TILE_COLS);
            acc = add_piece(&w, &in, acc);
        }
        return acc;
    }
    float *whole = malloc(cols * sizeof *whole);
    info->dequantise(row, whole, cols);
    for (uint32_t c = 0; kind == 1 && c < cols; c++)
        acc = fmaf(whole[c], x[c], acc);
    for (uint32_t c = 0; kind != 1 && c < cols; c += TILE_COLS)
        acc = add_other_piece(dtype, row, whole + c, x + c, c / TILE_COLS, acc);
    free(whole);
    return acc;
}

/* --- cases --------------------------------------------------------------------------------- */

/* Of every magnitude; bf16 holds them. */
static float *inputs_of(const linear_case *c) {
    size_t count = (size_t)c->tokens * c->cols;
    float *in = lab_random(7, count);
    for (size_t i = 0; i < count; i++)
        in[i] = f32_of_bf16(bf16_of_f32(ldexpf(in[i], (int)(lab_hash(i / TILE_COLS) % 40) - 20)));
    return in;
}

/* sums[m][t][row] of matrix m. */
static float *sums_of(uint32_t kind, const linear_case *c, uint32_t m) {
    const dtype_row *info = dtype_info(c->dtype[m]);
    float *in = inputs_of(c), *out = malloc((size_t)c->tokens * c->rows[m] * sizeof *out);
    float *bias = lab_random(50 + m, c->rows[m]), *x = malloc(c->cols * sizeof *x);
    uint8_t *blocks = lab_blocks(c->dtype[m], c->rows[m], c->cols, 100 + m);
    uint32_t *order = c->order[m] ? lab_shuffle(c->order[m], c->cols) : NULL;
    size_t row_bytes = (size_t)c->cols / info->block_elements * info->block_bytes;
    for (uint32_t t = 0; t < c->tokens; t++) {
        for (uint32_t i = 0; i < c->cols; i++)
            x[i] = in[(size_t)t * c->cols + (order ? order[i] : i)];
        for (uint32_t r = 0; r < c->rows[m]; r++) {
            float sum = row_times(kind, c->dtype[m], blocks + r * row_bytes, x, c->cols);
            out[(size_t)t * c->rows[m] + r] = c->bias ? sum + bias[r] : sum;
        }
    }
    free(order);
    free(blocks);
    free(x);
    free(bias);
    free(in);
    return out;
}

static float *side_by_side(uint32_t kind, const linear_case *c) {
    uint32_t cols = out_cols(c), first = 0;
    float *out = malloc((size_t)c->tokens * cols * sizeof *out);
    for (uint32_t m = 0; m < c->matrices; first += c->rows[m++]) {
        float *sums = sums_of(kind, c, m);
        for (uint32_t t = 0; t < c->tokens; t++)
            memcpy(out + (size_t)t * cols + first, sums + (size_t)t * c->rows[m],
                   c->rows[m] * sizeof *out);
        free(sums);
    }
    return out;
}

/* The op over tokens first .. first + count of the case's inputs; free() the result. */
static float *linear_of(const lab *l, const linear_case *c, uint32_t first, uint32_t count) {
    size_t in_count = (size_t)count * c->cols, out_count = (size_t)count * out_cols(c);
    float *in = inputs_of(c);
    kern_linear op = {.token_count = count,
                      .epilogue = c->epilogue,
                      .in = lab_upload(l, KIND_ACT, in + (size_t)first * c->cols, in_count),
                      .out = lab_upload_random(l, out_kind(c), 9, out_count)};
    take_matrices(l, c, &op);
    l->ops->linear(l->dev, &op);
    float *out = lab_download(l, out_kind(c), op.out, out_count);
    drop_matrices(l, c, &op);
    lab_release(l, KIND_ACT, (void *)op.in, in_count);
    lab_release(l, out_kind(c), op.out, out_count);
    free(in);
    return out;
}

static void compare(const linear_case *c, uint32_t threads) {
    way ways[WAYS];
    size_t count = (size_t)c->tokens * out_cols(c);
    float *before = lab_random(9, count), *wants[KINDS] = {0};
    find_ways(ways);
    for (uint32_t i = 0; i < WAYS; i++) {
        if (!ways[i].exists) continue;
        float *want = wants[kind_of(&ways[i])];
        if (!want) {
            wants[kind_of(&ways[i])] = want = side_by_side(kind_of(&ways[i]), c);
            for (size_t k = 0; c->epilogue == EPI_RESIDUAL && k < count; k++)
                want[k] = before[k] + want[k];
        }
        lab l = open_way(&ways[i], threads);
        float *got = linear_of(&l, c, 0, c->tokens);
        char what[96];
        snprintf(what, sizeof what, "%s %s N=%u K=%u T=%u", ways[i].name,
                 dtype_info(c->dtype[0])->name, c->rows[0], c->cols, c->tokens);
        assert_same_bits(got, want, count, what);
        free(got);
        lab_close(&l);
    }
    for (uint32_t i = 0; i < KINDS; i++)
        free(wants[i]);
    free(before);
}

/* --- tests --------------------------------------------------------------------------------- */

/* Every format, with row counts that leave part of a tile and token counts around each way. */
static void linear_is_what_the_definition_says(void **state) {
    (void)state;
    static const uint32_t rows[] = {1, 15, 16, 17, 64, 100, 131};
    static const uint32_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 33, 97, 113};
    for (esp_dtype d = DT_F32; d < DT_COUNT; d++) {
        if (!dtype_has_whole_codes(d)) continue;
        uint32_t block = dtype_info(d)->block_elements;
        for (uint32_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
            linear_case c = {.dtype = {d},
                             .rows = {rows[i % 7]},
                             .matrices = 1,
                             .cols = block * (1 + i % (block == TILE_COLS ? 13 : 3)),
                             .tokens = tokens[i],
                             .epilogue = i % 2 ? EPI_STORE : EPI_RESIDUAL,
                             .bias = i % 3 == 0};
            compare(&c, 1 + i % 3);
        }
    }
}

/* Formats with and without an int8 form in one op, strips that straddle matrices. */
static void matrices_of_any_formats_lie_side_by_side(void **state) {
    (void)state;
    static const esp_dtype mixes[][3] = {{DT_Q4_1, DT_Q8_0, DT_Q4_1},
                                         {DT_Q4_K, DT_Q2_K, DT_Q6_K},
                                         {DT_Q5_0, DT_F16, DT_IQ4_XS},
                                         {DT_F8_E4M3, DT_BF16, DT_G8}};
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t tokens = 1; tokens <= 41; tokens += 8) {
            linear_case c = {.dtype = {mixes[i][0], mixes[i][1], mixes[i][2]},
                             .rows = {72, 24, 25},
                             .matrices = 3,
                             .cols = i == 0 ? 96 : 256,
                             .tokens = tokens,
                             .bias = true};
            compare(&c, 2);
        }
}

static void each_matrix_has_blocks_in_its_own_order(void **state) {
    (void)state;
    static const uint64_t orders[][3] = {{5, 5, 5}, {5, 6, 7}, {5, 0, 5}, {0, 0, 9}};
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t tokens = 1; tokens <= 129; tokens *= 2 + tokens % 2) {
            linear_case c = {.dtype = {DT_G4, DT_F16, DT_G3},
                             .rows = {72, 24, 25},
                             .matrices = 3,
                             .cols = 96,
                             .tokens = tokens};
            memcpy(c.order, orders[i], sizeof c.order);
            compare(&c, 1 + i % 3);
        }
}

/* Gate and up meet in one strip, also when only one of them has an int8 form. */
static void gated_sums_are_combined(void **state) {
    (void)state;
    static const esp_dtype pairs[][2] = {
        {DT_Q4_1, DT_Q4_1}, {DT_Q6_K, DT_Q4_K}, {DT_Q4_0, DT_F16}, {DT_BF16, DT_G4}};
    way ways[WAYS];
    find_ways(ways);
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t tokens = 1; tokens <= 41; tokens += 20) {
            linear_case c = {.dtype = {pairs[i][0], pairs[i][1]},
                             .rows = {89, 89},
                             .matrices = 2,
                             .cols = 256,
                             .tokens = tokens,
                             .epilogue = EPI_SILU_MUL};
            for (uint32_t w = 0; w < WAYS; w++) {
                if (!ways[w].exists) continue;
                float *gate = sums_of(kind_of(&ways[w]), &c, 0);
                float *up = sums_of(kind_of(&ways[w]), &c, 1);
                lab l = open_way(&ways[w], 2);
                float *got = linear_of(&l, &c, 0, tokens);
                for (uint32_t n = 0; n < tokens * 89; n++) {
                    float want = gate[n] / (1 + expf(-gate[n])) * up[n];
                    if (!(fabsf(got[n] - want) <= 6e-3f * fabsf(want) + 1e-20f))
                        fail_msg("%s: %u is %g, not %g", ways[w].name, n, (double)got[n],
                                 (double)want);
                }
                free(gate);
                free(up);
                free(got);
                lab_close(&l);
            }
        }
}

/* Law 1: a token's outputs alone, among some, among many, on any number of threads. */
static void row_is_the_same_in_any_company(void **state) {
    (void)state;
    static const uint32_t counts[] = {1, 2, 3, 4, 5, 16, 33, 64, 200};
    static const uint32_t threads[] = {1, 2, 7};
    static const kern_epilogue epilogues[] = {EPI_STORE, EPI_RESIDUAL, EPI_SILU_MUL};
    way ways[WAYS];
    find_ways(ways);
    for (uint32_t i = 0; i < WAYS; i++)
        for (esp_dtype d = DT_F32; d < DT_COUNT && ways[i].exists; d++) {
            uint32_t block = dtype_info(d)->block_elements;
            linear_case c = {.dtype = {d, d},
                             .rows = {83, 83},
                             .matrices = 2,
                             .cols = block < 128 ? 128 : block,
                             .tokens = 300,
                             .epilogue = epilogues[d % 3],
                             .order = {d % 3, d % 2}};
            lab alone = open_way(&ways[i], 1);
            float *want = linear_of(&alone, &c, 0, c.tokens);
            for (uint32_t n = 0; n < sizeof counts / sizeof *counts; n++) {
                if (c.epilogue == EPI_RESIDUAL) break; /* what is added differs */
                lab l = open_way(&ways[i], threads[n % 3]);
                uint32_t first = n % 3 * 37 % (c.tokens - counts[n] + 1);
                float *got = linear_of(&l, &c, first, counts[n]);
                assert_same_bits(got, want + (size_t)first * out_cols(&c),
                                 (size_t)counts[n] * out_cols(&c), ways[i].name);
                free(got);
                lab_close(&l);
            }
            for (uint32_t n = 0; n < 3; n++) {
                lab l = open_way(&ways[i], threads[n]);
                float *got = linear_of(&l, &c, 0, c.tokens);
                assert_same_bits(got, want, (size_t)c.tokens * out_cols(&c), "threads");
                free(got);
                lab_close(&l);
            }
            free(want);
            lab_close(&alone);
        }
}

/* The packed matrix still holds every weight exactly: a tied one is read row by row. */
static void embed_reads_the_packed_codes(void **state) {
    enum { ROWS = 37, COLS = 512 };
    int32_t ids[ROWS];
    float want[COLS];
    for (int32_t r = 0; r < ROWS; r++)
        ids[r] = ROWS - 1 - r;
    if (kern_cpu_best_level() == LEVEL_AUTO) skip();
    lab l = lab_open_for(*state ? ACT_BF16 : ACT_INT8, &kern_cpu, *state ? LEVEL_AVX2 : LEVEL_AUTO,
                         DT_BF16, 2);
    float *out = lab_alloc(&l, ROWS * COLS * sizeof *out);
    for (esp_dtype d = DT_F32; d < DT_COUNT; d++) {
        const dtype_row *info = dtype_info(d);
        kern_matrix *matrix = lab_matrix(&l, d, ROWS, COLS, 3);
        uint8_t *blocks = lab_blocks(d, ROWS, COLS, 3);
        l.ops->embed(l.dev,
                     &(kern_embed){
                         .table = matrix, .ids = ids, .token_count = ROWS, .scale = 1, .out = out});
        for (uint32_t t = 0; t < ROWS; t++) {
            size_t at = (size_t)ids[t] * COLS / info->block_elements * info->block_bytes;
            info->dequantise(blocks + at, want, COLS);
            for (uint32_t k = 0; k < COLS; k++) {
                assert_true(out[t * COLS + k] == want[k]);
                assert_true(cpu_weight_at(matrix, (uint32_t)ids[t], k) == want[k]);
            }
        }
        free(blocks);
        l.ops->matrix_close(l.dev, matrix);
    }
    l.ops->release(l.dev, out, ROWS * COLS * sizeof *out);
    lab_close(&l);
}

/* A NaN among the inputs is a NaN of its token's outputs, and of no other's. Inputs too small for a
 * scale are zeros. */
static void odd_inputs_stay_with_their_token(void **state) {
    (void)state;
    enum { COLS = 64, ROWS = 20, T = 6 };
    way ways[WAYS];
    find_ways(ways);
    for (uint32_t i = 0; i < WAYS; i++) {
        if (!ways[i].exists) continue;
        lab l = open_way(&ways[i], 1);
        float *in = lab_random(1, T * COLS), *out = lab_alloc(&l, T * ROWS * sizeof *out);
        for (uint32_t c = 0; c < COLS; c++)
            in[2 * COLS + c] = 0x1p-120f;
        in[4 * COLS + 40] = NAN;
        kern_matrix *w = lab_matrix(&l, DT_Q4_1, ROWS, COLS, 3);
        void *x = lab_upload(&l, KIND_ACT, in, T * COLS);
        for (uint32_t few = 0; few < 2; few++) {
            size_t first = few ? 2 * COLS : 0; /* tokens 2 to 5, by another way */
            kern_linear op = {.in = (uint16_t *)x + first,
                              .token_count = few ? 4 : T,
                              .matrix = {w},
                              .matrix_count = 1,
                              .out = out};
            l.ops->linear(l.dev, &op);
            for (uint32_t t = 0; t < op.token_count; t++)
                for (uint32_t r = 0; r < ROWS; r++) {
                    uint32_t token = t + (few ? 2 : 0);
                    assert_int_equal(isnan(out[t * ROWS + r]), token == 4);
                    if (token == 2) assert_true(out[t * ROWS + r] == 0);
                }
        }
        lab_release(&l, KIND_ACT, x, T * COLS);
        l.ops->matrix_close(l.dev, w);
        l.ops->release(l.dev, out, T * ROWS * sizeof *out);
        free(in);
        lab_close(&l);
    }
}

/* Where codes of 16 bits begin and end: the largest and smallest numbers that a block may have, what lies between two
 * codes or below all of them; a number that is not finite is none of its token's outputs. Of formats of every scaling. */
static void edges_of_words_are_as_defined(void **state) {
    (void)state;
    static const esp_dtype formats[] = {DT_Q4_0, DT_Q4_1, DT_Q2_K, DT_Q6_K, DT_IQ4_XS, DT_G8};
    static const float largest[] = {0x1.fep120f, -0x1.fep120f, 0x1p-100f, 0x1.fep-101f, 1, 1,
                                    1,           INFINITY};
    static const float beside[] = {-0x1.02p112f, 0x1.fep105f, -0x1.02p-108f, 0x1p-101f,
                                   0x1.02p-8f,   -0x1p-15f,   0x1.8p-14f,    1};
    enum { EDGES = sizeof largest / sizeof *largest, COLS = 256, ROWS = 20 };
    way ways[WAYS];
    find_ways(ways);
    float *in = malloc(EDGES * COLS * sizeof *in);
    for (uint32_t i = 0; i < EDGES * COLS; i++)
        in[i] = i % TILE_COLS == 7 ? largest[i / COLS] : i % 3 ? beside[i / COLS] : 0;
    for (uint32_t i = 0; i < WAYS; i++)
        for (uint32_t f = 0; f < sizeof formats / sizeof *formats; f++) {
            if (!ways[i].exists || ways[i].activations != ACT_BF16) continue;
            lab l = open_way(&ways[i], 1);
            const dtype_row *info = dtype_info(formats[f]);
            size_t row_bytes = COLS / info->block_elements * info->block_bytes;
            kern_matrix *w = lab_matrix(&l, formats[f], ROWS, COLS, 3);
            uint8_t *blocks = lab_blocks(formats[f], ROWS, COLS, 3);
            uint16_t *x = lab_upload(&l, KIND_ACT, in, EDGES * COLS);
            float *out = lab_alloc(&l, EDGES * ROWS * sizeof *out);
            for (uint32_t alone = 0; alone < 2; alone++)
                for (uint32_t t = 0, count; t < EDGES; t += count) {
                    count = alone ? 1 : EDGES;
                    l.ops->linear(l.dev, &(kern_linear){.in = x + t * COLS,
                                                        .token_count = count,
                                                        .matrix = {w},
                                                        .matrix_count = 1,
                                                        .out = out + t * ROWS});
                    for (uint32_t n = t * ROWS; n < (t + count) * ROWS; n++) {
                        const float *token = in + (size_t)(n / ROWS) * COLS;
                        if (n / ROWS == EDGES - 1) { /* of no finite number there are no codes */
                            assert_true(isnan(out[n]));
                            continue;
                        }
                        float want =
                            row_times(2, formats[f], blocks + n % ROWS * row_bytes, token, COLS);
                        assert_same_bits(out + n, &want, 1, info->name);
                    }
                }
            l.ops->release(l.dev, out, EDGES * ROWS * sizeof *out);
            lab_release(&l, KIND_ACT, x, EDGES * COLS);
            l.ops->matrix_close(l.dev, w);
            free(blocks);
            lab_close(&l);
        }
    free(in);
}

/* An image computes what its matrix did, and is told apart from one for other activations. */
static void images_are_of_one_mode(void **state) {
    enum { ROWS = 45, COLS = 256, T = 3 };
    if (kern_cpu_best_level() == LEVEL_AUTO) skip();
    lab l = lab_open_for(*state ? ACT_BF16 : ACT_INT8, &kern_cpu, LEVEL_AVX2, DT_BF16, 1);
    lab other = lab_open_for(*state ? ACT_INT8 : ACT_BF16, &kern_cpu, LEVEL_AVX2, DT_BF16, 1);
    assert_string_not_equal(l.ops->layout(l.dev), l.ops->layout(other.dev));
    void *x = lab_upload_random(&l, KIND_ACT, 1, T * COLS);
    for (esp_dtype d = DT_F32; d < DT_COUNT; d++) {
        float out[2][T * ROWS];
        kern_matrix *first = lab_matrix(&l, d, ROWS, COLS, 6), *second = NULL;
        kern_image image;
        esp_error err = {0};
        assert_int_equal(l.ops->image(first, &image, &err), ESP_OK);
        assert_int_equal(l.ops->open_image(l.dev, &image, &second, &err), ESP_OK);
        for (uint32_t i = 0; i < 2; i++)
            l.ops->linear(l.dev, &(kern_linear){.in = x,
                                                .token_count = T,
                                                .matrix = {i ? second : first},
                                                .matrix_count = 1,
                                                .out = out[i]});
        assert_same_bits(out[1], out[0], T * ROWS, dtype_info(d)->name);
        l.ops->matrix_close(l.dev, second);
        l.ops->matrix_close(l.dev, first);
    }
    lab_release(&l, KIND_ACT, x, T * COLS);
    lab_close(&other);
    lab_close(&l);
}

static void profile_names_the_mode_and_ref_refuses_it(void **state) {
    (void)state;
    thread_pool *pool;
    esp_error err = {0};
    kern_device *dev;
    assert_int_equal(pool_open(&pool, 1, &err), ESP_OK);
    kern_options options = {
        .pool = pool, .kv_dtype = DT_F32, .activations = ACT_INT8, .tokens_max = 8};
    assert_int_equal(kern_ref.open(&dev, &options, &err), ESP_INVALID);
    assert_string_equal(err.field, "--activations");
    assert_null(dev);
    if (kern_cpu_best_level() != LEVEL_AUTO) {
        options.level = LEVEL_AVX2;
        assert_int_equal(kern_cpu.open(&dev, &options, &err), ESP_OK);
        assert_string_equal(kern_cpu.profile(dev), "cpu:avx2,act=int8,kv=f32");
        kern_cpu.close(dev);
    }
    pool_close(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_is_what_the_definition_says),
        cmocka_unit_test(matrices_of_any_formats_lie_side_by_side),
        cmocka_unit_test(each_matrix_has_blocks_in_its_own_order),
        cmocka_unit_test(gated_sums_are_combined),
        cmocka_unit_test(row_is_the_same_in_any_company),
        cmocka_unit_test(embed_reads_the_packed_codes),
        cmocka_unit_test_prestate(embed_reads_the_packed_codes, (void *)"of bf16"),
        cmocka_unit_test(odd_inputs_stay_with_their_token),
        cmocka_unit_test(edges_of_words_are_as_defined),
        cmocka_unit_test(images_are_of_one_mode),
        cmocka_unit_test_prestate(images_are_of_one_mode, (void *)"of bf16"),
        cmocka_unit_test(profile_names_the_mode_and_ref_refuses_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
