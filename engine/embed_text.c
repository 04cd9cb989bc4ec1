/* embed_text.c - encodes, and cuts what is too long. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/embed_text.h"

#include <string.h>

/* How many of the last ids the tokenizer's rule put there: as many as end an empty text too. Plain
 * text never becomes one of them. */
static esp_code count_tail(const tokenizer *tok, const tok_ids *ids, uint32_t *count,
                           esp_error *err) {
    tok_ids ends = {0};
    esp_code code = tok_encode(tok, "", 0, &(tok_encode_options){.add_special = true}, &ends, err);
    *count = 0;
    while (code == ESP_OK && *count < ends.count && *count < ids->count &&
           ends.at[ends.count - 1 - *count] == ids->at[ids->count - 1 - *count])
        ++*count;
    tok_ids_free(&ends);
    return code;
}

static esp_code cut(const tokenizer *tok, uint32_t tokens_max, tok_ids *ids, esp_error *err) {
    uint32_t tail;
    esp_code code = count_tail(tok, ids, &tail, err);
    if (code != ESP_OK) return code;
    if (tail > tokens_max) tail = tokens_max;
    memmove(ids->at + tokens_max - tail, ids->at + ids->count - tail, tail * sizeof *ids->at);
    ids->count = tokens_max;
    return ESP_OK;
}

esp_code embed_text_encode(const tokenizer *tok, tok_text text, const embed_text_options *options,
                           tok_ids *out, esp_error *err) {
    /* A text that is hopelessly long is not encoded to its end, so that it cannot cost its square. */
    const tok_encode_options how = {
        .add_special = true, .ids_max = options->truncate ? 0 : 4 * options->tokens_max + 1024};
    esp_error inner = {0};
    esp_code code = tok_encode(tok, text.at, text.bytes, &how, out, &inner);
    if (code != ESP_OK)
        return esp_fail_field(err, code, options->field, "%s: %s", options->field, inner.message);
    if (out->count == 0)
        return esp_fail_field(err, ESP_INVALID, options->field, "%s: no tokens; wanted some text",
                              options->field);
    if (out->count <= options->tokens_max) return ESP_OK;
    if (options->truncate) return cut(tok, options->tokens_max, out, err);
    return esp_fail_field(err, ESP_INVALID, options->field,
                          "%s: %u tokens; the model takes at most %u (--max-context): shorten it, "
                          "or have it cut with %s",
                          options->field, out->count, options->tokens_max, options->remedy);
}
