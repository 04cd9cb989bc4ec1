/* test_cuda_lora.c - what adapters add to a linear, held to a plain loop in double; and a token's bits in any
 * company (Law 1). */
// SPDX-License-Identifier: Apache-2.0
#include "tests/cuda/device_memory.h"

#include <math.h>
#include <stdio.h>

#include "kernels/cuda/cuda_launch.h"
#include "kernels/cuda/cuda_lora_host.h"
#include "tests/cuda/kernel_cases.h"
#include "tests/unit/lora_case.h"

#ifdef ESPALIER_SANITIZED
enum { TOKENS_APART = 23 }; /* of those that are looked at alone; instrumented: slow */
#else
enum { TOKENS_APART = 9 };
#endif
enum { ADAPTERS_MAX = 6, SEGMENTS_MAX = 40 };

/* Of sum |B| |h|: states h are rounded to bf16, which has 8 bits (half of the last is 2^-8); inputs, A and B are bf16 already. */
static const double TOLERANCE = 0x1p-8 * 1.01;

typedef struct lora_test {
    linear_case linear; /* shapes alone */
    lora_shape shape[ADAPTERS_MAX];
    uint32_t adapters;
    size_t piece_max;
    bool captured; /* the grid of a captured launch */
    struct {
        uint32_t first, count;
        int adapter; /* below 0: the base's */
    } segment[SEGMENTS_MAX];
    uint32_t segments;
} lora_test;

/* ---- adapters, packed on the host and copied to the device piece by piece ---- */

typedef struct test_adapter {
    kern_lora_desc desc;
    kern_lora lora; /* its pieces are the device's */
    void **pieces;
    uint32_t count;
} test_adapter;

static test_adapter adapter_of(const lora_test *c, uint32_t a) {
    test_adapter out = {.desc = {.cols = c->linear.cols}};
    const lora_shape *shape = &c->shape[a];
    out.desc.part_count = c->linear.matrices - shape->skips_last;
    for (uint32_t i = 0; i < out.desc.part_count; i++)
        out.desc.part[i] = lora_part_of((1000 + a) * 100 + i * 10, shape, shape->rank[i],
                                        c->linear.rows[i], c->linear.cols);
    out.count = cuda_lora_pieces(NULL, &out.desc, c->piece_max, NULL);
    size_t *bytes = mem_new(out.count + 1, sizeof *bytes);
    assert_int_equal(cuda_lora_pieces(NULL, &out.desc, c->piece_max, bytes), out.count);
    out.pieces = mem_new(out.count + 1, sizeof *out.pieces);
    for (uint32_t i = 0; i < out.count; i++) {
        assert_in_range(bytes[i], 1, c->piece_max);
        out.pieces[i] = mem_new(bytes[i], 1);
        memset(out.pieces[i], 0xff, bytes[i]);
    }
    cuda_lora_pack(NULL, &out.desc, c->piece_max, out.pieces);
    for (uint32_t i = 0; i < out.count; i++) {
        void *host = out.pieces[i];
        out.pieces[i] = device_copy(host, bytes[i]);
        free(host);
    }
    out.lora = kern_lora_of(&out.desc, c->piece_max, out.pieces);
    free(bytes);
    return out;
}

static void adapter_free(test_adapter *a) {
    for (uint32_t i = 0; i < a->desc.part_count; i++) {
        free((void *)a->desc.part[i].a);
        free((void *)a->desc.part[i].b);
        free((void *)a->desc.part[i].bias);
        free((void *)a->desc.part[i].magnitude);
    }
    for (uint32_t i = 0; i < a->count; i++)
        device_free(a->pieces[i]);
    free(a->pieces);
}

/* ---- running ---- */

/* All that an op gives, on the host; rows: the magnitudes and biases that it points at, NaN where it points at
 * none. */
typedef struct lora_output {
    float *delta, *magnitude, *bias; /* [T, width] */
    uint8_t *updated;                /* [T] */
    bool has_magnitude;
} lora_output;

static uint32_t width_of(const lora_test *c) {
    uint32_t width = 0;
    for (uint32_t m = 0; m < c->linear.matrices; m++)
        width += c->linear.rows[m];
    return width;
}

static uint32_t largest_rows(const lora_test *c) {
    uint32_t largest = 0;
    for (uint32_t m = 0; m < c->linear.matrices; m++)
        if (c->linear.rows[m] > largest) largest = c->linear.rows[m];
    return largest;
}

static float *nans(size_t count) {
    float *values = mem_new(count, sizeof *values);
    memset(values, 0xff, count * sizeof *values);
    return values;
}

/* Reads what each entry of a [T, matrices] array of device pointers points at. */
static float *read_rows(const lora_test *c, const float **device_pointers) {
    uint32_t tokens = c->linear.tokens, matrices = c->linear.matrices, width = width_of(c);
    const float **pointers = mem_new(tokens * matrices, sizeof *pointers);
    float *out = nans((size_t)tokens * width);
    device_read(pointers, device_pointers, tokens * matrices * sizeof *pointers);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t m = 0, column = 0; m < matrices; column += c->linear.rows[m++])
            if (pointers[t * matrices + m])
                device_read(out + (size_t)t * width + column, pointers[t * matrices + m],
                            c->linear.rows[m] * sizeof *out);
    free(pointers);
    return out;
}

static uint32_t segments_of(const lora_test *c, const test_adapter *adapters,
                            kern_lora_segment *out) {
    for (uint32_t s = 0; s < c->segments; s++) {
        int a = c->segment[s].adapter;
        out[s] = (kern_lora_segment){.first = c->segment[s].first,
                                     .count = c->segment[s].count,
                                     .lora = a < 0 ? NULL : &adapters[a].lora};
    }
    return c->segments;
}

static uint16_t *inputs_of(const lora_test *c, uint32_t first) {
    size_t count = (size_t)c->linear.tokens * c->linear.cols;
    uint16_t *in = mem_new(count, sizeof *in);
    for (size_t i = 0; i < count; i++)
        in[i] = bf16_of_f32(lab_value(7, (size_t)first * c->linear.cols + i));
    return in;
}

static void launch(const lora_test *c, cuda_lora_args *args, const kern_lora_segment *segments) {
    uint64_t bytes = cuda_lora_table_bytes(segments, c->segments, c->linear.tokens);
    void *table = mem_new(bytes, 1);
    cuda_lora_table(segments, c->segments, c->linear.tokens, table);
    args->host_table = c->captured ? NULL : table;
    args->table = device_copy(table, bytes);
    assert_int_equal(cuda_lora(args, NULL), cudaSuccess);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    device_free(args->table);
    free(table);
}

/* The inputs of the case are those of tokens first .. of one long row of tokens. */
static lora_output run_from(const lora_test *c, uint32_t first) {
    uint32_t tokens = c->linear.tokens, matrices = c->linear.matrices, width = width_of(c);
    size_t delta = (size_t)tokens * width * sizeof(float);
    test_adapter adapters[ADAPTERS_MAX];
    kern_lora_segment segments[SEGMENTS_MAX];
    for (uint32_t a = 0; a < c->adapters; a++)
        adapters[a] = adapter_of(c, a);
    uint32_t count = segments_of(c, adapters, segments);
    uint16_t *in = inputs_of(c, first);
    lora_output out = {.has_magnitude = cuda_lora_has_magnitude(segments, count)};
    uint64_t whole = cuda_lora_whole_bytes(tokens, width, largest_rows(c), c->piece_max);
    cuda_lora_args args = {
        .in = device_copy(in, (size_t)tokens * c->linear.cols * sizeof *in),
        .token_count = tokens,
        .cols = c->linear.cols,
        .matrix_count = matrices,
        .states = device_new(cuda_lora_workspace(tokens, c->linear.cols)),
        .delta = device_new(delta),
        .updated = device_new(tokens),
        .magnitude = out.has_magnitude ? device_new(tokens * matrices * sizeof(void *)) : NULL,
        .lora_bias = out.has_magnitude ? device_new(tokens * matrices * sizeof(void *)) : NULL,
        .whole = whole ? device_new(whole) : NULL};
    memcpy(args.rows, c->linear.rows, sizeof args.rows);
    launch(c, &args, segments);
    out.delta = nans((size_t)tokens * width);
    out.updated = mem_new(tokens, 1);
    device_read(out.delta, args.delta, delta);
    device_read(out.updated, args.updated, tokens);
    if (out.has_magnitude) {
        out.magnitude = read_rows(c, args.magnitude);
        out.bias = read_rows(c, args.lora_bias);
    }
    const void *all[] = {args.in,        args.states,    args.delta, args.updated,
                         args.magnitude, args.lora_bias, args.whole};
    for (uint32_t i = 0; i < sizeof all / sizeof *all; i++)
        device_free(all[i]);
    for (uint32_t a = 0; a < c->adapters; a++)
        adapter_free(&adapters[a]);
    free(in);
    return out;
}

static lora_output run(const lora_test *c) { return run_from(c, 0); }

static void output_free(lora_output *out) {
    free(out->delta);
    free(out->magnitude);
    free(out->bias);
    free(out->updated);
}

/* ---- the plain loop ---- */

static int adapter_at(const lora_test *c, uint32_t token) {
    for (uint32_t s = 0; s < c->segments; s++)
        if (token >= c->segment[s].first && token - c->segment[s].first < c->segment[s].count)
            return c->segment[s].adapter;
    return -1;
}

/* scale * A x */
static void states_of(const kern_lora_part *part, const uint16_t *x, uint32_t cols,
                      double *states) {
    for (uint32_t r = 0; r < part->rank; r++) {
        states[r] = 0;
        for (uint32_t k = 0; k < cols; k++)
            states[r] += (double)part->a[(size_t)r * cols + k] * (double)f32_of_bf16(x[k]);
        states[r] *= (double)part->scale;
    }
}

/* size: the sum of what is added, without signs. */
static double plain_delta(const kern_lora_part *part, uint32_t row, const double *states,
                          double *size) {
    double y = part->bias && !part->magnitude ? (double)part->bias[row] : 0;
    *size = fabs(y);
    for (uint32_t r = 0; r < part->rank; r++) {
        double product = (double)part->b[(size_t)row * part->rank + r] * states[r];
        y += product;
        *size += fabs(product);
    }
    return y;
}

static bool same(float a, float b) { return bits_of_f32(a) == bits_of_f32(b); }
static bool is_unwritten(float value) { return bits_of_f32(value) == 0xffffffff; }

static void check_rows(const kern_lora_part *part, uint32_t rows, const float *magnitude,
                       const float *bias) {
    for (uint32_t row = 0; row < rows; row++) {
        bool has = part && part->magnitude;
        assert_true(has ? same(magnitude[row], part->magnitude[row])
                        : is_unwritten(magnitude[row]));
        assert_true(has && part->bias ? same(bias[row], part->bias[row]) : is_unwritten(bias[row]));
    }
}

/* One token's part of matrix m. */
static void check_part(const lora_test *c, const kern_lora_part *part, uint32_t m,
                       const uint16_t *x, const float *delta, const char *what) {
    double states[LORA_RANK_MAX];
    if (part) states_of(part, x, c->linear.cols, states);
    for (uint32_t row = 0; row < c->linear.rows[m]; row++) {
        double size = 0, want = part ? plain_delta(part, row, states, &size) : 0;
        double got = (double)delta[row];
        if (!(fabs(got - want) <= TOLERANCE * size))
            fail_msg("%s: matrix %u row %u is %g, not %g", what, m, row, got, want);
    }
}

static void check(const lora_test *c, const char *name) {
    uint32_t width = width_of(c);
    lora_output out = run(c);
    uint16_t *in = inputs_of(c, 0);
    test_adapter adapters[ADAPTERS_MAX];
    for (uint32_t a = 0; a < c->adapters; a++)
        adapters[a] = adapter_of(c, a);
    for (uint32_t t = 0; t < c->linear.tokens; t++) {
        char what[96];
        int a = adapter_at(c, t);
        bool live = a >= 0 && adapters[a].count > 0;
        snprintf(what, sizeof what, "%s token %u adapter %d", name, t, a);
        assert_int_equal(out.updated[t], live);
        for (uint32_t m = 0, column = 0; m < c->linear.matrices; column += c->linear.rows[m++]) {
            const kern_lora_part *part =
                live && m < adapters[a].desc.part_count ? &adapters[a].desc.part[m] : NULL;
            size_t at = (size_t)t * width + column;
            if (live) check_part(c, part, m, in + (size_t)t * c->linear.cols, out.delta + at, what);
            for (uint32_t row = 0; !live && row < c->linear.rows[m]; row++)
                assert_true(is_unwritten(out.delta[at + row]));
            if (out.has_magnitude)
                check_rows(part, c->linear.rows[m], out.magnitude + at, out.bias + at);
        }
    }
    for (uint32_t a = 0; a < c->adapters; a++)
        adapter_free(&adapters[a]);
    free(in);
    output_free(&out);
    kernel_case();
}

/* ---- cases ---- */

/* Each adapter in turn, for segments of 1, 2, 3 .. tokens, every fourth the base's, with a gap of a token behind
 * every third. */
static void spread(lora_test *c) {
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
static void middle(lora_test *c) {
    c->segments = 1;
    c->segment[0].first = 1;
    c->segment[0].count = c->linear.tokens > 3 ? c->linear.tokens - 3 : 0;
    c->segment[0].adapter = 0;
}

static const lora_test cases[] = {
    {.linear = {.rows = {72, 24, 40}, .matrices = 3, .cols = 96}, /* q, k, v */
     .shape = {{{8, 8, 8}, .bias = true}, {{16, 0, 17}, false}, {{1, 3, 64}, .magnitude = true}},
     .adapters = 3},
    {.linear = {.rows = {100}, .matrices = 1, .cols = 160},
     .shape = {{{16}, false}, {{3}, .bias = true, .magnitude = true}, {{130}, false}},
     .adapters = 3},
    {.linear = {.rows = {144, 144}, .matrices = 2, .cols = 256}, /* gate, up */
     .shape = {{{16, 16}, false},
               {{64, 8}, false},
               {{0, 17}, false},
               {{5, 0}, .bias = true, .magnitude = true},
               {{8, 8}, .skips_last = true}},
     .adapters = 5},
    {.linear = {.rows = {33},
                .matrices = 1,
                .cols = 1301}, /* slices, pieces, rows that lie anyhow */
     .shape = {{{48}, false}, {{512}, false}},
     .adapters = 2,
     .piece_max = 4096},
    {.linear = {.rows = {40}, .matrices = 1, .cols = 4160}, /* five slices */
     .shape = {{{7}, false}, {{64}, false}},
     .adapters = 2,
     .piece_max = 1 << 20},
    {.linear = {.rows = {1290}, .matrices = 1, .cols = 64}, /* a head, rows that no piece holds */
     .shape = {{{12}, .bias = true, .magnitude = true}, {{0}, .bias = true}, {{0}, false}},
     .adapters = 3,
     .piece_max = 4999},
    {.linear = {.rows = {50, 16}, .matrices = 2, .cols = 40},
     .shape = {{{7, 9}, false}, {{4, 2}, .magnitude = true}},
     .adapters = 2},
};
enum { CASES = sizeof cases / sizeof cases[0] };

static lora_test case_of(uint32_t i, uint32_t tokens) {
    lora_test c = cases[i];
    c.linear.tokens = tokens;
    if (!c.piece_max) c.piece_max = 50000;
    spread(&c);
    return c;
}

/* Tokens around the borders of fragments, tiles and of summing slices apart. */
static void updates_agree_with_a_plain_loop(void **state) {
    (void)state;
    static const uint32_t tokens[] = {1, 2, 9, 33, 64, 65, 100};
    for (uint32_t i = 0; i < CASES; i++)
        for (uint32_t n = 0; n < sizeof tokens / sizeof tokens[0]; n++) {
            char name[64];
            lora_test c = case_of(i, tokens[n]);
            c.captured = (i + n) % 2;
            if (n % 3 == 2) middle(&c);
            snprintf(name, sizeof name, "case %u T=%u", i, tokens[n]);
            check(&c, name);
        }
}

/* An update of each rank there is a border at. */
static void every_rank_is_its_own(void **state) {
    (void)state;
    static const uint32_t ranks[] = {1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 512};
    for (uint32_t i = 0; i < sizeof ranks / sizeof ranks[0]; i++) {
        char name[64];
        lora_test c = {
            .linear = {.rows = {48, 16, 17}, .matrices = 3, .cols = 64, .tokens = 9 + 28 * (i % 2)},
            .shape = {{{ranks[i], ranks[i], ranks[i]}, false}, {{1, ranks[i], 0}, false}},
            .adapters = 2,
            .piece_max = 1 << 16};
        spread(&c);
        snprintf(name, sizeof name, "rank %u", ranks[i]);
        check(&c, name);
    }
}

/* ---- Law 1 ---- */

/* Token `token` of the case alone, or among others of other adapters, elsewhere in the batch: the same bits. */
static void check_alone(const lora_test *c, const lora_output *among, uint32_t token) {
    uint32_t width = width_of(c);
    lora_test alone = *c;
    alone.linear.tokens = 1;
    alone.segments = 1;
    alone.segment[0].first = 0;
    alone.segment[0].count = 1;
    alone.segment[0].adapter = adapter_at(c, token);
    lora_output out = run_from(&alone, token);
    assert_int_equal(out.updated[0], among->updated[token]);
    for (uint32_t i = 0; i < width; i++)
        if (!same(out.delta[i], among->delta[(size_t)token * width + i]))
            fail_msg("token %u column %u is %a alone, %a among others", token, i,
                     (double)out.delta[i], (double)among->delta[(size_t)token * width + i]);
    output_free(&out);
}

/* 1 token is summed by slices apart, 100 in one go; the table decides the grid, or a captured one serves. */
static void token_is_the_same_in_any_company(void **state) {
    (void)state;
    for (uint32_t i = 0; i < CASES; i++)
        for (uint32_t captured = 0; captured < 2; captured++) {
            lora_test c = case_of(i, captured ? 50 : 100);
            c.captured = captured;
            lora_output among = run(&c);
            for (uint32_t token = i; token < c.linear.tokens; token += TOKENS_APART)
                check_alone(&c, &among, token);
            output_free(&among);
        }
}

/* The tokens of one segment at once, or each a segment of its own. */
static void segments_may_be_cut_anywhere(void **state) {
    (void)state;
    lora_test c = case_of(2, 70), cut = c;
    c.segments = 1;
    c.segment[0].first = 0;
    c.segment[0].count = 70;
    c.segment[0].adapter = 1;
    cut.segments = 0;
    for (uint32_t first = 0, count; first < 70; first += count) {
        count = 1 + first % 5;
        if (count > 70 - first) count = 70 - first;
        cut.segment[cut.segments].first = first;
        cut.segment[cut.segments].count = count;
        cut.segment[cut.segments++].adapter = 1;
    }
    lora_output one = run(&c), many = run(&cut);
    assert_same_bits(many.delta, one.delta, (size_t)70 * width_of(&c), "cut");
    output_free(&one);
    output_free(&many);
}

static void pieces_of_any_size_give_the_same(void **state) {
    (void)state;
    static const size_t sizes[] = {4096, 4097, 4160, 9999, 1 << 20};
    for (uint32_t i = 0; i < CASES; i++) {
        lora_test c = case_of(i, 12);
        c.piece_max = 1 << 22;
        lora_output want = run(&c);
        for (uint32_t n = 0; n < sizeof sizes / sizeof sizes[0]; n++) {
            c.piece_max = sizes[n];
            lora_output got = run(&c);
            size_t count = (size_t)12 * width_of(&c);
            assert_same_bits(got.delta, want.delta, count, "delta");
            if (got.has_magnitude) {
                assert_same_bits(got.magnitude, want.magnitude, count, "magnitude");
                assert_same_bits(got.bias, want.bias, count, "bias");
            }
            output_free(&got);
        }
        output_free(&want);
    }
}

/* ---- tables ---- */

/* A captured launch over a table of no segments: only `updated` is written, with zeros. */
static void empty_table_does_nothing(void **state) {
    (void)state;
    for (uint32_t captured = 0; captured < 2; captured++) {
        lora_test c = case_of(0, 7);
        c.segments = 0;
        c.captured = captured;
        lora_output out = run(&c);
        for (uint32_t t = 0; t < 7; t++)
            assert_int_equal(out.updated[t], 0);
        for (uint32_t i = 0; i < 7 * width_of(&c); i++)
            assert_true(is_unwritten(out.delta[i]));
        output_free(&out);
    }
}

static void what_touches_nothing_has_no_pieces(void **state) {
    (void)state;
    kern_lora_desc desc = {.cols = 64, .part_count = 2};
    assert_int_equal(cuda_lora_pieces(NULL, &desc, 50000, NULL), 0);
    desc.part[1].rows = 48;
    assert_int_equal(cuda_lora_pieces(NULL, &desc, 50000, NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(updates_agree_with_a_plain_loop),
        cmocka_unit_test(every_rank_is_its_own),
        cmocka_unit_test(token_is_the_same_in_any_company),
        cmocka_unit_test(segments_may_be_cut_anywhere),
        cmocka_unit_test(pieces_of_any_size_give_the_same),
        cmocka_unit_test(empty_table_does_nothing),
        cmocka_unit_test(what_touches_nothing_has_no_pieces),
    };
    return kernel_cases_end(cmocka_run_group_tests(tests, NULL, NULL));
}
