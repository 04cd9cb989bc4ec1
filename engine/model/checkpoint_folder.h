/* checkpoint_folder.h - the weights of a Hugging Face folder. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_CHECKPOINT_FOLDER_H
#define ESPALIER_MODEL_CHECKPOINT_FOLDER_H

#include "engine/model/checkpoint.h"
#include "engine/model/format/model_folder.h"

/* Fills *out, which is all-zero, from an opened folder and its config: family, spec, tensors. The
 * folder outlives it; tensor_set_free(&out->tensors) and quant_config_free(&out->quant) also after a
 * failure. */
ESP_CHECKED esp_code checkpoint_read_folder(checkpoint *out, const model_folder *folder,
                                            const hf_config *config, esp_error *err);

#endif
