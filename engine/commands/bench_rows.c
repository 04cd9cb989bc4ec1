/* bench_rows.c - the figures of a measurement as a row of a table or of JSON.
 *
 * Of several replicas, which step by themselves, only what is seen from outside is told:
 *
 *   prefill tok/s   prompt tokens computed / time of the steps that computed any
 *   decode tok/s    tokens of the steps that only decoded / time of those steps
 *   output tok/s    output tokens / wall time
 *   TTFT            request sent to its first token, waiting included
 *   ITL             between two tokens of one request
 *   MFU             of steps that prefill: multiplications and additions of matrices and of the
 *                   prompts' attention / time / the measured rate of this level and its
 *                   activations; none where that is not measured
 *   MBU             of steps that only decode: weights that a step reads x steps / time / the
 *                   measured read bandwidth over as many bytes */
// SPDX-License-Identifier: Apache-2.0
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "engine/commands/bench_parts.h"

#ifndef ESPALIER_COMMIT
#define ESPALIER_COMMIT "unknown"
#endif

/* Nearest rank, in ms; the samples are sorted. */
static double percentile_ms(const samples *s, double share) {
    if (s->count == 0) return 0;
    size_t rank = (size_t)(share * (double)(s->count - 1) + 0.5);
    return (double)s->us[rank] / 1e3;
}

static double a_second(double count, int64_t ns) { return ns > 0 ? count * 1e9 / (double)ns : 0; }

static double tokens_a_second(const bench_sums *side) {
    return a_second((double)side->tokens, side->ns);
}

/* Shares of the machine's limits. */
static double mfu(const bench_run *r, const bench_limits *limits) {
    const bench_sums *side = &r->side[SIDE_PREFILL];
    model_cost cost = engine_cost(r->e);
    double attention = model_attention_flops(engine_spec(r->e), 0, r->o->prompt_tokens);
    double flops = (double)cost.token_flops * (double)side->computed +
                   (double)cost.row_flops * (double)side->rows + attention * r->requests;
    return a_second(flops, side->ns) / limits->rate[limits->bound];
}

static double mbu(const bench_run *r, const bench_limits *limits) {
    const bench_sums *side = &r->side[SIDE_DECODE];
    double bytes = (double)engine_cost(r->e).step_bytes * (double)side->steps;
    return a_second(bytes, side->ns) / limits->weights_read;
}

/* ---- JSON ---- */

/* "model name" of the first processor, as the kernel tells it. */
static void device_name(char *out, size_t bytes) {
    snprintf(out, bytes, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[256];
    while (file && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(out, bytes, "%s", colon + 2);
        break;
    }
    if (file) fclose(file);
}

void bench_set(json_t *row, const char *key, json_t *value) {
    ESP_ASSERT(json_object_set_new(row, key, value) == 0);
}

json_t *bench_begin_row(const char *kind) {
    char device[128];
    device_name(device, sizeof device);
    json_t *row = json_object();
    bench_set(row, "bench", json_string(kind));
    bench_set(row, "commit", json_string(ESPALIER_COMMIT));
    bench_set(row, "device", json_string(device));
    return row;
}

json_t *bench_begin_run_row(const char *kind, const bench_run *r) {
    json_t *row = bench_begin_row(kind);
    bench_set(row, "profile", json_string(engine_profile(r->e)));
    bench_set(row, "model", json_string(engine_name(r->e)));
    if (r->all) bench_set(row, "replicas", json_integer(r->o->replicas));
    bench_set(row, "adapters", json_integer(r->o->model.adapters.count));
    bench_set(row, "concurrency", json_integer(r->concurrency));
    bench_set(row, "requests", json_integer(r->requests));
    bench_set(row, "prompt_tokens", json_integer(r->o->prompt_tokens));
    bench_set(row, "output_tokens", json_integer(r->o->output_tokens));
    return row;
}

void bench_end_row(json_t *row) {
    json_dumpf(row, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(row);
}

static void print_json(const bench_run *r, const bench_limits *limits) {
    json_t *row = bench_begin_run_row("engine", r);
    if (!r->all) {
        bench_set(row, "prefill_tok_s", json_real(tokens_a_second(&r->side[SIDE_PREFILL])));
        bench_set(row, "decode_tok_s", json_real(tokens_a_second(&r->side[SIDE_DECODE])));
    }
    bench_set(row, "output_tok_s", json_real(a_second((double)r->output_tokens, r->wall_ns)));
    bench_set(row, "ttft_p50_ms", json_real(percentile_ms(&r->ttft, 0.5)));
    bench_set(row, "ttft_p99_ms", json_real(percentile_ms(&r->ttft, 0.99)));
    bench_set(row, "itl_p50_ms", json_real(percentile_ms(&r->itl, 0.5)));
    bench_set(row, "itl_p99_ms", json_real(percentile_ms(&r->itl, 0.99)));
    if (limits->known) {
        if (limits->bound < RATE_COUNT) bench_set(row, "prefill_mfu", json_real(mfu(r, limits)));
        bench_set(row, "decode_mbu", json_real(mbu(r, limits)));
    }
    bench_end_row(row);
}

/* ---- a table ---- */

void bench_print_title(const engine *e, const bench_options *o) {
    printf("%s  %s\n", engine_name(e), engine_profile(e));
    if (o->replicas > 1) printf("%u replicas, ", o->replicas);
    printf("%u prompt tokens, %u output tokens a request\n", o->prompt_tokens, o->output_tokens);
}

void bench_print_heading(const bench_limits *limits) {
    putchar('\n');
    printf("%11s %8s %13s %12s %12s %17s %17s", "concurrency", "requests", "prefill tok/s",
           "decode tok/s", "output tok/s", "TTFT p50/p99 ms", "ITL p50/p99 ms");
    if (limits->known) printf(" %13s %12s", "prefill MFU %", "decode MBU %");
    putchar('\n');
}

static void print_row(const bench_run *r, const bench_limits *limits) {
    printf("%11u %8u", r->concurrency, r->requests);
    if (r->all)
        printf(" %13s %12s", "-", "-");
    else
        printf(" %13.1f %12.1f", tokens_a_second(&r->side[SIDE_PREFILL]),
               tokens_a_second(&r->side[SIDE_DECODE]));
    printf(" %12.1f %8.1f/%8.1f %8.2f/%8.2f", a_second((double)r->output_tokens, r->wall_ns),
           percentile_ms(&r->ttft, 0.5), percentile_ms(&r->ttft, 0.99), percentile_ms(&r->itl, 0.5),
           percentile_ms(&r->itl, 0.99));
    if (limits->known && limits->bound < RATE_COUNT)
        printf(" %13.1f", 100 * mfu(r, limits));
    else if (limits->known)
        printf(" %13s", "-");
    if (limits->known) printf(" %12.1f", 100 * mbu(r, limits));
    putchar('\n');
}

void bench_print_run(const bench_run *r, const bench_limits *limits) {
    (r->o->json ? print_json : print_row)(r, limits);
}
