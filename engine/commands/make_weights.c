/* make_weights.c - espalier make-weights: a checkpoint of a published shape with random weights. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>

#include "engine/commands/commands.h"
#include "engine/commands/progress.h"
#include "engine/model/synthetic/synthetic.h"

typedef struct options {
    const char *shape, *out;
    uint64_t seed;
} options;

static const flag own_flags[] = {
    {.name = "shape",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, shape),
     .placeholder = "NAME",
     .required = true,
     .help = "llama-3.2-1b, llama-3.2-3b, llama-3.1-8b, mistral-7b-v0.3, gemma-2-2b, gemma-2-9b, "
             "qwen2.5-7b, qwen3-8b, or tiny (0.2 MB, to try things)"},
    {.name = "out",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, out),
     .placeholder = "DIR",
     .required = true,
     .help = "the folder to make; nothing may lie there yet"},
    {.name = "seed",
     .kind = FLAG_U64,
     .offset = offsetof(options, seed),
     .placeholder = "N",
     .help = "equal seeds give equal files; default 1"},
};
static const flag_table own_table = {
    .title = "Weights", .flags = own_flags, .count = sizeof own_flags / sizeof *own_flags};

static const flag_command command = {
    .name = "make-weights",
    .summary =
        "Writes a folder of config.json, tokenizer.json and safetensors in bfloat16 that has a\n"
        "published model's shape and random weights: to measure loading, speed and memory "
        "without a\n"
        "download. Everything that reads a model reads it: serve, generate, bench, logits, "
        "inspect. Its\n"
        "tokenizer knows the 256 bytes alone and has no chat template, so give ids or plain text; "
        "what\n"
        "it answers is noise, mostly ids that have no text.",
    .usage = "--shape NAME --out DIR",
    .examples = "  espalier make-weights --shape llama-3.2-1b --out /tmp/llama-1b\n"
                "  espalier bench --model /tmp/llama-1b --concurrency 1,4,16\n",
    .part = {{&own_table, 0}},
};

esp_code command_make_weights(int argc, char **argv, esp_error *err) {
    options o = {.seed = 1};
    bool go;
    const synthetic_shape *shape = NULL;
    esp_code code = command_options(&command, argc, argv, &o, &go, err);
    if (go) code = synthetic_find(o.shape, &shape, err);
    if (!go || code) return code;
    progress bar = progress_begin("writing", "GB");
    synthetic_options wanted = {.shape = shape,
                                .out = o.out,
                                .seed = o.seed,
                                .shard_bytes = SYNTHETIC_SHARD_BYTES,
                                .progress = progress_step,
                                .progress_arg = &bar};
    code = synthetic_write(&wanted, err);
    progress_end(&bar);
    if (!code)
        printf("%s: %s, %.1f million parameters, %.1f MB\n", o.out, shape->name,
               (double)synthetic_parameters(shape) * 1e-6, (double)synthetic_bytes(shape) * 1e-6);
    return code;
}
