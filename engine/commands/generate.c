/* generate.c - espalier generate: one answer, without a server. */
// SPDX-License-Identifier: Apache-2.0
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "engine/base/mem.h"
#include "engine/commands/commands.h"
#include "engine/commands/progress.h"
#include "engine/engine.h"
#include "engine/record/recorder.h"

enum { OUTPUT_TOKENS_DEFAULT = 512 };

typedef struct options {
    model_config model;
    chat_config chat;
    const char *prompt, *ids, *messages, *record;
    uint32_t max_tokens, top_k;
    float temperature, top_p;
    uint64_t seed;
    bool seed_given, ignore_eos, json;
} options;

#define FIELD(field) .offset = offsetof(options, field)

static const flag own_flags[] = {
    {.name = "prompt",
     .kind = FLAG_TEXT,
     FIELD(prompt),
     .placeholder = "TEXT",
     .help = "text to go on from; the tokenizer's own BOS rule is applied, and special-token text "
             "in it "
             "is plain text"},
    {.name = "ids",
     .kind = FLAG_TEXT,
     FIELD(ids),
     .placeholder = "1,2,3",
     .help = "the prompt as token ids, used as they are"},
    {.name = "messages",
     .kind = FLAG_TEXT,
     FIELD(messages),
     .placeholder = "FILE",
     .help =
         "a chat, as JSON: [{\"role\": \"user\", \"content\": \"Hello\"}]; the model's template "
         "makes the prompt"},
    {.name = "max-tokens",
     .kind = FLAG_U32,
     FIELD(max_tokens),
     .least = 1,
     .most = LIMIT_CONTEXT_MAX,
     .placeholder = "N",
     .help = "most tokens of the answer; default 512, or what the context has left"},
    {.name = "temperature",
     .kind = FLAG_F32,
     FIELD(temperature),
     .most = 10,
     .placeholder = "F",
     .help = "0 picks the likeliest token each time; default 0"},
    {.name = "top-p",
     .kind = FLAG_F32,
     FIELD(top_p),
     .least = 1e-6,
     .most = 1,
     .placeholder = "F",
     .help = "pick among the likeliest tokens that together have this probability; default 1: all"},
    {.name = "top-k",
     .kind = FLAG_U32,
     FIELD(top_k),
     .most = UINT32_MAX,
     .placeholder = "N",
     .help = "pick among the N likeliest tokens; default 0: all"},
    {.name = "seed",
     .kind = FLAG_U64,
     FIELD(seed),
     .given_offset = offsetof(options, seed_given),
     .placeholder = "N",
     .help = "the same seed gives the same answer; default: a random one, told by --json"},
    {.name = "ignore-eos",
     .kind = FLAG_SWITCH,
     FIELD(ignore_eos),
     .help = "go on after the model's end-of-text token, up to --max-tokens"},
    {.name = "json",
     .kind = FLAG_SWITCH,
     FIELD(json),
     .help = "print {\"ids\", \"text\", \"finish_reason\", \"seed\", \"profile\"} and, with "
             "--adapter, {\"adapter\", \"adapter_digest\"} at the end instead of the text as it "
             "comes"},
    {.name = "record",
     .kind = FLAG_TEXT,
     FIELD(record),
     .placeholder = "FILE",
     .help = "append the request to this file, for espalier replay"},
    {.name = "image", .kind = FLAG_LATER, .placeholder = "FILE"},
};
static const flag_table own_table = {.title = "Prompt and sampling",
                                     .flags = own_flags,
                                     .count = sizeof own_flags / sizeof *own_flags};

static const flag_command command = {
    .name = "generate",
    .summary = "Answers one prompt without a server.",
    .usage = "--model PATH (--prompt TEXT | --ids 1,2,3 | --messages FILE) [options]",
    .examples =
        "  espalier generate --model m.gguf --prompt \"Once upon a time\" --max-tokens 64\n"
        "  espalier generate --model m.gguf --messages chat.json --temperature 0.7 --seed 1 "
        "--json\n"
        "  espalier generate --model m.gguf --adapter intents/ --prompt \"My card is lost\"\n",
    .part = {{&own_table, 0},
             {&chat_flags, offsetof(options, chat)},
             {&config_model_flags, offsetof(options, model)}},
};

/* ---- prompt ---- */

static esp_code encode_messages(engine *e, const tokenizer *tok, const options *o, tok_ids *ids,
                                esp_error *err) {
    const esp_error *why;
    const chat_template *template = engine_template(e, &why);
    if (!template) {
        if (err) *err = *why;
        return why->code;
    }
    conversation list;
    chat_prompt prompt = {0};
    esp_code code = conversation_read(o->messages, &o->chat, &list, err);
    if (code == ESP_OK) code = conversation_render(template, &list, true, &prompt, err);
    if (code == ESP_OK) {
        tok_encode_options how = {
            .parse_special = true, .plain = prompt.plain, .plain_count = prompt.plain_count};
        code = tok_encode(tok, prompt.text, prompt.bytes, &how, ids, err);
    }
    chat_prompt_free(&prompt);
    conversation_free(&list);
    return code;
}

static esp_code make_prompt(engine *e, const adapter *through, const options *o, tok_ids *ids,
                            esp_error *err) {
    const tokenizer *tok = engine_tokenizer_of(e, through);
    if (o->ids) return read_ids(o->ids, engine_vocab(e, through), ids, err);
    if (o->messages) return encode_messages(e, tok, o, ids, err);
    tok_encode_options how = {.add_special = true};
    return tok_encode(tok, o->prompt, strlen(o->prompt), &how, ids, err);
}

static esp_code new_request(engine *e, adapter *through, const options *o, const tok_ids *ids,
                            request **out, esp_error *err) {
    uint32_t context = engine_context_max(e);
    uint32_t left = ids->count < context ? context - ids->count : 1;
    uint32_t usual = left < OUTPUT_TOKENS_DEFAULT ? left : OUTPUT_TOKENS_DEFAULT;
    request_options want = {.prompt = ids->at,
                            .prompt_count = ids->count,
                            .output_max = o->max_tokens ? o->max_tokens : usual,
                            .policy = {.temperature = o->temperature,
                                       .top_k = o->top_k,
                                       .top_p = o->top_p,
                                       .seed = o->seed},
                            .ignore_eos = o->ignore_eos,
                            .adapters = engine_adapters(e),
                            .adapter = through,
                            .row_digests = o->record != NULL};
    return request_new(out, &want, engine_vocab(e, through), err);
}

static esp_code make_request(engine *e, const options *o, request **out, esp_error *err) {
    adapter *through;
    tok_ids ids = {0};
    esp_code code = chosen_adapter(e, &o->model, 0, &through, err);
    if (code == ESP_OK) code = make_prompt(e, through, o, &ids, err);
    if (code == ESP_OK) code = new_request(e, through, o, &ids, out, err);
    if (code != ESP_OK) adapter_release(engine_adapters(e), through);
    tok_ids_free(&ids);
    return code;
}

/* ---- answer ---- */

typedef struct answer {
    text_stream stream;
    char *text; /* all of it, for --json */
    size_t bytes;
} answer;

static void take_text(answer *a, const options *o, const char *piece, size_t bytes) {
    if (o->json) {
        a->text = mem_resize(a->text, a->bytes + bytes + 1, 1);
        memcpy(a->text + a->bytes, piece, bytes);
        a->bytes += bytes;
    } else {
        print_model_text(piece, bytes);
        fflush(stdout);
    }
}

/* Steps until the request is done; text goes out as it becomes final. */
static esp_code run(engine *e, const options *o, request *r, answer *a, esp_error *err) {
    char piece[TEXT_PIECE_MAX];
    uint32_t read = 0;
    bool done;
    do {
        engine_step_or_wait(e);
        done = atomic_load(&r->done);
        for (; read < atomic_load(&r->published); read++) {
            int32_t id = r->tokens[r->prompt_count + read];
            take_text(
                a, o, piece,
                text_next(&a->stream, r->tok ? r->tok : engine_tokenizer(e), &r->stops, id, piece));
        }
    } while (!done);
    take_text(a, o, piece, text_end(&a->stream, piece));
    if (!o->json) putchar('\n');
    if (r->finish != FINISH_ERROR) return ESP_OK;
    if (err) *err = r->error;
    return r->error.code;
}

static char *json_quoted(const char *text, size_t bytes) {
    json_t *value = json_stringn(text ? text : "", bytes); /* a text_stream gives valid UTF-8 */
    ESP_ASSERT(value);
    char *quoted = json_dumps(value, JSON_ENCODE_ANY);
    ESP_ASSERT(quoted);
    json_decref(value);
    return quoted;
}

/* By hand, because jansson's integers are signed and a seed is not. */
static void print_json(engine *e, const request *r, const answer *a) {
    char *text = json_quoted(a->text, a->bytes);
    char *profile = json_quoted(engine_profile(e), strlen(engine_profile(e)));
    printf("{\"ids\":[");
    for (uint32_t i = 0; i < r->published; i++)
        printf(i ? ",%d" : "%d", r->tokens[r->prompt_count + i]);
    printf("],\"text\":%s,\"finish_reason\":\"%s\",\"seed\":%llu,\"profile\":%s", text,
           finish_reason_name(r->finish), (unsigned long long)r->policy.seed, profile);
    char label[REQUEST_ADAPTER_LABEL_BYTES]; /* of letters, digits and '.', '_', '-', '@' */
    if (*request_adapter_label(&r->by, label))
        printf(",\"adapter\":\"%s\",\"adapter_digest\":\"%s\"", label, r->by.digest);
    printf("}\n");
    free(text);
    free(profile);
}

static esp_code record_answer(const engine *e, const char *path, request *r, esp_error *err) {
    recorder *writer = NULL;
    esp_code code = recorder_open(&writer, path, e, err);
    if (code == ESP_OK) recorder_take(writer, r);
    if (recorder_close(writer) == 0) return code;
    return esp_fail_field(err, ESP_DATA_LOSS, "--record", "--record: the request was not written");
}

static esp_code answer_prompt(engine *e, const options *o, esp_error *err) {
    request *r = NULL;
    answer a = {0};
    esp_code code = make_request(e, o, &r, err);
    if (code == ESP_OK) code = engine_submit(e, r, err);
    if (code == ESP_OK) code = run(e, o, r, &a, err);
    if (code == ESP_OK && o->json) print_json(e, r, &a);
    if (code == ESP_OK && o->record) code = record_answer(e, o->record, r, err);
    free(a.text);
    request_unref(r);
    return code;
}

static esp_code check(options *o, esp_error *err) {
    if (!!o->prompt + !!o->ids + !!o->messages != 1)
        return esp_fail(err, ESP_OUT_OF_RANGE,
                        "wanted exactly one of --prompt TEXT, --ids 1,2,3 and --messages FILE");
    if (!o->messages && (o->chat.tools || o->chat.args.count))
        return esp_fail(err, ESP_OUT_OF_RANGE, "--tools and --arg go with --messages FILE");
    if (o->seed_given) return ESP_OK;
    uint32_t seed; /* 32 bits are easy to type again */
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        return esp_fail(err, ESP_UNAVAILABLE, "the system gave no random seed; give --seed");
    o->seed = seed;
    return ESP_OK;
}

esp_code command_generate(int argc, char **argv, esp_error *err) {
    options o = {0};
    bool go;
    esp_code code = command_options(&command, argc, argv, &o, &go, err);
    if (!go) return code;
    engine *e = NULL;
    progress bar = progress_begin("loading", "GB");
    o.model.digest = o.record != NULL;
    code = check(&o, err);
    if (code == ESP_OK) code = check_one_adapter(&o.model, err);
    if (code == ESP_OK && o.record) code = recorder_check(o.record, err);
    if (code == ESP_OK) code = open_engine(&e, &o.model, progress_step, &bar, err);
    progress_end(&bar);
    if (code == ESP_OK && e) code = answer_prompt(e, &o, err);
    engine_close(e);
    return code;
}
