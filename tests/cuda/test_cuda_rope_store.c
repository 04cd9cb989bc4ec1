/* test_cuda_rope_store.c - norm, rotation and store on the device: held to ref; what is written where. */
// SPDX-License-Identifier: Apache-2.0
#include "page_lab.h"
#include "tests/cuda/kernel_cases.h"

static const page_case cases[] = {
    {.heads = 4, .kv_heads = 2, .dim = 64, .rotary = 64, .lengths = {1, 37, 20}},
    {.heads = 3,
     .kv_heads = 1,
     .dim = 128,
     .rotary = 128,
     .interleaved = true,
     .lengths = {5, 9, 2}},
    {.heads = 5, .kv_heads = 5, .dim = 80, .rotary = 32, .lengths = {17, 0, 18}},
    {.heads = 6, .kv_heads = 3, .dim = 48, .rotary = 36, .head_norm = true, .lengths = {35, 3, 9}},
    {.heads = 2,
     .kv_heads = 1,
     .dim = 256,
     .rotary = 256,
     .head_norm = true,
     .second_long = true,
     .lengths = {3, 21, 4}},
    {.heads = 4,
     .kv_heads = 4,
     .dim = 20,
     .rotary = 6,
     .interleaved = true,
     .second_long = true,
     .lengths = {3, 18, 7}},
    {.heads = 2, .kv_heads = 2, .dim = 32, .lengths = {16, 1, 33}},
    {.heads = 2, .kv_heads = 1, .dim = 2, .rotary = 2, .head_norm = true, .lengths = {4, 1, 3}},
    {.heads = 3, .kv_heads = 1, .dim = 96, .head_norm = true, .lengths = {4, 17, 3}},
};
enum { CASES = sizeof cases / sizeof cases[0] };

/* One step of all sequences through rope_store, on ref and on the device. */
typedef struct stored {
    lab_batch batch;
    uint32_t width, row; /* of qkv; elements of a row in a page */
    float *want;         /* qkv: ref's */
    float *got;
    uint16_t *arena; /* the device's */
    size_t frame_bytes;
    kern_kv_shape shape;
} stored;

/* ref leaves k turned and v as it was in qkv, beside q. */
static void run_ref(const page_case *c, stored *s) {
    lab l = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    uint8_t seq_long[PAGE_SEQS];
    page_seq_long(c, &s->batch, seq_long);
    s->batch.b.seq_long = seq_long;
    kern_kv_layer kv = {.shape = &s->shape,
                        .group = 1,
                        .layer = 1,
                        .frame_bytes = l.ops->frame_bytes(l.dev, &s->shape)};
    size_t arena = s->batch.frame_count * kv.frame_bytes;
    kv.arena = lab_alloc(&l, arena);
    float *angles = page_angles(c, 10000), *long_angles = page_angles(c, 70000);
    float *norms[2] = {lab_random(21, c->dim), lab_random(22, c->dim)};
    kern_rope_store op = {.batch = &s->batch.b,
                          .qkv = s->want = page_qkv(c, &s->batch),
                          .heads = c->heads,
                          .rotary = c->rotary,
                          .interleaved = c->interleaved,
                          .cos_sin = angles,
                          .long_cos_sin = long_angles,
                          .q_norm = c->head_norm ? norms[0] : NULL,
                          .k_norm = c->head_norm ? norms[1] : NULL,
                          .norm_eps = 1e-5f,
                          .kv = kv};
    l.ops->rope_store(l.dev, &op);
    l.ops->release(l.dev, kv.arena, arena);
    free(angles);
    free(long_angles);
    free(norms[0]);
    free(norms[1]);
    lab_close(&l);
}

static void run_device(const page_case *c, stored *s) {
    page_device d = page_device_new(c, 0, s->batch.frame_count);
    size_t count = (size_t)s->batch.b.token_count * s->width;
    size_t arena = s->batch.frame_count * d.kv.frame_bytes;
    float *qkv = device_floats(page_qkv(c, &s->batch), count);
    cuda_batch batch = page_batch_put(c, &s->batch);
    cuda_rope_store_args args = page_rope(c, &d, &batch, qkv);
    assert_int_equal(cuda_rope_store(&args, NULL), cudaSuccess);
    s->got = malloc(count * sizeof *s->got);
    s->arena = malloc(arena);
    s->frame_bytes = d.kv.frame_bytes;
    device_read(s->got, qkv, count * sizeof *s->got);
    device_read(s->arena, d.kv.arena, arena);
    page_batch_free(&batch);
    device_free(qkv);
    page_device_free(&d);
}

static stored store(const page_case *c) {
    uint32_t cached[PAGE_SEQS] = {0};
    stored s = {.batch = lab_batch_of(PAGE_SEQS, cached, c->lengths, PAGE_GROUPS, page_stride(c)),
                .width = qkv_width(c),
                .row = CUDA_KV_ROW(c->dim, false) / 2,
                .shape = {.layers = PAGE_LAYERS, .kv_heads = c->kv_heads, .head_dim = c->dim}};
    run_ref(c, &s);
    run_device(c, &s);
    return s;
}

static void stored_free(stored *s) {
    lab_batch_free(&s->batch);
    free(s->want);
    free(s->got);
    free(s->arena);
}

/* Where the device should have put a token's key or value. */
static uint16_t *row_in_page(const stored *s, uint32_t t, uint32_t is_v, uint32_t head) {
    const step_batch *b = &s->batch.b;
    uint32_t position = b->positions[t];
    uint32_t frame = b->tables[(size_t)(b->seq_count + b->token_seq[t]) * b->table_stride +
                               position / KV_PAGE_TOKENS];
    size_t offset = frame * s->frame_bytes + cuda_kv_offset(&s->shape, false, 1, is_v);
    return s->arena + offset / sizeof *s->arena +
           (size_t)(head * KV_PAGE_TOKENS + position % KV_PAGE_TOKENS) * s->row;
}

static bool is_bf16_of(uint16_t got, float want) {
    return fabsf(f32_of_bf16(got) - want) <= fabsf(want) / 256 + 2e-6f;
}

static void check_rows(const page_case *c, const stored *s, uint32_t t, uint32_t is_v) {
    const float *want =
        s->want + (size_t)t * s->width + (size_t)(c->heads + is_v * c->kv_heads) * c->dim;
    for (uint32_t h = 0; h < c->kv_heads; h++) {
        const uint16_t *row = row_in_page(s, t, is_v, h);
        for (uint32_t i = 0; i < s->row; i++)
            if (i < c->dim ? !is_bf16_of(row[i], want[h * c->dim + i]) : row[i] != 0)
                fail_msg("token %u, %s head %u, element %u is %g", t, is_v ? "v" : "k", h, i,
                         (double)f32_of_bf16(row[i]));
    }
}

/* Both kinds of pairs, part of a head or none of it turned, two tables, norms, widths that are no
 * multiple of anything. */
static void heads_are_normed_turned_and_stored_as_ref_does(void **state) {
    (void)state;
    for (uint32_t i = 0; i < CASES; i++) {
        stored s = store(&cases[i]);
        for (uint32_t t = 0; t < s.batch.b.token_count; t++) {
            size_t at = (size_t)t * s.width;
            page_assert_close(s.got + at, s.want + at, (size_t)cases[i].heads * cases[i].dim, 2e-6f,
                              1, "q");
            check_rows(&cases[i], &s, t, 0);
            check_rows(&cases[i], &s, t, 1);
        }
        kernel_case();
        stored_free(&s);
    }
}

/* What no token of the batch owns stays as it was: here NaN of all ones. */
static void nothing_else_in_the_arena_is_touched(void **state) {
    (void)state;
    for (uint32_t i = 0; i < CASES; i++) {
        const page_case *c = &cases[i];
        stored s = store(c);
        size_t written = 0, expected = (size_t)s.batch.b.token_count * 2 * c->kv_heads * s.row;
        for (size_t e = 0; e < s.batch.frame_count * s.frame_bytes / 2; e++)
            written += s.arena[e] != 0xffff;
        assert_int_equal(written, expected);
        stored_free(&s);
    }
}

/* Of a padded step: tokens behind the live ones belong to no sequence, and have no page. */
static void tokens_of_no_sequence_are_left_alone(void **state) {
    (void)state;
    const page_case *c = &cases[3];
    uint32_t cached[PAGE_SEQS] = {0}, tokens[PAGE_SEQS] = {4, 0, 0};
    lab_batch host = lab_batch_of(PAGE_SEQS, cached, tokens, PAGE_GROUPS, page_stride(c));
    page_device d = page_device_new(c, 0, host.frame_count);
    size_t count = 4 * (size_t)qkv_width(c), arena = host.frame_count * d.kv.frame_bytes;
    float *before = page_qkv(c, &host), after[4 * 576];
    assert_true(count * sizeof(float) <= sizeof after);
    float *qkv = device_copy(before, count * sizeof *before);
    host.b.token_seq[2] = host.b.token_seq[3] = CUDA_NO_SEQUENCE;
    cuda_batch batch = page_batch_put(c, &host);
    cuda_rope_store_args args = page_rope(c, &d, &batch, qkv);
    assert_int_equal(cuda_rope_store(&args, NULL), cudaSuccess);
    device_read(after, qkv, count * sizeof *after);
    assert_memory_not_equal(after, before, count * sizeof *after / 2);
    assert_memory_equal(after + count / 2, before + count / 2, count * sizeof *after / 2);
    uint16_t *pages = malloc(arena);
    device_read(pages, d.kv.arena, arena);
    size_t written = 0;
    for (size_t e = 0; e < arena / 2; e++)
        written += pages[e] != 0xffff;
    assert_int_equal(written, 2 * 2 * c->kv_heads * CUDA_KV_ROW(c->dim, false) / 2);
    free(pages);
    free(before);
    page_batch_free(&batch);
    device_free(qkv);
    page_device_free(&d);
    lab_batch_free(&host);
}

static void check_frame(uint32_t dim, bool int8) {
    kern_kv_shape shape = {.layers = 3, .kv_heads = 5, .head_dim = dim};
    size_t block = cuda_kv_block_bytes(dim, int8), blocks = 5 * block;
    assert_int_equal(blocks % 16, 0);
    assert_true(block >= 16 * (int8 ? dim + sizeof(float) : 2 * dim));
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(cuda_kv_offset(&shape, int8, i / 2, i % 2), i * blocks);
    assert_int_equal(cuda_kv_frame_bytes(&shape, int8) % 64, 0);
    assert_in_range(cuda_kv_frame_bytes(&shape, int8), 6 * blocks, 6 * blocks + 63);
}

/* A frame holds its layers' blocks one after another, none overlapping, each where cp.async can read it. */
static void a_frame_holds_its_blocks_side_by_side(void **state) {
    (void)state;
    for (uint32_t dim = 2; dim <= 256; dim += 2) {
        check_frame(dim, false);
        check_frame(dim, true);
    }
}

static void impossible_rotations_are_refused(void **state) {
    (void)state;
    float one = 1;
    cuda_rope_store_args odd = {.heads = 1, .rotary = 3, .kv = {.kv_heads = 1, .head_dim = 4}};
    assert_int_equal(cuda_rope_store(&odd, NULL), cudaErrorInvalidValue);
    odd.rotary = 6;
    assert_int_equal(cuda_rope_store(&odd, NULL), cudaErrorInvalidValue);
    odd.rotary = 4;
    odd.kv.int8 = true; /* more dims than a warp has room for */
    odd.kv.head_dim = CUDA_HEAD_DIM_MAX + 2;
    assert_int_equal(cuda_rope_store(&odd, NULL), cudaErrorInvalidValue);
    odd.kv.head_dim = 4;
    odd.q_norm = &one;
    assert_int_equal(cuda_rope_store(&odd, NULL), cudaErrorInvalidValue);
}

/* --- in 8 bits -------------------------------------------------------------------------------- */

enum { ROWS = 7, DIM = 10, ROW = 16 };

/* A value of one head a token, stored; the block that it lies in. */
static void store_values(float values[ROWS][DIM], uint8_t *block) {
    page_case c = {.heads = 1, .kv_heads = 1, .dim = DIM, .int8 = true, .lengths = {ROWS}};
    uint32_t cached[PAGE_SEQS] = {0};
    lab_batch host = lab_batch_of(PAGE_SEQS, cached, c.lengths, PAGE_GROUPS, 1);
    page_device d = page_device_new(&c, 0, host.frame_count);
    float qkv[ROWS][3][DIM] = {0};
    for (uint32_t t = 0; t < ROWS; t++)
        memcpy(qkv[t][2], values[t], sizeof values[t]);
    float *there = device_copy(qkv, sizeof qkv);
    cuda_batch batch = page_batch_put(&c, &host);
    cuda_rope_store_args args = page_rope(&c, &d, &batch, there);
    assert_int_equal(cuda_rope_store(&args, NULL), cudaSuccess);
    uint32_t frame = host.b.tables[host.b.seq_count];
    device_read(block,
                (uint8_t *)d.kv.arena + frame * d.kv.frame_bytes +
                    cuda_kv_offset(&d.shape, true, 1, 1),
                cuda_kv_block_bytes(DIM, true));
    page_batch_free(&batch);
    device_free(there);
    page_device_free(&d);
    lab_batch_free(&host);
}

static float scale_of(const uint8_t *block, uint32_t row) {
    float scale;
    memcpy(&scale, block + KV_PAGE_TOKENS * ROW + row * sizeof scale, sizeof scale);
    return scale;
}

/* kernels.h, kern_rope_store: to the last bit, halves to even, and what is no number. */
static void codes_and_scales_are_as_documented(void **state) {
    (void)state;
    float values[ROWS][DIM] = {{127, -127, 0.5f, 1.5f, -0.5f, -2.5f, 126.4f, -1, 0, 3},
                               {0},
                               {1e-31f, -1e-31f},
                               {1e-3f, -2.54e-3f},
                               {1, INFINITY, -2},
                               {NAN, 5},
                               {-3e38f, 1e38f}};
    static const int8_t codes[ROWS][ROW] = {
        {127, -127, 0, 2, 0, -2, 126, -1, 0, 3}, {0}, {0}, {50, -127}, {0}, {0}, {-127, 42}};
    uint8_t block[KV_PAGE_TOKENS * (ROW + sizeof(float))];
    assert_int_equal(sizeof block, cuda_kv_block_bytes(DIM, true));
    store_values(values, block);
    for (uint32_t r = 0; r < ROWS; r++)
        assert_memory_equal(block + r * ROW, codes[r], ROW);
    assert_true(scale_of(block, 0) == 1 && scale_of(block, 1) == 0 && scale_of(block, 2) == 0);
    assert_true(scale_of(block, 3) == 2.54e-3f / 127 && isinf(scale_of(block, 4)));
    assert_true(isnan(scale_of(block, 5)) && scale_of(block, 6) == 3e38f / 127);
    for (size_t i = ROWS * ROW; i < KV_PAGE_TOKENS * ROW; i++) /* other rows, other scales */
        assert_int_equal(block[i], 0xff);
    for (uint32_t r = ROWS; r < KV_PAGE_TOKENS; r++)
        assert_true(bits_of_f32(scale_of(block, r)) == 0xffffffff);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_are_normed_turned_and_stored_as_ref_does),
        cmocka_unit_test(nothing_else_in_the_arena_is_touched),
        cmocka_unit_test(tokens_of_no_sequence_are_left_alone),
        cmocka_unit_test(a_frame_holds_its_blocks_side_by_side),
        cmocka_unit_test(impossible_rotations_are_refused),
        cmocka_unit_test(codes_and_scales_are_as_documented),
    };
    return kernel_cases_end(cmocka_run_group_tests(tests, NULL, NULL));
}
