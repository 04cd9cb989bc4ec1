/* test_op_timer.c - the timer passes on every entry of an op table, and adds up what it saw. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/op_timer.h"

/* ---- a table that only remembers which entry was called, with which device and argument ---- */

static char device_memory, matrix_memory, buffer;
static kern_device *const device = (kern_device *)&device_memory;
static kern_matrix *const matrix = (kern_matrix *)&matrix_memory;
static const char *called;
static const void *with;
/* How often it was waited for between the last two entries that were called, and since. */
static uint32_t waits_before, waits_behind;

static void remember(const kern_device *dev, const char *entry, const void *argument) {
    assert_ptr_equal(dev, device);
    waits_before = waits_behind;
    waits_behind = 0;
    called = entry;
    with = argument;
}

static esp_code fake_open(kern_device **out, const kern_options *options, esp_error *err) {
    (void)options, (void)err;
    *out = device;
    return ESP_OK;
}
static void fake_close(kern_device *dev) { remember(dev, "close", NULL); }
static const char *fake_profile(const kern_device *dev) {
    remember(dev, "profile", NULL);
    return "fake:profile";
}
static const char *fake_layout(const kern_device *dev) {
    remember(dev, "layout", NULL);
    return "fake-1";
}
static size_t fake_element_bytes(const kern_device *dev, kern_kind kind) {
    remember(dev, "element_bytes", NULL);
    return kind == KIND_ACT ? 2 : 4;
}
static esp_code fake_alloc(kern_device *dev, size_t bytes, void **out, esp_error *err) {
    (void)err;
    remember(dev, "alloc", NULL);
    *out = &buffer;
    return bytes == 7 ? ESP_OK : ESP_EXHAUSTED;
}
static void fake_release(kern_device *dev, void *memory, size_t bytes) {
    assert_int_equal(bytes, 7);
    remember(dev, "release", memory);
}
static void fake_upload(kern_device *dev, void *to, const void *from, size_t bytes) {
    assert_ptr_equal(to, &buffer);
    assert_int_equal(bytes, 7);
    remember(dev, "upload", from);
}
static void fake_download(kern_device *dev, void *to, const void *from, size_t bytes) {
    assert_ptr_equal(from, &buffer);
    assert_int_equal(bytes, 7);
    remember(dev, "download", to);
}
static const void *fake_view(kern_device *dev, const void *from, size_t bytes, void *room) {
    assert_ptr_equal(from, &buffer);
    assert_int_equal(bytes, 7);
    remember(dev, "view", room);
    return room;
}
static void *fake_host_take(const kern_device *dev, size_t bytes) {
    remember(dev, "host_take", NULL);
    return bytes == 7 ? &buffer : NULL;
}
static void fake_host_give(const kern_device *dev, void *memory, size_t bytes) {
    assert_int_equal(bytes, 7);
    remember(dev, "host_give", memory);
}
static void fake_upload_beside(kern_device *dev, void *to, const void *from, size_t bytes) {
    assert_ptr_equal(to, &buffer);
    assert_int_equal(bytes, 7);
    remember(dev, "upload_beside", from);
}
static void fake_memory(const kern_device *dev, kern_memory *out) {
    remember(dev, "memory", out);
    *out = (kern_memory){.free = 3, .total = 5};
}
static esp_code fake_reserve(kern_device *dev, const kern_reserve *most, esp_error *err) {
    (void)err;
    remember(dev, "reserve", most);
    return ESP_EXHAUSTED;
}
static bool fake_step_begin(kern_device *dev, const kern_step *step) {
    assert_false(step->repeats); /* it could not be timed */
    assert_true(step->adapters);
    remember(dev, "step_begin", step->batch);
    return true;
}
static bool fake_step_end(kern_device *dev) {
    remember(dev, "step_end", NULL);
    return false;
}
static esp_code fake_check_layers(const kern_device *dev, const kern_kv_shape *shape,
                                  esp_error *err) {
    (void)err;
    remember(dev, "check_layers", shape);
    return ESP_INVALID;
}
static esp_code fake_pack(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                          esp_error *err) {
    (void)err;
    remember(dev, "pack", desc);
    *out = matrix;
    return ESP_UNAVAILABLE;
}
static kern_matrix_shape fake_shape(const kern_matrix *m) {
    assert_ptr_equal(m, matrix);
    return (kern_matrix_shape){.rows = 64, .cols = 32};
}
static esp_code fake_image(const kern_matrix *m, kern_image *out, esp_error *err) {
    (void)err;
    assert_ptr_equal(m, matrix);
    *out = (kern_image){.rows = 64};
    return ESP_EXHAUSTED;
}
static esp_code fake_open_image(kern_device *dev, const kern_image *image, kern_matrix **out,
                                esp_error *err) {
    (void)err;
    remember(dev, "open_image", image);
    *out = matrix;
    return ESP_INVALID;
}
static void fake_matrix_close(kern_device *dev, kern_matrix *m) {
    remember(dev, "matrix_close", m);
}
static size_t fake_matrix_bytes(const kern_matrix *m) {
    assert_ptr_equal(m, matrix);
    return 1000;
}
static size_t fake_frame_bytes(const kern_device *dev, const kern_kv_shape *shape) {
    remember(dev, "frame_bytes", shape);
    return 4096;
}
static void fake_embed(kern_device *dev, const kern_embed *op) { remember(dev, "embed", op); }
static void fake_norm(kern_device *dev, const kern_norm *op) { remember(dev, "norm", op); }
static void fake_linear(kern_device *dev, const kern_linear *op) { remember(dev, "linear", op); }
static void fake_rope_store(kern_device *dev, const kern_rope_store *op) {
    remember(dev, "rope_store", op);
}
static void fake_attention(kern_device *dev, const kern_attention *op) {
    remember(dev, "attention", op);
}
static void fake_pool_states(kern_device *dev, const kern_pool_states *op) {
    remember(dev, "pool_states", op);
}
static bool fake_sample(kern_device *dev, const kern_sample *op) {
    remember(dev, "sample", op);
    return true;
}
static void fake_rank_sum(kern_device *dev, const kern_rank_sum *op) {
    remember(dev, "rank_sum", op);
}
static void fake_place_columns(kern_device *dev, const kern_place_columns *op) {
    remember(dev, "place_columns", op);
}
static void fake_move_frames(kern_device *dev, const kern_move_frames *op) {
    remember(dev, "move_frames", op);
}
static esp_code fake_sync(kern_device *dev, esp_error *err) {
    (void)err;
    assert_ptr_equal(dev, device);
    waits_behind++;
    return ESP_UNAVAILABLE;
}

static const kern_ops fake = {
    .name = "fake",
    .layout = fake_layout,
    .open = fake_open,
    .close = fake_close,
    .profile = fake_profile,
    .element_bytes = fake_element_bytes,
    .alloc = fake_alloc,
    .release = fake_release,
    .upload = fake_upload,
    .download = fake_download,
    .view = fake_view,
    .host_take = fake_host_take,
    .host_give = fake_host_give,
    .upload_beside = fake_upload_beside,
    .memory = fake_memory,
    .reserve = fake_reserve,
    .step_begin = fake_step_begin,
    .step_end = fake_step_end,
    .check_layers = fake_check_layers,
    .pack = fake_pack,
    .shape = fake_shape,
    .image = fake_image,
    .open_image = fake_open_image,
    .matrix_close = fake_matrix_close,
    .matrix_bytes = fake_matrix_bytes,
    .frame_bytes = fake_frame_bytes,
    .embed = fake_embed,
    .norm = fake_norm,
    .linear = fake_linear,
    .rope_store = fake_rope_store,
    .attention = fake_attention,
    .pool_states = fake_pool_states,
    .sample = fake_sample,
    .rank_sum = fake_rank_sum,
    .place_columns = fake_place_columns,
    .move_frames = fake_move_frames,
    .sync = fake_sync,
};

typedef struct wrapped {
    op_timer *timer;
    const kern_ops *ops;
    kern_device *dev;
} wrapped;

static wrapped wrap(void) {
    wrapped w = {.timer = op_timer_open(), .ops = &fake, .dev = device};
    op_timer_wrap(w.timer, &w.ops, &w.dev);
    assert_ptr_not_equal(w.dev, device);
    return w;
}

static void unwrap(wrapped *w) {
    w->ops->close(w->dev);
    assert_string_equal(called, "close");
    op_timer_close(w->timer);
}

static void assert_called(const char *entry, const void *argument) {
    assert_string_equal(called, entry);
    assert_ptr_equal(with, argument);
}

static void check_steps(const wrapped *w) {
    kern_memory free_memory;
    kern_reserve most = {0};
    step_batch batch = {0};
    w->ops->memory(w->dev, &free_memory);
    assert_called("memory", &free_memory);
    assert_int_equal(free_memory.total, 5);
    assert_int_equal(w->ops->reserve(w->dev, &most, NULL), ESP_EXHAUSTED);
    assert_called("reserve", &most);
    assert_true(w->ops->step_begin(
        w->dev, &(kern_step){.batch = &batch, .adapters = true, .repeats = true}));
    assert_called("step_begin", &batch);
    assert_false(w->ops->step_end(w->dev));
    assert_called("step_end", NULL);
}

static void what_is_no_op_is_passed_on_with_its_answer(void **state) {
    (void)state;
    wrapped w = wrap();
    void *memory = NULL;
    kern_matrix *made = NULL;
    kern_matrix_desc desc = {0};
    kern_image image = {0};
    kern_kv_shape shape = {0};
    assert_string_equal(w.ops->name, "fake");
    assert_string_equal(w.ops->layout(w.dev), "fake-1");
    assert_string_equal(w.ops->profile(w.dev), "fake:profile");
    assert_int_equal(w.ops->element_bytes(w.dev, KIND_ACT), 2);
    assert_int_equal(w.ops->alloc(w.dev, 7, &memory, NULL), ESP_OK);
    assert_ptr_equal(memory, &buffer);
    assert_int_equal(w.ops->alloc(w.dev, 8, &memory, NULL), ESP_EXHAUSTED);
    w.ops->release(w.dev, &buffer, 7);
    assert_called("release", &buffer);
    w.ops->upload(w.dev, &buffer, &desc, 7);
    assert_called("upload", &desc);
    w.ops->download(w.dev, &desc, &buffer, 7);
    assert_called("download", &desc);
    assert_ptr_equal(w.ops->view(w.dev, &buffer, 7, &desc), &desc);
    assert_called("view", &desc);
    assert_ptr_equal(w.ops->host_take(w.dev, 7), &buffer);
    assert_called("host_take", NULL);
    w.ops->host_give(w.dev, &buffer, 7);
    assert_called("host_give", &buffer);
    w.ops->upload_beside(w.dev, &buffer, &desc, 7);
    assert_called("upload_beside", &desc);
    assert_int_equal(w.ops->check_layers(w.dev, &shape, NULL), ESP_INVALID);
    assert_called("check_layers", &shape);
    assert_int_equal(w.ops->pack(w.dev, &desc, &made, NULL), ESP_UNAVAILABLE);
    assert_called("pack", &desc);
    assert_ptr_equal(made, matrix);
    assert_int_equal(w.ops->open_image(w.dev, &image, &made, NULL), ESP_INVALID);
    assert_called("open_image", &image);
    assert_int_equal(w.ops->image(matrix, &image, NULL), ESP_EXHAUSTED);
    assert_int_equal(image.rows, 64);
    assert_int_equal(w.ops->shape(matrix).cols, 32);
    assert_int_equal(w.ops->matrix_bytes(matrix), 1000);
    w.ops->matrix_close(w.dev, matrix);
    assert_called("matrix_close", matrix);
    assert_int_equal(w.ops->frame_bytes(w.dev, &shape), 4096);
    assert_called("frame_bytes", &shape);
    check_steps(&w);
    waits_behind = 0;
    assert_int_equal(w.ops->sync(w.dev, NULL), ESP_UNAVAILABLE);
    assert_int_equal(waits_behind, 1);
    assert_int_equal(op_times_sum_ns(op_timer_read(w.timer)), 0);
    assert_int_equal(op_timer_read(w.timer)->first_ns, 0);
    unwrap(&w);
}

/* One op of each kind, linears in each role. */
static void each_op_is_passed_on_and_counted_under_its_kind(void **state) {
    (void)state;
    wrapped w = wrap();
    uint32_t one = 1, zero = 0;
    step_batch batch = {
        .token_count = 1, .seq_count = 1, .row_count = 1, .seq_tokens = &one, .seq_cached = &zero};
    kern_kv_shape shape = {.layers = 1, .kv_heads = 1, .head_dim = 16};
    kern_embed embed = {.table = matrix, .token_count = 1};
    kern_norm norm = {.count = 1, .width = 32};
    kern_rope_store rope = {.batch = &batch, .heads = 1, .kv = {.shape = &shape}};
    kern_attention attention = {.batch = &batch, .heads = 1, .kv = {.shape = &shape}};
    kern_pool_states pool = {.batch = &batch, .width = 32};
    w.ops->embed(w.dev, &embed);
    assert_called("embed", &embed);
    w.ops->norm(w.dev, &norm);
    assert_called("norm", &norm);
    w.ops->rope_store(w.dev, &rope);
    assert_called("rope_store", &rope);
    w.ops->attention(w.dev, &attention);
    assert_called("attention", &attention);
    w.ops->pool_states(w.dev, &pool);
    assert_called("pool_states", &pool);
    kern_sample sample = {.row_count = 1, .vocab = 32};
    assert_true(w.ops->sample(w.dev, &sample));
    assert_called("sample", &sample);
    kern_rank_sum sum_op = {.ranks = 2};
    w.ops->rank_sum(w.dev, &sum_op);
    assert_called("rank_sum", &sum_op);
    kern_place_columns place = {.cols = 0};
    w.ops->place_columns(w.dev, &place);
    assert_called("place_columns", &place);
    kern_move_frames move = {.count = 0};
    w.ops->move_frames(w.dev, &move);
    assert_called("move_frames", &move);
    for (kern_role role = ROLE_NONE; role <= ROLE_HEAD; role++) {
        kern_linear linear = {
            .matrix = {matrix}, .matrix_count = 1, .token_count = 1, .role = role};
        w.ops->linear(w.dev, &linear);
        assert_called("linear", &linear);
    }
    const op_times *times = op_timer_read(w.timer);
    int64_t sum = 0;
    for (op_kind kind = 0; kind < OP_KINDS; kind++) {
        assert_int_equal(times->of[kind].calls, 1);
        sum += times->of[kind].ns;
    }
    assert_int_equal(op_times_sum_ns(times), sum);
    assert_true(times->first_ns > 0 && times->last_ns - times->first_ns >= sum);
    unwrap(&w);
}

/* Three tokens through two matrices, then one through one: shapes, bytes and flops by hand. */
static void linears_count_their_shapes(void **state) {
    (void)state;
    wrapped w = wrap();
    kern_linear linear = {.matrix = {matrix, matrix},
                          .matrix_count = 2,
                          .token_count = 3,
                          .epilogue = EPI_SILU_MUL,
                          .role = ROLE_GATE_UP};
    w.ops->linear(w.dev, &linear);
    const op_time *time = &op_timer_read(w.timer)->of[OP_GATE_UP];
    assert_int_equal(time->rows, 128);
    assert_int_equal(time->cols, 32);
    assert_true(time->flops == 2.0 * 3 * 128 * 32);
    assert_true(time->bytes == 2 * 1000 + 3 * (32 * 2 + 64 * 2));
    assert_int_equal(time->other_shapes, 0);
    linear.matrix_count = 1;
    linear.token_count = 1;
    linear.epilogue = EPI_RESIDUAL;
    w.ops->linear(w.dev, &linear);
    assert_int_equal(time->rows, 64);
    assert_int_equal(time->other_shapes, 1);
    assert_true(time->flops == 2.0 * 3 * 128 * 32 + 2.0 * 64 * 32);
    assert_true(time->bytes == 2 * 1000 + 3 * (32 * 2 + 64 * 2) + 1000 + 32 * 2 + 64 * 8);
    unwrap(&w);
}

static void times_add_up_and_are_cleared(void **state) {
    (void)state;
    wrapped w = wrap();
    op_times sum = {0};
    kern_linear linear = {
        .matrix = {matrix}, .matrix_count = 1, .token_count = 1, .role = ROLE_DOWN};
    kern_norm norm = {.count = 5, .width = 10};
    int64_t ns = 0;
    for (uint32_t step = 0; step < 3; step++) {
        op_timer_clear(w.timer);
        assert_int_equal(op_timer_read(w.timer)->of[OP_DOWN].calls, 0);
        w.ops->linear(w.dev, &linear);
        w.ops->linear(w.dev, &linear);
        w.ops->norm(w.dev, &norm);
        ns += op_times_sum_ns(op_timer_read(w.timer));
        op_times_add(&sum, op_timer_read(w.timer));
    }
    assert_int_equal(sum.of[OP_DOWN].calls, 6);
    assert_int_equal(sum.of[OP_NORM].calls, 3);
    assert_int_equal(sum.of[OP_DOWN].rows, 64);
    assert_int_equal(sum.of[OP_DOWN].other_shapes, 0);
    assert_true(sum.of[OP_DOWN].flops == 6 * 2.0 * 64 * 32);
    assert_true(sum.of[OP_NORM].bytes == 3 * 5 * 10 * (4.0 + 2));
    assert_int_equal(op_times_sum_ns(&sum), ns);
    unwrap(&w);
}

/* A device that computes behind what it is asked has done so when the clock is read. */
static void an_op_is_waited_for_before_and_behind_it(void **state) {
    (void)state;
    wrapped w = wrap();
    kern_norm norm = {.count = 1, .width = 32};
    kern_linear linear = {
        .matrix = {matrix}, .matrix_count = 1, .token_count = 1, .role = ROLE_DOWN};
    w.ops->norm(w.dev, &norm);
    assert_int_equal(waits_behind, 1);
    waits_behind = 0;
    w.ops->linear(w.dev, &linear);
    assert_int_equal(waits_before, 1);
    assert_int_equal(waits_behind, 1);
    waits_behind = 0;
    w.ops->step_end(w.dev); /* what is not timed is not */
    assert_int_equal(waits_before + waits_behind, 0);
    unwrap(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_op_is_passed_on_with_its_answer),
        cmocka_unit_test(each_op_is_passed_on_and_counted_under_its_kind),
        cmocka_unit_test(linears_count_their_shapes),
        cmocka_unit_test(an_op_is_waited_for_before_and_behind_it),
        cmocka_unit_test(times_add_up_and_are_cleared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
