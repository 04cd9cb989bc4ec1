/* lora_check.c - an adapter's updates against its base: shapes, tables, biases, and which of the
 * two was trained for the other. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/lora/lora_base_name.h"
#include "engine/model/lora/lora_inner.h"

bool lora_rows_interleaved(const lora_file *file) {
    return file->gguf && file->architecture.bytes == 5 &&
           memcmp(file->architecture.at, "llama", 5) == 0;
}

/* ---- which base ---- */

/* The architecture that the reference's converter gives to adapters of a base's family. */
static esp_code check_architecture(const lora_file *file, esp_error *err) {
    const model_family *family = file->base->family;
    const char *wanted = family->architecture ? family->architecture : "llama";
    char seen[48];
    model_text text = file->architecture;
    if (!file->gguf || (text.bytes == strlen(wanted) && !memcmp(text.at, wanted, text.bytes)))
        return ESP_OK;
    esp_show(seen, sizeof seen, text.at, text.bytes);
    return esp_fail(err, ESP_INVALID,
                    "%s: general.architecture is \"%s\"; the base %s wants \"%s\": the adapter was "
                    "trained for another one",
                    file->name, seen, file->base->name, wanted);
}

/* A file or folder of the base is usually called as the base was when the adapter was trained, and the
 * quantisation behind it; but its name is the operator's to choose, and what it records of itself may be its
 * parent's name. So another name is a warning, and only what can be no name of this base is another base. */
static void compare_names(lora_file *file) {
    lora_facts *facts = &file->facts;
    const char *trained = facts->base_name, *name = file->base->name;
    const char *recorded = file->base->recorded;
    char shown[96];
    if (base_names_agree(trained, name) || base_names_agree(trained, recorded)) return;
    facts->other_base = base_names_compare(trained, recorded) == NAMES_DIFFER &&
                        base_names_compare(trained, name) != NAMES_ALIKE;
    esp_show(shown, sizeof shown, trained, strlen(trained));
    if (facts->other_base)
        snprintf(
            facts->warning, sizeof facts->warning,
            "%s: the adapter was trained on %s, and the base %.95s says that it is %.95s: another "
            "one",
            file->name, shown, name, recorded);
    else
        snprintf(
            facts->warning, sizeof facts->warning,
            "%s: the adapter was trained on %s; %.95s fits its shapes, but its name is another",
            file->name, shown, name);
}

esp_code lora_file_refuse_other(const lora_file *file, bool allowed, esp_error *err) {
    if (!file->facts.other_base || allowed) return ESP_OK;
    return esp_fail_field(err, ESP_INVALID, "--allow-other-base",
                          "%s; --allow-other-base takes it all the same", file->facts.warning);
}

/* ---- shapes ---- */

static esp_code check_matrix(const lora_file *file, const model_tensor *tensor, uint64_t rows,
                             uint64_t cols, esp_error *err) {
    if (tensor->dim_count == 2 && tensor->dims[1] == rows && tensor->dims[0] == cols) return ESP_OK;
    return lora_fail_tensor(
        tensor, err,
        "has the shape %llu x %llu; the base %s wants %llu x %llu: the adapter was trained for "
        "another one",
        (unsigned long long)tensor->dims[1], (unsigned long long)tensor->dims[0], file->base->name,
        (unsigned long long)rows, (unsigned long long)cols);
}

static esp_code check_vector(const lora_file *file, const lora_update *update, lora_piece piece,
                             uint64_t rows, esp_error *err) {
    const model_tensor *tensor = update->piece[piece];
    if (!tensor || (tensor->dim_count == 1 && tensor->dims[0] == rows)) return ESP_OK;
    return lora_fail_tensor(tensor, err,
                            "has %llu elements in %u dimensions; the base %s wants %llu in one",
                            (unsigned long long)tensor_element_count(tensor), tensor->dim_count,
                            file->base->name, (unsigned long long)rows);
}

static esp_code check_update(const lora_file *file, const lora_update *update, uint64_t rows,
                             uint64_t cols, esp_error *err) {
    esp_code code = ESP_OK;
    const model_tensor *a = update->piece[PIECE_A], *b = update->piece[PIECE_B];
    if (a) code = check_matrix(file, a, update->rank, cols, err);
    if (a && !code) code = check_matrix(file, b, rows, update->rank, err);
    if (!code) code = check_vector(file, update, PIECE_B_BIAS, rows, err);
    return code ? code : check_vector(file, update, PIECE_MAGNITUDE, rows, err);
}

/* An encoder's MLP has one matrix before its activation. */
static esp_code check_gate(const lora_file *file, uint32_t layer, esp_error *err) {
    static const lora_site gates[] = {SITE_GATE, SITE_GATE_UP};
    for (size_t i = 0; file->base->spec.encoder && i < sizeof gates / sizeof *gates; i++) {
        const lora_update *update = lora_at(file, layer, gates[i]);
        if (update->module.bytes)
            return esp_fail(
                err, ESP_INVALID,
                "%s: the adapter changes %.*s, and the base %s, an encoder, has no gate",
                file->name, (int)update->module.bytes, update->module.at, file->base->name);
    }
    return ESP_OK;
}

/* A new bias stands instead of the base's, so there must be one. */
static esp_code check_bias(const lora_file *file, uint32_t layer, lora_site site, esp_error *err) {
    const lora_update *update = lora_at(file, layer, site);
    const model_tensor *tensor = update->piece[PIECE_BIAS];
    float *base = NULL;
    if (!tensor) return ESP_OK;
    bool fused = site == SITE_QKV || site == SITE_GATE_UP;
    esp_code code = fused ? ESP_OK : lora_base_bias(file->base, layer, site, &base, err);
    bool found = base != NULL;
    free(base);
    if (code || found)
        return code ? code
                    : check_vector(file, update, PIECE_BIAS,
                                   lora_site_rows(&file->base->spec, site), err);
    return lora_fail_tensor(tensor, err, "is a bias, and the base %s has none there",
                            file->base->name);
}

static esp_code check_layer(const lora_file *file, uint32_t layer, esp_error *err) {
    const model_spec *spec = &file->base->spec;
    esp_code code = check_gate(file, layer, err);
    for (lora_site site = SITE_Q; site < SITE_LAYER_COUNT && !code; site++) {
        code = check_update(file, lora_at(file, layer, site), lora_site_rows(spec, site),
                            lora_site_cols(spec, site), err);
        if (!code) code = check_bias(file, layer, site, err);
    }
    return code;
}

/* ---- tables ---- */

/* Rows of a table that the adapter gives whole, else the base's. */
static esp_code table_rows(const lora_file *file, lora_site site, uint64_t *out, esp_error *err) {
    const model_tensor *whole = lora_at(file, 0, site)->piece[PIECE_WEIGHT];
    uint32_t vocab = file->base->spec.vocab;
    *out = whole && whole->dim_count == 2 ? whole->dims[1] : vocab;
    if (!whole) return ESP_OK;
    if (*out < vocab || *out > SPEC_VOCAB_MAX)
        return lora_fail_tensor(whole, err,
                                "has %llu rows; the base %s has %u: wanted as many, or "
                                "more for added tokens",
                                (unsigned long long)*out, file->base->name, vocab);
    return check_matrix(file, whole, *out, file->base->spec.hidden, err);
}

static bool brings_rows(const lora_update *update) {
    return update->piece[PIECE_WEIGHT] || update->piece[PIECE_TOKENS];
}

static esp_code check_embedding(lora_file *file, esp_error *err) {
    const lora_update *update = lora_at(file, 0, SITE_EMBEDDING);
    const model_tensor *a = update->piece[PIECE_A];
    uint64_t rows, hidden = file->base->spec.hidden;
    esp_code code = table_rows(file, SITE_EMBEDDING, &rows, err);
    if (!code) code = lora_check_tokens(file, SITE_EMBEDDING, rows, &rows, err);
    if (code) return code;
    if (a)
        code = file->gguf ? check_matrix(file, a, rows, update->rank, err)
                          : check_matrix(file, a, update->rank, rows, err);
    if (a && !code) code = check_matrix(file, update->piece[PIECE_B], hidden, update->rank, err);
    if (!code) code = check_vector(file, update, PIECE_MAGNITUDE, hidden, err);
    if (a || brings_rows(update)) file->facts.whole_rows[LORA_EMBEDDING] = (uint32_t)rows;
    return code;
}

static esp_code check_output(lora_file *file, esp_error *err) {
    const lora_update *update = lora_at(file, 0, SITE_OUTPUT);
    uint64_t rows;
    if (!update->module.bytes) return ESP_OK;
    if (file->base->spec.pooling != POOLING_NONE)
        return esp_fail(err, ESP_INVALID,
                        "%s: the adapter changes lm_head, and the base %s, which "
                        "embeds, has none",
                        file->name, file->base->name);
    esp_code code = table_rows(file, SITE_OUTPUT, &rows, err);
    if (!code) code = lora_check_tokens(file, SITE_OUTPUT, rows, &rows, err);
    if (!code) code = check_update(file, update, rows, file->base->spec.hidden, err);
    if (brings_rows(update)) file->facts.whole_rows[LORA_OUTPUT] = (uint32_t)rows;
    return code;
}

static esp_code check_score(lora_file *file, esp_error *err) {
    const model_tensor *score = lora_at(file, 0, SITE_SCORE)->piece[PIECE_WEIGHT];
    if (!score) return ESP_OK;
    if (score->dim_count != 2 || score->dims[1] > SPEC_VOCAB_MAX)
        return lora_fail_tensor(score, err, "is no matrix of labels x %u", file->base->spec.hidden);
    return check_matrix(file, score, score->dims[1], file->base->spec.hidden, err);
}

/* Of the base's shape, though nothing is computed with it. */
static esp_code check_pooler(const lora_file *file, esp_error *err) {
    const lora_update *update = lora_at(file, 0, SITE_POOLER);
    uint32_t hidden = file->base->spec.hidden;
    const model_tensor *whole = update->piece[PIECE_WEIGHT];
    esp_code code = check_update(file, update, hidden, hidden, err);
    if (whole && !code) code = check_matrix(file, whole, hidden, hidden, err);
    return code ? code : check_vector(file, update, PIECE_BIAS, hidden, err);
}

/* Whether anything is made of an lm_head. */
static bool has_output(const lora_file *file) {
    return file->base->spec.pooling == POOLING_NONE &&
           !lora_at(file, 0, SITE_SCORE)->piece[PIECE_WEIGHT];
}

/* A base that ties its two tables has one for both when the training said so, when rows of tokens were trained,
 * and when tokens were added: resizing ties them again. */
static esp_code tie(lora_file *file, esp_error *err) {
    lora_facts *facts = &file->facts;
    const model_spec *spec = &file->base->spec;
    uint32_t embedding = facts->whole_rows[LORA_EMBEDDING], output = facts->whole_rows[LORA_OUTPUT];
    bool grown = embedding > spec->vocab, has = has_output(file);
    bool tied =
        file->config.tying || grown || lora_at(file, 0, SITE_EMBEDDING)->piece[PIECE_TOKENS];
    if (!output && embedding && spec->tied_embeddings && has &&
        !lora_at(file, 0, SITE_OUTPUT)->module.bytes && tied) {
        file->output_is_embedding = true;
        facts->one_table = file->config.tying || !lora_at(file, 0, SITE_EMBEDDING)->rank;
        output = facts->whole_rows[LORA_OUTPUT] = embedding;
    }
    if (!has || (!grown && output <= spec->vocab) || embedding == output) return ESP_OK;
    return esp_fail(err, ESP_INVALID,
                    "%s: the adapter gives embed_tokens %u rows and lm_head %u; wanted as many: "
                    "save it with save_embedding_layers=True",
                    file->name, embedding ? embedding : spec->vocab, output ? output : spec->vocab);
}

esp_code lora_check(lora_file *file, esp_error *err) {
    esp_code code = check_architecture(file, err);
    for (uint32_t layer = 0; layer < file->layers && !code; layer++)
        code = check_layer(file, layer, err);
    if (!code) code = check_embedding(file, err);
    if (!code) code = check_output(file, err);
    if (!code) code = check_score(file, err);
    if (!code) code = check_pooler(file, err);
    if (!code && !file->outline) code = lora_drop_copies(file, err);
    if (!code) code = tie(file, err);
    if (!code && !file->outline) code = lora_embedding_factor(file, err);
    if (!code) compare_names(file);
    return code;
}
