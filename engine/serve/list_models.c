/* list_models.c - espalier.v1.Inference/ListModels: the base, and the adapters on it. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/serve/serve_parts.h"
#include "espalier/v1/inference.pb-c.h"

enum {
    MODELS_MAX = 8192
}; /* of an answer: it stays below the 4 MiB that clients take by default */

/* protobuf-c's strings are not const; the library only reads them. */
static char *text(const char *constant) { return (char *)(uintptr_t)constant; }

/* What all have in common is the base's. */
static Espalier__V1__Model describe_base(const engine *e) {
    Espalier__V1__Model out = ESPALIER__V1__MODEL__INIT;
    const esp_error *why;
    out.name = text(engine_name(e));
    out.context_tokens = engine_context_max(e);
    out.vocabulary = tok_count(engine_tokenizer(e));
    out.numeric_profile = text(engine_profile(e));
    out.chat = engine_template(e, &why) != NULL;
    out.digest = text(engine_digest(e));
    if (engine_embeds(e)) out.embedding_width = engine_spec(e)->hidden;
    return out;
}

static bool is_served(const adapter_info *info) {
    return info->state == ADAPTER_LISTED || info->state == ADAPTER_READY;
}

/* A version that the bare name does not mean is named with its number. */
static void set_name(Espalier__V1__Model *out, const adapter_info *info,
                     char label[REQUEST_ADAPTER_LABEL_BYTES]) {
    if (info->current)
        snprintf(label, REQUEST_ADAPTER_LABEL_BYTES, "%s", info->name);
    else
        snprintf(label, REQUEST_ADAPTER_LABEL_BYTES, "%s@%u", info->name, info->version);
    out->name = label;
    out->digest = text(info->digest);
}

typedef struct listing {
    Espalier__V1__Model models[MODELS_MAX], *pointers[MODELS_MAX];
    char labels[MODELS_MAX][REQUEST_ADAPTER_LABEL_BYTES];
    size_t count;
} listing;

static void add(listing *l, const Espalier__V1__Model *one) {
    l->models[l->count] = *one;
    l->pointers[l->count] = &l->models[l->count];
    l->count++;
}

static void add_adapters(listing *l, const adapter_info *infos, size_t count) {
    for (size_t i = 0; i < count && l->count < MODELS_MAX; i++) {
        if (!is_served(&infos[i])) continue;
        Espalier__V1__Model one = l->models[0];
        one.parent = one.name;
        if (infos[i].vocab) one.vocabulary = infos[i].vocab;
        set_name(&one, &infos[i], l->labels[l->count]);
        add(l, &one);
    }
}

void inference_list_models(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    const serve *s = arg;
    (void)message;
    adapter_info *infos = NULL;
    size_t count = 0;
    adapter_group *all = replicas_adapters(s->replicas);
    if (all) group_list(all, &infos, &count);
    listing *l = mem_new(1, sizeof *l);
    Espalier__V1__Model base = describe_base(s->engine);
    add(l, &base);
    add_adapters(l, infos, count);
    Espalier__V1__ListModelsResponse answer = ESPALIER__V1__LIST_MODELS_RESPONSE__INIT;
    answer.n_models = l->count;
    answer.models = l->pointers;
    rpc_finish(call, &answer.base, NULL);
    free(l);
    free(infos);
}
