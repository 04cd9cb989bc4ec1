/* lora_digest.h - what an adapter is, by the content of its files: the name under which a store
 * keeps it, and what cached state of it is keyed on.
 *
 * SHA-256 over each file that makes the adapter, in the order of their names: its name and a NUL,
 * its size (8 bytes, little-endian), its bytes. The files of a folder are adapter_config.json,
 * adapter_model.safetensors and, where it is there, config.json (label names); a GGUF file counts
 * by the name "adapter.gguf", whatever it is called. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_LORA_DIGEST_H
#define ESPALIER_MODEL_LORA_DIGEST_H

#include "engine/model/lora/lora_file.h"

/* Of the adapter at a path, a folder or a GGUF file; reads every byte and checks none. */
ESP_CHECKED esp_code lora_digest_path(const char *path, char out[LORA_DIGEST_CHARS],
                                      esp_error *err);

#endif
