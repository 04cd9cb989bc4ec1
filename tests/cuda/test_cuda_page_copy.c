/* test_cuda_page_copy.c - frames move whole, and nothing else does. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "device_memory.h"
#include "kernels/cuda/cuda_launch.h"
#include "tests/cuda/kernel_cases.h"

enum { FRAMES = 23 };

/* Less than a thread's share, a block's, and more than one block's. */
static const uint64_t frame_sizes[] = {64, 4096, 16384, 40000 / 64 * 64, 100032};
enum { SIZES = sizeof frame_sizes / sizeof frame_sizes[0] };

/* free() it: frames that differ in every byte's neighbourhood. */
static uint8_t *frames_of(uint64_t bytes, uint32_t seed) {
    uint8_t *frames = malloc(bytes);
    for (uint64_t i = 0; i < bytes; i++)
        frames[i] = (uint8_t)((i * 2654435761u + seed) >> 13);
    return frames;
}

static void frames_are_copied_within_the_arena(void **state) {
    (void)state;
    static const uint32_t from[] = {3, 22, 0, 7}, to[] = {11, 1, 21, 2};
    for (uint32_t s = 0; s < SIZES; s++) {
        uint64_t frame = frame_sizes[s], bytes = FRAMES * frame;
        uint8_t *want = frames_of(bytes, s), *got = malloc(bytes);
        void *arena = device_copy(want, bytes);
        cuda_page_copy_args args = {.arena = arena,
                                    .frame_bytes = frame,
                                    .count = 4,
                                    .from = device_copy(from, sizeof from),
                                    .to = device_copy(to, sizeof to)};
        assert_int_equal(cuda_page_copy(&args, NULL), cudaSuccess);
        device_read(got, arena, bytes);
        for (uint32_t i = 0; i < 4; i++)
            memcpy(want + to[i] * frame, want + from[i] * frame, frame);
        assert_memory_equal(got, want, bytes);
        kernel_case();
        device_free(arena);
        device_free(args.from);
        device_free(args.to);
        free(want);
        free(got);
    }
}

/* Out of the arena in an order of its own, and back to other places. */
static void frames_are_gathered_and_scattered(void **state) {
    (void)state;
    static const uint32_t out[] = {9, 2, 17, 0, 22}, back[] = {1, 22, 5, 16, 3};
    for (uint32_t s = 0; s < SIZES; s++) {
        uint64_t frame = frame_sizes[s], bytes = FRAMES * frame;
        uint8_t *want = frames_of(bytes, s), *before = frames_of(bytes, s), *got = malloc(bytes);
        void *arena = device_copy(want, bytes), *run = device_new(5 * frame);
        cuda_page_gather_args args = {.arena = arena,
                                      .frame_bytes = frame,
                                      .count = 5,
                                      .frames = device_copy(out, sizeof out),
                                      .run = run};
        assert_int_equal(cuda_page_gather(&args, NULL), cudaSuccess);
        device_read(got, run, 5 * frame);
        for (uint32_t i = 0; i < 5; i++)
            assert_memory_equal(got + i * frame, before + out[i] * frame, frame);
        device_free(args.frames);
        args.frames = device_copy(back, sizeof back);
        args.scatter = true;
        assert_int_equal(cuda_page_gather(&args, NULL), cudaSuccess);
        device_read(got, arena, bytes);
        for (uint32_t i = 0; i < 5; i++)
            memcpy(want + back[i] * frame, before + out[i] * frame, frame);
        assert_memory_equal(got, want, bytes);
        kernel_case();
        device_free(args.frames);
        device_free(arena);
        device_free(run);
        free(want);
        free(before);
        free(got);
    }
}

static void no_frames_are_nothing_and_odd_ones_are_refused(void **state) {
    (void)state;
    cuda_page_copy_args args = {.frame_bytes = 64};
    assert_int_equal(cuda_page_copy(&args, NULL), cudaSuccess);
    args.count = 1;
    args.frame_bytes = 72;
    assert_int_equal(cuda_page_copy(&args, NULL), cudaErrorInvalidValue);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_copied_within_the_arena),
        cmocka_unit_test(frames_are_gathered_and_scattered),
        cmocka_unit_test(no_frames_are_nothing_and_odd_ones_are_refused),
    };
    return kernel_cases_end(cmocka_run_group_tests(tests, NULL, NULL));
}
