/* cuda_sample.cu - a token out of each row of logits, by the row's policy (engine/sample.h says the order).
 *
 * In     logits [R,V] f32; row [R]: policies, with the history of penalties, biases and the mask; sampled: ids that a
 *        history names by a number below 0, as cuda_embed.cu's
 * Out    ids [R] i32 (-1: no finite logit is left); logprob [R]; top_ids, top_logprobs [R,20], best first, -1 and 0
 *        behind the last
 * Temp   for each row: scores [V] f32 (logits changed by its policy), counts [V] u32, and of blocks of 256 values
 *        the largest (f32) and the sum of weights (f64): of scores at the row's temperature, of logits at 1
 * Grid   1. change: (R) x 512, rows whose policy changes logits; the others' blocks end
 *        2. peaks: (V / 2,048, R) x 256, a warp a block of 256 values
 *        3. weigh: (V / 8,192, R) x 256, eight lanes a block; rows that need sums
 *        4. pick: (R) x 512
 *        5. tell: (R) x 512, rows that want logprobs
 * Units  weights are exp((score - best) / temperature); noise is Philox of (seed, position)
 * Cost   greedy: logits once, bandwidth bound. Random: twice more. top-k, top-p, min-p: the candidates that matter
 *        (cuda_sample_order.h)
 * Error  the id is sample_pick's, always: the same single operations in the same order (cuda_sample_math.h);
 *        logprobs |gpu - host| <= 1e-4; tests/cuda/test_cuda_sample
 * Source Philox: Salmon et al., SC 2011; top-p: arXiv:1904.09751; min-p: arXiv:2407.01082 */
// SPDX-License-Identifier: Apache-2.0
#include "cu.h"
#include "cuda_sample_order.h"
#include "kernels/cuda/cuda_launch.h"

namespace {

enum {
    WALK_THREADS = 256,
    PEAK_BLOCKS = WALK_THREADS / 32, /* a thread block's blocks of values */
    SUM_LANES = 8,                   /* a block's weights are summed in so many chains */
    WEIGH_BLOCKS = WALK_THREADS / SUM_LANES,
    KINDS = 2, /* of largest values and of sums: 0 scores, 1 logits */
    TOP = CUDA_SAMPLE_TOP,
};

struct sample_job {
    const float *logits;
    const cuda_sample_row *row;
    const int32_t *sampled;
    float *scores;    /* [R,V] */
    uint32_t *counts; /* [R,V] */
    float *largest;   /* [R,2,blocks] */
    double *sums;     /* [R,2,blocks] */
    int32_t *ids, *top_ids;
    float *logprob, *top_logprobs;
    uint32_t vocab, blocks;
};

/* ---- rows ---- */

CU_DEV bool wants_repetition(const cuda_sample_row &p) {
    return p.repetition_penalty != 0.0f && p.repetition_penalty != 1.0f;
}
CU_DEV bool wants_output(const cuda_sample_row &p) {
    return p.presence_penalty != 0.0f || p.frequency_penalty != 0.0f;
}
CU_DEV bool is_changed(const cuda_sample_row &p) {
    return p.bias_count > 0 || p.mask || wants_repetition(p) || wants_output(p);
}
CU_DEV bool wants_top_k(const sample_job &job, const cuda_sample_row &p) {
    return p.top_k > 0 && p.top_k < job.vocab;
}
CU_DEV bool wants_logprobs(const cuda_sample_row &p) { return p.logprobs || p.top_logprobs > 0; }
/* Sums of scores' weights; of logits'. */
CU_DEV bool wants_sums(const sample_job &job, const cuda_sample_row &p, uint32_t kind) {
    return kind ? wants_logprobs(p) : p.temperature > 0.0f && !wants_top_k(job, p);
}

CU_DEV const float *logits_of(const sample_job &job, uint32_t r) {
    return job.logits + (uint64_t)r * job.vocab;
}
CU_DEV float *changed_of(const sample_job &job, uint32_t r) {
    return job.scores + (uint64_t)r * job.vocab;
}
CU_DEV const float *values_of(const sample_job &job, uint32_t r, uint32_t kind) {
    return kind == 0 && is_changed(job.row[r]) ? changed_of(job, r) : logits_of(job, r);
}
CU_DEV float *largest_of(const sample_job &job, uint32_t r, uint32_t kind) {
    return job.largest + ((uint64_t)r * KINDS + kind) * job.blocks;
}
CU_DEV double *sums_of(const sample_job &job, uint32_t r, uint32_t kind) {
    return job.sums + ((uint64_t)r * KINDS + kind) * job.blocks;
}

/* ---- 1. change: mask, biases, penalties ---- */

/* No penalty makes a finite score infinite. */
CU_DEV float clamped(float score) {
    const float most = 3.402823466e+38f;
    return fminf(fmaxf(score, -most), most);
}

CU_DEV void copy_allowed(const sample_job &job, const cuda_sample_row &p, uint32_t r,
                         float *scores) {
    const float *logits = logits_of(job, r);
    for (uint32_t id = threadIdx.x; id < job.vocab; id += ORDER_THREADS) {
        const bool allowed = !p.mask || (p.mask[id / 32] >> id % 32 & 1);
        scores[id] = allowed ? logits[id] : __uint_as_float(0xff800000u);
    }
    __syncthreads();
}

/* An id may be there twice: all its biases are one thread's, in their order. */
CU_DEV void add_biases(const cuda_sample_row &p, float *scores) {
    for (uint32_t i = 0; i < p.bias_count; i++) {
        const uint32_t id = (uint32_t)p.bias[i].id;
        if (id % ORDER_THREADS != threadIdx.x || !sample_is_finite(scores[id])) continue;
        scores[id] = clamped(__fadd_rn(scores[id], p.bias[i].bias));
    }
    __syncthreads();
}

CU_DEV float repeated(const cuda_sample_row &p, float score) {
    return score > 0.0f ? __fdiv_rn(score, p.repetition_penalty)
                        : __fmul_rn(score, p.repetition_penalty);
}

CU_DEV float output_before(const cuda_sample_row &p, float score, uint32_t count) {
    const float often = __fmul_rn(p.frequency_penalty, (float)count);
    return __fsub_rn(score, __fadd_rn(p.presence_penalty, often));
}

struct token_list {
    const int32_t *ids, *sampled;
    uint32_t count;
};

CU_DEV uint32_t token_at(const token_list &list, uint32_t i) {
    const int32_t id = list.ids[i];
    return (uint32_t)(id >= 0 ? id : max(list.sampled[-1 - id], 0));
}

/* Each token of the list once, by whoever takes its count. */
CU_DEV void penalise(const cuda_sample_row &p, const token_list &list, bool repetition,
                     uint32_t *counts, float *scores) {
    for (uint32_t i = threadIdx.x; i < list.count; i += ORDER_THREADS)
        atomicExch(&counts[token_at(list, i)], 0u);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < list.count; i += ORDER_THREADS)
        atomicAdd(&counts[token_at(list, i)], 1u);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < list.count; i += ORDER_THREADS) {
        const uint32_t id = token_at(list, i);
        const uint32_t often = atomicExch(&counts[id], 0u);
        float *score = &scores[id];
        if (often == 0 || !sample_is_finite(*score)) continue;
        *score = clamped(repetition ? repeated(p, *score) : output_before(p, *score, often));
    }
    __syncthreads();
}

__global__ void __launch_bounds__(ORDER_THREADS)
    sample_change(const __grid_constant__ sample_job job) {
    const uint32_t r = blockIdx.x;
    const cuda_sample_row &p = job.row[r];
    if (!is_changed(p)) return;
    float *scores = changed_of(job, r);
    uint32_t *counts = job.counts + (uint64_t)r * job.vocab;
    copy_allowed(job, p, r, scores);
    add_biases(p, scores);
    const token_list all = {p.history, job.sampled, p.history_count};
    const token_list output = {p.history + p.prompt_count, job.sampled,
                               p.history_count - p.prompt_count};
    if (wants_repetition(p)) penalise(p, all, true, counts, scores);
    if (wants_output(p)) penalise(p, output, false, counts, scores);
}

/* ---- 2. peaks: the largest finite value of each block ---- */

CU_DEV void find_peak(const sample_job &job, const float *values, uint32_t block, float *out) {
    const float nothing = __uint_as_float(0xff800000u);
    const uint32_t end = min(job.vocab, (block + 1) * SAMPLE_BLOCK);
    float largest = nothing;
    for (uint32_t i = block * SAMPLE_BLOCK + (uint32_t)cu_lane(); i < end; i += 32) {
        const float value = values[i];
        if (sample_is_finite(value)) largest = fmaxf(largest, value);
    }
    largest = cu_warp_max(largest);
    if (cu_lane() == 0) *out = largest;
}

__global__ void __launch_bounds__(WALK_THREADS)
    sample_peaks(const __grid_constant__ sample_job job) {
    const uint32_t r = blockIdx.y, block = blockIdx.x * PEAK_BLOCKS + (uint32_t)cu_warp_id();
    if (block >= job.blocks) return;
    const cuda_sample_row &p = job.row[r];
    find_peak(job, values_of(job, r, 0), block, largest_of(job, r, 0) + block);
    if (wants_logprobs(p)) find_peak(job, logits_of(job, r), block, largest_of(job, r, 1) + block);
}

/* The largest of a row's blocks, in all threads of the block; -inf: none is finite. shared: [32]. */
CU_DEV float largest_of_row(const float *largest, uint32_t blocks, float *shared) {
    float best = __uint_as_float(0xff800000u);
    for (uint32_t i = threadIdx.x; i < blocks; i += blockDim.x)
        best = fmaxf(best, largest[i]);
    best = cu_warp_max(best);
    __syncthreads();
    if (cu_lane() == 0) shared[threadIdx.x / 32] = best;
    __syncthreads();
    for (uint32_t warp = 0; warp < blockDim.x / 32; warp++)
        best = fmaxf(best, shared[warp]);
    return best;
}

/* ---- 3. weigh: the sums of blocks of weights ---- */

/* Weight i goes to lane i mod 8, in index order; then ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7)). */
CU_DEV void sum_block(const sample_job &job, const float *values, uint32_t block, float best,
                      float temperature, double *out) {
    const uint32_t lane = threadIdx.x % SUM_LANES, first = block * SAMPLE_BLOCK;
    double sum = 0;
    if (block < job.blocks)
        for (uint32_t i = first + lane; i < min(job.vocab, first + SAMPLE_BLOCK); i += SUM_LANES)
            sum = __dadd_rn(sum, (double)sample_weight(values[i], best, temperature));
#pragma unroll
    for (int apart = SUM_LANES / 2; apart > 0; apart /= 2)
        sum = __dadd_rn(sum, __shfl_xor_sync(CU_FULL, sum, apart));
    if (lane == 0 && block < job.blocks) out[block] = sum;
}

__global__ void __launch_bounds__(WALK_THREADS)
    sample_weigh(const __grid_constant__ sample_job job) {
    CU_SHARED(float, shared, [32]);
    const uint32_t r = blockIdx.y, block = blockIdx.x * WEIGH_BLOCKS + threadIdx.x / SUM_LANES;
    const cuda_sample_row &p = job.row[r];
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        if (!wants_sums(job, p, kind)) continue;
        const float best = largest_of_row(largest_of(job, r, kind), job.blocks, shared);
        sum_block(job, values_of(job, r, kind), block, best, kind ? 1.0f : p.temperature,
                  sums_of(job, r, kind));
    }
}

/* ---- 4. pick ---- */

/* What the serial parts, of thread 0, tell the others. */
struct pick_shared {
    order_shared order;
    float warps[32];
    double passed; /* the sum so far */
    uint32_t taken, id;
    bool done;
};

/* The sums of blocks, side by side in shared memory where it holds them. All threads. */
CU_DEV const double *near_sums(const sample_job &job, pick_shared &shared, const double *sums) {
    double *near = reinterpret_cast<double *>(shared.order.found);
    if (job.blocks > ORDER_MOST) return sums;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < job.blocks; i += ORDER_THREADS)
        near[i] = sums[i];
    __syncthreads();
    return near;
}

/* Blocks one after another: by thread 0, the result in all. */
CU_DEV double sum_of_row(const sample_job &job, pick_shared &shared, const double *sums) {
    if (threadIdx.x == 0) {
        double sum = 0;
        for (uint32_t i = 0; i < job.blocks; i++)
            sum = __dadd_rn(sum, sums[i]);
        shared.passed = sum;
    }
    __syncthreads();
    const double sum = shared.passed;
    __syncthreads();
    return sum;
}

/* The lowest id of the row's largest value. */
CU_DEV uint32_t find_best(const sample_job &job, pick_shared &shared, const float *values,
                          const float *largest, float best) {
    __syncthreads();
    if (threadIdx.x == 0) shared.id = job.vocab;
    __syncthreads();
    for (uint32_t block = threadIdx.x; block < job.blocks; block += ORDER_THREADS)
        if (largest[block] == best) atomicMin(&shared.id, block * SAMPLE_BLOCK);
    __syncthreads();
    const uint32_t first = shared.id;
    __syncthreads();
    if (threadIdx.x == 0) shared.id = job.vocab;
    __syncthreads();
    const uint32_t id = first + threadIdx.x;
    if (threadIdx.x < SAMPLE_BLOCK && id < job.vocab && values[id] == best)
        atomicMin(&shared.id, id);
    __syncthreads();
    return shared.id;
}

/* -- from all tokens, in index order: first the block, then the token -- */

/* The last token before `end` that weighs anything, or token 0. */
CU_DEV uint32_t last_of_all(const cuda_sample_row &p, const float *scores, float best,
                            uint32_t end) {
    uint32_t id = end;
    do
        id--;
    while (id > 0 && sample_weight(scores[id], best, p.temperature) == 0.0f);
    return id;
}

/* The block in which the sum passes the target, and the sum before it; by one thread. */
CU_DEV void find_block(const sample_job &job, pick_shared &shared, const double *sums,
                       double target) {
    double passed = 0;
    uint32_t block = 0;
    while (block < job.blocks && __dadd_rn(passed, sums[block]) <= target)
        passed = __dadd_rn(passed, sums[block++]);
    shared.passed = passed;
    shared.taken = block;
}

/* The token of the block in which the sum passes the target, by one thread; the block's weights are in shared
 * memory. vocab: there is none, rounding left the target above all sums. */
CU_DEV uint32_t find_token(const pick_shared &shared, uint32_t first, uint32_t count,
                           uint32_t vocab, double target) {
    double passed = shared.passed;
    for (uint32_t i = 0; i < count; i++) {
        const float weight = shared.order.weights[i];
        passed = __dadd_rn(passed, (double)weight);
        if (passed > target && weight > 0.0f) return first + i;
    }
    return vocab;
}

CU_DEV uint32_t pick_from_all(const sample_job &job, pick_shared &shared, const cuda_sample_row &p,
                              const float *scores, const double *sums, float best, double target) {
    if (threadIdx.x == 0) find_block(job, shared, sums, target);
    __syncthreads();
    const uint32_t block = shared.taken, first = min(block * SAMPLE_BLOCK, job.vocab);
    const uint32_t end = block + 1 < job.blocks ? first + SAMPLE_BLOCK : job.vocab;
    const uint32_t id = first + threadIdx.x;
    if (id < end)
        shared.order.weights[threadIdx.x] = sample_weight(scores[id], best, p.temperature);
    __syncthreads();
    if (threadIdx.x == 0) {
        const uint32_t found = find_token(shared, first, end - first, job.vocab, target);
        shared.id = found < job.vocab ? found : last_of_all(p, scores, best, end);
    }
    __syncthreads();
    return shared.id;
}

/* -- from the head: what top-k, top-p and min-p keep, best first -- */

/* Walks over the candidates of a row. SUM: all of them; KEEP: until their weights reach `bar`, or one weighs
 * nothing or less than min_p; FIND: until they are above `bar`, or the walk is at its limit. */
enum walk_kind { WALK_SUM, WALK_KEEP, WALK_FIND };

/* By thread 0: the candidates in shared memory. */
CU_DEV void walk_some(pick_shared &shared, walk_kind kind, uint32_t count, uint32_t limit,
                      double bar, float min_p, uint32_t id_bits) {
    for (uint32_t i = 0; i < count && !shared.done; i++) {
        const float weight = shared.order.weights[i];
        if (kind == WALK_KEEP && (!(shared.passed < bar) || weight == 0.0f || weight < min_p)) {
            shared.done = true;
            break;
        }
        shared.passed = __dadd_rn(shared.passed, (double)weight);
        shared.taken++;
        shared.done = shared.taken == limit || (kind == WALK_FIND && shared.passed > bar);
        shared.id = sample_candidate_id(shared.order.found[i], id_bits);
    }
}

/* From the best on; the result is in `shared`: passed, taken, and the id of the last one taken. */
CU_DEV void walk_head(pick_shared &shared, order_row &order, walk_kind kind, uint32_t limit,
                      double bar, const cuda_sample_row &p, float best) {
    order_rewind(order);
    __syncthreads();
    if (threadIdx.x == 0) {
        shared.passed = 0;
        shared.taken = 0;
        shared.done = false;
    }
    __syncthreads();
    for (;;) {
        const uint32_t taken = shared.taken;
        const uint32_t count = order_next(shared.order, order, limit - taken);
        if (count == 0) break;
        for (uint32_t i = threadIdx.x; i < count; i += ORDER_THREADS)
            shared.order.weights[i] = sample_weight(
                sample_candidate_score(shared.order.found[i], order.id_bits), best, p.temperature);
        __syncthreads();
        if (threadIdx.x == 0) walk_some(shared, kind, count, limit, bar, p.min_p, order.id_bits);
        __syncthreads();
        if (shared.done) break;
    }
    __syncthreads();
}

/* mass: the sum of weights that the head has to reach; known: without the walk that sums those of top-k, of which
 * it is the top_p-th part. */
CU_DEV uint32_t pick_from_head(pick_shared &shared, order_row &order, const cuda_sample_row &p,
                               uint32_t limit, float best, double mass, bool known, double u) {
    double bar = mass;
#pragma unroll 1 /* the walk is much code, and once is enough */
    for (int kind = known ? WALK_KEEP : WALK_SUM; kind <= WALK_FIND; kind++) {
        walk_head(shared, order, (walk_kind)kind, limit, bar, p, best);
        const double passed = shared.passed;
        if (kind == WALK_SUM) bar = __dmul_rn((double)p.top_p, passed);
        if (kind == WALK_KEEP) {
            bar = __dmul_rn(u, passed);
            limit = shared.taken;
        }
        __syncthreads();
    }
    return shared.id;
}

CU_DEV uint32_t pick_random(const sample_job &job, pick_shared &shared, uint32_t r,
                            const float *scores, const float *largest, float best) {
    const cuda_sample_row &p = job.row[r];
    const float top_p = p.top_p == 0.0f ? 1.0f : p.top_p;
    const double u = sample_uniform(p.seed, p.position);
    const bool top_k = wants_top_k(job, p);
    double mass = (double)__uint_as_float(0x7f800000u);
    if (!top_k) {
        const double *sums = near_sums(job, shared, sums_of(job, r, 0));
        const double sum = sum_of_row(job, shared, sums);
        if (top_p == 1.0f && p.min_p == 0.0f)
            return pick_from_all(job, shared, p, scores, sums, best, __dmul_rn(u, sum));
        if (top_p != 1.0f) mass = __dmul_rn((double)top_p, sum);
    }
    order_row order = order_begin(scores, largest, job.vocab);
    return pick_from_head(shared, order, p, top_k ? p.top_k : job.vocab, best, mass,
                          !top_k || top_p == 1.0f, u);
}

CU_DEV void clear_row(const sample_job &job, uint32_t r) {
    if (threadIdx.x == 0) {
        job.ids[r] = -1;
        job.logprob[r] = 0.0f;
    }
    if (threadIdx.x < TOP) {
        job.top_ids[r * TOP + threadIdx.x] = -1;
        job.top_logprobs[r * TOP + threadIdx.x] = 0.0f;
    }
    __syncthreads();
}

__global__ void __launch_bounds__(ORDER_THREADS)
    sample_pick(const __grid_constant__ sample_job job) {
    CU_SHARED(pick_shared, space, [1]);
    pick_shared &shared = space[0];
    const uint32_t r = blockIdx.x;
    const float *scores = values_of(job, r, 0), *largest = largest_of(job, r, 0);
    const float best = largest_of_row(largest, job.blocks, shared.warps);
    clear_row(job, r);
    if (!sample_is_finite(best)) return; /* alike in the block */
    const uint32_t id = job.row[r].temperature > 0.0f
                            ? pick_random(job, shared, r, scores, largest, best)
                            : find_best(job, shared, scores, largest, best);
    if (threadIdx.x == 0) job.ids[r] = (int32_t)id;
}

/* ---- 5. tell: log softmax(x)[i] = x[i] - (max + log sum exp(x - max)), of the logits as they are ---- */

CU_DEV void tell_best(const sample_job &job, pick_shared &shared, uint32_t r, double norm) {
    const uint32_t wanted = job.row[r].top_logprobs;
    order_row order = order_begin(logits_of(job, r), largest_of(job, r, 1), job.vocab);
    const uint32_t count = min(order_next(shared.order, order, wanted), wanted);
    if (threadIdx.x >= count) return;
    const uint64_t candidate = shared.order.found[threadIdx.x];
    job.top_ids[r * TOP + threadIdx.x] = (int32_t)sample_candidate_id(candidate, order.id_bits);
    job.top_logprobs[r * TOP + threadIdx.x] =
        (float)((double)sample_candidate_score(candidate, order.id_bits) - norm);
}

__global__ void __launch_bounds__(ORDER_THREADS)
    sample_tell(const __grid_constant__ sample_job job) {
    CU_SHARED(pick_shared, space, [1]);
    pick_shared &shared = space[0];
    const uint32_t r = blockIdx.x;
    const cuda_sample_row &p = job.row[r];
    if (!wants_logprobs(p) || job.ids[r] < 0) return;
    const float best = largest_of_row(largest_of(job, r, 1), job.blocks, shared.warps);
    const double *sums = near_sums(job, shared, sums_of(job, r, 1));
    const double norm = (double)best + log(sum_of_row(job, shared, sums));
    if (threadIdx.x == 0) job.logprob[r] = (float)((double)logits_of(job, r)[job.ids[r]] - norm);
    if (p.top_logprobs > 0) tell_best(job, shared, r, norm);
}

/* ---- launching ---- */

uint64_t rounded(uint64_t bytes) { return (bytes + 255) / 256 * 256; }
uint32_t blocks_of(uint32_t vocab) { return (vocab + SAMPLE_BLOCK - 1) / SAMPLE_BLOCK; }
uint32_t ceil_div(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

sample_job job_of(const cuda_sample_args *args) {
    const uint64_t values = rounded((uint64_t)args->row_count * args->vocab * sizeof(float));
    unsigned char *work = static_cast<unsigned char *>(args->work);
    sample_job job = {};
    job.logits = args->logits;
    job.row = args->row;
    job.sampled = args->sampled;
    job.blocks = blocks_of(args->vocab);
    job.vocab = args->vocab;
    job.ids = args->ids;
    job.logprob = args->logprob;
    job.top_ids = args->top_ids;
    job.top_logprobs = args->top_logprobs;
    job.scores = reinterpret_cast<float *>(work);
    job.counts = reinterpret_cast<uint32_t *>(work + values);
    job.sums = reinterpret_cast<double *>(work + 2 * values);
    job.largest =
        reinterpret_cast<float *>(job.sums + (uint64_t)args->row_count * KINDS * job.blocks);
    return job;
}

} // namespace

extern "C" uint64_t cuda_sample_workspace(uint32_t rows, uint32_t vocab) {
    const uint64_t values = rounded((uint64_t)rows * vocab * sizeof(float));
    return 2 * values +
           (uint64_t)rows * KINDS * blocks_of(vocab) * (sizeof(double) + sizeof(float));
}

extern "C" int cuda_sample(const cuda_sample_args *args, void *stream) {
    cudaStream_t on = static_cast<cudaStream_t>(stream);
    const sample_job job = job_of(args);
    const dim3 rows(args->row_count), peaks(ceil_div(job.blocks, PEAK_BLOCKS), args->row_count),
        weigh(ceil_div(job.blocks, WEIGH_BLOCKS), args->row_count);
    int error = CU_LAUNCH((sample_change), rows, dim3(ORDER_THREADS), 0, on, job);
    if (!error) error = CU_LAUNCH((sample_peaks), peaks, dim3(WALK_THREADS), 0, on, job);
    if (!error) error = CU_LAUNCH((sample_weigh), weigh, dim3(WALK_THREADS), 0, on, job);
    if (!error) error = CU_LAUNCH((sample_pick), rows, dim3(ORDER_THREADS), 0, on, job);
    if (!error) error = CU_LAUNCH((sample_tell), rows, dim3(ORDER_THREADS), 0, on, job);
    return error;
}
