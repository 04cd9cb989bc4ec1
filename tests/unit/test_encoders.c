/* test_encoders.c - models that embed against the reference implementation: the tiny models of
 * tests/vectors/encoders (made by make_encoder_vectors.py), opened, packed and run by ref and cpu.
 *
 *   ref   max |difference| <= 5e-6 of the states' range, whichever way they are pooled
 *   cpu   cosine >= 0.9999, the same bits whatever rides along and however many threads
 *   twins the states of a model with one thing wrong are missed by at least five tolerances */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <math.h>

#include <cmocka.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "engine/engine.h"
#include "engine/model/model.h"
#include "tests/unit/tiny_engine.h"
#include "tests/unit/vector_file.h"

enum { WIDTH = 64, CONTEXT = 96, PAGES = CONTEXT / KV_PAGE_TOKENS, CASES_MAX = 64, POOLINGS = 3 };

static const double REF_TOLERANCE = 5e-6, CPU_COSINE = 0.9999;

/* The format's numbers of mean, first and last, in the order of a case's rows. */
static const uint8_t POOLING_KEYS[POOLINGS] = {1, 2, 3};

/* --- the vectors ---------------------------------------------------------------------------- */

typedef struct pooled_case {
    char model[8], spoiled[48]; /* spoiled "": the reference */
    int32_t ids[CONTEXT];
    uint32_t id_count;
    float rows[POOLINGS][WIDTH];
} pooled_case;

static pooled_case cases[CASES_MAX];
static uint32_t case_count;

static void read_rows(pooled_case *c, FILE *numbers, const json_t *row) {
    long offset = (long)json_integer_value(json_object_get(row, "offset"));
    assert_int_equal(fseek(numbers, offset * (long)sizeof(float), SEEK_SET), 0);
    assert_int_equal(fread(c->rows, sizeof c->rows, 1, numbers), 1);
}

static int read_cases(void **state) {
    (void)state;
    FILE *file = vector_open("encoders/cases.jsonl"), *numbers = vector_open("encoders/pooled.f32");
    assert_true(file && numbers);
    for (json_t *row; (row = vector_next(file)); json_decref(row)) {
        assert_true(case_count < CASES_MAX);
        pooled_case *c = &cases[case_count++];
        snprintf(c->model, sizeof c->model, "%s", vector_text(row, "model").at);
        snprintf(c->spoiled, sizeof c->spoiled, "%s", vector_text(row, "spoiled").at);
        const json_t *ids = json_object_get(row, "ids");
        c->id_count = (uint32_t)json_array_size(ids);
        assert_true(c->id_count <= CONTEXT);
        for (uint32_t i = 0; i < c->id_count; i++)
            c->ids[i] = (int32_t)json_integer_value(json_array_get(ids, i));
        read_rows(c, numbers, row);
    }
    fclose(file);
    fclose(numbers);
    return 0;
}

/* --- a model on a device -------------------------------------------------------------------- */

/* A model's GGUF file with another pooling type written into it; free() it. */
static uint8_t *read_model(const char *name, uint32_t pooling, size_t *bytes) {
    char path[1024], key[32];
    snprintf(path, sizeof path, "%s/tests/vectors/encoders/%s.gguf", TEST_SOURCE_DIR, name);
    snprintf(key, sizeof key, "%s.pooling_type", name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    uint8_t *out = mem_new(1 << 20, 1);
    *bytes = fread(out, 1, 1 << 20, file);
    fclose(file);
    uint8_t *at = memmem(out, *bytes, key, strlen(key));
    assert_non_null(at);
    at[strlen(key) + sizeof(uint32_t)] = POOLING_KEYS[pooling]; /* behind the value's type */
    return out;
}

typedef struct rig {
    const kern_ops *ops;
    kern_device *dev;
    thread_pool *pool;
    model *m;
    void *arena;
    size_t arena_bytes;
} rig;

static rig open_rig(const char *name, uint32_t pooling, const kern_ops *ops, kern_level level,
                    uint32_t threads) {
    rig r = {.ops = ops};
    model_file *file;
    esp_error err = {0};
    assert_int_equal(pool_open(&r.pool, threads, &err), ESP_OK);
    kern_options options = {.pool = r.pool,
                            .level = level,
                            .kv_dtype = ops == &kern_ref ? DT_F32 : DT_BF16,
                            .tokens_max = 3 * CONTEXT};
    assert_int_equal(ops->open(&r.dev, &options, &err), ESP_OK);
    size_t bytes;
    uint8_t *gguf = read_model(name, pooling, &bytes);
    if (model_file_open_memory(&file, gguf, bytes, name, &err)) fail_msg("%s", err.message);
    model_options wanted = {.ops = ops,
                            .dev = r.dev,
                            .tokens_max = 3 * CONTEXT,
                            .rows_max = 3,
                            .context_max = model_file_spec(file)->context};
    if (wanted.context_max > CONTEXT) wanted.context_max = CONTEXT;
    assert_int_equal(model_open(&r.m, file, &wanted, &err), ESP_OK);
    model_file_close(file);
    free(gguf);
    r.arena_bytes = 3 * PAGES * ops->frame_bytes(r.dev, model_kv_shape(r.m));
    assert_int_equal(ops->alloc(r.dev, r.arena_bytes, &r.arena, &err), ESP_OK);
    return r;
}

static void close_rig(rig *r) {
    r->ops->release(r->dev, r->arena, r->arena_bytes);
    model_close(r->m);
    r->ops->close(r->dev);
    pool_close(r->pool);
}

/* Tokens [first, first + count) of up to three prompts at once; the vectors stay in the model. */
static const float *run(rig *r, const pooled_case *const *prompts, uint32_t seqs, uint32_t first,
                        uint32_t count_max) {
    enum { T = 3 * CONTEXT };
    int32_t ids[T], slots[3] = {BATCH_NO_ADAPTER, BATCH_NO_ADAPTER, BATCH_NO_ADAPTER};
    uint32_t positions[T], token_seq[T], seq_first[3], seq_tokens[3], cached[3], rows[3];
    uint32_t tables[3 * PAGES];
    uint8_t none_long[3] = {0};
    step_batch b = {.seq_count = seqs,
                    .group_count = 1,
                    .table_stride = PAGES,
                    .ids = ids,
                    .positions = positions,
                    .token_seq = token_seq,
                    .seq_first = seq_first,
                    .seq_tokens = seq_tokens,
                    .seq_cached = cached,
                    .seq_adapter = slots,
                    .seq_long = none_long,
                    .tables = tables,
                    .rows = rows};
    for (uint32_t s = 0; s < seqs; s++) {
        uint32_t left = prompts[s]->id_count - first, count = left < count_max ? left : count_max;
        seq_first[s] = b.token_count;
        seq_tokens[s] = count;
        cached[s] = first;
        for (uint32_t i = 0; i < count; i++, b.token_count++) {
            ids[b.token_count] = prompts[s]->ids[first + i];
            positions[b.token_count] = first + i;
            token_seq[b.token_count] = s;
        }
        if (count == left) rows[b.row_count++] = b.token_count - 1;
    }
    for (uint32_t i = 0; i < seqs * PAGES; i++)
        tables[i] = (i * 7 + 3) % (seqs * PAGES); /* neighbours in a sequence are none in memory */
    esp_error err = {0};
    assert_int_equal(model_forward(r->m, &b, NULL, r->arena, &err), ESP_OK);
    const float *pooled;
    assert_int_equal(model_pooled(r->m, &pooled, &err), ESP_OK);
    return pooled;
}

/* --- comparisons ---------------------------------------------------------------------------- */

/* The largest difference as a part of the range of what is wanted, once that is normalised too. */
static double difference(const float *seen, const float *wanted) {
    double length = 0, low = INFINITY, high = -INFINITY, top = 0;
    for (uint32_t i = 0; i < WIDTH; i++)
        length += (double)wanted[i] * (double)wanted[i];
    for (uint32_t i = 0; i < WIDTH; i++) {
        double w = (double)wanted[i] / sqrt(length), d = fabs((double)seen[i] - w);
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

static bool is_prompt(const pooled_case *c, const char *name) {
    return !c->spoiled[0] && strcmp(c->model, name) == 0;
}

static const char *const MODELS[] = {"bert", "qwen3"};

/* The largest difference over the three poolings of what ref makes of prompt to what c has. */
static double distance_to(rig *rigs, const pooled_case *prompt, const pooled_case *c) {
    double most = 0;
    for (uint32_t p = 0; p < POOLINGS; p++)
        most = fmax(most, difference(run(&rigs[p], &prompt, 1, 0, CONTEXT), c->rows[p]));
    return most;
}

static void ref_gives_the_reference_vectors(void **state) {
    (void)state;
    uint32_t judged = 0, folders = 0;
    for (const pooled_case *c = cases; c < cases + case_count; c++)
        folders += strcmp(c->model, "xlmr") == 0; /* there is no GGUF file of it */
    for (uint32_t n = 0; n < 2; n++) {
        rig rigs[POOLINGS];
        for (uint32_t p = 0; p < POOLINGS; p++)
            rigs[p] = open_rig(MODELS[n], p, &kern_ref, LEVEL_AUTO, 2);
        const pooled_case *prompt = NULL;
        for (const pooled_case *c = cases; c < cases + case_count; c++) {
            if (strcmp(c->model, MODELS[n])) continue;
            if (!c->spoiled[0]) prompt = c;
            double d = distance_to(rigs, prompt, c);
            bool right = c->spoiled[0] ? d >= 5 * REF_TOLERANCE : d <= REF_TOLERANCE;
            if (!right)
                print_error("%s, %u tokens, %s: %.2e of the range\n", c->model, c->id_count,
                            c->spoiled[0] ? c->spoiled : "reference", d);
            assert_true(right);
            judged++;
        }
        for (uint32_t p = 0; p < POOLINGS; p++)
            close_rig(&rigs[p]);
    }
    assert_int_equal(judged + folders, case_count);
    assert_true(judged > 30);
}

static void cpu_is_near_the_reference(void **state) {
    (void)state;
    for (kern_level level = LEVEL_AVX2; level <= kern_cpu_best_level(); level++)
        for (uint32_t n = 0; n < 2 * POOLINGS; n++) {
            rig r = open_rig(MODELS[n % 2], n / 2, &kern_cpu, level, 2);
            for (const pooled_case *c = cases; c < cases + case_count; c++) {
                if (!is_prompt(c, MODELS[n % 2])) continue;
                double seen = cosine(run(&r, &c, 1, 0, CONTEXT), c->rows[n / 2]);
                if (!(seen >= CPU_COSINE))
                    print_error("%s, %u tokens: cosine %.6f\n", c->model, c->id_count, seen);
                assert_true(seen >= CPU_COSINE);
            }
            close_rig(&r);
        }
}

/* Law 1: a text's vector does not depend on those that are computed with it, nor on the threads. */
static void company_changes_no_bit(void **state) {
    (void)state;
    for (kern_level level = LEVEL_AVX2; level <= kern_cpu_best_level(); level++)
        for (uint32_t n = 0; n < 2; n++) {
            const pooled_case *prompts[3];
            uint32_t count = 0;
            for (const pooled_case *c = cases; c < cases + case_count && count < 3; c++)
                if (is_prompt(c, MODELS[n])) prompts[count++] = c;
            float alone[3][WIDTH];
            rig one = open_rig(MODELS[n], 0, &kern_cpu, level, 1);
            for (uint32_t i = 0; i < 3; i++)
                memcpy(alone[i], run(&one, &prompts[i], 1, 0, CONTEXT), sizeof alone[i]);
            rig many = open_rig(MODELS[n], 0, &kern_cpu, level, 3);
            assert_memory_equal(run(&many, prompts, 3, 0, CONTEXT), alone, sizeof alone);
            close_rig(&one);
            close_rig(&many);
        }
}

/* A decoder that takes the last token's state may compute a text in chunks. */
static void chunks_of_a_decoder_change_no_bit(void **state) {
    (void)state;
    static const uint32_t chunks[] = {1, 7, 16, 33};
    rig r = open_rig("qwen3", 2, &kern_cpu, LEVEL_AUTO, 2);
    for (const pooled_case *c = cases; c < cases + case_count; c++) {
        if (!is_prompt(c, "qwen3")) continue;
        float whole[WIDTH];
        memcpy(whole, run(&r, &c, 1, 0, CONTEXT), sizeof whole);
        for (uint32_t i = 0; i < 4; i++) {
            const float *pieces = NULL;
            for (uint32_t first = 0; first < c->id_count; first += chunks[i])
                pieces = run(&r, &c, 1, first, chunks[i]);
            assert_memory_equal(pieces, whole, sizeof whole);
        }
    }
    close_rig(&r);
}

/* --- through an engine ---------------------------------------------------------------------- */

static engine *open_engine(const char *name, model_config config) {
    char path[1024];
    esp_error err = {0};
    engine *e;
    snprintf(path, sizeof path, "%s/tests/vectors/encoders/%s", TEST_SOURCE_DIR, name);
    config.model_path = path;
    config.rank_patience_seconds = HANG_SECONDS;
    if (engine_open(&e, &config, NULL, NULL, &err)) fail_msg("%s", err.message);
    return e;
}

static request *submit(engine *e, const pooled_case *c) {
    const request_options options = {
        .prompt = c->ids, .prompt_count = c->id_count, .embedding_width = WIDTH};
    request *r;
    esp_error err = {0};
    assert_int_equal(request_new(&r, &options, engine_spec(e)->vocab, &err), ESP_OK);
    if (engine_submit(e, r, &err)) fail_msg("%s", err.message);
    return r;
}

static void run_to_the_end(engine *e) {
    for (uint32_t step = 0; engine_step(e); step++) {
        assert_true(step < 1000);
        engine_check(e);
    }
}

/* Many at once, more than a step or the pages hold, some preempted: each has the bits that it has
 * alone, on one rank or two. */
static void an_engine_gives_the_same_vectors_in_any_company(void **state) {
    (void)state;
    for (uint32_t n = 0; n < 4; n++) {
        uint32_t tp = n < 2 ? 1 : 2;
        const pooled_case *prompts[8];
        uint32_t count = 0;
        for (const pooled_case *c = cases; c < cases + case_count && count < 8; c++)
            if (is_prompt(c, MODELS[n % 2])) prompts[count++] = c;
        char name[16];
        snprintf(name, sizeof name, "%s.gguf", MODELS[n % 2]);
        const model_config lonely = {.threads = 1, .max_seqs = 1, .tp = tp};
        const model_config crowded = {
            .threads = 2, .step_tokens = n % 2 ? 40 : 70, .max_seqs = 8, .tp = tp};
        engine *alone = open_engine(name, lonely), *together = open_engine(name, crowded);
        request *one[8], *all[40];
        for (uint32_t i = 0; i < count; i++) {
            one[i] = submit(alone, prompts[i]);
            run_to_the_end(alone);
        }
        for (uint32_t i = 0; i < 40; i++)
            all[i] = submit(together, prompts[(i * 5 + i / 3) % count]);
        for (uint32_t step = 0; engine_step(together); step++)
            if (step % 3 == 0) engine_preempt_newest(together);
        for (uint32_t i = 0; i < 40; i++) {
            assert_int_equal(all[i]->finish, FINISH_STOP);
            assert_memory_equal(all[i]->embedding, one[(i * 5 + i / 3) % count]->embedding,
                                WIDTH * sizeof(float));
            request_unref(all[i]);
        }
        engine_stats stats;
        engine_read_stats(together, &stats);
        assert_int_equal(stats.embeddings_total, 40);
        assert_int_equal(stats.pages_used, 0);
        for (uint32_t i = 0; i < count; i++)
            request_unref(one[i]);
        engine_close(alone);
        engine_close(together);
    }
}

/* The vector of a prompt, on ref, with the folder's own pooling and tokenizer beside it. */
static void folder_vector(const char *folder, uint32_t tp, const pooled_case *prompt, float *out) {
    engine *e = open_engine(folder, (model_config){.threads = 2, .device = DEVICE_REF, .tp = tp});
    request *r = submit(e, prompt);
    run_to_the_end(e);
    assert_int_equal(r->finish, FINISH_STOP);
    memcpy(out, r->embedding, WIDTH * sizeof *out);
    request_unref(r);
    engine_close(e);
}

/* By config.json, modules.json and the names of the reference implementation; "bert." in front of
 * them, a pooler and stale position_ids change nothing, nor do XLM-R's positions begin at 0 or 1. */
static void folders_give_the_reference_vectors(void **state) {
    (void)state;
    static const struct {
        const char *model, *folder;
        uint32_t row;
    } folders[] = {
        {"bert", "bert-folder", 0}, {"qwen3", "qwen3-folder", 2}, {"xlmr", "xlmr-folder", 0}};
    uint32_t right = 0, spoiled = 0;
    for (size_t n = 0; n < 3; n++) {
        float seen[WIDTH];
        for (const pooled_case *c = cases; c < cases + case_count; c++) {
            if (strcmp(c->model, folders[n].model)) continue;
            if (!c->spoiled[0] && c->id_count > 48 && n == 0) continue; /* max_seq_length */
            if (!c->spoiled[0]) folder_vector(folders[n].folder, 1 + right % 2, c, seen);
            double d = difference(seen, c->rows[folders[n].row]);
            if (!c->spoiled[0]) assert_true(d <= REF_TOLERANCE);
            if (!c->spoiled[0]) right++;
            if (c->spoiled[0] && n == 2) assert_true(d >= 5 * REF_TOLERANCE);
            if (c->spoiled[0] && n == 2) spoiled++;
        }
    }
    assert_int_equal(right, 8);
    assert_int_equal(spoiled, 2);
}

/* sentence_bert_config.json's max_seq_length, not the positions nor the tokenizer's truncation. */
static void a_folder_says_its_longest_text(void **state) {
    (void)state;
    engine *e = open_engine("bert-folder", (model_config){.threads = 1});
    assert_int_equal(engine_context_max(e), 48);
    engine_close(e);
    e = open_engine("bert-folder", (model_config){.threads = 1, .max_context = 64});
    assert_int_equal(engine_context_max(e), 64);
    engine_close(e);
}

static void expect_refusal(engine *e, const request_options *options, esp_code wanted,
                           const char *says) {
    request *r;
    esp_error err = {0};
    assert_int_equal(request_new(&r, options, engine_spec(e)->vocab, &err), ESP_OK);
    assert_int_equal(engine_submit(e, r, &err), wanted);
    if (!strstr(err.message, says)) fail_msg("wanted \"%s\" in \"%s\"", says, err.message);
    request_unref(r);
}

static void an_encoder_refuses_what_it_cannot_do(void **state) {
    (void)state;
    static const int32_t ids[65] = {2};
    engine *e = open_engine("bert.gguf", (model_config){.threads = 1});
    expect_refusal(e,
                   &(request_options){.prompt = ids,
                                      .prompt_count = 3,
                                      .output_max = 1,
                                      .policy = {.top_p = 1, .repetition_penalty = 1}},
                   ESP_PRECONDITION, "generates none");
    expect_refusal(e,
                   &(request_options){.prompt = ids, .prompt_count = 65, .embedding_width = WIDTH},
                   ESP_INVALID, "at most 64");
    esp_error err = {0};
    assert_int_equal(engine_logits(e, NULL, ids, 3, NULL, NULL, &err), ESP_PRECONDITION);
    engine_close(e);
}

/* A step that cannot hold the longest text is refused when the engine opens. */
static void a_step_must_hold_the_longest_text(void **state) {
    (void)state;
    const model_config config = {.model_path = TEST_SOURCE_DIR "/tests/vectors/encoders/bert.gguf",
                                 .threads = 1,
                                 .step_tokens = 63};
    engine *e;
    esp_error err = {0};
    assert_int_equal(engine_open(&e, &config, NULL, NULL, &err), ESP_INVALID);
    assert_string_equal(err.field, "--step-tokens");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_gives_the_reference_vectors),
        cmocka_unit_test(cpu_is_near_the_reference),
        cmocka_unit_test(company_changes_no_bit),
        cmocka_unit_test(chunks_of_a_decoder_change_no_bit),
        cmocka_unit_test(an_engine_gives_the_same_vectors_in_any_company),
        cmocka_unit_test(folders_give_the_reference_vectors),
        cmocka_unit_test(a_folder_says_its_longest_text),
        cmocka_unit_test(an_encoder_refuses_what_it_cannot_do),
        cmocka_unit_test(a_step_must_hold_the_longest_text),
    };
    return cmocka_run_group_tests(tests, read_cases, NULL);
}
