/* synthetic_config.c - config.json of a shape, and a tokenizer of the 256 bytes. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/base/status.h"
#include "engine/model/synthetic/synthetic_inner.h"

enum { BYTES = 256, SYMBOL_BYTES = 3 };

json_t *synthetic_config(const synthetic_shape *s) {
    json_t *config = json_pack(
        "{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:b, s:s, s:s, s:i, s:i}",
        "architectures", s->family->classes[0], "model_type", s->family->model_type, "hidden_size",
        (json_int_t)s->hidden, "intermediate_size", (json_int_t)s->intermediate,
        "num_hidden_layers", (json_int_t)s->layers, "num_attention_heads", (json_int_t)s->heads,
        "num_key_value_heads", (json_int_t)s->kv_heads, "head_dim", (json_int_t)s->head_dim,
        "vocab_size", (json_int_t)s->vocab, "max_position_embeddings", (json_int_t)s->context,
        "rope_theta", s->theta, "rms_norm_eps", s->norm_eps, "tie_word_embeddings", s->tied,
        "torch_dtype", "bfloat16", "hidden_act",
        s->family == &family_gemma2 ? "gelu_pytorch_tanh" : "silu", "bos_token_id", 0,
        "eos_token_id", 0);
    ESP_ASSERT(config);
    if (s->more) {
        json_t *more = json_loads(s->more, 0, NULL);
        ESP_ASSERT(more && json_object_update(config, more) == 0);
        json_decref(more);
    }
    return config;
}

esp_code synthetic_spec(const synthetic_shape *shape, model_spec *out, esp_error *err) {
    json_t *config = synthetic_config(shape);
    char *text = json_dumps(config, JSON_COMPACT);
    hf_config *read = NULL;
    json_decref(config);
    ESP_ASSERT(text);
    *out = (model_spec){0};
    esp_code code = hf_config_open_memory(&read, text, strlen(text), err);
    if (code == ESP_OK) code = shape->family->read_config(read, out, err);
    hf_config_close(read);
    free(text);
    return code;
}

/* ---- the byte-level alphabet: the visible characters of Latin-1 stand for themselves, the other bytes
 * for the code points from 256 on ---- */

static bool is_visible(int byte) {
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* As UTF-8; every code point here is below 0x800. */
static void put_symbol(char out[SYMBOL_BYTES], unsigned point) {
    if (point < 0x80) {
        out[0] = (char)point, out[1] = 0;
        return;
    }
    out[0] = (char)(0xc0 | point >> 6);
    out[1] = (char)(0x80 | (point & 0x3f));
    out[2] = 0;
}

static json_t *byte_vocabulary(void) {
    json_t *vocab = json_object();
    unsigned next = BYTES;
    for (int byte = 0; byte < BYTES; byte++) {
        char symbol[SYMBOL_BYTES];
        put_symbol(symbol, is_visible(byte) ? (unsigned)byte : next++);
        json_object_set_new(vocab, symbol, json_integer(byte));
    }
    return vocab;
}

json_t *synthetic_tokenizer(void) {
    static const char byte_level[] =
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
        "\"use_regex\": true}";
    json_t *root =
        json_pack("{s:s, s:[], s:n, s:n, s:o, s:o, s:{s:s, s:o, s:[]}}", "version", "1.0",
                  "added_tokens", "normalizer", "post_processor", "pre_tokenizer",
                  json_loads(byte_level, 0, NULL), "decoder", json_loads(byte_level, 0, NULL),
                  "model", "type", "BPE", "vocab", byte_vocabulary(), "merges");
    ESP_ASSERT(root);
    return root;
}
