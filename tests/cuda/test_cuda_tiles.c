/* test_cuda_tiles.c - matrices in tiles are read as cuda_matrix.h says a kernel does, lane by lane, and give the
 * weights of their blocks. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/pool.h"
#include "kernels/cuda/cuda_tiles.h"
#include "tests/unit/kernel_lab.h"

static thread_pool *pool;

static int open_pool(void **state) {
    (void)state;
    esp_error err;
    return pool_open(&pool, 2, &err) == ESP_OK ? 0 : -1;
}

static int close_pool(void **state) {
    (void)state;
    pool_close(pool);
    return 0;
}

static uint32_t word_at(const uint8_t *at) {
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static float half_at(const uint8_t *at) {
    uint16_t half;
    memcpy(&half, at, sizeof half);
    return f32_of_f16(half);
}

static float float_at(const uint8_t *at) { return f32_of_bits(word_at(at)); }

/* Half e of a_i of a lane in a step: the value of a code. */
static float value_of(const uint8_t *tile, cuda_format_row f, uint32_t lane, uint32_t step,
                      uint32_t i, uint32_t e) {
    bool centred = f.scaling == SCALING_HALF || f.scaling == SCALING_STEPS;
    uint32_t half = step / 2, s = step % 2, word, code;
    switch (f.codes) {
    case CODES_BF16:
        word = word_at(tile + (step * 32 + lane) * 16 + i * 4);
        return f32_of_bf16((uint16_t)(e ? word >> 16 : word));
    case CODES_4:
        word = word_at(tile + (half * 32 + lane) * 8 + s * 4);
        word = word >> 3 | word << 29;
        return (float)(word >> 4 * (i + 4 * e) & 15) - (centred ? 8.0f : 0.0f);
    default:
        word = word_at(tile + (half * 32 + lane) * 16 + s * 8 + i / 2 * 4);
        code = word >> 8 * (i % 2 + 2 * e) & 255;
        return f.codes == CODES_8 ? (float)(int8_t)code : f32_of_e4m3((uint8_t)code);
    }
}

/* How a value becomes a weight; row: its scales. */
static float weight_of(cuda_format_row f, const uint8_t *row, uint32_t col, float value) {
    uint32_t run = col / f.run;
    switch (f.scaling) {
    case SCALING_HALF:
        return half_at(row + 2 * run) * value;
    case SCALING_HALF_OFFSET:
        return half_at(row + 4 * run) * value + half_at(row + 4 * run + 2);
    case SCALING_HALF_ZERO:
        return half_at(row + 4 * run) * (value - half_at(row + 4 * run + 2));
    case SCALING_FLOAT:
        return float_at(row + 4 * run) * value;
    case SCALING_FLOAT_ZERO:
        return float_at(row + 8 * run) * (value - float_at(row + 8 * run + 4));
    case SCALING_STEPS:
        return half_at(row) * (float)(int8_t)row[2 + run] * value;
    case SCALING_STEPS_LESS:
        return half_at(row) * (float)row[4 + 2 * run] * value -
               half_at(row + 2) * (float)row[5 + 2 * run];
    default:
        return value;
    }
}

static uint32_t row_scale_bytes(cuda_format_row f) {
    static const uint32_t fixed[] = {0, 0, 0, 0, 0, 0, 2, 4}, each[] = {0, 2, 4, 4, 4, 8, 1, 2};
    return fixed[f.scaling] + each[f.scaling] * 64 / f.run;
}

/* All weights of a tile, [16][64]. */
static void read_tile(const uint8_t *tile, cuda_format_row f, float *out) {
    uint32_t bits = f.codes == CODES_BF16 ? 16 : f.codes == CODES_4 ? 4 : 8;
    const uint8_t *scales = tile + 1024 * bits / 8;
    for (uint32_t lane = 0; lane < 32; lane++)
        for (uint32_t step = 0; step < 4; step++)
            for (uint32_t i = 0; i < 4; i++)
                for (uint32_t e = 0; e < 2; e++) {
                    uint32_t t = lane % 4, row = lane / 4 * 2 + i % 2, within = i / 2 * 2 + e;
                    uint32_t col = f.run == 16 ? 16 * step + 4 * t + within
                                               : step / 2 * 32 + 8 * t + step % 2 * 4 + within;
                    out[row * 64 + col] = weight_of(f, scales + row * row_scale_bytes(f), col,
                                                    value_of(tile, f, lane, step, i, e));
                }
}

typedef struct tiled {
    kern_matrix_desc desc;
    cuda_matrix_view view;
    uint8_t *tiles, *blocks;
    uint64_t bytes; /* of the tiles */
    uint32_t tile_rows;
} tiled;

static tiled tile(esp_dtype dtype, uint32_t rows, uint32_t cols, uint8_t *blocks) {
    tiled m = {.desc = {.dtype = dtype, .rows = rows, .cols = cols, .data = blocks},
               .blocks = blocks,
               .tile_rows = (rows + 15) / 16};
    cuda_format format = cuda_tiles_format(&m.desc, pool);
    assert_true(cuda_tiles_fits(format, dtype));
    assert_true(cuda_tiles_shape(format, rows, cols, &m.view, &m.bytes));
    m.bytes -= CUDA_HEAD_BYTES;
    m.tiles = mem_new(1, m.bytes);
    memset(m.tiles, 0xff, m.bytes);
    cuda_tiles_fill(&m.desc, &m.view, 0, m.tile_rows, m.tiles, pool);
    return m;
}

static void tiled_free(tiled *m) {
    free(m->tiles);
    free(m->blocks);
}

/* Relative error that a weight may have: F32 and F16 are rounded to bf16; a zero point is taken off before or
 * after the scale. */
static double room_of(esp_dtype dtype, float weight) {
    return dtype == DT_F32 || dtype == DT_F16 ? fabs((double)weight) * 0x1p-8 : 0;
}

static void assert_weights(const tiled *m) {
    uint32_t rows = m->desc.rows, cols = m->desc.cols;
    float *want = mem_new((size_t)rows * cols, sizeof *want), got[1024];
    dtype_info(m->desc.dtype)->dequantise(m->blocks, want, (size_t)rows * cols);
    for (uint32_t i = 0; i < m->tile_rows * m->view.chunks; i++) {
        read_tile(m->tiles + (size_t)i * m->view.tile_bytes, cuda_format_of(m->view.format), got);
        for (uint32_t j = 0; j < 1024; j++) {
            uint32_t row = i / m->view.chunks * 16 + j / 64;
            uint32_t col = i % m->view.chunks * 64 + j % 64;
            float weight = row < rows && col < cols ? want[row * cols + col] : 0;
            if (!(fabs((double)got[j] - (double)weight) <= room_of(m->desc.dtype, weight)))
                fail_msg("%s: row %u column %u is %a, not %a", dtype_info(m->desc.dtype)->name, row,
                         col, (double)got[j], (double)weight);
        }
    }
    free(want);
}

static uint32_t cols_of(esp_dtype dtype, uint32_t pieces) {
    return dtype_info(dtype)->block_elements == 256 ? 256 * ((pieces + 7) / 8) : 32 * pieces;
}

/* 37 rows are two tiles and a bit, 5 pieces two tiles and a half: beyond, weights are 0. */
static void tiles_have_the_weights_of_the_blocks(void **state) {
    (void)state;
    for (int d = 0; d < DT_COUNT; d++) {
        uint32_t cols = cols_of(d, 5);
        tiled m = tile(d, 37, cols, lab_blocks(d, 37, cols, 3));
        assert_weights(&m);
        tiled_free(&m);
    }
}

static void whole_weights_may_have_any_width(void **state) {
    (void)state;
    for (uint32_t cols = 1; cols < 140; cols += 23)
        for (int d = DT_F32; d <= DT_BF16; d++) {
            tiled m = tile(d, 18, cols, lab_blocks(d, 18, cols, 4));
            assert_weights(&m);
            tiled_free(&m);
        }
}

static void a_slice_is_that_part_of_the_whole(void **state) {
    (void)state;
    tiled m = tile(DT_Q5_K, 100, 512, lab_blocks(DT_Q5_K, 100, 512, 5));
    size_t line = (size_t)m.view.chunks * m.view.tile_bytes;
    uint8_t *part = mem_new(2, line);
    for (uint32_t first = 0; first < 6; first += 2) {
        cuda_tiles_fill(&m.desc, &m.view, first, 2, part, pool);
        assert_memory_equal(part, m.tiles + first * line, 2 * line);
    }
    free(part);
    tiled_free(&m);
}

/* Scale and zero point of piece b of a row of four. */
static void put_group(uint8_t *blocks, uint32_t b, float scale, uint16_t zero) {
    memcpy(blocks + b * 22, &scale, sizeof scale);
    memcpy(blocks + b * 22 + 4, &zero, sizeof zero);
}

/* What a matrix of four pieces a row, of scale 0.5 and zero point 8, becomes after one change. */
static cuda_format format_after(uint32_t b, float scale, uint16_t zero) {
    uint8_t *blocks = lab_blocks(DT_G4, 3, 128, 6);
    for (uint32_t i = 0; i < 12; i++)
        put_group(blocks, i, 0.5f, 8);
    put_group(blocks, b, scale, zero);
    if (zero == 9) /* in the neighbour as well */
        put_group(blocks, b ^ 1, scale, zero);
    tiled m = tile(DT_G4, 3, 128, blocks);
    cuda_format format = m.view.format;
    assert_weights(&m);
    tiled_free(&m);
    return format;
}

static void groups_take_the_least_that_holds_them(void **state) {
    (void)state;
    assert_int_equal(format_after(0, 0.5f, 8), CUDA_C4_HALF_64);
    assert_int_equal(format_after(5, 0.25f, 8), CUDA_C4_HALF);
    assert_int_equal(format_after(5, 0.5f, 9), CUDA_C4_ZERO_64);
    assert_int_equal(format_after(5, 0.5f, 7), CUDA_C4_ZERO);
    assert_int_equal(format_after(11, 0.3f, 8), CUDA_C4_FLOAT_ZERO);
    assert_int_equal(format_after(11, 1e9f, 8), CUDA_C4_FLOAT_ZERO);
}

static void no_dtype_fits_anothers_format(void **state) {
    (void)state;
    assert_true(cuda_tiles_fits(CUDA_C4_LESS, DT_Q4_K));
    assert_false(cuda_tiles_fits(CUDA_C4_LESS, DT_Q2_K));
    assert_false(cuda_tiles_fits(CUDA_C4_ZERO, DT_G8));
    assert_false(cuda_tiles_fits(CUDA_BF16, DT_G4));
    assert_false(cuda_tiles_fits((cuda_format)CUDA_FORMAT_COUNT, DT_BF16));
    assert_false(cuda_tiles_fits((cuda_format)-1, DT_BF16));
}

static void bytes_beyond_all_numbers_are_refused(void **state) {
    (void)state;
    cuda_matrix_view view;
    uint64_t bytes;
    assert_false(cuda_tiles_shape(CUDA_BF16, UINT32_MAX, UINT32_MAX, &view, &bytes));
    assert_true(cuda_tiles_shape(CUDA_BF16, 1, UINT32_MAX, &view, &bytes));
    assert_int_equal(bytes, 64 + 2048ull * (1u << 26));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiles_have_the_weights_of_the_blocks),
        cmocka_unit_test(whole_weights_may_have_any_width),
        cmocka_unit_test(a_slice_is_that_part_of_the_whole),
        cmocka_unit_test(groups_take_the_least_that_holds_them),
        cmocka_unit_test(no_dtype_fits_anothers_format),
        cmocka_unit_test(bytes_beyond_all_numbers_are_refused),
    };
    return cmocka_run_group_tests(tests, open_pool, close_pool);
}
