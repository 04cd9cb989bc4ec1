/* tensors.c - named tensors, whatever file format they lie in. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/format/tensors.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

static const char *const RAW_NAMES[RAW_COUNT] = {
    [RAW_NONE] = "",           [RAW_BOOL] = "BOOL", [RAW_U8] = "U8",   [RAW_I8] = "I8",
    [RAW_F8_E4M3] = "F8_E4M3", [RAW_I16] = "I16",   [RAW_I32] = "I32", [RAW_I64] = "I64",
};

const char *tensor_type_name(const model_tensor *tensor) {
    return tensor->raw == RAW_NONE ? dtype_info(tensor->dtype)->name : RAW_NAMES[tensor->raw];
}

uint64_t tensor_element_count(const model_tensor *tensor) {
    uint64_t count = 1;
    for (uint32_t i = 0; i < tensor->dim_count; i++)
        count *= tensor->dims[i];
    return count;
}

void tensor_set_add(tensor_set *set, const model_tensor *tensor) {
    ESP_ASSERT(!set->by_name);
    if (set->count == set->capacity) {
        set->capacity = set->capacity ? 2 * set->capacity : 256;
        set->at = mem_resize(set->at, set->capacity, sizeof *set->at);
    }
    set->at[set->count++] = *tensor;
}

int model_text_compare(model_text a, model_text b) {
    int order = memcmp(a.at, b.at, a.bytes < b.bytes ? a.bytes : b.bytes);
    if (order) return order;
    return a.bytes < b.bytes ? -1 : a.bytes > b.bytes;
}

static int compare_names(const void *a, const void *b, void *tensors) {
    const model_tensor *all = tensors;
    return model_text_compare(all[*(const uint32_t *)a].name, all[*(const uint32_t *)b].name);
}

uint32_t *tensors_sort(const model_tensor *tensors, uint32_t count) {
    uint32_t *order = mem_new(count ? count : 1, sizeof *order);
    for (uint32_t i = 0; i < count; i++)
        order[i] = i;
    if (count) qsort_r(order, count, sizeof *order, compare_names, (void *)(uintptr_t)tensors);
    return order;
}

const model_tensor *tensors_find(const model_tensor *tensors, const uint32_t *by_name,
                                 uint32_t count, const char *name) {
    model_text wanted = {name, strlen(name)};
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const model_tensor *tensor = &tensors[by_name[middle]];
        int order = model_text_compare(wanted, tensor->name);
        if (order == 0) return tensor;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

esp_code tensor_set_seal(tensor_set *set, esp_error *err) {
    const uint32_t *order = set->by_name = tensors_sort(set->at, set->count);
    for (uint32_t i = 1; i < set->count; i++) {
        const model_tensor *a = &set->at[order[i - 1]], *b = &set->at[order[i]];
        if (model_text_compare(a->name, b->name) == 0)
            return esp_fail(err, ESP_INVALID, "%s: the tensor %.*s stands in %s as well", b->file,
                            (int)b->name.bytes, b->name.at, a->file);
    }
    return ESP_OK;
}

const model_tensor *tensor_set_find(const tensor_set *set, const char *name) {
    return tensors_find(set->at, set->by_name, set->count, name);
}

void tensor_set_free(tensor_set *set) {
    free(set->at);
    free(set->by_name);
    *set = (tensor_set){0};
}
