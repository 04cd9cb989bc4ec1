/* logits.c - espalier logits: every position of one prefill -> a .npy file. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/commands/commands.h"
#include "engine/commands/npy.h"
#include "engine/commands/progress.h"
#include "engine/engine.h"

typedef struct options {
    model_config model;
    const char *ids, *out;
} options;

static const flag own_flags[] = {
    {.name = "ids",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, ids),
     .placeholder = "1,2,3",
     .required = true,
     .help = "the prompt's token ids, used as they are"},
    {.name = "out",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, out),
     .placeholder = "FILE",
     .required = true,
     .help = "where float32 [tokens, vocabulary] goes, in NumPy's .npy format"},
    {.name = "image", .kind = FLAG_LATER, .placeholder = "FILE"},
};
static const flag_table own_table = {.title = "Prompt and result",
                                     .flags = own_flags,
                                     .count = sizeof own_flags / sizeof *own_flags};

static const flag_command command = {
    .name = "logits",
    .summary = "Computes one prefill and writes the logits of every position.",
    .usage = "--model PATH --ids 1,2,3 --out FILE.npy [options]",
    .examples = "  espalier logits --model m.gguf --device ref --ids 1,2,3 --out logits.npy\n",
    .part = {{&config_model_flags, offsetof(options, model)}, {&own_table, 0}},
};

typedef struct sink {
    npy_file *npy;
    progress *bar;
    uint32_t rows;
} sink;

static esp_code take_row(void *arg, uint32_t position, const float *row, esp_error *err) {
    sink *s = arg;
    progress_step(s->bar, position + 1, s->rows);
    return npy_row(s->npy, row, err);
}

static esp_code write_through(engine *e, adapter *through, const options *o, const tok_ids *ids,
                              esp_error *err) {
    npy_file *npy = NULL;
    esp_code code = npy_open(&npy, o->out, ids->count, engine_vocab(e, through), err);
    if (code != ESP_OK) return code;
    progress bar = progress_begin("logits", "positions");
    sink s = {.npy = npy, .bar = &bar, .rows = ids->count};
    code = engine_logits(e, through, ids->at, ids->count, take_row, &s, err);
    progress_end(&bar);
    if (code == ESP_OK) code = npy_finish(npy, err);
    npy_close(npy);
    return code;
}

static esp_code write_logits(engine *e, const options *o, esp_error *err) {
    tok_ids ids = {0};
    adapter *through;
    esp_code code = chosen_adapter(e, &o->model, 0, &through, err);
    if (code == ESP_OK) code = read_ids(o->ids, engine_vocab(e, through), &ids, err);
    if (code == ESP_OK) code = write_through(e, through, o, &ids, err);
    adapter_release(engine_adapters(e), through);
    tok_ids_free(&ids);
    return code;
}

esp_code command_logits(int argc, char **argv, esp_error *err) {
    options o = {0};
    bool go;
    esp_code code = command_options(&command, argc, argv, &o, &go, err);
    if (!go) return code;
    engine *e = NULL;
    progress bar = progress_begin("loading", "GB");
    code = check_one_adapter(&o.model, err);
    if (code == ESP_OK) code = open_engine(&e, &o.model, progress_step, &bar, err);
    progress_end(&bar);
    if (code == ESP_OK && e) code = write_logits(e, &o, err);
    engine_close(e);
    return code;
}
