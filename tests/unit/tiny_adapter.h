/* tiny_adapter.h - random LoRA adapters for the models of gguf_build_tiny_llama: PEFT folders in the
 * temporary folder, of any rank, on any of the linears. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_TINY_ADAPTER_H
#define ESPALIER_TESTS_TINY_ADAPTER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/gguf_builder.h"

/* Bits of tiny_adapter_options.targets. */
enum { TA_Q = 1, TA_K = 2, TA_V = 4, TA_O = 8, TA_GATE = 16, TA_UP = 32, TA_DOWN = 64 };
enum { TA_ALL = 127, TA_TARGETS = 7, TA_PATH_BYTES = 64 };

typedef struct tiny_adapter_options {
    const tiny_llama_options *base;
    uint32_t rank;
    unsigned targets;
    bool wholes; /* an embedding and an output matrix of its own, too */
    uint32_t
        added; /* with wholes: tokens more than the base's rows; those without one are named, too */
    float std;   /* [0.3] of the weights */
    uint64_t seed;
} tiny_adapter_options;

typedef struct ta_target {
    const char *block, *name;
    uint32_t out, in;
} ta_target;

typedef struct ta_file {
    gb_bytes header, data;
    uint64_t random;
    float std;
} ta_file;

static inline void ta_tensor(ta_file *f, const char *name, uint32_t rows, uint32_t cols) {
    char text[256];
    size_t begin = f->data.count;
    for (size_t i = 0; i < (size_t)rows * cols; i++) {
        float w = f->std * gb_random(&f->random);
        gb_put(&f->data, &w, sizeof w);
    }
    snprintf(text, sizeof text,
             "%s\"base_model.model.%.100s.weight\":{\"dtype\":\"F32\",\"shape\":[%u,%u],"
             "\"data_offsets\":[%zu,%zu]}",
             begin ? "," : "", name, rows, cols, begin, f->data.count);
    gb_put(&f->header, text, strlen(text));
}

static inline void ta_update(ta_file *f, uint32_t layer, const ta_target *t, uint32_t rank) {
    char name[128];
    snprintf(name, sizeof name, "model.layers.%u.%s.%s.lora_A", layer, t->block, t->name);
    ta_tensor(f, name, rank, t->in);
    name[strlen(name) - 1] = 'B';
    ta_tensor(f, name, t->out, rank);
}

static inline void ta_write(const char *folder, const char *name, const gb_bytes *parts,
                            size_t count) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    ESP_ASSERT(file);
    for (size_t i = 0; i < count; i++)
        ESP_ASSERT(fwrite(parts[i].at, 1, parts[i].count, file) == parts[i].count);
    ESP_ASSERT(fclose(file) == 0);
}

static inline void ta_write_config(const char *folder, const tiny_adapter_options *o,
                                   const ta_target *targets) {
    char text[512], names[256] = "";
    for (uint32_t i = 0; i < TA_TARGETS; i++)
        if (o->targets >> i & 1)
            snprintf(names + strlen(names), sizeof names - strlen(names), "%s\"%s\"",
                     names[0] ? "," : "", targets[i].name);
    snprintf(text, sizeof text,
             "{\"peft_type\":\"LORA\",\"task_type\":\"CAUSAL_LM\",\"r\":%u,\"lora_alpha\":%u,"
             "\"target_modules\":[%s],\"modules_to_save\":%s,\"bias\":\"none\"}",
             o->rank, 2 * o->rank, names, o->wholes ? "[\"embed_tokens\",\"lm_head\"]" : "null");
    ta_write(folder, "adapter_config.json",
             &(gb_bytes){.at = (uint8_t *)text, .count = strlen(text)}, 1);
}

/* "<|w292|>" and so on, special; the first one ends a generation. */
static inline void ta_write_tokens(const char *folder, uint32_t end) {
    static const char ends[] = "{\"eos_token\":\"<|w%u|>\"}";
    gb_bytes list = {0};
    char text[160];
    gb_put(&list, "{\"added_tokens\":[", 17);
    for (uint32_t id = TINY_TOKENS; id < end; id++) {
        snprintf(text, sizeof text, "%s{\"id\":%u,\"content\":\"<|w%u|>\",\"special\":true}",
                 id > TINY_TOKENS ? "," : "", id, id);
        gb_put(&list, text, strlen(text));
    }
    gb_put(&list, "]}", 2);
    ta_write(folder, "tokenizer.json", &list, 1);
    snprintf(text, sizeof text, ends, TINY_TOKENS);
    ta_write(folder, "tokenizer_config.json",
             &(gb_bytes){.at = (uint8_t *)text, .count = strlen(text)}, 1);
    free(list.at);
}

/* Makes a folder whose name replaces the X's of path. */
static inline void tiny_adapter_write(char path[TA_PATH_BYTES], const tiny_adapter_options *o) {
    const tiny_llama_options *b = o->base;
    const uint32_t q = b->heads * b->head_dim, kv = b->kv_heads * b->head_dim, h = b->hidden;
    const ta_target targets[TA_TARGETS] = {{"self_attn", "q_proj", q, h},
                                           {"self_attn", "k_proj", kv, h},
                                           {"self_attn", "v_proj", kv, h},
                                           {"self_attn", "o_proj", h, q},
                                           {"mlp", "gate_proj", b->intermediate, h},
                                           {"mlp", "up_proj", b->intermediate, h},
                                           {"mlp", "down_proj", h, b->intermediate}};
    ta_file f = {.random = o->seed, .std = o->std > 0 ? o->std : 0.3f};
    strcpy(path, "/tmp/espalier-adapter-XXXXXX");
    ESP_ASSERT(mkdtemp(path));
    gb_put(&f.header, "{", 1);
    for (uint32_t layer = 0; layer < b->layers; layer++)
        for (uint32_t i = 0; i < TA_TARGETS; i++)
            if (o->targets >> i & 1) ta_update(&f, layer, &targets[i], o->rank);
    if (o->wholes) {
        ta_tensor(&f, "model.embed_tokens", b->vocab + o->added, h);
        ta_tensor(&f, "lm_head", b->vocab + o->added, h);
    }
    gb_put(&f.header, "}", 1);
    uint64_t length = f.header.count;
    ta_write(path, "adapter_model.safetensors",
             (gb_bytes[]){{.at = (uint8_t *)&length, .count = sizeof length}, f.header, f.data}, 3);
    ta_write_config(path, o, targets);
    if (o->added) ta_write_tokens(path, b->vocab + o->added);
    free(f.header.at);
    free(f.data.at);
}

static inline void tiny_adapter_remove(const char *folder) {
    static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors",
                                        "tokenizer.json", "tokenizer_config.json",
                                        "added_tokens.json"};
    char path[1024];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        unlink(path);
    }
    rmdir(folder);
}

#endif
