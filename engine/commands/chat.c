/* chat.c - espalier chat: a conversation with a running server, or one streamed answer. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/commands/commands.h"
#include "engine/commands/remote.h"
#include "engine/config.h"

typedef struct options {
    client_options connection;
    const char *model, *prompt;
    uint32_t max_tokens;
    bool stats;
} options;

static const flag own_flags[] = {
    {.name = "model",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, model),
     .placeholder = "NAME",
     .help = "which of the server's models; default: the one it serves"},
    {.name = "prompt",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, prompt),
     .placeholder = "TEXT",
     .help = "print the answer to this and leave"},
    {.name = "max-tokens",
     .kind = FLAG_U32,
     .offset = offsetof(options, max_tokens),
     .least = 1,
     .most = LIMIT_CONTEXT_MAX,
     .placeholder = "N",
     .help = "most tokens of an answer; default: the server's"},
    {.name = "stats",
     .kind = FLAG_SWITCH,
     .offset = offsetof(options, stats),
     .help = "after each answer, time to first token and tokens per second on stderr"},
};
static const flag_table own_table = {
    .title = "Chat", .flags = own_flags, .count = sizeof own_flags / sizeof *own_flags};

static const flag_command command = {
    .name = "chat",
    .summary = "Talks to the server at HOST:PORT (default " DEFAULT_ADDRESS "). Ctrl-D ends.",
    .usage = "[HOST:PORT] [--model NAME] [--prompt TEXT] [--stats] [options]",
    .examples = "  espalier chat\n  espalier chat --prompt \"What is an espalier?\" --stats\n",
    .positional = "HOST:PORT",
    .positional_offset = offsetof(options, connection.address),
    .part = {{&own_table, 0}, {&remote_flags, offsetof(options, connection)}},
};

#ifdef ESPALIER_SERVER
typedef struct printer {
    bool printed;
} printer;

static void print_text(void *arg, const char *text, size_t bytes) {
    printer *p = arg;
    print_model_text(text, bytes);
    p->printed |= bytes > 0;
    fflush(stdout);
}

static void print_stats(const client_result *r) {
    double seconds = (r->total_ms - r->ttft_ms) / 1e3;
    double rate = r->output_tokens > 1 && seconds > 0 ? (r->output_tokens - 1) / seconds : 0;
    fprintf(stderr,
            "ttft %.1f ms, %.1f tok/s, prompt %u tokens, answer %u tokens, finish %s, seed %llu\n",
            r->ttft_ms, rate, r->prompt_tokens, r->output_tokens, r->finish_reason,
            (unsigned long long)r->seed);
}

static esp_code answer(client *c, const options *o, const client_message *messages, uint32_t count,
                       client_result *result, esp_error *err) {
    printer p = {0};
    esp_code code = client_chat(c, o->model ? o->model : "", messages, count, o->max_tokens,
                                print_text, &p, result, err);
    if (p.printed || code == ESP_OK) putchar('\n');
    fflush(stdout);
    if (code == ESP_OK && o->stats) print_stats(result);
    return code;
}

static esp_code answer_once(client *c, const options *o, esp_error *err) {
    client_message message = {.role = "user", .content = o->prompt};
    client_result result = {0};
    esp_code code = answer(c, o, &message, 1, &result, err);
    free(result.text);
    return code;
}

/* What was said; owns the contents. */
typedef struct history {
    client_message *at;
    uint32_t count;
} history;

static void remember(history *h, const char *role, char *content) {
    h->at = mem_resize(h->at, h->count + 1, sizeof *h->at);
    h->at[h->count++] = (client_message){.role = role, .content = content};
}

static void forget_last(history *h) { free((char *)h->at[--h->count].content); }

/* The next line without its newline, malloc'd, or NULL at the end. Empty lines are passed over. */
static char *read_line(bool terminal) {
    char *line = NULL;
    size_t capacity = 0;
    for (;;) {
        if (terminal) fprintf(stderr, "> ");
        if (getline(&line, &capacity, stdin) < 0) {
            free(line);
            return NULL;
        }
        line[strcspn(line, "\n")] = '\0';
        if (*line) return line;
    }
}

/* One turn. A refused one is told and taken back, so that the talk can go on; a server that is gone
 * ends it. */
static esp_code take_turn(client *c, const options *o, history *h, bool terminal, esp_error *err) {
    client_result result = {0};
    esp_code code = answer(c, o, h->at, h->count, &result, err);
    if (code == ESP_OK) {
        remember(h, "assistant", result.text ? result.text : mem_copy_text("", 0));
        return ESP_OK;
    }
    free(result.text);
    forget_last(h);
    if (!terminal || code == ESP_UNAVAILABLE) return code;
    fprintf(stderr, "%s\n", err->message);
    return ESP_OK;
}

static esp_code converse(client *c, const options *o, esp_error *err) {
    history h = {0};
    bool terminal = isatty(STDIN_FILENO) == 1;
    esp_code code = ESP_OK;
    if (terminal) fprintf(stderr, "Connected to %s. Ctrl-D ends.\n", o->connection.address);
    for (char *line; code == ESP_OK && (line = read_line(terminal));) {
        remember(&h, "user", line);
        code = take_turn(c, o, &h, terminal, err);
    }
    if (terminal && code == ESP_OK) fputc('\n', stderr);
    while (h.count)
        forget_last(&h);
    free(h.at);
    return code;
}

static esp_code chat(const options *o, esp_error *err) {
    client *c = NULL;
    esp_code code = remote_open(&c, &o->connection, err);
    if (code == ESP_OK) code = o->prompt ? answer_once(c, o, err) : converse(c, o, err);
    client_close(c);
    return code;
}
#else
static esp_code chat(const options *o, esp_error *err) {
    (void)o;
    return esp_fail(err, ESP_UNIMPLEMENTED,
                    "this build has no gRPC client; configure it with -DESPALIER_SERVER=ON");
}
#endif

esp_code command_chat(int argc, char **argv, esp_error *err) {
    options o = {.connection = {.address = DEFAULT_ADDRESS}};
    bool go;
    esp_code code = command_options(&command, argc, argv, &o, &go, err);
    return go ? chat(&o, err) : code;
}
