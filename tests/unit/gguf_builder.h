/* gguf_builder.h - makes GGUF files in memory for tests: any file field by field, also wrong ones,
 * and a whole tiny Llama model with random weights and a working tokenizer.
 *
 *   gguf_builder b = {0};
 *   gb_u32(&b, "llama.block_count", 2);
 *   gb_tensor(&b, "output_norm.weight", 1, (uint64_t[]){64}, DT_F32, floats);
 *   char *file = gb_finish(&b, &bytes);          free(file) when done
 *
 * The builder's fields are there to be overwritten: a wrong count, raw bytes in a section. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_GGUF_BUILDER_H
#define ESPALIER_TESTS_GGUF_BUILDER_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/quant.h"
#include "engine/model/format/gguf.h"

typedef struct gb_bytes {
    uint8_t *at;
    size_t count, capacity;
} gb_bytes;

typedef struct gguf_builder {
    uint32_t version;   /* 0: 3 */
    uint32_t alignment; /* 0: 32; tell the file by gb_u32(b, "general.alignment", n) */
    uint64_t pair_count, tensor_count;
    gb_bytes pairs, tensors, data;
} gguf_builder;

static inline void gb_put(gb_bytes *out, const void *from, size_t bytes) {
    if (out->count + bytes > out->capacity) {
        out->capacity = 2 * (out->count + bytes);
        out->at = mem_resize(out->at, out->capacity, 1);
    }
    if (bytes) memcpy(out->at + out->count, from, bytes);
    out->count += bytes;
}

static inline void gb_put_u32(gb_bytes *out, uint32_t value) { gb_put(out, &value, sizeof value); }

static inline void gb_put_u64(gb_bytes *out, uint64_t value) { gb_put(out, &value, sizeof value); }

static inline void gb_put_text(gb_bytes *out, const char *text) {
    gb_put_u64(out, strlen(text));
    gb_put(out, text, strlen(text));
}

static inline void gb_pad(gb_bytes *out, size_t alignment) {
    while (out->count % alignment)
        gb_put(out, "", 1);
}

/* Begins a pair; the caller appends the value to b->pairs. */
static inline void gb_pair(gguf_builder *b, const char *key, gguf_type type) {
    b->pair_count++;
    gb_put_text(&b->pairs, key);
    gb_put_u32(&b->pairs, (uint32_t)type);
}

static inline void gb_u32(gguf_builder *b, const char *key, uint32_t value) {
    gb_pair(b, key, GGUF_U32);
    gb_put_u32(&b->pairs, value);
}

static inline void gb_f32(gguf_builder *b, const char *key, float value) {
    gb_pair(b, key, GGUF_F32);
    gb_put(&b->pairs, &value, sizeof value);
}

static inline void gb_bool(gguf_builder *b, const char *key, bool value) {
    uint8_t byte = value;
    gb_pair(b, key, GGUF_BOOL);
    gb_put(&b->pairs, &byte, 1);
}

static inline void gb_text(gguf_builder *b, const char *key, const char *value) {
    gb_pair(b, key, GGUF_STRING);
    gb_put_text(&b->pairs, value);
}

/* Begins an array; the caller appends count elements to b->pairs. */
static inline void gb_array(gguf_builder *b, const char *key, gguf_type element, uint64_t count) {
    gb_pair(b, key, GGUF_ARRAY);
    gb_put_u32(&b->pairs, (uint32_t)element);
    gb_put_u64(&b->pairs, count);
}

/* Whether gb_tensor can quantise to the type; others are written as entry and bytes. */
static inline bool gb_writes(esp_dtype dtype) { return dtype <= DT_Q4_1; }

static inline uint32_t gb_type_number(esp_dtype dtype) {
    static const uint32_t numbers[DT_COUNT] = {
        [DT_F32] = 0, [DT_F16] = 1, [DT_BF16] = 30, [DT_Q8_0] = 8, [DT_Q4_0] = 2, [DT_Q4_1] = 3};
    return numbers[dtype];
}

/* An entry of the tensor table, whatever it says; no data. */
static inline void gb_tensor_entry(gguf_builder *b, const char *name, uint32_t dim_count,
                                   const uint64_t *dims, uint32_t type, uint64_t offset) {
    b->tensor_count++;
    gb_put_text(&b->tensors, name);
    gb_put_u32(&b->tensors, dim_count);
    for (uint32_t i = 0; i < dim_count; i++)
        gb_put_u64(&b->tensors, dims[i]);
    gb_put_u32(&b->tensors, type);
    gb_put_u64(&b->tensors, offset);
}

static inline uint16_t gb_put_f16(gb_bytes *out, float value) {
    uint16_t half = f16_of_f32(value);
    gb_put(out, &half, sizeof half);
    return half;
}

static inline int gb_nibble(float value) {
    int q = (int)floorf(value + 0.5f);
    return q < 0 ? 0 : q > 15 ? 15 : q;
}

/* Low nibbles are weights 0..15, high ones 16..31: q = w / d + shift. */
static inline void gb_put_nibbles(gb_bytes *out, const float *w, float d, float shift) {
    for (int i = 0; i < 16; i++) {
        float low = d == 0 ? 0 : w[i] / d, high = d == 0 ? 0 : w[i + 16] / d;
        uint8_t byte = (uint8_t)(gb_nibble(low + shift) | gb_nibble(high + shift) << 4);
        gb_put(out, &byte, 1);
    }
}

static inline void gb_put_q8_0(gb_bytes *out, const float *w) {
    float largest = 0;
    for (int i = 0; i < 32; i++)
        largest = fmaxf(largest, fabsf(w[i]));
    float d = f32_of_f16(gb_put_f16(out, largest / 127));
    for (int i = 0; i < 32; i++) {
        float q = d == 0 ? 0 : roundf(w[i] / d);
        int8_t byte = (int8_t)(q > 127 ? 127 : q < -127 ? -127 : q);
        gb_put(out, &byte, 1);
    }
}

static inline void gb_put_q4_0(gb_bytes *out, const float *w) {
    float largest = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(w[i]) > fabsf(largest)) largest = w[i];
    float d = f32_of_f16(gb_put_f16(out, largest / -8));
    gb_put_nibbles(out, w, d, 8);
}

static inline void gb_put_q4_1(gb_bytes *out, const float *w) {
    float low = w[0], high = w[0];
    for (int i = 1; i < 32; i++) {
        low = fminf(low, w[i]);
        high = fmaxf(high, w[i]);
    }
    float d = f32_of_f16(gb_put_f16(out, (high - low) / 15));
    float m = f32_of_f16(gb_put_f16(out, low));
    gb_put_nibbles(out, w, d, d == 0 ? 0 : -m / d);
}

/* count floats as dtype; count is a multiple of the block. */
static inline void gb_put_weights(gb_bytes *out, esp_dtype dtype, const float *w, size_t count) {
    static void (*const blocks[DT_COUNT])(gb_bytes *, const float *) = {
        [DT_Q8_0] = gb_put_q8_0, [DT_Q4_0] = gb_put_q4_0, [DT_Q4_1] = gb_put_q4_1};
    if (blocks[dtype]) {
        for (size_t i = 0; i < count; i += 32)
            blocks[dtype](out, w + i);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        uint16_t bf16 = bf16_of_f32(w[i]);
        if (dtype == DT_F32)
            gb_put(out, &w[i], sizeof w[i]);
        else if (dtype == DT_BF16)
            gb_put(out, &bf16, sizeof bf16);
        else
            gb_put_f16(out, w[i]);
    }
}

/* A tensor with its data, after those before. */
static inline void gb_tensor(gguf_builder *b, const char *name, uint32_t dim_count,
                             const uint64_t *dims, esp_dtype dtype, const float *weights) {
    uint64_t count = 1;
    for (uint32_t i = 0; i < dim_count; i++)
        count *= dims[i];
    gb_pad(&b->data, b->alignment ? b->alignment : 32);
    gb_tensor_entry(b, name, dim_count, dims, gb_type_number(dtype), b->data.count);
    gb_put_weights(&b->data, dtype, weights, count);
}

/* The file, malloc'd; the builder is empty afterwards. */
static inline char *gb_finish(gguf_builder *b, size_t *bytes) {
    gb_bytes out = {0};
    gb_put(&out, "GGUF", 4);
    gb_put_u32(&out, b->version ? b->version : 3);
    gb_put_u64(&out, b->tensor_count);
    gb_put_u64(&out, b->pair_count);
    gb_put(&out, b->pairs.at, b->pairs.count);
    gb_put(&out, b->tensors.at, b->tensors.count);
    if (b->tensor_count) gb_pad(&out, b->alignment ? b->alignment : 32);
    gb_put(&out, b->data.at, b->data.count);
    free(b->pairs.at);
    free(b->tensors.at);
    free(b->data.at);
    *b = (gguf_builder){0};
    *bytes = out.count;
    return (char *)mem_resize(out.at, out.count,
                              1); /* exact, so that a sanitizer sees one too far */
}

/* ---- a tiny Llama model ---- */

/* All-zero gives the defaults in brackets. */
typedef struct tiny_llama_options {
    uint32_t layers;   /* [2] */
    uint32_t hidden;   /* [64], a multiple of 32 */
    uint32_t heads;    /* [4] */
    uint32_t kv_heads; /* [2] */
    uint32_t head_dim; /* [hidden / heads] a multiple of 16; heads * head_dim a multiple of 32 */
    uint32_t intermediate; /* [128], a multiple of 32 */
    uint32_t vocab;        /* [TINY_TOKENS] rows of the embedding; more than that are padding */
    uint32_t context;      /* [256] */
    esp_dtype dtype;       /* [F32] of the matrices; norms are F32 */
    uint64_t seed;
    bool tied;       /* no output.weight */
    float logit_std; /* [2.5] about the standard deviation of the logits: greedy picks are clear */
} tiny_llama_options;

/* Ġ is how the byte-level alphabet writes a space. */
#define TINY_SPACE "\xC4\xA0"

/* Best first; each makes a token. */
static const char *const TINY_MERGES[][2] = {
    {TINY_SPACE, "t"},
    {TINY_SPACE, "a"},
    {"h", "e"},
    {"i", "n"},
    {"r", "e"},
    {"o", "n"},
    {TINY_SPACE "t", "he"},
    {"e", "r"},
    {TINY_SPACE, "s"},
    {"a", "t"},
    {TINY_SPACE, "w"},
    {"o", "u"},
    {"n", "d"},
    {TINY_SPACE, "c"},
    {"i", "s"},
    {"o", "r"},
    {"e", "n"},
    {TINY_SPACE, "b"},
    {"e", "s"},
    {"in", "g"},
    {"l", "l"},
    {"e", "d"},
    {TINY_SPACE "t", "o"},
    {TINY_SPACE "a", "nd"},
    {"H", "e"},
    {"He", "ll"},
    {"Hell", "o"},
    {TINY_SPACE "w", "or"},
    {"l", "d"},
    {TINY_SPACE "wor", "ld"},
    {"u", "s"},
    {"us", "er"},
    {"\xC4\x8A", "\xC4\x8A"}, /* two newlines */
};
enum {
    TINY_SPECIALS = 3, /* <|endoftext|> 0, <|im_start|> 1, <|im_end|> 2 = eos */
    TINY_MERGE_COUNT = sizeof TINY_MERGES / sizeof TINY_MERGES[0],
    TINY_TOKENS = TINY_SPECIALS + 256 + TINY_MERGE_COUNT,
};

/* SmolLM2's, as its files carry it. */
static const char TINY_TEMPLATE[] =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
    "'<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
    "Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\n' }}{% endif %}";

/* The character, in UTF-8, that stands for a byte in the byte-level alphabet: itself when it is
 * visible in Latin-1, else the next free one from U+0100 on. */
static inline void gb_byte_symbol(uint32_t byte, char out[3]) {
    uint32_t point = byte, hidden = 0;
    for (uint32_t i = 0; i <= byte; i++) {
        bool visible = (i >= 0x21 && i <= 0x7e) || (i >= 0xa1 && i <= 0xac) || i >= 0xae;
        if (i == byte && !visible) point = 256 + hidden;
        hidden += !visible;
    }
    if (point < 0x80) {
        out[0] = (char)point;
        out[1] = 0;
        return;
    }
    out[0] = (char)(0xc0 | point >> 6);
    out[1] = (char)(0x80 | (point & 0x3f));
    out[2] = 0;
}

/* gpt2 kind, pre-tokenizer "smollm": specials, the 256 bytes, then one token a merge. */
static inline void gb_tiny_tokenizer(gguf_builder *b) {
    static const char *const specials[TINY_SPECIALS] = {"<|endoftext|>", "<|im_start|>",
                                                        "<|im_end|>"};
    char text[64];
    gb_text(b, "tokenizer.ggml.model", "gpt2");
    gb_text(b, "tokenizer.ggml.pre", "smollm");
    gb_array(b, "tokenizer.ggml.tokens", GGUF_STRING, TINY_TOKENS);
    for (uint32_t i = 0; i < TINY_SPECIALS; i++)
        gb_put_text(&b->pairs, specials[i]);
    for (uint32_t i = 0; i < 256; i++) {
        gb_byte_symbol(i, text);
        gb_put_text(&b->pairs, text);
    }
    for (uint32_t i = 0; i < TINY_MERGE_COUNT; i++) {
        snprintf(text, sizeof text, "%s%s", TINY_MERGES[i][0], TINY_MERGES[i][1]);
        gb_put_text(&b->pairs, text);
    }
    gb_array(b, "tokenizer.ggml.token_type", GGUF_I32, TINY_TOKENS);
    for (uint32_t i = 0; i < TINY_TOKENS; i++)
        gb_put_u32(&b->pairs, i < TINY_SPECIALS ? 3 : 1);
    gb_array(b, "tokenizer.ggml.merges", GGUF_STRING, TINY_MERGE_COUNT);
    for (uint32_t i = 0; i < TINY_MERGE_COUNT; i++) {
        snprintf(text, sizeof text, "%s %s", TINY_MERGES[i][0], TINY_MERGES[i][1]);
        gb_put_text(&b->pairs, text);
    }
    gb_u32(b, "tokenizer.ggml.bos_token_id", 1);
    gb_u32(b, "tokenizer.ggml.eos_token_id", 2);
    gb_bool(b, "tokenizer.ggml.add_bos_token", false);
    gb_text(b, "tokenizer.chat_template", TINY_TEMPLATE);
}

/* splitmix64; then about a normal deviate, as the sum of four uniform ones. */
static inline float gb_random(uint64_t *state) {
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        uint64_t z = (*state += 0x9e3779b97f4a7c15u);
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        sum += (float)((z ^ z >> 31) >> 40) / 16777216.0f;
    }
    return (sum - 2) / 0.57735f;
}

typedef struct gb_tiny {
    gguf_builder b;
    tiny_llama_options o;
    uint64_t random;
} gb_tiny;

/* Weights mean + std * normal deviate; rows 0: a vector of F32. */
static inline void gb_tiny_tensor(gb_tiny *t, const char *name, uint64_t rows, uint64_t cols,
                                  float mean, float std) {
    uint64_t count = cols * (rows ? rows : 1);
    float *w = mem_new(count, sizeof *w);
    for (uint64_t i = 0; i < count; i++)
        w[i] = mean + std * gb_random(&t->random);
    uint64_t dims[2] = {cols, rows};
    gb_tensor(&t->b, name, rows ? 2 : 1, dims, rows ? t->o.dtype : DT_F32, w);
    free(w);
}

static inline void gb_tiny_layer(gb_tiny *t, uint32_t layer) {
    const tiny_llama_options *o = &t->o;
    uint64_t hidden = o->hidden, q = o->heads * o->head_dim, kv = o->kv_heads * o->head_dim;
    const struct {
        const char *name;
        uint64_t rows, cols;
        float gain; /* of the output's standard deviation over the input's */
    } tensors[] = {
        {"attn_norm", 0, hidden, 0},
        {"attn_q", q, hidden, 1.5f},
        {"attn_k", kv, hidden, 1.5f},
        {"attn_v", kv, hidden, 1},
        {"attn_output", hidden, q, 2},
        {"ffn_norm", 0, hidden, 0},
        {"ffn_gate", o->intermediate, hidden, 1},
        {"ffn_up", o->intermediate, hidden, 1},
        {"ffn_down", hidden, o->intermediate, 2},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        char name[64];
        bool norm = tensors[i].rows == 0;
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, tensors[i].name);
        gb_tiny_tensor(t, name, tensors[i].rows, tensors[i].cols, norm ? 1 : 0,
                       norm ? 0.1f : tensors[i].gain / sqrtf((float)tensors[i].cols));
    }
}

static inline tiny_llama_options gb_tiny_defaults(const tiny_llama_options *options) {
    tiny_llama_options o = options ? *options : (tiny_llama_options){0};
    o.layers = o.layers ? o.layers : 2;
    o.hidden = o.hidden ? o.hidden : 64;
    o.heads = o.heads ? o.heads : 4;
    o.kv_heads = o.kv_heads ? o.kv_heads : 2;
    o.head_dim = o.head_dim ? o.head_dim : o.hidden / o.heads;
    o.intermediate = o.intermediate ? o.intermediate : 128;
    o.vocab = o.vocab ? o.vocab : TINY_TOKENS;
    o.context = o.context ? o.context : 256;
    o.logit_std = o.logit_std > 0 ? o.logit_std : 2.5f;
    return o;
}

/* The metadata of a tiny model, so that a test can leave out or change a key: those in `without`
 * (NULL at the end; NULL: none) are not written. */
static inline void gb_tiny_metadata(gguf_builder *b, const tiny_llama_options *o,
                                    const char *const *without) {
    const struct {
        const char *key;
        uint32_t value;
    } keys[] = {
        {"llama.block_count", o->layers},
        {"llama.context_length", o->context},
        {"llama.embedding_length", o->hidden},
        {"llama.feed_forward_length", o->intermediate},
        {"llama.attention.head_count", o->heads},
        {"llama.attention.head_count_kv", o->kv_heads},
        {"llama.attention.key_length", o->head_dim},
        {"llama.attention.value_length", o->head_dim},
        {"llama.rope.dimension_count", o->head_dim},
    };
    gb_text(b, "general.architecture", "llama");
    gb_text(b, "general.name", "tiny llama");
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        bool wanted = true;
        for (const char *const *w = without; w && *w; w++)
            wanted = wanted && strcmp(*w, keys[i].key) != 0;
        if (wanted) gb_u32(b, keys[i].key, keys[i].value);
    }
    gb_f32(b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gb_f32(b, "llama.rope.freq_base", 10000.0f);
}

/* All tensors of a tiny model, random from o->seed. */
static inline void gb_tiny_tensors(gb_tiny *t) {
    const tiny_llama_options *o = &t->o;
    t->random = o->seed;
    float out = o->logit_std / sqrtf((float)o->hidden);
    gb_tiny_tensor(t, "token_embd.weight", o->vocab, o->hidden, 0, o->tied ? out : 1);
    for (uint32_t i = 0; i < o->layers; i++)
        gb_tiny_layer(t, i);
    gb_tiny_tensor(t, "output_norm.weight", 0, o->hidden, 1, 0.1f);
    if (!o->tied) gb_tiny_tensor(t, "output.weight", o->vocab, o->hidden, 0, out);
}

/* A whole model file in memory, malloc'd; *bytes is its size. options NULL: the defaults. The same
 * options give the same bytes. Open it with model_file_open_memory, or write it with gb_save first.
 */
static inline char *gguf_build_tiny_llama(const tiny_llama_options *options, size_t *bytes) {
    gb_tiny t = {.o = gb_tiny_defaults(options)};
    gb_tiny_metadata(&t.b, &t.o, NULL);
    gb_tiny_tokenizer(&t.b);
    gb_tiny_tensors(&t);
    return gb_finish(&t.b, bytes);
}

/* True when the file was written whole. */
static inline bool gb_save(const char *path, const char *file, size_t bytes) {
    FILE *out = fopen(path, "wb");
    if (!out) return false;
    bool whole = fwrite(file, 1, bytes, out) == bytes;
    return fclose(out) == 0 && whole;
}

#endif
