/* replay.c - espalier replay: recorded requests again, alone and in company, bit for bit.
 *
 * Model and settings that were recorded are the defaults of the options, so that `espalier replay
 * FILE` is enough where the model still lies where it lay. */
// SPDX-License-Identifier: Apache-2.0
#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/commands/commands.h"
#include "engine/commands/progress.h"
#include "engine/record/replay.h"

enum { ROWS_SHOWN_MAX = 20 };

typedef struct options {
    model_config model;
    const char *file, *concurrency;
    bool json;
} options;

#define FIELD(field) .offset = offsetof(options, field)

static const flag own_flags[] = {
    {.name = "concurrency",
     .kind = FLAG_TEXT,
     FIELD(concurrency),
     .placeholder = "1,16",
     .help = "requests that live at once, all of them replayed for each number; default 1,16"},
    {.name = "json",
     .kind = FLAG_SWITCH,
     FIELD(json),
     .help = "one JSON object a line instead of a table"},
};
static const flag_table own_table = {
    .title = "Replay", .flags = own_flags, .count = sizeof own_flags / sizeof *own_flags};

static const flag_command command = {
    .name = "replay",
    .summary = "Runs recorded requests again and compares tokens and logits, bit for bit.",
    .usage = "FILE [options]",
    .examples = "  espalier serve --model m.gguf --record requests.jsonl\n"
                "  espalier replay requests.jsonl --threads 1\n"
                "  espalier replay requests.jsonl --model elsewhere/m.gguf --concurrency 1,4,64\n",
    .positional = "FILE",
    .positional_offset = offsetof(options, file),
    .positional_required = true,
    .part = {{&own_table, 0}, {&config_model_flags, offsetof(options, model)}},
};

/* ---- options: what was given, over what was recorded ---- */

enum { WORDS_MAX = 10, ARGUMENTS_MAX = 256 };

/* Options as words, to be read before those of the command line, which then win. */
typedef struct words {
    char text[PROFILE_BYTES_MAX];
    char *at[WORDS_MAX];
    int count;
} words;

static void add_word(words *w, const char *option, char *value) {
    if (w->count + 2 > WORDS_MAX) return;
    w->at[w->count++] = (char *)(uintptr_t)option;
    w->at[w->count++] = value;
}

/* "cpu:avx2,act=bf16,kv=f32,tp=1,numerics=8,quantize=Q8_0": each part that an option sets. ref,
 * recorded or asked for, has one kind of activations, and no bf16. */
static void add_profile(words *w, const char *profile, device_kind asked) {
    static const struct {
        const char *key, *option;
    } parts[] = {{"act=", "--activations"}, {"kv=", "--kv-dtype"}, {"quantize=", "--quantize"}};
    snprintf(w->text, sizeof w->text, "%s", profile);
    char *rest = w->text, *part = strsep(&rest, ",");
    bool ref = !strcmp(part, "ref") || asked == DEVICE_REF;
    if (!strncmp(part, "cuda:", 5)) part[4] = 0; /* what stands behind is no choice of ours */
    add_word(w, "--device", part);
    while ((part = strsep(&rest, ",")))
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            size_t bytes = strlen(parts[i].key);
            if (strncmp(part, parts[i].key, bytes) != 0) continue;
            if (ref && (i == 0 || (i == 1 && !strcmp(part + bytes, "bf16")))) continue;
            for (char *c = part; *c; c++)
                *c = (char)tolower((unsigned char)*c);
            add_word(w, parts[i].option, part + bytes);
        }
}

static esp_code parse(const words *before, int argc, char **argv, options *o, bool *go,
                      esp_error *err) {
    char *all[WORDS_MAX + ARGUMENTS_MAX];
    if (argc > ARGUMENTS_MAX)
        return esp_fail(err, ESP_OUT_OF_RANGE, "%d arguments; at most %d are taken", argc,
                        ARGUMENTS_MAX);
    memcpy(all, before->at, (size_t)before->count * sizeof *all);
    memcpy(all + before->count, argv, (size_t)argc * sizeof *all);
    *o = (options){.concurrency = "1,16"};
    return command_options(&command, before->count + argc, all, o, go, err);
}

/* Tokens of the longest request, which sizes the context unless --max-context does. */
static uint32_t longest(const recording *r) {
    uint32_t most = 1;
    for (uint32_t i = 0; i < r->count; i++) {
        const request_options *o = &r->records[i].options;
        uint64_t tokens = (uint64_t)o->prompt_count + o->output_max;
        if (tokens > most) most = tokens > LIMIT_CONTEXT_MAX ? LIMIT_CONTEXT_MAX : (uint32_t)tokens;
    }
    return most;
}

static void size_engine(model_config *c, const recording *r, const tok_ids *levels) {
    uint32_t most = 1;
    for (uint32_t i = 0; i < levels->count; i++)
        if ((uint32_t)levels->at[i] > most) most = (uint32_t)levels->at[i];
    bool narrow = c->step_tokens && c->step_tokens < most; /* who has no token of a step waits */
    if (!c->max_seqs) c->max_seqs = narrow ? c->step_tokens : most;
    if (!c->step_tokens && most > 512) c->step_tokens = most;
    if (!c->max_context) c->max_context = longest(r);
    if (!c->waiting_max) c->waiting_max = LIMIT_MAX_SEQS_MAX; /* no seat is refused */
    c->digest = true;
}

/* ---- what came out ---- */

typedef struct totals {
    uint32_t compared, nothing, mismatches;
    uint64_t tokens;
} totals;

static bool differs(const replay_outcome *o) { return o->verdict > REPLAY_NOTHING; }

static totals add_up(const replay_outcome *outcomes, uint32_t count) {
    totals t = {0};
    for (uint32_t i = 0; i < count; i++) {
        t.nothing += outcomes[i].verdict == REPLAY_NOTHING;
        t.mismatches += differs(&outcomes[i]);
        t.tokens += outcomes[i].count;
    }
    t.compared = count - t.nothing;
    return t;
}

static const char *verdict_name(replay_verdict verdict) {
    return verdict == REPLAY_TOKEN ? "token" : verdict == REPLAY_LOGITS ? "logits" : "end";
}

static void set(json_t *row, const char *key, json_t *value) {
    ESP_ASSERT(json_object_set_new(row, key, value) == 0);
}

static json_t *describe(const record *was, const replay_outcome *o) {
    json_t *row = json_object();
    set(row, "line", json_integer(was->line));
    set(row, "what", json_string(verdict_name(o->verdict)));
    set(row, "token", json_integer(o->token));
    set(row, "recorded_id", o->token < was->count ? json_integer(was->ids[o->token]) : json_null());
    set(row, "id", o->id >= 0 ? json_integer(o->id) : json_null());
    set(row, "recorded_finish", json_string(finish_reason_name(was->finish)));
    set(row, "finish", json_string(finish_reason_name(o->finish)));
    return row;
}

static void print_json(const recording *r, const replay_outcome *outcomes, uint32_t concurrency,
                       const totals *t) {
    json_t *row = json_object(), *list = json_array();
    set(row, "concurrency", json_integer(concurrency));
    set(row, "requests", json_integer(t->compared));
    set(row, "tokens", json_integer((json_int_t)t->tokens));
    set(row, "without_tokens", json_integer(t->nothing));
    set(row, "mismatches", json_integer(t->mismatches));
    for (uint32_t i = 0; i < r->count; i++)
        if (differs(&outcomes[i]))
            json_array_append_new(list, describe(&r->records[i], &outcomes[i]));
    set(row, "mismatched", list);
    json_dumpf(row, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(row);
}

static void print_mismatch(const record *was, const replay_outcome *o) {
    printf("  line %u, token %u: ", was->line, o->token);
    if (o->verdict == REPLAY_LOGITS)
        printf("id %d again, of other logits\n", o->id);
    else if (o->verdict == REPLAY_TOKEN)
        printf("id %d, recorded %d\n", o->id, was->ids[o->token]);
    else
        printf("ended as %s after %u tokens, recorded %s after %u\n", finish_reason_name(o->finish),
               o->count, finish_reason_name(was->finish), was->count);
}

static void print_heading(const engine *e, const recording *r) {
    printf("%s  %s\n%s\n%u recorded requests\n\n", engine_name(e), engine_profile(e),
           engine_digest(e), r->count);
    printf("%11s %9s %10s %15s %11s\n", "concurrency", "requests", "tokens", "without tokens",
           "mismatches");
}

static void print_row(const recording *r, const replay_outcome *outcomes, uint32_t concurrency,
                      const totals *t) {
    uint32_t shown = 0;
    printf("%11u %9u %10llu %15u %11u\n", concurrency, t->compared, (unsigned long long)t->tokens,
           t->nothing, t->mismatches);
    for (uint32_t i = 0; i < r->count; i++)
        if (differs(&outcomes[i]) && shown++ < ROWS_SHOWN_MAX)
            print_mismatch(&r->records[i], &outcomes[i]);
    if (shown > ROWS_SHOWN_MAX) printf("  and %u more; --json lists all\n", shown - ROWS_SHOWN_MAX);
}

/* ---- the run ---- */

static esp_code replay_level(engine *e, const options *o, const recording *r, uint32_t concurrency,
                             replay_outcome *outcomes, uint32_t *mismatches, esp_error *err) {
    char label[32];
    snprintf(label, sizeof label, "concurrency %u", concurrency);
    progress bar = progress_begin(label, "requests");
    replay_options how = {
        .concurrency = concurrency, .progress = progress_step, .progress_arg = &bar};
    esp_code code = replay_run(e, r, &how, outcomes, err);
    progress_end(&bar);
    if (code != ESP_OK) return code;
    totals t = add_up(outcomes, r->count);
    *mismatches += t.mismatches;
    (o->json ? print_json : print_row)(r, outcomes, concurrency, &t);
    fflush(stdout);
    return ESP_OK;
}

static esp_code replay_all(engine *e, const options *o, const recording *r, const tok_ids *levels,
                           esp_error *err) {
    uint32_t mismatches = 0;
    replay_outcome *outcomes = mem_new(r->count, sizeof *outcomes);
    esp_code code = ESP_OK;
    if (!o->json) print_heading(e, r);
    for (uint32_t i = 0; i < levels->count && code == ESP_OK; i++)
        code = replay_level(e, o, r, (uint32_t)levels->at[i], outcomes, &mismatches, err);
    free(outcomes);
    if (code != ESP_OK || mismatches == 0) return code;
    return esp_fail(err, ESP_INTERNAL,
                    "%u answers have other bits than were recorded with the same model and numeric "
                    "profile",
                    mismatches);
}

static esp_code replay(options *o, const recording *r, const char *name, esp_error *err) {
    engine *e = NULL;
    tok_ids levels = {0};
    esp_code code = read_concurrency(o->concurrency, &levels, err);
    size_engine(&o->model, r, &levels);
    progress bar = progress_begin("loading", "GB");
    if (code == ESP_OK) code = engine_open(&e, &o->model, progress_step, &bar, err);
    progress_end(&bar);
    if (code == ESP_OK) code = replay_check(e, r, name, err);
    if (code == ESP_OK) code = replay_all(e, o, r, &levels, err);
    engine_close(e);
    tok_ids_free(&levels);
    return code;
}

static esp_code read_file(const char *path, recording *r, char name[96], esp_error *err) {
    file_view view;
    esp_code code = file_map(&view, path, "a file of recorded requests", err);
    if (code != ESP_OK) return code;
    memcpy(name, view.name, sizeof view.name);
    code = recording_read(r, view.bytes, view.count, view.name, err);
    file_unmap(&view);
    if (code == ESP_OK && r->cut)
        fprintf(stderr, "espalier replay: %s: %u lines have no end and are left out\n", name,
                r->cut);
    return code;
}

esp_code command_replay(int argc, char **argv, esp_error *err) {
    options o;
    recording r = {0};
    char name[sizeof((file_view *)0)->name];
    bool go;
    words none = {.at = {"--model", ""}, .count = 2}, recorded = {.count = 0};
    /* Once for the file alone; its records say what the other options are by default. */
    esp_code code = parse(&none, argc, argv, &o, &go, err);
    if (code != ESP_OK || !go) return code;
    code = read_file(o.file, &r, name, err);
    if (code == ESP_OK) {
        add_word(&recorded, "--model", r.model_path);
        add_profile(&recorded, r.profile, o.model.device);
        code = parse(&recorded, argc, argv, &o, &go, err);
    }
    if (code == ESP_OK && go) code = replay(&o, &r, name, err);
    recording_free(&r);
    return code;
}
