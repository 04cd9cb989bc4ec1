/* gguf_tensors.c - the tensor table of a GGUF file and the layout of the data behind it.
 *
 *   entry   name text, dimension count u32, that many u64 (innermost first), type u32, offset u64
 *
 * Offsets count from the beginning of the data. Sorted by offset the tensors follow each other with
 * no more than the padding to the alignment between them, and the last one ends with the file:
 * every byte of the data belongs to exactly one tensor. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/model/format/gguf_inner.h"

/* Type numbers of the format; ggml.h of the reference implementation. DT_COUNT: known by name only,
 * so that the refusal can say what the file holds. A new format is a row here and one in
 * base/quant.c. */
static const struct {
    uint32_t number;
    const char *name;
    esp_dtype dtype;
} TYPES[] = {
    {0, "F32", DT_F32},        {1, "F16", DT_F16},        {2, "Q4_0", DT_Q4_0},
    {3, "Q4_1", DT_Q4_1},      {6, "Q5_0", DT_Q5_0},      {7, "Q5_1", DT_Q5_1},
    {8, "Q8_0", DT_Q8_0},      {9, "Q8_1", DT_COUNT},     {10, "Q2_K", DT_Q2_K},
    {11, "Q3_K", DT_Q3_K},     {12, "Q4_K", DT_Q4_K},     {13, "Q5_K", DT_Q5_K},
    {14, "Q6_K", DT_Q6_K},     {15, "Q8_K", DT_COUNT},    {16, "IQ2_XXS", DT_COUNT},
    {17, "IQ2_XS", DT_COUNT},  {18, "IQ3_XXS", DT_COUNT}, {19, "IQ1_S", DT_COUNT},
    {20, "IQ4_NL", DT_IQ4_NL}, {21, "IQ3_S", DT_COUNT},   {22, "IQ2_S", DT_COUNT},
    {23, "IQ4_XS", DT_IQ4_XS}, {24, "I8", DT_COUNT},      {25, "I16", DT_COUNT},
    {26, "I32", DT_COUNT},     {27, "I64", DT_COUNT},     {28, "F64", DT_COUNT},
    {29, "IQ1_M", DT_COUNT},   {30, "BF16", DT_BF16},     {34, "TQ1_0", DT_COUNT},
    {35, "TQ2_0", DT_COUNT},   {39, "MXFP4", DT_COUNT},
};
enum { TYPE_ROWS = sizeof TYPES / sizeof TYPES[0] };

static esp_code fail_short(const gguf_file *file, uint64_t index, esp_error *err) {
    return gguf_fail(file, err,
                     "entry %llu of the tensor table runs past the end of the file; it is cut "
                     "short or damaged: download it again",
                     (unsigned long long)index);
}

static esp_code fail_dtype(const gguf_file *file, model_text tensor, uint32_t number,
                           esp_error *err) {
    const char *name = "unknown";
    char known[160] = "";
    for (uint32_t i = 0; i < TYPE_ROWS; i++) {
        if (TYPES[i].number == number) name = TYPES[i].name;
        if (TYPES[i].dtype == DT_COUNT) continue;
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", TYPES[i].name);
    }
    return gguf_fail(file, err,
                     "tensor %s has type %u (%s), which is not supported; wanted one of %s",
                     gguf_show(tensor).text, number, name, known);
}

static esp_code set_dtype(const gguf_file *file, model_tensor *tensor, uint32_t number,
                          esp_error *err) {
    for (uint32_t i = 0; i < TYPE_ROWS; i++) {
        if (TYPES[i].number != number || TYPES[i].dtype == DT_COUNT) continue;
        tensor->dtype = TYPES[i].dtype;
        return ESP_OK;
    }
    return fail_dtype(file, tensor->name, number, err);
}

/* bytes = product of the dims / elements of a block * bytes of a block; both products can overflow.
 */
static esp_code set_bytes(const gguf_file *file, model_tensor *tensor, esp_error *err) {
    const dtype_row *row = dtype_info(tensor->dtype);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < tensor->dim_count; i++) {
        if (tensor->dims[i] == 0)
            return gguf_fail(file, err, "tensor %s has dimension %u of size 0; wanted 1 at least",
                             gguf_show(tensor->name).text, i);
        if (!check_mul(elements, tensor->dims[i], &elements))
            return gguf_fail(file, err, "tensor %s: the product of its dimensions overflows",
                             gguf_show(tensor->name).text);
    }
    if (tensor->dims[0] % row->block_elements != 0)
        return gguf_fail(file, err, "tensor %s has %llu columns; %s wants a multiple of %u",
                         gguf_show(tensor->name).text, (unsigned long long)tensor->dims[0],
                         row->name, row->block_elements);
    if (!check_mul(elements / row->block_elements, row->block_bytes, &tensor->bytes))
        return gguf_fail(file, err, "tensor %s: its size in bytes overflows",
                         gguf_show(tensor->name).text);
    return ESP_OK;
}

static esp_code read_name(const gguf_file *file, gguf_cursor *cursor, uint64_t index,
                          model_text *out, esp_error *err) {
    if (!cursor_text(cursor, out)) return fail_short(file, index, err);
    if (out->bytes == 0 || out->bytes > GGUF_TENSOR_NAME_BYTES_MAX)
        return gguf_fail(file, err, "the name of tensor %llu has %zu bytes; wanted 1 to %d",
                         (unsigned long long)index, out->bytes, GGUF_TENSOR_NAME_BYTES_MAX);
    if (!gguf_is_printable(*out))
        return gguf_fail(file, err, "the tensor name %s holds bytes that are not printable ASCII",
                         gguf_show(*out).text);
    return ESP_OK;
}

static esp_code read_dims(const gguf_file *file, gguf_cursor *cursor, uint64_t index,
                          model_tensor *tensor, esp_error *err) {
    if (!cursor_u32(cursor, &tensor->dim_count)) return fail_short(file, index, err);
    if (tensor->dim_count < 1 || tensor->dim_count > 4)
        return gguf_fail(file, err, "tensor %s has %u dimensions; wanted 1 to 4",
                         gguf_show(tensor->name).text, tensor->dim_count);
    for (uint32_t i = 0; i < 4; i++)
        tensor->dims[i] = 1;
    for (uint32_t i = 0; i < tensor->dim_count; i++)
        if (!cursor_u64(cursor, &tensor->dims[i])) return fail_short(file, index, err);
    return ESP_OK;
}

static esp_code read_tensor(const gguf_file *file, gguf_cursor *cursor, uint64_t index,
                            model_tensor *tensor, uint64_t *offset, esp_error *err) {
    uint32_t number;
    esp_code code = read_name(file, cursor, index, &tensor->name, err);
    if (code) return code;
    if ((code = read_dims(file, cursor, index, tensor, err))) return code;
    if (!cursor_u32(cursor, &number) || !cursor_u64(cursor, offset))
        return fail_short(file, index, err);
    if ((code = set_dtype(file, tensor, number, err))) return code;
    if (*offset % file->alignment != 0)
        return gguf_fail(file, err, "tensor %s begins at offset %llu, not a multiple of %llu",
                         gguf_show(tensor->name).text, (unsigned long long)*offset,
                         (unsigned long long)file->alignment);
    return set_bytes(file, tensor, err);
}

esp_code gguf_index_tensors(gguf_file *file, esp_error *err) {
    const model_tensor *all = file->tensors;
    free(file->tensors_by_name);
    const uint32_t *order = file->tensors_by_name = tensors_sort(all, file->tensor_count);
    for (uint32_t i = 1; i < file->tensor_count; i++)
        if (model_text_compare(all[order[i - 1]].name, all[order[i]].name) == 0)
            return gguf_fail(file, err, "the tensor %s stands there twice",
                             gguf_show(all[order[i]].name).text);
    return ESP_OK;
}

esp_code gguf_read_tensors(gguf_file *file, gguf_cursor *cursor, uint64_t count, esp_error *err) {
    if (count > cursor_left(cursor) / GGUF_TENSOR_BYTES_MIN)
        return gguf_fail(file, err,
                         "announces %llu tensors, more than its %zu bytes can hold; it is damaged",
                         (unsigned long long)count, file->byte_count);
    if (count > GGUF_TENSORS_MAX)
        return gguf_fail(file, err, "has %llu tensors; wanted %d at most",
                         (unsigned long long)count, GGUF_TENSORS_MAX);
    file->tensors = mem_new(count ? count : 1, sizeof *file->tensors);
    file->offsets = mem_new(count ? count : 1, sizeof *file->offsets);
    file->tensor_count = (uint32_t)count;
    for (uint64_t i = 0; i < count; i++) {
        esp_code code = read_tensor(file, cursor, i, &file->tensors[i], &file->offsets[i], err);
        if (code) return code;
    }
    return gguf_index_tensors(file, err);
}

static int compare_offsets(const void *a, const void *b, void *offsets) {
    const uint64_t *all = offsets, x = all[*(const uint32_t *)a], y = all[*(const uint32_t *)b];
    return x < y ? -1 : x > y;
}

/* Places one tensor that must begin at *expected, and moves *expected behind it. */
static esp_code place_tensor(const gguf_file *file, model_tensor *tensor, uint64_t offset,
                             uint64_t *expected, esp_error *err) {
    uint64_t room = file->byte_count - file->data_begin;
    if (offset != *expected)
        return gguf_fail(
            file, err, "tensor %s begins at offset %llu; wanted %llu, %s the one before",
            gguf_show(tensor->name).text, (unsigned long long)offset, (unsigned long long)*expected,
            offset < *expected ? "it overlaps" : "there is a gap after");
    if (!check_span(offset, tensor->bytes, room))
        return gguf_fail(file, err,
                         "tensor %s has %llu bytes at offset %llu, but only %llu bytes of data are "
                         "there; the file is cut short: download it again",
                         gguf_show(tensor->name).text, (unsigned long long)tensor->bytes,
                         (unsigned long long)offset, (unsigned long long)room);
    if (!check_align(offset + tensor->bytes, file->alignment, expected))
        return gguf_fail(file, err, "tensor %s: its end overflows", gguf_show(tensor->name).text);
    tensor->data = file->bytes + file->data_begin + offset;
    tensor->file = file->name;
    return ESP_OK;
}

/* Some writers pad the last tensor, others do not; beyond that no byte may be left. */
static esp_code check_end(const gguf_file *file, uint64_t end, esp_error *err) {
    uint64_t room = file->byte_count - file->data_begin;
    if (room <= end) return ESP_OK;
    return gguf_fail(file, err, "has %llu bytes behind its last tensor that belong to none",
                     (unsigned long long)(room - end));
}

esp_code gguf_place_tensors(gguf_file *file, esp_error *err) {
    uint32_t count = file->tensor_count, *order = mem_new(count ? count : 1, sizeof *order);
    uint64_t expected = 0;
    esp_code code = ESP_OK;
    for (uint32_t i = 0; i < count; i++)
        order[i] = i;
    qsort_r(order, count, sizeof *order, compare_offsets, file->offsets);
    for (uint32_t i = 0; i < count && !code; i++)
        code =
            place_tensor(file, &file->tensors[order[i]], file->offsets[order[i]], &expected, err);
    free(order);
    free(file->offsets);
    file->offsets = NULL;
    return code ? code : check_end(file, expected, err);
}

uint64_t gguf_tensor_count(const gguf_file *file) { return file->tensor_count; }

const model_tensor *gguf_tensor_at(const gguf_file *file, uint64_t index) {
    ESP_ASSERT(index < file->tensor_count);
    return &file->tensors[index];
}

const model_tensor *gguf_find(const gguf_file *file, const char *name) {
    return tensors_find(file->tensors, file->tensors_by_name, file->tensor_count, name);
}
