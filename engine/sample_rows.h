/* sample_rows.h - the rows of one step, each to its token, by all workers of a pool. A row is one
 * worker's, so no result depends on how many there are.
 *
 * Thread  the pool's owner. Decode: nothing is allocated after sample_rows_open. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_SAMPLE_ROWS_H
#define ESPALIER_SAMPLE_ROWS_H

#include "engine/sample.h"

struct thread_pool;

typedef struct sample_rows sample_rows;
/* vocab: of the widest row. */
ESP_CHECKED esp_code sample_rows_open(sample_rows **out, struct thread_pool *pool, uint32_t vocab,
                                      uint32_t rows_max, esp_error *err);
void sample_rows_close(sample_rows *s);

/* [rows_max], to be filled. */
sample_row *sample_rows_at(sample_rows *s);
/* Picks the first count of them. */
void sample_rows_pick(sample_rows *s, uint32_t count);

#endif
