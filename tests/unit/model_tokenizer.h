/* model_tokenizer.h - for tests that need the real model file: opens its tokenizer. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_MODEL_TOKENIZER_H
#define ESPALIER_TESTS_MODEL_TOKENIZER_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/model/format/gguf.h"
#include "engine/model/tokens/token_source.h"
#include "engine/text/tokenizer.h"

/* ctest's SKIP_RETURN_CODE */
enum { TEST_SKIPPED = 77 };

/* ESPALIER_TEST_MODEL, or where quickstart.sh keeps the file. NULL when there is no such file. */
static inline const char *test_model_path(char path[1024]) {
    const char *given = getenv("ESPALIER_TEST_MODEL"), *home = getenv("HOME");
    if (given)
        snprintf(path, 1024, "%s", given);
    else
        snprintf(path, 1024, "%s/.cache/espalier/models/SmolLM2-135M-Instruct.Q4_1.gguf",
                 home ? home : "");
    return access(path, R_OK) == 0 ? path : NULL;
}

/* The file's tokenizer and, when asked for, its chat template (malloc'd). */
static inline esp_code test_model_tokenizer(const char *path, tokenizer **out, char **chat,
                                            size_t *chat_bytes, esp_error *err) {
    gguf_file *file = NULL;
    token_source source = {0};
    model_text text = {0};
    bool found = false;
    esp_code code = gguf_open(&file, path, err);
    if (!code) code = token_source_read(&source, file, err);
    if (!code) code = tok_open(out, &source.source, err);
    if (!code && chat) {
        code = gguf_get_text(file, "tokenizer.chat_template", &found, &text, err);
        *chat = found ? malloc(text.bytes + 1) : NULL;
        *chat_bytes = text.bytes;
        for (size_t i = 0; found && i < text.bytes; i++)
            (*chat)[i] = text.at[i];
    }
    token_source_free(&source);
    gguf_close(file);
    return code;
}

#endif
