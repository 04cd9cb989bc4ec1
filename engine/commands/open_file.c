/* open_file.c - a model file with its tokenizer, no weights. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/commands/commands.h"

esp_code open_file(const char *path, opened_file *out, esp_error *err) {
    *out = (opened_file){0};
    esp_code code = model_file_open(&out->file, path, err);
    if (code == ESP_OK) code = model_file_tokenizer(out->file, &out->tok, err);
    return code;
}

void close_file(opened_file *opened) {
    tok_close(opened->tok);
    model_file_close(opened->file);
}
