/* lora_names.c - what the name of an adapter's tensor says. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "engine/model/lora/lora_inner.h"

/* Whose names they are. */
typedef enum naming { OF_DECODER, OF_ENCODER, OF_GGUF, NAMINGS } naming;

/* What stands before the number of a layer. */
static const char *const LAYERS[NAMINGS] = {"layers.", "encoder.layer.", "blk."};

/* Behind "layers.<n>."; whole names of the model's sites. NULL: there is none of that name. */
static const char *const SITES[SITE_COUNT][NAMINGS] = {
    [SITE_Q] = {"self_attn.q_proj", "attention.self.query", "attn_q"},
    [SITE_K] = {"self_attn.k_proj", "attention.self.key", "attn_k"},
    [SITE_V] = {"self_attn.v_proj", "attention.self.value", "attn_v"},
    [SITE_QKV] = {"self_attn.qkv_proj", NULL, "attn_qkv"},
    [SITE_O] = {"self_attn.o_proj", "attention.output.dense", "attn_output"},
    [SITE_GATE] = {"mlp.gate_proj", NULL, "ffn_gate"},
    [SITE_UP] = {"mlp.up_proj", "intermediate.dense", "ffn_up"},
    [SITE_GATE_UP] = {"mlp.gate_up_proj", NULL, NULL},
    [SITE_DOWN] = {"mlp.down_proj", "output.dense", "ffn_down"},
    [SITE_OUTPUT] = {"lm_head", NULL, "output"},
    [SITE_EMBEDDING] = {"embed_tokens", "embeddings.word_embeddings", "token_embd"},
    [SITE_SCORE] = {"score", NULL, NULL},
    [SITE_POOLER] = {NULL, "pooler.dense", NULL},
};

typedef struct piece_name {
    const char *end;
    lora_piece piece;
} piece_name;

/* Some writers leave the name in that the adapter had in the training, "default". */
static const piece_name FOLDER_PIECES[] = {
    {".lora_A.weight", PIECE_A},
    {".lora_A.default.weight", PIECE_A},
    {".lora_B.weight", PIECE_B},
    {".lora_B.default.weight", PIECE_B},
    {".lora_B.bias", PIECE_B_BIAS},
    {".lora_B.default.bias", PIECE_B_BIAS},
    {".lora_embedding_A", PIECE_A},
    {".lora_embedding_A.default", PIECE_A},
    {".lora_embedding_B", PIECE_B},
    {".lora_embedding_B.default", PIECE_B},
    {".lora_magnitude_vector", PIECE_MAGNITUDE},
    {".lora_magnitude_vector.weight", PIECE_MAGNITUDE},
    {".lora_magnitude_vector.default.weight", PIECE_MAGNITUDE},
    {".token_adapter.trainable_tokens_delta", PIECE_TOKENS},
    {".token_adapter.trainable_tokens_delta.default", PIECE_TOKENS},
    {".token_adapter.base_layer.weight", PIECE_WEIGHT},
    {".original_module.weight", PIECE_ORIGINAL},
    {".base_layer.bias", PIECE_BIAS},
    {".base_layer.weight", PIECE_WEIGHT},
    {".modules_to_save.default.weight", PIECE_WEIGHT},
    {".modules_to_save.weight", PIECE_WEIGHT},
    {".bias", PIECE_BIAS},
    {".weight", PIECE_WEIGHT},
    {NULL, PIECE_COUNT},
};

static const piece_name GGUF_PIECES[] = {
    {".weight.lora_a", PIECE_A},
    {".weight.lora_b", PIECE_B},
    {NULL, PIECE_COUNT},
};

static naming naming_of(const lora_file *file) { return file->encoder ? OF_ENCODER : OF_DECODER; }

/* Of "self_attn.q_proj" the last part; of an encoder's "dense" there are several. */
const char *lora_site_name(const lora_file *file, lora_site site) {
    const char *name = SITES[site][naming_of(file)];
    if (!name) name = SITES[site][OF_DECODER];
    const char *dot = strrchr(name, '.');
    return dot && strcmp(dot, ".dense") != 0 ? dot + 1 : name;
}

const char *lora_layers_name(const lora_file *file) { return LAYERS[naming_of(file)]; }

const char *lora_site_path(const lora_file *file, lora_site site) {
    return SITES[site][naming_of(file)];
}

static bool is(model_text text, const char *wanted) {
    return text.bytes == strlen(wanted) && memcmp(text.at, wanted, text.bytes) == 0;
}

static bool take_start(model_text *text, const char *start) {
    size_t bytes = strlen(start);
    if (text->bytes < bytes || memcmp(text->at, start, bytes) != 0) return false;
    *text = (model_text){text->at + bytes, text->bytes - bytes};
    return true;
}

static bool take_end(model_text *text, const char *end) {
    size_t bytes = strlen(end);
    if (text->bytes < bytes || memcmp(text->at + text->bytes - bytes, end, bytes) != 0)
        return false;
    text->bytes -= bytes;
    return true;
}

/* The first of the endings that fits: a longer one stands before the one it ends in. */
static bool take_piece(model_text *name, const piece_name *pieces, lora_piece *out) {
    for (; pieces->end; pieces++)
        if (take_end(name, pieces->end)) {
            *out = pieces->piece;
            return true;
        }
    return false;
}

/* A number without a sign or a zero before it, and the dot behind it. */
static bool take_layer(model_text *name, uint32_t *layer) {
    size_t digits = 0;
    *layer = 0;
    while (digits < name->bytes && digits < 4 && name->at[digits] >= '0' && name->at[digits] <= '9')
        *layer = 10 * *layer + (uint32_t)(name->at[digits++] - '0');
    if (digits == 0 || (digits > 1 && name->at[0] == '0') || *layer >= SPEC_LAYERS_MAX)
        return false;
    *name = (model_text){name->at + digits, name->bytes - digits};
    return take_start(name, ".");
}

static bool find_site(model_text name, naming how, lora_site first, lora_site end, lora_site *out) {
    for (lora_site site = first; site < end; site++) {
        const char *known = SITES[site][how];
        if (!known || !is(name, known)) continue;
        *out = site;
        return true;
    }
    return false;
}

static bool parse_site(model_text module, naming how, lora_place *out) {
    out->layer = 0;
    if (!take_start(&module, LAYERS[how]))
        return find_site(module, how, SITE_OUTPUT, SITE_COUNT, &out->site);
    return take_layer(&module, &out->layer) &&
           find_site(module, how, SITE_Q, SITE_LAYER_COUNT, &out->site);
}

bool lora_parse_peft(model_text name, lora_place *out) {
    if (!take_start(&name, "base_model.model.")) return false;
    if (!take_piece(&name, FOLDER_PIECES, &out->piece)) return false;
    out->module = name;
    take_start(&name, "0.auto_model."); /* the transformer of a sentence transformer */
    name = family_bare_name(name);
    out->encoder = parse_site(name, OF_ENCODER, out);
    return out->encoder || parse_site(name, OF_DECODER, out);
}

bool lora_parse_gguf(model_text name, bool fused_up, lora_place *out) {
    if (!take_piece(&name, GGUF_PIECES, &out->piece)) return false;
    out->module = name;
    out->encoder = false;
    if (!parse_site(name, OF_GGUF, out)) return false;
    if (fused_up && out->site == SITE_UP) out->site = SITE_GATE_UP;
    return true;
}
