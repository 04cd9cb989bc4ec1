/* safetensors.c - reads one .safetensors file. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/format/safetensors.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/model/format/json_bytes.h"

enum { LENGTH_BYTES = 8, DIMS_MAX = 4 };

struct safetensors_file {
    file_view view;
    bool mapped;         /* else the bytes are the caller's */
    uint64_t header_max; /* bytes */
    json_t *header;      /* tensor names live in it */
    uint64_t data_begin; /* offset of the data in the file */
    tensor_set tensors;
};

static const struct {
    const char *name;
    tensor_raw raw;
    esp_dtype dtype;
    uint32_t bytes;
} TYPES[] = {
    {"F32", RAW_NONE, DT_F32, 4},   {"F16", RAW_NONE, DT_F16, 2},
    {"BF16", RAW_NONE, DT_BF16, 2}, {"F8_E4M3", RAW_F8_E4M3, DT_COUNT, 1},
    {"I64", RAW_I64, DT_COUNT, 8},  {"I32", RAW_I32, DT_COUNT, 4},
    {"I16", RAW_I16, DT_COUNT, 2},  {"I8", RAW_I8, DT_COUNT, 1},
    {"U8", RAW_U8, DT_COUNT, 1},    {"BOOL", RAW_BOOL, DT_COUNT, 1},
};
enum { TYPE_ROWS = sizeof TYPES / sizeof TYPES[0] };

/* Fails with ESP_INVALID and "<file name>: <sentence>". */
ESP_PRINTF(3, 4)
static esp_code fail(const safetensors_file *file, esp_error *err, const char *format, ...) {
    char sentence[ESP_MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    return esp_fail(err, ESP_INVALID, "%s: %s", file->view.name, sentence);
}

/* ---- one entry of the header ---- */

static esp_code check_name(const safetensors_file *file, const char *name, esp_error *err) {
    size_t length = strlen(name);
    if (length == 0 || length > SAFETENSORS_NAME_MAX)
        return fail(file, err, "a tensor's name has %zu bytes; wanted 1 to %d: %s", length,
                    SAFETENSORS_NAME_MAX, json_show(name).text);
    for (size_t i = 0; i < length; i++)
        if (name[i] < 0x20 || name[i] > 0x7e)
            return fail(file, err,
                        "the tensor name %s holds characters that are not printable ASCII",
                        json_show(name).text);
    return ESP_OK;
}

/* *element_bytes is that of one element. */
static esp_code read_type(const safetensors_file *file, const json_t *entry, model_tensor *tensor,
                          uint32_t *element_bytes, esp_error *err) {
    const char *seen = json_string_value(json_object_get(entry, "dtype"));
    char known[96] = "";
    for (uint32_t i = 0; i < TYPE_ROWS; i++) {
        if (seen && !strcmp(seen, TYPES[i].name)) {
            tensor->raw = TYPES[i].raw;
            tensor->dtype = TYPES[i].dtype;
            *element_bytes = TYPES[i].bytes;
            return ESP_OK;
        }
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", TYPES[i].name);
    }
    return fail(file, err, "tensor %s: dtype is %s; wanted one of %s",
                json_show(tensor->name.at).text, seen ? json_show(seen).text : "no text", known);
}

/* Sets dims, innermost first, and the number of elements. The header has them outermost first. */
static esp_code read_shape(const safetensors_file *file, const json_t *entry, model_tensor *tensor,
                           uint64_t *elements, esp_error *err) {
    const json_t *shape = json_object_get(entry, "shape");
    const char *name = tensor->name.at;
    size_t count = json_array_size(shape);
    if (!json_is_array(shape) || count > DIMS_MAX)
        return fail(file, err, "tensor %s: shape is %s; wanted an array of 0 to %d sizes",
                    json_show(name).text, json_is_array(shape) ? "longer" : "no array", DIMS_MAX);
    *elements = 1;
    tensor->dim_count = (uint32_t)count;
    for (size_t i = 0; i < DIMS_MAX; i++)
        tensor->dims[i] = 1;
    for (size_t i = 0; i < count; i++) {
        const json_t *size = json_array_get(shape, i);
        json_int_t value = json_integer_value(size);
        if (!json_is_integer(size) || value < 1)
            return fail(file, err, "tensor %s: size %zu of its shape is %s; wanted 1 at least",
                        json_show(name).text, i, json_is_integer(size) ? "below 1" : "no integer");
        tensor->dims[count - 1 - i] = (uint64_t)value;
        if (!check_mul(*elements, (uint64_t)value, elements))
            return fail(file, err, "tensor %s: the product of its shape overflows",
                        json_show(name).text);
    }
    return ESP_OK;
}

static esp_code read_offsets(const safetensors_file *file, const json_t *entry,
                             model_tensor *tensor, uint64_t *begin, esp_error *err) {
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *from = json_array_get(offsets, 0), *to = json_array_get(offsets, 1);
    uint64_t room = file->view.count - file->data_begin;
    const char *name = tensor->name.at;
    if (json_array_size(offsets) != 2 || !json_is_integer(from) || !json_is_integer(to))
        return fail(file, err, "tensor %s: data_offsets is no array of two integers",
                    json_show(name).text);
    json_int_t first = json_integer_value(from), end = json_integer_value(to);
    if (first < 0 || end < first)
        return fail(file, err,
                    "tensor %s: data_offsets are %lld and %lld; wanted 0 <= begin <= end",
                    json_show(name).text, (long long)first, (long long)end);
    if ((uint64_t)end > room)
        return fail(file, err,
                    "tensor %s ends at byte %lld of the data, which has %llu; the file is cut "
                    "short: download it again",
                    json_show(name).text, (long long)end, (unsigned long long)room);
    *begin = (uint64_t)first;
    tensor->bytes = (uint64_t)(end - first);
    return ESP_OK;
}

/* Sets all of one tensor; its data lies inside the file. */
static esp_code read_tensor(const safetensors_file *file, const char *name, const json_t *entry,
                            model_tensor *tensor, esp_error *err) {
    uint64_t elements = 0, wanted = 0, begin = 0;
    uint32_t element_bytes = 0;
    esp_code code = check_name(file, name, err);
    if (code) return code;
    *tensor = (model_tensor){.name = {name, strlen(name)}, .file = file->view.name};
    if (!json_is_object(entry) || json_object_size(entry) != 3)
        return fail(file, err, "tensor %s: wanted an object of dtype, shape and data_offsets",
                    json_show(name).text);
    if ((code = read_type(file, entry, tensor, &element_bytes, err))) return code;
    if ((code = read_shape(file, entry, tensor, &elements, err))) return code;
    if ((code = read_offsets(file, entry, tensor, &begin, err))) return code;
    if (!check_mul(elements, element_bytes, &wanted))
        return fail(file, err, "tensor %s: its size in bytes overflows", json_show(name).text);
    if (wanted != tensor->bytes)
        return fail(
            file, err, "tensor %s: data_offsets span %llu bytes; its dtype and shape make %llu",
            json_show(name).text, (unsigned long long)tensor->bytes, (unsigned long long)wanted);
    tensor->data = file->view.bytes + file->data_begin + begin;
    return ESP_OK;
}

/* ---- the header ---- */

static esp_code read_header(safetensors_file *file, esp_error *err) {
    const uint8_t *bytes = file->view.bytes;
    uint64_t length = 0, room = file->view.count;
    if (room < LENGTH_BYTES + 2)
        return fail(file, err, "has %llu bytes, less than a safetensors header",
                    (unsigned long long)room);
    for (int i = LENGTH_BYTES; i-- > 0;)
        length = length << 8 | bytes[i];
    if (length > file->header_max)
        return fail(file, err,
                    "announces a header of %llu bytes; wanted %llu at most: is this a safetensors "
                    "file?",
                    (unsigned long long)length, (unsigned long long)file->header_max);
    if (length > room - LENGTH_BYTES)
        return fail(file, err,
                    "announces a header of %llu bytes, but only %llu follow; it is cut short: "
                    "download it again",
                    (unsigned long long)length, (unsigned long long)(room - LENGTH_BYTES));
    if (length == 0 || bytes[LENGTH_BYTES] != '{')
        return fail(file, err, "its header does not begin with '{'; wanted a safetensors file");
    file->data_begin = LENGTH_BYTES + length;
    return json_read_object(&file->header, bytes + LENGTH_BYTES, length, file->view.name,
                            "the header", err);
}

static esp_code check_metadata(const safetensors_file *file, const json_t *metadata,
                               esp_error *err) {
    bool texts = json_is_object(metadata);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)metadata, key, value) texts =
        texts && json_is_string(value);
    return texts ? ESP_OK : fail(file, err, "__metadata__ is no object of strings");
}

static int compare_places(const void *a, const void *b) {
    const model_tensor *x = a, *y = b;
    uintptr_t at = (uintptr_t)x->data, other = (uintptr_t)y->data;
    return at < other ? -1 : at > other;
}

/* Every byte of the data belongs to exactly one tensor. */
static esp_code check_layout(const safetensors_file *file, esp_error *err) {
    const uint8_t *end = file->view.bytes + file->data_begin;
    const uint8_t *file_end = file->view.bytes + file->view.count;
    for (uint32_t i = 0; i < file->tensors.count; i++) {
        const model_tensor *tensor = &file->tensors.at[i];
        const uint8_t *at = tensor->data;
        if (at != end)
            return fail(file, err, "tensor %s begins %llu bytes %s of the one before",
                        json_show(tensor->name.at).text,
                        (unsigned long long)(at < end ? end - at : at - end),
                        at < end ? "before the end" : "behind the end");
        end = at + tensor->bytes;
    }
    if (end == file_end) return ESP_OK;
    return fail(file, err, "has %llu bytes behind its last tensor that belong to none",
                (unsigned long long)(file_end - end));
}

static esp_code read_tensors(safetensors_file *file, esp_error *err) {
    const char *name;
    json_t *entry;
    json_object_foreach(file->header, name, entry) {
        model_tensor tensor;
        bool metadata = !strcmp(name, "__metadata__");
        esp_code code = metadata ? check_metadata(file, entry, err)
                                 : read_tensor(file, name, entry, &tensor, err);
        if (code) return code;
        if (!metadata) tensor_set_add(&file->tensors, &tensor);
    }
    if (file->tensors.count)
        qsort(file->tensors.at, file->tensors.count, sizeof *file->tensors.at, compare_places);
    esp_code code = check_layout(file, err);
    return code ? code : tensor_set_seal(&file->tensors, err);
}

/* Hands the file over, or closes it when a step before failed. */
static esp_code finish_open(safetensors_file **out, safetensors_file *file, esp_code code,
                            esp_error *err) {
    if (!code) code = read_header(file, err);
    if (!code) code = read_tensors(file, err);
    if (code) {
        safetensors_close(file);
        return code;
    }
    *out = file;
    return ESP_OK;
}

esp_code safetensors_open(safetensors_file **out, const char *path, esp_error *err) {
    return safetensors_open_limited(out, path, SAFETENSORS_HEADER_MAX, err);
}

esp_code safetensors_open_limited(safetensors_file **out, const char *path, uint64_t header_max,
                                  esp_error *err) {
    ESP_ASSERT(out && path && header_max <= SAFETENSORS_HEADER_MAX);
    *out = NULL;
    safetensors_file *file = mem_new(1, sizeof *file);
    file->header_max = header_max;
    esp_code code = file_map(&file->view, path, "a safetensors file", err);
    file->mapped = !code;
    return finish_open(out, file, code, err);
}

esp_code safetensors_open_memory(safetensors_file **out, const void *bytes, size_t count,
                                 const char *name, esp_error *err) {
    ESP_ASSERT(out && (bytes || count == 0) && name);
    *out = NULL;
    safetensors_file *file = mem_new(1, sizeof *file);
    file->view.bytes = bytes;
    file->view.count = count;
    file->header_max = SAFETENSORS_HEADER_MAX;
    file_show_name(file->view.name, sizeof file->view.name, name);
    return finish_open(out, file, ESP_OK, err);
}

void safetensors_close(safetensors_file *file) {
    if (!file) return;
    if (file->mapped) file_unmap(&file->view);
    tensor_set_free(&file->tensors);
    json_decref(file->header);
    free(file);
}

const char *safetensors_name(const safetensors_file *file) { return file->view.name; }

const void *safetensors_data(const safetensors_file *file) { return file->view.bytes; }

uint64_t safetensors_bytes(const safetensors_file *file) { return file->view.count; }

const tensor_set *safetensors_tensors(const safetensors_file *file) { return &file->tensors; }

const char *safetensors_metadata(const safetensors_file *file, const char *key) {
    return json_string_value(json_object_get(json_object_get(file->header, "__metadata__"), key));
}
