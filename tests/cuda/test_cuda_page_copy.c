/* test_cuda_page_copy.c - frames move whole, and nothing else does: as ref moves them, through the table. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cuda/cuda_launch.h"
#include "tests/cuda/kernel_cases.h"
#include "tests/unit/kernel_lab.h"

enum { FRAMES = 23, MOVED = 5 };

/* Less than a thread's share, a block's, and more than one block's. */
static const size_t frame_sizes[] = {64, 4096, 16384, 40000 / 64 * 64, 100032};
enum { SIZES = sizeof frame_sizes / sizeof frame_sizes[0] };

static lab ref, cuda;

static int open_labs(void **state) {
    (void)state;
    ref = lab_open(&kern_ref, LEVEL_AUTO, DT_F32, 1);
    cuda = lab_open(&kern_cuda, LEVEL_AUTO, DT_BF16, 1);
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

/* Device memory of a lab, in which every byte's neighbourhood is another. */
static void *frames_of(const lab *l, size_t bytes, uint32_t seed) {
    uint8_t *frames = malloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        frames[i] = (uint8_t)((i * 2654435761u + seed) >> 13);
    void *memory = lab_alloc(l, bytes);
    l->ops->upload(l->dev, memory, frames, bytes);
    free(frames);
    return memory;
}

/* What lies in the pages and in the run after all moves; free() it. */
static uint8_t *after_moves(const lab *l, size_t frame, bool within) {
    static const uint32_t out[MOVED] = {9, 2, 17, 0, 22}, back[MOVED] = {1, 12, 5, 16, 3};
    size_t bytes = FRAMES * frame, run_bytes = MOVED * frame;
    void *pages = frames_of(l, bytes, 1), *run = frames_of(l, run_bytes, 2);
    kern_move_frames op = {.from = pages, .to = pages, .count = MOVED, .frame_bytes = frame};
    op.from_frames = out;
    op.to_frames = back;
    if (!within) {
        op.to = run;
        op.to_frames = NULL;
    }
    l->ops->move_frames(l->dev, &op);
    if (!within) {
        op = (kern_move_frames){.from = run, .to = pages, .count = MOVED, .frame_bytes = frame};
        op.to_frames = back;
        l->ops->move_frames(l->dev, &op);
    }
    uint8_t *seen = malloc(bytes + run_bytes);
    l->ops->download(l->dev, seen, pages, bytes);
    l->ops->download(l->dev, seen + bytes, run, run_bytes);
    l->ops->release(l->dev, pages, bytes);
    l->ops->release(l->dev, run, run_bytes);
    return seen;
}

/* Frame 22 of the old pages is frame 3 of the new ones. */
static void assert_moved(const uint8_t *seen, size_t frame) {
    for (size_t i = 0; i < frame; i++)
        assert_int_equal(seen[3 * frame + i],
                         (uint8_t)(((22 * frame + i) * 2654435761u + 1) >> 13));
}

static void check(bool within) {
    for (uint32_t s = 0; s < SIZES; s++) {
        size_t frame = frame_sizes[s];
        uint8_t *want = after_moves(&ref, frame, within), *got = after_moves(&cuda, frame, within);
        assert_memory_equal(got, want, (FRAMES + MOVED) * frame);
        assert_moved(want, frame);
        kernel_case();
        free(want);
        free(got);
    }
}

static void frames_are_moved_within_the_pages(void **state) {
    (void)state;
    check(true);
}

/* Out of the pages in an order of its own, and back to other places. */
static void frames_are_gathered_and_scattered(void **state) {
    (void)state;
    check(false);
}

static void no_frames_are_nothing_and_odd_ones_are_refused(void **state) {
    (void)state;
    cuda_move_frames_args args = {.frame_bytes = 64};
    assert_int_equal(cuda_move_frames(&args, NULL), 0);
    kern_cuda.move_frames(cuda.dev, &(kern_move_frames){.frame_bytes = 64});
    args.count = 1;
    args.frame_bytes = 72;
    assert_int_not_equal(cuda_move_frames(&args, NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_moved_within_the_pages),
        cmocka_unit_test(frames_are_gathered_and_scattered),
        cmocka_unit_test(no_frames_are_nothing_and_odd_ones_are_refused),
    };
    return kernel_cases_end(cmocka_run_group_tests(tests, open_labs, close_labs));
}
