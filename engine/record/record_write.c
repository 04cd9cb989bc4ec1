/* record_write.c - a finished request -> its line; the fields are in record.h.
 *
 * By hand, because a JSON library's integers have a sign and a seed has none, and because thousands
 * of ids need no tree. */
// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/record/record.h"

/* "key":"text", whatever bytes the text has. */
static void write_text(FILE *out, const char *key, const char *text) {
    char shown[PATH_MAX];
    json_t *value = json_string(text);
    if (!value) { /* not UTF-8 */
        esp_show(shown, sizeof shown, text, strlen(text));
        value = json_string(shown);
    }
    char *quoted = json_dumps(value, JSON_ENCODE_ANY);
    ESP_ASSERT(quoted);
    fprintf(out, ",\"%s\":%s", key, quoted);
    free(quoted);
    json_decref(value);
}

/* The request's clock has no date: its age is taken from the one that has. */
static void write_time(FILE *out, int64_t done_us) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000 - (clock_now_us() - done_us);
    time_t seconds = us / 1000000;
    struct tm date;
    char text[32];
    gmtime_r(&seconds, &date);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &date);
    fprintf(out, ",\"time\":\"%s.%03dZ\"", text, (int)(us % 1000000 / 1000));
}

static void write_ids(FILE *out, const char *key, const int32_t *ids, uint32_t count) {
    fprintf(out, ",\"%s\":[", key);
    for (uint32_t i = 0; i < count; i++)
        fprintf(out, i ? ",%d" : "%d", ids[i]);
    fputc(']', out);
}

static void write_stops(FILE *out, const stop_set *stops) {
    fputs(",\"stop_hex\":[", out);
    for (uint32_t s = 0; s < stops->count; s++) {
        fputs(s ? ",\"" : "\"", out);
        for (uint32_t i = 0; i < stops->bytes[s]; i++)
            fprintf(out, "%02x", (unsigned char)stops->text[s][i]);
        fputc('"', out);
    }
    fputc(']', out);
}

/* Nine digits name a float32. */
static void write_sampling(FILE *out, const sample_policy *p) {
    fprintf(out,
            ",\"seed\":\"%" PRIu64 "\",\"sampling\":{\"temperature\":%.9g,\"top_k\":%u,"
            "\"top_p\":%.9g,\"min_p\":%.9g,\"repetition_penalty\":%.9g,\"presence_penalty\":%.9g,"
            "\"frequency_penalty\":%.9g,\"logit_bias\":[",
            p->seed, (double)p->temperature, p->top_k, (double)p->top_p, (double)p->min_p,
            (double)p->repetition_penalty, (double)p->presence_penalty,
            (double)p->frequency_penalty);
    for (uint32_t i = 0; i < p->bias_count; i++)
        fprintf(out, "%s[%d,%.9g]", i ? "," : "", p->bias[i].id, (double)p->bias[i].bias);
    fputs("]}", out);
}

static void write_adapter(FILE *out, const request_adapter *by) {
    char label[REQUEST_ADAPTER_LABEL_BYTES];
    if (!*request_adapter_label(by, label)) return;
    write_text(out, "adapter", label);
    write_text(out, "adapter_digest", by->digest);
}

void record_write(FILE *out, const engine *e, const request *r) {
    uint32_t count = atomic_load_explicit(&r->published, memory_order_acquire);
    ESP_ASSERT(r->row_digests && engine_digest(e)[0]);
    fputs("{\"format\":\"" RECORD_FORMAT "\"", out);
    write_time(out, r->done_us);
    write_text(out, "model", engine_name(e));
    write_text(out, "model_path", engine_path(e));
    write_text(out, "digest", engine_digest(e));
    write_text(out, "profile", engine_profile(e));
    write_adapter(out, &r->by);
    write_ids(out, "prompt", r->tokens, r->prompt_count);
    fprintf(out, ",\"max_tokens\":%u,\"ignore_eos\":%s", r->output_max,
            r->ignore_eos ? "true" : "false");
    write_stops(out, &r->stops);
    write_sampling(out, &r->policy);
    write_ids(out, "ids", r->tokens + r->prompt_count, count);
    fprintf(out, ",\"finish_reason\":\"%s\",\"logits_xxh3\":\"", finish_reason_name(r->finish));
    for (uint32_t i = 0; i < count; i++)
        fprintf(out, "%016" PRIx64, r->row_digests[i]);
    fputs("\"}\n", out);
}
