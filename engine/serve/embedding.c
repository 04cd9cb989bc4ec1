/* embedding.c - inputs to requests, their vectors to one answer; the picture is in embedding.h. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/embedding.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/class_scores.h"
#include "engine/embed_text.h"
#include "engine/serve/generate_input.h"

typedef struct embedding_call {
    generations *all;
    rpc_call *call; /* held */
    _Atomic uint32_t references;

    adapter *classifier;  /* held: whose labels are scored; NULL: vectors are wanted */
    pthread_mutex_t lock; /* everything below */
    bool closed, finished;
    uint32_t count;     /* inputs */
    uint32_t submitted; /* the first of requests; one more may be by now */
    uint32_t done;      /* of those submitted */
    request **requests; /* [count] ours; a submitted one is constant */
} embedding_call;

/* ---- lifetime ---- */

static embedding_call *make(generations *all, rpc_call *call, uint32_t count) {
    embedding_call *c = mem_new(1, sizeof *c);
    c->all = all;
    c->call = call;
    c->count = count;
    c->requests = mem_new(count ? count : 1, sizeof(request *));
    rpc_call_hold(call);
    atomic_init(&c->references, 1);
    pthread_mutex_init(&c->lock, NULL);
    generations_enter(all);
    return c;
}

static void hold(embedding_call *c) { atomic_fetch_add(&c->references, 1); }

static void release(embedding_call *c) {
    if (atomic_fetch_sub_explicit(&c->references, 1, memory_order_acq_rel) != 1) return;
    for (uint32_t i = 0; i < c->count; i++)
        request_unref(c->requests[i]);
    free(c->requests);
    adapter_release(engine_adapters(generations_engine(c->all)), c->classifier);
    rpc_call_release(c->call);
    pthread_mutex_destroy(&c->lock);
    generations_leave(c->all);
    free(c);
}

/* ---- the answer; under the call's lock ---- */

static void send_vectors(const embedding_call *c) {
    const engine *e = generations_engine(c->all);
    Espalier__V1__EmbedResponse answer = ESPALIER__V1__EMBED_RESPONSE__INIT;
    Espalier__V1__Usage usage = ESPALIER__V1__USAGE__INIT;
    Espalier__V1__Embedding *list = mem_new(c->count, sizeof *list);
    answer.embeddings = mem_new(c->count, sizeof *answer.embeddings);
    answer.n_embeddings = c->count;
    for (uint32_t i = 0; i < c->count; i++) {
        const request *r = c->requests[i];
        espalier__v1__embedding__init(&list[i]);
        list[i].n_values = r->embedding_width;
        list[i].values = r->embedding;
        list[i].tokens = r->prompt_count;
        answer.embeddings[i] = &list[i];
        usage.prompt_tokens += r->prompt_count;
    }
    answer.usage = &usage;
    answer.numeric_profile = (char *)(uintptr_t)engine_profile(e);
    answer.model = (char *)(uintptr_t)engine_name(e);
    char label[REQUEST_ADAPTER_LABEL_BYTES]; /* all requests have one adapter */
    answer.adapter = (char *)(uintptr_t)request_adapter_label(&c->requests[0]->by, label);
    answer.adapter_digest = c->requests[0]->by.digest;
    rpc_finish(c->call, &answer.base, NULL);
    free(answer.embeddings);
    free(list);
}

static void fill_classification(Espalier__V1__Classification *out, const request *r,
                                float *scores) {
    espalier__v1__classification__init(out);
    out->label = class_scores(r->embedding, r->embedding_width, scores);
    out->n_logits = out->n_scores = r->embedding_width;
    out->logits = r->embedding;
    out->scores = scores;
    out->tokens = r->prompt_count;
}

static void send_scores(const embedding_call *c) {
    const engine *e = generations_engine(c->all);
    Espalier__V1__ClassifyResponse answer = ESPALIER__V1__CLASSIFY_RESPONSE__INIT;
    Espalier__V1__Usage usage = ESPALIER__V1__USAGE__INIT;
    uint32_t labels = adapter_label_count(c->classifier);
    Espalier__V1__Classification *list = mem_new(c->count, sizeof *list);
    float *scores = mem_new((size_t)c->count * labels, sizeof *scores);
    answer.results = mem_new(c->count, sizeof *answer.results);
    answer.n_results = c->count;
    for (uint32_t i = 0; i < c->count; i++) {
        fill_classification(&list[i], c->requests[i], scores + (size_t)i * labels);
        answer.results[i] = &list[i];
        usage.prompt_tokens += c->requests[i]->prompt_count;
    }
    answer.n_labels = labels;
    answer.labels = (char **)(uintptr_t)adapter_labels(c->classifier);
    answer.usage = &usage;
    answer.numeric_profile = (char *)(uintptr_t)engine_profile(e);
    answer.model = (char *)(uintptr_t)engine_name(e);
    char label[REQUEST_ADAPTER_LABEL_BYTES];
    answer.adapter = (char *)(uintptr_t)request_adapter_label(&c->requests[0]->by, label);
    answer.adapter_digest = c->requests[0]->by.digest;
    rpc_finish(c->call, &answer.base, NULL);
    free(answer.results);
    free(scores);
    free(list);
}

/* All requests are done: their vectors, or what befell the first that has none. */
static void finish(embedding_call *c) {
    c->finished = true;
    for (uint32_t i = 0; i < c->count; i++) {
        if (c->requests[i]->finish == FINISH_STOP) continue;
        esp_error error;
        generations_explain(c->all, c->requests[i], &error);
        rpc_finish(c->call, NULL, &error);
        return;
    }
    (c->classifier ? send_scores : send_vectors)(c);
}

/* ---- events ---- */

static void cancel_submitted(embedding_call *c) {
    pthread_mutex_lock(&c->lock);
    uint32_t count = c->submitted;
    pthread_mutex_unlock(&c->lock);
    for (uint32_t i = 0; i < count; i++)
        replicas_cancel(generations_replicas(c->all), c->requests[i]);
}

static void on_event(void *user, rpc_call *call, rpc_event event) {
    embedding_call *c = user;
    (void)call;
    if (event != RPC_CLOSED) return;
    pthread_mutex_lock(&c->lock);
    c->closed = true; /* nothing more is submitted */
    pthread_mutex_unlock(&c->lock);
    cancel_submitted(c);
    release(c);
}

void embedding_take_news(request *r) {
    embedding_call *c = r->user;
    if (!c || !engine_told_end(r)) return;
    r->user = NULL; /* its end was seen; only this thread follows it */
    generations_count(c->all, r);
    pthread_mutex_lock(&c->lock);
    if (++c->done == c->count && !c->finished) finish(c);
    pthread_mutex_unlock(&c->lock);
    release(c);
}

/* ---- the inputs ---- */

static esp_code check_count(size_t row_bytes, size_t count, esp_error *err) {
    size_t most = EMBED_ANSWER_BYTES_MAX / row_bytes;
    if (most > EMBED_INPUTS_MAX) most = EMBED_INPUTS_MAX;
    if (count >= 1 && count <= most) return ESP_OK;
    return esp_fail_field(err, ESP_INVALID, "inputs",
                          "inputs: %zu; wanted 1 to %zu, each with a vector of %zu bytes in the "
                          "answer",
                          count, most, row_bytes);
}

static esp_code check_priority(const Espalier__V1__EmbedRequest *in, esp_error *err) {
    if (in->priority >= -PRIORITY_MAX && in->priority <= PRIORITY_MAX) return ESP_OK;
    return esp_fail_field(err, ESP_INVALID, "priority", "priority: %d; wanted %d to %d",
                          in->priority, -PRIORITY_MAX, PRIORITY_MAX);
}

static esp_code check_request(const engine *e, const Espalier__V1__EmbedRequest *in,
                              esp_error *err) {
    if (!engine_embeds(e))
        return esp_fail_field(err, ESP_PRECONDITION, "model",
                              "model: \"%.100s\" generates text and embeds none; use Generate",
                              engine_name(e));
    esp_code code = check_priority(in, err);
    if (code != ESP_OK) return code;
    return check_count((size_t)engine_spec(e)->hidden * sizeof(float), in->n_inputs, err);
}

static esp_code copy_ids(const engine *e, const Espalier__V1__TokenIds *in, const char *field,
                         tok_ids *out, esp_error *err) {
    if (in->n_ids == 0 || in->n_ids > engine_context_max(e))
        return esp_fail_field(err, ESP_INVALID, field,
                              "%s: %zu ids; the model takes 1 to %u (--max-context)", field,
                              in->n_ids, engine_context_max(e));
    out->count = out->capacity = (uint32_t)in->n_ids;
    out->at = mem_new(out->count, sizeof *out->at);
    memcpy(out->at, in->ids, out->count * sizeof *out->at);
    return ESP_OK;
}

static esp_code read_input(const engine *e, const tokenizer *tok,
                           const Espalier__V1__EmbedRequest *in, uint32_t index, tok_ids *out,
                           esp_error *err) {
    const Espalier__V1__EmbedInput *input = in->inputs[index];
    char field[40];
    if (input->input_case == ESPALIER__V1__EMBED_INPUT__INPUT_TOKEN_IDS) {
        snprintf(field, sizeof field, "inputs[%u].token_ids", index);
        return copy_ids(e, input->token_ids, field, out, err);
    }
    snprintf(field, sizeof field, "inputs[%u].text", index);
    if (input->input_case != ESPALIER__V1__EMBED_INPUT__INPUT_TEXT)
        return esp_fail_field(err, ESP_INVALID, field,
                              "inputs[%u]: missing; wanted one of text and token_ids", index);
    const embed_text_options options = {.tokens_max = engine_context_max(e),
                                        .truncate = in->truncate,
                                        .field = field,
                                        .remedy = "truncate"};
    return embed_text_encode(tok, (tok_text){input->text, strlen(input->text)}, &options, out, err);
}

/* Every input's request has a reference of its own on the content that the call found, or on the same read anew: one
 * answer's scores are all of one content, whose labels it has. */
static esp_code find_classifier(const embedding_call *c, adapter **out, esp_error *err) {
    adapters *all = engine_adapters(generations_engine(c->all));
    esp_code code = adapters_find_content(all, adapter_name(c->classifier),
                                          adapter_content(c->classifier), out, err);
    if (code == ESP_OK) code = adapters_read_same_words(all, *out, c->classifier, err);
    if (code == ESP_OK) return ESP_OK;
    adapter_release(all, *out);
    *out = NULL;
    return code;
}

/* The version that the first input got is that of all others. */
static esp_code find_adapter(const embedding_call *c, const Espalier__V1__EmbedRequest *in,
                             uint32_t index, adapter **out, esp_error *err) {
    const engine *e = generations_engine(c->all);
    served_model here = {.name = engine_name(e),
                         .adapters = engine_adapters(e),
                         .several = replicas_count(generations_replicas(c->all)) > 1};
    char label[REQUEST_ADAPTER_LABEL_BYTES];
    const char *asked = in->model;
    if (c->classifier) return find_classifier(c, out, err);
    if (index > 0) asked = request_adapter_label(&c->requests[0]->by, label);
    return find_model(&here, asked, out, err);
}

/* The index-th input as a request of the engine. */
static esp_code make_request(embedding_call *c, const Espalier__V1__EmbedRequest *in,
                             uint32_t index, esp_error *err) {
    const engine *e = generations_engine(c->all);
    served_model words = {
        .adapters = engine_adapters(e), .tok = engine_tokenizer(e), .vocab = engine_spec(e)->vocab};
    adapter *through = NULL;
    tok_ids ids = {0};
    esp_code code = find_adapter(c, in, index, &through, err);
    if (code == ESP_OK) code = find_words(&words, through, err);
    if (code == ESP_OK) code = read_input(e, words.tok, in, index, &ids, err);
    if (code == ESP_OK) {
        request_options o = {.prompt = ids.at,
                             .prompt_count = ids.count,
                             .adapters = engine_adapters(e),
                             .adapter = through,
                             .embedding_width = c->classifier ? adapter_label_count(c->classifier)
                                                              : engine_spec(e)->hidden,
                             .classifies = c->classifier != NULL,
                             .priority = in->priority,
                             .deadline_us = rpc_call_deadline_us(c->call),
                             .user = c};
        code = request_new(&c->requests[index], &o, words.vocab, err);
    }
    tok_ids_free(&ids);
    if (code == ESP_OK)
        c->requests[index]->submitted_us = rpc_call_arrived_us(c->call);
    else
        adapter_release(engine_adapters(e), through);
    return code;
}

static bool is_closed(embedding_call *c) {
    pthread_mutex_lock(&c->lock);
    bool closed = c->closed;
    pthread_mutex_unlock(&c->lock);
    return closed;
}

/* From here on the end of the call finds it; true: the call has ended before. */
static bool count_submitted(embedding_call *c) {
    pthread_mutex_lock(&c->lock);
    c->submitted++;
    bool closed = c->closed;
    pthread_mutex_unlock(&c->lock);
    return closed;
}

/* Not under the lock, which the stream thread takes: a replica may have to read a classifier first. */
static esp_code submit(embedding_call *c, uint32_t index, esp_error *err) {
    replicas *to = generations_replicas(c->all);
    if (is_closed(c)) return ESP_CANCELLED;
    hold(c); /* the request's */
    esp_code code = replicas_submit(to, c->requests[index], err);
    if (code != ESP_OK)
        release(c); /* not the last: the handler holds one */
    else if (count_submitted(c))
        replicas_cancel(to, c->requests[index]);
    return code;
}

/* Every input is read before the first is submitted: what can be refused costs the engine nothing. */
static esp_code submit_all(embedding_call *c, const Espalier__V1__EmbedRequest *in,
                           esp_error *err) {
    esp_code code = ESP_OK;
    for (uint32_t i = 0; i < c->count && code == ESP_OK; i++)
        code = make_request(c, in, i, err);
    for (uint32_t i = 0; i < c->count && code == ESP_OK; i++)
        code = submit(c, i, err);
    return code;
}

/* An input could not be submitted: the others are of no use. */
static void give_up(embedding_call *c, const esp_error *error) {
    pthread_mutex_lock(&c->lock);
    bool tell = !c->finished && error->code != ESP_OK; /* ESP_OK: the client left */
    c->finished = true;
    pthread_mutex_unlock(&c->lock);
    cancel_submitted(c);
    if (tell) rpc_finish(c->call, NULL, error);
}

/* classifier: a reference that the call takes over, or NULL. */
static void start(generations *all, rpc_call *call, const Espalier__V1__EmbedRequest *in,
                  adapter *classifier) {
    esp_error error = {0};
    embedding_call *c = make(all, call, (uint32_t)in->n_inputs);
    c->classifier = classifier;
    hold(c); /* the call's, until RPC_CLOSED */
    if (!rpc_call_attach(call, on_event, c)) {
        release(c);
        release(c);
        return;
    }
    if (submit_all(c, in, &error) != ESP_OK) give_up(c, &error);
    release(c);
}

void embedding_start(generations *all, rpc_call *call, const Espalier__V1__EmbedRequest *in) {
    esp_error error = {0};
    if (check_request(generations_engine(all), in, &error) == ESP_OK)
        start(all, call, in, NULL);
    else
        rpc_finish(call, NULL, &error);
}

/* ---- classifiers ---- */

static esp_code check_classifier(const adapter *ad, const Espalier__V1__EmbedRequest *in,
                                 esp_error *err) {
    uint32_t labels = ad ? adapter_label_count(ad) : 0;
    if (labels == 0)
        return esp_fail_field(err, ESP_PRECONDITION, "model",
                              "model: \"%.100s\" has no score head and classifies nothing; wanted "
                              "an adapter that was trained as SEQ_CLS",
                              in->model);
    esp_code code = check_priority(in, err);
    return code == ESP_OK ? check_count((size_t)labels * 2 * sizeof(float), in->n_inputs, err)
                          : code;
}

/* Its labels are read now where it is only a name of the store: how many it has is not known before. */
static esp_code open_classifier(const engine *e, const Espalier__V1__EmbedRequest *in,
                                adapter **out, esp_error *err) {
    served_model here = {.name = engine_name(e), .adapters = engine_adapters(e)};
    esp_code code = find_model(&here, in->model, out, err);
    if (code == ESP_OK && *out) code = adapters_read_words(engine_adapters(e), *out, err);
    return code == ESP_OK ? check_classifier(*out, in, err) : code;
}

void classification_start(generations *all, rpc_call *call,
                          const Espalier__V1__ClassifyRequest *in) {
    const engine *e = generations_engine(all);
    Espalier__V1__EmbedRequest same = ESPALIER__V1__EMBED_REQUEST__INIT;
    adapter *classifier = NULL;
    esp_error error = {0};
    same.model = in->model;
    same.n_inputs = in->n_inputs;
    same.inputs = in->inputs;
    same.truncate = in->truncate;
    same.priority = in->priority;
    if (open_classifier(e, &same, &classifier, &error) == ESP_OK) {
        start(all, call, &same, classifier);
        return;
    }
    adapter_release(engine_adapters(e), classifier);
    rpc_finish(call, NULL, &error);
}
