/* test_cuda_attention_plan.c - the plan of a step's attention: every row meets every chunk of keys that it
 * sees exactly once, and partial sums lie apart. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cuda/cuda_attention_plan.h"
#include "tests/unit/kernel_lab.h"

enum { SEQS = 40 };

typedef struct planned {
    lab_batch batch;
    cuda_attention_kind kind;
    cuda_attention_plan *plan;
    uint64_t bytes;
} planned;

static planned plan_of(const cuda_attention_kind *kind, uint32_t seqs, const uint32_t *cached,
                       const uint32_t *tokens) {
    planned p = {.batch = lab_batch_of(seqs, cached, tokens, 1, 1), .kind = *kind};
    uint64_t most = cuda_attention_plan_max(kind, p.batch.b.token_count);
    p.plan = malloc(most);
    p.bytes = cuda_attention_plan_make(kind, &p.batch.b, p.plan);
    assert_true(p.bytes <= most);
    return p;
}

static void planned_free(planned *p) {
    lab_batch_free(&p->batch);
    free(p->plan);
}

static uint32_t group_of(const planned *p) { return p->kind.heads / p->kind.kv_heads; }

/* The keys that a row of a sequence sees. */
static void sight(const planned *p, uint32_t seq, uint32_t row, uint32_t *first, uint32_t *end) {
    const step_batch *b = &p->batch.b;
    uint32_t position = b->seq_cached[seq] + row / group_of(p), window = p->kind.window;
    *end = p->kind.bidirectional ? b->seq_tokens[seq] : position + 1;
    *first = window && position >= window ? position - window + 1 : 0;
}

/* Adds to met[first row of the sequence + row] the keys that the item shows it. */
static void meet(const planned *p, const attention_item *item, const uint32_t *first_row,
                 uint32_t *met) {
    const step_batch *b = &p->batch.b;
    assert_true(item->seq < b->seq_count && item->rows > 0 && item->keys > 0);
    assert_int_equal(item->token, b->seq_first[item->seq]);
    assert_int_equal(item->position, b->seq_cached[item->seq]);
    assert_int_equal(item->length, b->seq_cached[item->seq] + b->seq_tokens[item->seq]);
    assert_true(item->row + item->rows <= b->seq_tokens[item->seq] * group_of(p));
    assert_true(item->key + item->keys <= item->length);
    for (uint32_t r = item->row; r < item->row + item->rows; r++) {
        uint32_t first, end, from = item->key, to = item->key + item->keys;
        sight(p, item->seq, r, &first, &end);
        from = from > first ? from : first;
        to = to < end ? to : end;
        if (to > from) met[first_row[item->seq] + r] += to - from;
    }
    if (item->partial != ATTENTION_NO_PARTIAL)
        assert_int_equal(item->key / CUDA_CHUNK_TOKENS,
                         (item->key + item->keys - 1) / CUDA_CHUNK_TOKENS);
}

/* Each partial row is written by one item, and read by one merge. */
static void check_partials(const planned *p) {
    const attention_item *items = attention_items(p->plan);
    uint32_t all = p->plan->narrow_count + p->plan->wide_count, rows = p->plan->partial_rows;
    uint8_t *written = calloc(rows + 1, 1), *read = calloc(rows + 1, 1);
    assert_true(rows <= attention_partial_rows(&p->kind));
    for (uint32_t i = 0; i < all; i++)
        for (uint32_t r = 0; items[i].partial != ATTENTION_NO_PARTIAL && r < items[i].rows; r++)
            written[items[i].partial + r]++;
    for (uint32_t i = all; i < all + p->plan->merge_count; i++)
        for (uint32_t r = 0; r < items[i].keys * items[i].rows; r++)
            read[items[i].partial + r]++;
    for (uint32_t r = 0; r < rows; r++)
        assert_true(written[r] == 1 && read[r] == 1);
    free(written);
    free(read);
}

/* The chunks that a merge folds are those of its tile, in order. */
static void check_merges(const planned *p) {
    const attention_item *items = attention_items(p->plan);
    uint32_t all = p->plan->narrow_count + p->plan->wide_count;
    for (uint32_t m = all; m < all + p->plan->merge_count; m++)
        for (uint32_t i = 0; i < all; i++) {
            uint32_t before = items[i].partial - items[m].partial;
            if (items[i].partial == ATTENTION_NO_PARTIAL || before >= items[m].keys * items[m].rows)
                continue;
            assert_int_equal(items[i].seq, items[m].seq);
            assert_int_equal(items[i].row, items[m].row);
            assert_int_equal(items[i].rows, items[m].rows);
            if (before > 0) assert_true(items[i].key == items[i - 1].key + items[i - 1].keys);
        }
}

static void check(const planned *p) {
    const step_batch *b = &p->batch.b;
    const attention_item *items = attention_items(p->plan);
    uint32_t first_row[SEQS + 1] = {0}, group = group_of(p);
    for (uint32_t s = 0; s < b->seq_count; s++)
        first_row[s + 1] = first_row[s] + b->seq_tokens[s] * group;
    uint32_t *met = calloc(first_row[b->seq_count] + 1, sizeof *met);
    for (uint32_t i = 0; i < p->plan->narrow_count + p->plan->wide_count; i++) {
        bool narrow = i < p->plan->narrow_count;
        assert_true(items[i].rows <=
                    (narrow ? ATTENTION_TILE_ROWS : attention_wide_rows(p->kind.head_dim)));
        meet(p, &items[i], first_row, met);
    }
    for (uint32_t s = 0; s < b->seq_count; s++)
        for (uint32_t r = 0; r < b->seq_tokens[s] * group; r++) {
            uint32_t first, end;
            sight(p, s, r, &first, &end);
            assert_int_equal(met[first_row[s] + r], end - first);
        }
    check_partials(p);
    check_merges(p);
    uint64_t count = p->plan->narrow_count + p->plan->wide_count + p->plan->merge_count;
    assert_int_equal(p->bytes, sizeof *p->plan + count * sizeof *items);
    free(met);
}

static uint32_t random_below(uint64_t *seed, uint32_t end) {
    return (uint32_t)(lab_hash((*seed)++) % end);
}

/* Random batches of all kinds: decodes, chunks, both; windows; encoders; room for all partial sums, for
 * some, for none. */
static void every_row_meets_every_key_once(void **state) {
    (void)state;
    static const uint64_t rooms[] = {0, 5000, 200000, CUDA_ATTENTION_WORK_BYTES};
    static const uint32_t groups[] = {1, 3, 4, 40}, dims[] = {64, 256};
    uint64_t seed = 1;
    for (uint32_t n = 0; n < 400; n++) {
        uint32_t kv_heads = 1 + n % 3, cached[SEQS], tokens[SEQS], seqs = 1 + n % SEQS;
        cuda_attention_kind kind = {.kv_heads = kv_heads,
                                    .heads = kv_heads * groups[n % 4],
                                    .head_dim = dims[n / 2 % 2],
                                    .bidirectional = n % 7 == 0,
                                    .work_bytes = rooms[n / 3 % 4]};
        if (!kind.bidirectional && n % 5 == 0) kind.window = 1 + random_below(&seed, 900);
        for (uint32_t s = 0; s < seqs; s++) {
            cached[s] = kind.bidirectional ? 0 : random_below(&seed, 3000);
            tokens[s] = n % 2 ? 1 : 1 + random_below(&seed, s < 3 ? 300 : 4);
        }
        planned p = plan_of(&kind, seqs, cached, tokens);
        check(&p);
        planned_free(&p);
    }
}

/* One long sequence keeps a device busy only if it is split; a room full of short ones does anyway. */
static void few_tiles_are_split_and_many_are_not(void **state) {
    (void)state;
    uint32_t cached[SEQS], tokens[SEQS];
    cuda_attention_kind kind = {
        .kv_heads = 8, .heads = 32, .head_dim = 128, .work_bytes = CUDA_ATTENTION_WORK_BYTES};
    cached[0] = 8191;
    tokens[0] = 1;
    planned alone = plan_of(&kind, 1, cached, tokens);
    assert_int_equal(alone.plan->narrow_count, 32);
    assert_int_equal(alone.plan->merge_count, 1);
    planned_free(&alone);
    kind.kv_heads = kind.heads = 64;
    for (uint32_t s = 0; s < SEQS; s++) {
        cached[s] = 900;
        tokens[s] = 1;
    }
    planned many = plan_of(&kind, SEQS, cached, tokens);
    assert_int_equal(many.plan->narrow_count, SEQS);
    assert_int_equal(many.plan->merge_count, 0);
    planned_free(&many);
}

static void a_batch_of_nothing_has_an_empty_plan(void **state) {
    (void)state;
    step_batch batch = {0};
    cuda_attention_kind kind = {.kv_heads = 1, .heads = 1, .head_dim = 64, .work_bytes = 1000};
    cuda_attention_plan plan;
    memset(&plan, 0xff, sizeof plan);
    assert_int_equal(cuda_attention_plan_make(&kind, &batch, &plan), sizeof plan);
    assert_int_equal(plan.narrow_count + plan.wide_count + plan.merge_count, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_meets_every_key_once),
        cmocka_unit_test(few_tiles_are_split_and_many_are_not),
        cmocka_unit_test(a_batch_of_nothing_has_an_empty_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
