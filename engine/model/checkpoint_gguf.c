/* checkpoint_gguf.c - the weights of a GGUF file. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/checkpoint_gguf.h"

#include <stdlib.h>
#include <string.h>

/* A list that divides the rope frequencies: each above 0. */
static esp_code read_divisors(const checkpoint *c, tensor_role role, float *out, esp_error *err) {
    float *values;
    uint32_t count;
    esp_code code = checkpoint_read_vector(c, role, 0, &values, &count, err);
    for (uint32_t i = 0; !code && i < count; i++)
        if (values[i] <= 0)
            code = esp_fail(err, ESP_INVALID, "%s: element %u of tensor %s is %g; wanted > 0",
                            c->name, i, c->tensor_names[role], (double)values[i]);
    if (!code && values) memcpy(out, values, count * sizeof *out);
    free(values);
    return code;
}

/* A name of another type is no reason to refuse a model. */
static void read_name(checkpoint *out, const gguf_file *file) {
    bool found;
    model_text name = {"", 0};
    if (gguf_get_text(file, "general.name", &found, &name, NULL) == ESP_OK)
        esp_show(out->recorded, sizeof out->recorded, name.at, name.bytes);
}

esp_code checkpoint_read_gguf(checkpoint *out, const gguf_file *file, esp_error *err) {
    out->name = gguf_name(file);
    out->mapped = gguf_is_mapped(file);
    read_name(out, file);
    esp_code code = family_find(file, &out->family, err);
    if (code) return code;
    out->tensor_names = out->family->tensor_names;
    if ((code = out->family->read_spec(file, &out->spec, err))) return code;
    for (uint64_t i = 0; i < gguf_tensor_count(file); i++)
        tensor_set_add(&out->tensors, gguf_tensor_at(file, i));
    if ((code = tensor_set_seal(&out->tensors, err))) return code;
    if ((code = checkpoint_check(out, err))) return code;
    spec_rope *rope = &out->spec.rope;
    if ((code = read_divisors(out, TENSOR_ROPE_DIVISORS, rope->divisors, err))) return code;
    if ((code = read_divisors(out, TENSOR_ROPE_SHORT, rope->divisors, err))) return code;
    return read_divisors(out, TENSOR_ROPE_LONG, rope->long_divisors, err);
}
