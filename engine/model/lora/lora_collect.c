/* lora_collect.c - an adapter's tensors into their places: none twice, none left over, none that the
 * config wants missing. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/format/json_bytes.h"
#include "engine/model/lora/lora_inner.h"

esp_code lora_fail_tensor(const model_tensor *tensor, esp_error *err, const char *format, ...) {
    char sentence[ESP_MESSAGE_MAX], name[128];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    esp_show(name, sizeof name, tensor->name.at, tensor->name.bytes);
    return esp_fail(err, ESP_INVALID, "%s: tensor %s %s", tensor->file, name, sentence);
}

lora_update *lora_at(const lora_file *file, uint32_t layer, lora_site site) {
    size_t at = site < SITE_LAYER_COUNT
                    ? (size_t)layer * SITE_LAYER_COUNT + site
                    : (size_t)file->layers * SITE_LAYER_COUNT + (site - SITE_LAYER_COUNT);
    ESP_ASSERT(site >= SITE_LAYER_COUNT || layer < file->layers);
    return &file->updates[at];
}

/* ---- one tensor ---- */

static bool parse(const lora_file *file, const model_tensor *tensor, lora_place *out) {
    if (!file->gguf) return lora_parse_peft(tensor->name, out);
    bool phi = file->architecture.bytes == 4 && memcmp(file->architecture.at, "phi3", 4) == 0;
    return lora_parse_gguf(tensor->name, phi, out);
}

/* A decoder's adapter on an encoder and the other way round; without a base: names of both in one file. */
static esp_code check_kind(const lora_file *file, const model_tensor *tensor,
                           const lora_place *place, esp_error *err) {
    const char *kinds[] = {"a decoder", "an encoder"};
    if (file->gguf || place->encoder == file->encoder) return ESP_OK;
    if (file->base)
        return lora_fail_tensor(
            tensor, err, "is of %s; the base %s is %s: the adapter was trained for another one",
            kinds[place->encoder], file->base->name, kinds[file->encoder]);
    return lora_fail_tensor(tensor, err, "is of %s, and tensors before it are of %s",
                            kinds[place->encoder], kinds[file->encoder]);
}

/* Why a piece that has a place is not wanted there, or NULL. */
static const char *find_fault(const lora_file *file, const lora_place *place) {
    bool of_model = place->site >= SITE_LAYER_COUNT;
    if (place->site == SITE_POOLER) return NULL; /* whatever it is, nothing is computed with it */
    switch (place->piece) {
    case PIECE_WEIGHT:
        return of_model ? NULL
                        : "is a whole matrix of a layer, which would have to replace the base's; "
                          "wanted low-rank updates of layers alone";
    case PIECE_BIAS:
        if (of_model) return "is a bias where no base has one";
        return file->config.biases ? NULL : "is a bias, and the config's bias is \"none\"";
    case PIECE_B_BIAS:
        if (place->site == SITE_EMBEDDING) return "is a bias, which an embedding cannot have";
        return file->config.second_bias ? NULL
                                        : "is a bias of B, and the config's lora_bias is "
                                          "not true";
    case PIECE_TOKENS:
        return lora_token_ids(file, place->site)
                   ? NULL
                   : "brings rows of tokens, of which the config's trainable_token_indices says "
                     "nothing";
    case PIECE_ORIGINAL:
        return of_model ? NULL : "is a whole matrix of a layer";
    case PIECE_MAGNITUDE:
        return file->config.dora ? NULL : "is DoRA's, and the config's use_dora is not true";
    default:
        return place->site == SITE_SCORE ? "is an update of a score head, which is not computed; "
                                           "wanted score in modules_to_save"
                                         : NULL;
    }
}

static esp_code check_values(const lora_file *file, const model_tensor *tensor, esp_error *err) {
    if (tensor->raw != RAW_NONE)
        return lora_fail_tensor(tensor, err, "has type %s; wanted F32, F16 or BF16",
                                tensor_type_name(tensor));
    if (!file->outline &&
        !quant_finite(tensor->dtype, tensor->data, (size_t)tensor_element_count(tensor)))
        return lora_fail_tensor(tensor, err,
                                "holds a value that is no finite number; the training went wrong");
    return ESP_OK;
}

/* Writers put a table that was trained down under two names. */
static bool is_same(const lora_file *file, const model_tensor *a, const model_tensor *b) {
    return a->dtype == b->dtype && a->raw == b->raw && a->bytes == b->bytes &&
           a->dim_count == b->dim_count && !memcmp(a->dims, b->dims, sizeof a->dims) &&
           (file->outline || memcmp(a->data, b->data, a->bytes) == 0);
}

static esp_code put(lora_file *file, const model_tensor *tensor, esp_error *err) {
    lora_place place;
    if (!parse(file, tensor, &place))
        return lora_fail_tensor(tensor, err,
                                "is no part of an adapter that is computed here; without it the "
                                "adapter would answer wrongly");
    esp_code code = check_kind(file, tensor, &place, err);
    if (code) return code;
    if (place.site < SITE_LAYER_COUNT && place.layer >= file->layers)
        return lora_fail_tensor(tensor, err, "is of layer %u; the base %s has %u layers",
                                place.layer, file->base->name, file->layers);
    const char *fault = find_fault(file, &place);
    if (fault) return lora_fail_tensor(tensor, err, "%s", fault);
    lora_update *update = lora_at(file, place.layer, place.site);
    const model_tensor *held = update->piece[place.piece];
    if (held && place.piece == PIECE_WEIGHT && is_same(file, held, tensor)) return ESP_OK;
    if (held)
        return lora_fail_tensor(tensor, err, "is a second one of what %.*s is",
                                (int)held->name.bytes, held->name.at);
    update->piece[place.piece] = tensor;
    /* patterns see the module of the update itself */
    if (!update->module.bytes || place.piece == PIECE_A) update->module = place.module;
    file->facts.parameters += tensor_element_count(tensor);
    return check_values(file, tensor, err);
}

/* Without a base: as many as are named, of the kind that the first one is of. */
static void count_layers(lora_file *file) {
    bool begun = false;
    file->layers = file->base ? file->base->spec.layers : 0;
    file->encoder = file->base && file->base->spec.encoder;
    for (uint32_t i = 0; i < lora_tensor_count(file) && !file->base; i++) {
        lora_place place;
        if (!parse(file, lora_tensor(file, i), &place)) continue;
        if (!begun) file->encoder = place.encoder;
        begun = true;
        if (place.layer >= file->layers) file->layers = place.layer + 1;
    }
}

/* ---- one update ---- */

static esp_code check_pieces(const lora_file *file, const lora_update *update, esp_error *err) {
    const model_tensor *a = update->piece[PIECE_A], *b = update->piece[PIECE_B];
    const model_tensor *magnitude = update->piece[PIECE_MAGNITUDE];
    const model_tensor *bias = update->piece[PIECE_B_BIAS], *seen = a ? a : b;
    const char *lacks = NULL;
    if (!seen) seen = magnitude ? magnitude : bias;
    if (!seen) return ESP_OK;
    if (!a) lacks = "A";
    if (!b) lacks = "B";
    if (file->config.dora && !magnitude) lacks = "magnitude vector";
    if (file->config.second_bias && !bias) lacks = "bias of B";
    if (!lacks) return ESP_OK;
    return lora_fail_tensor(seen, err,
                            "stands alone: there is no %s beside it; the adapter is "
                            "incomplete: save it again",
                            lacks);
}

static esp_code check_target(const lora_file *file, const lora_update *update, lora_site site,
                             esp_error *err) {
    bool wanted;
    esp_code code = lora_config_targets(&file->config, update->module, &wanted, err);
    if (code) return code;
    if (site >= SITE_LAYER_COUNT)
        wanted = wanted && !lora_config_saves(&file->config, lora_site_name(file, site));
    if (wanted) return ESP_OK;
    return lora_fail_tensor(update->piece[PIECE_A], err,
                            "is of a module that the config does not target (target_modules, "
                            "exclude_modules, layers_to_transform): PEFT would leave it out");
}

static bool is_matrix(const model_tensor *tensor) { return tensor->dim_count == 2; }

/* Of A; B has it innermost. A GGUF file has the embedding's A turned. */
static uint64_t rank_of_a(const lora_file *file, const model_tensor *a, lora_site site) {
    return a->dims[file->gguf && site == SITE_EMBEDDING ? 0 : 1];
}

static esp_code read_scale(const lora_file *file, lora_update *update, lora_site site,
                           esp_error *err) {
    const model_tensor *a = update->piece[PIECE_A], *b = update->piece[PIECE_B];
    uint64_t rank = b->dims[0];
    if (!is_matrix(a) || !is_matrix(b))
        return lora_fail_tensor(is_matrix(a) ? b : a, err, "has %u dimensions; wanted 2",
                                is_matrix(a) ? b->dim_count : a->dim_count);
    if (rank < 1 || rank > LORA_RANK_MAX)
        return lora_fail_tensor(b, err, "has rank %llu; wanted 1 to %d", (unsigned long long)rank,
                                LORA_RANK_MAX);
    if (rank_of_a(file, a, site) != rank)
        return lora_fail_tensor(a, err, "has rank %llu; its B has %llu",
                                (unsigned long long)rank_of_a(file, a, site),
                                (unsigned long long)rank);
    update->rank = (uint32_t)rank;
    update->scale = file->alpha / (float)rank;
    if (file->gguf) return ESP_OK;
    uint32_t wanted;
    esp_code code = lora_config_scale(&file->config, update->module, &wanted, &update->scale, err);
    if (code || wanted == update->rank) return code;
    return lora_fail_tensor(a, err, "has rank %u; the config (r, rank_pattern) wants %u",
                            update->rank, wanted);
}

/* Tables: what stood there before is the table that came instead, by its shape; and one way to change rows is
 * enough. */
static esp_code check_table(const lora_update *update, esp_error *err) {
    const model_tensor *before = update->piece[PIECE_ORIGINAL], *now = update->piece[PIECE_WEIGHT];
    const model_tensor *tokens = update->piece[PIECE_TOKENS];
    if (before && (!now || memcmp(before->dims, now->dims, sizeof now->dims) != 0))
        return lora_fail_tensor(before, err,
                                "is a table from before the training; wanted one of its shape from "
                                "behind it, too");
    if (!tokens || !update->piece[PIECE_A]) return ESP_OK;
    return lora_fail_tensor(tokens, err,
                            "brings rows of tokens for a table that has a low-rank update, too; "
                            "wanted one of them");
}

static esp_code finish_update(lora_file *file, lora_update *update, lora_site site,
                              esp_error *err) {
    esp_code code = check_pieces(file, update, err);
    if (!code) code = check_table(update, err);
    if (code || !update->piece[PIECE_A]) return code;
    if ((code = read_scale(file, update, site, err))) return code;
    if (!isfinite(update->scale) || update->scale <= 0)
        return lora_fail_tensor(update->piece[PIECE_A], err,
                                "would be scaled by %g; wanted a finite factor above 0",
                                (double)update->scale);
    return file->gguf ? ESP_OK : check_target(file, update, site, err);
}

/* A matrix is given whole or in parts, not both. */
static esp_code check_fused(const lora_file *file, uint32_t layer, lora_site fused, lora_site first,
                            lora_site last, esp_error *err) {
    const lora_update *whole = lora_at(file, layer, fused);
    for (lora_site site = first; site <= last; site++) {
        const lora_update *part = lora_at(file, layer, site);
        if (!whole->module.bytes || !part->module.bytes) continue;
        return esp_fail(err, ESP_INVALID,
                        "%s: the modules %s and %s of layer %u are both updated, but are the same "
                        "rows; wanted one of them",
                        file->name, lora_site_name(file, fused), lora_site_name(file, site), layer);
    }
    return ESP_OK;
}

/* ---- what the config wants ---- */

/* The beginning of the names of modules, up to "layers.": that of any module that was found. */
static model_text find_prefix(const lora_file *file) {
    const char *layers = lora_layers_name(file);
    size_t bytes = strlen(layers);
    for (uint32_t layer = 0; layer < file->layers; layer++)
        for (lora_site site = SITE_Q; site < SITE_LAYER_COUNT; site++) {
            model_text module = lora_at(file, layer, site)->module;
            for (size_t i = 0; i + bytes <= module.bytes; i++)
                if (memcmp(module.at + i, layers, bytes) == 0) return (model_text){module.at, i};
        }
    return file->encoder ? (model_text){"", 0} : (model_text){"model.", 6};
}

/* Kinds of modules that the adapter's own base has: those that were seen, and, where no other cut of the
 * same rows was seen, those of the base at hand. */
static void find_kinds(const lora_file *file, bool kinds[SITE_LAYER_COUNT]) {
    memset(kinds, 0, SITE_LAYER_COUNT * sizeof *kinds);
    for (uint32_t layer = 0; layer < file->layers; layer++)
        for (lora_site site = SITE_Q; site < SITE_LAYER_COUNT; site++)
            kinds[site] = kinds[site] || lora_at(file, layer, site)->rank;
    if (!file->base || file->config.targets.any) return;
    bool qkv = kinds[SITE_QKV] || kinds[SITE_Q] || kinds[SITE_K] || kinds[SITE_V];
    bool gate_up = kinds[SITE_GATE_UP] || kinds[SITE_GATE] || kinds[SITE_UP];
    if (!qkv) kinds[SITE_QKV] = file->base->tensor_names[TENSOR_QKV] != NULL;
    if (!gate_up) kinds[SITE_GATE_UP] = file->base->tensor_names[TENSOR_GATE_UP] != NULL;
    for (lora_site site = SITE_Q; site <= SITE_V; site++)
        kinds[site] = !kinds[SITE_QKV];
    kinds[SITE_GATE] = !kinds[SITE_GATE_UP] && !file->encoder;
    kinds[SITE_UP] = !kinds[SITE_GATE_UP];
    kinds[SITE_O] = kinds[SITE_DOWN] = true;
}

static esp_code check_wanted(const lora_file *file, const char *module, const lora_update *update,
                             esp_error *err) {
    bool wanted;
    if (update->rank) return ESP_OK;
    esp_code code =
        lora_config_targets(&file->config, (model_text){module, strlen(module)}, &wanted, err);
    if (code || !wanted) return code;
    return esp_fail(err, ESP_INVALID,
                    "%s: the config targets %s, but there are no tensors for it; the adapter is "
                    "incomplete: save it again",
                    file->name, json_show(module).text);
}

/* A layer without any tensor, and the base not at hand: who is to blame may be a tensor behind it. */
static bool is_hole(const lora_file *file, uint32_t layer) {
    bool hole = !file->base;
    for (lora_site site = SITE_Q; site < SITE_LAYER_COUNT; site++)
        hole = hole && !lora_at(file, layer, site)->module.bytes;
    return hole;
}

static esp_code blame_hole(const lora_file *file, uint32_t layer, esp_error *err) {
    return esp_fail(err, ESP_INVALID,
                    "%s: there are tensors of layer %u, but none of layer %u, which the config targets "
                    "too; the adapter is incomplete, or layer %u is none of its base's",
                    file->name, file->layers - 1, layer, file->layers - 1);
}

static esp_code check_layers(const lora_file *file, esp_error *err) {
    bool kinds[SITE_LAYER_COUNT];
    model_text prefix = find_prefix(file);
    esp_code code = ESP_OK;
    find_kinds(file, kinds);
    for (uint32_t layer = 0; layer < file->layers && !code; layer++)
        for (lora_site site = SITE_Q; site < SITE_LAYER_COUNT && !code; site++) {
            char module[SAFETENSORS_NAME_MAX + 64];
            if (kinds[site])
                snprintf(module, sizeof module, "%.*s%s%u.%s", (int)prefix.bytes, prefix.at,
                         lora_layers_name(file), layer, lora_site_path(file, site));
            if (kinds[site]) code = check_wanted(file, module, lora_at(file, layer, site), err);
            if (code && is_hole(file, layer)) code = blame_hole(file, layer, err);
        }
    return code;
}

/* Whether the model that was trained had an lm_head, where no tensor says so. */
static bool is_headless(const lora_file *file) {
    bool embeds = file->base && file->base->spec.pooling != POOLING_NONE;
    return embeds || file->encoder || strcmp(file->config.task, "SEQ_CLS") == 0 ||
           strcmp(file->config.task, "FEATURE_EXTRACTION") == 0;
}

/* A list that is of both tables names the output's rows where the base has a table for each. */
static esp_code check_token_rows(const lora_file *file, lora_site site, esp_error *err) {
    const lora_config *c = &file->config;
    bool of_both = site == SITE_OUTPUT && c->output_tokens == c->embedding_tokens;
    if (!lora_token_ids(file, site) || of_both || lora_at(file, 0, site)->piece[PIECE_TOKENS])
        return ESP_OK;
    return esp_fail(err, ESP_INVALID,
                    "%s: trainable_token_indices names rows of %s, but there is no tensor of them; "
                    "the adapter is incomplete: save it again",
                    file->name, lora_site_name(file, site));
}

/* lm_head and embed_tokens: named as targets or as modules to save. */
static esp_code check_model_sites(const lora_file *file, esp_error *err) {
    const struct {
        lora_site site;
        const char *module;
    } sites[] = {{SITE_OUTPUT, "lm_head"},
                 {SITE_EMBEDDING,
                  file->encoder ? lora_site_path(file, SITE_EMBEDDING) : "model.embed_tokens"}};
    esp_code code = ESP_OK;
    for (size_t i = is_headless(file); i < sizeof sites / sizeof *sites && !code; i++) {
        const lora_update *update = lora_at(file, 0, sites[i].site);
        const char *name = lora_site_name(file, sites[i].site);
        bool saved = lora_config_saves(&file->config, name);
        if (saved && !update->piece[PIECE_WEIGHT])
            code = esp_fail(err, ESP_INVALID,
                            "%s: modules_to_save names %s, but there is no tensor for it; the "
                            "adapter is incomplete: save it again",
                            file->name, name);
        else if (!saved && !file->config.targets.any)
            code = check_wanted(file, sites[i].module, update, err);
        if (!code) code = check_token_rows(file, sites[i].site, err);
    }
    return code;
}

/* ---- facts ---- */

static void note(lora_facts *facts, const lora_update *update) {
    if (!update->rank) return;
    facts->updates++;
    if (!facts->rank_min || update->rank < facts->rank_min) facts->rank_min = update->rank;
    if (update->rank > facts->rank_max) facts->rank_max = update->rank;
}

static void fill_facts(lora_file *file) {
    lora_facts *facts = &file->facts;
    facts->tensors = lora_tensor_count(file);
    for (lora_site site = SITE_Q; site < SITE_POOLER; site++) {
        uint32_t layers = site < SITE_LAYER_COUNT ? file->layers : 1;
        bool changed = false;
        for (uint32_t layer = 0; layer < layers; layer++) {
            const lora_update *update = lora_at(file, layer, site);
            note(facts, update);
            changed = changed || update->module.bytes;
        }
        if (changed) facts->targets[facts->target_count++] = lora_site_name(file, site);
    }
}

/* ---- all of them ---- */

static esp_code finish_layer(lora_file *file, uint32_t layer, esp_error *err) {
    esp_code code = ESP_OK;
    for (lora_site site = SITE_Q; site < SITE_LAYER_COUNT && !code; site++)
        code = finish_update(file, lora_at(file, layer, site), site, err);
    if (!code) code = check_fused(file, layer, SITE_QKV, SITE_Q, SITE_V, err);
    if (!code) code = check_fused(file, layer, SITE_GATE_UP, SITE_GATE, SITE_UP, err);
    return code;
}

esp_code lora_collect(lora_file *file, esp_error *err) {
    esp_code code = ESP_OK;
    count_layers(file);
    file->updates =
        mem_new((size_t)file->layers * SITE_LAYER_COUNT + SITE_COUNT, sizeof *file->updates);
    for (uint32_t i = 0; i < lora_tensor_count(file) && !code; i++)
        code = put(file, lora_tensor(file, i), err);
    for (uint32_t layer = 0; layer < file->layers && !code; layer++)
        code = finish_layer(file, layer, err);
    for (lora_site site = SITE_OUTPUT; site < SITE_COUNT && !code; site++)
        code = finish_update(file, lora_at(file, 0, site), site, err);
    if (!code && !file->gguf) code = check_layers(file, err);
    if (!code && !file->gguf) code = check_model_sites(file, err);
    if (!code) fill_facts(file);
    if (!code && !file->facts.target_count)
        code = esp_fail(err, ESP_INVALID, "%s: the adapter holds no tensor that changes anything",
                        file->name);
    return code;
}
