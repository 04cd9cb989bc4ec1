/* tiny_folder.h - a Hugging Face folder with a tiny Llama model of random F32 weights, to be
 * spoiled by a test: a tensor left out, one too many, one of another type or shape, a weight
 * overwritten, data that begins at an odd byte. No tokenizer. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_TINY_FOLDER_H
#define ESPALIER_TESTS_TINY_FOLDER_H

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/unit/gguf_builder.h"

enum { TF_HIDDEN = 64, TF_INNER = 128, TF_KEY = 32, TF_VOCAB = 48, TF_LAYERS = 2 };

/* All-zero: a good model. */
typedef struct tiny_folder {
    const char *without; /* name of a tensor that is left out */
    const char *more;    /* name of one that has no place, [64], of ones */
    bool zeros;          /* ... of zeros */
    const char *of_type; /* this tensor's dtype is written as... */
    const char *type;    /* ...this, of 4 bytes an element */
    const char *wider;   /* this one has its two sizes the other way round */
    const char *bad;     /* the last weight of this one is... */
    float value;         /* ...this */
    uint32_t odd;        /* blanks behind the header, to move the data */
    bool packed; /* the embedding is one of 4 bits, and lm_head.weight is said to be tied to it */
} tiny_folder;

typedef struct tf_file {
    tiny_folder o;
    char header[8192];
    gb_bytes data;
    uint64_t random;
} tf_file;

static inline bool tf_is(const char *name, const char *wanted) {
    return wanted && strcmp(name, wanted) == 0;
}

/* rows 0: a vector. */
static inline void tf_tensor(tf_file *f, const char *name, uint32_t rows, uint32_t cols) {
    size_t count = (size_t)(rows ? rows : 1) * cols, used = strlen(f->header);
    size_t begin = f->data.count;
    if (tf_is(name, f->o.without)) return;
    for (size_t i = 0; i < count; i++) {
        float w = rows ? 0.1f * gb_random(&f->random) : 1;
        if (i == count - 1 && tf_is(name, f->o.bad)) w = f->o.value;
        if (f->o.zeros && tf_is(name, f->o.more)) w = 0;
        gb_put(&f->data, &w, sizeof w);
    }
    bool turned = tf_is(name, f->o.wider);
    char shape[32];
    if (rows)
        snprintf(shape, sizeof shape, "%u,%u", turned ? cols : rows, turned ? rows : cols);
    else
        snprintf(shape, sizeof shape, "%u", cols);
    snprintf(f->header + used, sizeof f->header - used,
             "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
             used > 1 ? "," : "", name, tf_is(name, f->o.of_type) ? f->o.type : "F32", shape, begin,
             f->data.count);
}

static inline void tf_layer(tf_file *f, uint32_t layer) {
    static const struct {
        const char *name;
        uint32_t rows, cols;
    } tensors[] = {
        {"input_layernorm", 0, TF_HIDDEN},          {"self_attn.q_proj", TF_HIDDEN, TF_HIDDEN},
        {"self_attn.k_proj", TF_KEY, TF_HIDDEN},    {"self_attn.v_proj", TF_KEY, TF_HIDDEN},
        {"self_attn.o_proj", TF_HIDDEN, TF_HIDDEN}, {"post_attention_layernorm", 0, TF_HIDDEN},
        {"mlp.gate_proj", TF_INNER, TF_HIDDEN},     {"mlp.up_proj", TF_INNER, TF_HIDDEN},
        {"mlp.down_proj", TF_HIDDEN, TF_INNER},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%u.%s.weight", layer, tensors[i].name);
        tf_tensor(f, name, tensors[i].rows, tensors[i].cols);
    }
}

static inline void tf_raw(tf_file *f, const char *name, const char *type, const char *shape,
                          const void *bytes, size_t count) {
    size_t used = strlen(f->header), begin = f->data.count;
    gb_put(&f->data, bytes, count);
    snprintf(f->header + used, sizeof f->header - used,
             "%s\"model.embed_tokens.%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,"
             "%zu]}",
             used > 1 ? "," : "", name, type, shape, begin, f->data.count);
}

static inline void tf_packed_embedding(tf_file *f) {
    static const uint8_t codes[TF_VOCAB * TF_HIDDEN / 2];
    static const float scales[TF_VOCAB * TF_HIDDEN / 32];
    static const int64_t shape[2] = {TF_VOCAB, TF_HIDDEN};
    tf_raw(f, "weight_packed", "I32", "48,8", codes, sizeof codes);
    tf_raw(f, "weight_scale", "F32", "48,2", scales, sizeof scales);
    tf_raw(f, "weight_shape", "I64", "2", shape, sizeof shape);
}

static inline bool tf_save(const char *folder, const char *name, const void *bytes, size_t count) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return gb_save(path, (const char *)bytes, count);
}

/* Writes config.json and model.safetensors into a folder that is there; false when that fails. */
static inline bool tf_write(const char *folder, const tiny_folder *options) {
    static const char config[] =
        "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":64,"
        "\"intermediate_size\":128,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
        "\"num_key_value_heads\":2,\"vocab_size\":48,\"max_position_embeddings\":128,"
        "\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"hidden_act\":\"silu\","
        "\"tie_word_embeddings\":false}";
    static const char packed[] =
        "\"tie_word_embeddings\":true,\"quantization_config\":{\"quant_method\":"
        "\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{\"0\":{"
        "\"targets\":[\"Embedding\"],\"weights\":{\"num_bits\":4,\"type\":\"int\","
        "\"symmetric\":true,\"strategy\":\"group\",\"group_size\":32}}}}}";
    tf_file f = {.o = options ? *options : (tiny_folder){0}, .header = "{", .random = 1};
    tf_tensor(&f, "lm_head.weight", TF_VOCAB, TF_HIDDEN);
    if (f.o.packed)
        tf_packed_embedding(&f);
    else
        tf_tensor(&f, "model.embed_tokens.weight", TF_VOCAB, TF_HIDDEN);
    for (uint32_t i = 0; i < TF_LAYERS; i++)
        tf_layer(&f, i);
    tf_tensor(&f, "model.norm.weight", 0, TF_HIDDEN);
    if (f.o.more) tf_tensor(&f, f.o.more, 0, TF_HIDDEN);
    size_t used = strlen(f.header), odd = (8 - (used + 1) % 8) % 8 + f.o.odd;
    snprintf(f.header + used, sizeof f.header - used, "}%*s", (int)odd, "");
    gb_bytes out = {0};
    gb_put_u64(&out, strlen(f.header));
    gb_put(&out, f.header, strlen(f.header));
    gb_put(&out, f.data.at, f.data.count);
    char text[1024];
    int shared = (int)(strstr(config, "\"tie_word") - config);
    snprintf(text, sizeof text, "%.*s%s", shared, config, f.o.packed ? packed : config + shared);
    bool written = tf_save(folder, "model.safetensors", out.at, out.count) &&
                   tf_save(folder, "config.json", text, strlen(text));
    free(f.data.at);
    free(out.at);
    return written;
}

#endif
