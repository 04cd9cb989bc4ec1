/* test_embedding_adapters.c - adapters of models that embed, against peft: tests/vectors/embedding-lora (made by
 * make_embedding_lora_vectors.py), on the tiny models of tests/vectors/encoders, through an engine.
 *
 *   ref   max |difference| <= 5e-6 of the vector's range
 *   cpu   cosine >= 0.9995; the same bits alone and beside other adapters, on one rank or two */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <math.h>

#include <cmocka.h>

#include "engine/adapters/adapters.h"
#include "engine/base/mem.h"
#include "engine/engine.h"
#include "engine/model/lora/lora_file.h"
#include "engine/model/model.h"
#include "tests/unit/tiny_engine.h"
#include "tests/unit/vector_file.h"

enum { WIDTH = 64, IDS_MAX = 32, CASES_MAX = 24, PAIRS_MIN = 28, REQUESTS = 40, PAGES = 16 };

/* A page of bert.gguf in float32: keys and values of 2 layers. */
enum { PAGE_F32 = 2 * 2 * WIDTH * 16 * 4 };

static const double REF_TOLERANCE = 5e-6, CPU_COSINE = 0.9995;

typedef struct embedding_case {
    char name[32], path[1024];
    const json_t *bases; /* of row */
    json_t *row;
    int32_t ids[IDS_MAX];
    uint32_t id_count;
    float wanted[WIDTH];
} embedding_case;

static embedding_case cases[CASES_MAX];
static uint32_t case_count;

static void read_case(embedding_case *c, json_t *row, FILE *numbers) {
    const json_t *ids = json_object_get(row, "ids");
    long offset = (long)json_integer_value(json_object_get(row, "offset"));
    c->row = row;
    c->bases = json_object_get(row, "bases");
    c->id_count = (uint32_t)json_array_size(ids);
    assert_in_range(c->id_count, 1, IDS_MAX);
    for (uint32_t i = 0; i < c->id_count; i++)
        c->ids[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    snprintf(c->name, sizeof c->name, "%s", vector_text(row, "name").at);
    snprintf(c->path, sizeof c->path, "%s/tests/vectors/embedding-lora/%s", TEST_SOURCE_DIR,
             vector_text(row, "name").at);
    assert_int_equal(fseek(numbers, offset * (long)sizeof(float), SEEK_SET), 0);
    assert_int_equal(fread(c->wanted, sizeof c->wanted, 1, numbers), 1);
}

static int read_cases(void **state) {
    (void)state;
    FILE *file = vector_open("embedding-lora/cases.jsonl");
    FILE *numbers = vector_open("embedding-lora/pooled.f32");
    assert_true(file && numbers);
    for (json_t *row; (row = vector_next(file));) {
        assert_true(case_count < CASES_MAX);
        read_case(&cases[case_count++], row, numbers);
    }
    fclose(file);
    fclose(numbers);
    return 0;
}

static int drop_cases(void **state) {
    (void)state;
    for (uint32_t i = 0; i < case_count; i++)
        json_decref(cases[i].row);
    return 0;
}

/* ---- engines ---- */

/* The case of a name, on the base's list. */
static bool goes_onto(const embedding_case *c, const char *base) {
    for (size_t i = 0; i < json_array_size(c->bases); i++)
        if (strcmp(json_string_value(json_array_get(c->bases, i)), base) == 0) return true;
    return false;
}

static void base_path(char out[1024], const char *base) {
    snprintf(out, 1024, "%s/tests/vectors/encoders/%s", TEST_SOURCE_DIR, base);
}

/* With all adapters of a base loaded, under the names of their cases. */
static engine *open_engine(const char *base, model_config config) {
    static char texts[CASES_MAX][1080];
    char path[1024];
    engine *e = NULL;
    esp_error err = {0};
    base_path(path, base);
    config.model_path = path;
    config.rank_patience_seconds = HANG_SECONDS;
    for (uint32_t i = 0; i < case_count; i++) {
        if (!goes_onto(&cases[i], base)) continue;
        snprintf(texts[i], sizeof texts[i], "%s=%s", cases[i].name, cases[i].path);
        config.adapters.at[config.adapters.count++] = texts[i];
    }
    if (engine_open(&e, &config, NULL, NULL, &err)) fail_msg("%s: %s", base, err.message);
    return e;
}

/* through NULL: the base. */
static request *submit(engine *e, const embedding_case *text, const embedding_case *through) {
    request_options o = {.prompt = text->ids,
                         .prompt_count = text->id_count,
                         .embedding_width = WIDTH,
                         .adapters = engine_adapters(e)};
    request *r = NULL;
    esp_error err = {0};
    if (through && adapters_find(o.adapters, through->name, &o.adapter, &err))
        fail_msg("%s", err.message);
    if (request_new(&r, &o, engine_spec(e)->vocab, &err)) fail_msg("%s", err.message);
    if (engine_submit(e, r, &err)) fail_msg("%s", err.message);
    return r;
}

static void take(request *r, float out[WIDTH]) {
    if (r->finish != FINISH_STOP) fail_msg("%s", r->error.message);
    memcpy(out, r->embedding, WIDTH * sizeof *out);
    request_unref(r);
}

static void embed_alone(engine *e, const embedding_case *text, const embedding_case *through,
                        float out[WIDTH]) {
    request *r = submit(e, text, through);
    while (!atomic_load(&r->done))
        engine_step_or_wait(e);
    take(r, out);
}

/* ---- against peft ---- */

static double part_of_range(const float *seen, const float *wanted) {
    double low = INFINITY, high = -INFINITY, top = 0;
    for (uint32_t i = 0; i < WIDTH; i++) {
        double w = (double)wanted[i], d = fabs((double)seen[i] - w);
        low = fmin(low, w), high = fmax(high, w);
        top = d <= top ? top : d; /* NaN wins */
    }
    return top / (high - low);
}

static double cosine(const float *a, const float *b) {
    double dot = 0, aa = 0, bb = 0;
    for (uint32_t i = 0; i < WIDTH; i++) {
        dot += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i], bb += (double)b[i] * (double)b[i];
    }
    return dot / sqrt(aa * bb);
}

static const char *const BASES[] = {"bert-folder", "bert.gguf", "qwen3-folder", "qwen3.gguf",
                                    "xlmr-folder"};
enum { BASE_COUNT = sizeof BASES / sizeof *BASES };

static void judge(device_kind device) {
    uint32_t judged = 0, wrong = 0;
    for (uint32_t b = 0; b < BASE_COUNT; b++) {
        engine *e = open_engine(BASES[b], (model_config){.device = device, .threads = 1});
        for (const embedding_case *c = cases; c < cases + case_count; c++) {
            float seen[WIDTH];
            if (!goes_onto(c, BASES[b])) continue;
            embed_alone(e, c, c, seen);
            double off = part_of_range(seen, c->wanted), like = cosine(seen, c->wanted);
            bool right = device == DEVICE_REF ? off <= REF_TOLERANCE : like >= CPU_COSINE;
            if (!right)
                print_error("%s on %s: %.2e of the range, cosine %.6f\n", c->name, BASES[b], off,
                            like);
            wrong += !right;
            judged++;
        }
        engine_close(e);
    }
    assert_true(judged >= PAIRS_MIN);
    assert_int_equal(wrong, 0);
}

static void ref_gives_the_vectors_of_peft(void **state) {
    (void)state;
    judge(DEVICE_REF);
}

static void cpu_is_near_them(void **state) {
    (void)state;
    if (kern_cpu_best_level() == LEVEL_AUTO) skip();
    judge(DEVICE_CPU);
}

/* ---- law 1 ---- */

/* Request i: a text of one case through the adapter of another; every fifth through the base. */
static const embedding_case *pick(const char *base, uint32_t number) {
    for (uint32_t i = 0;; i = (i + 1) % case_count)
        if (goes_onto(&cases[i], base) && number-- == 0) return &cases[i];
}

static request *submit_nth(engine *e, const char *base, uint32_t i) {
    return submit(e, pick(base, i * 3 % 7), i % 5 == 4 ? NULL : pick(base, i));
}

static void embed_all_alone(const char *base, model_config config, float out[REQUESTS][WIDTH]) {
    engine *e = open_engine(base, config);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        request *r = submit_nth(e, base, i);
        while (!atomic_load(&r->done))
            engine_step_or_wait(e);
        take(r, out[i]);
    }
    engine_close(e);
}

static uint64_t evictions(engine *e) {
    adapter_info *list;
    size_t count;
    uint64_t all = 0;
    adapters_list(engine_adapters(e), &list, &count);
    for (size_t i = 0; i < count; i++)
        all += list[i].evictions;
    free(list);
    return all;
}

/* Many at once, through all adapters of a base and none, some preempted, and in an arena that does not hold all
 * adapters, so that they come and go: each vector has the bits that it has alone. */
static void check_company(const char *base, model_config config) {
    static float alone[REQUESTS][WIDTH], seen[WIDTH];
    request *all[REQUESTS];
    config.threads = 1;
    embed_all_alone(base, config, alone);
    config.threads = 2;
    config.max_seqs = 8;
    config.kv_memory = PAGES * (config.device == DEVICE_REF ? PAGE_F32 : PAGE_F32 / 2);
    engine *e = open_engine(base, config);
    for (uint32_t i = 0; i < REQUESTS; i++)
        all[i] = submit_nth(e, base, i);
    for (uint32_t i = 0, step = 1; i < REQUESTS; step++) {
        engine_step_or_wait(e);
        engine_check(e);
        assert_true(step < 100000);
        if (step % 3 == 0) engine_preempt_newest(e);
        while (i < REQUESTS && atomic_load(&all[i]->done))
            i++;
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        take(all[i], seen);
        if (memcmp(seen, alone[i], sizeof seen)) fail_msg("%s: request %u has other bits", base, i);
    }
    if (strcmp(base, "bert.gguf") == 0) assert_true(evictions(e) > 0);
    engine_close(e);
}

static void company_changes_no_bit(void **state) {
    (void)state;
    check_company("bert.gguf", (model_config){.device = DEVICE_REF});
    for (kern_level level = LEVEL_AVX2; level <= kern_cpu_best_level(); level++) {
        check_company("bert.gguf", (model_config){.device = DEVICE_CPU, .level = level});
        check_company("qwen3.gguf", (model_config){.device = DEVICE_CPU, .level = level});
    }
}

/* Rows and columns of the updates are cut as the base's are. */
static void two_ranks_give_the_vectors_of_peft(void **state) {
    (void)state;
    engine *e =
        open_engine("bert-folder", (model_config){.device = DEVICE_REF, .threads = 2, .tp = 2});
    for (const embedding_case *c = cases; c < cases + case_count; c++) {
        float seen[WIDTH];
        if (!goes_onto(c, "bert-folder")) continue;
        embed_alone(e, c, c, seen);
        if (part_of_range(seen, c->wanted) > REF_TOLERANCE) fail_msg("%s", c->name);
    }
    engine_close(e);
}

/* ---- what is refused ---- */

typedef struct bad_pair {
    const char *adapter, *base, *wanted; /* adapter: behind tests/vectors/ */
} bad_pair;

static void another_base_is_refused(void **state) {
    (void)state;
    static const bad_pair pairs[] = {
        {"lora/llama-all", "encoders/bert-folder",
         "is of a decoder; the base bert-folder is an encoder"},
        {"lora/llama-all.gguf", "encoders/bert.gguf", "general.architecture is \"llama\""},
        {"embedding-lora/bert-all", "families/llama3",
         "is of an encoder; the base llama3 is a decoder"},
        {"embedding-lora/bert-all", "encoders/qwen3-folder", "is of an encoder"},
        {"embedding-lora/bert-all.gguf", "families/llama3.gguf",
         "general.architecture is \"bert\""},
        {"embedding-lora/bert-all", "encoders/xlmr-folder",
         "is of layer 1; the base xlmr-folder has 1"},
        {"embedding-lora/xlmr-all", "encoders/bert-folder", "wants"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char path[1024];
        model_file *base = NULL;
        lora_file *file = NULL;
        esp_error err = {0};
        snprintf(path, sizeof path, "%s/tests/vectors/%s", TEST_SOURCE_DIR, pairs[i].base);
        if (model_file_open(&base, path, &err)) fail_msg("%s", err.message);
        snprintf(path, sizeof path, "%s/tests/vectors/%s", TEST_SOURCE_DIR, pairs[i].adapter);
        assert_int_equal(lora_file_open(&file, path, model_file_weights(base), &err), ESP_INVALID);
        if (!strstr(err.message, pairs[i].wanted))
            fail_msg("wanted \"%s\" in \"%s\"", pairs[i].wanted, err.message);
        model_file_close(base);
    }
}

typedef struct adapter_bytes {
    char *config, *tensors;
    size_t config_bytes, tensor_bytes;
} adapter_bytes;

static char *read_file(const char *name, size_t *bytes) {
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/vectors/embedding-lora/%s", TEST_SOURCE_DIR, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *out = mem_new(1 << 20, 1);
    *bytes = fread(out, 1, 1 << 20, file);
    fclose(file);
    return out;
}

/* The first place of a text becomes another of its length. */
static void replace(char *bytes, size_t count, const char *from, const char *to) {
    char *at = memmem(bytes, count, from, strlen(from));
    assert_non_null(at);
    assert_int_equal(strlen(from), strlen(to));
    memcpy(at, to, strlen(to));
}

typedef struct spoiled_case {
    const char *from, *to, *wanted;
    bool in_config;
} spoiled_case;

/* bert-all with one thing changed. */
static void each_fault_is_named(void **state) {
    (void)state;
    static const spoiled_case faults[] = {
        {"encoder.layer.0.attention.self.query.lora_A",
         "encoder.layer.0.attention.self.quary.lora_A",
         "attention.self.quary.lora_A.weight is no part of an adapter", false},
        {"encoder.layer.0.attention.self.query.lora_A",
         "encoder.layer.0.attention.self.query.lora_C", "is no part of an adapter", false},
        {"encoder.layer.1.output.dense.lora_B", "encoder.layer.7.output.dense.lora_B",
         "is of layer 7; the base bert.gguf has 2", false},
        {"encoder.layer.1.output.dense.lora_B.weight", "encoder.layer.1.output.dense.base_weight.x",
         "is no part of an adapter", false},
        {"pooler.dense.lora_A", "pooler.dance.lora_A", "is no part of an adapter", false},
        {"[4,96]", "[6,64]", "has rank 6; its B has 4", false},
        {"\"r\": 4", "\"r\": 5", "has rank 4; the config (r, rank_pattern) wants 5", true},
        {"\"lora_alpha\": 12", "\"lora_alpha\": -2", "lora_alpha is -2", true},
        {"0.attention.self.query\"", "0.attention.self.quary\"", "does not target", true},
    };
    char path[1024];
    model_file *base = NULL;
    esp_error err = {0};
    base_path(path, "bert.gguf");
    if (model_file_open(&base, path, &err)) fail_msg("%s", err.message);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        const spoiled_case *f = &faults[i];
        adapter_bytes a;
        lora_file *file = NULL;
        a.config = read_file("bert-all/adapter_config.json", &a.config_bytes);
        a.tensors = read_file("bert-all/adapter_model.safetensors", &a.tensor_bytes);
        replace(f->in_config ? a.config : a.tensors, f->in_config ? a.config_bytes : a.tensor_bytes,
                f->from, f->to);
        esp_code code = lora_file_open_memory(&file, a.config, a.config_bytes, a.tensors,
                                              a.tensor_bytes, model_file_weights(base), &err);
        if (code != ESP_INVALID || !strstr(err.message, f->wanted))
            fail_msg("wanted \"%s\" in \"%s\"", f->wanted, err.message);
        free(a.config);
        free(a.tensors);
    }
    model_file_close(base);
}

/* Without a base its own names say what it is of. */
static void facts_are_told_without_a_base(void **state) {
    (void)state;
    lora_file *file = NULL;
    esp_error err = {0};
    if (lora_file_open(&file, TEST_SOURCE_DIR "/tests/vectors/embedding-lora/bert-all", NULL, &err))
        fail_msg("%s", err.message);
    const lora_facts *facts = lora_file_facts(file);
    static const char *const wanted[] = {
        "query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"};
    assert_int_equal(facts->target_count, 6);
    for (uint32_t i = 0; i < 6; i++)
        assert_string_equal(facts->targets[i], wanted[i]);
    assert_int_equal(facts->updates, 12);
    assert_string_equal(facts->task, "FEATURE_EXTRACTION");
    lora_file_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_gives_the_vectors_of_peft),
        cmocka_unit_test(cpu_is_near_them),
        cmocka_unit_test(company_changes_no_bit),
        cmocka_unit_test(two_ranks_give_the_vectors_of_peft),
        cmocka_unit_test(another_base_is_refused),
        cmocka_unit_test(each_fault_is_named),
        cmocka_unit_test(facts_are_told_without_a_base),
    };
    return cmocka_run_group_tests(tests, read_cases, drop_cases);
}
