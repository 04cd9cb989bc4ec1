/* vocab.c - reads the spellings, keeps the tokens' bytes and finds a token by them. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/vocab.h"

#define XXH_INLINE_ALL
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/text/ids.h"
#include "engine/text/utf8.h"

static const char *const kinds[] = {[VOCAB_BPE] = "gpt2",
                                    [VOCAB_SPM] = "llama",
                                    [VOCAB_UNIGRAM] = "t5",
                                    [VOCAB_WORDPIECE] = "bert",
                                    [VOCAB_CHARS] = "bpe"};

esp_code vocab_kind_of(const char *name, vocab_kind *out, esp_error *err) {
    for (int i = 0; name && i < (int)(sizeof kinds / sizeof *kinds); i++) {
        if (strcmp(name, kinds[i]) != 0) continue;
        *out = (vocab_kind)i;
        return ESP_OK;
    }
    return esp_fail_field(err, ESP_UNIMPLEMENTED, "tokenizer.ggml.model",
                          "tokenizer.ggml.model is %s%.64s%s; kinds known here: gpt2, llama, t5, "
                          "bert, bpe",
                          name ? "\"" : "", name ? name : "missing", name ? "\"" : "");
}

/* ---- spellings ---- */

/* GPT-2's alphabet shows printable Latin-1 bytes as themselves and the others, in ascending order,
 * as the characters from U+0100 on (encoder.py of the GPT-2 release). */
static bool shown_as_itself(uint32_t c) {
    return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

static int byte_of_character(uint32_t c) {
    if (c < 0x100) return shown_as_itself(c) ? (int)c : -1;
    if (c <= 0x120) return (int)(c - 0x100);        /* 00..20 */
    if (c <= 0x142) return (int)(c - 0x121 + 0x7f); /* 7f..a0 */
    return c == 0x143 ? 0xad : -1;
}

bool vocab_decode_alphabet(tok_text text, char *out, size_t *count) {
    size_t made = 0;
    for (size_t i = 0; i < text.bytes; i++) {
        uint32_t c = (uint8_t)text.at[i];
        if (c >= 0xc2 && c <= 0xc5 && i + 1 < text.bytes) { /* two bytes: U+0080..U+017F */
            uint32_t second = (uint8_t)text.at[++i];
            if ((second & 0xc0) != 0x80) return false;
            c = (c & 0x1f) << 6 | (second & 0x3f);
        } else if (c >= 0x80) {
            return false;
        }
        int byte = byte_of_character(c);
        if (byte < 0) return false;
        out[made++] = (char)byte;
    }
    *count = made;
    return true;
}

/* Bytes that a token may grow to when each invalid one is shown as U+FFFD, behind an unfinished
 * character of the token before. Must fit tok_stream_next's buffer. */
static size_t shown_bytes_max(const char *at, size_t bytes) {
    size_t shown = 3 + bytes;
    for (size_t i = 0; i < bytes; i++) {
        if ((uint8_t)at[i] >= 0x80) shown += 2;
    }
    return shown;
}

static esp_code check_count(const tok_source *source, uint64_t *pool_bytes, esp_error *err) {
    if (source->token_count == 0 || source->token_count > VOCAB_TOKENS_MAX)
        return esp_fail(err, ESP_INVALID, "tokenizer.ggml.tokens has %u entries; wanted 1 to %d",
                        source->token_count, VOCAB_TOKENS_MAX);
    *pool_bytes = 0;
    for (uint32_t id = 0; id < source->token_count; id++) {
        if (!check_add(*pool_bytes, source->tokens[id].bytes, pool_bytes) ||
            *pool_bytes > UINT32_MAX)
            return esp_fail(err, ESP_INVALID, "tokenizer.ggml.tokens hold more than 4 GiB of text");
    }
    return ESP_OK;
}

static esp_code read_type(const tok_source *source, uint32_t id, uint8_t *out, esp_error *err) {
    int32_t type = source->types ? source->types[id] : TOK_NORMAL;
    if (type < TOK_NORMAL || type > TOK_BYTE)
        return esp_fail(err, ESP_INVALID,
                        "tokenizer.ggml.token_type of token %u is %d; wanted %d to %d", id, type,
                        TOK_NORMAL, TOK_BYTE);
    *out = (uint8_t)type;
    return ESP_OK;
}

static bool is_literal(uint8_t type) {
    return type == TOK_CONTROL || type == TOK_UNKNOWN || type == TOK_USER_DEFINED;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* "<0x0A>" -> 10, or -1. */
static int byte_spelled(tok_text text) {
    if (text.bytes != 6 || memcmp(text.at, "<0x", 3) != 0 || text.at[5] != '>') return -1;
    int high = hex_digit(text.at[3]), low = hex_digit(text.at[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static esp_code decode_byte(vocab *v, uint32_t id, tok_text text, char *out, esp_error *err) {
    int byte = byte_spelled(text);
    if (byte < 0)
        return esp_fail(err, ESP_INVALID,
                        "tokenizer.ggml.tokens entry %u is of type byte, but not written <0x00> to "
                        "<0xFF>",
                        id);
    *out = (char)byte;
    if (v->byte_ids[byte] == VOCAB_NONE) v->byte_ids[byte] = (int32_t)id;
    return ESP_OK;
}

static size_t copy_text(tok_text text, char *out) {
    if (text.bytes) memcpy(out, text.at, text.bytes);
    return text.bytes;
}

bool vocab_decode(const vocab *v, tok_text text, char *out, size_t *count) {
    if (v->kind == VOCAB_BPE && !v->raw) return vocab_decode_alphabet(text, out, count);
    if (v->raw)
        *count = copy_text(text, out);
    else
        *count = utf8_marks_to_spaces(text.at, text.bytes, out);
    return true;
}

/* U+2581 in front becomes a space; the rest is as it is. */
static size_t decode_word(tok_text text, char *out) {
    bool begins = text.bytes >= UTF8_SPACE_MARK_BYTES &&
                  memcmp(text.at, UTF8_SPACE_MARK, UTF8_SPACE_MARK_BYTES) == 0;
    if (!begins) return copy_text(text, out);
    *out = ' ';
    size_t mark = UTF8_SPACE_MARK_BYTES;
    return 1 + copy_text((tok_text){text.at + mark, text.bytes - mark}, out + 1);
}

static void decode_text(const vocab *v, tok_text text, char *out, size_t *count) {
    if (v->kind == VOCAB_WORDPIECE)
        *count = decode_word(text, out);
    else
        (void)vocab_decode(v, text, out, count);
}

/* A token's bytes into the pool. A token outside the byte alphabet cannot be merged to; it keeps its
 * text for readers and counts as a control token. */
static esp_code decode_token(vocab *v, uint32_t id, tok_text text, char *out, size_t *count,
                             esp_error *err) {
    uint8_t type = v->types[id];
    if (v->kind == VOCAB_BPE) {
        if (!is_literal(type) && vocab_decode(v, text, out, count)) return ESP_OK;
        v->closed[id] = type != TOK_USER_DEFINED;
        *count = copy_text(text, out);
        return ESP_OK;
    }
    v->closed[id] = type == TOK_CONTROL || type == TOK_UNKNOWN || type == TOK_BYTE;
    *count = 1;
    if (type == TOK_BYTE && v->kind != VOCAB_WORDPIECE) return decode_byte(v, id, text, out, err);
    if (type == TOK_CONTROL || type == TOK_UNKNOWN || type == TOK_BYTE)
        *count = copy_text(text, out);
    else
        return decode_text(v, text, out, count), ESP_OK;
    return ESP_OK;
}

/* Adds one token's bytes to the pool. */
static esp_code read_token(vocab *v, const tok_source *source, uint32_t id, esp_error *err) {
    char *at = v->pool + v->starts[id];
    size_t count = 0;
    esp_code code = read_type(source, id, &v->types[id], err);
    if (!code) code = decode_token(v, id, source->tokens[id], at, &count, err);
    if (code) return code;
    if (shown_bytes_max(at, count) > TOK_PIECE_MAX)
        return esp_fail(err, ESP_INVALID,
                        "tokenizer.ggml.tokens entry %u is %zu bytes long; at most %d may be shown",
                        id, count, TOK_PIECE_MAX);
    v->starts[id + 1] = v->starts[id] + (uint32_t)count;
    if (count > v->longest) v->longest = (uint32_t)count;
    return ESP_OK;
}

static uint32_t slot_of(const vocab *v, const char *bytes, size_t count) {
    uint32_t slot = (uint32_t)XXH3_64bits(bytes, count) & v->mask;
    while (v->slots[slot] != VOCAB_NONE) {
        tok_text held = vocab_bytes(v, (uint32_t)v->slots[slot]);
        if (held.bytes == count && memcmp(held.at, bytes, count) == 0) break;
        slot = (slot + 1) & v->mask;
    }
    return slot;
}

int32_t vocab_find(const vocab *v, const char *bytes, size_t count) {
    if (count == 0 || count > v->longest) return VOCAB_NONE;
    return v->slots[slot_of(v, bytes, count)];
}

/* Of two ordinary tokens with the same bytes the later one counts, as in the readers that fill a
 * dictionary in file order; a user-defined one never displaces an ordinary one. */
static void index_token(vocab *v, uint32_t id) {
    tok_text token = vocab_bytes(v, id);
    uint32_t slot = slot_of(v, token.at, token.bytes);
    int32_t held = v->slots[slot];
    if (v->types[id] == TOK_USER_DEFINED && held != VOCAB_NONE &&
        v->types[held] != TOK_USER_DEFINED)
        return;
    v->slots[slot] = (int32_t)id;
}

static void take_memory(vocab *v, uint32_t count, uint64_t pool_bytes) {
    v->count = count;
    v->pool = mem_new(pool_bytes + 1, 1);
    v->starts = mem_new((size_t)count + 1, sizeof *v->starts);
    v->types = mem_new(count, sizeof *v->types);
    v->closed = mem_new(count, sizeof *v->closed);
    uint32_t capacity = 16;
    while (capacity < 2 * count)
        capacity *= 2; /* count <= 2^24 */
    v->slots = mem_new(capacity, sizeof *v->slots);
    v->mask = capacity - 1;
    for (uint32_t i = 0; i < capacity; i++)
        v->slots[i] = VOCAB_NONE;
    for (int byte = 0; byte < 256; byte++)
        v->byte_ids[byte] = VOCAB_NONE;
}

/* Where a space follows other text, only a token with such a space inside can lie across. */
static void note_inner_spaces(vocab *v, uint32_t id) {
    tok_text token = vocab_bytes(v, id);
    for (size_t i = 1; i < token.bytes; i++) {
        if (vocab_word_begins(v, token, i)) v->crosses[(uint8_t)token.at[i - 1]] = true;
    }
}

/* In a byte-level vocabulary a byte's token is the one that stands for it; in the others a token of
 * its own type. */
static void find_bytes(vocab *v) {
    v->has_bytes = true;
    for (int byte = 0; byte < 256; byte++) {
        if (v->kind == VOCAB_BPE) v->byte_ids[byte] = vocab_find(v, &(char){(char)byte}, 1);
        if (v->byte_ids[byte] == VOCAB_NONE) v->has_bytes = false;
    }
}

esp_code vocab_open(vocab *v, const tok_source *source, esp_error *err) {
    uint64_t pool_bytes = 0;
    *v = (vocab){0};
    esp_code code = vocab_kind_of(source->kind, &v->kind, err);
    if (!code) code = check_count(source, &pool_bytes, err);
    if (code) return code;
    take_memory(v, source->token_count, pool_bytes);
    bool planned = source->plan && (v->kind == VOCAB_CHARS || v->kind == VOCAB_UNIGRAM);
    v->raw = source->raw_bytes || planned;
    v->unknown = v->kind == VOCAB_BPE ? VOCAB_NONE : source->unknown;
    for (uint32_t id = 0; id < v->count; id++) {
        code = read_token(v, source, id, err);
        if (code) return code;
        if (source->strips && source->strips[id] & TOK_MATCHED) v->closed[id] = true;
        if (!vocab_is_text(v, id)) continue;
        index_token(v, id);
        note_inner_spaces(v, id);
    }
    find_bytes(v);
    return ESP_OK;
}

void vocab_close(vocab *v) {
    free(v->pool);
    free(v->starts);
    free(v->types);
    free(v->closed);
    free(v->slots);
    *v = (vocab){0};
}

void vocab_copy_with(vocab *v, const vocab *from, uint32_t first, const tok_added *added,
                     uint32_t count) {
    uint32_t all = first + count > from->count ? first + count : from->count;
    size_t bytes = from->starts[from->count];
    *v = *from;
    for (uint32_t i = 0; i < count; i++)
        bytes += added[i].text.bytes;
    v->count = all;
    v->pool = mem_new(bytes + 1, 1);
    v->starts = mem_new((size_t)all + 1, sizeof *v->starts);
    v->types = mem_new(all, sizeof *v->types);
    v->closed = mem_new(all, sizeof *v->closed);
    for (uint32_t id = 0; id < all; id++) {
        const tok_added *own = id >= first && id - first < count ? &added[id - first] : NULL;
        tok_text text = own ? own->text : vocab_bytes(from, id);
        v->starts[id + 1] = v->starts[id] + (uint32_t)copy_text(text, v->pool + v->starts[id]);
        v->types[id] = !own ? from->types[id] : own->special ? TOK_CONTROL : TOK_USER_DEFINED;
        v->closed[id] = own || from->closed[id];
    }
}

void vocab_add_unknown(const vocab *v, tok_text bytes, uint32_t floor, tok_ids *out) {
    if (v->has_bytes) {
        for (size_t i = 0; i < bytes.bytes; i++)
            tok_ids_add(out, v->byte_ids[(uint8_t)bytes.at[i]]);
        return;
    }
    bool again = out->count > floor && out->at[out->count - 1] == v->unknown;
    if (v->unknown != VOCAB_NONE && !again) tok_ids_add(out, v->unknown);
}
