/* lora_merge.h - a base and an adapter as one plain checkpoint: a Hugging Face folder of bfloat16
 * matrices, W + scale * B A, and float32 vectors.
 *
 *   config.json         the base's, with what the merge changes; of a GGUF base one made from its spec, which
 *                       reads back as that spec
 *   model.safetensors   under the names of the base's family
 *   tokenizer files     those beside the base, or beside the adapter where it has its own
 *
 * The folder is made under another name and renamed when all of it is on the disk and has been opened as a
 * model; until then nothing lies under its name, and after a failure nothing is left.
 *
 * Thread  any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_LORA_MERGE_H
#define ESPALIER_MODEL_LORA_MERGE_H

#include "engine/model/lora/lora_file.h"
#include "engine/model/model.h"

typedef struct lora_merge_options {
    const char *base_path; /* that base was opened from */
    const char *adapter_path;
    const char *out; /* the folder to make; nothing may lie there */
    /* For a progress bar; NULL for none. */
    void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_arg;
} lora_merge_options;

/* adapter was opened against base. ESP_EXISTS when something lies at `out`, ESP_UNIMPLEMENTED for what a
 * plain checkpoint of the family cannot say, ESP_EXHAUSTED for a full disk. *reads_text says whether the
 * folder has a tokenizer: a GGUF base's is not written as files. */
ESP_CHECKED esp_code lora_merge(const model_file *base, const lora_file *adapter,
                                const lora_merge_options *options, bool *reads_text,
                                esp_error *err);

#endif
