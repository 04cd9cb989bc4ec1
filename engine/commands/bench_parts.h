/* bench_parts.h - the inside of `espalier bench`: its options, one measurement, and who prints what
 * of it. Nobody else includes it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BENCH_PARTS_H
#define ESPALIER_BENCH_PARTS_H

#include "engine/commands/progress.h"
#include "engine/engine.h"
#include "engine/replicas.h"
#include "kernels/op_timer.h"
#include "kernels/roofline.h"

typedef struct bench_options {
    model_config model;
    const char *concurrency;
    uint32_t prompt_tokens, output_tokens, requests, replicas;
    bool json, roofline, ops;
} bench_options;

/* ---- what the machine can do (bench_limits.c) ---- */

typedef struct bench_limits {
    bool known;
    uint32_t threads;
    kern_level level;
    roofline_rate bound;    /* which of the rates bounds this run; RATE_COUNT: none of them */
    uint64_t weights_bytes; /* that a step reads, or what memory allows; 0: no model */
    double weights_read;    /* bytes a second over a buffer of that size */
    uint64_t big_bytes;
    double big_read, big_copy; /* bytes a second */
    double rate[RATE_COUNT];   /* operations a second; 0: not on this machine */
} bench_limits;

/* Of a step of that model; with none of its bytes without those. Takes seconds. */
ESP_CHECKED esp_code bench_measure_limits(const bench_options *o, const model_cost *cost,
                                          bench_limits *out, esp_error *err);
void bench_print_limits(const bench_options *o, const bench_limits *limits);

/* ---- one measurement (bench_load.c) ---- */

typedef struct samples {
    int64_t *us;
    size_t count;
} samples;

/* Steps that computed tokens of a prompt, and those that did not. */
typedef enum bench_side { SIDE_PREFILL, SIDE_DECODE, SIDES } bench_side;

typedef struct bench_sums {
    uint64_t steps;
    uint64_t tokens;   /* prefill: of prompts; decode: of answers */
    uint64_t computed; /* tokens that went through the layers */
    uint64_t rows;     /* whose logits were made */
    int64_t ns;
    op_times ops;                /* with --ops */
    int64_t before_ns, after_ns; /* of the steps, outside of their first and last op */
} bench_sums;

typedef struct bench_run {
    engine *e;
    replicas *all; /* started, e is the first of them; NULL: e alone, stepped by the measurement */
    const bench_options *o;
    op_timer *timer; /* NULL: none */
    uint32_t concurrency, requests;
    samples ttft, itl; /* sorted */
    uint64_t output_tokens;
    int64_t wall_ns;
    bench_sums side[SIDES]; /* with `all` nothing is known of steps */
} bench_run;

/* Sends the requests, at most `concurrency` at a time, and waits for all; bench_run_close also after
 * a failure. */
ESP_CHECKED esp_code bench_load(bench_run *r, progress *bar, esp_error *err);
void bench_run_close(bench_run *r);

/* ---- what is printed ---- */

struct json_t;

/* bench_rows.c: one row a concurrency. */
void bench_print_title(const engine *e, const bench_options *o);
void bench_print_heading(const bench_limits *limits);
void bench_print_run(const bench_run *r, const bench_limits *limits);

/* An object with the kind of row, commit and processor; bench_end_row prints it as one line. */
struct json_t *bench_begin_row(const char *kind);
/* ... and profile, model and concurrency. */
struct json_t *bench_begin_run_row(const char *kind, const bench_run *r);
void bench_set(struct json_t *row, const char *key, struct json_t *value);
void bench_end_row(struct json_t *row);

/* bench_ops.c: where the time of a measurement went. */
void bench_print_ops(const bench_run *r);

#endif
