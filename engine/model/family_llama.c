/* family_llama.c - Llama: RMSNorm before attention and MLP, rope on all heads, SwiGLU, no biases.
 * Mistral's files are of this architecture too; where they name a window, all layers slide.
 *
 * Rows of q and k lie permuted in the file so that rope turns neighbours (2i, 2i+1). */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/family.h"
#include "engine/model/family_decoder.h"

static const decoder_traits traits = {
    .architecture = "llama",
    .rope_interleaved = true,
    .scalings = 1 << SCALING_LINEAR | 1 << SCALING_DIVISORS | 1 << SCALING_YARN,
};

static esp_code read_spec(const gguf_file *file, model_spec *spec, esp_error *err) {
    esp_code code = decoder_read(file, &traits, spec, err);
    return code ? code : decoder_read_window(file, "llama", 0, spec, err);
}

const model_family family_llama = {
    .architecture = "llama",
    .read_spec = read_spec,
    .tensor_names = {FAMILY_COMMON_TENSORS,
                     FAMILY_SEPARATE_TENSORS, [TENSOR_ROPE_DIVISORS] = "rope_freqs.weight"},
};
