/* checkpoint_gguf.h - the weights of a GGUF file. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_CHECKPOINT_GGUF_H
#define ESPALIER_MODEL_CHECKPOINT_GGUF_H

#include "engine/model/checkpoint.h"
#include "engine/model/format/gguf.h"

/* Family, spec and every tensor, checked. *out is all-zero before; tensors are freed by the caller, also
 * on failure. The file outlives it. */
ESP_CHECKED esp_code checkpoint_read_gguf(checkpoint *out, const gguf_file *file, esp_error *err);

#endif
