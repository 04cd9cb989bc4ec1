/* bert_words.c - clean, decompose, lower-case, cut. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/bert_words.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/base/mem.h"
#include "engine/text/older_unicode.h"
#include "engine/text/utf8.h"

/* UTF-8 bytes of a code point, at most. */
enum { POINT_BYTES_MAX = 4 };

void bert_words_free(bert_words *w) {
    free(w->clean);
    free(w->words);
    nfc_free(&w->nfc);
    *w = (bert_words){0};
}

static void reserve(char **memory, size_t *capacity, size_t bytes) {
    if (bytes <= *capacity) return;
    *memory = mem_resize(*memory, bytes, 1);
    *capacity = bytes;
}

static bool was_ordinary(int32_t c) {
    uint32_t low = 0, high = ORDINARY_THEN_COUNT;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (ordinary_then[middle][1] < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low < ORDINARY_THEN_COUNT && ordinary_then[low][0] <= c;
}

static utf8proc_category_t category_of(int32_t c) {
    if (c == punctuation_then[0] || c == punctuation_then[1]) return UTF8PROC_CATEGORY_PO;
    if (c == MARK_THEN) return UTF8PROC_CATEGORY_MN;
    return was_ordinary(c) ? UTF8PROC_CATEGORY_LO : utf8proc_category(c);
}

static bool is_space(int32_t c) {
    if (c == '\t' || c == '\n' || c == '\r' || c == ' ') return true;
    utf8proc_category_t kind = c < 0x80 ? UTF8PROC_CATEGORY_CN : category_of(c);
    return kind == UTF8PROC_CATEGORY_ZS || kind == UTF8PROC_CATEGORY_ZL ||
           kind == UTF8PROC_CATEGORY_ZP;
}

/* NUL, U+FFFD and the categories Cc, Cf, Co, but not the controls that are white space. */
static bool vanishes(int32_t c) {
    if (c == 0 || c == 0xfffd) return true;
    utf8proc_category_t kind = category_of(c);
    return kind == UTF8PROC_CATEGORY_CC || kind == UTF8PROC_CATEGORY_CF ||
           kind == UTF8PROC_CATEGORY_CO;
}

static bool is_punctuation(int32_t c) {
    if (c < 0x80)
        return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
               (c >= 123 && c <= 126);
    utf8proc_category_t kind = category_of(c);
    return kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO;
}

/* The blocks that the reference calls Chinese; the beginning of the last but one is its own. */
static bool is_ideograph(int32_t c) {
    static const int32_t blocks[][2] = {{0x3400, 0x4dbf},   {0x4e00, 0x9fff},   {0xf900, 0xfaff},
                                        {0x20000, 0x2a6df}, {0x2a700, 0x2b73f}, {0x2b740, 0x2b81f},
                                        {0x2b920, 0x2ceaf}, {0x2f800, 0x2fa1f}};
    for (size_t i = 0; c >= 0x3400 && i < sizeof blocks / sizeof *blocks; i++) {
        if (c >= blocks[i][0] && c <= blocks[i][1]) return true;
    }
    return false;
}

static int32_t point_at(const char *at, size_t length) {
    int32_t point;
    utf8proc_ssize_t used = utf8proc_iterate((const uint8_t *)at, (utf8proc_ssize_t)length, &point);
    ESP_ASSERT(used == (utf8proc_ssize_t)length);
    return point;
}

bool bert_is_punctuation(tok_text character) {
    return is_punctuation(point_at(character.at, character.bytes));
}

/* A character of the text into out: itself, a space, itself between spaces, or nothing. */
static size_t clean_one(char *out, const char *at, size_t length) {
    int32_t c = point_at(at, length);
    if (is_space(c)) return out[0] = ' ', 1;
    if (vanishes(c)) return 0;
    bool alone = is_ideograph(c);
    size_t made = 0;
    if (alone) out[made++] = ' ';
    memcpy(out + made, at, length);
    made += length;
    if (alone) out[made++] = ' ';
    return made;
}

static tok_text clean(bert_words *w, tok_text text) {
    size_t made = 0;
    reserve(&w->clean, &w->clean_capacity, text.bytes * 2 + 1); /* an ideograph: 3 bytes to 5 */
    for (size_t at = 0, length; at < text.bytes; at += length) {
        utf8_kind kind = utf8_first(text.at + at, text.bytes - at, &length);
        if (kind == UTF8_WHOLE) made += clean_one(w->clean + made, text.at + at, length);
    }
    return (tok_text){w->clean, made};
}

/* The word that is being put together in w->words. */
typedef struct open_word {
    size_t bytes, characters;
} open_word;

static esp_code end_word(const bert_words *w, open_word *word, const bert_visitor *visitor) {
    if (word->bytes == 0) return ESP_OK;
    tok_text text = {w->words, word->bytes};
    size_t characters = word->characters;
    *word = (open_word){0};
    return visitor->word(visitor->arg, text, characters);
}

static void put(bert_words *w, open_word *word, int32_t point) {
    word->bytes += (size_t)utf8proc_encode_char(point, (uint8_t *)w->words + word->bytes);
    word->characters++;
}

static esp_code take_point(bert_words *w, open_word *word, int32_t c, bool uncased,
                           const bert_visitor *visitor) {
    if (is_space(c)) return end_word(w, word, visitor);
    if (uncased && category_of(c) == UTF8PROC_CATEGORY_MN) return ESP_OK;
    if (uncased) c = utf8proc_tolower(c);
    if (!is_punctuation(c)) {
        put(w, word, c);
        return ESP_OK;
    }
    esp_code code = end_word(w, word, visitor);
    put(w, word, c);
    return code ? code : end_word(w, word, visitor);
}

esp_code bert_cut(bert_words *w, tok_text text, bool uncased, const bert_visitor *visitor) {
    open_word word = {0};
    size_t count;
    tok_text cleaned = clean(w, text);
    const int32_t *points = nfc_points(&w->nfc, cleaned, uncased, &count);
    reserve(&w->words, &w->words_capacity, count * POINT_BYTES_MAX + 1);
    esp_code code = ESP_OK;
    for (size_t i = 0; !code && i < count; i++)
        code = take_point(w, &word, points[i], uncased, visitor);
    return code ? code : end_word(w, &word, visitor);
}
