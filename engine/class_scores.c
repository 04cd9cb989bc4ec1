/* class_scores.c - softmax in double: what a caller holds a threshold against. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/class_scores.h"

#include <math.h>

#include "engine/base/status.h"

uint32_t class_scores(const float *logits, uint32_t count, float *scores) {
    ESP_ASSERT(count > 0);
    uint32_t best = 0;
    double sum = 0;
    for (uint32_t i = 1; i < count; i++)
        if (logits[i] > logits[best]) best = i;
    if (count == 1) {
        scores[0] = (float)(1 / (1 + exp(-(double)logits[0])));
        return 0;
    }
    for (uint32_t i = 0; i < count; i++)
        sum += exp((double)logits[i] - (double)logits[best]);
    for (uint32_t i = 0; i < count; i++)
        scores[i] = (float)(exp((double)logits[i] - (double)logits[best]) / sum);
    return best;
}
