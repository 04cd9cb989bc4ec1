/* bench.c - espalier bench: an engine in this process under closed-loop load, one row a
 * concurrency.
 *
 * C requests live at any time; when one ends the next is sent. Prompts are random ids from a fixed
 * seed and the end-of-text token is ignored, so every run does the same work. Figures:
 *
 *   prefill tok/s   prompt tokens computed / time of the steps that computed any
 *   decode tok/s    tokens of the steps that only decoded / time of those steps
 *   output tok/s    output tokens / wall time
 *   TTFT            request sent to its first token, waiting included
 *   ITL             between two tokens of one request */
// SPDX-License-Identifier: Apache-2.0
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/commands/commands.h"
#include "engine/commands/progress.h"
#include "engine/engine.h"

#ifndef ESPALIER_COMMIT
#define ESPALIER_COMMIT "unknown"
#endif

enum { BENCH_SEED = 1, REQUESTS_MIN = 4, REQUESTS_PER_STREAM = 2 };

typedef struct options {
    model_config model;
    const char *concurrency;
    uint32_t prompt_tokens, output_tokens, requests;
    bool json;
} options;

#define FIELD(field) .offset = offsetof(options, field)

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
    {.name = "json",
     .kind = FLAG_SWITCH,
     FIELD(json),
     .help = "one JSON object a line instead of a table"},
    {.name = "roofline", .kind = FLAG_LATER},
    {.name = "ops", .kind = FLAG_LATER},
};
static const flag_table own_table = {
    .title = "Load", .flags = own_flags, .count = sizeof own_flags / sizeof *own_flags};

static const flag_command command = {
    .name = "bench",
    .summary = "Measures throughput and latency of an engine in this process.",
    .usage = "--model PATH [options]",
    .examples = "  espalier bench --model m.gguf --concurrency 1,16 --prompt-tokens 256\n"
                "  espalier bench --model m.gguf --json >> results.jsonl\n",
    .part = {{&own_table, 0}, {&config_model_flags, offsetof(options, model)}},
};

/* ---- samples and their percentiles ---- */

typedef struct samples {
    int64_t *us;
    size_t count;
} samples;

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Nearest rank, in ms; the samples are sorted. */
static double percentile_ms(const samples *s, double share) {
    if (s->count == 0) return 0;
    size_t rank = (size_t)(share * (double)(s->count - 1) + 0.5);
    return (double)s->us[rank] / 1e3;
}

/* ---- one measurement ---- */

typedef struct stream {
    request *r; /* NULL: free */
    uint32_t seen;
    int64_t last_us;
} stream;

typedef struct run {
    engine *e;
    const options *o;
    uint32_t concurrency, requests;
    stream *streams; /* [concurrency] */
    int32_t *prompt; /* [prompt_tokens] */
    uint32_t sent, finished;
    progress *bar;

    samples ttft, itl;
    uint64_t output_tokens, prefill_tokens, decode_tokens;
    int64_t prefill_us, decode_us, wall_us;
} run;

/* Ids that a text could hold: control tokens are passed over. */
static void random_prompt(run *r, uint32_t index) {
    const tokenizer *tok = engine_tokenizer(r->e);
    const uint32_t key[2] = {BENCH_SEED, 0};
    for (uint32_t i = 0; i < r->o->prompt_tokens; i++) {
        uint32_t counter[4] = {i, index, 0, 0}, word[4];
        do {
            philox(counter, key, word);
            counter[2]++;
            r->prompt[i] = (int32_t)(word[0] % tok_count(tok));
        } while (tok_is_control(tok, r->prompt[i]));
    }
}

static esp_code send_next(run *r, stream *s, esp_error *err) {
    random_prompt(r, r->sent++);
    request_options want = {.prompt = r->prompt,
                            .prompt_count = r->o->prompt_tokens,
                            .output_max = r->o->output_tokens,
                            .ignore_eos = true};
    s->seen = 0;
    esp_code code = request_new(&s->r, &want, engine_spec(r->e)->vocab, err);
    return code == ESP_OK ? engine_submit(r->e, s->r, err) : code;
}

/* Takes the new tokens of a stream; *decoded counts those that were not the first of their request.
 */
static esp_code collect(run *r, stream *s, int64_t now_us, uint32_t *decoded, esp_error *err) {
    bool done = atomic_load(&s->r->done);
    for (uint32_t published = atomic_load(&s->r->published); s->seen < published; s->seen++) {
        if (s->seen == 0) {
            r->ttft.us[r->ttft.count++] = now_us - s->r->submitted_us;
        } else {
            r->itl.us[r->itl.count++] = now_us - s->last_us;
            ++*decoded;
        }
        s->last_us = now_us;
        r->output_tokens++;
    }
    if (!done) return ESP_OK;
    if (s->r->finish == FINISH_ERROR) {
        *err = s->r->error;
        return err->code;
    }
    request_unref(s->r);
    s->r = NULL;
    progress_step(r->bar, ++r->finished, r->requests);
    return ESP_OK;
}

static uint64_t tokens_computed(const engine *e) {
    engine_stats stats;
    engine_read_stats(e, &stats);
    return stats.step_tokens_total;
}

/* One step, and its time to the side it belongs to. */
static esp_code step(run *r, esp_error *err) {
    uint64_t before = tokens_computed(r->e);
    int64_t began_us = clock_now_us();
    engine_step(r->e);
    int64_t ended_us = clock_now_us();
    uint32_t decoded = 0;
    for (uint32_t i = 0; i < r->concurrency; i++) {
        if (!r->streams[i].r) continue;
        esp_code code = collect(r, &r->streams[i], ended_us, &decoded, err);
        if (code != ESP_OK) return code;
    }
    uint64_t computed = tokens_computed(r->e) - before;
    if (computed > decoded) {
        r->prefill_tokens += computed - decoded;
        r->prefill_us += ended_us - began_us;
    } else {
        r->decode_tokens += decoded;
        r->decode_us += ended_us - began_us;
    }
    return ESP_OK;
}

static esp_code drive(run *r, esp_error *err) {
    int64_t began_us = clock_now_us();
    while (r->finished < r->requests) {
        for (uint32_t i = 0; i < r->concurrency && r->sent < r->requests; i++) {
            if (r->streams[i].r) continue;
            esp_code code = send_next(r, &r->streams[i], err);
            if (code != ESP_OK) return code;
        }
        esp_code code = step(r, err);
        if (code != ESP_OK) return code;
    }
    r->wall_us = clock_now_us() - began_us;
    qsort(r->ttft.us, r->ttft.count, sizeof *r->ttft.us, by_value);
    qsort(r->itl.us, r->itl.count, sizeof *r->itl.us, by_value);
    return ESP_OK;
}

static run run_open(engine *e, const options *o, uint32_t concurrency, uint32_t requests) {
    run r = {.e = e, .o = o, .concurrency = concurrency, .requests = requests};
    r.streams = mem_new(concurrency, sizeof *r.streams);
    r.prompt = mem_new(o->prompt_tokens, sizeof *r.prompt);
    r.ttft.us = mem_new(requests, sizeof *r.ttft.us);
    r.itl.us = mem_new((size_t)requests * o->output_tokens, sizeof *r.itl.us);
    return r;
}

static void run_close(run *r) {
    for (uint32_t i = 0; i < r->concurrency; i++)
        request_unref(r->streams[i].r);
    free(r->streams);
    free(r->prompt);
    free(r->ttft.us);
    free(r->itl.us);
}

/* ---- rows ---- */

static double rate(uint64_t count, int64_t us) {
    return us > 0 ? (double)count * 1e6 / (double)us : 0;
}

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

static void set(json_t *row, const char *key, json_t *value) {
    ESP_ASSERT(json_object_set_new(row, key, value) == 0);
}

static void print_json(const run *r) {
    char device[128];
    device_name(device, sizeof device);
    json_t *row = json_object();
    set(row, "bench", json_string("engine"));
    set(row, "commit", json_string(ESPALIER_COMMIT));
    set(row, "device", json_string(device));
    set(row, "profile", json_string(engine_profile(r->e)));
    set(row, "model", json_string(engine_name(r->e)));
    set(row, "concurrency", json_integer(r->concurrency));
    set(row, "requests", json_integer(r->requests));
    set(row, "prompt_tokens", json_integer(r->o->prompt_tokens));
    set(row, "output_tokens", json_integer(r->o->output_tokens));
    set(row, "prefill_tok_s", json_real(rate(r->prefill_tokens, r->prefill_us)));
    set(row, "decode_tok_s", json_real(rate(r->decode_tokens, r->decode_us)));
    set(row, "output_tok_s", json_real(rate(r->output_tokens, r->wall_us)));
    set(row, "ttft_p50_ms", json_real(percentile_ms(&r->ttft, 0.5)));
    set(row, "ttft_p99_ms", json_real(percentile_ms(&r->ttft, 0.99)));
    set(row, "itl_p50_ms", json_real(percentile_ms(&r->itl, 0.5)));
    set(row, "itl_p99_ms", json_real(percentile_ms(&r->itl, 0.99)));
    json_dumpf(row, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(row);
}

static void print_heading(const engine *e, const options *o) {
    printf("%s  %s\n%u prompt tokens, %u output tokens a request\n\n", engine_name(e),
           engine_profile(e), o->prompt_tokens, o->output_tokens);
    printf("%11s %8s %13s %12s %12s %17s %17s\n", "concurrency", "requests", "prefill tok/s",
           "decode tok/s", "output tok/s", "TTFT p50/p99 ms", "ITL p50/p99 ms");
}

static void print_row(const run *r) {
    printf("%11u %8u %13.1f %12.1f %12.1f %8.1f/%8.1f %8.2f/%8.2f\n", r->concurrency, r->requests,
           rate(r->prefill_tokens, r->prefill_us), rate(r->decode_tokens, r->decode_us),
           rate(r->output_tokens, r->wall_us), percentile_ms(&r->ttft, 0.5),
           percentile_ms(&r->ttft, 0.99), percentile_ms(&r->itl, 0.5),
           percentile_ms(&r->itl, 0.99));
}

/* ---- all of them ---- */

static esp_code measure(engine *e, const options *o, uint32_t concurrency, uint32_t requests,
                        bool print, esp_error *err) {
    char label[32];
    snprintf(label, sizeof label, "concurrency %u", concurrency);
    progress bar = progress_begin(label, "requests");
    run r = run_open(e, o, concurrency, requests);
    r.bar = &bar;
    esp_code code = drive(&r, err);
    progress_end(&bar);
    if (code == ESP_OK && print) (o->json ? print_json : print_row)(&r);
    fflush(stdout);
    run_close(&r);
    return code;
}

static esp_code bench(engine *e, const options *o, const tok_ids *levels, esp_error *err) {
    if (engine_embeds(e))
        return esp_fail_field(err, ESP_PRECONDITION, "--model",
                              "--model: \"%s\" embeds texts; wanted a model that generates",
                              engine_name(e));
    if (!o->json) print_heading(e, o);
    fflush(stdout);
    /* Not measured: the first touch of every weight and page. */
    esp_code code = measure(e, o, 1, 1, false, err);
    for (uint32_t i = 0; code == ESP_OK && i < levels->count; i++) {
        uint32_t concurrency = (uint32_t)levels->at[i], requests = o->requests;
        if (!requests) requests = REQUESTS_PER_STREAM * concurrency;
        if (!o->requests && requests < REQUESTS_MIN) requests = REQUESTS_MIN;
        code = measure(e, o, concurrency, requests, true, err);
    }
    return code;
}

esp_code command_bench(int argc, char **argv, esp_error *err) {
    options o = {.prompt_tokens = 128, .output_tokens = 64, .concurrency = "1,4,16,32"};
    bool go;
    esp_code code = command_options(&command, argc, argv, &o, &go, err);
    if (!go) return code;
    engine *e = NULL;
    tok_ids levels = {0};
    uint32_t most = 1;
    progress bar = progress_begin("loading", "GB");
    code = read_concurrency(o.concurrency, &levels, err);
    for (uint32_t i = 0; i < levels.count; i++)
        if ((uint32_t)levels.at[i] > most) most = (uint32_t)levels.at[i];
    if (!o.model.max_seqs) o.model.max_seqs = most;
    if (!o.model.step_tokens && most > 512) o.model.step_tokens = most;
    if (code == ESP_OK) code = engine_open(&e, &o.model, progress_step, &bar, err);
    progress_end(&bar);
    if (code == ESP_OK) code = bench(e, &o, &levels, err);
    engine_close(e);
    tok_ids_free(&levels);
    return code;
}
