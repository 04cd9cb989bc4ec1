/* test_lora_vectors.c - adapters of every kind against peft: tests/vectors/lora, on the tiny models of
 * tests/vectors/families as folders and as GGUF files, whose rows of q and k may be permuted.
 *
 *   ref   max |difference| <= 2e-5 of the logits' range
 *   cpu   relative rms difference <= 3% */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <unistd.h>

#include "tests/unit/lora_rig.h"
#include "tests/unit/vector_file.h"

static const double REF_TOLERANCE = 2e-5, CPU_TOLERANCE = 0.03;

typedef struct lora_case {
    const char *name;
    int32_t ids[RIG_TOKENS];
    uint32_t rows[RIG_TOKENS], id_count, row_count;
    size_t offset; /* of the first row's logits, in floats */
} lora_case;

static uint32_t read_numbers(const json_t *row, const char *key, uint32_t *out) {
    const json_t *list = json_object_get(row, key);
    uint32_t count = (uint32_t)json_array_size(list);
    assert_in_range(count, 1, RIG_TOKENS);
    for (uint32_t i = 0; i < count; i++)
        out[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return count;
}

static lora_case read_case(const json_t *row) {
    lora_case c = {.name = vector_text(row, "name").at};
    c.id_count = read_numbers(row, "ids", (uint32_t *)c.ids);
    c.row_count = read_numbers(row, "rows", c.rows);
    c.offset = (size_t)json_integer_value(json_object_get(row, "offset"));
    return c;
}

static float *read_wanted(const lora_case *c, uint32_t vocab) {
    FILE *file = vector_open("lora/logits.f32");
    size_t count = (size_t)c->row_count * vocab;
    float *rows = mem_new(count, sizeof *rows);
    assert_int_equal(fseek(file, (long)(c->offset * sizeof *rows), SEEK_SET), 0);
    assert_int_equal(fread(rows, sizeof *rows, count, file), count);
    fclose(file);
    return rows;
}

typedef struct distance {
    double part_of_range, relative_rms;
} distance;

static distance measure(const lora_case *c, const float *seen, const float *wanted,
                        uint32_t vocab) {
    double low = INFINITY, high = -INFINITY, top = 0, square = 0, size = 0;
    for (size_t i = 0; i < (size_t)c->row_count * vocab; i++) {
        double w = (double)wanted[i];
        double d = fabs((double)seen[c->rows[i / vocab] * (size_t)vocab + i % vocab] - w);
        low = fmin(low, w), high = fmax(high, w);
        top = d <= top ? top : d; /* NaN wins */
        square += d * d, size += w * w;
    }
    return (distance){top / (high - low), sqrt(square / size)};
}

static void vector_path(char out[1024], const char *folder, const char *name) {
    snprintf(out, 1024, "%s/tests/vectors/%s/%s", TEST_SOURCE_DIR, folder, name);
}

/* A base is a GGUF file, or a folder beside the tokenizer that all share. */
static distance run_on(const kern_ops *ops, const lora_case *c, const char *base_name) {
    char base[1024], adapter[1024];
    vector_path(base, "families", base_name);
    vector_path(adapter, "lora", c->name);
    lora_rig r = rig_open(ops, base, adapter);
    uint32_t vocab = model_get_spec(r.m)->vocab;
    float *wanted = read_wanted(c, vocab), *seen = rig_run(&r, c->ids, c->id_count);
    distance d = measure(c, seen, wanted, vocab);
    free(wanted);
    free(seen);
    rig_close(&r);
    return d;
}

static void judge_all(const kern_ops *ops, uint32_t fewest) {
    FILE *file = vector_open("lora/cases.jsonl");
    uint32_t judged = 0, wrong = 0;
    assert_non_null(file);
    for (json_t *row; (row = vector_next(file)); json_decref(row)) {
        lora_case c = read_case(row);
        const json_t *bases = json_object_get(row, "bases");
        for (size_t i = 0; i < json_array_size(bases); i++, judged++) {
            const char *base = json_string_value(json_array_get(bases, i));
            distance d = run_on(ops, &c, base);
            bool close = ops == &kern_ref ? d.part_of_range <= REF_TOLERANCE
                                          : d.relative_rms <= CPU_TOLERANCE;
            if (close) continue;
            wrong++;
            print_error("%s on %s: %.2e of the range, rms %.2e\n", c.name, base, d.part_of_range,
                        d.relative_rms);
        }
    }
    fclose(file);
    assert_int_equal(wrong, 0);
    assert_true(judged >= fewest);
}

/* Every family and feature, on folder and GGUF file. */
static void ref_gives_the_logits_of_peft(void **state) {
    (void)state;
    judge_all(&kern_ref, 40);
}

static void cpu_is_near_them(void **state) {
    (void)state;
    if (kern_cpu_best_level() == LEVEL_AUTO) skip();
    judge_all(&kern_cpu, 40);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_gives_the_logits_of_peft),
        cmocka_unit_test(cpu_is_near_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
