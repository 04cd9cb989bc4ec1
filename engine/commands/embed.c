/* embed.c - espalier embed: a text -> its vector as a JSON array of floats. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/commands/commands.h"
#include "engine/commands/progress.h"
#include "engine/embed_text.h"
#include "engine/engine.h"

typedef struct options {
    model_config model;
    const char *text;
    bool truncate;
} options;

static const flag own_flags[] = {
    {.name = "text",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, text),
     .placeholder = "TEXT",
     .help = "the text; default: all of standard input"},
    {.name = "truncate",
     .kind = FLAG_SWITCH,
     .offset = offsetof(options, truncate),
     .help = "cut a text that is longer than the model takes; default: it is refused"},
};
static const flag_table own_table = {
    .title = "Text", .flags = own_flags, .count = sizeof own_flags / sizeof *own_flags};

static const flag_command command = {
    .name = "embed",
    .summary = "Turns a text into one vector, printed as a JSON array. The model must be one that\n"
               "embeds: an encoder, or a decoder with a pooling rule.",
    .usage = "--model PATH [--text TEXT] [options]",
    .examples = "  espalier embed --model all-MiniLM-L6-v2 --text \"Hello world\"\n"
                "  espalier embed --model all-MiniLM-L6-v2 --truncate < notes.txt\n"
                "  espalier embed --model all-MiniLM-L6-v2 --adapter ./tickets-lora --text \"Hello\"\n",
    .part = {{&config_model_flags, offsetof(options, model)}, {&own_table, 0}},
};

/* 9 digits give every float back. */
static void print_vector(const float *values, uint32_t count) {
    putchar('[');
    for (uint32_t i = 0; i < count; i++)
        printf(i ? ",%.9g" : "%.9g", (double)values[i]);
    printf("]\n");
}

static esp_code run(engine *e, request *r, esp_error *err) {
    esp_code code = engine_submit(e, r, err);
    if (code != ESP_OK) return code;
    while (!atomic_load(&r->done))
        engine_step_or_wait(e);
    if (r->finish == FINISH_STOP) {
        print_vector(r->embedding, r->embedding_width);
        return ESP_OK;
    }
    if (err) *err = r->error;
    return r->error.code;
}

static esp_code embed(engine *e, const options *o, tok_text text, esp_error *err) {
    const embed_text_options how = {.tokens_max = engine_context_max(e),
                                    .truncate = o->truncate,
                                    .field = "--text",
                                    .remedy = "--truncate"};
    tok_ids ids = {0};
    request *r = NULL;
    adapter *through = NULL;
    esp_code code = chosen_adapter(e, &o->model, 0, &through, err);
    if (code == ESP_OK)
        code = embed_text_encode(engine_tokenizer_of(e, through), text, &how, &ids, err);
    request_options wanted = {.prompt = ids.at,
                              .prompt_count = ids.count,
                              .adapters = engine_adapters(e),
                              .adapter = through,
                              .embedding_width = engine_spec(e)->hidden};
    if (code == ESP_OK) code = request_new(&r, &wanted, engine_vocab(e, through), err);
    if (code != ESP_OK) adapter_release(engine_adapters(e), through);
    if (code == ESP_OK) code = run(e, r, err);
    request_unref(r);
    tok_ids_free(&ids);
    return code;
}

/* Before any weight is packed. */
static esp_code check_kind(const char *path, esp_error *err) {
    model_file *file;
    esp_code code = model_file_open(&file, path, err);
    if (code == ESP_OK && model_file_spec(file)->pooling == POOLING_NONE)
        code = esp_fail_field(err, ESP_PRECONDITION, "--model",
                              "--model: %s generates text and embeds none; wanted an encoder, or a "
                              "decoder with a pooling rule",
                              path);
    model_file_close(file);
    return code;
}

esp_code command_embed(int argc, char **argv, esp_error *err) {
    options o = {0};
    bool go;
    esp_code code = command_options(&command, argc, argv, &o, &go, err);
    if (!go) return code;
    engine *e = NULL;
    char *input = NULL;
    size_t bytes = o.text ? strlen(o.text) : 0;
    code = check_one_adapter(&o.model, err);
    if (code == ESP_OK) code = check_kind(o.model.model_path, err);
    if (code == ESP_OK && !o.text) code = read_stdin(&input, &bytes, err);
    progress bar = progress_begin("loading", "GB");
    if (code == ESP_OK) code = engine_open(&e, &o.model, progress_step, &bar, err);
    progress_end(&bar);
    if (code == ESP_OK) code = embed(e, &o, (tok_text){o.text ? o.text : input, bytes}, err);
    free(input);
    engine_close(e);
    return code;
}
