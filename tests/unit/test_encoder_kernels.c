/* test_encoder_kernels.c - what encoders ask of the ops: ref held to the formulas, the CPU levels to
 * ref, and to themselves bit for bit (Law 1). */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/unit/kernel_lab.h"

/* Half a step of bf16 is 2^-9. */
static const float ACT_TOLERANCE = 6e-3f;

static const kern_level levels[] = {LEVEL_AVX2, LEVEL_AVX512, LEVEL_AMX};
enum { LEVELS = 3 };

static bool have(kern_level level) { return kern_cpu_best_level() >= level; }

/* |got - want| <= tolerance * (|want| + floor); a NaN on either side fails. */
static void assert_close(const float *got, const float *want, size_t count, float tolerance,
                         float floor, const char *what) {
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(got[i] - want[i]) <= tolerance * (fabsf(want[i]) + floor)))
            fail_msg("%s: element %zu is %g, wanted %g", what, i, (double)got[i], (double)want[i]);
}

static void assert_same_bits(const float *got, const float *want, size_t count, const char *what) {
    for (size_t i = 0; i < count; i++)
        if (bits_of_f32(got[i]) != bits_of_f32(want[i]))
            fail_msg("%s: element %zu is %a, was %a", what, i, (double)got[i], (double)want[i]);
}

/* --- gelu without a gate ------------------------------------------------------------------ */

enum { GELU_ROWS = 83, GELU_COLS = 96, GELU_TOKENS = 40 };

/* Tokens first .. first + count through a matrix, a bias and gelu; free() the result. */
static float *gelu_of(const lab *l, kern_epilogue epilogue, uint32_t first, uint32_t count) {
    float *in = lab_random(7, GELU_TOKENS * GELU_COLS);
    void *x = lab_upload(l, KIND_ACT, in + first * GELU_COLS, count * GELU_COLS);
    kern_matrix *matrix = lab_matrix(l, DT_BF16, GELU_ROWS, GELU_COLS, 100);
    void *bias = lab_upload_random(l, KIND_F32, 50, GELU_ROWS);
    size_t elements = (size_t)count * GELU_ROWS, act = l->ops->element_bytes(l->dev, KIND_ACT);
    kern_linear op = {.in = x,
                      .token_count = count,
                      .matrix = {matrix},
                      .bias = {bias},
                      .matrix_count = 1,
                      .epilogue = epilogue,
                      .out = lab_alloc(l, elements * act)};
    l->ops->linear(l->dev, &op);
    float *out = lab_download(l, KIND_ACT, op.out, elements);
    l->ops->matrix_close(l->dev, matrix);
    lab_release(l, KIND_ACT, x, count * GELU_COLS);
    lab_release(l, KIND_F32, bias, GELU_ROWS);
    lab_release(l, KIND_ACT, op.out, elements);
    free(in);
    return out;
}

static double gelu_in_double(kern_epilogue epilogue, double y) {
    if (epilogue == EPI_GELU_ERF) return 0.5 * y * erfc(-y / sqrt(2));
    return 0.5 * y * (1 + tanh(sqrt(2 / M_PI) * (y + 0.044715 * y * y * y)));
}

/* The outputs reach from about -20 to 20: far into both tails. */
static void ref_gelu_is_the_formula(void **state) {
    (void)state;
    static const kern_epilogue epilogues[] = {EPI_GELU, EPI_GELU_ERF};
    lab l = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    float *in = lab_random(7, GELU_TOKENS * GELU_COLS), *bias = lab_random(50, GELU_ROWS);
    uint16_t *w = (uint16_t *)lab_blocks(DT_BF16, GELU_ROWS, GELU_COLS, 100);
    for (uint32_t e = 0; e < 2; e++) {
        float *got = gelu_of(&l, epilogues[e], 0, GELU_TOKENS);
        for (uint32_t t = 0; t < GELU_TOKENS; t++)
            for (uint32_t n = 0; n < GELU_ROWS; n++) {
                double y = (double)bias[n];
                for (uint32_t k = 0; k < GELU_COLS; k++)
                    y += (double)f32_of_bf16(w[n * GELU_COLS + k]) *
                         (double)f32_of_bf16(bf16_of_f32(in[t * GELU_COLS + k]));
                double want = gelu_in_double(epilogues[e], y);
                assert_true(fabs((double)got[t * GELU_ROWS + n] - want) <= 3e-6 * (1 + fabs(y)));
            }
        free(got);
    }
    free(in);
    free(bias);
    free(w);
    lab_close(&l);
}

static void gelu_agrees_with_ref(void **state) {
    (void)state;
    static const kern_epilogue epilogues[] = {EPI_GELU, EPI_GELU_ERF};
    lab ref = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    for (uint32_t n = 0; n < 2 * LEVELS && have(levels[n / 2]); n++) {
        lab cpu = lab_open(&kern_cpu, levels[n / 2], DT_BF16, 3);
        float *want = gelu_of(&ref, epilogues[n % 2], 0, GELU_TOKENS);
        float *got = gelu_of(&cpu, epilogues[n % 2], 0, GELU_TOKENS);
        float *few = gelu_of(&cpu, epilogues[n % 2], 5, 3);
        assert_close(got, want, GELU_TOKENS * GELU_ROWS, ACT_TOLERANCE, 2e-4f, "gelu");
        assert_same_bits(few, got + 5 * GELU_ROWS, 3 * GELU_ROWS, "gelu of few tokens");
        free(want);
        free(got);
        free(few);
        lab_close(&cpu);
    }
    lab_close(&ref);
}

/* --- LayerNorm ---------------------------------------------------------------------------- */

enum { NORM_ROWS = 40 };

typedef struct normed {
    float *act, *kept;
} normed;

/* Rows first .. first + count, kept where they were; the values stand off from 0. */
static normed layer_norm_of(const lab *l, uint32_t width, uint32_t first, uint32_t count) {
    size_t elements = (size_t)count * width, act = l->ops->element_bytes(l->dev, KIND_ACT);
    float *values = lab_random(5, (size_t)NORM_ROWS * width);
    for (size_t i = 0; i < (size_t)NORM_ROWS * width; i++)
        values[i] += 3;
    void *in = lab_upload(l, KIND_F32, values + (size_t)first * width, elements);
    void *weight = lab_upload_random(l, KIND_F32, 6, width);
    void *bias = lab_upload_random(l, KIND_F32, 8, width);
    kern_norm op = {.in = in,
                    .count = count,
                    .width = width,
                    .weight = weight,
                    .bias = bias,
                    .eps = 1e-12f,
                    .kept = in,
                    .out = lab_alloc(l, elements * act)};
    l->ops->norm(l->dev, &op);
    normed out = {lab_download(l, KIND_ACT, op.out, elements),
                  lab_download(l, KIND_F32, in, elements)};
    lab_release(l, KIND_F32, in, elements);
    lab_release(l, KIND_F32, weight, width);
    lab_release(l, KIND_F32, bias, width);
    lab_release(l, KIND_ACT, op.out, elements);
    free(values);
    return out;
}

static void normed_free(normed *n) {
    free(n->act);
    free(n->kept);
}

static void ref_layer_norm_is_the_formula(void **state) {
    (void)state;
    enum { WIDTH = 100 };
    lab l = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    normed got = layer_norm_of(&l, WIDTH, 0, NORM_ROWS);
    float *x = lab_random(5, NORM_ROWS * WIDTH), *weight = lab_random(6, WIDTH);
    float *bias = lab_random(8, WIDTH);
    for (uint32_t row = 0; row < NORM_ROWS; row++) {
        double mean = 0, variance = 0;
        for (uint32_t k = 0; k < WIDTH; k++)
            mean += (double)(x[row * WIDTH + k] + 3) / WIDTH;
        for (uint32_t k = 0; k < WIDTH; k++)
            variance += pow((double)(x[row * WIDTH + k] + 3) - mean, 2) / WIDTH;
        for (uint32_t k = 0; k < WIDTH; k++) {
            double y = ((double)(x[row * WIDTH + k] + 3) - mean) / sqrt(variance);
            y = y * (double)weight[k] + (double)bias[k];
            assert_true(fabs((double)got.act[row * WIDTH + k] - y) <= 1e-6);
        }
    }
    assert_same_bits(got.kept, got.act, NORM_ROWS * WIDTH, "kept");
    normed_free(&got);
    free(x);
    free(weight);
    free(bias);
    lab_close(&l);
}

/* Widths with and without a tail; few rows on the caller, many on the pool, the same bits. */
static void layer_norm_agrees_with_ref(void **state) {
    (void)state;
    static const uint32_t widths[] = {2, 7, 16, 64, 100, 384, 577};
    lab ref = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    for (uint32_t i = 0; i < LEVELS && have(levels[i]); i++) {
        lab cpu = lab_open(&kern_cpu, levels[i], DT_BF16, 3);
        for (uint32_t w = 0; w < 7; w++) {
            size_t count = (size_t)NORM_ROWS * widths[w];
            normed want = layer_norm_of(&ref, widths[w], 0, NORM_ROWS);
            normed got = layer_norm_of(&cpu, widths[w], 0, NORM_ROWS);
            normed alone = layer_norm_of(&cpu, widths[w], 11, 1);
            assert_close(got.act, want.act, count, ACT_TOLERANCE, 1e-2f, "layer norm");
            assert_close(got.kept, want.kept, count, 1e-5f, 1, "layer norm kept");
            assert_same_bits(alone.kept, got.kept + 11 * (size_t)widths[w], widths[w], "kept");
            assert_same_bits(alone.act, got.act + 11 * (size_t)widths[w], widths[w], "row");
            normed_free(&want);
            normed_free(&got);
            normed_free(&alone);
        }
        lab_close(&cpu);
    }
    lab_close(&ref);
}

/* --- attention in both directions --------------------------------------------------------- */

enum { SEQS = 4 };

typedef struct attention_case {
    uint32_t heads, kv_heads, dim;
    uint32_t lengths[SEQS];
} attention_case;

static size_t first_row(const attention_case *c, uint32_t seq) {
    size_t row = 0;
    for (uint32_t s = 0; s < seq; s++)
        row += c->lengths[s];
    return row;
}

/* The element of q, k or v; the same in every run. */
static float qkv_at(uint32_t seq, uint32_t position, uint32_t i) {
    return 2 * lab_value(1000 * seq + position + 1, i);
}

static void attend(const lab *l, const attention_case *c, const lab_batch *batch,
                   const kern_kv_layer *kv, float *out) {
    uint32_t stride = (c->heads + 2 * c->kv_heads) * c->dim, width = c->heads * c->dim;
    size_t tokens = batch->b.token_count, act = l->ops->element_bytes(l->dev, KIND_ACT);
    float *qkv = lab_alloc(l, tokens * stride * sizeof *qkv);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t i = 0; i < stride; i++)
            qkv[(size_t)t * stride + i] =
                qkv_at(batch->seq_of[batch->b.token_seq[t]], batch->b.positions[t], i);
    l->ops->rope_store(
        l->dev, &(kern_rope_store){.batch = &batch->b, .qkv = qkv, .heads = c->heads, .kv = *kv});
    kern_attention op = {.batch = &batch->b,
                         .qkv = qkv,
                         .heads = c->heads,
                         .scale = 1 / sqrtf((float)c->dim),
                         .bidirectional = true,
                         .kv = *kv,
                         .out = lab_alloc(l, tokens * width * act)};
    l->ops->attention(l->dev, &op);
    float *seen = lab_download(l, KIND_ACT, op.out, tokens * width);
    for (uint32_t t = 0; t < tokens; t++)
        memcpy(out + (first_row(c, batch->seq_of[batch->b.token_seq[t]]) + batch->b.positions[t]) *
                         width,
               seen + (size_t)t * width, width * sizeof *out);
    free(seen);
    l->ops->release(l->dev, op.out, tokens * width * act);
    l->ops->release(l->dev, qkv, tokens * stride * sizeof *qkv);
}

/* All sequences, together in one batch or each in one of its own; pages start out as NaN. */
static float *attention_of(const lab *l, const attention_case *c, bool together) {
    uint32_t none[SEQS] = {0}, longest = 0;
    for (uint32_t s = 0; s < SEQS; s++)
        longest = c->lengths[s] > longest ? c->lengths[s] : longest;
    uint32_t stride = (longest + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    kern_kv_shape shape = {.layers = 1, .kv_heads = c->kv_heads, .head_dim = c->dim};
    kern_kv_layer kv = {.shape = &shape, .frame_bytes = l->ops->frame_bytes(l->dev, &shape)};
    size_t arena = (size_t)SEQS * stride * kv.frame_bytes;
    kv.arena = lab_alloc(l, arena);
    memset(kv.arena, 0xff, arena);
    float *out = malloc(first_row(c, SEQS) * c->heads * c->dim * sizeof *out);
    for (uint32_t only = 0; only < (together ? 1 : SEQS); only++) {
        uint32_t tokens[SEQS] = {0};
        for (uint32_t s = 0; s < SEQS; s++)
            if (together || s == only) tokens[s] = c->lengths[s];
        lab_batch batch = lab_batch_of(SEQS, none, tokens, 1, stride);
        attend(l, c, &batch, &kv, out);
        lab_batch_free(&batch);
    }
    l->ops->release(l->dev, kv.arena, arena);
    return out;
}

static const attention_case attention_cases[] = {
    {.heads = 12, .kv_heads = 12, .dim = 32, .lengths = {1, 16, 70, 17}},
    {.heads = 9, .kv_heads = 3, .dim = 64, .lengths = {2, 33, 15, 48}},
    {.heads = 2, .kv_heads = 2, .dim = 16, .lengths = {5, 1, 31, 100}},
};
enum { ATTENTION_CASES = sizeof attention_cases / sizeof attention_cases[0] };

/* Every key of the sequence, those behind a token too, and none of another sequence. */
static void ref_attention_sees_the_whole_sequence(void **state) {
    (void)state;
    const attention_case *c = &attention_cases[2];
    lab l = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 2);
    float *got = attention_of(&l, c, true);
    uint32_t dim = c->dim, width = c->heads * dim;
    for (uint32_t s = 0; s < SEQS; s++)
        for (uint32_t t = 0; t < c->lengths[s]; t++)
            for (uint32_t h = 0; h < c->heads; h++) {
                double sum = 0, out[16] = {0};
                for (uint32_t j = 0; j < c->lengths[s]; j++) {
                    double score = 0;
                    for (uint32_t i = 0; i < dim; i++)
                        score += (double)qkv_at(s, t, h * dim + i) *
                                 (double)qkv_at(s, j, width + h * dim + i);
                    double weight = exp(score / sqrt(dim));
                    sum += weight;
                    for (uint32_t i = 0; i < dim; i++)
                        out[i] += weight * (double)qkv_at(s, j, 2 * width + h * dim + i);
                }
                for (uint32_t i = 0; i < dim; i++)
                    assert_true(fabs((double)got[(first_row(c, s) + t) * width + h * dim + i] -
                                     out[i] / sum) <= 1e-5);
            }
    free(got);
    lab_close(&l);
}

/* In company or alone, on any number of threads: the same bits. */
static void attention_agrees_with_ref(void **state) {
    (void)state;
    static const esp_dtype kv[] = {DT_BF16, DT_F32};
    lab ref = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 2);
    for (uint32_t i = 0; i < ATTENTION_CASES; i++) {
        const attention_case *c = &attention_cases[i];
        size_t count = first_row(c, SEQS) * c->heads * c->dim;
        float *want = attention_of(&ref, c, false);
        for (uint32_t n = 0; n < 2 * LEVELS && have(levels[n / 2]); n++) {
            lab some = lab_open(&kern_cpu, levels[n / 2], kv[n % 2], 3);
            lab one = lab_open(&kern_cpu, levels[n / 2], kv[n % 2], 1);
            float *got = attention_of(&some, c, true), *alone = attention_of(&one, c, false);
            assert_close(got, want, count, n % 2 ? ACT_TOLERANCE : 1e-2f, n % 2 ? 1e-4f : 1,
                         "attention");
            assert_same_bits(alone, got, count, "attention");
            free(got);
            free(alone);
            lab_close(&some);
            lab_close(&one);
        }
        free(want);
    }
    lab_close(&ref);
}

/* --- embedding ---------------------------------------------------------------------------- */

static void embed_adds_position_and_type(void **state) {
    (void)state;
    enum { V = 37, P = 20, H = 96, T = 5 };
    static const int32_t ids[T] = {0, 36, 5, 5, 17};
    static const uint32_t position[T] = {0, 1, 19, 3, 4};
    float *table = (float *)lab_blocks(DT_F32, V, H, 1), *added = lab_random(3, H);
    float *positions = (float *)lab_blocks(DT_F32, P, H, 2);
    for (uint32_t n = 0; n <= LEVELS; n++) {
        if (n > 0 && !have(levels[n - 1])) continue;
        lab l = n ? lab_open(&kern_cpu, levels[n - 1], DT_BF16, 1)
                  : lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
        kern_matrix *rows = lab_matrix(&l, DT_F32, V, H, 1);
        kern_matrix *places = lab_matrix(&l, DT_F32, P, H, 2);
        void *type = lab_upload_random(&l, KIND_F32, 3, H);
        kern_embed op = {.table = rows,
                         .ids = ids,
                         .token_count = T,
                         .scale = 1,
                         .positions = places,
                         .position = position,
                         .added = type,
                         .out = lab_alloc(&l, T * H * sizeof(float))};
        l.ops->embed(l.dev, &op);
        float *got = lab_download(&l, KIND_F32, op.out, T * H);
        for (uint32_t t = 0; t < T; t++)
            for (uint32_t i = 0; i < H; i++)
                assert_true(got[t * H + i] == table[(uint32_t)ids[t] * H + i] +
                                                  positions[position[t] * H + i] + added[i]);
        free(got);
        l.ops->matrix_close(l.dev, rows);
        l.ops->matrix_close(l.dev, places);
        lab_release(&l, KIND_F32, type, H);
        lab_release(&l, KIND_F32, op.out, T * H);
        lab_close(&l);
    }
    free(table);
    free(added);
    free(positions);
}

/* --- pooling ------------------------------------------------------------------------------ */

enum { WIDTH = 50 };

/* Pooled rows of sequences 0 and 2 of three; free() them. */
static float *pool_of(const lab *l, const lab_batch *batch, kern_pooling pooling, bool normalise) {
    uint32_t rows[2] = {batch->b.seq_tokens[0] - 1, batch->b.token_count - 1};
    step_batch b = batch->b;
    b.rows = rows;
    b.row_count = 2;
    void *in = lab_upload_random(l, KIND_F32, 4, (size_t)b.token_count * WIDTH);
    kern_pool_states op = {.batch = &b,
                           .in = in,
                           .width = WIDTH,
                           .pooling = pooling,
                           .normalise = normalise,
                           .out = lab_alloc(l, 2 * WIDTH * sizeof(float))};
    l->ops->pool_states(l->dev, &op);
    float *out = lab_download(l, KIND_F32, op.out, 2 * WIDTH);
    lab_release(l, KIND_F32, in, (size_t)b.token_count * WIDTH);
    lab_release(l, KIND_F32, op.out, 2 * WIDTH);
    return out;
}

static double pooled_in_double(kern_pooling pooling, const float *in, uint32_t first,
                               uint32_t count, uint32_t k) {
    double sum = 0;
    if (pooling == POOL_FIRST) return (double)in[first * WIDTH + k];
    if (pooling == POOL_LAST) return (double)in[(first + count - 1) * WIDTH + k];
    for (uint32_t t = first; t < first + count; t++)
        sum += (double)in[t * WIDTH + k];
    return sum / count;
}

static void assert_pooled(const lab *l, const lab_batch *batch, kern_pooling pooling,
                          bool normalise) {
    float *in = lab_random(4, (size_t)batch->b.token_count * WIDTH);
    float *got = pool_of(l, batch, pooling, normalise);
    for (uint32_t row = 0; row < 2; row++) {
        uint32_t seq = row ? 2 : 0;
        double want[WIDTH], square = 0;
        for (uint32_t k = 0; k < WIDTH; k++) {
            want[k] =
                pooled_in_double(pooling, in, batch->b.seq_first[seq], batch->b.seq_tokens[seq], k);
            square += want[k] * want[k];
        }
        for (uint32_t k = 0; k < WIDTH; k++) {
            double wanted = normalise ? want[k] / sqrt(square) : want[k];
            assert_true(fabs((double)got[row * WIDTH + k] - wanted) <= 1e-6);
        }
    }
    free(in);
    free(got);
}

static void pooled_states_are_mean_first_or_last(void **state) {
    (void)state;
    static const uint32_t none[3] = {0}, tokens[3] = {9, 4, 130};
    lab_batch batch = lab_batch_of(3, none, tokens, 1, 16);
    for (uint32_t n = 0; n <= LEVELS; n++) {
        if (n > 0 && !have(levels[n - 1])) continue;
        lab l = n ? lab_open(&kern_cpu, levels[n - 1], DT_BF16, 2)
                  : lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 2);
        for (kern_pooling pooling = POOL_MEAN; pooling <= POOL_LAST; pooling++)
            for (uint32_t normalise = 0; normalise < 2; normalise++)
                assert_pooled(&l, &batch, pooling, normalise);
        lab_close(&l);
    }
    lab_batch_free(&batch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_gelu_is_the_formula),
        cmocka_unit_test(gelu_agrees_with_ref),
        cmocka_unit_test(ref_layer_norm_is_the_formula),
        cmocka_unit_test(layer_norm_agrees_with_ref),
        cmocka_unit_test(ref_attention_sees_the_whole_sequence),
        cmocka_unit_test(attention_agrees_with_ref),
        cmocka_unit_test(embed_adds_position_and_type),
        cmocka_unit_test(pooled_states_are_mean_first_or_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
