/* generate_input.h - espalier.v1.GenerateRequest -> request, with every limit checked. No server
 * needed.
 *
 * Thread  any: it reads only constant parts of the engine. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_GENERATE_INPUT_H
#define ESPALIER_GENERATE_INPUT_H

#include "engine/request.h"
#include "engine/text/template.h"
#include "espalier/v1/inference.pb-c.h"

enum {
    OUTPUT_TOKENS_DEFAULT = 512, /* when max_tokens is left out */
    PRIORITY_MAX = 100,          /* and -100 */
};

/* What a served model allows. */
typedef struct served_model {
    const char *name;   /* of the base */
    adapters *adapters; /* served beside it, or NULL */
    bool several;       /* there are others with them: what is broken here is theirs to judge */
    const tokenizer *tok;
    const chat_template *chat; /* or NULL and chat_why says why */
    const esp_error *chat_why;
    uint32_t context_max;
    uint32_t vocab;
    bool embeds;   /* it generates nothing */
    bool recorded; /* requests keep the digests of their logits */
} served_model;

/* A reference on the adapter of that name; NULL for the base, whose name may be left out (""). ESP_NOT_FOUND
 * naming what was asked for and some of what is served. */
ESP_CHECKED esp_code find_model(const served_model *model, const char *asked, adapter **out,
                                esp_error *err);

/* Makes tok and vocab those of an adapter that find_model gave, if it has its own; they are read for that where they
 * were not. ad NULL: the base's stay. ESP_PRECONDITION: its files are no good. */
ESP_CHECKED esp_code find_words(served_model *model, adapter *ad, esp_error *err);

/* The request has one reference, the caller's, and user as its user. deadline_us as in request.h.
 */
ESP_CHECKED esp_code generate_input(const served_model *model,
                                    const Espalier__V1__GenerateRequest *in, int64_t deadline_us,
                                    void *user, request **out, esp_error *err);

#endif
