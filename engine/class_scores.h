/* class_scores.h - logits of labels -> scores. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CLASS_SCORES_H
#define ESPALIER_CLASS_SCORES_H

#include <stdint.h>

/* scores[count]: the softmax of finite logits, or the sigmoid of a single one. Returns the index of the
 * highest logit, of equal ones the first. */
uint32_t class_scores(const float *logits, uint32_t count, float *scores);

#endif
