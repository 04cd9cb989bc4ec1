/* inference.c - espalier.v1.Inference: the handlers. Generate's long life is in generation.c. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/serve/embedding.h"
#include "engine/serve/generate_input.h"
#include "engine/serve/serve_parts.h"
#include "engine/serve/text_buffer.h"

enum {
    TOKENIZE_IDS_MAX = 1 << 20,
    DETOKENIZE_BYTES_MAX = (4 << 20) - 1024, /* clients take 4 MiB a message by default */
};

/* Adapters share the base's tokens. */
static esp_code check_model(const serve *s, const char *asked, esp_error *err) {
    adapters *all = engine_adapters(s->engine);
    served_model here = {.name = engine_name(s->engine),
                         .adapters = all,
                         .several = replicas_count(s->replicas) > 1};
    adapter *found;
    esp_code code = find_model(&here, asked, &found, err);
    adapter_release(all, found);
    return code;
}

void inference_generate(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    generation_start(((serve *)arg)->generations, call, (const void *)message);
}

void inference_embed(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    embedding_start(((serve *)arg)->generations, call, (const void *)message);
}

void inference_classify(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    classification_start(((serve *)arg)->generations, call, (const void *)message);
}

void inference_tokenize(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    const serve *s = arg;
    const Espalier__V1__TokenizeRequest *in = (const void *)message;
    Espalier__V1__TokenizeResponse answer = ESPALIER__V1__TOKENIZE_RESPONSE__INIT;
    tok_encode_options options = {.add_special = !in->no_add_special,
                                  .parse_special = in->parse_special,
                                  .ids_max = TOKENIZE_IDS_MAX};
    tok_ids ids = {0};
    esp_error error = {0};
    esp_code code = check_model(s, in->model, &error);
    if (code == ESP_OK)
        code = tok_encode(engine_tokenizer(s->engine), in->text, strlen(in->text), &options, &ids,
                          &error);
    answer.n_token_ids = ids.count;
    answer.token_ids = ids.at;
    rpc_finish(call, code == ESP_OK ? &answer.base : NULL, &error);
    tok_ids_free(&ids);
}

static esp_code detokenize(const tokenizer *tok, const Espalier__V1__DetokenizeRequest *in,
                           text_buffer *text, esp_error *err) {
    tok_stream stream = {0};
    char piece[TOK_PIECE_MAX];
    if (in->n_token_ids > TOKENIZE_IDS_MAX)
        return esp_fail_field(err, ESP_INVALID, "token_ids",
                              "token_ids: %zu ids; at most %d are taken", in->n_token_ids,
                              TOKENIZE_IDS_MAX);
    for (size_t i = 0; i < in->n_token_ids; i++) {
        int32_t id = in->token_ids[i];
        if (id < 0 || (uint32_t)id >= tok_count(tok))
            return esp_fail_field(err, ESP_INVALID, "token_ids",
                                  "token_ids: id %d at index %zu is not in 0..%u", id, i,
                                  tok_count(tok) - 1);
        text_buffer_add(text, piece, tok_stream_next(tok, &stream, id, in->show_special, piece));
        if (text->bytes > DETOKENIZE_BYTES_MAX)
            return esp_fail_field(
                err, ESP_EXHAUSTED, "token_ids",
                "token_ids: the text of the first %zu ids is over %d bytes; send fewer", i + 1,
                DETOKENIZE_BYTES_MAX);
    }
    text_buffer_add(text, piece, tok_stream_end(&stream, piece));
    return ESP_OK;
}

void inference_detokenize(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    const serve *s = arg;
    const Espalier__V1__DetokenizeRequest *in = (const void *)message;
    Espalier__V1__DetokenizeResponse answer = ESPALIER__V1__DETOKENIZE_RESPONSE__INIT;
    text_buffer text = {0};
    esp_error error = {0};
    esp_code code = check_model(s, in->model, &error);
    if (code == ESP_OK) code = detokenize(engine_tokenizer(s->engine), in, &text, &error);
    if (text.at) answer.text = text.at;
    rpc_finish(call, code == ESP_OK ? &answer.base : NULL, &error);
    free(text.at);
}
