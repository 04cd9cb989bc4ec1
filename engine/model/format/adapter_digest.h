/* adapter_digest.h - what a LoRA adapter is, by the content of its files.
 *
 * The digest is the SHA-256 of one line a file, "<SHA-256 of its bytes, hex>  <name>\n", in the order
 * of the names; so anyone can compute it:
 *
 *   sha256sum adapter_config.json adapter_model.safetensors | sha256sum
 *
 * The names are those two for a PEFT folder, config.json (label names) where it has one and, of an adapter that
 * brings rows of embed_tokens or lm_head, those files of added_tokens.json, tokenizer.json and tokenizer_config.json
 * that it has: what its added tokens are; "adapter.gguf" for a GGUF adapter, whatever the file was called where it
 * came from. No other file of a folder counts.
 */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_ADAPTER_DIGEST_H
#define ESPALIER_MODEL_ADAPTER_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/sha256.h"

#define ADAPTER_CONFIG_FILE "adapter_config.json"
#define ADAPTER_TENSORS_FILE "adapter_model.safetensors"
#define ADAPTER_LABELS_FILE "config.json"
#define ADAPTER_GGUF_FILE "adapter.gguf"
#define ADAPTER_DIGEST_PREFIX "sha256:"

/* The prefix, 64 hexadecimal digits and a NUL. */
enum { ADAPTER_DIGEST_CHARS = 72, ADAPTER_FILES_MAX = 6, ADAPTER_TOKEN_FILES = 3 };

/* The files that say what an adapter's added tokens are. */
extern const char *const ADAPTER_TOKEN_FILE[ADAPTER_TOKEN_FILES];
bool adapter_is_token_file(const char *name);

/* SHA-256 of a mapped or held file; pages of a mapped one are given back as they are read. */
void adapter_file_hash(uint8_t out[SHA256_BYTES], const void *bytes, size_t count, bool mapped);

typedef struct adapter_digest_file {
    const char *name; /* one of the above */
    uint8_t hash[SHA256_BYTES];
} adapter_digest_file;

/* The array is sorted by name. */
void adapter_digest(char out[ADAPTER_DIGEST_CHARS], adapter_digest_file *files, size_t count);

#endif
