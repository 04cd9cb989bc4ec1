/* metrics.c - one line a number; names end in their unit, counters in _total. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/serve/exposition.h"

static void gauge(FILE *out, const char *name, const char *help, double value) {
    exposition_head(out, name, "gauge", help);
    fprintf(out, "espalier_%s %.10g\n", name, value);
}

static void counter(FILE *out, const char *name, const char *help, uint64_t value) {
    exposition_head(out, name, "counter", help);
    fprintf(out, "espalier_%s %" PRIu64 "\n", name, value);
}

static void write_histogram(FILE *out, const char *name, const char *help, const histogram *h) {
    exposition_head(out, name, "histogram", help);
    exposition_histogram(out, name, NULL, NULL, h);
}

static void write_build(FILE *out, const metrics_input *in) {
    exposition_head(out, "build_info", "gauge", "What is running; always 1.");
    fputs("espalier_build_info{", out);
    exposition_label(out, "version", in->version);
    fputc(',', out);
    exposition_label(out, "model", in->model);
    fputc(',', out);
    exposition_label(out, "profile", in->profile);
    fputs("} 1\n", out);
}

static void write_finished(FILE *out, const engine_stats *s) {
    exposition_head(out, "requests_finished_total", "counter", "Requests that ended, by reason.");
    for (int reason = FINISH_STOP; reason <= FINISH_ERROR; reason++)
        fprintf(out, "espalier_requests_finished_total{reason=\"%s\"} %" PRIu64 "\n",
                finish_reason_name((finish_reason)reason), s->finished_total[reason]);
}

/* Of several replicas the oldest. */
static double step_age(const metrics_input *in) {
    double age = metrics_step_age(in->stats, in->now_us);
    for (uint32_t i = 0; i < in->replica_count; i++) {
        double one = metrics_step_age(&in->replicas[i].stats, in->now_us);
        if (one > age) age = one;
    }
    return age;
}

static void write_state(FILE *out, const metrics_input *in) {
    const engine_stats *s = in->stats;
    gauge(out, "serving", "1 while new requests are taken.", in->serving);
    gauge(out, "calls", "Live gRPC calls.", in->calls);
    gauge(out, "requests_live", "Requests submitted and not ended.", s->live);
    gauge(out, "requests_waiting", "Requests that wait for their first step.", s->waiting);
    gauge(out, "requests_running", "Requests that take part in steps.", s->running);
    gauge(out, "kv_pages_used", "Attention memory pages held.", s->pages_used);
    gauge(out, "kv_pages_total", "Attention memory pages there are.", s->pages_total);
    gauge(out, "step_age_seconds", "Time since the engine last made progress while it has work.",
          step_age(in));
}

static void write_counts(FILE *out, const engine_stats *s) {
    counter(out, "requests_total", "Requests submitted.", s->requests_total);
    write_finished(out, s);
    counter(out, "prompt_tokens_total", "Prompt tokens of started requests.",
            s->prompt_tokens_total);
    counter(out, "output_tokens_total", "Tokens generated.", s->output_tokens_total);
    counter(out, "embeddings_total", "Inputs embedded.", s->embeddings_total);
    counter(out, "preemptions_total", "Times a request gave its pages up and began again.",
            s->preemptions_total);
    counter(out, "steps_total", "Engine steps.", s->steps_total);
    counter(out, "steps_ahead_total", "Engine steps launched before the one before was collected.",
            s->steps_ahead_total);
    counter(out, "step_tokens_total", "Tokens computed in steps, prompt and output.",
            s->step_tokens_total);
}

/* ---- of each replica ---- */

static uint64_t get_up(const metrics_replica *r) { return r->up; }
static uint64_t get_running(const metrics_replica *r) { return r->stats.running; }
static uint64_t get_waiting(const metrics_replica *r) { return r->stats.waiting; }
static uint64_t get_pages(const metrics_replica *r) { return r->stats.pages_used; }
static uint64_t get_requests(const metrics_replica *r) { return r->stats.requests_total; }
static uint64_t get_prompt_tokens(const metrics_replica *r) { return r->stats.prompt_tokens_total; }
static uint64_t get_output_tokens(const metrics_replica *r) { return r->stats.output_tokens_total; }
static uint64_t get_steps(const metrics_replica *r) { return r->stats.steps_total; }

static const struct {
    const char *name, *kind, *help;
    uint64_t (*get)(const metrics_replica *r);
} of_replicas[] = {
    {"replica_up", "gauge", "1 while the replica takes requests.", get_up},
    {"replica_requests_running", "gauge", "Requests that take part in its steps.", get_running},
    {"replica_requests_waiting", "gauge", "Requests that wait for its steps.", get_waiting},
    {"replica_kv_pages_used", "gauge", "Attention memory pages held there.", get_pages},
    {"replica_requests_total", "counter", "Requests that went there.", get_requests},
    {"replica_prompt_tokens_total", "counter", "Prompt tokens of started requests there.",
     get_prompt_tokens},
    {"replica_output_tokens_total", "counter", "Tokens generated there.", get_output_tokens},
    {"replica_steps_total", "counter", "Its steps.", get_steps},
};

static void write_replicas(FILE *out, const metrics_input *in) {
    if (in->replica_count < 2) return;
    for (size_t k = 0; k < sizeof of_replicas / sizeof *of_replicas; k++) {
        exposition_head(out, of_replicas[k].name, of_replicas[k].kind, of_replicas[k].help);
        for (uint32_t i = 0; i < in->replica_count; i++)
            fprintf(out, "espalier_%s{replica=\"%u\"} %" PRIu64 "\n", of_replicas[k].name, i,
                    of_replicas[k].get(&in->replicas[i]));
    }
}

static void write_records(FILE *out, const record_stats *records) {
    if (!records) return;
    counter(out, "records_total", "Finished requests written to --record.", records->written);
    counter(out, "records_lost_total", "Finished requests that could not be written there.",
            records->lost);
}

static void write_adapters(FILE *out, const metrics_input *in) {
    if (!in->adapters) return;
    adapter_info *infos;
    size_t count;
    adapters_stats stats;
    group_look(in->adapters, &infos, &count, &stats);
    adapter_metrics_write(in->by_adapter, out, infos, count, &stats);
    free(infos);
}

char *metrics_page(const metrics_input *in, size_t *bytes) {
    char *page = NULL;
    FILE *out = open_memstream(&page, bytes);
    ESP_ASSERT(out);
    write_build(out, in);
    write_state(out, in);
    write_counts(out, in->stats);
    write_replicas(out, in);
    write_records(out, in->records);
    write_histogram(out, "time_to_first_token_seconds", "Submission to first token.",
                    &in->stats->ttft);
    write_histogram(out, "inter_token_latency_seconds", "One token to the next of a request.",
                    &in->stats->itl);
    write_histogram(out, "request_duration_seconds", "Submission to the end.", &in->stats->e2e);
    write_adapters(out, in);
    fclose(out);
    return page;
}

double metrics_step_age(const engine_stats *s, int64_t now_us) {
    int64_t from_us = 0;
    if (s->step_running)
        from_us = s->step_began_us;
    else if (s->running)
        from_us = s->last_step_us;
    return from_us && now_us > from_us ? (double)(now_us - from_us) * 1e-6 : 0;
}
