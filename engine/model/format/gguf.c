/* gguf.c - opens a GGUF file: maps it, reads the header, then pairs and tensors in the file's
 * order.
 *
 *   0   4  "GGUF"
 *   4   4  version, 2 or 3
 *   8   8  tensor count
 *   16  8  pair count
 *   24     pairs (gguf_metadata.c), then the tensor table (gguf_tensors.c)
 *   ...    zeros up to general.alignment, then the tensors' data, each padded to it
 *
 * Format: ggml/docs/gguf.md of the reference implementation. */
// SPDX-License-Identifier: Apache-2.0
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/model/format/gguf_inner.h"

enum { HEADER_BYTES = 24 };

bool gguf_is_printable(model_text text) {
    for (size_t i = 0; i < text.bytes; i++)
        if (text.at[i] < 0x20 || text.at[i] > 0x7e) return false;
    return true;
}

gguf_label gguf_show(model_text text) {
    gguf_label label;
    esp_show(label.text, sizeof label.text, text.at, text.bytes);
    return label;
}

esp_code gguf_fail(const gguf_file *file, esp_error *err, const char *format, ...) {
    char sentence[ESP_MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    return esp_fail(err, ESP_INVALID, "%s: %s", file->name, sentence);
}

static esp_code read_version(gguf_file *file, gguf_cursor *cursor, esp_error *err) {
    const uint8_t *magic = cursor_take(cursor, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0)
        return gguf_fail(file, err,
                         "does not begin with \"GGUF\"; wanted a GGUF file or a Hugging Face "
                         "folder");
    if (cursor_left(cursor) < HEADER_BYTES - 4)
        return gguf_fail(file, err, "has %zu bytes, less than a GGUF header; download it again",
                         file->byte_count);
    (void)cursor_u32(cursor, &file->version);
    if (file->version != 0 && (file->version & 0xffff) == 0)
        return gguf_fail(file, err, "is big-endian; convert the model again as little-endian");
    if (file->version != 2 && file->version != 3)
        return gguf_fail(file, err, "has GGUF version %u; wanted 2 or 3: convert the model again",
                         file->version);
    return ESP_OK;
}

static esp_code read_alignment(gguf_file *file, esp_error *err) {
    bool found;
    uint32_t alignment = GGUF_ALIGNMENT_DEFAULT;
    esp_code code = gguf_get_u32(file, "general.alignment", &found, &alignment, err);
    if (code) return code;
    if (alignment < GGUF_ALIGNMENT_MIN || alignment > GGUF_ALIGNMENT_MAX ||
        (alignment & (alignment - 1)) != 0)
        return gguf_fail(file, err, "general.alignment is %u; wanted a power of two from %d to %d",
                         alignment, GGUF_ALIGNMENT_MIN, GGUF_ALIGNMENT_MAX);
    file->alignment = alignment;
    return ESP_OK;
}

/* The data begins at the next multiple of the alignment. A file without tensors may end before it.
 */
static esp_code find_data(gguf_file *file, const gguf_cursor *cursor, esp_error *err) {
    uint64_t begin = 0, end = (uint64_t)(cursor->at - file->bytes);
    bool fits = check_align(end, file->alignment, &begin) && begin <= file->byte_count;
    if (!fits && file->tensor_count > 0)
        return gguf_fail(file, err,
                         "ends at byte %zu, before its tensor data; it is cut short: download it "
                         "again",
                         file->byte_count);
    file->data_begin = fits ? (size_t)begin : file->byte_count;
    return ESP_OK;
}

static esp_code parse(gguf_file *file, esp_error *err) {
    gguf_cursor cursor = {file->bytes, file->bytes + file->byte_count};
    uint64_t tensor_count = 0, pair_count = 0;
    esp_code code = read_version(file, &cursor, err);
    if (code) return code;
    (void)cursor_u64(&cursor, &tensor_count);
    (void)cursor_u64(&cursor, &pair_count);
    if ((code = gguf_read_pairs(file, &cursor, pair_count, err))) return code;
    if ((code = read_alignment(file, err))) return code;
    if ((code = gguf_read_tensors(file, &cursor, tensor_count, err))) return code;
    if ((code = find_data(file, &cursor, err))) return code;
    return gguf_place_tensors(file, err);
}

/* Hands the file over, or closes it when a step before failed. */
static esp_code finish_open(gguf_file **out, gguf_file *file, esp_code code, esp_error *err) {
    if (!code) code = parse(file, err);
    if (code) {
        gguf_close(file);
        return code;
    }
    *out = file;
    return ESP_OK;
}

esp_code gguf_open_one(gguf_file **out, const char *path, esp_error *err) {
    *out = NULL;
    gguf_file *file = mem_new(1, sizeof *file);
    esp_code code = file_map(&file->mapping, path, "a GGUF file", err);
    memcpy(file->name, file->mapping.name, sizeof file->mapping.name);
    file->bytes = file->mapping.bytes;
    file->byte_count = file->mapping.count;
    return finish_open(out, file, code, err);
}

esp_code gguf_open(gguf_file **out, const char *path, esp_error *err) {
    ESP_ASSERT(out && path);
    esp_code code = gguf_open_one(out, path, err);
    if (!code) code = gguf_open_parts(*out, path, err);
    if (code) {
        gguf_close(*out);
        *out = NULL;
    }
    return code;
}

esp_code gguf_open_memory(gguf_file **out, const void *bytes, size_t count, const char *name,
                          esp_error *err) {
    ESP_ASSERT(out && (bytes || count == 0) && name);
    *out = NULL;
    gguf_file *file = mem_new(1, sizeof *file);
    file_show_name(file->name, sizeof file->name, name);
    esp_code code = ESP_OK;
    if (count == 0) code = gguf_fail(file, err, "the file is empty; wanted a GGUF file");
    file->bytes = bytes;
    file->byte_count = count;
    return finish_open(out, file, code, err);
}

void gguf_close(gguf_file *file) {
    if (!file) return;
    for (uint32_t i = 0; i < file->part_count; i++)
        gguf_close(file->parts[i]);
    free(file->parts);
    file_unmap(&file->mapping);
    free(file->pairs);
    free(file->pairs_by_key);
    free(file->tensors);
    free(file->offsets);
    free(file->tensors_by_name);
    free(file);
}

uint32_t gguf_part_count(const gguf_file *file) { return 1 + file->part_count; }

const gguf_file *gguf_part(const gguf_file *file, uint32_t index) {
    ESP_ASSERT(index <= file->part_count);
    return index ? file->parts[index - 1] : file;
}

uint64_t gguf_bytes(const gguf_file *file) { return file->byte_count; }

const void *gguf_data(const gguf_file *file) { return file->bytes; }

bool gguf_is_mapped(const gguf_file *file) { return file->mapping.bytes != NULL; }

const char *gguf_name(const gguf_file *file) { return file->name; }

uint32_t gguf_version(const gguf_file *file) { return file->version; }
