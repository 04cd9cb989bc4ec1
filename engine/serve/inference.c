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

/* Whose tokens are asked for: the base's, or an adapter's that has its own. */
typedef struct asked_words {
    served_model served; /* tok and vocab */
    adapter *ad;         /* a reference, or NULL */
} asked_words;

static esp_code ask_words(const serve *s, const char *asked, asked_words *out, esp_error *err) {
    *out = (asked_words){.served = {.name = engine_name(s->engine),
                                    .adapters = engine_adapters(s->engine),
                                    .several = replicas_count(s->replicas) > 1,
                                    .tok = engine_tokenizer(s->engine),
                                    .vocab = tok_count(engine_tokenizer(s->engine))}};
    esp_code code = find_model(&out->served, asked, &out->ad, err);
    return code == ESP_OK ? find_words(&out->served, out->ad, err) : code;
}

static void leave_words(const asked_words *words) {
    adapter_release(words->served.adapters, words->ad);
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
    asked_words words;
    esp_code code = ask_words(s, in->model, &words, &error);
    if (code == ESP_OK)
        code = tok_encode(words.served.tok, in->text, strlen(in->text), &options, &ids, &error);
    leave_words(&words);
    answer.n_token_ids = ids.count;
    answer.token_ids = ids.at;
    rpc_finish(call, code == ESP_OK ? &answer.base : NULL, &error);
    tok_ids_free(&ids);
}

static esp_code detokenize(const served_model *served, const Espalier__V1__DetokenizeRequest *in,
                           text_buffer *text, esp_error *err) {
    const tokenizer *tok = served->tok;
    tok_stream stream = {0};
    char piece[TOK_PIECE_MAX];
    if (in->n_token_ids > TOKENIZE_IDS_MAX)
        return esp_fail_field(err, ESP_INVALID, "token_ids",
                              "token_ids: %zu ids; at most %d are taken", in->n_token_ids,
                              TOKENIZE_IDS_MAX);
    for (size_t i = 0; i < in->n_token_ids; i++) {
        int32_t id = in->token_ids[i];
        if (id < 0 || (uint32_t)id >= served->vocab)
            return esp_fail_field(err, ESP_INVALID, "token_ids",
                                  "token_ids: id %d at index %zu is not in 0..%u", id, i,
                                  served->vocab - 1);
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
    asked_words words;
    esp_code code = ask_words(s, in->model, &words, &error);
    if (code == ESP_OK) code = detokenize(&words.served, in, &text, &error);
    leave_words(&words);
    if (text.at) answer.text = text.at;
    rpc_finish(call, code == ESP_OK ? &answer.base : NULL, &error);
    free(text.at);
}
