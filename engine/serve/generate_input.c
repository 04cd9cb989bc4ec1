/* generate_input.c - one input (text, ids, or chat), its limits, and the sampling fields. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/generate_input.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "engine/base/mem.h"
#include "engine/serve/chat_input.h"

#define INPUT(name) ESPALIER__V1__GENERATE_REQUEST__INPUT_##name

esp_code find_model(const served_model *model, const char *asked, adapter **out, esp_error *err) {
    esp_error why = {0};
    *out = NULL;
    if (!*asked || !strcmp(asked, model->name)) return ESP_OK;
    if (!model->adapters)
        return esp_fail_field(err, ESP_NOT_FOUND, "model",
                              "model: \"%.100s\" is not served here; served: \"%.100s\"", asked,
                              model->name);
    esp_code code = model->several ? adapters_find_anyhow(model->adapters, asked, out, &why)
                                   : adapters_find(model->adapters, asked, out, &why);
    if (code == ESP_OK) return code;
    if (code == ESP_INVALID) code = ESP_NOT_FOUND; /* what can be no name is no served one */
    return esp_fail_field(err, code, "model", "model: %.300s; the base model is \"%.100s\"",
                          why.message, model->name);
}

esp_code find_words(served_model *model, adapter *ad, esp_error *err) {
    esp_error why = {0};
    esp_code code = adapters_read_tokens(model->adapters, ad, &why);
    if (code != ESP_OK) return esp_fail_field(err, code, "model", "model: %.400s", why.message);
    if (!ad) return ESP_OK;
    tokenizer *own = adapter_tokenizer(ad);
    if (own) model->tok = own;
    if (adapter_vocab(ad))
        model->vocab = adapter_vocab(ad);
    else if (own)
        model->vocab = tok_count(own);
    return ESP_OK;
}

static esp_code check_generates(const served_model *model, esp_error *err) {
    if (!model->embeds) return ESP_OK;
    return esp_fail_field(err, ESP_PRECONDITION, "model",
                          "model: \"%.100s\" embeds texts and generates none; use Embed",
                          model->name);
}

/* ---- the prompt's ids ---- */

static esp_code too_long(const served_model *model, uint64_t tokens, const char *field,
                         esp_error *err) {
    return esp_fail_field(err, ESP_INVALID, field,
                          "%s: %llu tokens; the context of %u holds prompt and at least 1 token of "
                          "answer",
                          field, (unsigned long long)tokens, model->context_max);
}

static esp_code encode(const served_model *model, const char *text, size_t bytes,
                       const tok_encode_options *options, const char *field, tok_ids *ids,
                       esp_error *err) {
    tok_encode_options limited = *options;
    limited.ids_max = model->context_max;
    esp_code code = tok_encode(model->tok, text, bytes, &limited, ids, err);
    /* Any bytes can be encoded: what is refused is the length. */
    if (code != ESP_INVALID) return code;
    return esp_fail_field(
        err, ESP_INVALID, field,
        "%s: its %zu bytes are more than %u tokens, the context, which holds prompt "
        "and answer",
        field, bytes, model->context_max);
}

static esp_code read_prompt(const served_model *model, const char *prompt, tok_ids *ids,
                            esp_error *err) {
    size_t bytes = strlen(prompt);
    tok_encode_options options = {.add_special = true};
    if (bytes == 0)
        return esp_fail_field(err, ESP_INVALID, "prompt", "prompt: empty; wanted some text");
    return encode(model, prompt, bytes, &options, "prompt", ids, err);
}

static esp_code read_ids(const served_model *model, const Espalier__V1__TokenIds *in, tok_ids *ids,
                         esp_error *err) {
    if (in->n_ids == 0)
        return esp_fail_field(err, ESP_INVALID, "token_ids", "token_ids: empty; wanted some ids");
    if (in->n_ids > model->context_max) return too_long(model, in->n_ids, "token_ids", err);
    ids->count = ids->capacity = (uint32_t)in->n_ids;
    ids->at = mem_new(ids->count, sizeof *ids->at);
    memcpy(ids->at, in->ids, ids->count * sizeof *ids->at);
    return ESP_OK;
}

/* The template writes the special tokens itself; those inside contents stay text. */
static esp_code read_chat(const served_model *model, const Espalier__V1__ChatInput *in,
                          tok_ids *ids, esp_error *err) {
    if (!model->chat)
        return esp_fail_field(
            err, ESP_UNIMPLEMENTED, "chat", "chat: %.300s; send a prompt or token_ids",
            model->chat_why && model->chat_why->message[0] ? model->chat_why->message
                                                           : "the model has no chat template");
    chat_prompt prompt = {0};
    esp_code code = chat_input_render(model->chat, in, &prompt, err);
    if (code != ESP_OK) return code;
    tok_encode_options options = {
        .parse_special = true, .plain = prompt.plain, .plain_count = prompt.plain_count};
    code = encode(model, prompt.text, prompt.bytes, &options, "chat", ids, err);
    chat_prompt_free(&prompt);
    return code;
}

static esp_code read_input(const served_model *model, const Espalier__V1__GenerateRequest *in,
                           tok_ids *ids, esp_error *err) {
    switch (in->input_case) {
    case INPUT(PROMPT):
        return read_prompt(model, in->prompt, ids, err);
    case INPUT(TOKEN_IDS):
        return read_ids(model, in->token_ids, ids, err);
    case INPUT(CHAT):
        return read_chat(model, in->chat, ids, err);
    default:
        return esp_fail_field(err, ESP_INVALID, "input",
                              "input: missing; wanted one of prompt, token_ids and chat");
    }
}

/* ---- limits and sampling ---- */

static esp_code read_output_max(const served_model *model, const Espalier__V1__GenerateRequest *in,
                                uint32_t prompt_count, uint32_t *out, esp_error *err) {
    if (prompt_count == 0)
        return esp_fail_field(err, ESP_INVALID, "input", "input: no tokens; wanted at least 1");
    if (prompt_count >= model->context_max) return too_long(model, prompt_count, "input", err);
    uint32_t room = model->context_max - prompt_count;
    *out = room < OUTPUT_TOKENS_DEFAULT ? room : OUTPUT_TOKENS_DEFAULT;
    if (in->_max_tokens_case != ESPALIER__V1__GENERATE_REQUEST___MAX_TOKENS_MAX_TOKENS)
        return ESP_OK;
    *out = in->max_tokens;
    if (*out >= 1 && *out <= room) return ESP_OK;
    return esp_fail_field(
        err, ESP_INVALID, "max_tokens",
        "max_tokens: %u; after a prompt of %u tokens 1 to %u fit into the context "
        "of %u",
        *out, prompt_count, room, model->context_max);
}

static uint64_t draw_seed(void) {
    uint64_t seed;
    ssize_t got = getrandom(&seed, sizeof seed, 0);
    ESP_ASSERT(got == sizeof seed);
    return seed;
}

/* A map on the wire is a list of entries; of equal keys the last one counts. Returns a list to be
 * freed. */
static sample_bias *read_bias(const Espalier__V1__Sampling *in, uint32_t *count) {
    size_t most = in->n_logit_bias;
    sample_bias *list = mem_new(most ? most : 1, sizeof *list);
    *count = 0;
    for (size_t i = 0; i < most; i++) {
        const Espalier__V1__Sampling__LogitBiasEntry *entry = in->logit_bias[i];
        uint32_t at = 0;
        while (at < *count && list[at].id != entry->key)
            at++;
        list[at] = (sample_bias){.id = entry->key, .bias = entry->value};
        if (at == *count) ++*count;
    }
    return list;
}

static void read_sampling(const Espalier__V1__Sampling *in, sample_policy *out) {
    out->temperature = in->temperature;
    out->top_k = in->top_k;
    out->top_p = in->top_p;
    out->min_p = in->min_p;
    out->repetition_penalty = in->repetition_penalty;
    out->presence_penalty = in->presence_penalty;
    out->frequency_penalty = in->frequency_penalty;
    if (in->_seed_case == ESPALIER__V1__SAMPLING___SEED_SEED) out->seed = in->seed;
}

/* Bounds on lists, before anything is copied or compared. */
static esp_code check_lists(const Espalier__V1__GenerateRequest *in, esp_error *err) {
    if (in->n_stop > SAMPLE_STOP_MAX)
        return esp_fail_field(err, ESP_INVALID, "stop", "stop: %zu strings; at most %d are taken",
                              in->n_stop, SAMPLE_STOP_MAX);
    if (in->sampling && in->sampling->n_logit_bias > SAMPLE_BIAS_MAX)
        return esp_fail_field(err, ESP_INVALID, "logit_bias",
                              "logit_bias: %zu entries; at most %d are taken",
                              in->sampling->n_logit_bias, SAMPLE_BIAS_MAX);
    if (in->priority < -PRIORITY_MAX || in->priority > PRIORITY_MAX)
        return esp_fail_field(err, ESP_INVALID, "priority", "priority: %d; wanted %d to %d",
                              in->priority, -PRIORITY_MAX, PRIORITY_MAX);
    return ESP_OK;
}

static esp_code make_request(const served_model *model, const Espalier__V1__GenerateRequest *in,
                             request_options *o, request **out, esp_error *err) {
    tok_text stops[SAMPLE_STOP_MAX];
    sample_bias *bias = NULL;
    for (size_t i = 0; i < in->n_stop; i++)
        stops[i] = (tok_text){in->stop[i], strlen(in->stop[i])};
    o->stop = stops;
    o->stop_count = (uint32_t)in->n_stop;
    o->ignore_eos = in->ignore_eos;
    o->priority = in->priority;
    o->policy = (sample_policy){.seed = draw_seed(),
                                .logprobs = in->logprobs || in->top_logprobs > 0,
                                .top_logprobs = in->top_logprobs};
    if (in->sampling) {
        read_sampling(in->sampling, &o->policy);
        bias = read_bias(in->sampling, &o->policy.bias_count);
        o->policy.bias = bias;
    }
    esp_code code = request_new(out, o, model->vocab, err);
    free(bias);
    return code;
}

esp_code generate_input(const served_model *served, const Espalier__V1__GenerateRequest *in,
                        int64_t deadline_us, void *user, request **out, esp_error *err) {
    tok_ids ids = {0};
    served_model own = *served, *model = &own;
    request_options o = {.deadline_us = deadline_us,
                         .user = user,
                         .adapters = model->adapters,
                         .row_digests = model->recorded};
    *out = NULL;
    esp_code code = find_model(model, in->model, &o.adapter, err);
    if (code == ESP_OK) code = check_generates(model, err);
    if (code == ESP_OK) code = check_lists(in, err);
    if (code == ESP_OK) code = find_words(model, o.adapter, err);
    if (code == ESP_OK) code = read_input(model, in, &ids, err);
    if (code == ESP_OK) code = read_output_max(model, in, ids.count, &o.output_max, err);
    if (code == ESP_OK) {
        o.prompt = ids.at;
        o.prompt_count = ids.count;
        code = make_request(model, in, &o, out, err);
    }
    tok_ids_free(&ids);
    if (code != ESP_OK) adapter_release(model->adapters, o.adapter);
    return code;
}
