/* gguf_metadata.c - key/value pairs of a GGUF file: reading them once, then getters by key.
 *
 *   pair    key text, type u32, value
 *   text    length u64, bytes
 *   array   element type u32, count u64, elements; never an array of arrays
 *
 * Values stay where they are in the file. A value is walked once at open, so the getters need no
 * bounds. Keys are looked up in a sorted index: unlike a hash table it has no bad case that a file
 * could be made for. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/model/format/gguf_inner.h"

/* Name as in "a string", and bytes of one value (0: not of fixed size). */
static const struct {
    const char *name;
    uint32_t bytes;
} TYPES[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = {"uint8", 1},    [GGUF_I8] = {"int8", 1},    [GGUF_U16] = {"uint16", 2},
    [GGUF_I16] = {"int16", 2},   [GGUF_U32] = {"uint32", 4}, [GGUF_I32] = {"int32", 4},
    [GGUF_F32] = {"float", 4},   [GGUF_BOOL] = {"bool", 1},  [GGUF_STRING] = {"string", 0},
    [GGUF_ARRAY] = {"array", 0}, [GGUF_U64] = {"uint64", 8}, [GGUF_I64] = {"int64", 8},
    [GGUF_F64] = {"double", 8},
};

static esp_code fail_short(const gguf_file *file, const gguf_pair *pair, esp_error *err) {
    return gguf_fail(file, err,
                     "metadata key %s runs past the end of the file; it is cut short or damaged: "
                     "download it again",
                     gguf_show(pair->key).text);
}

static bool bools_valid(const uint8_t *at, const uint8_t *end) {
    for (; at < end; at++)
        if (*at > 1) return false;
    return true;
}

/* Moves past count values of one type. */
static esp_code skip_values(const gguf_file *file, gguf_cursor *cursor, const gguf_pair *pair,
                            gguf_type type, uint64_t count, esp_error *err) {
    uint32_t bytes = type == GGUF_STRING ? 8 : TYPES[type].bytes;
    if (count > cursor_left(cursor) / bytes) return fail_short(file, pair, err);
    if (type == GGUF_STRING) {
        model_text text;
        for (uint64_t i = 0; i < count; i++)
            if (!cursor_text(cursor, &text)) return fail_short(file, pair, err);
        return ESP_OK;
    }
    const uint8_t *at = cursor_take(cursor, count * bytes);
    if (type == GGUF_BOOL && !bools_valid(at, cursor->at))
        return gguf_fail(file, err, "metadata key %s holds a bool that is neither 0 nor 1",
                         gguf_show(pair->key).text);
    return ESP_OK;
}

static esp_code read_type(const gguf_file *file, gguf_cursor *cursor, const gguf_pair *pair,
                          const char *what, gguf_type *out, esp_error *err) {
    uint32_t type;
    if (!cursor_u32(cursor, &type)) return fail_short(file, pair, err);
    if (type >= GGUF_TYPE_COUNT)
        return gguf_fail(file, err, "metadata key %s has %s %u; wanted 0 to %d",
                         gguf_show(pair->key).text, what, type, GGUF_TYPE_COUNT - 1);
    *out = (gguf_type)type;
    return ESP_OK;
}

static esp_code read_array(const gguf_file *file, gguf_cursor *cursor, gguf_pair *pair,
                           esp_error *err) {
    esp_code code = read_type(file, cursor, pair, "element type", &pair->element, err);
    if (code) return code;
    if (pair->element == GGUF_ARRAY)
        return gguf_fail(file, err, "metadata key %s is an array of arrays; wanted one level",
                         gguf_show(pair->key).text);
    if (!cursor_u64(cursor, &pair->count)) return fail_short(file, pair, err);
    pair->at = cursor->at;
    return skip_values(file, cursor, pair, pair->element, pair->count, err);
}

static esp_code read_key(const gguf_file *file, gguf_cursor *cursor, uint64_t index,
                         model_text *out, esp_error *err) {
    if (!cursor_text(cursor, out))
        return gguf_fail(file, err,
                         "the key of metadata pair %llu runs past the end of the file; it is cut "
                         "short or damaged: download it again",
                         (unsigned long long)index);
    if (out->bytes == 0 || out->bytes > GGUF_KEY_BYTES_MAX)
        return gguf_fail(file, err, "the key of metadata pair %llu has %zu bytes; wanted 1 to %d",
                         (unsigned long long)index, out->bytes, GGUF_KEY_BYTES_MAX);
    if (!gguf_is_printable(*out))
        return gguf_fail(file, err, "the metadata key %s holds bytes that are not printable ASCII",
                         gguf_show(*out).text);
    return ESP_OK;
}

static esp_code read_pair(const gguf_file *file, gguf_cursor *cursor, uint64_t index,
                          gguf_pair *pair, esp_error *err) {
    esp_code code = read_key(file, cursor, index, &pair->key, err);
    if (code) return code;
    if ((code = read_type(file, cursor, pair, "type", &pair->type, err))) return code;
    pair->at = cursor->at;
    code = pair->type == GGUF_ARRAY ? read_array(file, cursor, pair, err)
                                    : skip_values(file, cursor, pair, pair->type, 1, err);
    pair->end = cursor->at;
    return code;
}

static int compare_pairs(const void *a, const void *b, void *pairs) {
    const gguf_pair *all = pairs;
    return model_text_compare(all[*(const uint32_t *)a].key, all[*(const uint32_t *)b].key);
}

static esp_code index_pairs(gguf_file *file, esp_error *err) {
    uint32_t count = file->pair_count, *order = mem_new(count ? count : 1, sizeof *order);
    file->pairs_by_key = order;
    for (uint32_t i = 0; i < count; i++)
        order[i] = i;
    qsort_r(order, count, sizeof *order, compare_pairs, file->pairs);
    for (uint32_t i = 1; i < count; i++)
        if (compare_pairs(&order[i - 1], &order[i], file->pairs) == 0)
            return gguf_fail(file, err, "the metadata key %s stands there twice",
                             gguf_show(file->pairs[order[i]].key).text);
    return ESP_OK;
}

esp_code gguf_read_pairs(gguf_file *file, gguf_cursor *cursor, uint64_t count, esp_error *err) {
    if (count > cursor_left(cursor) / GGUF_PAIR_BYTES_MIN)
        return gguf_fail(file, err,
                         "announces %llu metadata pairs, more than its %zu bytes can hold; it is "
                         "damaged",
                         (unsigned long long)count, file->byte_count);
    if (count > GGUF_PAIRS_MAX)
        return gguf_fail(file, err, "has %llu metadata pairs; wanted %d at most",
                         (unsigned long long)count, GGUF_PAIRS_MAX);
    file->pairs = mem_new(count ? count : 1, sizeof *file->pairs);
    file->pair_count = (uint32_t)count;
    for (uint64_t i = 0; i < count; i++) {
        esp_code code = read_pair(file, cursor, i, &file->pairs[i], err);
        if (code) return code;
    }
    return index_pairs(file, err);
}

const gguf_pair *gguf_find_pair(const gguf_file *file, const char *key) {
    model_text wanted = {key, strlen(key)};
    uint32_t low = 0, high = file->pair_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const gguf_pair *pair = &file->pairs[file->pairs_by_key[middle]];
        int order = model_text_compare(wanted, pair->key);
        if (order == 0) return pair;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* ---- getters ---- */

static esp_code fail_type(const gguf_file *file, const gguf_pair *pair, const char *wanted,
                          esp_error *err) {
    return gguf_fail(file, err, "metadata key %s is of type %s; wanted %s",
                     gguf_show(pair->key).text, TYPES[pair->type].name, wanted);
}

typedef struct integer {
    bool negative; /* then bits is two's complement */
    uint64_t bits;
} integer;

static integer signed_integer(int64_t value) { return (integer){value < 0, (uint64_t)value}; }

/* False when the value is no integer. */
static bool load_integer(gguf_type type, const uint8_t *at, integer *out) {
    switch (type) {
    case GGUF_U8:
        *out = (integer){false, at[0]};
        return true;
    case GGUF_I8:
        *out = signed_integer((int8_t)at[0]);
        return true;
    case GGUF_U16:
        *out = (integer){false, (uint64_t)(at[0] | at[1] << 8)};
        return true;
    case GGUF_I16:
        *out = signed_integer((int16_t)(at[0] | at[1] << 8));
        return true;
    case GGUF_U32:
        *out = (integer){false, gguf_load_u32(at)};
        return true;
    case GGUF_I32:
        *out = signed_integer((int32_t)gguf_load_u32(at));
        return true;
    case GGUF_U64:
        *out = (integer){false, gguf_load_u64(at)};
        return true;
    case GGUF_I64:
        *out = signed_integer((int64_t)gguf_load_u64(at));
        return true;
    default:
        return false;
    }
}

/* False when the value is no number with a fraction. */
static bool load_real(gguf_type type, const uint8_t *at, double *out) {
    if (type == GGUF_F32) {
        *out = (double)f32_of_bits(gguf_load_u32(at));
        return true;
    }
    if (type != GGUF_F64) return false;
    uint64_t bits = gguf_load_u64(at);
    memcpy(out, &bits, sizeof bits);
    return true;
}

static int print_integer(char *out, size_t bytes, integer value) {
    return value.negative ? snprintf(out, bytes, "%lld", (long long)(int64_t)value.bits)
                          : snprintf(out, bytes, "%llu", (unsigned long long)value.bits);
}

esp_code gguf_get_u32(const gguf_file *f, const char *key, bool *found, uint32_t *out,
                      esp_error *err) {
    const gguf_pair *pair = gguf_find_pair(f, key);
    *found = pair != NULL;
    if (!pair) return ESP_OK;
    integer value;
    if (!load_integer(pair->type, pair->at, &value)) return fail_type(f, pair, "an integer", err);
    if (value.negative || value.bits > UINT32_MAX) {
        char number[24];
        print_integer(number, sizeof number, value);
        return gguf_fail(f, err, "metadata key %s is %s; wanted 0 to %u", key, number, UINT32_MAX);
    }
    *out = (uint32_t)value.bits;
    return ESP_OK;
}

esp_code gguf_get_f32(const gguf_file *f, const char *key, bool *found, float *out,
                      esp_error *err) {
    const gguf_pair *pair = gguf_find_pair(f, key);
    *found = pair != NULL;
    if (!pair) return ESP_OK;
    double value;
    if (!load_real(pair->type, pair->at, &value)) return fail_type(f, pair, "float", err);
    *out = (float)value;
    return ESP_OK;
}

esp_code gguf_get_bool(const gguf_file *f, const char *key, bool *found, bool *out,
                       esp_error *err) {
    const gguf_pair *pair = gguf_find_pair(f, key);
    *found = pair != NULL;
    if (!pair) return ESP_OK;
    if (pair->type != GGUF_BOOL) return fail_type(f, pair, "bool", err);
    *out = pair->at[0] != 0;
    return ESP_OK;
}

/* A string whose length was checked at open. */
static model_text load_text(const uint8_t *at) {
    return (model_text){(const char *)at + 8, (size_t)gguf_load_u64(at)};
}

esp_code gguf_get_text(const gguf_file *f, const char *key, bool *found, model_text *out,
                       esp_error *err) {
    const gguf_pair *pair = gguf_find_pair(f, key);
    *found = pair != NULL;
    if (!pair) return ESP_OK;
    if (pair->type != GGUF_STRING) return fail_type(f, pair, "string", err);
    *out = load_text(pair->at);
    return ESP_OK;
}

esp_code gguf_get_array(const gguf_file *f, const char *key, gguf_type wanted, bool *found,
                        gguf_array *out, esp_error *err) {
    ESP_ASSERT(wanted < GGUF_TYPE_COUNT);
    const gguf_pair *pair = gguf_find_pair(f, key);
    *found = pair != NULL;
    if (!pair) return ESP_OK;
    if (pair->type != GGUF_ARRAY) return fail_type(f, pair, "array", err);
    if (pair->element != wanted)
        return gguf_fail(f, err, "metadata key %s is an array of %s; wanted an array of %s", key,
                         TYPES[pair->element].name, TYPES[wanted].name);
    *out = (gguf_array){pair->element, pair->count, pair->at, pair->end};
    return ESP_OK;
}

model_text gguf_next_text(const gguf_array *array, const uint8_t **cursor) {
    ESP_ASSERT(array->type == GGUF_STRING && *cursor >= array->at && *cursor < array->end);
    model_text text = load_text(*cursor);
    *cursor += 8 + text.bytes;
    return text;
}

uint32_t gguf_array_u32(const gguf_array *array, uint64_t index) {
    ESP_ASSERT(TYPES[array->type].bytes == 4 && index < array->count);
    return gguf_load_u32(array->at + index * 4);
}

uint64_t gguf_kv_count(const gguf_file *file) { return file->pair_count; }

void gguf_kv_print(const gguf_file *file, uint64_t index, model_text *key, char *value,
                   size_t value_bytes) {
    ESP_ASSERT(index < file->pair_count && value_bytes > 0);
    const gguf_pair *pair = &file->pairs[index];
    integer whole;
    double real;
    *key = pair->key;
    if (load_integer(pair->type, pair->at, &whole))
        print_integer(value, value_bytes, whole);
    else if (load_real(pair->type, pair->at, &real))
        snprintf(value, value_bytes, "%.9g", real);
    else if (pair->type == GGUF_BOOL)
        snprintf(value, value_bytes, "%s", pair->at[0] ? "true" : "false");
    else if (pair->type == GGUF_STRING)
        snprintf(value, value_bytes, "%s", gguf_show(load_text(pair->at)).text);
    else
        snprintf(value, value_bytes, "[%llu]", (unsigned long long)pair->count);
}
