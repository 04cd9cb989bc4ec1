/* bench_ops.c - espalier bench --ops: where the time of the steps went, op by op.
 *
 * Ops are timed one by one by kernels/op_timer.h, which costs a step some tens of microseconds, on a CUDA
 * device a wait for each. What a step does outside of them stands below: before its first op (submissions,
 * plan, batch), between ops, and after the last (sampling, stop rules, publishing). Steps that prefill and
 * steps that only decode have a table each. Between steps the caller takes tokens and sends requests. */
// SPDX-License-Identifier: Apache-2.0
#include <jansson.h>
#include <stdio.h>

#include "engine/commands/bench_parts.h"

static const char *const side_names[SIDES] = {"prefill", "decode"};

/* The parts of a step that are no op. */
enum { OUTSIDE_BEFORE, OUTSIDE_BETWEEN, OUTSIDE_AFTER, OUTSIDES };
static const char *const outside_names[OUTSIDES] = {"plan_batch", "between_ops", "sample_publish"};

static int64_t outside_ns(const bench_sums *side, int part) {
    if (part == OUTSIDE_BEFORE) return side->before_ns;
    if (part == OUTSIDE_AFTER) return side->after_ns;
    return side->ns - op_times_sum_ns(&side->ops) - side->before_ns - side->after_ns;
}

static double ms(int64_t ns) { return (double)ns / 1e6; }

static double share(int64_t ns, const bench_sums *side) {
    return side->ns > 0 ? (double)ns / (double)side->ns : 0;
}

/* Work a nanosecond is G of it a second. */
static double giga(double work, int64_t ns) { return ns > 0 ? work / (double)ns : 0; }

/* "3072x576", outputs and inputs; "several" where layers differ, empty where there is no matrix. */
static void shape_of(const op_time *time, char *out, size_t bytes) {
    *out = '\0';
    if (time->other_shapes)
        snprintf(out, bytes, "several");
    else if (time->rows)
        snprintf(out, bytes, "%ux%u", time->rows, time->cols);
}

static int64_t between_steps_ns(const bench_run *r) {
    return r->wall_ns - r->side[SIDE_PREFILL].ns - r->side[SIDE_DECODE].ns;
}

/* ---- JSON ---- */

static json_t *op_row(op_kind kind, const op_time *time, const bench_sums *side) {
    char shape[32];
    shape_of(time, shape, sizeof shape);
    json_t *row = json_object();
    bench_set(row, "op", json_string(op_kind_name(kind)));
    if (*shape) bench_set(row, "shape", json_string(shape));
    bench_set(row, "calls", json_integer((json_int_t)time->calls));
    bench_set(row, "ms", json_real(ms(time->ns)));
    bench_set(row, "share", json_real(share(time->ns, side)));
    bench_set(row, "gb_s", json_real(giga(time->bytes, time->ns)));
    if (time->flops > 0) bench_set(row, "gflop_s", json_real(giga(time->flops, time->ns)));
    return row;
}

static json_t *side_row(const bench_sums *side) {
    json_t *row = json_object(), *ops = json_array(), *outside = json_object();
    bench_set(row, "steps", json_integer((json_int_t)side->steps));
    bench_set(row, "tokens", json_integer((json_int_t)side->computed));
    bench_set(row, "ms", json_real(ms(side->ns)));
    for (op_kind kind = 0; kind < OP_KINDS; kind++)
        if (side->ops.of[kind].calls)
            json_array_append_new(ops, op_row(kind, &side->ops.of[kind], side));
    for (int part = 0; part < OUTSIDES; part++)
        bench_set(outside, outside_names[part], json_real(ms(outside_ns(side, part))));
    bench_set(row, "ops", ops);
    bench_set(row, "outside_ms", outside);
    return row;
}

static void print_json(const bench_run *r) {
    json_t *row = bench_begin_run_row("ops", r);
    for (bench_side side = 0; side < SIDES; side++)
        bench_set(row, side_names[side], side_row(&r->side[side]));
    bench_set(row, "between_steps_ms", json_real(ms(between_steps_ns(r))));
    bench_end_row(row);
}

/* ---- tables ---- */

static void print_time(const char *name, const char *shape, uint64_t calls, int64_t ns,
                       const bench_sums *side) {
    printf("  %-15s %13s %8llu %10.2f %8.1f %8.1f", name, shape, (unsigned long long)calls, ms(ns),
           (double)ns / 1e3 / (double)side->steps, 100 * share(ns, side));
}

static void print_op(op_kind kind, const op_time *time, const bench_sums *side) {
    char shape[32];
    shape_of(time, shape, sizeof shape);
    print_time(op_kind_name(kind), shape, time->calls, time->ns, side);
    printf(" %8.1f", giga(time->bytes, time->ns));
    if (time->flops > 0) printf(" %8.1f", giga(time->flops, time->ns));
    putchar('\n');
}

static void print_side(const bench_run *r, bench_side which) {
    const bench_sums *side = &r->side[which];
    if (!side->steps) return;
    printf("\n%s at concurrency %u: %llu steps, %llu tokens, %.2f ms\n", side_names[which],
           r->concurrency, (unsigned long long)side->steps, (unsigned long long)side->computed,
           ms(side->ns));
    printf("  %-15s %13s %8s %10s %8s %8s %8s %8s\n", "op", "shape", "calls", "ms", "us/step",
           "share %", "GB/s", "Gflop/s");
    for (op_kind kind = 0; kind < OP_KINDS; kind++)
        if (side->ops.of[kind].calls) print_op(kind, &side->ops.of[kind], side);
    for (int part = 0; part < OUTSIDES; part++) {
        print_time(outside_names[part], "", side->steps, outside_ns(side, part), side);
        putchar('\n');
    }
}

void bench_print_ops(const bench_run *r) {
    if (r->o->json) {
        print_json(r);
        return;
    }
    for (bench_side side = 0; side < SIDES; side++)
        print_side(r, side);
    printf("\nbetween steps: %.2f ms\n", ms(between_steps_ns(r)));
}
