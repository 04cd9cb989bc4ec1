/* load_http.c - llama-server's and OpenAI's streamed completions: HTTP/1.1, chunked, server-sent events. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/load.h"
#include "engine/base/status.h"

static void add_prompt(load_bytes *b, const load_request *r) {
    for (uint32_t i = 0; i < r->prompt_count; i++)
        load_print(b, "%s%d", i ? "," : "", r->prompt[i]);
}

static void post(load_connection *c, const load_request *r, const char *path, load_bytes *json) {
    c->in_body = c->last = false;
    c->left = c->tokens = 0;
    c->body.count = 0;
    load_print(&c->out,
               "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
               "Accept: text/event-stream\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n",
               path, r->host, json->count);
    load_add(&c->out, json->at, json->count);
    free(json->at);
}

/* cache_prompt false: each prompt is new, and looking for a common beginning would only cost. */
static void ask_llama(load_connection *c, const load_request *r) {
    load_bytes json = {0};
    load_print(&json, "{\"prompt\":[");
    add_prompt(&json, r);
    load_print(&json,
               "],\"n_predict\":%u,\"ignore_eos\":true,\"temperature\":0,\"stream\":true,"
               "\"cache_prompt\":false",
               r->output_max);
    if (r->model) load_print(&json, ",\"lora\":[{\"id\":%s,\"scale\":1.0}]", r->model);
    load_print(&json, "}");
    post(c, r, "/completion", &json);
}

static void ask_openai(load_connection *c, const load_request *r) {
    load_bytes json = {0};
    load_print(&json, "{\"model\":\"%s\",\"prompt\":[", r->model ? r->model : "");
    add_prompt(&json, r);
    load_print(&json,
               "],\"max_tokens\":%u,\"ignore_eos\":true,\"temperature\":0,\"stream\":true,"
               "\"stream_options\":{\"include_usage\":true}}",
               r->output_max);
    post(c, r, "/v1/completions", &json);
}

/* The number behind "name": in an event, or 0. */
static uint32_t number(const char *event, const char *name) {
    const char *found = strstr(event, name);
    if (!found) return 0;
    found += strlen(name);
    return (uint32_t)strtoul(found + strspn(found, "\": "), NULL, 10);
}

static void take_llama(load_connection *c, const char *event, load_news *news) {
    if (!strstr(event, "\"stop\":true")) {
        news->pieces++;
        return;
    }
    c->tokens = number(event, "\"tokens_predicted\"");
    c->last = true;
}

/* The event with usage has no choices; "[DONE]" follows it. */
static void take_openai(load_connection *c, const char *event, load_news *news) {
    if (!strncmp(event, "[DONE]", 6))
        c->last = true;
    else if (strstr(event, "\"choices\":[]"))
        c->tokens = number(event, "\"completion_tokens\"");
    else
        news->pieces++;
}

/* Every whole line of the body; an event is a line "data: ...". */
static void take_lines(load_connection *c, load_news *news,
                       void (*take)(load_connection *, const char *, load_news *)) {
    size_t used = 0;
    for (uint8_t *end; (end = memchr(c->body.at + used, '\n', c->body.count - used));) {
        char *line = (char *)c->body.at + used;
        *end = '\0';
        used = (size_t)(end - c->body.at) + 1;
        if (!strncmp(line, "data: ", 6)) take(c, line + 6, news);
        if (!strncmp(line, "error: ", 7)) {
            snprintf(c->why, sizeof c->why, "%.200s", line);
            news->error = c->why;
        }
    }
    load_drop(&c->body, used);
}

/* The answer's header; false: not all there yet. */
static bool take_header(load_connection *c, load_news *news) {
    uint8_t *end = c->in.count ? memmem(c->in.at, c->in.count, "\r\n\r\n", 4) : NULL;
    if (!end) return false;
    *end = '\0';
    const char *header = (const char *)c->in.at;
    if (strncmp(header, "HTTP/1.1 200", 12) || !strcasestr(header, "transfer-encoding: chunked")) {
        snprintf(c->why, sizeof c->why, "wanted 200 and a chunked answer: %.200s", header);
        news->error = c->why;
    }
    load_drop(&c->in, (size_t)(end - c->in.at) + 4);
    c->in_body = true;
    return !news->error;
}

/* One chunk's size line, or its bytes, or the CRLF behind them; false: nothing more to take. left
 * counts the CRLF in. */
static bool take_chunk(load_connection *c, load_news *news) {
    if (!c->left) {
        uint8_t *end = c->in.count ? memmem(c->in.at, c->in.count, "\r\n", 2) : NULL;
        if (!end) return false;
        uint32_t size = (uint32_t)strtoul((const char *)c->in.at, NULL, 16);
        if (!size) {
            if (c->in.count < (size_t)(end - c->in.at) + 4) return false;
            news->ended = true;
            c->in.count = 0;
            return false;
        }
        c->left = size + 2;
        load_drop(&c->in, (size_t)(end - c->in.at) + 2);
    }
    size_t take = c->in.count < c->left ? c->in.count : c->left;
    size_t body = c->left > 2 ? c->left - 2 : 0;
    load_add(&c->body, c->in.at, take < body ? take : body);
    load_drop(&c->in, take);
    c->left -= (uint32_t)take;
    return c->in.count > 0;
}

static void read_events(load_connection *c, load_news *news,
                        void (*take)(load_connection *, const char *, load_news *)) {
    if (!c->in_body && !take_header(c, news)) return;
    while (take_chunk(c, news)) {
    }
    if (c->body.count) take_lines(c, news, take);
    news->output_tokens = c->tokens;
    if (news->ended && !c->last) news->error = "the stream ended without its last event";
}

static void read_llama(load_connection *c, load_news *news) { read_events(c, news, take_llama); }
static void read_openai(load_connection *c, load_news *news) { read_events(c, news, take_openai); }

const load_protocol load_llama = {
    .name = "llama", .once = true, .ask = ask_llama, .read = read_llama};
const load_protocol load_openai = {
    .name = "openai", .once = true, .ask = ask_openai, .read = read_openai};
