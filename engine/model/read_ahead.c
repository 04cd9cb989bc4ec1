/* read_ahead.c - a walk through the weights while they are packed.
 *
 * A page given back comes back when it is looked at again. So both give pages back: the packer
 * those of what it has packed, and the walker, where it comes later, each step that it has looked
 * at. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/read_ahead.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"

enum { WINDOW_BYTES = 128 << 20, STEP_BYTES = 4 << 20, ASKED_STEPS = 8 };

typedef struct place {
    uint32_t layer, tensor; /* its index in the set */
} place;

/* Whole rows of a tensor. */
typedef struct step {
    const model_tensor *tensor; /* NULL: the walk is over */
    uint64_t row, rows, row_bytes;
} step;

/* Gives the steps one after another. */
typedef struct walk {
    uint32_t place;
    uint64_t row;
} walk;

struct read_ahead {
    const tensor_set *tensors;
    bool mapped, threaded, over; /* over: nobody walks any more */
    place *places;               /* in the order of the walk */
    atomic_bool *packed;         /* by the tensor's index: the packer has been there */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    /* under lock: */
    uint64_t done_bytes; /* packed */
    bool stop;
    step bad; /* the row that holds a weight that is no number; tensor NULL: none seen */
};

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

uint32_t read_ahead_layer(model_text name) {
    for (size_t i = 0; i < name.bytes; i++) {
        if (!is_digit(name.at[i]) || (i > 0 && name.at[i - 1] != '.')) continue;
        uint32_t layer = 0;
        while (i < name.bytes && is_digit(name.at[i]) && layer < UINT32_MAX / 20)
            layer = layer * 10 + (uint32_t)(name.at[i++] - '0');
        if (i < name.bytes && name.at[i] == '.') return layer + 1;
    }
    return 0;
}

static int compare_places(const void *a, const void *b) {
    const place *x = a, *y = b;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    return x->tensor < y->tensor ? -1 : x->tensor > y->tensor;
}

static step next_step(const read_ahead *r, walk *w) {
    if (w->place == r->tensors->count) return (step){0};
    const model_tensor *tensor = &r->tensors->at[r->places[w->place].tensor];
    uint64_t rows = tensor_element_count(tensor) / (tensor->dim_count ? tensor->dims[0] : 1);
    step s = {.tensor = tensor, .row = w->row, .row_bytes = tensor->bytes / rows};
    uint64_t most = s.row_bytes < STEP_BYTES ? STEP_BYTES / s.row_bytes : 1, left = rows - w->row;
    s.rows = left < most ? left : most;
    w->row += s.rows;
    if (w->row == rows) *w = (walk){.place = w->place + 1};
    return s;
}

static const char *step_data(const step *s) {
    return (const char *)s->tensor->data + s->row * s->row_bytes;
}

static bool is_finite(const step *s) {
    const model_tensor *tensor = s->tensor;
    if (tensor->raw != RAW_NONE) return true; /* whose meaning is not known here */
    uint64_t columns = tensor->dim_count ? tensor->dims[0] : 1;
    return quant_finite(tensor->dtype, step_data(s), s->rows * columns);
}

/* Narrowed down to one row. */
static void keep_bad(read_ahead *r, step s) {
    uint64_t end = s.row + s.rows;
    s.rows = 1;
    while (s.row + 1 < end && is_finite(&s))
        s.row++;
    pthread_mutex_lock(&r->lock);
    r->bad = s;
    pthread_mutex_unlock(&r->lock);
}

/* False: the walk is over. */
static bool take_step(read_ahead *r, step s) {
    if (!s.tensor) return false;
    if (!is_finite(&s)) {
        keep_bad(r, s);
        return false;
    }
    if (r->mapped && atomic_load(&r->packed[s.tensor - r->tensors->at]))
        file_done_with(step_data(&s), s.rows * s.row_bytes);
    return true;
}

/* False: it is time to stop. */
static bool wait_for_packer(read_ahead *r, uint64_t seen_bytes) {
    pthread_mutex_lock(&r->lock);
    while (!r->stop && seen_bytes > r->done_bytes && seen_bytes - r->done_bytes > WINDOW_BYTES)
        pthread_cond_wait(&r->moved, &r->lock);
    bool go_on = !r->stop;
    pthread_mutex_unlock(&r->lock);
    return go_on;
}

static void ask(const read_ahead *r, walk *asked) {
    step s = next_step(r, asked);
    if (r->mapped && s.tensor) file_will_need(step_data(&s), s.rows * s.row_bytes);
}

static void *run(void *arg) {
    read_ahead *r = arg;
    walk asked = {0}, seen = {0};
    uint64_t seen_bytes = 0;
    for (int i = 0; i < ASKED_STEPS; i++)
        ask(r, &asked);
    while (wait_for_packer(r, seen_bytes)) {
        step s = next_step(r, &seen);
        ask(r, &asked);
        if (!take_step(r, s)) break;
        seen_bytes += s.rows * s.row_bytes;
    }
    return NULL;
}

read_ahead *read_ahead_open(const tensor_set *tensors, bool mapped) {
    read_ahead *r = mem_new(1, sizeof *r);
    size_t room = tensors->count ? tensors->count : 1;
    r->tensors = tensors;
    r->mapped = mapped;
    r->places = mem_new(room, sizeof *r->places);
    r->packed = mem_new(room, sizeof *r->packed);
    for (uint32_t i = 0; i < tensors->count; i++)
        r->places[i] = (place){read_ahead_layer(tensors->at[i].name), i};
    qsort(r->places, tensors->count, sizeof *r->places, compare_places);
    ESP_ASSERT(pthread_mutex_init(&r->lock, NULL) == 0 && pthread_cond_init(&r->moved, NULL) == 0);
    r->threaded = pthread_create(&r->thread, NULL, run, r) == 0;
    return r;
}

static esp_code refuse_bad(read_ahead *r, esp_error *err) {
    pthread_mutex_lock(&r->lock);
    step bad = r->bad;
    pthread_mutex_unlock(&r->lock);
    if (!bad.tensor) return ESP_OK;
    return esp_fail(err, ESP_INVALID,
                    "%s: row %llu of tensor %.*s holds a weight that is NaN or infinite; the file "
                    "is damaged: download it again",
                    bad.tensor->file, (unsigned long long)bad.row, (int)bad.tensor->name.bytes,
                    bad.tensor->name.at);
}

static void move_on(read_ahead *r, uint64_t bytes, bool stop) {
    pthread_mutex_lock(&r->lock);
    r->done_bytes = bytes > UINT64_MAX - r->done_bytes ? UINT64_MAX : r->done_bytes + bytes;
    r->stop = r->stop || stop;
    pthread_cond_signal(&r->moved);
    pthread_mutex_unlock(&r->lock);
}

esp_code read_ahead_done(read_ahead *r, const model_tensor *tensor, const void *at, uint64_t bytes,
                         esp_error *err) {
    atomic_store(&r->packed[tensor - r->tensors->at], true);
    if (r->mapped) file_done_with(at, bytes);
    move_on(r, bytes, false);
    return refuse_bad(r, err);
}

/* Waits for the thread's end; without one, walks the rest of the way here. */
static void join(read_ahead *r) {
    if (r->over) return;
    if (r->threaded)
        pthread_join(r->thread, NULL);
    else
        run(r);
    r->over = true;
}

esp_code read_ahead_finish(read_ahead *r, esp_error *err) {
    move_on(r, UINT64_MAX, false);
    join(r);
    return refuse_bad(r, err);
}

void read_ahead_close(read_ahead *r) {
    if (!r) return;
    move_on(r, 0, true);
    join(r);
    pthread_cond_destroy(&r->moved);
    pthread_mutex_destroy(&r->lock);
    free(r->places);
    free(r->packed);
    free(r);
}
