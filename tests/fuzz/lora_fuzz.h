/* lora_fuzz.h - what the targets of adapters share: a tiny base, and everything that can be asked of an
 * adapter that opens. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_LORA_FUZZ_H
#define ESPALIER_TESTS_LORA_FUZZ_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "engine/model/lora/lora_file.h"
#include "engine/model/model.h"
#include "tests/unit/gguf_builder.h"

static inline void lora_fuzz_check(bool holds) {
    if (!holds) abort();
}

/* Lives as long as the process. */
static inline const checkpoint *lora_fuzz_base(void) {
    static char *bytes;
    static model_file *file;
    size_t count;
    if (file) return model_file_weights(file);
    bytes = gguf_build_tiny_llama(&(tiny_llama_options){.tied = true}, &count);
    lora_fuzz_check(model_file_open_memory(&file, bytes, count, "base", NULL) == ESP_OK);
    return model_file_weights(file);
}

static inline void lora_fuzz_finite(const float *values, size_t count) {
    for (size_t i = 0; values && i < count; i++)
        lora_fuzz_check(isfinite(values[i]));
}

static inline void lora_fuzz_desc(const kern_lora_desc *desc) {
    for (uint32_t i = 0; i < desc->part_count; i++) {
        const kern_lora_part *part = &desc->part[i];
        lora_fuzz_check(part->rank <= LORA_RANK_MAX && isfinite(part->scale));
        lora_fuzz_finite(part->a, (size_t)part->rank * desc->cols);
        lora_fuzz_finite(part->b, (size_t)part->rank * part->rows);
        lora_fuzz_finite(part->magnitude, part->rows);
    }
}

static inline void lora_fuzz_read(const lora_file *file, const checkpoint *base) {
    lora_scratch scratch = {0};
    kern_lora_desc desc;
    kern_matrix_desc whole;
    bool touched;
    for (uint32_t layer = 0; layer < base->spec.layers; layer++)
        for (lora_linear which = LORA_QKV; which < LORA_LINEARS; which++)
            if (lora_file_read(file, layer, which, &scratch, &desc, &touched, NULL) == ESP_OK)
                lora_fuzz_desc(&desc);
    if (lora_file_read_head(file, &scratch, &desc, &touched, NULL) == ESP_OK) lora_fuzz_desc(&desc);
    for (lora_whole which = LORA_EMBEDDING; which < LORA_WHOLES; which++) {
        uint32_t rows = lora_file_facts(file)->whole_rows[which];
        if (rows && !lora_file_read_whole(file, which, rows - 1, 1, &scratch, &whole, NULL))
            lora_fuzz_check(whole.rows == 1 && whole.cols == base->spec.hidden);
    }
    lora_scratch_free(&scratch);
}

/* config NULL: tensors is a GGUF file. With the base and without. */
static inline void lora_fuzz_open(const void *config, size_t config_bytes, const void *tensors,
                                  size_t bytes) {
    const checkpoint *bases[] = {lora_fuzz_base(), NULL};
    for (size_t i = 0; i < 2; i++) {
        lora_file *file;
        esp_error err = {0};
        if (lora_file_open_memory(&file, config, config_bytes, tensors, bytes, bases[i], &err)) {
            lora_fuzz_check(!file && err.message[0]);
            continue;
        }
        if (bases[i]) lora_fuzz_read(file, bases[i]);
        free(lora_file_describe(file));
        lora_file_close(file);
    }
}

#endif
