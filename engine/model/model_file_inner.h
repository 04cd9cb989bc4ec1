/* model_file_inner.h - what model_file.c and model_describe.c share; nobody else includes it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_FILE_INNER_H
#define ESPALIER_MODEL_FILE_INNER_H

#include <pthread.h>

#include "engine/model/checkpoint.h"
#include "engine/model/format/model_digest.h"
#include "engine/model/format/model_folder.h"
#include "engine/model/model.h"
#include "engine/model/tokens/chat_source.h"
#include "engine/model/tokens/token_source.h"

struct model_file {
    gguf_file *gguf;      /* either this */
    model_folder *folder; /* or that */
    checkpoint weights;
    token_source tokens;
    model_text chat_template; /* at NULL: none */
    model_text tool_template; /* the one for conversations with tools; at NULL: none */
    chat_source folder_chat;  /* where a folder's two lie */
    pack_identity identity;   /* of the files, before they were mapped; all-zero: memory */
    pthread_mutex_t digest_lock;
    char digest[MODEL_DIGEST_CHARS]; /* under digest_lock until it is set; "" before */
};

#endif
