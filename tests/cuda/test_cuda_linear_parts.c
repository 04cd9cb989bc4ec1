/* test_cuda_linear_parts.c - a linear whose columns ranks share: what any number of them have, added two by two, has
 * the bits of the whole.
 *
 *   Formats of each width of codes, with offsets and without, tokens of every shape of the kernels, parts of equal
 *   and of unequal widths, some shorter than the segments they are cut into. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/cuda/kernel_cases.h"
#include "tests/cuda/linear_rig.h"

enum { ROWS = 45, TOKENS_MAX = 260 };

static thread_pool *pool;

static int open_pool(void **state) {
    (void)state;
    return pool_open(&pool, 2, NULL) == ESP_OK ? 0 : -1;
}

static int close_pool(void **state) {
    (void)state;
    pool_close(pool);
    return 0;
}

/* A matrix of whole blocks, cut at these columns. */
typedef struct cut_case {
    esp_dtype dtype;
    kern_parts parts;
    uint32_t tokens;
} cut_case;

static uint32_t cols_of(const cut_case *c) { return c->parts.end[c->parts.count - 1]; }

/* Columns [first, end) of rows of blocks, as rows of their own; free() them. */
static uint8_t *cut_blocks(const cut_case *c, const uint8_t *blocks, uint32_t first, uint32_t end) {
    const dtype_row *info = dtype_info(c->dtype);
    size_t row = (size_t)cols_of(c) / info->block_elements * info->block_bytes;
    size_t own = (size_t)(end - first) / info->block_elements * info->block_bytes;
    size_t at = (size_t)first / info->block_elements * info->block_bytes;
    uint8_t *cut = mem_new(ROWS, own);
    for (size_t r = 0; r < ROWS; r++)
        memcpy(cut + r * own, blocks + r * row + at, own);
    return cut;
}

static uint16_t *cut_inputs(const cut_case *c, const uint16_t *x, uint32_t first, uint32_t end) {
    uint16_t *cut = mem_new((size_t)c->tokens * (end - first), sizeof *cut);
    for (size_t t = 0; t < c->tokens; t++)
        memcpy(cut + t * (end - first), x + t * cols_of(c) + first, (end - first) * sizeof *cut);
    return cut;
}

/* What the rank of these parts gives; free() it. */
static float *rank_sums(const cut_case *c, const uint8_t *blocks, const uint16_t *x, uint32_t rank,
                        uint32_t ranks) {
    uint32_t count = c->parts.count / ranks, at = rank * count;
    uint32_t first = at ? c->parts.end[at - 1] : 0, end = c->parts.end[at + count - 1];
    kern_parts own = {.whole = c->parts.whole, .count = count};
    for (uint32_t i = 0; i < count; i++)
        own.end[i] = c->parts.end[at + i] - first;
    uint8_t *cut = cut_blocks(c, blocks, first, end);
    uint16_t *in = cut_inputs(c, x, first, end);
    rig_matrix matrix = rig_pack(pool, &(rig_shape){c->dtype, ROWS, end - first, 0, 0}, cut);
    uint64_t work = cuda_linear_workspace(&matrix.view, c->tokens);
    uint64_t stack = cuda_linear_stack(ROWS, c->tokens);
    size_t total = (size_t)c->tokens * ROWS;
    cuda_linear_args args = {.in = rig_put(in, (size_t)c->tokens * (end - first) * sizeof *in),
                             .token_count = c->tokens,
                             .matrix_count = 1,
                             .matrix = {&matrix.view},
                             .parts = &own,
                             .epilogue = EPI_STORE,
                             .out = rig_put(NULL, total * sizeof(float)),
                             .work = work ? rig_put(NULL, work) : NULL,
                             .stack = stack ? rig_put(NULL, stack) : NULL};
    float *y = mem_new(total, sizeof *y);
    RIG_OK(cuda_linear(&args, NULL));
    rig_take(y, args.out, total * sizeof *y);
    (void)cudaFree((void *)(uintptr_t)args.in);
    (void)cudaFree(args.out);
    if (work) (void)cudaFree(args.work);
    if (stack) (void)cudaFree(args.stack);
    rig_matrix_free(&matrix);
    free(cut);
    free(in);
    return y;
}

/* Of ranks [first, first + count), added to those of `first`. */
static void add_up(float *const *sums, uint32_t first, uint32_t count, size_t total) {
    uint32_t half = count / 2;
    if (count == 1) return;
    add_up(sums, first, half, total);
    add_up(sums, first + half, half, total);
    for (size_t i = 0; i < total; i++)
        sums[first][i] += sums[first + half][i];
}

static void check(const cut_case *c) {
    size_t total = (size_t)c->tokens * ROWS;
    uint8_t *blocks = lab_blocks(c->dtype, ROWS, cols_of(c), 3);
    uint16_t *x = rig_inputs(7, (size_t)c->tokens * cols_of(c));
    float *one = rank_sums(c, blocks, x, 0, 1);
    for (uint32_t ranks = 2; ranks <= c->parts.count; ranks *= 2) {
        float *sums[KERN_PARTS_MAX];
        for (uint32_t rank = 0; rank < ranks; rank++)
            sums[rank] = rank_sums(c, blocks, x, rank, ranks);
        add_up(sums, 0, ranks, total);
        for (size_t i = 0; i < total; i++)
            if (bits_of_f32(sums[0][i]) != bits_of_f32(one[i]))
                fail_msg("%s, %u parts, %u tokens: element %zu of %u ranks is %a, of one %a",
                         dtype_info(c->dtype)->name, c->parts.count, c->tokens, i, ranks,
                         (double)sums[0][i], (double)one[i]);
        for (uint32_t rank = 0; rank < ranks; rank++)
            free(sums[rank]);
    }
    free(one);
    free(blocks);
    free(x);
    kernel_case();
}

/* A part's end in tiles of 64 columns; the last may end within one. */
static kern_parts parts_of(uint32_t count, const uint32_t *tiles, uint32_t cols) {
    kern_parts p = {.whole = count, .count = count};
    for (uint32_t i = 0; i < count; i++)
        p.end[i] = i + 1 < count ? tiles[i] * 64 : cols;
    return p;
}

static const uint32_t TOKENS[] = {1, 8, 11, 30, TOKENS_MAX};
enum { TOKEN_COUNTS = sizeof TOKENS / sizeof *TOKENS };

static void any_number_of_ranks_gives_the_same_bits(void **state) {
    (void)state;
    static const esp_dtype dtypes[] = {DT_BF16, DT_Q4_0, DT_Q4_1, DT_Q8_0,
                                       DT_Q5_1, DT_F32,  DT_G4,   DT_F8_E4M3};
    static const uint32_t equal[] = {1, 2, 3, 4, 5, 6, 7}, uneven[] = {1, 3, 4, 6, 7, 9, 10};
    for (uint32_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++)
        for (uint32_t i = 0; i < TOKEN_COUNTS; i++) {
            check(&(cut_case){dtypes[d], parts_of(8, equal, 512), TOKENS[i]});
            if (d < 3) check(&(cut_case){dtypes[d], parts_of(8, uneven, 736), TOKENS[i]});
        }
}

/* Blocks of 256 columns. */
static void large_blocks_are_parts_too(void **state) {
    (void)state;
    static const esp_dtype dtypes[] = {DT_Q4_K, DT_Q6_K, DT_Q2_K};
    static const uint32_t four[] = {4, 8, 12};
    for (uint32_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++)
        for (uint32_t i = 0; i < TOKEN_COUNTS; i++)
            check(&(cut_case){dtypes[d], parts_of(4, four, 1024), TOKENS[i]});
}

/* A part of one tile is one segment and seven that are empty. */
static void fewer_parts_have_more_segments_each(void **state) {
    (void)state;
    static const uint32_t two[] = {7}, short_two[] = {1}, four[] = {1, 4, 6};
    for (uint32_t i = 0; i < TOKEN_COUNTS; i++) {
        check(&(cut_case){DT_BF16, parts_of(2, two, 14 * 64), TOKENS[i]});
        check(&(cut_case){DT_Q4_0, parts_of(2, short_two, 96), TOKENS[i]});
        check(&(cut_case){DT_Q8_0, parts_of(4, four, 7 * 64), TOKENS[i]});
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_ranks_gives_the_same_bits),
        cmocka_unit_test(large_blocks_are_parts_too),
        cmocka_unit_test(fewer_parts_have_more_segments_each),
    };
    return cmocka_run_group_tests(tests, open_pool, close_pool);
}
