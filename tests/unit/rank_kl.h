/* rank_kl.h - all rows of logits that an engine gives for a prompt, and how far one engine's are from another's. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_RANK_KL_H
#define ESPALIER_TESTS_RANK_KL_H

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/engine.h"
#include "tests/unit/divergence.h"

typedef struct rank_rows {
    float *at; /* [count, vocab] */
    uint32_t count, vocab;
} rank_rows;

static inline esp_code rank_keep_row(void *arg, uint32_t position, const float *row,
                                     esp_error *err) {
    rank_rows *r = arg;
    (void)err;
    memcpy(r->at + (size_t)position * r->vocab, row, r->vocab * sizeof *row);
    return ESP_OK;
}

/* free(out->at). */
static inline esp_code rank_read_rows(engine *e, adapter *ad, const int32_t *ids, uint32_t count,
                                      rank_rows *out, esp_error *err) {
    *out = (rank_rows){.count = count, .vocab = engine_spec(e)->vocab};
    out->at = mem_new((size_t)count * out->vocab, sizeof *out->at);
    return engine_logits(e, ad, ids, count, rank_keep_row, out, err);
}

typedef struct rank_distance {
    double mean, worst;
} rank_distance;

static inline rank_distance rank_kl(const rank_rows *a, const rank_rows *b) {
    rank_distance d = {0};
    for (uint32_t i = 0; i < a->count; i++) {
        size_t at = (size_t)i * a->vocab;
        double kl = divergence(a->at + at, b->at + at, a->vocab);
        d.mean += kl / a->count;
        d.worst = kl <= d.worst ? d.worst : kl; /* NaN wins */
    }
    return d;
}

#endif
