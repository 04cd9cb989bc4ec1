/* hf_sentencepiece.c - SentencePiece's tokenizer.model: a protobuf message (sentencepiece_model.proto).
 *
 *   1 pieces           1 piece, 2 score (float), 3 type (numbers of tok_type)
 *   2 trainer_spec     3 model_type (1 unigram, 2 bpe), 24 treat_whitespace_as_suffix, 40 unk_id, 41 bos_id,
 *                      42 eos_id
 *   3 normalizer_spec  2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces,
 *                      5 escape_whitespaces
 *
 * Fields that are not listed are passed over. Nothing is believed that the bytes do not hold. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/tokens/hf_inner.h"
#include "engine/text/spaced_text.h"

enum { PIECES_MAX = 1 << 22 };

/* A message's bytes, and the field that was read last. */
typedef struct message {
    const uint8_t *at;
    size_t left;
    uint32_t field, wire;
    uint64_t number; /* wire 0 */
    tok_text bytes;  /* wire 2; wires 1 and 5: 8 and 4 bytes */
} message;

/* What the model says beside its pieces. */
typedef struct spm_model {
    uint32_t piece_count;
    int64_t type, unknown, bos, eos;
    bool suffix, prefix, collapse, escape;
    tok_text charsmap;
} spm_model;

static bool read_varint(message *m, uint64_t *out) {
    *out = 0;
    for (uint32_t shift = 0; shift < 64 && m->left; shift += 7) {
        uint8_t byte = *m->at++;
        m->left--;
        if (shift == 63 && byte > 1) return false;
        *out |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) return true;
    }
    return false;
}

static bool take(message *m, uint64_t bytes) {
    if (bytes > m->left) return false;
    m->bytes = (tok_text){(const char *)m->at, (size_t)bytes};
    m->at += bytes;
    m->left -= (size_t)bytes;
    return true;
}

/* The next field; false when the bytes are no message. Call while left > 0. */
static bool next_field(message *m) {
    uint64_t key;
    if (!read_varint(m, &key) || key >> 3 == 0 || key >> 3 > 536870911) return false;
    m->field = (uint32_t)(key >> 3);
    m->wire = key & 7;
    m->number = 0;
    m->bytes = (tok_text){"", 0};
    if (m->wire == 0) return read_varint(m, &m->number);
    if (m->wire == 1) return take(m, 8);
    if (m->wire == 5) return take(m, 4);
    return m->wire == 2 && read_varint(m, &m->number) && take(m, m->number);
}

static message message_of(tok_text bytes) {
    return (message){.at = (const uint8_t *)bytes.at, .left = bytes.bytes};
}

static esp_code refuse(const hf_reader *r, const char *path) {
    return hf_fail(r, ESP_INVALID, path, "is no message of SentencePiece's");
}

/* ---- the specs ---- */

static esp_code read_trainer(const hf_reader *r, tok_text bytes, spm_model *model) {
    message m = message_of(bytes);
    while (m.left) {
        if (!next_field(&m)) return refuse(r, "trainer_spec");
        if (m.wire != 0) continue;
        if (m.field == 3) model->type = (int64_t)m.number;
        if (m.field == 24) model->suffix = m.number != 0;
        if (m.field == 40) model->unknown = (int32_t)m.number;
        if (m.field == 41) model->bos = (int32_t)m.number;
        if (m.field == 42) model->eos = (int32_t)m.number;
    }
    return ESP_OK;
}

static esp_code read_normalizer(const hf_reader *r, tok_text bytes, spm_model *model) {
    message m = message_of(bytes);
    while (m.left) {
        if (!next_field(&m)) return refuse(r, "normalizer_spec");
        if (m.wire == 2 && m.field == 2) model->charsmap = m.bytes;
        if (m.wire != 0) continue;
        if (m.field == 3) model->prefix = m.number != 0;
        if (m.field == 4) model->collapse = m.number != 0;
        if (m.field == 5) model->escape = m.number != 0;
    }
    return ESP_OK;
}

static esp_code read_specs(const hf_reader *r, const file_view *file, spm_model *model) {
    message m = {.at = file->bytes, .left = file->count};
    esp_code code = ESP_OK;
    while (!code && m.left) {
        if (!next_field(&m)) return refuse(r, "the file");
        if (m.wire != 2) continue;
        if (m.field == 1 && ++model->piece_count > PIECES_MAX)
            return hf_fail(r, ESP_INVALID, "pieces", "are more than %d", PIECES_MAX);
        if (m.field == 2) code = read_trainer(r, m.bytes, model);
        if (m.field == 3) code = read_normalizer(r, m.bytes, model);
    }
    if (!code && model->piece_count == 0) code = refuse(r, "pieces");
    return code;
}

static esp_code check_specs(const hf_reader *r, const spm_model *model) {
    if (model->type != 1 && model->type != 2)
        return hf_fail(r, ESP_UNIMPLEMENTED, "trainer_spec.model_type",
                       "is %lld; wanted 1 (unigram) or 2 (bpe)", (long long)model->type);
    if (model->suffix)
        return hf_fail(r, ESP_UNIMPLEMENTED, "trainer_spec.treat_whitespace_as_suffix",
                       "is true; wanted false");
    if (!model->escape)
        return hf_fail(r, ESP_UNIMPLEMENTED, "normalizer_spec.escape_whitespaces",
                       "is false; wanted true");
    charsmap map;
    esp_error why = {0};
    esp_code code = charsmap_open(&map, model->charsmap.at, model->charsmap.bytes, &why);
    charsmap_close(&map);
    if (code)
        return hf_fail(r, code, "normalizer_spec.precompiled_charsmap", "is damaged: %.280s",
                       why.message);
    return ESP_OK;
}

/* ---- the pieces ---- */

static esp_code read_piece(const hf_reader *r, tok_text bytes, uint32_t id) {
    token_source *out = r->out;
    message m = message_of(bytes);
    out->types[id] = TOK_NORMAL;
    out->tokens[id] = (tok_text){"", 0};
    while (m.left) {
        if (!next_field(&m)) return refuse(r, "pieces");
        if (m.field == 1 && m.wire == 2) out->tokens[id] = m.bytes;
        if (m.field == 2 && m.wire == 5) memcpy(&out->scores[id], m.bytes.at, 4);
        if (m.field == 3 && m.wire == 0) out->types[id] = m.number > 99 ? 99 : (int32_t)m.number;
    }
    int32_t type = out->types[id];
    if (type < TOK_NORMAL || type > TOK_BYTE || type == TOK_UNUSED)
        return hf_fail(r, ESP_UNIMPLEMENTED, "pieces", "entry %u is of type %d; wanted 1 to 4 or 6",
                       id, type);
    if (out->tokens[id].bytes == 0 || !isfinite(out->scores[id]))
        return hf_fail(r, ESP_INVALID, "pieces", "entry %u has no text or no finite score", id);
    return ESP_OK;
}

static esp_code read_pieces(const hf_reader *r, const file_view *file, uint32_t count) {
    token_source *out = r->out;
    message m = {.at = file->bytes, .left = file->count};
    uint32_t id = 0;
    out->source.token_count = count;
    out->tokens = mem_new(count, sizeof *out->tokens);
    out->types = mem_new(count, sizeof *out->types);
    out->scores = mem_new(count, sizeof *out->scores);
    while (m.left && next_field(&m)) {
        if (m.field != 1 || m.wire != 2) continue;
        esp_code code = read_piece(r, m.bytes, id++);
        if (code) return code;
    }
    return ESP_OK;
}

/* An id of the trainer's: of the right type, or none. */
static int32_t id_of_type(const token_source *out, int64_t id, int32_t type) {
    bool fits = id >= 0 && id < out->source.token_count && out->types[id] == type;
    return fits ? (int32_t)id : -1;
}

static void set_rules(hf_reader *r, const spm_model *model) {
    token_source *out = r->out;
    tok_source *source = &out->source;
    strcpy(out->kind, model->type == 2 ? "llama" : "t5");
    source->unknown = id_of_type(out, model->unknown, TOK_UNKNOWN);
    source->add_space_prefix = model->prefix;
    source->collapse_spaces = model->collapse;
    source->charsmap = model->charsmap.at;
    source->charsmap_bytes = model->charsmap.bytes;
    source->bos = id_of_type(out, model->bos, TOK_CONTROL);
    source->eos = id_of_type(out, model->eos, TOK_CONTROL);
    if (model->type == 2) r->first_id = source->bos;
    if (model->type == 1) r->last_id = source->eos;
}

static esp_code read_message(hf_reader *r, const file_view *file) {
    spm_model model = {
        .type = 1, .bos = 1, .eos = 2, .prefix = true, .collapse = true, .escape = true};
    esp_code code = read_specs(r, file, &model);
    if (!code) code = check_specs(r, &model);
    if (!code) code = read_pieces(r, file, model.piece_count);
    if (!code) set_rules(r, &model);
    return code;
}

/* A message begins with the key of pieces, a newline; a list of ranks begins with base64. */
esp_code hf_read_model_file(hf_reader *r, const file_view *file) {
    return file->bytes[0] == '\n' ? read_message(r, file) : hf_read_ranks(r, file);
}
