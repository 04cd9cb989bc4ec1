/* test_cuda_pack.c - matrices of a CUDA device through the op table: what linear makes of them is near ref, an
 * image opens as the same matrix, and one that is none is refused. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cuda/cuda_matrix.h"
#include "kernels/op_cost.h"
#include "tests/cuda/kernel_cases.h"
#include "tests/unit/linear_case.h"

static lab ref, cuda;

static int open_labs(void **state) {
    (void)state;
    ref = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    cuda = lab_open(&kern_cuda, LEVEL_AUTO, DT_BF16, 2);
    return 0;
}

static int close_labs(void **state) {
    (void)state;
    esp_error err = {0};
    if (kern_cuda.sync(cuda.dev, &err) != ESP_OK) fail_msg("%s", err.message);
    lab_close(&ref);
    lab_close(&cuda);
    return 0;
}

/* The outputs of an op over these matrices; free() them. */
static float *run(const lab *l, const linear_case *c, kern_linear op) {
    size_t count = (size_t)c->tokens * out_cols(c);
    void *in = lab_upload_random(l, KIND_ACT, 7, (size_t)c->tokens * c->cols);
    void *out = lab_upload_random(l, out_kind(c), 9, count);
    op.in = in;
    op.out = out;
    op.token_count = c->tokens;
    op.epilogue = c->epilogue;
    op.softcap = 30;
    l->ops->linear(l->dev, &op);
    float *y = lab_download(l, out_kind(c), out, count);
    lab_release(l, KIND_ACT, in, (size_t)c->tokens * c->cols);
    lab_release(l, out_kind(c), out, count);
    return y;
}

static float *run_case(const lab *l, const linear_case *c) {
    kern_linear op = {0};
    take_matrices(l, c, &op);
    float *y = run(l, c, op);
    drop_matrices(l, c, &op);
    return y;
}

static void assert_near_ref(const linear_case *c) {
    float *want = run_case(&ref, c), *got = run_case(&cuda, c);
    double most = 0, range = 0;
    for (size_t i = 0; i < (size_t)c->tokens * out_cols(c); i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        range = fmax(range, fabs((double)want[i]));
        most = d <= most ? most : d; /* NaN wins */
    }
    if (!(most <= 1e-2 * range))
        fail_msg("%s, %u tokens, epilogue %d: off by %g of %g", dtype_info(c->dtype[0])->name,
                 c->tokens, c->epilogue, most, range);
    kernel_case();
    free(want);
    free(got);
}

static void linears_are_near_ref(void **state) {
    (void)state;
    for (int d = 0; d < DT_COUNT; d++)
        for (kern_epilogue e = EPI_STORE; e <= EPI_GELU_ERF; e++)
            assert_near_ref(&(linear_case){.dtype = {d, d},
                                           .rows = {33, 33},
                                           .matrices = 2,
                                           .cols = 256,
                                           .tokens = 1 + (uint32_t)e * 5,
                                           .epilogue = e,
                                           .bias = d % 2 == 0,
                                           .order = {d % 3 == 0 ? 21 : 0, d % 6 == 0 ? 22 : 0}});
}

static const linear_case ORDERED = {.dtype = {DT_G4, DT_Q6_K},
                                    .rows = {20, 35},
                                    .matrices = 2,
                                    .cols = 256,
                                    .tokens = 9,
                                    .order = {5, 0}};

static void an_image_opens_as_the_same_matrix(void **state) {
    (void)state;
    kern_linear op = {0}, again = {.matrix_count = 2};
    kern_matrix *opened[2];
    esp_error err = {0};
    take_matrices(&cuda, &ORDERED, &op);
    for (uint32_t m = 0; m < 2; m++) {
        kern_image image;
        assert_int_equal(cuda.ops->image(op.matrix[m], &image, &err), ESP_OK);
        assert_int_equal(cuda.ops->open_image(cuda.dev, &image, &opened[m], &err), ESP_OK);
        assert_int_equal(cuda.ops->matrix_bytes(opened[m]), cuda.ops->matrix_bytes(op.matrix[m]));
        again.matrix[m] = opened[m];
    }
    float *want = run(&cuda, &ORDERED, op), *got = run(&cuda, &ORDERED, again);
    assert_same_bits(got, want, (size_t)ORDERED.tokens * out_cols(&ORDERED), "from an image");
    free(want);
    free(got);
    for (uint32_t m = 0; m < 2; m++)
        cuda.ops->matrix_close(cuda.dev, opened[m]);
    drop_matrices(&cuda, &ORDERED, &op);
}

/* 20 MB of tiles are two slices, of which the first has the head. */
static void a_matrix_of_several_slices_is_whole(void **state) {
    (void)state;
    linear_case c = {.dtype = {DT_BF16}, .rows = {5008}, .matrices = 1, .cols = 2048, .tokens = 1};
    assert_near_ref(&c);
}

/* So that linear lines the inputs up once. */
static void equal_orders_are_one(void **state) {
    (void)state;
    linear_case c = {.dtype = {DT_G4, DT_Q8_0, DT_G4},
                     .rows = {20, 20, 20},
                     .matrices = 3,
                     .cols = 128,
                     .order = {5, 5, 6}};
    for (uint32_t i = 0; i < 2; i++) { /* the list is empty again after the first */
        kern_linear op = {0};
        take_matrices(&cuda, &c, &op);
        assert_non_null(op.matrix[0]->view.order);
        assert_ptr_equal(op.matrix[0]->view.order, op.matrix[1]->view.order);
        assert_ptr_not_equal(op.matrix[0]->view.order, op.matrix[2]->view.order);
        drop_matrices(&cuda, &c, &op);
    }
}

/* A matrix comes back to the host when a file is to keep it, not to tell its shape. */
static void a_shape_brings_no_matrix_to_the_host(void **state) {
    (void)state;
    kern_matrix *matrix = lab_matrix(&cuda, DT_Q4_0, 20, 96, 3);
    kern_linear op = {.matrix = {matrix}, .matrix_count = 1, .token_count = 2};
    kern_matrix_shape shape = cuda.ops->shape(matrix);
    assert_true(shape.dtype == DT_Q4_0 && shape.rows == 20 && shape.cols == 96);
    assert_true(op_cost_linear(cuda.ops, cuda.dev, &op).flops == 2.0 * 20 * 96 * 2);
    assert_null(matrix->image);
    cuda.ops->matrix_close(cuda.dev, matrix);
}

static void assert_refused(const kern_image *image) {
    kern_matrix *matrix;
    esp_error err = {0};
    assert_int_equal(cuda.ops->open_image(cuda.dev, image, &matrix, &err), ESP_INVALID);
    assert_null(matrix);
}

static void bytes_that_are_no_image_are_refused(void **state) {
    (void)state;
    kern_matrix *matrix = lab_matrix(&cuda, DT_Q4_0, 20, 96, 3);
    kern_image good, image;
    esp_error err = {0};
    assert_int_equal(cuda.ops->image(matrix, &good, &err), ESP_OK);
    uint8_t *bytes = aligned_alloc(64, (good.count + 63) / 64 * 64);
    memcpy(bytes, good.bytes, good.count);
    image = good;
    image.count--;
    assert_refused(&image);
    image.count = 63;
    assert_refused(&image);
    image = good;
    image.rows = 33; /* a row of tiles more */
    assert_refused(&image);
    image = good;
    image.dtype = DT_Q4_1;
    assert_refused(&image);
    image = good;
    image.bytes = bytes;
    for (uint32_t format = 0; format <= CUDA_FORMAT_COUNT; format++) {
        memcpy(bytes, &(cuda_head){.format = format}, sizeof(cuda_head));
        if (format != CUDA_C4_HALF) assert_refused(&image);
    }
    free(bytes);
    cuda.ops->matrix_close(cuda.dev, matrix);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linears_are_near_ref),
        cmocka_unit_test(an_image_opens_as_the_same_matrix),
        cmocka_unit_test(a_shape_brings_no_matrix_to_the_host),
        cmocka_unit_test(a_matrix_of_several_slices_is_whole),
        cmocka_unit_test(equal_orders_are_one),
        cmocka_unit_test(bytes_that_are_no_image_are_refused),
    };
    return kernel_cases_end(cmocka_run_group_tests(tests, open_labs, close_labs));
}
