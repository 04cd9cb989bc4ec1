/* classify.c - espalier classify: a text -> the scores of an adapter's labels, as JSON. */
// SPDX-License-Identifier: Apache-2.0
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/class_scores.h"
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
    .name = "classify",
    .summary =
        "Scores the labels of an adapter with a score head (PEFT's SEQ_CLS) for one text,\n"
        "printed as a JSON object: {\"label\", \"score\"} of the best one, and {\"labels\",\n"
        "\"scores\", \"logits\"} of all.",
    .usage = "--model PATH --adapter DIR [--text TEXT] [options]",
    .examples =
        "  espalier classify --model m.gguf --adapter intents/ --text \"My card is lost\"\n",
    .part = {{&config_model_flags, offsetof(options, model)}, {&own_table, 0}},
};

static json_t *reals(const float *values, uint32_t count) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < count; i++)
        ESP_ASSERT(json_array_append_new(list, json_real((double)values[i])) == 0);
    return list;
}

static json_t *texts(const char *const *names, uint32_t count) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < count; i++)
        ESP_ASSERT(json_array_append_new(list, json_string(names[i])) == 0);
    return list;
}

/* 9 digits give every float back. */
static void print_scores(const request *r, const char *const *labels) {
    uint32_t count = r->embedding_width;
    float *scores = mem_new(count, sizeof *scores);
    uint32_t best = class_scores(r->embedding, count, scores);
    json_t *root = json_pack("{s:s,s:f,s:o,s:o,s:o}", "label", labels[best], "score",
                             (double)scores[best], "labels", texts(labels, count), "scores",
                             reals(scores, count), "logits", reals(r->embedding, count));
    char *text = root ? json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    ESP_ASSERT(text);
    printf("%s\n", text);
    free(text);
    json_decref(root);
    free(scores);
}

static esp_code run(engine *e, request *r, const adapter *through, esp_error *err) {
    esp_code code = engine_submit(e, r, err);
    if (code != ESP_OK) return code;
    while (!atomic_load(&r->done))
        engine_step_or_wait(e);
    if (r->finish == FINISH_STOP) {
        print_scores(r, adapter_labels(through));
        return ESP_OK;
    }
    if (err) *err = r->error;
    return r->error.code;
}

/* Two references: the labels' and the request's. */
static esp_code find_classifier(engine *e, const options *o, adapter **labels, adapter **through,
                                esp_error *err) {
    esp_code code = chosen_adapter(e, &o->model, 0, labels, err);
    if (code == ESP_OK && (!*labels || !adapter_label_count(*labels)))
        code = esp_fail_field(err, ESP_PRECONDITION, "--adapter",
                              "--adapter: %s; wanted an adapter that was trained as SEQ_CLS",
                              *labels ? "it has no score head" : "none was given");
    return code == ESP_OK ? chosen_adapter(e, &o->model, 0, through, err) : code;
}

static esp_code classify(engine *e, const options *o, tok_text text, esp_error *err) {
    const embed_text_options how = {.tokens_max = engine_context_max(e),
                                    .truncate = o->truncate,
                                    .field = "--text",
                                    .remedy = "--truncate"};
    tok_ids ids = {0};
    request *r = NULL;
    adapter *labels = NULL, *through = NULL;
    esp_code code = find_classifier(e, o, &labels, &through, err);
    if (code == ESP_OK)
        code = embed_text_encode(engine_tokenizer_of(e, through), text, &how, &ids, err);
    request_options wanted = {.prompt = ids.at,
                              .prompt_count = ids.count,
                              .adapters = engine_adapters(e),
                              .adapter = through,
                              .embedding_width = labels ? adapter_label_count(labels) : 0,
                              .classifies = true};
    if (code == ESP_OK) code = request_new(&r, &wanted, engine_vocab(e, through), err);
    if (code == ESP_OK) code = run(e, r, labels, err);
    if (!r) adapter_release(engine_adapters(e), through);
    request_unref(r);
    adapter_release(engine_adapters(e), labels);
    tok_ids_free(&ids);
    return code;
}

esp_code command_classify(int argc, char **argv, esp_error *err) {
    options o = {0};
    bool go;
    esp_code code = command_options(&command, argc, argv, &o, &go, err);
    if (!go) return code;
    engine *e = NULL;
    char *input = NULL;
    size_t bytes = o.text ? strlen(o.text) : 0;
    code = check_one_adapter(&o.model, err);
    if (code == ESP_OK && !o.text) code = read_stdin(&input, &bytes, err);
    progress bar = progress_begin("loading", "GB");
    if (code == ESP_OK) code = engine_open(&e, &o.model, progress_step, &bar, err);
    progress_end(&bar);
    if (code == ESP_OK) code = classify(e, &o, (tok_text){o.text ? o.text : input, bytes}, err);
    free(input);
    engine_close(e);
    return code;
}
