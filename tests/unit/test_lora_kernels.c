/* test_lora_kernels.c - low-rank updates of linears: ref held to a plain loop, the CPU levels to ref, and each to
 * itself bit for bit in any company (Law 1). */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/amxemu/amxemu.h"
#include "tests/unit/lora_case.h"

/* Relative to the largest output, as in test_kernels.c: of f32 sums; where the AMX level rounds weights and h to bf16;
 * where inputs are in int8; of bf16 outputs, which are half a step of bf16 away. */
static const float F32_TOLERANCE = 2e-5f, ROUNDED_TOLERANCE = 2e-2f, INT8_TOLERANCE = 4e-2f;
static const float ACT_TOLERANCE = 6e-3f;

enum { ADAPTERS_MAX = 9, SEGMENTS_MAX = 40 };

static const struct way {
    kern_level level;
    kern_activations activations;
} ways[] = {
    {LEVEL_AVX2, ACT_BF16},   {LEVEL_AVX2, ACT_INT8}, {LEVEL_AVX512, ACT_BF16},
    {LEVEL_AVX512, ACT_INT8}, {LEVEL_AMX, ACT_BF16},  {LEVEL_AMX, ACT_INT8},
}; /* up to the first that this processor does not have */
enum { WAYS = sizeof ways / sizeof ways[0] };

static lab lab_of(const struct way *way, uint32_t threads) {
    return lab_open_for(way->activations, &kern_cpu, way->level, DT_BF16, threads);
}
static bool have(const struct way *way) { return kern_cpu_best_level() >= way->level; }
/* With AMX emulated those of that level, which come last. */
static uint32_t first_way(void) {
    uint32_t w = 0;
    while (amxemu_on() && ways[w].level < LEVEL_AMX)
        w++;
    return w;
}

/* A linear, adapters, and which of them (-1: the base) each segment of its tokens has. */
typedef struct lora_case {
    linear_case linear;
    lora_shape shape[ADAPTERS_MAX];
    uint32_t adapters;
    struct {
        uint32_t first, count;
        int adapter;
    } segment[SEGMENTS_MAX];
    uint32_t segments;
    size_t piece_max; /* 0: 50,000 bytes */
} lora_case;

/* The op over tokens first .. first + count of the case; updated: with its updates. free() the result. */
static float *run_part(const lab *l, const lora_case *c, uint32_t first, uint32_t count,
                       bool updated) {
    const linear_case *base = &c->linear;
    size_t in_count = (size_t)count * base->cols, out_count = (size_t)count * out_cols(base);
    float *in = lab_random(7, (size_t)base->tokens * base->cols);
    float *before = lab_random(9, (size_t)base->tokens * out_cols(base));
    lora_adapter adapters[ADAPTERS_MAX];
    kern_lora_segment segments[SEGMENTS_MAX];
    kern_linear op = {
        .token_count = count,
        .epilogue = base->epilogue,
        .softcap = 20,
        .lora = segments,
        .in = lab_upload(l, KIND_ACT, in + (size_t)first * base->cols, in_count),
        .out = lab_upload(l, out_kind(base), before + (size_t)first * out_cols(base), out_count)};
    take_matrices(l, base, &op);
    for (uint32_t a = 0; a < c->adapters; a++)
        adapters[a] =
            lora_adapter_of(l, base, 1000 + a, &c->shape[a], c->piece_max ? c->piece_max : 50000);
    for (uint32_t s = 0; s < c->segments && updated; s++) {
        uint32_t begin = c->segment[s].first, end = begin + c->segment[s].count;
        if (begin < first) begin = first;
        if (end > first + count) end = first + count;
        if (begin >= end) continue;
        int adapter = c->segment[s].adapter;
        segments[op.lora_count++] =
            (kern_lora_segment){.first = begin - first,
                                .count = end - begin,
                                .lora = adapter < 0 ? NULL : &adapters[adapter].lora};
    }
    l->ops->linear(l->dev, &op);
    float *out = lab_download(l, out_kind(base), op.out, out_count);
    for (uint32_t a = 0; a < c->adapters; a++)
        lora_adapter_free(&adapters[a]);
    drop_matrices(l, base, &op);
    lab_release(l, KIND_ACT, (void *)op.in, in_count);
    lab_release(l, out_kind(base), op.out, out_count);
    free(in);
    free(before);
    return out;
}

static float *run_case(const lab *l, const lora_case *c) {
    return run_part(l, c, 0, c->linear.tokens, true);
}

/* --- cases ---------------------------------------------------------------------------------- */

/* Each adapter of the case in turn, for segments of 1, 2, 3 .. tokens, every fourth the base's, with a gap of a token
 * behind every third. */
static void spread(lora_case *c) {
    uint32_t token = 0;
    c->segments = 0;
    while (token < c->linear.tokens && c->segments < SEGMENTS_MAX) {
        uint32_t s = c->segments++, left = c->linear.tokens - token, count = 1 + s * 5 % 7;
        if (count > left || s == SEGMENTS_MAX - 1) count = left;
        c->segment[s].first = token;
        c->segment[s].count = count;
        c->segment[s].adapter = s % 4 == 3 ? -1 : (int)(s % c->adapters);
        token += count + (s % 3 == 2);
    }
}

/* One segment of all tokens but the first and the last two. */
static void middle(lora_case *c) {
    c->segments = 1;
    c->segment[0].first = 1;
    c->segment[0].count = c->linear.tokens > 3 ? c->linear.tokens - 3 : 0;
    c->segment[0].adapter = 0;
}

static const lora_case cases[] = {
    {.linear = {.dtype = {DT_Q4_1, DT_Q8_0, DT_Q4_1}, /* q, k, v */
                .rows = {72, 24, 40},
                .matrices = 3,
                .cols = 96,
                .bias = true},
     .shape = {{{8, 8, 8}, .bias = true}, {{16, 0, 17}, false}, {{1, 3, 64}, .magnitude = true}},
     .adapters = 3},
    {.linear = {.dtype = {DT_Q4_0}, /* o */
                .rows = {100},
                .matrices = 1,
                .cols = 160,
                .epilogue = EPI_RESIDUAL},
     .shape = {{{16}, false}, {{3}, .bias = true, .magnitude = true}, {{130}, false}},
     .adapters = 3},
    {.linear = {.dtype = {DT_Q4_K, DT_Q6_K}, /* gate, up */
                .rows = {88, 88},
                .matrices = 2,
                .cols = 256,
                .epilogue = EPI_SILU_MUL},
     .shape = {{{16, 16}, false},
               {{64, 8}, false},
               {{0, 17}, false},
               {{5, 0}, .bias = true, .magnitude = true},
               {{8, 8}, .skips_last = true}},
     .adapters = 5},
    {.linear = {.dtype = {DT_BF16, DT_Q8_0}, /* whole tiles, gated early */
                .rows = {64, 64},
                .matrices = 2,
                .cols = 64,
                .epilogue = EPI_GELU_MUL},
     .shape = {{{40, 33}, false}, {{1, 1}, false}},
     .adapters = 2},
    {.linear = {.dtype = {DT_BF16}, /* down, K of several pieces and no whole blocks */
                .rows = {33},
                .matrices = 1,
                .cols = 1301,
                .epilogue = EPI_RESIDUAL,
                .bias = true},
     .shape = {{{48}, false}, {{512}, false}},
     .adapters = 2,
     .piece_max = 4096},
    {.linear = {.dtype = {DT_Q8_0}, /* head, capped */
                .rows = {515},
                .matrices = 1,
                .cols = 64,
                .epilogue = EPI_SOFTCAP},
     .shape = {{{12}, false}, {{0}, .bias = true}, {{0}, false}},
     .adapters = 3,
     .piece_max = 4999},
    {.linear = {.dtype = {DT_F32, DT_F32}, /* up of an MLP without gates */
                .rows = {50, 16},
                .matrices = 2,
                .cols = 40,
                .epilogue = EPI_GELU},
     .shape = {{{7, 9}, false}, {{4, 2}, .magnitude = true}},
     .adapters = 2},
    {.linear = {.dtype = {DT_Q4_0, DT_Q4_0},
                .rows = {32, 32},
                .matrices = 2,
                .cols = 64,
                .epilogue = EPI_GELU_ERF},
     .shape = {{{4, 4}, .bias = true}},
     .adapters = 1},
    {.linear = {.dtype = {DT_G4, DT_G4, DT_G3}, /* columns in orders of their own */
                .rows = {64, 48, 16},
                .matrices = 3,
                .cols = 96,
                .order = {5, 5, 6}},
     .shape = {{{8, 8, 8}, false}, {{16, 1, 2}, false}},
     .adapters = 2},
};
enum { CASES = sizeof cases / sizeof cases[0] };

static lora_case case_of(uint32_t i, uint32_t tokens) {
    lora_case c = cases[i];
    c.linear.tokens = tokens;
    spread(&c);
    return c;
}

/* --- ref against a plain loop --------------------------------------------------------------- */

/* Weights as float32, each input's own. */
static float *weights_of(const linear_case *c, uint32_t m) {
    const dtype_row *info = dtype_info(c->dtype[m]);
    uint8_t *blocks = lab_blocks(c->dtype[m], c->rows[m], c->cols, 100 + m);
    uint32_t *order = c->order[m] ? lab_shuffle(c->order[m], c->cols) : NULL;
    float *out = malloc((size_t)c->rows[m] * c->cols * sizeof *out), row[2048];
    assert_true(c->cols <= 2048);
    for (uint32_t r = 0; r < c->rows[m]; r++) {
        info->dequantise(blocks + (size_t)r * (c->cols / info->block_elements) * info->block_bytes,
                         row, c->cols);
        for (uint32_t k = 0; k < c->cols; k++)
            out[(size_t)r * c->cols + (order ? order[k] : k)] = row[k];
    }
    free(order);
    free(blocks);
    return out;
}

static double gelu(double y) {
    return 0.5 * y * (1 + tanh(sqrt(2 / M_PI) * (y + 0.044715 * y * y * y)));
}

static double finished(const linear_case *c, double y, double up, double before) {
    switch (c->epilogue) {
    case EPI_RESIDUAL:
        return before + y;
    case EPI_SILU_MUL:
        return y / (1 + exp(-y)) * up;
    case EPI_GELU_MUL:
        return gelu(y) * up;
    case EPI_SOFTCAP:
        return 20 * tanh(y / 20);
    case EPI_GELU:
        return gelu(y);
    case EPI_GELU_ERF:
        return y * (1 + erf(y / sqrt(2))) / 2;
    default:
        return y;
    }
}

/* Row `row` of matrix m for one token's inputs. */
static double plain_row(const linear_case *c, const float *w, const float *bias,
                        const kern_lora_part *part, uint32_t row, const float *x) {
    double y = 0;
    for (uint32_t k = 0; k < c->cols; k++)
        y += (double)w[(size_t)row * c->cols + k] * (double)x[k];
    for (uint32_t r = 0; part && r < part->rank; r++) {
        double h = 0;
        for (uint32_t k = 0; k < c->cols; k++)
            h += (double)part->a[(size_t)r * c->cols + k] * (double)x[k];
        y += (double)part->scale * h * (double)part->b[(size_t)row * part->rank + r];
    }
    if (part && part->magnitude) y *= (double)part->magnitude[row];
    if (part && part->bias) y += (double)part->bias[row];
    return y + (bias ? (double)bias[row] : 0);
}

static const kern_lora_part *part_at(const lora_case *c, const lora_adapter *adapters,
                                     uint32_t token, uint32_t m) {
    for (uint32_t s = 0; s < c->segments; s++)
        if (token >= c->segment[s].first && token - c->segment[s].first < c->segment[s].count) {
            int a = c->segment[s].adapter;
            return a >= 0 && m < adapters[a].desc.part_count ? &adapters[a].desc.part[m] : NULL;
        }
    return NULL;
}

static float *run_plainly(const lora_case *c) {
    lab l = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    const linear_case *base = &c->linear;
    uint32_t width = out_cols(base), first = 0;
    size_t in_count = (size_t)base->tokens * base->cols;
    float *in = lora_values(7, in_count, 1);
    float *out = lab_random(9, (size_t)base->tokens * width);
    lora_adapter adapters[ADAPTERS_MAX];
    float *w[LINEAR_MATRICES_MAX], *bias[LINEAR_MATRICES_MAX];
    for (uint32_t a = 0; a < c->adapters; a++)
        adapters[a] = lora_adapter_of(&l, base, 1000 + a, &c->shape[a], 1 << 20);
    for (uint32_t m = 0; m < base->matrices; m++) {
        w[m] = weights_of(base, m);
        bias[m] = base->bias ? lab_random(50 + m, base->rows[m]) : NULL;
    }
    bool gated = kern_is_gated(base->epilogue);
    for (uint32_t m = 0; m < (gated ? 1 : base->matrices); first += base->rows[m++])
        for (uint32_t t = 0; t < base->tokens; t++)
            for (uint32_t row = 0; row < base->rows[m]; row++) {
                const float *x = in + (size_t)t * base->cols;
                float *at = out + (size_t)t * width + first + row;
                double y = plain_row(base, w[m], bias[m], part_at(c, adapters, t, m), row, x);
                double up =
                    gated ? plain_row(base, w[1], bias[1], part_at(c, adapters, t, 1), row, x) : 0;
                *at = (float)finished(base, y, up, (double)*at);
            }
    for (uint32_t m = 0; m < base->matrices; m++) {
        free(w[m]);
        free(bias[m]);
    }
    for (uint32_t a = 0; a < c->adapters; a++)
        lora_adapter_free(&adapters[a]);
    free(in);
    lab_close(&l);
    return out;
}

/* --- comparing ------------------------------------------------------------------------------ */

static float largest(const float *values, size_t count) {
    float top = 0;
    for (size_t i = 0; i < count; i++)
        top = fmaxf(top, fabsf(values[i]));
    return top;
}

/* |got - want| <= relative * |want| + absolute; a NaN on either side fails. */
static void assert_near(const float *got, const float *want, size_t count, float relative,
                        float absolute, const char *what) {
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(got[i] - want[i]) <= relative * fabsf(want[i]) + absolute))
            fail_msg("%s: element %zu is %g, not %g", what, i, (double)got[i], (double)want[i]);
}

static void ref_agrees_with_a_plain_loop(void **state) {
    (void)state;
    for (uint32_t i = 0; i < CASES; i++)
        for (uint32_t tokens = 1; tokens <= 19; tokens += 9) {
            lora_case c = case_of(i, tokens);
            size_t count = (size_t)tokens * out_cols(&c.linear);
            lab ref = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1 + i % 3);
            float *got = run_case(&ref, &c), *want = run_plainly(&c);
            assert_near(got, want, count, 0, 1e-5f * largest(want, count), "ref");
            free(got);
            free(want);
            lab_close(&ref);
        }
}

static float tolerance_of(const struct way *way) {
    return way->activations == ACT_INT8 ? INT8_TOLERANCE
           : way->level == LEVEL_AMX    ? ROUNDED_TOLERANCE
                                        : F32_TOLERANCE;
}

static void compare_levels(const lora_case *c, uint32_t threads) {
    size_t count = (size_t)c->linear.tokens * out_cols(&c->linear);
    lab ref = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    float *want = run_case(&ref, c), top = largest(want, count);
    bool act = out_kind(&c->linear) == KIND_ACT;
    for (uint32_t w = first_way(); w < WAYS && have(&ways[w]); w++) {
        char what[96];
        lab cpu = lab_of(&ways[w], threads);
        float *got = run_case(&cpu, c), tolerance = tolerance_of(&ways[w]);
        snprintf(what, sizeof what, "%s %s N=%u K=%u T=%u epilogue %d", cpu.ops->profile(cpu.dev),
                 dtype_info(c->linear.dtype[0])->name, c->linear.rows[0], c->linear.cols,
                 c->linear.tokens, (int)c->linear.epilogue);
        assert_near(got, want, count, act ? fmaxf(ACT_TOLERANCE, tolerance) : tolerance,
                    tolerance * top, what);
        free(got);
        lab_close(&cpu);
    }
    free(want);
    lab_close(&ref);
}

/* Token counts around every way through a strip: fused and blocked, one B tile and two, more than a tile pair, a chunk
 * and more. */
static void levels_agree_with_ref(void **state) {
    (void)state;
    static const uint32_t tokens[] = {1, 2, 4, 5, 16, 17, 32, 33, 100};
    for (uint32_t i = 0; i < CASES; i++)
        for (uint32_t n = 0; n < sizeof tokens / sizeof tokens[0]; n++) {
            lora_case c = case_of(i, tokens[n]);
            compare_levels(&c, 1 + (i + n) % 3);
            middle(&c);
            if (n % 2) compare_levels(&c, 2);
        }
}

/* An update of each rank there is a border at. */
static void every_rank_is_its_own(void **state) {
    (void)state;
    static const uint32_t ranks[] = {1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 512};
    for (uint32_t i = 0; i < sizeof ranks / sizeof ranks[0]; i++) {
        lora_case c = {
            .linear = {.dtype = {DT_Q4_0, DT_Q4_0, DT_Q4_0},
                       .rows = {48, 16, 17},
                       .matrices = 3,
                       .cols = 64,
                       .tokens = 11 + 30 * (i % 2)},
            .shape = {{{ranks[i], ranks[i], ranks[i]}, false}, {{1, ranks[i], 0}, false}},
            .adapters = 2};
        spread(&c);
        compare_levels(&c, 2);
    }
}

/* What the update adds, apart from how the level takes the base's inputs. */
static void int8_inputs_do_not_touch_the_update(void **state) {
    (void)state;
    lora_case c = {.linear = {.dtype = {DT_Q4_0, DT_Q8_0},
                              .rows = {80, 40},
                              .matrices = 2,
                              .cols = 192,
                              .tokens = 37},
                   .shape = {{{16, 8}, false}, {{3, 70}, .bias = true}},
                   .adapters = 2};
    spread(&c);
    size_t count = (size_t)c.linear.tokens * out_cols(&c.linear);
    lab ref = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    float *want = run_case(&ref, &c), *base = run_part(&ref, &c, 0, c.linear.tokens, false);
    float top = largest(want, count);
    for (size_t i = 0; i < count; i++)
        want[i] -= base[i];
    for (uint32_t w = first_way(); w < WAYS && have(&ways[w]); w++) {
        lab cpu = lab_of(&ways[w], 2);
        float *got = run_case(&cpu, &c), *without = run_part(&cpu, &c, 0, c.linear.tokens, false);
        for (size_t i = 0; i < count; i++)
            got[i] -= without[i];
        float tolerance = ways[w].level == LEVEL_AMX ? 4e-3f : F32_TOLERANCE;
        assert_near(got, want, count, 0, tolerance * top, cpu.ops->profile(cpu.dev));
        free(got);
        free(without);
        lab_close(&cpu);
    }
    free(want);
    free(base);
    lab_close(&ref);
}

/* --- Law 1 ---------------------------------------------------------------------------------- */

/* Sixteen sequences over eight adapters and the base: each has the bits it has alone, whoever is beside it. */
static void segment_is_the_same_in_any_company(void **state) {
    (void)state;
    static const uint32_t lengths[] = {1, 1, 1, 1, 1, 3, 1, 16, 1, 40, 1, 1, 5, 1, 33, 1};
    static const uint32_t threads[] = {1, 2, 7};
    for (uint32_t i = 0; i < CASES; i++)
        for (uint32_t decode = 0; decode < 2; decode++) {
            lora_case c = cases[i];
            for (uint32_t a = 0; a < 8; a++)
                c.shape[a] = cases[i].shape[a % cases[i].adapters];
            c.adapters = 8;
            for (uint32_t s = 0; s < 16; s++) {
                c.segment[s].first = c.linear.tokens;
                c.segment[s].count = decode ? 1 : lengths[s];
                c.segment[s].adapter = (int)(s * 5 % 9) - 1;
                c.linear.tokens += c.segment[s].count;
            }
            c.segments = 16;
            for (uint32_t w = first_way(); w < WAYS && have(&ways[w]); w++) {
                lab l = lab_of(&ways[w], threads[(i + w) % 3]);
                float *together = run_case(&l, &c);
                for (uint32_t s = 0; s < 16; s++) {
                    lab other = lab_of(&ways[w], threads[s % 3]);
                    size_t at = (size_t)c.segment[s].first * out_cols(&c.linear);
                    float *alone = run_part(&other, &c, c.segment[s].first, c.segment[s].count,
                                            c.segment[s].adapter >= 0);
                    assert_same_bits(together + at, alone,
                                     (size_t)c.segment[s].count * out_cols(&c.linear),
                                     l.ops->profile(l.dev));
                    free(alone);
                    lab_close(&other);
                }
                free(together);
                lab_close(&l);
            }
        }
}

/* A long prompt in chunks; more tokens than a plan has. */
static void chunks_of_a_segment_are_the_same(void **state) {
    (void)state;
    static const uint32_t chunks[] = {1, 15, 33, 200, 513};
    lora_case c = cases[0];
    c.linear.tokens = 800;
    c.segments = 2;
    c.segment[0].count = 500;
    c.segment[1].first = 500;
    c.segment[1].count = 300;
    c.segment[1].adapter = 2;
    for (uint32_t w = first_way(); w < WAYS && have(&ways[w]); w++) {
        lab l = lab_of(&ways[w], 2);
        float *whole = run_case(&l, &c);
        for (uint32_t n = 0; n < 5; n++) {
            uint32_t first = 490 - chunks[n] / 2;
            float *part = run_part(&l, &c, first, chunks[n], true);
            assert_same_bits(part, whole + (size_t)first * out_cols(&c.linear),
                             (size_t)chunks[n] * out_cols(&c.linear), l.ops->profile(l.dev));
            free(part);
        }
        free(whole);
        lab_close(&l);
    }
}

/* Where an update is cut changes no bit. */
static void pieces_of_any_size_give_the_same(void **state) {
    (void)state;
    static const size_t sizes[] = {4096, 4160, 10001, 65536};
    for (uint32_t i = 0; i < CASES; i++)
        for (uint32_t w = first_way(); w < WAYS && have(&ways[w]); w++) {
            lora_case c = case_of(i, 20);
            lab l = lab_of(&ways[w], 2);
            c.piece_max = 1 << 20;
            float *want = run_case(&l, &c);
            for (uint32_t n = 0; n < 4; n++) {
                c.piece_max = sizes[n];
                float *got = run_case(&l, &c);
                assert_same_bits(got, want, (size_t)20 * out_cols(&c.linear), "pieces");
                free(got);
            }
            free(want);
            lab_close(&l);
        }
}

/* Two adapters of rows x cols at most tokens, which take turns. */
typedef struct hint_case {
    uint32_t threads, tokens, rows, cols, rank[2];
    size_t piece_max;
} hint_case;

static void check_hints(const struct way *way, const hint_case *h) {
    const lora_shape shapes[2] = {{.rank = {h->rank[0]}}, {.rank = {h->rank[1]}, .bias = true}};
    const linear_case c = {.dtype = {DT_Q4_0}, .rows = {h->rows}, .matrices = 1, .cols = h->cols};
    const size_t row_bytes = h->rows * sizeof(float), out_bytes = h->tokens * row_bytes;
    lab l = lab_of(way, h->threads);
    lora_adapter adapters[2];
    kern_lora_segment segments[2];
    for (uint32_t a = 0; a < 2; a++) {
        adapters[a] = lora_adapter_of(&l, &c, 5 + a, &shapes[a], h->piece_max);
        segments[a] =
            (kern_lora_segment){.first = 2, .count = h->tokens - 3, .lora = &adapters[a].lora};
    }
    float *out[2] = {lab_alloc(&l, out_bytes), lab_alloc(&l, out_bytes)};
    kern_linear op = {.token_count = h->tokens, .lora_count = 1};
    op.in = lab_upload_random(&l, KIND_ACT, 3, h->tokens * h->cols);
    take_matrices(&l, &c, &op);
    for (uint32_t i = 0; i < 8; i++) { /* both adapters, after and with each hint */
        op.lora = &segments[i % 2];
        op.lora_next_count = 0;
        op.out = out[0];
        l.ops->linear(l.dev, &op);
        kern_linear other = op;
        other.lora_next_count = 1;
        other.lora_next = &segments[i / 2 % 2];
        if (i >= 4) other.token_count = h->tokens - 1;
        other.out = out[1];
        l.ops->linear(l.dev, &other);
        l.ops->linear(l.dev, &op);
        assert_memory_equal(out[0], out[1], row_bytes * other.token_count);
        l.ops->linear(l.dev, &other);
        assert_memory_equal(out[0], out[1], row_bytes * other.token_count);
    }
    drop_matrices(&l, &c, &op);
    lab_release(&l, KIND_ACT, (void *)op.in, h->tokens * h->cols);
    for (uint32_t a = 0; a < 2; a++) {
        l.ops->release(l.dev, out[a], out_bytes);
        lora_adapter_free(&adapters[a]);
    }
    lab_close(&l);
}

/* What is said to come next changes no bit, of this op or of the next, whether it comes or not: of few strips and many,
 * of several chunks of tokens, with workers that have no strip, and of more runs than are fetched. */
static void hint_of_the_next_updates_changes_nothing(void **state) {
    (void)state;
    static const hint_case hints[] = {{2, 12, 64, 96, {16, 40}, 50000},
                                      {2, 200, 336, 96, {16, 40}, 50000},
                                      {7, 33, 64, 512, {40, 300}, LORA_PIECE_MIN}};
    for (uint32_t w = first_way(); w < WAYS && have(&ways[w]); w++)
        for (uint32_t i = 0; i < sizeof hints / sizeof hints[0]; i++)
            check_hints(&ways[w], &hints[i]);
}

/* --- pieces --------------------------------------------------------------------------------- */

/* The widest linear and the highest rank in the smallest pieces; nothing of it is packed. */
static void pieces_hold_the_largest_update(void **state) {
    (void)state;
    kern_lora_desc desc = {.cols = 65536, .part_count = 3};
    for (uint32_t i = 0; i < 3; i++)
        desc.part[i] = (kern_lora_part){.rank = 512, .rows = 65536};
    lab l = lab_open(&kern_cpu, LEVEL_AUTO, DT_BF16, 1);
    size_t values = (size_t)3 * 512 * 2 * 65536, bytes = 0;
    uint32_t count = l.ops->lora_pieces(l.dev, &desc, LORA_PIECE_MIN, NULL);
    size_t *sizes = calloc(count, sizeof *sizes);
    l.ops->lora_pieces(l.dev, &desc, LORA_PIECE_MIN, sizes);
    for (uint32_t i = 0; i < count; i++) {
        assert_true(sizes[i] > 0 && sizes[i] <= LORA_PIECE_MIN);
        bytes += sizes[i];
    }
    assert_true(bytes >= values * 2 && bytes < values * 2 + values / 16);
    free(sizes);
    lab_close(&l);
}

static void what_touches_nothing_has_no_pieces(void **state) {
    (void)state;
    kern_lora_desc desc = {.cols = 64, .part_count = 2, .part = {{.rows = 16}, {.rows = 0}}};
    lab cpu = lab_open(&kern_cpu, LEVEL_AUTO, DT_BF16, 1);
    lab ref = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    assert_int_equal(cpu.ops->lora_pieces(cpu.dev, &desc, 50000, NULL), 0);
    assert_int_equal(ref.ops->lora_pieces(ref.dev, &desc, 50000, NULL), 0);
    lab_close(&cpu);
    lab_close(&ref);
}

/* A value beyond the largest bf16 stays finite, so that zero times it is zero for the others. */
static void largest_values_stay_finite(void **state) {
    (void)state;
    lab l = lab_open(&kern_cpu, LEVEL_AUTO, DT_BF16, 1);
    float a[32], b[16];
    for (uint32_t i = 0; i < 32; i++)
        a[i] = i % 2 ? 3.4028234e38f : -3.4028234e38f;
    for (uint32_t i = 0; i < 16; i++)
        b[i] = 3.4028234e38f;
    lora_adapter adapter = {.desc = {.cols = 32, .part_count = 1}};
    adapter.desc.part[0] = (kern_lora_part){.rank = 1, .rows = 16, .scale = 1, .a = a, .b = b};
    lora_take_pieces(&l, LORA_PIECE_MIN, &adapter);
    const uint16_t *values = adapter.pieces[0];
    uint32_t found = 0;
    for (uint32_t i = 0; i < 48; i++)
        found += (values[i] & 0x7fff) == 0x7f7f;
    for (uint32_t i = 0; i < 48; i++)
        assert_true((values[i] & 0x7fff) <= 0x7f7f);
    assert_true(found >= 32);
    adapter.desc.part_count = 0; /* a and b are not its own */
    lora_adapter_free(&adapter);
    lab_close(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_agrees_with_a_plain_loop),
        cmocka_unit_test(levels_agree_with_ref),
        cmocka_unit_test(every_rank_is_its_own),
        cmocka_unit_test(int8_inputs_do_not_touch_the_update),
        cmocka_unit_test(segment_is_the_same_in_any_company),
        cmocka_unit_test(chunks_of_a_segment_are_the_same),
        cmocka_unit_test(hint_of_the_next_updates_changes_nothing),
        cmocka_unit_test(pieces_of_any_size_give_the_same),
        cmocka_unit_test(pieces_hold_the_largest_update),
        cmocka_unit_test(what_touches_nothing_has_no_pieces),
        cmocka_unit_test(largest_values_stay_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
