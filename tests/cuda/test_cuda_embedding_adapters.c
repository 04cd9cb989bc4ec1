/* test_cuda_embedding_adapters.c - an encoder's adapters on a CUDA device: texts through two adapters and the base
 * in one batch come near peft's vectors (tests/vectors/embedding-lora) and have the bits that they have alone. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <math.h>

#include <cmocka.h>

#include "engine/adapters/adapters.h"
#include "engine/engine.h"
#include "tests/unit/vector_file.h"

enum { WIDTH = 64, IDS_MAX = 32, ADAPTERS = 2, TEXTS = ADAPTERS + 1 };

static const double COSINE_MIN = 0.9995;
static const char *const NAMES[TEXTS] = {"bert-all", "bert-words", NULL}; /* NULL: the base */

typedef struct text {
    int32_t ids[IDS_MAX];
    uint32_t count;
    float wanted[WIDTH]; /* through the adapter of the text's own number */
} text;

static text texts[ADAPTERS];

static void read_text(const json_t *row, FILE *numbers, text *out) {
    const json_t *ids = json_object_get(row, "ids");
    long offset = (long)json_integer_value(json_object_get(row, "offset"));
    out->count = (uint32_t)json_array_size(ids);
    assert_in_range(out->count, 1, IDS_MAX);
    for (uint32_t i = 0; i < out->count; i++)
        out->ids[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    assert_int_equal(fseek(numbers, offset * (long)sizeof(float), SEEK_SET), 0);
    assert_int_equal(fread(out->wanted, sizeof out->wanted, 1, numbers), 1);
}

static int read_texts(void **state) {
    (void)state;
    FILE *file = vector_open("embedding-lora/cases.jsonl");
    FILE *numbers = vector_open("embedding-lora/pooled.f32");
    assert_true(file && numbers);
    for (json_t *row; (row = vector_next(file)); json_decref(row))
        for (uint32_t i = 0; i < ADAPTERS; i++)
            if (strcmp(vector_text(row, "name").at, NAMES[i]) == 0)
                read_text(row, numbers, &texts[i]);
    fclose(file);
    fclose(numbers);
    return 0;
}

static engine *open_engine(void) {
    static char values[ADAPTERS][1024];
    model_config config = {.model_path = TEST_SOURCE_DIR "/tests/vectors/encoders/bert.gguf",
                           .device = DEVICE_CUDA,
                           .threads = 1,
                           .max_seqs = 4,
                           .kv_memory = 4 << 20,
                           .adapters = {.count = ADAPTERS}};
    engine *e = NULL;
    esp_error err = {0};
    for (uint32_t i = 0; i < ADAPTERS; i++) {
        snprintf(values[i], sizeof values[i], "%s=%s/tests/vectors/embedding-lora/%s", NAMES[i],
                 TEST_SOURCE_DIR, NAMES[i]);
        config.adapters.at[i] = values[i];
    }
    if (engine_open(&e, &config, NULL, NULL, &err)) fail_msg("%s", err.message);
    return e;
}

static request *submit(engine *e, uint32_t number) {
    const text *t = &texts[number % ADAPTERS];
    request_options o = {.prompt = t->ids,
                         .prompt_count = t->count,
                         .embedding_width = WIDTH,
                         .adapters = engine_adapters(e)};
    request *r = NULL;
    esp_error err = {0};
    if (NAMES[number] && adapters_find(o.adapters, NAMES[number], &o.adapter, &err))
        fail_msg("%s", err.message);
    if (request_new(&r, &o, engine_spec(e)->vocab, &err) || engine_submit(e, r, &err))
        fail_msg("%s", err.message);
    return r;
}

static void take(engine *e, request *r, float out[WIDTH]) {
    while (!atomic_load(&r->done))
        engine_step_or_wait(e);
    if (r->finish != FINISH_STOP) fail_msg("%s", r->error.message);
    memcpy(out, r->embedding, WIDTH * sizeof *out);
    request_unref(r);
}

static double cosine(const float *a, const float *b) {
    double dot = 0, aa = 0, bb = 0;
    for (uint32_t i = 0; i < WIDTH; i++) {
        dot += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i], bb += (double)b[i] * (double)b[i];
    }
    return dot / sqrt(aa * bb);
}

static void an_encoder_takes_adapters(void **state) {
    (void)state;
    float alone[TEXTS][WIDTH], together[WIDTH];
    request *all[TEXTS];
    engine *e = open_engine();
    for (uint32_t i = 0; i < TEXTS; i++)
        take(e, submit(e, i), alone[i]);
    for (uint32_t i = 0; i < ADAPTERS; i++)
        assert_true(cosine(alone[i], texts[i].wanted) >= COSINE_MIN);
    assert_true(cosine(alone[ADAPTERS], texts[0].wanted) < COSINE_MIN); /* no adapter */
    for (uint32_t i = 0; i < TEXTS; i++)
        all[i] = submit(e, i);
    for (uint32_t i = 0; i < TEXTS; i++) {
        take(e, all[i], together);
        assert_memory_equal(together, alone[i], sizeof together);
    }
    engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_encoder_takes_adapters),
    };
    return cmocka_run_group_tests(tests, read_texts, NULL);
}
