/* test_cuda_device.c - the host side of the CUDA backend: what it says of itself, memory, and faults. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>

#include "kernels/cuda/cuda_device.h"
#include "tests/unit/kernel_lab.h"

enum { WIDTH = 64 };

static lab l;

static int open_lab(void **state) {
    (void)state;
    l = lab_open(&kern_cuda, LEVEL_AUTO, DT_BF16, 1);
    return 0;
}

static int close_lab(void **state) {
    (void)state;
    lab_close(&l);
    return 0;
}

static void assert_well(void) {
    esp_error err = {0};
    if (kern_cuda.sync(l.dev, &err) != ESP_OK) fail_msg("%s", err.message);
}

static void it_names_its_arithmetic_and_its_layout(void **state) {
    (void)state;
    const char *profile = kern_cuda.profile(l.dev);
    assert_int_equal(strncmp(profile, "cuda:sm_", 8), 0);
    assert_non_null(strstr(profile, ",act=bf16,kv=bf16"));
    assert_string_equal(kern_cuda.layout(l.dev), "cuda-tiles-2");
    assert_true(kern_cuda_count(NULL) >= 1);
}

static void memory_is_zeroed_and_comes_back(void **state) {
    (void)state;
    enum { BYTES = 100000 };
    kern_memory before, during;
    static const uint8_t zeros[BYTES];
    static uint8_t sent[BYTES], seen[BYTES];
    kern_cuda.memory(l.dev, &before);
    void *memory = lab_alloc(&l, BYTES);
    assert_int_equal((uintptr_t)memory % 64, 0);
    kern_cuda.memory(l.dev, &during);
    assert_false(during.shared);
    assert_int_equal(during.total, before.total);
    assert_true(during.free <= during.total);
    kern_cuda.download(l.dev, seen, memory, BYTES);
    assert_memory_equal(seen, zeros, BYTES);
    for (uint32_t i = 0; i < BYTES; i++)
        sent[i] = (uint8_t)(i * 7);
    kern_cuda.upload(l.dev, memory, sent, BYTES);
    uint8_t *room = kern_cuda.host_take(l.dev, BYTES);
    assert_non_null(room);
    assert_memory_equal(room, zeros, BYTES);
    assert_ptr_equal(kern_cuda.view(l.dev, memory, BYTES, room), room);
    assert_memory_equal(room, sent, BYTES);
    kern_cuda.host_give(l.dev, room, BYTES);
    kern_cuda.release(l.dev, memory, BYTES);
    assert_well();
}

/* Who asks for more than there is can ask for less. */
static void too_large_a_buffer_is_refused_and_no_fault(void **state) {
    (void)state;
    kern_memory memory;
    void *out = &memory;
    esp_error err = {0};
    kern_cuda.memory(l.dev, &memory);
    assert_int_equal(kern_cuda.alloc(l.dev, memory.total + 4096, &out, &err), ESP_EXHAUSTED);
    assert_null(out);
    assert_string_equal(err.field, "--device");
    assert_non_null(strstr(err.message, "bytes are wanted, and of"));
    assert_non_null(strstr(err.message, "--kv-memory"));
    assert_non_null(strstr(err.message, "--device cpu"));
    assert_well();
}

typedef struct beside {
    void *to;
    uint8_t from[4096];
} beside;

static void *upload_it(void *arg) {
    beside *b = arg;
    kern_cuda.upload_beside(l.dev, b->to, b->from, sizeof b->from);
    return NULL;
}

static void another_thread_uploads_beside(void **state) {
    (void)state;
    static beside b;
    static uint8_t seen[sizeof b.from];
    pthread_t thread;
    b.to = lab_alloc(&l, sizeof b.from);
    memset(b.from, 0x5a, sizeof b.from);
    assert_int_equal(pthread_create(&thread, NULL, upload_it, &b), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    kern_cuda.download(l.dev, seen, b.to, sizeof seen);
    assert_memory_equal(seen, b.from, sizeof seen);
    kern_cuda.release(l.dev, b.to, sizeof b.from);
    assert_well();
}

/* More host arrays than are staged at once: none takes another's place before the device has read it. */
static void every_op_reads_the_rows_that_it_was_given(void **state) {
    (void)state;
    enum {
        ROWS = 1024,
        ROUNDS = 1100,
        CHECKED = 50
    }; /* 4 KiB of rows each, 4 MiB are staged at once */
    const size_t row_bytes = WIDTH * sizeof(uint16_t);
    void *in = lab_upload_random(&l, KIND_F32, 3, ROWS * WIDTH);
    void *weight = lab_upload_random(&l, KIND_F32, 4, WIDTH);
    void *out = lab_alloc(&l, ROWS * row_bytes);
    char *first = malloc(ROWS * row_bytes), *seen = malloc(ROWS * row_bytes);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t rows[ROWS];
        for (uint32_t i = 0; i < ROWS; i++)
            rows[i] = (i + round) % ROWS;
        kern_cuda.norm(l.dev, &(kern_norm){.in = in,
                                           .rows = rows,
                                           .count = ROWS,
                                           .width = WIDTH,
                                           .weight = weight,
                                           .eps = 1e-6f,
                                           .out = out});
        if (round % CHECKED) continue;
        kern_cuda.download(l.dev, round ? seen : first, out, ROWS * row_bytes);
        size_t turned = round % ROWS * row_bytes, rest = ROWS * row_bytes - turned;
        assert_true(round == 0 || (memcmp(seen, first + turned, rest) == 0 &&
                                   memcmp(seen + rest, first, turned) == 0));
    }
    free(first);
    free(seen);
    lab_release(&l, KIND_F32, in, ROWS * WIDTH);
    lab_release(&l, KIND_F32, weight, WIDTH);
    kern_cuda.release(l.dev, out, ROWS * row_bytes);
    assert_well();
}

/* What ops assert is asked before: of too wide and of odd heads. */
static void heads_that_it_cannot_compute_are_refused(void **state) {
    (void)state;
    static const uint32_t good[] = {2, 64, 80, 254, 256}, bad[] = {0, 1, 127, 257, 258, 512};
    kern_kv_shape shape = {.layers = 1, .kv_heads = 1};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        shape.head_dim = good[i];
        assert_int_equal(kern_cuda.check_layers(l.dev, &shape, NULL), ESP_OK);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        esp_error err = {0};
        shape.head_dim = bad[i];
        assert_int_equal(kern_cuda.check_layers(l.dev, &shape, &err), ESP_INVALID);
        assert_string_equal(err.field, "--device");
        assert_non_null(strstr(err.message, "even number of at most 256: use --device cpu"));
    }
}

/* The first fault is told for ever, with the call; what comes after is not launched. */
static void a_fault_stays(void **state) {
    (void)state;
    lab broken = lab_open(&kern_cuda, LEVEL_AUTO, DT_BF16, 1);
    esp_error err = {0}, again = {0};
    assert_false(CUDA_OK(broken.dev, cudaErrorLaunchFailure));
    assert_int_equal(kern_cuda.sync(broken.dev, &err), ESP_UNAVAILABLE);
    assert_non_null(strstr(err.message, "cudaErrorLaunchFailure"));
    assert_non_null(strstr(err.message, "test_cuda_device.c:"));
    assert_non_null(strstr(err.message, "start again"));
    assert_false(CUDA_OK(broken.dev, cudaErrorInvalidValue));
    kern_cuda.upload(broken.dev, NULL, NULL, 16);
    assert_int_equal(kern_cuda.sync(broken.dev, &again), ESP_UNAVAILABLE);
    assert_string_equal(again.message, err.message);
    lab_close(&broken);
}

/* A workspace that grew in a step found none. */
static void a_fault_for_want_of_memory_names_what_takes_less(void **state) {
    (void)state;
    lab broken = lab_open(&kern_cuda, LEVEL_AUTO, DT_BF16, 1);
    cuda_room room = {0};
    esp_error err = {0};
    kern_memory memory;
    kern_cuda.memory(broken.dev, &memory);
    assert_null(cuda_need(broken.dev, &room, memory.total + 4096));
    assert_int_equal(kern_cuda.sync(broken.dev, &err), ESP_EXHAUSTED);
    assert_string_equal(err.field, "--step-tokens");
    assert_non_null(strstr(err.message, "found no memory: lower --step-tokens or "
                                        "--gpu-memory-utilization"));
    lab_close(&broken);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_names_its_arithmetic_and_its_layout),
        cmocka_unit_test(memory_is_zeroed_and_comes_back),
        cmocka_unit_test(too_large_a_buffer_is_refused_and_no_fault),
        cmocka_unit_test(another_thread_uploads_beside),
        cmocka_unit_test(every_op_reads_the_rows_that_it_was_given),
        cmocka_unit_test(heads_that_it_cannot_compute_are_refused),
        cmocka_unit_test(a_fault_stays),
        cmocka_unit_test(a_fault_for_want_of_memory_names_what_takes_less),
    };
    return cmocka_run_group_tests(tests, open_lab, close_lab);
}
