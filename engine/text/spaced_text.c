/* spaced_text.c - replacements, spaces, the space in front. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/spaced_text.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/text/utf8.h"

/* ---- the table ---- */

static esp_code refuse_map(esp_error *err, const char *what) {
    return esp_fail(err, ESP_INVALID, "tokenizer.ggml.precompiled_charsmap %s", what);
}

/* Every text must end, and soon. */
static esp_code check_texts(const charsmap *map, esp_error *err) {
    for (uint32_t at = 0; at < map->text_bytes;) {
        const char *end = memchr(map->texts + at, 0, map->text_bytes - at);
        if (!end) return refuse_map(err, "ends within a replacement");
        if (end - (map->texts + at) > CHARSMAP_REPLACEMENT_MAX)
            return refuse_map(err, "has a replacement of more than 64 bytes");
        at = (uint32_t)(end - map->texts) + 1;
    }
    return ESP_OK;
}

static uint32_t read_u32(const uint8_t *at) {
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

esp_code charsmap_open(charsmap *map, const void *bytes, size_t count, esp_error *err) {
    const uint8_t *at = bytes;
    *map = (charsmap){0};
    if (count == 0) return ESP_OK;
    if (count > UINT32_MAX) return refuse_map(err, "is larger than 4 GiB");
    uint32_t trie_bytes = count < 4 ? 0 : read_u32(at);
    if (count < 4 || trie_bytes % 4 != 0 || trie_bytes > count - 4)
        return refuse_map(err, "does not begin with the size of its trie");
    map->unit_count = trie_bytes / 4;
    map->units = mem_new((size_t)map->unit_count + 1, sizeof *map->units);
    for (uint32_t i = 0; i < map->unit_count; i++)
        map->units[i] = read_u32(at + 4 + 4 * (size_t)i);
    map->text_bytes = (uint32_t)count - 4 - trie_bytes;
    map->texts = mem_copy_text((const char *)at + 4 + trie_bytes, map->text_bytes);
    return check_texts(map, err);
}

void charsmap_close(charsmap *map) {
    free(map->units);
    free(map->texts);
    *map = (charsmap){0};
}

static uint32_t offset_of(uint32_t unit) { return unit >> 10 << ((unit & 1u << 9) >> 6); }

/* The text that a key's value unit leads to; false when the table lies. */
static bool read_replacement(const charsmap *map, uint32_t index, tok_text *out) {
    if (index >= map->unit_count) return false;
    uint32_t at = map->units[index] & 0x7fffffffu;
    if (at >= map->text_bytes) return false;
    *out = (tok_text){map->texts + at, strlen(map->texts + at)};
    return true;
}

/* Walks the trie; stops at the first key or goes on to the longest. Returns its bytes. */
static size_t find_key(const charsmap *map, tok_text text, bool first, tok_text *replacement) {
    if (map->unit_count == 0) return 0;
    size_t found = 0;
    uint32_t index = offset_of(map->units[0]);
    for (size_t i = 0; i < text.bytes && !(found && first); i++) {
        uint8_t byte = (uint8_t)text.at[i];
        index ^= byte;
        if (byte == 0 || index >= map->unit_count) break;
        uint32_t unit = map->units[index];
        if ((unit & 0x800000ffu) != byte) break;
        index ^= offset_of(unit);
        if (unit >> 8 & 1 && read_replacement(map, index, replacement)) found = i + 1;
    }
    return found;
}

size_t charsmap_find(const charsmap *map, tok_text text, tok_text *replacement) {
    return find_key(map, text, false, replacement);
}

bool charsmap_find_first(const charsmap *map, tok_text text, tok_text *replacement) {
    return find_key(map, text, true, replacement) > 0;
}

/* ---- the text ---- */

void spaced_free(spaced_buffer *buffer) {
    free(buffer->at);
    *buffer = (spaced_buffer){0};
}

static void add(spaced_buffer *buffer, tok_text text) {
    if (buffer->count + text.bytes > buffer->capacity) {
        buffer->capacity = 2 * (buffer->count + text.bytes);
        buffer->at = mem_resize(buffer->at, buffer->capacity, 1);
    }
    if (text.bytes) memcpy(buffer->at + buffer->count, text.at, text.bytes);
    buffer->count += text.bytes;
}

/* What stands for the text's first character (or key of the table); *length of it is consumed. */
static tok_text normal_of(const spaced_rules *rules, tok_text text, size_t *length) {
    tok_text replacement = {"", 0};
    *length = charsmap_find(&rules->map, text, &replacement);
    if (*length) return replacement;
    if (utf8_first(text.at, text.bytes, length) == UTF8_WHOLE || rules->keep_broken)
        return (tok_text){text.at, *length};
    return (tok_text){"\xef\xbf\xbd", 3};
}

static void replace_characters(const spaced_rules *rules, spaced_buffer *buffer, tok_text text) {
    for (size_t at = 0, length; at < text.bytes; at += length)
        add(buffer, normal_of(rules, (tok_text){text.at + at, text.bytes - at}, &length));
}

/* In place: no space at the ends, one between words. Returns the bytes that are left. */
static size_t collapse_spaces(char *text, size_t bytes) {
    size_t made = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == ' ' && (made == 0 || text[made - 1] == ' ')) continue;
        text[made++] = text[i];
    }
    return made && text[made - 1] == ' ' ? made - 1 : made;
}

/* The place in front is kept free while the text is made, for the prefix. */
tok_text spaced_of(const spaced_rules *rules, spaced_buffer *buffer, tok_text text) {
    buffer->count = 0;
    if (text.bytes == 0) return (tok_text){"", 0};
    add(buffer, (tok_text){" ", 1});
    if (rules->map.unit_count || !rules->keep_broken)
        replace_characters(rules, buffer, text);
    else
        add(buffer, text);
    char *made = buffer->at + 1;
    size_t bytes = buffer->count - 1;
    if (rules->collapse) bytes = collapse_spaces(made, bytes);
    bytes = utf8_marks_to_spaces(made, bytes, made);
    if (bytes == 0) return (tok_text){"", 0};
    return rules->prefix ? (tok_text){buffer->at, bytes + 1} : (tok_text){made, bytes};
}
