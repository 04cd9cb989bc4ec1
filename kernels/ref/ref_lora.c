/* ref_lora.c - y = (y + B (scale * A x)) * magnitude + bias for the tokens of each segment.
 *
 * In    x [T,K] f32; for each part A [R,K], B [N,R], bias [N], magnitude [N], all f32
 * Temp  scale * A x of all parts: dev->lora_states [T, REF_LORA_RANKS] f32
 * Work  tokens are split over the workers; B is applied where the base's sum is, in ref_linear.c */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/ref/ref_lora.h"

static ref_lora_layout lay_out(const kern_lora *lora, size_t *bytes) {
    ref_lora_layout out = {0};
    lora_walk walk = {.piece_max = lora->piece_max, .bytes = bytes};
    uint32_t units = (lora->cols + REF_LORA_UNIT - 1) / REF_LORA_UNIT, first = 0;
    for (uint32_t i = 0; i < lora->part_count; i++) {
        uint32_t rank = lora->part[i].rank, rows = lora->part[i].rows;
        out.part[i].first = first;
        first += rank;
        out.part[i].a = lora_place(&walk, rank * units, REF_LORA_UNIT * (uint32_t)sizeof(float), 0);
        out.part[i].b = lora_place(&walk, rank ? rows : 0, rank * (uint32_t)sizeof(float), 0);
        out.part[i].bias = lora_place(&walk, lora->part[i].bias ? rows : 0, sizeof(float), 0);
        out.part[i].magnitude =
            lora_place(&walk, lora->part[i].magnitude ? rows : 0, sizeof(float), 0);
    }
    out.pieces = lora_pieces_taken(&walk);
    return out;
}

uint32_t ref_lora_pieces(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                         size_t *bytes) {
    (void)dev;
    ESP_ASSERT(kern_lora_is_sane(desc, piece_max));
    kern_lora lora = kern_lora_of(desc, piece_max, NULL);
    return lay_out(&lora, bytes).pieces;
}

/* --- packing ----------------------------------------------------------------------------- */

static void pack_a(const kern_lora_desc *desc, const kern_lora_part *part, const lora_run *run,
                   void *const *pieces) {
    uint32_t units = run->units / (part->rank ? part->rank : 1), together;
    lora_clear(run, pieces);
    for (uint32_t unit = 0; unit < run->units; unit++) {
        uint32_t col = unit % units * REF_LORA_UNIT, left = desc->cols - col;
        memcpy(lora_unit(run, pieces, unit, &together),
               part->a + (size_t)(unit / units) * desc->cols + col,
               (left < REF_LORA_UNIT ? left : REF_LORA_UNIT) * sizeof(float));
    }
}

/* Values as they lie: values_per_unit of them a unit. */
static void pack_values(const float *from, uint32_t values_per_unit, const lora_run *run,
                        void *const *pieces) {
    lora_clear(run, pieces);
    for (uint32_t unit = 0, together; unit < run->units; unit += together) {
        void *at = lora_unit(run, pieces, unit, &together);
        memcpy(at, from + (size_t)unit * values_per_unit, (size_t)together * run->unit_bytes);
    }
}

void ref_lora_pack(const kern_device *dev, const kern_lora_desc *desc, size_t piece_max,
                   void *const *pieces) {
    (void)dev;
    ESP_ASSERT(kern_lora_is_sane(desc, piece_max));
    kern_lora lora = kern_lora_of(desc, piece_max, pieces);
    ref_lora_layout layout = lay_out(&lora, NULL);
    for (uint32_t i = 0; i < desc->part_count; i++) {
        const kern_lora_part *part = &desc->part[i];
        pack_a(desc, part, &layout.part[i].a, pieces);
        pack_values(part->b, part->rank, &layout.part[i].b, pieces);
        pack_values(part->bias, 1, &layout.part[i].bias, pieces);
        pack_values(part->magnitude, 1, &layout.part[i].magnitude, pieces);
    }
}

/* --- the op ------------------------------------------------------------------------------ */

static float *states_of(const kern_device *dev, uint32_t token) {
    return dev->lora_states + (size_t)token * REF_LORA_RANKS;
}

/* A row of A times x. */
static float shrink_row(const lora_run *a, void *const *pieces, uint32_t row, const float *x,
                        uint32_t cols) {
    uint32_t units = (cols + REF_LORA_UNIT - 1) / REF_LORA_UNIT, together;
    float sum = 0;
    for (uint32_t unit = 0; unit < units; unit++) {
        uint32_t col = unit * REF_LORA_UNIT, left = cols - col;
        sum += ref_dot(lora_unit(a, pieces, row * units + unit, &together), x + col,
                       left < REF_LORA_UNIT ? left : REF_LORA_UNIT);
    }
    return sum;
}

static void shrink_token(const kern_device *dev, const kern_lora *lora,
                         const ref_lora_layout *layout, const kern_linear *op, uint32_t token) {
    const float *x = (const float *)op->in + (size_t)token * lora->cols;
    for (uint32_t i = 0; i < lora->part_count; i++)
        for (uint32_t r = 0; r < lora->part[i].rank; r++)
            states_of(dev, token)[layout->part[i].first + r] =
                lora->part[i].scale *
                shrink_row(&layout->part[i].a, lora->pieces, r, x, lora->cols);
}

typedef struct shrink_job {
    const kern_device *dev;
    const kern_linear *op;
} shrink_job;

static void shrink_tokens(void *arg, uint32_t worker, uint32_t workers) {
    const shrink_job *job = arg;
    for (uint32_t s = 0; s < job->op->lora_count; s++) {
        const kern_lora_segment *segment = &job->op->lora[s];
        uint32_t begin, end;
        if (!segment->lora) continue;
        ref_lora_layout layout = lay_out(segment->lora, NULL);
        pool_share(segment->count, 1, worker, workers, &begin, &end);
        for (uint32_t t = begin; t < end; t++)
            shrink_token(job->dev, segment->lora, &layout, job->op, segment->first + t);
    }
}

void ref_lora_shrink(kern_device *dev, const kern_linear *op) {
    shrink_job job = {.dev = dev, .op = op};
    pool_run(dev->pool, shrink_tokens, &job);
}

static void go_to(ref_lora_walk *walk, uint32_t token) {
    const kern_linear *op = walk->op;
    while (walk->segment < op->lora_count && op->lora[walk->segment].first <= token) {
        const kern_lora_segment *segment = &op->lora[walk->segment++];
        walk->lora = segment->lora;
        walk->end = segment->first + segment->count;
        if (walk->lora) walk->layout = lay_out(walk->lora, NULL);
    }
    if (token >= walk->end) walk->lora = NULL;
}

static float value_of(const lora_run *run, void *const *pieces, uint32_t row) {
    uint32_t together;
    return *(const float *)lora_unit(run, pieces, row, &together);
}

float ref_lora_update(ref_lora_walk *walk, uint32_t token, uint32_t m, uint32_t row, float y) {
    go_to(walk, token);
    const kern_lora *lora = walk->lora;
    if (!lora || m >= lora->part_count) return y;
    const float *states = states_of(walk->dev, token) + walk->layout.part[m].first;
    uint32_t together;
    if (lora->part[m].rank)
        y += ref_dot(lora_unit(&walk->layout.part[m].b, lora->pieces, row, &together), states,
                     lora->part[m].rank);
    if (lora->part[m].magnitude) y *= value_of(&walk->layout.part[m].magnitude, lora->pieces, row);
    if (lora->part[m].bias) y += value_of(&walk->layout.part[m].bias, lora->pieces, row);
    return y;
}
