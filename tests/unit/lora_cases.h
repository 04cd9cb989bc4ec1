/* lora_cases.h - the cases of tests/vectors/lora: an adapter, the bases it goes onto, a prompt and rows of
 * peft's logits. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_LORA_CASES_H
#define ESPALIER_TESTS_LORA_CASES_H

#include <math.h>

#include "tests/unit/lora_rig.h"
#include "tests/unit/vector_file.h"

typedef struct lora_case {
    const char *name;
    int32_t ids[RIG_TOKENS];
    uint32_t rows[RIG_TOKENS], id_count, row_count;
    size_t offset; /* of the first row's logits, in floats */
} lora_case;

static inline uint32_t lora_case_numbers(const json_t *row, const char *key, uint32_t *out) {
    const json_t *list = json_object_get(row, key);
    uint32_t count = (uint32_t)json_array_size(list);
    assert_in_range(count, 1, RIG_TOKENS);
    for (uint32_t i = 0; i < count; i++)
        out[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return count;
}

static inline lora_case lora_case_read(const json_t *row) {
    lora_case c = {.name = vector_text(row, "name").at};
    c.id_count = lora_case_numbers(row, "ids", (uint32_t *)c.ids);
    c.row_count = lora_case_numbers(row, "rows", c.rows);
    c.offset = (size_t)json_integer_value(json_object_get(row, "offset"));
    return c;
}

/* fn for each case on each of its bases; how often that was. */
static inline uint32_t lora_case_each(void (*fn)(const lora_case *c, const char *base, void *arg),
                                      void *arg) {
    FILE *file = vector_open("lora/cases.jsonl");
    uint32_t count = 0;
    assert_non_null(file);
    for (json_t *row; (row = vector_next(file)); json_decref(row)) {
        lora_case c = lora_case_read(row);
        const json_t *bases = json_object_get(row, "bases");
        for (size_t i = 0; i < json_array_size(bases); i++, count++)
            fn(&c, json_string_value(json_array_get(bases, i)), arg);
    }
    fclose(file);
    return count;
}

static inline void lora_case_path(char out[1024], const char *folder, const char *name) {
    snprintf(out, 1024, "%s/tests/vectors/%s/%s", TEST_SOURCE_DIR, folder, name);
}

typedef struct lora_distance {
    double part_of_range, relative_rms;
} lora_distance;

/* Of a model's logits to the case's. */
static inline lora_distance lora_case_judge(const lora_case *c, lora_rig *r) {
    uint32_t vocab = rig_vocab(r);
    size_t count = (size_t)c->row_count * vocab;
    FILE *file = vector_open("lora/logits.f32");
    float *wanted = mem_new(count, sizeof *wanted), *seen = rig_run(r, c->ids, c->id_count);
    double low = INFINITY, high = -INFINITY, top = 0, square = 0, size = 0;
    assert_int_equal(fseek(file, (long)(c->offset * sizeof *wanted), SEEK_SET), 0);
    assert_int_equal(fread(wanted, sizeof *wanted, count, file), count);
    fclose(file);
    for (size_t i = 0; i < count; i++) {
        double w = (double)wanted[i];
        double d = fabs((double)seen[c->rows[i / vocab] * (size_t)vocab + i % vocab] - w);
        low = fmin(low, w), high = fmax(high, w);
        top = d <= top ? top : d; /* NaN wins */
        square += d * d, size += w * w;
    }
    free(wanted);
    free(seen);
    return (lora_distance){top / (high - low), sqrt(square / size)};
}

#endif
