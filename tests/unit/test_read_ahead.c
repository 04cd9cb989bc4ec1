/* test_read_ahead.c - the walk through the weights: every one is looked at, whatever the packer's
 * order, and the bytes stay what they are. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/model/read_ahead.h"

static uint32_t layer_of(const char *name) {
    return read_ahead_layer((model_text){name, strlen(name)});
}

static void layers_are_read_off_the_names(void **state) {
    (void)state;
    assert_int_equal(layer_of("token_embd.weight"), 0);
    assert_int_equal(layer_of("blk.0.attn_q.weight"), 1);
    assert_int_equal(layer_of("layers.12.mlp.up_proj.weight"), 13);
    assert_int_equal(layer_of("h2.3x.40.w"), 41);
    assert_int_equal(layer_of("blk.5"), 0);
    assert_int_equal(layer_of("99999999999999999999.w"), 0);
    assert_int_equal(layer_of(""), 0);
}

enum { TENSORS = 6, ROWS = 700, COLS = 1024 };

/* 17 MB in a file: several steps a tensor, more than is asked for at once. */
typedef struct lab {
    char path[40];
    file_view view;
    tensor_set set;
    char names[TENSORS][32];
} lab;

static uint16_t element(size_t i) { return (uint16_t)(i * 7 % 0x7f00); }

static void open_lab(lab *l, size_t bad) {
    *l = (lab){.path = "/tmp/test_read_ahead_XXXXXX"};
    size_t count = (size_t)TENSORS * ROWS * COLS;
    uint16_t *all = mem_new(count, sizeof *all);
    for (size_t i = 0; i < count; i++)
        all[i] = i == bad ? 0x7fc0 : element(i);
    int fd = mkstemp(l->path);
    assert_true(fd >= 0);
    FILE *file = fdopen(fd, "wb");
    assert_int_equal(fwrite(all, sizeof *all, count, file), count);
    assert_int_equal(fclose(file), 0);
    free(all);
    assert_int_equal(file_map(&l->view, l->path, "weights", NULL), ESP_OK);
    for (uint32_t i = 0; i < TENSORS; i++) {
        snprintf(l->names[i], sizeof l->names[i], "layers.%u.w", TENSORS - 1 - i);
        model_tensor tensor = {.name = {l->names[i], strlen(l->names[i])},
                               .dim_count = 2,
                               .dims = {COLS, ROWS, 1, 1},
                               .dtype = DT_BF16,
                               .data = l->view.bytes + (size_t)i * ROWS * COLS * 2,
                               .bytes = (uint64_t)ROWS * COLS * 2,
                               .file = "lab"};
        tensor_set_add(&l->set, &tensor);
    }
    assert_int_equal(tensor_set_seal(&l->set, NULL), ESP_OK);
}

static void close_lab(lab *l) {
    tensor_set_free(&l->set);
    file_unmap(&l->view);
    remove(l->path);
}

static void bytes_stay_what_they_are(void **state) {
    (void)state;
    lab l;
    open_lab(&l, SIZE_MAX);
    read_ahead *r = read_ahead_open(&l.set, true);
    for (uint32_t i = 0; i < TENSORS; i++) { /* against the order of the walk */
        const model_tensor *tensor = &l.set.at[i];
        assert_int_equal(read_ahead_done(r, tensor, tensor->data, tensor->bytes, NULL), ESP_OK);
    }
    assert_int_equal(read_ahead_finish(r, NULL), ESP_OK);
    read_ahead_close(r);
    for (size_t i = 0; i < (size_t)TENSORS * ROWS * COLS; i++) {
        uint16_t seen;
        memcpy(&seen, l.view.bytes + 2 * i, sizeof seen);
        assert_int_equal(seen, element(i));
    }
    close_lab(&l);
}

/* In the first tensor of the file, the last one, and in the middle of one; with a packer and
 * without. */
static void a_weight_that_is_no_number_is_found_by_tensor_and_row(void **state) {
    (void)state;
    static const struct {
        size_t tensor, row, column;
    } bad[] = {{0, 0, 0}, {TENSORS - 1, ROWS - 1, COLS - 1}, {2, 333, 17}};
    for (size_t b = 0; b < 3; b++) {
        lab l;
        esp_error err = {0};
        char wanted[96];
        open_lab(&l, (bad[b].tensor * ROWS + bad[b].row) * COLS + bad[b].column);
        read_ahead *r = read_ahead_open(&l.set, b != 0);
        esp_code code = ESP_OK;
        for (uint32_t i = 0; i < TENSORS && b != 2 && !code; i++)
            code = read_ahead_done(r, &l.set.at[i], l.set.at[i].data, l.set.at[i].bytes, &err);
        if (!code) code = read_ahead_finish(r, &err);
        assert_int_equal(code, ESP_INVALID);
        snprintf(wanted, sizeof wanted, "lab: row %zu of tensor layers.%zu.w holds a weight",
                 bad[b].row, TENSORS - 1 - bad[b].tensor);
        if (strncmp(err.message, wanted, strlen(wanted)) != 0)
            fail_msg("%s\n  wanted: %s", err.message, wanted);
        read_ahead_close(r);
        close_lab(&l);
    }
}

static void it_may_be_closed_at_any_time(void **state) {
    (void)state;
    lab l;
    open_lab(&l, SIZE_MAX);
    for (uint32_t packed = 0; packed <= TENSORS; packed++) {
        read_ahead *r = read_ahead_open(&l.set, true);
        for (uint32_t i = 0; i < packed; i++)
            assert_int_equal(
                read_ahead_done(r, &l.set.at[i], l.set.at[i].data, l.set.at[i].bytes, NULL),
                ESP_OK);
        read_ahead_close(r);
    }
    close_lab(&l);
    tensor_set none = {0};
    read_ahead *r = read_ahead_open(&none, true);
    assert_int_equal(read_ahead_finish(r, NULL), ESP_OK);
    read_ahead_close(r);
    read_ahead_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_are_read_off_the_names),
        cmocka_unit_test(bytes_stay_what_they_are),
        cmocka_unit_test(a_weight_that_is_no_number_is_found_by_tensor_and_row),
        cmocka_unit_test(it_may_be_closed_at_any_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
