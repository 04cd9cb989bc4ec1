/* bench.c - espalier bench: an engine in this process, or several replicas, under load, one measurement a
 * concurrency; the machine's limits (--roofline) and where the time went (--ops). */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>

#include "engine/base/least.h"
#include "engine/commands/bench_parts.h"
#include "engine/commands/commands.h"

enum { REQUESTS_MIN = 4, REQUESTS_PER_STREAM = 2, WARM_OUTPUT = 4 };

#define FIELD(field) .offset = offsetof(bench_options, field)

static const flag own_flags[] = {
    {.name = "prompt-tokens",
     .kind = FLAG_U32,
     FIELD(prompt_tokens),
     .least = 1,
     .most = LIMIT_CONTEXT_MAX,
     .placeholder = "N",
     .help = "tokens of each prompt; default 128"},
    {.name = "output-tokens",
     .kind = FLAG_U32,
     FIELD(output_tokens),
     .least = 1,
     .most = LIMIT_CONTEXT_MAX,
     .placeholder = "N",
     .help = "tokens of each answer; default 64"},
    {.name = "concurrency",
     .kind = FLAG_TEXT,
     FIELD(concurrency),
     .placeholder = "1,4,16",
     .help = "requests that live at once, one measurement each; default 1,4,16,32"},
    {.name = "requests",
     .kind = FLAG_U32,
     FIELD(requests),
     .least = 1,
     .most = 1000000,
     .placeholder = "N",
     .help = "requests of a measurement; default: twice the concurrency, at least 4"},
    {.name = "replicas",
     .kind = FLAG_U32,
     FIELD(replicas),
     .most = LIMIT_REPLICAS_MAX,
     .placeholder = "N",
     .help = "copies of the model, each with --tp ranks, that share the requests as those of serve "
             "do; what their steps took is not told; default 1"},
    {.name = "json",
     .kind = FLAG_SWITCH,
     FIELD(json),
     .help = "one JSON object a line instead of a table"},
    {.name = "roofline",
     .kind = FLAG_SWITCH,
     FIELD(roofline),
     .help = "measure this machine's limits first, and print how much of them was used; alone, "
             "without --model, the limits only"},
    {.name = "ops",
     .kind = FLAG_SWITCH,
     FIELD(ops),
     .help = "time every op, and print where the time of the steps went"},
};
static const flag_table own_table = {
    .title = "Load", .flags = own_flags, .count = sizeof own_flags / sizeof *own_flags};

static const flag_command command = {
    .name = "bench",
    .summary = "Measures throughput and latency of an engine in this process.",
    .usage = "--model PATH [options] | --roofline [--threads N]",
    .examples = "  espalier bench --model m.gguf --concurrency 1,16 --prompt-tokens 256\n"
                "  espalier bench --model m.gguf --json >> results.jsonl\n"
                "  espalier bench --model m.gguf --adapter a=intents/ --adapter b=triage/\n"
                "  espalier bench --model m.gguf --concurrency 1 --roofline --ops\n"
                "  espalier bench --model m.gguf --device cuda --tp 2 --replicas 4\n",
    .alone = "roofline",
    .part = {{&own_table, 0}, {&config_model_flags, offsetof(bench_options, model)}},
};

/* ---- measurements ---- */

typedef struct bench {
    engine *e;
    replicas *all; /* NULL: e alone */
    const bench_options *o;
    op_timer *timer; /* NULL: none */
    bench_limits limits;
} bench;

static esp_code measure(const bench *b, uint32_t concurrency, uint32_t requests, bool print,
                        esp_error *err) {
    char label[32];
    snprintf(label, sizeof label, "concurrency %u", concurrency);
    progress bar = progress_begin(label, "requests");
    bench_run r = {.e = b->e,
                   .all = b->all,
                   .o = b->o,
                   .timer = b->timer,
                   .concurrency = concurrency,
                   .requests = requests};
    esp_code code = bench_load(&r, &bar, err);
    progress_end(&bar);
    if (code == ESP_OK && print) bench_print_run(&r, &b->limits);
    if (code == ESP_OK && print && b->timer) bench_print_ops(&r);
    fflush(stdout);
    bench_run_close(&r);
    return code;
}

static esp_code measure_limits(bench *b, esp_error *err) {
    model_cost cost = b->e ? engine_cost(b->e) : (model_cost){0};
    esp_code code = bench_measure_limits(b->o, &cost, &b->limits, err);
    if (code == ESP_OK) bench_print_limits(b->o, &b->limits);
    return code;
}

static uint32_t largest(const tok_ids *levels) {
    uint32_t found = 1;
    for (uint32_t i = 0; i < levels->count; i++)
        found = most(found, (uint32_t)levels->at[i]);
    return found;
}

/* Touches every weight, and every page and adapter of the largest measurement: prompts nearly as long as its sequences
 * become, and the few steps of answers in which a device captures its graphs. */
static esp_code warm_up(const bench *b, const tok_ids *levels, esp_error *err) {
    bench_options whole = *b->o;
    whole.output_tokens = least(whole.output_tokens, WARM_OUTPUT);
    whole.prompt_tokens += b->o->output_tokens - whole.output_tokens;
    bench warm = *b;
    warm.o = &whole;
    uint32_t concurrency = most(largest(levels), b->all ? replicas_count(b->all) : 1);
    uint32_t requests = most(concurrency, b->o->model.adapters.count);
    return measure(&warm, concurrency, requests, false, err);
}

static esp_code measure_all(bench *b, const tok_ids *levels, esp_error *err) {
    const bench_options *o = b->o;
    if (engine_embeds(b->e))
        return esp_fail_field(err, ESP_PRECONDITION, "--model",
                              "--model: \"%s\" embeds texts; wanted a model that generates",
                              engine_name(b->e));
    esp_code code = warm_up(b, levels, err);
    if (code == ESP_OK && o->roofline) code = measure_limits(b, err);
    if (code == ESP_OK && !o->json) bench_print_title(b->e, o);
    for (uint32_t i = 0; code == ESP_OK && i < levels->count; i++) {
        /* Above all rows, or where tables of ops stand between them above each. */
        if (!o->json && (i == 0 || o->ops)) bench_print_heading(&b->limits);
        fflush(stdout);
        uint32_t concurrency = (uint32_t)levels->at[i], requests = o->requests;
        if (!requests) requests = REQUESTS_PER_STREAM * concurrency;
        if (!o->requests && requests < REQUESTS_MIN) requests = REQUESTS_MIN;
        code = measure(b, concurrency, requests, true, err);
    }
    return code;
}

/* Those that --replicas leaves out look at the steps of one engine. */
static esp_code check_replicas(const bench_options *o, esp_error *err) {
    if (o->replicas > 1 && (o->ops || o->roofline))
        return esp_fail_field(err, ESP_OUT_OF_RANGE, "--replicas",
                              "--replicas %u does not go with %s, which looks at the steps of one "
                              "engine; leave one of them away",
                              o->replicas, o->ops ? "--ops" : "--roofline");
    return config_replicas_check(&o->model, o->replicas, err);
}

/* e is NULL where this process was another one's ranks: it is done. */
static esp_code open_all(bench *b, progress *bar, esp_error *err) {
    const bench_options *o = b->o;
    if (o->replicas <= 1) return open_engine(&b->e, &o->model, progress_step, bar, err);
    esp_code code = replicas_open(&b->all, &o->model, o->replicas, progress_step, bar, err);
    if (code != ESP_OK) return code;
    b->e = replicas_first(b->all);
    return replicas_start(b->all, err);
}

static void close_all(bench *b) {
    if (b->all)
        replicas_close(b->all);
    else
        engine_close(b->e);
}

static esp_code bench_model(bench_options *o, esp_error *err) {
    bench b = {.o = o, .timer = o->ops ? op_timer_open() : NULL};
    tok_ids levels = {0};
    esp_code code = read_concurrency(o->concurrency, &levels, err);
    const uint32_t streams = largest(&levels);
    if (!o->model.max_seqs) o->model.max_seqs = streams;
    if (!o->model.step_tokens && streams > 512) o->model.step_tokens = streams;
    o->model.op_timer = b.timer;
    progress bar = progress_begin("loading", "GB");
    if (code == ESP_OK) code = open_all(&b, &bar, err);
    progress_end(&bar);
    if (code == ESP_OK && b.e) code = measure_all(&b, &levels, err);
    close_all(&b);
    op_timer_close(b.timer);
    tok_ids_free(&levels);
    return code;
}

esp_code command_bench(int argc, char **argv, esp_error *err) {
    bench_options o = {.prompt_tokens = 128, .output_tokens = 64, .concurrency = "1,4,16,32"};
    bool go;
    esp_code code = command_options(&command, argc, argv, &o, &go, err);
    if (!go) return code;
    if ((code = check_replicas(&o, err)) != ESP_OK) return code;
    return o.model.model_path ? bench_model(&o, err) : measure_limits(&(bench){.o = &o}, err);
}
