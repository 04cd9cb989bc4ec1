/* rope_table.c - cos and sin of every position and pair.
 *
 *   f[i] = theta^(-2i/rotary), scaled;  table[p][i] = magnitude * (cos, sin)(p * f[i])
 *
 * Frequencies and angles are rounded to float32, as the reference implementation has them; cos and
 * sin are taken in double and rounded once. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/model/weights.h"

/* What one table is made from. */
typedef struct rope_plan {
    const spec_rope *rope;
    const float *divisors; /* [pairs] or NULL */
    uint32_t rotary;
} rope_plan;

/* The pair (a real number) that turns `turns` times within the original context; arXiv:2309.00071,
 * section 3.2. */
static double pair_of_turns(const rope_plan *plan, double turns) {
    const spec_rope *rope = plan->rope;
    return plan->rotary * log(rope->original / (turns * 2 * M_PI)) / (2 * log(rope->theta));
}

/* 1 where a frequency is divided, 0 where it is kept. */
static double yarn_ramp(const rope_plan *plan, uint32_t pair) {
    double low = fmax(floor(pair_of_turns(plan, plan->rope->beta_fast)), 0);
    double high = fmin(ceil(pair_of_turns(plan, plan->rope->beta_slow)), plan->rotary - 1);
    if (low == high) high += 0.001;
    return fmin(fmax((pair - low) / (high - low), 0), 1);
}

static float frequency_of(const rope_plan *plan, uint32_t pair) {
    const spec_rope *rope = plan->rope;
    double f = pow(rope->theta, -2.0 * pair / plan->rotary);
    if (rope->scaling == SCALING_LINEAR) return (float)(f / rope->factor);
    if (rope->scaling == SCALING_YARN) {
        double ramp = yarn_ramp(plan, pair);
        return (float)(f / rope->factor * ramp + f * (1 - ramp));
    }
    return plan->divisors ? (float)(f / (double)plan->divisors[pair]) : (float)f;
}

static esp_code make_table(model *m, const rope_plan *plan, void **out, esp_error *err) {
    uint32_t pairs = plan->rotary / 2, positions = m->options.context_max;
    uint64_t count = 2ull * pairs * positions;
    ESP_ASSERT(pairs <= SPEC_PAIRS_MAX);
    esp_code code = model_take_buffer(m, count, sizeof(float), out, err);
    if (code != ESP_OK) return code;
    float *table = mem_new(count, sizeof(float)), frequencies[SPEC_PAIRS_MAX];
    for (uint32_t i = 0; i < pairs; i++)
        frequencies[i] = frequency_of(plan, i);
    for (uint32_t p = 0; p < positions; p++)
        for (uint32_t i = 0; i < pairs; i++) {
            double angle = (double)((float)p * frequencies[i]);
            float *at = table + 2 * ((size_t)p * pairs + i);
            at[0] = (float)(cos(angle) * plan->rope->magnitude);
            at[1] = (float)(sin(angle) * plan->rope->magnitude);
        }
    m->options.ops->upload(m->options.dev, *out, table, count * sizeof(float));
    free(table);
    return ESP_OK;
}

esp_code model_prepare_rope(model *m, esp_error *err) {
    const model_spec *s = &m->spec;
    const spec_rope local = {.theta = s->local_theta, .factor = 1, .magnitude = 1};
    if (s->rotary == 0) return ESP_OK;
    bool divided = s->rope.scaling == SCALING_LONGROPE || s->rope.scaling == SCALING_DIVISORS;
    rope_plan plan = {
        .rope = &s->rope, .divisors = divided ? s->rope.divisors : NULL, .rotary = s->rotary};
    esp_code code = make_table(m, &plan, &m->rope, err);
    if (code == ESP_OK && m->options.context_max > spec_short_context(s)) {
        plan.divisors = s->rope.long_divisors;
        code = make_table(m, &plan, &m->rope_long, err);
    }
    if (code == ESP_OK && s->rope_local) {
        plan = (rope_plan){.rope = &local, .rotary = s->rotary};
        code = make_table(m, &plan, &m->rope_local, err);
    }
    return code;
}
