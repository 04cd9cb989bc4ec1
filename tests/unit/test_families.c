/* test_families.c - every decoder family against the reference implementation: the tiny models of
 * tests/vectors/families, opened, packed and run by ref and cpu. As GGUF (make_family_vectors.py,
 * make_block_vectors.py), and as Hugging Face folders (make_folder_vectors.py), where many configs
 * share the weights of one folder: a folder of the weights and one config is put together for each.
 *
 *   ref   max |difference| <= 2e-5 of the logits' range, and 32 greedy tokens equal
 *   cpu   relative rms difference <= 3%, the same bits whatever the chunks of the prefill
 *   twins the logits of a model with one thing wrong are missed by at least five tolerances */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <dirent.h>
#include <math.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "engine/engine.h"
#include "engine/model/model.h"
#include "tests/unit/vector_file.h"

enum { CONTEXT = 160, PAGES = CONTEXT / KV_PAGE_TOKENS, GREEDY_MAX = 32 };
enum { CASES_MAX = 256, SOURCES_MAX = 128 };

static const double REF_TOLERANCE = 2e-5, CPU_TOLERANCE = 0.03;

static const char *const GGUF_MODELS[] = {"llama3", "qwen2", "qwen3",   "gemma3", "gemma2",
                                          "phi3",   "phi4",  "mistral", "blocks"};

/* --- the vectors ---------------------------------------------------------------------------- */

typedef struct family_case {
    char model[32], spoiled[48]; /* spoiled "": the reference */
    int32_t ids[CONTEXT], greedy[GREEDY_MAX];
    uint32_t id_count, greedy_count, row_count;
    uint32_t rows[CONTEXT];
    size_t offset; /* of the first row's logits in the model's .f32 file, in floats */
} family_case;

static family_case cases[CASES_MAX];
static uint32_t case_count;

static uint32_t read_numbers(const json_t *row, const char *key, uint32_t max, uint32_t *out) {
    const json_t *list = json_object_get(row, key);
    uint32_t count = (uint32_t)json_array_size(list);
    assert_true(count <= max);
    for (uint32_t i = 0; i < count; i++)
        out[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return count;
}

static void read_cases(const char *from) {
    FILE *file = vector_open(from);
    assert_non_null(file);
    for (json_t *row; (row = vector_next(file)); json_decref(row)) {
        assert_true(case_count < CASES_MAX);
        family_case *c = &cases[case_count++];
        tok_text name = vector_text(row, "model"), spoiled = vector_text(row, "spoiled");
        snprintf(c->model, sizeof c->model, "%s", name.at);
        snprintf(c->spoiled, sizeof c->spoiled, "%s", spoiled.at ? spoiled.at : "");
        c->id_count = read_numbers(row, "ids", CONTEXT - GREEDY_MAX, (uint32_t *)c->ids);
        c->greedy_count = read_numbers(row, "greedy", GREEDY_MAX, (uint32_t *)c->greedy);
        c->row_count = read_numbers(row, "rows", CONTEXT, c->rows);
        c->offset = (size_t)json_integer_value(json_object_get(row, "offset"));
    }
    fclose(file);
}

/* A file or folder that the cases of a model are run on. */
typedef struct family_source {
    char model[32];
    char folder[32], config[48]; /* folder "": model.gguf */
} family_source;

static family_source sources[SOURCES_MAX];
static uint32_t source_count;

static void read_sources(void) {
    FILE *file = vector_open("families/folders.jsonl");
    assert_non_null(file);
    for (size_t i = 0; i < sizeof GGUF_MODELS / sizeof *GGUF_MODELS; i++)
        snprintf(sources[source_count++].model, sizeof sources->model, "%s", GGUF_MODELS[i]);
    for (json_t *row; (row = vector_next(file)); json_decref(row)) {
        assert_true(source_count < SOURCES_MAX);
        family_source *source = &sources[source_count++];
        snprintf(source->model, sizeof source->model, "%s", vector_text(row, "cases").at);
        snprintf(source->folder, sizeof source->folder, "%s", vector_text(row, "folder").at);
        snprintf(source->config, sizeof source->config, "%s", vector_text(row, "config").at);
    }
    fclose(file);
}

static int read_all(void **state) {
    (void)state;
    read_cases("families/cases.jsonl");
    read_cases("families/folder_cases.jsonl");
    read_cases("families/block_cases.jsonl");
    read_sources();
    return 0;
}

/* The case's rows of logits; free() them. */
static float *read_wanted(const family_case *c, uint32_t vocab) {
    char name[64];
    snprintf(name, sizeof name, "families/%.31s.f32", c->model);
    FILE *file = vector_open(name);
    size_t count = (size_t)c->row_count * vocab;
    float *rows = mem_new(count, sizeof *rows);
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)(c->offset * sizeof *rows), SEEK_SET), 0);
    assert_int_equal(fread(rows, sizeof *rows, count, file), count);
    fclose(file);
    return rows;
}

/* --- the files of a source ------------------------------------------------------------------- */

static void copy_file(const char *from, const char *folder, const char *name) {
    char to[600];
    file_view view;
    esp_error err = {0};
    snprintf(to, sizeof to, "%s/%s", folder, name);
    if (file_map(&view, from, "a vector", &err)) fail_msg("%s", err.message);
    FILE *file = fopen(to, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(view.bytes, 1, view.count, file), view.count);
    assert_int_equal(fclose(file), 0);
    file_unmap(&view);
}

/* The files of a folder of vectors whose name begins so. */
static void copy_files(const char *source, const char *prefix, const char *folder) {
    char path[1024], file[1300];
    snprintf(path, sizeof path, "%s/tests/vectors/families/%s", TEST_SOURCE_DIR, source);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.' || strncmp(entry->d_name, prefix, strlen(prefix)) != 0)
            continue;
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        copy_file(file, folder, entry->d_name);
    }
    closedir(dir);
}

/* Writes the path to open, the vector itself or a folder put together of it: remove_path. */
static void make_path(const family_source *source, char path[1024]) {
    char config[1024];
    if (!source->folder[0]) {
        snprintf(path, 1024, "%s/tests/vectors/families/%.31s.gguf", TEST_SOURCE_DIR,
                 source->model);
        return;
    }
    strcpy(path, "/tmp/espalier-family-XXXXXX");
    assert_non_null(mkdtemp(path));
    copy_files(source->folder, "model", path);
    copy_files("tokenizer", "", path);
    snprintf(config, sizeof config, "%s/tests/vectors/families/%.31s/%.47s", TEST_SOURCE_DIR,
             source->folder, source->config);
    copy_file(config, path, "config.json");
}

static void remove_path(const family_source *source, const char *path) {
    char file[1400];
    if (!source->folder[0]) return;
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.') assert_int_equal(unlink(file), 0);
    }
    closedir(dir);
    assert_int_equal(rmdir(path), 0);
}

/* --- a model on a device -------------------------------------------------------------------- */

typedef struct rig {
    const kern_ops *ops;
    kern_device *dev;
    thread_pool *pool;
    model *m;
    void *arena;
    size_t arena_bytes;
    uint32_t vocab;
} rig;

static rig open_rig(const family_source *source, const kern_ops *ops, kern_level level) {
    rig r = {.ops = ops};
    char path[1024];
    model_file *file;
    esp_error err = {0};
    assert_int_equal(pool_open(&r.pool, 2, &err), ESP_OK);
    kern_options options = {.pool = r.pool,
                            .level = level,
                            .kv_dtype = ops == &kern_ref ? DT_F32 : DT_BF16,
                            .tokens_max = CONTEXT};
    assert_int_equal(ops->open(&r.dev, &options, &err), ESP_OK);
    make_path(source, path);
    if (model_file_open(&file, path, &err))
        fail_msg("%s, %s: %s", source->model, source->config, err.message);
    model_options wanted = {.ops = ops,
                            .dev = r.dev,
                            .tokens_max = CONTEXT,
                            .rows_max = CONTEXT,
                            .context_max = CONTEXT};
    assert_int_equal(model_open(&r.m, file, &wanted, &err), ESP_OK);
    model_file_close(file);
    remove_path(source, path);
    r.vocab = model_get_spec(r.m)->vocab;
    r.arena_bytes = KV_GROUPS_MAX * PAGES * ops->frame_bytes(r.dev, model_kv_shape(r.m));
    assert_int_equal(ops->alloc(r.dev, r.arena_bytes, &r.arena, &err), ESP_OK);
    return r;
}

static void close_rig(rig *r) {
    r->ops->release(r->dev, r->arena, r->arena_bytes);
    model_close(r->m);
    r->ops->close(r->dev);
    pool_close(r->pool);
}

/* Tokens [first, first + count) of one sequence; their logits into out [count, vocab]. */
static void run_chunk(rig *r, const int32_t *ids, uint32_t first, uint32_t count, bool outgrown,
                      float *out) {
    uint32_t positions[CONTEXT], zeros[CONTEXT] = {0}, rows[CONTEXT];
    uint32_t tables[KV_GROUPS_MAX * PAGES], one = 0;
    int32_t own_ids[CONTEXT], slot = BATCH_NO_ADAPTER;
    uint8_t seq_long = outgrown;
    step_batch batch = {.token_count = count,
                        .seq_count = 1,
                        .row_count = count,
                        .group_count = model_page_groups(r->m)->count,
                        .table_stride = PAGES,
                        .ids = own_ids,
                        .positions = positions,
                        .token_seq = zeros,
                        .seq_first = &one,
                        .seq_tokens = &count,
                        .seq_cached = &first,
                        .seq_adapter = &slot,
                        .seq_long = &seq_long,
                        .tables = tables,
                        .rows = rows};
    esp_error err = {0};
    for (uint32_t i = 0; i < count; i++) {
        own_ids[i] = ids[first + i];
        positions[i] = first + i;
        rows[i] = i;
    }
    for (uint32_t i = 0; i < batch.group_count * PAGES; i++) /* neighbours are none in memory */
        tables[i] = i / PAGES * PAGES + (i * 7 + 3) % PAGES;
    assert_int_equal(model_forward(r->m, &batch, NULL, r->arena, &err), ESP_OK);
    for (uint32_t i = 0; i < count; i += MODEL_LOGITS_ROWS) {
        uint32_t some = count - i < MODEL_LOGITS_ROWS ? count - i : MODEL_LOGITS_ROWS;
        logits_row logits[MODEL_LOGITS_ROWS];
        assert_int_equal(model_logits(r->m, i, some, logits, &err), ESP_OK);
        memcpy(out + (size_t)i * r->vocab, logits[0].at, (size_t)some * r->vocab * sizeof *out);
    }
}

/* All logits of a prompt, computed chunk tokens at a time; free() them. */
static float *run_prompt(rig *r, const family_case *c, uint32_t chunk) {
    float *out = mem_new((size_t)c->id_count * r->vocab, sizeof *out);
    bool outgrown = c->id_count > spec_short_context(model_get_spec(r->m));
    for (uint32_t first = 0; first < c->id_count; first += chunk) {
        uint32_t left = c->id_count - first, count = left < chunk ? left : chunk;
        run_chunk(r, c->ids, first, count, outgrown, out + (size_t)first * r->vocab);
    }
    return out;
}

/* --- comparisons ---------------------------------------------------------------------------- */

typedef struct distance {
    double part_of_range; /* largest difference */
    double relative_rms;
} distance;

static distance measure(const family_case *c, const float *seen, const float *wanted,
                        uint32_t vocab) {
    double low = INFINITY, high = -INFINITY, top = 0, square = 0, size = 0;
    for (uint32_t i = 0; i < c->row_count; i++)
        for (uint32_t v = 0; v < vocab; v++) {
            double w = (double)wanted[(size_t)i * vocab + v];
            double d = fabs((double)seen[(size_t)c->rows[i] * vocab + v] - w);
            low = fmin(low, w), high = fmax(high, w);
            top = d <= top ? top : d; /* NaN wins */
            square += d * d, size += w * w;
        }
    return (distance){top / (high - low), sqrt(square / size)};
}

/* fn for each case of a model: its prompt's logits and the distance to the case's. */
typedef void judge(const family_source *source, const family_case *c, distance d);

static void judge_source(const family_source *source, const kern_ops *ops, kern_level level,
                         judge *fn) {
    rig r = open_rig(source, ops, level);
    const family_case *prompt = NULL;
    float *seen = NULL;
    uint32_t judged = 0;
    for (const family_case *c = cases; c < cases + case_count; c++) {
        if (strcmp(c->model, source->model) != 0) continue;
        if (!c->spoiled[0]) {
            free(seen);
            seen = run_prompt(&r, c, CONTEXT);
            prompt = c;
        }
        assert_true(prompt && prompt->id_count == c->id_count);
        float *wanted = read_wanted(c, r.vocab);
        distance d = measure(c, seen, wanted, r.vocab);
        fn(source, c, d);
        judged++;
        free(wanted);
    }
    assert_true(judged > 1);
    free(seen);
    close_rig(&r);
}

static void judge_ref(const family_source *source, const family_case *c, distance d) {
    bool close = d.part_of_range <= REF_TOLERANCE, far = d.part_of_range >= 5 * REF_TOLERANCE;
    if (c->spoiled[0] ? !far : !close)
        print_error("%s %s, %u tokens, %s: %.2e of the range\n", c->model, source->config,
                    c->id_count, c->spoiled[0] ? c->spoiled : "reference", d.part_of_range);
    assert_true(c->spoiled[0] ? far : close);
}

static void judge_cpu(const family_source *source, const family_case *c, distance d) {
    if (c->spoiled[0]) return; /* bf16 hides what is small; ref tells the twins apart */
    if (!(d.relative_rms <= CPU_TOLERANCE))
        print_error("%s %s, %u tokens: rms %.4f\n", c->model, source->config, c->id_count,
                    d.relative_rms);
    assert_true(d.relative_rms <= CPU_TOLERANCE);
}

/* The reference's logits, and not those of any spoiled twin. */
static void ref_gives_the_reference_logits(void **state) {
    (void)state;
    for (uint32_t i = 0; i < source_count; i++)
        judge_source(&sources[i], &kern_ref, LEVEL_AUTO, judge_ref);
}

static void cpu_is_near_the_reference(void **state) {
    (void)state;
    for (kern_level level = LEVEL_AVX2; level <= LEVEL_AMX; level++)
        for (uint32_t i = 0; i < source_count && level <= kern_cpu_best_level(); i++)
            judge_source(&sources[i], &kern_cpu, level, judge_cpu);
}

/* The engine's greedy answer to the case's prompt. */
static void answer(const char *path, const family_case *c, request **out) {
    esp_error err = {0};
    engine *e;
    const model_config config = {
        .model_path = path, .device = DEVICE_REF, .threads = 2, .step_tokens = 40, .max_seqs = 1};
    const request_options options = {.prompt = c->ids,
                                     .prompt_count = c->id_count,
                                     .output_max = c->greedy_count,
                                     .ignore_eos = true,
                                     .policy = {.top_p = 1, .repetition_penalty = 1}};
    if (engine_open(&e, &config, NULL, NULL, &err) != ESP_OK) fail_msg("%s", err.message);
    assert_int_equal(request_new(out, &options, engine_spec(e)->vocab, &err), ESP_OK);
    assert_int_equal(engine_submit(e, *out, &err), ESP_OK);
    for (uint32_t step = 0; !(*out)->done; step++) {
        assert_true(step < 1000);
        engine_step(e);
    }
    engine_close(e);
}

static void assert_greedy(const char *path, const family_case *c) {
    request *r;
    answer(path, c, &r);
    assert_int_equal(c->greedy_count, GREEDY_MAX);
    assert_int_equal(r->output_count, GREEDY_MAX);
    assert_memory_equal(r->tokens + c->id_count, c->greedy, sizeof c->greedy);
    request_unref(r);
}

/* The reference's 32 greedy tokens of each prompt; two prompts outgrow the short context on the way. */
static void ref_generates_the_reference_tokens(void **state) {
    (void)state;
    for (uint32_t i = 0; i < source_count; i++) {
        char path[1024];
        make_path(&sources[i], path);
        for (const family_case *c = cases; c < cases + case_count; c++)
            if (!c->spoiled[0] && strcmp(c->model, sources[i].model) == 0) assert_greedy(path, c);
        remove_path(&sources[i], path);
    }
}

static void assert_chunks_agree(rig *r, const family_case *c) {
    static const uint32_t chunks[] = {1, 7, 16, 33};
    float *whole = run_prompt(r, c, CONTEXT);
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        float *pieces = run_prompt(r, c, chunks[i]);
        assert_memory_equal(pieces, whole, (size_t)c->id_count * r->vocab * sizeof *whole);
        free(pieces);
    }
    free(whole);
}

/* However a prompt is cut into chunks, each position has the same bits (Law 1). */
static void chunks_of_a_prefill_change_no_bit(void **state) {
    (void)state;
    for (kern_level level = LEVEL_AVX2; level <= LEVEL_AMX; level++)
        for (uint32_t i = 0; i < source_count && level <= kern_cpu_best_level(); i++) {
            rig r = open_rig(&sources[i], &kern_cpu, level);
            for (const family_case *c = cases; c < cases + case_count; c++)
                if (!c->spoiled[0] && strcmp(c->model, sources[i].model) == 0)
                    assert_chunks_agree(&r, c);
            close_rig(&r);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_gives_the_reference_logits),
        cmocka_unit_test(ref_generates_the_reference_tokens),
        cmocka_unit_test(cpu_is_near_the_reference),
        cmocka_unit_test(chunks_of_a_prefill_change_no_bit),
    };
    return cmocka_run_group_tests(tests, read_all, NULL);
}
