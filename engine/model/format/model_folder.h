/* model_folder.h - a Hugging Face folder: which of its files make the model, and its tensors.
 *
 *   model.safetensors                  one file, or
 *   model.safetensors.index.json       "weight_map": tensor -> file of the same folder
 *   config.json, tokenizer.json, ...   read by others, through model_folder_path
 *
 * A file is the folder's own: a regular file, or a symbolic link that ends inside the folder, or in
 * the blobs of the download cache that the folder is a snapshot of (models--x/snapshots/y links to
 * models--x/blobs). A link that leads elsewhere is refused, and so is a path in the index. All
 * files that anybody reads of the folder (FOLDER_FILES) are held to that when it is opened.
 *
 * Thread  read-only after open: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_FOLDER_H
#define ESPALIER_MODEL_FOLDER_H

#include <stdbool.h>

#include "engine/model/format/model_digest.h"
#include "engine/model/format/safetensors.h"

typedef struct model_folder model_folder;

/* Whether a path names a folder; false for anything else, also for nothing. */
bool model_folder_is(const char *path);

/* Opens every weight file and holds the shards against their index: no tensor more, none less, none
 * elsewhere. ESP_NOT_FOUND, ESP_DENIED or ESP_INVALID with a sentence. */
ESP_CHECKED esp_code model_folder_open(model_folder **out, const char *path, esp_error *err);
void model_folder_close(model_folder *folder);

/* Last component of its path, printable, for error sentences and as the model's name. */
const char *model_folder_name(const model_folder *folder);
/* Its real path, without a closing slash. */
const char *model_folder_path(const model_folder *folder);
uint32_t model_folder_shard_count(const model_folder *folder);
const safetensors_file *model_folder_shard(const model_folder *folder, uint32_t index);
/* Size of all files that make the model. */
uint64_t model_folder_bytes(const model_folder *folder);
/* Adds all tensors to a set, which is then sealed. ESP_INVALID when two have one name. */
ESP_CHECKED esp_code model_folder_tensors(const model_folder *folder, tensor_set *out,
                                          esp_error *err);
/* Over all files that make the model (model_digest.h); reads every byte. */
void model_folder_digest(const model_folder *folder, char out[MODEL_DIGEST_CHARS]);

#endif
