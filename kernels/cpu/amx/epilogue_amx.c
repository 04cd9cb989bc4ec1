/* epilogue_amx.c - see epilogue_amx.h. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/epilogue_amx.h"

#include "kernels/cpu/lora_plan.h"

/* Nothing but the sums themselves, and all rows there. */
static bool is_plain(const linear_job *job, const strip *s, uint32_t i) {
    const kern_linear *op = job->op;
    uint32_t m = s->matrix[i];
    bool updated = job->lora && job->lora->after[m];
    return !op->bias[m] && !updated && tile_rows(op->matrix[m], s->tile[i]) == TILE_ROWS;
}

static void put_tile(const linear_job *job, const strip *s, uint32_t i, uint32_t first,
                     uint32_t tokens, const float *c) {
    uint32_t m = s->matrix[i];
    float *out = (float *)job->op->out + (size_t)first * job->out_cols + job->first_col[m] +
                 (size_t)s->tile[i] * TILE_ROWS;
    bool add = job->op->epilogue == EPI_RESIDUAL;
    __m512i r[TILE_TOKENS];
    amx_turned(c, r);
    UNROLL_16 for (uint32_t t = 0; t < TILE_TOKENS; t++) {
        if (t == tokens) return;
        vf y = _mm512_castsi512_ps(r[t]);
        v_store(out, add ? v_add(v_load(out), y) : y);
        out += job->out_cols;
    }
}

static void put_gated(const linear_job *job, const strip *s, uint32_t i, uint32_t first,
                      uint32_t tokens, const float *c) {
    uint16_t *out =
        (uint16_t *)job->op->out + (size_t)first * job->out_cols + (size_t)s->tile[i] * TILE_ROWS;
    __m512i r[TILE_TOKENS];
    amx_turned(c, r);
    UNROLL_16 for (uint32_t t = 0; t < TILE_TOKENS; t++) {
        if (t == tokens) return;
        v_store_bf16(out, _mm512_castsi512_ps(r[t]));
        out += job->out_cols;
    }
}

static void finish_rows(const linear_job *job, const strip *s, uint32_t first, uint32_t tokens,
                        float (*c)[C_TILE], float *rows) {
    for (uint32_t i = 0; i < s->count; i++)
        amx_turn(c[i], rows + i * TILE_ROWS, ROWS_STRIDE);
    finish(job, s, first, tokens, rows, ROWS_STRIDE);
}

static bool all_plain(const linear_job *job, const strip *s) {
    bool plain = true;
    for (uint32_t i = 0; i < s->count; i++)
        plain &= is_plain(job, s, i);
    return plain;
}

bool amx_gates_early(const linear_job *job, const strip *s) {
    return kern_is_gated(job->op->epilogue) && all_plain(job, s);
}

void amx_finish(const linear_job *job, const strip *s, uint32_t first, uint32_t tokens,
                float (*c)[C_TILE], float *rows) {
    kern_epilogue epilogue = job->op->epilogue;
    bool sums = epilogue == EPI_STORE || epilogue == EPI_RESIDUAL;
    if ((!sums && !kern_is_gated(epilogue)) || !all_plain(job, s)) {
        finish_rows(job, s, first, tokens, c, rows);
        return;
    }
    for (uint32_t i = 0; sums && i < s->count; i++)
        put_tile(job, s, i, first, tokens, c[i]);
    for (uint32_t i = 0; !sums && i < s->count / 2; i++)
        put_gated(job, s, i, first, tokens, c[i]);
}
