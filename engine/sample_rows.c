/* sample_rows.c - shares the rows of a step over the workers. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/sample_rows.h"

#include <stdlib.h>
#include <xxhash.h>

#include "engine/base/mem.h"
#include "engine/base/pool.h"

enum { SAMPLERS_MAX = 16 }; /* each has memory for a row; more would wait for the same memory bus */

struct sample_rows {
    struct thread_pool *pool;
    sample_scratch *scratch[SAMPLERS_MAX];
    uint32_t samplers, rows_max, count;
    sample_row *rows; /* [rows_max] */
};

esp_code sample_rows_open(sample_rows **out, struct thread_pool *pool, uint32_t vocab,
                          uint32_t rows_max, esp_error *err) {
    uint32_t threads = pool_threads(pool);
    sample_rows *s = mem_new(1, sizeof *s);
    *out = s;
    s->pool = pool;
    s->rows_max = rows_max;
    s->rows = mem_new(rows_max, sizeof *s->rows);
    esp_code code = ESP_OK;
    while (s->samplers < threads && s->samplers < SAMPLERS_MAX && code == ESP_OK) {
        code = sample_scratch_open(&s->scratch[s->samplers], vocab, err);
        if (code == ESP_OK) s->samplers++;
    }
    return code;
}

void sample_rows_close(sample_rows *s) {
    if (!s) return;
    for (uint32_t i = 0; i < s->samplers; i++)
        sample_scratch_close(s->scratch[i]);
    free(s->rows);
    free(s);
}

sample_row *sample_rows_at(sample_rows *s) { return s->rows; }

static void pick_row(sample_scratch *scratch, sample_row *row) {
    if (row->digest) *row->digest = XXH3_64bits(row->logits, row->vocab * sizeof *row->logits);
    sample_scratch_fit(scratch, row->vocab);
    row->error = (esp_error){0};
    row->code = sample_pick(scratch, row->policy, &row->history, row->logits, row->history.count,
                            &row->result, &row->error);
}

static void pick_share(void *arg, uint32_t worker, uint32_t workers) {
    const sample_rows *s = arg;
    uint32_t begin, end, samplers = workers < s->samplers ? workers : s->samplers;
    if (worker >= samplers) return;
    pool_share(s->count, 1, worker, samplers, &begin, &end);
    for (uint32_t i = begin; i < end; i++)
        pick_row(s->scratch[worker], &s->rows[i]);
}

void sample_rows_pick(sample_rows *s, uint32_t count) {
    ESP_ASSERT(count <= s->rows_max);
    s->count = count;
    if (count > 1 && s->samplers > 1)
        pool_run(s->pool, pick_share, s);
    else
        pick_share(s, 0, 1);
}
