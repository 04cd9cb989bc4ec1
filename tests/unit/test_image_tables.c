/* test_image_tables.c - tables of an adapter as another rank sends them: read as they were written, refused where a
 * piece would lie outside of its frame or an update have another shape than its pieces. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/adapters/adapter_image_inner.h"
#include "engine/adapters/image_tables.h"
#include "engine/base/mem.h"
#include "engine/base/pool.h"

enum { LAYERS = 2, FRAME_BYTES = 4096, FRAMES = 8, RANK = 4, SIDE = 64 };

static thread_pool *threads;
static kern_device *dev;
static image_options options;
static uint8_t *bytes; /* an image's tables */
static size_t count;
static image_linear *linears; /* in them */
static image_place *places;

/* Two updates, of which each takes some pieces. */
static int write_tables(void **state) {
    (void)state;
    static float values[SIDE * SIDE];
    if (pool_open(&threads, 1, NULL) != ESP_OK) return -1;
    if (kern_ref.open(&dev, &(kern_options){.pool = threads, .tokens_max = 1}, NULL)) return -1;
    options = (image_options){.ops = &kern_ref,
                              .dev = dev,
                              .layers = LAYERS,
                              .frame_bytes = FRAME_BYTES,
                              .frames_max = FRAMES};
    adapter_image *image = image_open(&options);
    kern_lora_desc desc = {
        .cols = SIDE,
        .part_count = 1,
        .part = {{.rank = RANK, .rows = SIDE, .scale = 1, .a = values, .b = values}}};
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        assert_int_equal(image_add(image, ROLE_ATTENTION_OUT, layer, &desc, NULL), ESP_OK);
    image_finish(image);
    image_write_tables(image);
    const void *at = image_tables(image, &count);
    bytes = mem_new(count, 1);
    memcpy(bytes, at, count);
    linears = (image_linear *)(void *)(bytes + sizeof(image_tables_head));
    places = (image_place *)(void *)(linears + LAYERS);
    image_close(image);
    return 0;
}

static int drop_tables(void **state) {
    (void)state;
    free(bytes);
    kern_ref.close(dev);
    pool_close(threads);
    return 0;
}

static esp_code read_tables(void) {
    adapter_image *image = NULL;
    esp_error err = {0};
    esp_code code = image_read_tables(&image, &options, bytes, count, &err);
    if (code == ESP_OK) assert_int_equal(image_frame_count(image) > 0, true);
    image_close(image);
    return code;
}

static void what_was_written_is_read(void **state) {
    (void)state;
    assert_int_equal(read_tables(), ESP_OK);
}

#define REFUSED_WITH(field, value)                                                                 \
    do {                                                                                           \
        __typeof__(field) was = field;                                                             \
        field = value;                                                                             \
        if (read_tables() != ESP_INTERNAL) fail_msg("%s = %s is read", #field, #value);            \
        field = was;                                                                               \
    } while (0)

static void pieces_lie_in_their_frames(void **state) {
    (void)state;
    REFUSED_WITH(places[0].frame, FRAMES);
    REFUSED_WITH(places[0].offset, FRAME_BYTES - PIECE_ALIGNMENT);
    REFUSED_WITH(places[0].offset, 8);
    REFUSED_WITH(places[0].offset, SIZE_MAX - PIECE_ALIGNMENT + 1);
    REFUSED_WITH(linears[1].first_piece, linears[1].first_piece + 1);
    REFUSED_WITH(linears[1].first_piece, UINT32_MAX);
}

static void an_update_has_the_shape_of_its_pieces(void **state) {
    (void)state;
    REFUSED_WITH(linears[0].lora.cols, 0);
    REFUSED_WITH(linears[0].lora.cols, SIDE * FRAME_BYTES);
    REFUSED_WITH(linears[0].lora.cols, UINT32_MAX);
    REFUSED_WITH(linears[0].lora.part_count, LINEAR_MATRICES_MAX + 1);
    REFUSED_WITH(linears[0].lora.part[0].rank, LORA_RANK_MAX);
    REFUSED_WITH(linears[0].lora.part[0].rank, UINT32_MAX);
    REFUSED_WITH(linears[0].lora.part[0].rows, SIDE * FRAME_BYTES);
    REFUSED_WITH(linears[0].lora.part[0].rows, UINT32_MAX);
    REFUSED_WITH(linears[0].lora.piece_max, FRAME_BYTES * 2);
    memset(&linears[0].lora.part[0].bias, 7, 1);
    assert_int_equal(read_tables(), ESP_INTERNAL);
    memset(&linears[0].lora.part[0].bias, 0, 1);
    REFUSED_WITH(linears[0].layer, LAYERS);
    assert_int_equal(read_tables(), ESP_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(pieces_lie_in_their_frames),
        cmocka_unit_test(an_update_has_the_shape_of_its_pieces),
    };
    return cmocka_run_group_tests(tests, write_tables, drop_tables);
}
