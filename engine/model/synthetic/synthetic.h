/* synthetic.h - a checkpoint of a published shape with random weights: for measuring, where the real one
 * cannot be had. What the model says is noise.
 *
 *   config.json                        the shape's
 *   tokenizer.json                     the 256 bytes as 256 tokens; ids above have no text
 *   model-0000i-of-0000n.safetensors   bfloat16, under the names of the family, and an index; one shard
 *                                      alone is model.safetensors
 *
 * Equal shape, seed and shard_bytes give equal files on every machine. The folder appears under its name when
 * all of it is on the disk and opens as a model.
 *
 * Thread  any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_SYNTHETIC_H
#define ESPALIER_MODEL_SYNTHETIC_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/model/family/family.h"

#define SYNTHETIC_SHARD_BYTES ((uint64_t)4 << 30) /* what a command asks for */

typedef struct synthetic_shape {
    const char *name; /* "llama-3.1-8b" */
    const model_family *family;
    uint32_t layers, hidden, heads, kv_heads, head_dim, intermediate;
    uint32_t vocab; /* at least 256 */
    uint32_t context;
    double theta, norm_eps;
    bool tied;
    const char *more; /* further keys of its config.json, as a JSON object; or NULL */
} synthetic_shape;

/* The known ones by index; NULL behind the last. */
const synthetic_shape *synthetic_at(uint32_t index);
/* By name; an unknown one is refused with the list. */
ESP_CHECKED esp_code synthetic_find(const char *name, const synthetic_shape **out, esp_error *err);

/* Parameters, and bytes of all weights. */
uint64_t synthetic_parameters(const synthetic_shape *shape);
static inline uint64_t synthetic_bytes(const synthetic_shape *shape) {
    return synthetic_parameters(shape) * sizeof(uint16_t);
}

/* What a model of it is, as its config.json is read. */
ESP_CHECKED esp_code synthetic_spec(const synthetic_shape *shape, model_spec *out, esp_error *err);

typedef struct synthetic_options {
    const synthetic_shape *shape;
    const char *out; /* the folder to make; nothing may lie there */
    uint64_t seed;
    uint64_t shard_bytes; /* most bytes of tensors in a file, unless one alone has more */
    /* For a progress bar; NULL for none. */
    void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_arg;
} synthetic_options;

/* ESP_EXISTS when something lies at `out`; ESP_EXHAUSTED when the disk has less room than the files take,
 * before a byte of them is written, or is full. */
ESP_CHECKED esp_code synthetic_write(const synthetic_options *options, esp_error *err);

#endif
