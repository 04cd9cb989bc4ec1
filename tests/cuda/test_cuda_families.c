/* test_cuda_families.c - five families on a CUDA device beside transformers: tiny random models in bf16 and in 4 bits,
 * over pages of bf16 and of int8, against the logits that make_cuda_family_vectors.py computed in float32 with the
 * same weights. Prompts cross windows, pages and a rope that is scaled. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>

#include "engine/base/mem.h"
#include "tests/cuda/bf16_model.h"
#include "tests/unit/divergence.h"
#include "tests/unit/tiny_engine.h"
#include "tests/unit/vector_file.h"

enum { CONTEXT = 160, ROWS_MAX = 32, CASES = 10 };

/* Mean KL divergence over the rows of a case, and over all cases. What the device rounds are inputs of linears,
 * keys, values and weights of attention; the models have few and large logits and feel it more than real ones. */
static const double KL_MAX = 1e-3;
/* Codes of 8 bits in the pages on top. */
static const double KL_INT8_MAX = 4e-3, KL_INT8_MEAN_MAX = 2e-3;
/* The reference's first token is ours, unless it hardly preferred it. */
static const double CLEAR_LOGITS = 0.2;

typedef struct cuda_case {
    char model[32];
    bool four_bits;
    int32_t ids[CONTEXT];
    uint32_t id_count, rows[ROWS_MAX], row_count;
} cuda_case;

static cuda_case cases[CASES];

static uint32_t read_numbers(const json_t *row, const char *key, uint32_t max, uint32_t *out) {
    const json_t *list = json_object_get(row, key);
    uint32_t count = (uint32_t)json_array_size(list);
    assert_true(count > 0 && count <= max);
    for (uint32_t i = 0; i < count; i++)
        out[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return count;
}

static int read_cases(void **state) {
    (void)state;
    FILE *file = vector_open("families-cuda/cases.jsonl");
    uint32_t count = 0;
    assert_non_null(file);
    for (json_t *row; (row = vector_next(file)); json_decref(row)) {
        assert_true(count < CASES);
        cuda_case *c = &cases[count++];
        snprintf(c->model, sizeof c->model, "%s", vector_text(row, "model").at);
        c->four_bits = !strcmp(vector_text(row, "format").at, "w4");
        c->id_count = read_numbers(row, "ids", CONTEXT, (uint32_t *)c->ids);
        c->row_count = read_numbers(row, "rows", ROWS_MAX, c->rows);
    }
    fclose(file);
    assert_int_equal(count, CASES);
    return 0;
}

/* The rows of a case, [row_count, vocab]; free() them. */
static float *read_wanted(const cuda_case *c, uint32_t vocab) {
    char name[80];
    snprintf(name, sizeof name, "families-cuda/%s-%s.f32", c->model, c->four_bits ? "w4" : "bf16");
    FILE *file = vector_open(name);
    size_t count = (size_t)c->row_count * vocab;
    float *rows = mem_new(count + 1, sizeof *rows);
    assert_non_null(file);
    assert_int_equal(fread(rows, sizeof *rows, count + 1, file), count);
    fclose(file);
    return rows;
}

/* ---- a case on a device ---- */

typedef struct seen_rows {
    const cuda_case *c;
    float *at; /* [row_count, vocab] */
    uint32_t vocab;
} seen_rows;

static esp_code keep_row(void *arg, uint32_t position, const float *logits, esp_error *err) {
    seen_rows *seen = arg;
    (void)err;
    for (uint32_t i = 0; i < seen->c->row_count; i++)
        if (seen->c->rows[i] == position)
            memcpy(seen->at + (size_t)i * seen->vocab, logits, seen->vocab * sizeof *logits);
    return ESP_OK;
}

static seen_rows run_case(const cuda_case *c, esp_dtype kv_dtype) {
    char from[1024], path[1024] = "/tmp/espalier-bf16-XXXXXX";
    esp_error err = {0};
    snprintf(from, sizeof from, "%s/tests/vectors/%s/%s.gguf", TEST_SOURCE_DIR,
             c->four_bits ? "families-w4" : "families", c->model);
    if (!c->four_bits) bf16_model_write(path, from);
    engine *e = tiny_open(c->four_bits ? from : path, (model_config){.device = DEVICE_CUDA,
                                                                     .ops = &kern_cuda,
                                                                     .max_seqs = 2,
                                                                     .step_tokens = 60,
                                                                     .max_context = CONTEXT,
                                                                     .kv_memory = 4 << 20,
                                                                     .kv_dtype = kv_dtype,
                                                                     .kv_dtype_given = true});
    seen_rows seen = {.c = c, .vocab = engine_spec(e)->vocab};
    seen.at = mem_new((size_t)c->row_count * seen.vocab, sizeof *seen.at);
    if (engine_logits(e, NULL, c->ids, c->id_count, keep_row, &seen, &err) != ESP_OK)
        fail_msg("%s: %s", c->model, err.message);
    engine_close(e);
    if (!c->four_bits) unlink(path);
    return seen;
}

/* ---- comparisons ---- */

static double mean_divergence(const float *wanted, const seen_rows *seen) {
    double sum = 0;
    for (uint32_t i = 0; i < seen->c->row_count; i++) {
        size_t at = (size_t)i * seen->vocab;
        sum += divergence(wanted + at, seen->at + at, seen->vocab);
    }
    return sum / seen->c->row_count;
}

static void check_tokens(const float *wanted, const seen_rows *seen) {
    for (uint32_t i = 0; i < seen->c->row_count; i++) {
        const float *row = wanted + (size_t)i * seen->vocab;
        uint32_t ours = best(seen->at + (size_t)i * seen->vocab, seen->vocab);
        double gap = (double)(row[best(row, seen->vocab)] - row[ours]);
        if (!(gap <= CLEAR_LOGITS))
            fail_msg("%s, position %u: token %u, which is %g below the reference's", seen->c->model,
                     seen->c->rows[i], ours, gap);
    }
}

/* Mean KL over all cases. */
static double check_all(esp_dtype kv_dtype, double most) {
    double sum = 0;
    for (const cuda_case *c = cases; c < cases + CASES; c++) {
        seen_rows seen = run_case(c, kv_dtype);
        float *wanted = read_wanted(c, seen.vocab);
        double apart = mean_divergence(wanted, &seen);
        print_message("%s, %s: KL %.1e\n", c->model, c->four_bits ? "4 bits" : "bf16", apart);
        if (!(apart <= most)) fail_msg("%s: KL %g; at most %g", c->model, apart, most);
        check_tokens(wanted, &seen);
        sum += apart / CASES;
        free(wanted);
        free(seen.at);
    }
    print_message("mean KL to transformers: %.1e\n", sum);
    return sum;
}

static void logits_are_near_transformers(void **state) {
    (void)state;
    assert_true(check_all(DT_BF16, KL_MAX) <= KL_MAX);
}

static void over_pages_of_int8_too(void **state) {
    (void)state;
    assert_true(check_all(DT_KV_INT8, KL_INT8_MAX) <= KL_INT8_MEAN_MAX);
}

/* The same model in 4 bits is another one: a comparison that did not notice would be worth nothing. */
static void the_vectors_tell_bf16_from_4_bits(void **state) {
    (void)state;
    for (uint32_t i = 0; i < CASES; i += 2) {
        assert_true(!cases[i].four_bits && cases[i + 1].four_bits);
        assert_string_equal(cases[i].model, cases[i + 1].model);
        seen_rows seen = run_case(&cases[i], DT_BF16);
        float *other = read_wanted(&cases[i + 1], seen.vocab);
        assert_true(mean_divergence(other, &seen) > 10 * KL_MAX);
        free(other);
        free(seen.at);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_near_transformers),
        cmocka_unit_test(over_pages_of_int8_too),
        cmocka_unit_test(the_vectors_tell_bf16_from_4_bits),
    };
    return cmocka_run_group_tests(tests, read_cases, NULL);
}
