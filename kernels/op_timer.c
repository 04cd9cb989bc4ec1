/* op_timer.c - see op_timer.h. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/op_timer.h"

#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "kernels/op_cost.h"

/* A backend's devices are its own kind of struct: this is the timer's, and `inner` another's. */
struct kern_device {
    op_timer *timer;
    const kern_ops *real;
    kern_device *inner;
};

struct op_timer {
    kern_device dev;
    kern_ops ops;
    op_times times;
};

/* An entry that is not passed on would be called with a device it does not know. */
_Static_assert(sizeof(kern_ops) == 41 * sizeof(void *), "op_timer.c passes on every entry");

static const char *const names[OP_KINDS] = {
    [OP_EMBED] = "embed",
    [OP_NORM] = "norm",
    [OP_QKV] = "qkv",
    [OP_ROPE_STORE] = "rope_store",
    [OP_ATTENTION] = "attention",
    [OP_ATTENTION_OUT] = "attention_out",
    [OP_GATE_UP] = "gate_up",
    [OP_DOWN] = "down",
    [OP_POOL_STATES] = "pool_states",
    [OP_HEAD] = "head",
    [OP_LINEAR] = "linear",
};

const char *op_kind_name(op_kind kind) { return names[kind]; }

static const op_kind kinds[] = {
    [ROLE_NONE] = OP_LINEAR,     [ROLE_QKV] = OP_QKV,   [ROLE_ATTENTION_OUT] = OP_ATTENTION_OUT,
    [ROLE_GATE_UP] = OP_GATE_UP, [ROLE_DOWN] = OP_DOWN, [ROLE_HEAD] = OP_HEAD,
};

/* ---- ops ---- */

/* When all that was asked of the device is done; a fault is the caller's to find. */
static int64_t done_ns(kern_device *dev) {
    (void)!dev->real->sync(dev->inner, NULL);
    return clock_now_ns();
}

static op_time *count(kern_device *dev, op_kind kind, int64_t began_ns, op_cost cost) {
    op_times *times = &dev->timer->times;
    op_time *time = &times->of[kind];
    int64_t ended_ns = done_ns(dev);
    if (!times->first_ns) times->first_ns = began_ns;
    times->last_ns = ended_ns;
    time->calls++;
    time->ns += ended_ns - began_ns;
    time->flops += cost.flops;
    time->bytes += cost.bytes;
    return time;
}

static void timed_embed(kern_device *dev, const kern_embed *op) {
    op_cost cost = op_cost_embed(dev->real, dev->inner, op);
    int64_t began_ns = done_ns(dev);
    dev->real->embed(dev->inner, op);
    count(dev, OP_EMBED, began_ns, cost);
}

static void timed_norm(kern_device *dev, const kern_norm *op) {
    op_cost cost = op_cost_norm(dev->real, dev->inner, op);
    int64_t began_ns = done_ns(dev);
    dev->real->norm(dev->inner, op);
    count(dev, OP_NORM, began_ns, cost);
}

static void note_shape(kern_device *dev, const kern_linear *op, op_time *time) {
    kern_matrix_shape shape = {0};
    uint32_t rows = 0;
    for (uint32_t i = 0; i < op->matrix_count; i++) {
        shape = dev->real->shape(op->matrix[i]);
        rows += shape.rows;
    }
    if (time->calls > 1 && (rows != time->rows || shape.cols != time->cols)) time->other_shapes++;
    time->rows = rows;
    time->cols = shape.cols;
}

static void timed_linear(kern_device *dev, const kern_linear *op) {
    op_cost cost = op_cost_linear(dev->real, dev->inner, op);
    int64_t began_ns = done_ns(dev);
    dev->real->linear(dev->inner, op);
    note_shape(dev, op, count(dev, kinds[op->role], began_ns, cost));
}

static void timed_rope_store(kern_device *dev, const kern_rope_store *op) {
    op_cost cost = op_cost_rope_store(dev->real, dev->inner, op);
    int64_t began_ns = done_ns(dev);
    dev->real->rope_store(dev->inner, op);
    count(dev, OP_ROPE_STORE, began_ns, cost);
}

static void timed_attention(kern_device *dev, const kern_attention *op) {
    op_cost cost = op_cost_attention(dev->real, dev->inner, op);
    int64_t began_ns = done_ns(dev);
    dev->real->attention(dev->inner, op);
    count(dev, OP_ATTENTION, began_ns, cost);
}

static void timed_pool_states(kern_device *dev, const kern_pool_states *op) {
    op_cost cost = op_cost_pool_states(op);
    int64_t began_ns = done_ns(dev);
    dev->real->pool_states(dev->inner, op);
    count(dev, OP_POOL_STATES, began_ns, cost);
}

/* ---- what is only passed on ---- */

static void pass_close(kern_device *dev) {
    if (dev) dev->real->close(dev->inner);
}
static bool pass_sample(kern_device *dev, const kern_sample *op) {
    return dev->real->sample(dev->inner, op);
}
static bool pass_sampled(kern_device *dev, const kern_sample *op) {
    return dev->real->sampled(dev->inner, op);
}
static const char *pass_profile(const kern_device *dev) { return dev->real->profile(dev->inner); }
static const char *pass_layout(const kern_device *dev) { return dev->real->layout(dev->inner); }
static size_t pass_element_bytes(const kern_device *dev, kern_kind kind) {
    return dev->real->element_bytes(dev->inner, kind);
}
static esp_code pass_alloc(kern_device *dev, size_t bytes, void **out, esp_error *err) {
    return dev->real->alloc(dev->inner, bytes, out, err);
}
static void pass_release(kern_device *dev, void *memory, size_t bytes) {
    dev->real->release(dev->inner, memory, bytes);
}
static void pass_upload(kern_device *dev, void *to, const void *from_host, size_t bytes) {
    dev->real->upload(dev->inner, to, from_host, bytes);
}
static void pass_download(kern_device *dev, void *to_host, const void *from, size_t bytes) {
    dev->real->download(dev->inner, to_host, from, bytes);
}
static const void *pass_view(kern_device *dev, const void *from, size_t bytes, void *room) {
    return dev->real->view(dev->inner, from, bytes, room);
}
static void *pass_host_take(const kern_device *dev, size_t bytes) {
    return dev->real->host_take(dev->inner, bytes);
}
static void pass_host_give(const kern_device *dev, void *memory, size_t bytes) {
    dev->real->host_give(dev->inner, memory, bytes);
}
static void pass_upload_beside(kern_device *dev, void *to, const void *from_host, size_t bytes) {
    dev->real->upload_beside(dev->inner, to, from_host, bytes);
}
static void pass_memory(const kern_device *dev, kern_memory *out) {
    dev->real->memory(dev->inner, out);
}
static esp_code pass_reserve(kern_device *dev, const kern_reserve *most, esp_error *err) {
    return dev->real->reserve(dev->inner, most, err);
}
/* A step that is replayed has no ops to time: all are called. */
static bool pass_step_begin(kern_device *dev, const kern_step *step) {
    kern_step called = *step;
    called.repeats = false;
    return dev->real->step_begin(dev->inner, &called);
}
static bool pass_step_end(kern_device *dev) { return dev->real->step_end(dev->inner); }
static esp_code pass_check_layers(const kern_device *dev, const kern_kv_shape *shape,
                                  esp_error *err) {
    return dev->real->check_layers(dev->inner, shape, err);
}
static esp_code pass_pack(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                          esp_error *err) {
    return dev->real->pack(dev->inner, desc, out, err);
}
static esp_code pass_open_image(kern_device *dev, const kern_image *image, kern_matrix **out,
                                esp_error *err) {
    return dev->real->open_image(dev->inner, image, out, err);
}
static void pass_matrix_close(kern_device *dev, kern_matrix *matrix) {
    dev->real->matrix_close(dev->inner, matrix);
}
static uint32_t pass_lora_pieces(const kern_device *dev, const kern_lora_desc *desc,
                                 size_t piece_max, size_t *bytes) {
    return dev->real->lora_pieces(dev->inner, desc, piece_max, bytes);
}
static void pass_lora_pack(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                           void *const *pieces) {
    dev->real->lora_pack(dev->inner, desc, piece_max, pieces);
}
static size_t pass_frame_bytes(const kern_device *dev, const kern_kv_shape *shape) {
    return dev->real->frame_bytes(dev->inner, shape);
}
static void pass_rank_sum(kern_device *dev, const kern_rank_sum *op) {
    dev->real->rank_sum(dev->inner, op);
}
static void pass_place_columns(kern_device *dev, const kern_place_columns *op) {
    dev->real->place_columns(dev->inner, op);
}
static void pass_move_frames(kern_device *dev, const kern_move_frames *op) {
    dev->real->move_frames(dev->inner, op);
}
static esp_code pass_sync(kern_device *dev, esp_error *err) {
    return dev->real->sync(dev->inner, err);
}

/* ---- the timer ---- */

op_timer *op_timer_open(void) { return mem_new(1, sizeof(op_timer)); }
void op_timer_close(op_timer *t) { free(t); }

void op_timer_wrap(op_timer *t, const kern_ops **ops, kern_device **dev) {
    ESP_ASSERT(!t->dev.inner && *dev);
    const kern_ops *real = *ops;
    t->dev = (kern_device){.timer = t, .real = real, .inner = *dev};
    t->ops = (kern_ops){
        .name = real->name,
        .beside = real->beside,
        .parts = real->parts,
        .open = real->open, /* another device, without a timer */
        .close = pass_close,
        .profile = pass_profile,
        .layout = pass_layout,
        .element_bytes = pass_element_bytes,
        .alloc = pass_alloc,
        .release = pass_release,
        .upload = pass_upload,
        .download = pass_download,
        .view = pass_view,
        .host_take = pass_host_take,
        .host_give = pass_host_give,
        .upload_beside = pass_upload_beside,
        .memory = pass_memory,
        .reserve = pass_reserve,
        .check_layers = pass_check_layers,
        .pack = pass_pack,
        .shape = real->shape,
        .image = real->image,
        .open_image = pass_open_image,
        .matrix_close = pass_matrix_close,
        .matrix_bytes = real->matrix_bytes,
        .lora_pieces = pass_lora_pieces,
        .lora_pack = pass_lora_pack,
        .frame_bytes = pass_frame_bytes,
        .step_begin = pass_step_begin,
        .step_end = pass_step_end,
        .embed = timed_embed,
        .norm = timed_norm,
        .linear = timed_linear,
        .rope_store = timed_rope_store,
        .attention = timed_attention,
        .pool_states = timed_pool_states,
        .sample = pass_sample,
        .sampled = pass_sampled,
        .rank_sum = pass_rank_sum,
        .place_columns = pass_place_columns,
        .move_frames = pass_move_frames,
        .sync = pass_sync,
    };
    *ops = &t->ops;
    *dev = &t->dev;
}

const op_times *op_timer_read(const op_timer *t) { return &t->times; }
void op_timer_clear(op_timer *t) { t->times = (op_times){0}; }

void op_times_add(op_times *to, const op_times *from) {
    for (op_kind kind = 0; kind < OP_KINDS; kind++) {
        op_time *sum = &to->of[kind];
        const op_time *more = &from->of[kind];
        if (!more->calls) continue;
        bool other = sum->calls && (sum->rows != more->rows || sum->cols != more->cols);
        sum->calls += more->calls;
        sum->ns += more->ns;
        sum->flops += more->flops;
        sum->bytes += more->bytes;
        sum->other_shapes += more->other_shapes + other;
        sum->rows = more->rows;
        sum->cols = more->cols;
    }
}

int64_t op_times_sum_ns(const op_times *times) {
    int64_t sum = 0;
    for (op_kind kind = 0; kind < OP_KINDS; kind++)
        sum += times->of[kind].ns;
    return sum;
}
