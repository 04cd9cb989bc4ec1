/* client.c - `chat` and `health` over the public API. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/serve/text_buffer.h"
#include "espalier/v1/inference.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"
#include "proto/rpc.h"

struct client {
    rpc_channel *channel;
};

esp_code client_open(client **out, const client_options *options, esp_error *err) {
    client *c = mem_new(1, sizeof *c);
    *out = NULL;
    rpc_channel_options to = {.address = options->address,
                              .token = options->token,
                              .tls = {.cert_file = options->cert_file,
                                      .key_file = options->key_file,
                                      .ca_file = options->ca_file}};
    esp_code code = rpc_channel_open(&c->channel, &to, err);
    if (code != ESP_OK)
        free(c);
    else
        *out = c;
    return code;
}

void client_close(client *c) {
    if (!c) return;
    rpc_channel_close(c->channel);
    free(c);
}

esp_code client_health(client *c, int64_t timeout_ms, esp_error *err) {
    Grpc__Health__V1__HealthCheckRequest ask = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    ProtobufCMessage *got;
    esp_code code =
        rpc_unary(c->channel, "/grpc.health.v1.Health/Check", &ask.base,
                  &grpc__health__v1__health_check_response__descriptor, timeout_ms, &got, err);
    if (code == ESP_DEADLINE)
        return esp_fail(err, ESP_UNAVAILABLE, "no answer within %lld ms", (long long)timeout_ms);
    if (code != ESP_OK) return code;
    int status = ((const Grpc__Health__V1__HealthCheckResponse *)got)->status;
    protobuf_c_message_free_unpacked(got, NULL);
    if (status == GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING) return ESP_OK;
    return esp_fail(err, ESP_UNAVAILABLE, "the server answers, but is not serving");
}

/* ---- one streamed answer ---- */

typedef struct chat_state {
    void (*on_text)(void *arg, const char *text, size_t bytes);
    void *arg;
    int64_t began_us;
    bool finished;
    text_buffer text;
    client_result *out;
} chat_state;

static void take_final(chat_state *state, const Espalier__V1__Final *final) {
    client_result *out = state->out;
    state->finished = true;
    out->seed = final->seed;
    snprintf(out->finish_reason, sizeof out->finish_reason, "%s",
             final->finish_reason == ESPALIER__V1__FINISH_REASON__FINISH_REASON_LENGTH ? "length"
                                                                                       : "stop");
    if (!final->usage) return;
    out->prompt_tokens = final->usage->prompt_tokens;
    out->output_tokens = final->usage->output_tokens;
}

static void take_answer(chat_state *state, const Espalier__V1__GenerateResponse *answer) {
    size_t bytes = strlen(answer->text);
    if (bytes) {
        if (!state->text.bytes)
            state->out->ttft_ms = (double)(clock_now_us() - state->began_us) * 1e-3;
        text_buffer_add(&state->text, answer->text, bytes);
        if (state->on_text) state->on_text(state->arg, answer->text, bytes);
    }
    if (answer->final) take_final(state, answer->final);
}

static esp_code read_answers(rpc_stream *stream, chat_state *state, esp_error *err) {
    for (;;) {
        ProtobufCMessage *got;
        esp_code code =
            rpc_stream_next(stream, &espalier__v1__generate_response__descriptor, &got, err);
        if (code != ESP_OK) return code;
        if (!got) break;
        take_answer(state, (const void *)got);
        protobuf_c_message_free_unpacked(got, NULL);
    }
    if (state->finished) return ESP_OK;
    return esp_fail(err, ESP_DATA_LOSS, "the server ended the answer without its last message");
}

static esp_code ask(client *c, const Espalier__V1__GenerateRequest *request, chat_state *state,
                    esp_error *err) {
    rpc_stream *stream;
    esp_code code = rpc_stream_open(&stream, c->channel, "/espalier.v1.Inference/Generate",
                                    &request->base, -1, err);
    if (code == ESP_OK) code = read_answers(stream, state, err);
    rpc_stream_close(stream);
    return code;
}

static Espalier__V1__ChatMessage **wire_messages(const client_message *messages, uint32_t count) {
    Espalier__V1__ChatMessage **list = mem_new(count ? count : 1, sizeof *list);
    for (uint32_t i = 0; i < count; i++) {
        list[i] = mem_new(1, sizeof **list);
        espalier__v1__chat_message__init(list[i]);
        list[i]->role = (char *)(uintptr_t)messages[i].role;
        list[i]->_content_case = ESPALIER__V1__CHAT_MESSAGE___CONTENT_CONTENT;
        list[i]->content = (char *)(uintptr_t)messages[i].content;
    }
    return list;
}

esp_code client_chat(client *c, const char *model, const client_message *messages, uint32_t count,
                     uint32_t max_tokens,
                     void (*on_text)(void *arg, const char *text, size_t bytes), void *arg,
                     client_result *out, esp_error *err) {
    Espalier__V1__GenerateRequest request = ESPALIER__V1__GENERATE_REQUEST__INIT;
    Espalier__V1__ChatInput chat = ESPALIER__V1__CHAT_INPUT__INIT;
    memset(out, 0, sizeof *out);
    chat_state state = {.on_text = on_text, .arg = arg, .began_us = clock_now_us(), .out = out};
    chat.messages = wire_messages(messages, count);
    chat.n_messages = count;
    request.model = (char *)(uintptr_t)model;
    request.input_case = ESPALIER__V1__GENERATE_REQUEST__INPUT_CHAT;
    request.chat = &chat;
    if (max_tokens) {
        request._max_tokens_case = ESPALIER__V1__GENERATE_REQUEST___MAX_TOKENS_MAX_TOKENS;
        request.max_tokens = max_tokens;
    }
    esp_code code = ask(c, &request, &state, err);
    for (uint32_t i = 0; i < count; i++)
        free(chat.messages[i]);
    free(chat.messages);
    text_buffer_add(&state.text, "", 0); /* "" rather than NULL for an empty answer */
    out->text = state.text.at;
    out->total_ms = (double)(clock_now_us() - state.began_us) * 1e-3;
    return code;
}
