/* sample.c - one token out of one row of logits, in the order that sample.h gives.
 *
 * top-k, top-p and min-p each keep a head of the tokens ordered by score (ties by lower id). So
 * nothing is ever sorted whole: a bounded heap finds the top k; otherwise every token too light to
 * be in the head is left out first; then a heap of the rest is popped until the head is complete. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/sample.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sample_math.h"

typedef struct candidate {
    float score;  /* logit after bias and penalties */
    float weight; /* exp((score - best) / temperature): 1 for the best */
    int32_t id;
} candidate;

struct sample_scratch {
    uint32_t vocab, vocab_max;
    float *scores;    /* [vocab] */
    float *weights;   /* [vocab] */
    double *sums;     /* [sample_blocks(vocab)] of the weights */
    candidate *heap;  /* [vocab] */
    uint32_t *counts; /* [vocab] all 0 between picks */
    int32_t *touched; /* [vocab] ids whose count is not 0 */
    uint32_t touched_count;
};

esp_code sample_scratch_open(sample_scratch **out, uint32_t vocab, esp_error *err) {
    ESP_ASSERT(out && vocab > 0);
    sample_scratch *s = calloc(1, sizeof *s);
    if (s) {
        s->vocab = s->vocab_max = vocab;
        s->scores = calloc(vocab, sizeof *s->scores);
        s->weights = calloc(vocab, sizeof *s->weights);
        s->sums = calloc(sample_blocks(vocab), sizeof *s->sums);
        s->heap = calloc(vocab, sizeof *s->heap);
        s->counts = calloc(vocab, sizeof *s->counts);
        s->touched = calloc(vocab, sizeof *s->touched);
    }
    if (!s || !s->scores || !s->weights || !s->sums || !s->heap || !s->counts || !s->touched) {
        sample_scratch_close(s);
        return esp_fail(err, ESP_EXHAUSTED, "sampling: no memory for a vocabulary of %u tokens",
                        vocab);
    }
    *out = s;
    return ESP_OK;
}

void sample_scratch_fit(sample_scratch *s, uint32_t vocab) {
    ESP_ASSERT(vocab > 0 && vocab <= s->vocab_max);
    s->vocab = vocab;
}

void sample_scratch_close(sample_scratch *s) {
    if (!s) return;
    free(s->scores);
    free(s->weights);
    free(s->sums);
    free(s->heap);
    free(s->counts);
    free(s->touched);
    free(s);
}

/* ---- bias and penalties ---- */

/* No penalty makes a finite score infinite. */
static float clamped(float score) { return fminf(fmaxf(score, -FLT_MAX), FLT_MAX); }

static void add_bias(const sample_policy *policy, float *scores) {
    for (uint32_t i = 0; i < policy->bias_count; i++) {
        float *score = &scores[policy->bias[i].id];
        if (sample_finite(*score)) *score = clamped(*score + policy->bias[i].bias);
    }
}

static void count_tokens(sample_scratch *s, const int32_t *tokens, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        ESP_ASSERT(tokens[i] >= 0 && (uint32_t)tokens[i] < s->vocab);
        if (s->counts[tokens[i]]++ == 0) s->touched[s->touched_count++] = tokens[i];
    }
}

static void forget_tokens(sample_scratch *s) {
    for (uint32_t i = 0; i < s->touched_count; i++)
        s->counts[s->touched[i]] = 0;
    s->touched_count = 0;
}

/* arXiv:1909.05858, section 4.1, with the sign of the logit respected. */
static void penalise_repetition(sample_scratch *s, const sample_history *h, float penalty) {
    count_tokens(s, h->tokens, h->count);
    for (uint32_t i = 0; i < s->touched_count; i++) {
        float *score = &s->scores[s->touched[i]];
        if (sample_finite(*score))
            *score = clamped(*score > 0 ? *score / penalty : *score * penalty);
    }
    forget_tokens(s);
}

static void penalise_output(sample_scratch *s, const sample_history *h, const sample_policy *p) {
    count_tokens(s, h->tokens + h->prompt_count, h->count - h->prompt_count);
    for (uint32_t i = 0; i < s->touched_count; i++) {
        int32_t id = s->touched[i];
        float cost = p->presence_penalty + p->frequency_penalty * (float)s->counts[id];
        if (sample_finite(s->scores[id])) s->scores[id] = clamped(s->scores[id] - cost);
    }
    forget_tokens(s);
}

/* The logits themselves when nothing changes them, else a changed copy. */
static const float *adjusted_scores(sample_scratch *s, const sample_policy *p,
                                    const sample_history *h, const float *logits) {
    bool repetition = p->repetition_penalty != 0 && p->repetition_penalty != 1;
    bool output = p->presence_penalty != 0 || p->frequency_penalty != 0;
    if (!p->bias_count && !repetition && !output) return logits;
    memcpy(s->scores, logits, s->vocab * sizeof *logits);
    add_bias(p, s->scores);
    if (repetition) penalise_repetition(s, h, p->repetition_penalty);
    if (output) penalise_output(s, h, p);
    return s->scores;
}

/* ---- heaps of candidates ---- */

static bool better(const candidate *a, const candidate *b) {
    return a->score > b->score || (a->score == b->score && a->id < b->id);
}

typedef enum heap_kind { BEST_ON_TOP, WORST_ON_TOP } heap_kind;

static void sift_down(candidate *heap, uint32_t count, uint32_t at, heap_kind kind) {
    candidate moved = heap[at];
    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        bool right =
            child + 1 < count && better(&heap[child + 1], &heap[child]) == (kind == BEST_ON_TOP);
        if (right) child++;
        if (better(&heap[child], &moved) != (kind == BEST_ON_TOP)) break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

static void heapify(candidate *heap, uint32_t count, heap_kind kind) {
    for (uint32_t i = count / 2; i-- > 0;)
        sift_down(heap, count, i, kind);
}

/* The best k finite scores, in no useful order; fewer when there are fewer. Once there are k, most
 * of the row is passed over many at a time. */
static uint32_t select_best(candidate *heap, const float *scores, uint32_t vocab, uint32_t k) {
    uint32_t count = 0;
    float bar = -INFINITY;
    for (uint32_t id = 0; (id = sample_next(scores, id, vocab, bar)) < vocab; id++) {
        if (!sample_finite(scores[id])) continue;
        candidate c = {.score = scores[id], .id = (int32_t)id};
        if (count < k) {
            heap[count++] = c;
            if (count == k) heapify(heap, k, WORST_ON_TOP);
        } else { /* an equal one has a higher id: worse */
            heap[0] = c;
            sift_down(heap, k, 0, WORST_ON_TOP);
        }
        if (count == k) bar = heap[0].score;
    }
    return count;
}

/* Moves the best of the heap behind its end: the array's tail then holds the popped ones, best
 * last. */
static const candidate *pop_best(candidate *heap, uint32_t *count) {
    candidate best = heap[0];
    heap[0] = heap[--*count];
    sift_down(heap, *count, 0, BEST_ON_TOP);
    heap[*count] = best;
    return &heap[*count];
}

/* ---- the random pick ---- */

/* Uniform in [0, 1): 53 bits of the block that belongs to (seed, position) alone. */
static double uniform(uint64_t seed, uint32_t position) {
    uint32_t counter[4] = {position}, key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, word[4];
    philox(counter, key, word);
    return (double)(((uint64_t)word[0] << 32 | word[1]) >> 11) * 0x1p-53;
}

/* The last token that weighs anything: rounding may leave the target above all sums. */
static int32_t last_of_all(const float *weights, uint32_t vocab) {
    uint32_t id = vocab;
    do
        id--;
    while (id > 0 && weights[id] == 0);
    return (int32_t)id;
}

/* From all tokens, in index order: first the block, then the token. */
static int32_t pick_from_all(const sample_scratch *s, double sum, double u) {
    double target = u * sum, passed = 0;
    uint32_t block = 0, blocks = sample_blocks(s->vocab);
    while (block < blocks && passed + s->sums[block] <= target)
        passed += s->sums[block++];
    uint32_t end = block < blocks - 1 ? (block + 1) * SAMPLE_BLOCK : s->vocab;
    for (uint32_t id = block * SAMPLE_BLOCK; id < end; id++) {
        passed += (double)s->weights[id];
        if (passed > target && s->weights[id] > 0) return (int32_t)id;
    }
    return last_of_all(s->weights, end);
}

/* Candidates for top-k, with their weights. */
static uint32_t take_top_k(sample_scratch *s, const float *scores, const sample_policy *p,
                           float best) {
    uint32_t count = select_best(s->heap, scores, s->vocab, p->top_k);
    for (uint32_t i = 0; i < count; i++) {
        candidate *c = &s->heap[i];
        sample_weights(&c->score, 1, best, p->temperature, &c->weight, NULL);
    }
    return count;
}

/* Best first, as the head is walked: an order that no way of finding the candidates changes. */
static double sum_of_weights(candidate *heap, uint32_t count) {
    double sum = 0;
    heapify(heap, count, BEST_ON_TOP);
    while (count > 0)
        sum += (double)pop_best(heap, &count)->weight;
    return sum;
}

/* Of a weight that is taken: at least `least` and min_p, and more than nothing; as what it must be
 * above. */
static float bar_below(double least, float min_p) {
    float bar = (float)least;
    if ((double)bar < least) bar = nextafterf(bar, INFINITY);
    bar = fmaxf(fmaxf(bar, min_p), FLT_TRUE_MIN);
    return nextafterf(bar, 0);
}

/* Candidates for top-p and min-p: all tokens lighter than (1 - top_p) / vocab of the sum weigh less
 * than 1 - top_p together, so the head never needs one; half of that leaves room for rounding. */
static uint32_t take_heavy(sample_scratch *s, const float *scores, const sample_policy *p,
                           double sum, float top_p) {
    float bar = bar_below(0.5 * (1.0 - (double)top_p) * sum / s->vocab, p->min_p);
    uint32_t count = 0;
    for (uint32_t id = 0; (id = sample_next(s->weights, id, s->vocab, bar)) < s->vocab; id++)
        s->heap[count++] =
            (candidate){.score = scores[id], .weight = s->weights[id], .id = (int32_t)id};
    return count;
}

/* Pops the head that top-p and min-p keep, then picks from it, best first. */
static int32_t pick_from_head(candidate *heap, uint32_t count, double mass, float min_p, double u) {
    heapify(heap, count, BEST_ON_TOP);
    uint32_t end = count;
    double kept = 0;
    while (count > 0 && kept < mass) {
        if (heap[0].weight == 0 || heap[0].weight < min_p) break;
        kept += (double)pop_best(heap, &count)->weight;
    }
    double target = u * kept, passed = 0;
    uint32_t i = end;
    do
        passed += (double)heap[--i].weight;
    while (passed <= target && i > count);
    return heap[i].id;
}

static int32_t pick_random(sample_scratch *s, const sample_policy *p, const float *scores,
                           float best, double u) {
    float top_p = p->top_p == 0 ? 1 : p->top_p;
    bool top_k = p->top_k > 0 && p->top_k < s->vocab;
    double sum = 0;
    uint32_t count;
    if (top_k) {
        count = take_top_k(s, scores, p, best);
        if (top_p != 1) sum = sum_of_weights(s->heap, count);
    } else {
        sum = sample_weights(scores, s->vocab, best, p->temperature, s->weights, s->sums);
        if (top_p == 1 && p->min_p == 0) return pick_from_all(s, sum, u);
        count = take_heavy(s, scores, p, sum, top_p);
    }
    double mass = top_p == 1 ? INFINITY : (double)top_p * sum;
    return pick_from_head(s->heap, count, mass, p->min_p, u);
}

/* ---- logprobs ---- */

static void fill_logprobs(sample_scratch *s, const sample_policy *p, const float *logits,
                          float best, sample_result *out) {
    /* log softmax(x)[i] = x[i] - (max + log sum exp(x - max)) */
    double norm = (double)best + log(sample_weights(logits, s->vocab, best, 1, NULL, NULL));
    out->logprob = (float)((double)logits[out->id] - norm);
    if (p->top_logprobs == 0) return;
    uint32_t count = select_best(s->heap, logits, s->vocab, p->top_logprobs);
    heapify(s->heap, count, BEST_ON_TOP);
    out->top_count = count;
    for (uint32_t i = 0; i < out->top_count; i++) {
        const candidate *c = pop_best(s->heap, &count);
        out->top[i] = (sample_logprob){.id = c->id, .logprob = (float)((double)c->score - norm)};
    }
}

esp_code sample_pick(sample_scratch *scratch, const sample_policy *policy,
                     const sample_history *history, const float *logits, uint32_t position,
                     sample_result *out, esp_error *err) {
    ESP_ASSERT(scratch && policy && logits && out && scratch->touched_count == 0);
    memset(out, 0, sizeof *out);
    int32_t likeliest = sample_argmax(logits, scratch->vocab);
    if (likeliest < 0)
        return esp_fail(err, ESP_INTERNAL, SAMPLE_NOTHING_FINITE, position);
    const float *scores = adjusted_scores(scratch, policy, history, logits);
    out->id = scores == logits ? likeliest : sample_argmax(scores, scratch->vocab);
    if (policy->temperature > 0)
        out->id =
            pick_random(scratch, policy, scores, scores[out->id], uniform(policy->seed, position));
    if (policy->logprobs || policy->top_logprobs)
        fill_logprobs(scratch, policy, logits, logits[likeliest], out);
    return ESP_OK;
}
