/* sample_policy.c - which sampling fields are refused, and with which sentence. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/sample.h"

typedef struct range {
    const char *field;
    double value, least, most;
    bool open;        /* least itself is refused */
    bool zero_is_off; /* 0 is taken as "not given" */
} range;

/* Written so that NaN, for which every comparison is false, is refused. */
static esp_code check_range(const range *r, esp_error *err) {
    if (r->zero_is_off && r->value == 0) return ESP_OK;
    if ((r->open ? r->value > r->least : r->value >= r->least) && r->value <= r->most)
        return ESP_OK;
    return esp_fail_field(err, ESP_INVALID, r->field,
                          "%s is %g; wanted a number %s %g and at most %g", r->field, r->value,
                          r->open ? "above" : "of at least", r->least, r->most);
}

static esp_code check_bias(const sample_policy *p, uint32_t vocab, esp_error *err) {
    const char *field = "logit_bias";
    if (p->bias_count > SAMPLE_BIAS_MAX)
        return esp_fail_field(err, ESP_INVALID, field, "%s has %u entries; at most %d are taken",
                              field, p->bias_count, SAMPLE_BIAS_MAX);
    for (uint32_t i = 0; i < p->bias_count; i++) {
        const sample_bias *b = &p->bias[i];
        if (b->id < 0 || (uint32_t)b->id >= vocab)
            return esp_fail_field(err, ESP_INVALID, field, "%s names token id %d; wanted 0 to %u",
                                  field, b->id, vocab - 1);
        range r = {.field = field, .value = (double)b->bias, .least = -100, .most = 100};
        esp_code code = check_range(&r, err);
        if (code != ESP_OK) return code;
    }
    return ESP_OK;
}

esp_code sample_policy_check(const sample_policy *p, uint32_t vocab, esp_error *err) {
    ESP_ASSERT(p && vocab > 0 && (p->bias || p->bias_count == 0));
    const range ranges[] = {
        {"temperature", (double)p->temperature, 0, 10, false, false},
        {"top_p", (double)p->top_p, 0, 1, true, true},
        {"min_p", (double)p->min_p, 0, 1, false, false},
        {"repetition_penalty", (double)p->repetition_penalty, 0, 10, true, true},
        {"presence_penalty", (double)p->presence_penalty, -2, 2, false, false},
        {"frequency_penalty", (double)p->frequency_penalty, -2, 2, false, false},
    };
    for (uint32_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        esp_code code = check_range(&ranges[i], err);
        if (code != ESP_OK) return code;
    }
    if (p->top_logprobs > SAMPLE_LOGPROBS_MAX)
        return esp_fail_field(err, ESP_INVALID, "top_logprobs",
                              "top_logprobs is %u; at most %d are given", p->top_logprobs,
                              SAMPLE_LOGPROBS_MAX);
    return check_bias(p, vocab, err);
}
