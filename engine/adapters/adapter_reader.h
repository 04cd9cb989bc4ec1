/* adapter_reader.h - from an adapter's files to its image: what the loader calls, and what a test puts
 * in its place.
 *
 * Thread  any, several at once. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ADAPTER_READER_H
#define ESPALIER_ADAPTER_READER_H

#include "engine/adapters/adapter_image.h"
#include "engine/adapters/store.h"

/* What an adapter is, as lists show it. */
typedef struct adapter_facts {
    char digest[ADAPTER_DIGEST_CHARS]; /* "sha256:..." of its content */
    uint32_t rank;                     /* the largest */
    uint64_t parameters, file_bytes;
    char warning[480]; /* for the log: its base may be another one; "" */
} adapter_facts;

typedef struct adapter_reader {
    /* Reads the adapter at path into the empty image and finishes it. The path may be that of a folder
     * or of a file. ESP_INVALID, ESP_NOT_FOUND ...: the adapter is no good; ESP_EXHAUSTED: the image
     * has no room. */
    ESP_CHECKED esp_code (*read)(const struct adapter_reader *reader, const char *path,
                                 adapter_image *image, adapter_facts *facts, esp_error *err);
    /* Its tokens and labels alone, which the caller closes, in a time that does not grow with its tensors. What read
     * gives the image comes from the same files where it says the same words.from. */
    ESP_CHECKED esp_code (*read_words)(const struct adapter_reader *reader, const char *path,
                                       adapter_words *out, esp_error *err);
    void *arg;
} adapter_reader;

/* PEFT folders and GGUF files (engine/model/lora/lora_file.h), held against a base. */
typedef struct file_reader file_reader;
typedef struct file_reader_options {
    const checkpoint *base; /* outlives the reader */
    /* The base's; outlives what adapters make of it. NULL: nobody asks for texts. */
    const tokenizer *tok;
    bool allow_other_base;
    const kern_ops *ops;
    /* As the device was opened whose ops will run; the reader opens one of its own for whole matrices,
     * with a pool of one thread, when the first adapter brings some. */
    kern_options device;
    /* Of a replica's ranks, rank 0's first; borrowed. NULL: there is one. */
    const model_shard *shards;
} file_reader_options;

file_reader *file_reader_open(const file_reader_options *options);
/* After every image that it filled. NULL is fine. */
void file_reader_close(file_reader *reader);
const adapter_reader *file_reader_door(file_reader *reader);

#endif
