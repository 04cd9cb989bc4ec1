/* adapter_merge.c - espalier adapter merge: base and adapter as one plain checkpoint. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>

#include "engine/commands/adapter.h"
#include "engine/commands/progress.h"
#include "engine/model/lora/lora_merge.h"

typedef struct options {
    const char *model, *adapter, *out;
    bool allow_other_base;
} options;

static const flag own_flags[] = {
    {.name = "model",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, model),
     .placeholder = "PATH",
     .required = true,
     .help = "the base, a Hugging Face folder or a GGUF file"},
    {.name = "adapter",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, adapter),
     .placeholder = "DIR",
     .required = true,
     .help = "the adapter, a PEFT folder or a GGUF file"},
    {.name = "out",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, out),
     .placeholder = "DIR",
     .required = true,
     .help = "the folder to make; nothing may lie there yet"},
    {.name = "allow-other-base",
     .kind = FLAG_SWITCH,
     .offset = offsetof(options, allow_other_base),
     .help = "merge it although it was trained on a model of another name"},
};
static const flag_table own_table = {
    .title = "Merge", .flags = own_flags, .count = sizeof own_flags / sizeof *own_flags};

static const flag_command command = {
    .name = "adapter merge",
    .summary =
        "Writes a base with an adapter added to its weights as a plain checkpoint: a folder of\n"
        "config.json, model.safetensors in bfloat16 and the tokenizer's files. A quantised base "
        "is\n"
        "unpacked, so the folder is larger than it.",
    .usage = "--model PATH --adapter DIR --out DIR",
    .examples =
        "  espalier adapter merge --model SmolLM2-135M/ --adapter intents-r8/ --out merged/\n",
    .part = {{&own_table, 0}},
};

static esp_code merge(const options *o, const model_file *base, const lora_file *lora,
                      esp_error *err) {
    bool reads_text;
    progress bar = progress_begin("merging", "GB");
    const lora_merge_options wanted = {.base_path = o->model,
                                       .adapter_path = o->adapter,
                                       .out = o->out,
                                       .progress = progress_step,
                                       .progress_arg = &bar};
    const char *warning = lora_file_facts(lora)->warning;
    bool grown = lora_file_facts(lora)->whole_rows[LORA_EMBEDDING] > model_file_spec(base)->vocab;
    if (warning[0]) fprintf(stderr, "espalier adapter: %s\n", warning);
    esp_code code = lora_merge(base, lora, &wanted, &reads_text, err);
    progress_end(&bar);
    if (code == ESP_OK && !reads_text)
        fprintf(stderr,
                "espalier adapter: %s has no tokenizer; copy tokenizer.json and "
                "tokenizer_config.json of the %s into it\n",
                o->out, grown ? "training, which know the added tokens," : "base");
    return code;
}

esp_code adapter_merge(int argc, char **argv, esp_error *err) {
    options o = {0};
    bool go;
    esp_code code = command_options(&command, argc, argv, &o, &go, err);
    if (!go) return code;
    model_file *base = NULL;
    lora_file *lora = NULL;
    code = model_file_open(&base, o.model, err);
    if (code == ESP_OK) code = lora_file_open(&lora, o.adapter, model_file_weights(base), err);
    if (code == ESP_OK) code = lora_file_refuse_other(lora, o.allow_other_base, err);
    if (code == ESP_OK) code = merge(&o, base, lora, err);
    lora_file_close(lora);
    model_file_close(base);
    return code;
}
