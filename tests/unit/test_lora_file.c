/* test_lora_file.c - each rule of an adapter's files broken once; facts, digest and label names. What
 * adapters compute: test_lora_vectors.c. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/model/lora/lora_file.h"
#include "engine/model/model.h"
#include "tests/unit/lora_builder.h"

static model_file *llama, *llama_gguf;

static model_file *open_base(const char *name) {
    char path[1024];
    model_file *file = NULL;
    esp_error err = {0};
    snprintf(path, sizeof path, "%s/tests/vectors/families/%s", TEST_SOURCE_DIR, name);
    if (model_file_open(&file, path, &err)) fail_msg("%s", err.message);
    return file;
}

static int open_bases(void **state) {
    (void)state;
    llama = open_base("llama3");
    llama_gguf = open_base("llama3.gguf");
    return 0;
}

static int close_bases(void **state) {
    (void)state;
    model_file_close(llama);
    model_file_close(llama_gguf);
    return 0;
}

static void expect_good(const lora_fault *fault, const model_file *base) {
    lora_bytes bytes = lb_build(fault);
    lora_file *file = NULL;
    esp_error err = {0};
    if (lora_file_open_memory(&file, bytes.config, strlen(bytes.config), bytes.tensors.at,
                              bytes.tensors.count, base ? model_file_weights(base) : NULL, &err))
        fail_msg("%s", err.message);
    lora_file_close(file);
    lb_free(&bytes);
}

typedef struct bad_case {
    lora_fault fault;
    const char *wanted; /* a part of the sentence */
} bad_case;

/* Every one is refused with a sentence that names what is wrong. */
static void judge(const bad_case *cases, size_t count, const model_file *base) {
    uint32_t wrong = 0;
    for (size_t i = 0; i < count; i++) {
        lora_bytes bytes = lb_build(&cases[i].fault);
        lora_file *file = NULL;
        esp_error err = {0};
        esp_code code = lora_file_open_memory(&file, bytes.config, strlen(bytes.config),
                                              bytes.tensors.at, bytes.tensors.count,
                                              base ? model_file_weights(base) : NULL, &err);
        lora_file_close(file);
        lb_free(&bytes);
        if (code == ESP_INVALID && !file && strstr(err.message, cases[i].wanted)) continue;
        wrong++;
        print_error("case %zu, wanted \"%s\": %d, %s\n", i, cases[i].wanted, code, err.message);
    }
    assert_int_equal(wrong, 0);
}

#define Q_A LB_Q(0) ".lora_A.weight"
#define Q_B LB_Q(0) ".lora_B.weight"
#define TOKEN_IDS "trainable_token_indices"
#define TOKEN_ROWS "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"

static void the_adapter_that_is_spoiled_below_is_good(void **state) {
    (void)state;
    expect_good(&(lora_fault){0}, llama);
    expect_good(&(lora_fault){0}, llama_gguf);
    expect_good(&(lora_fault){0}, NULL);
}

/* Keys of adapter_config.json, one wrong at a time. */
static void a_config_that_is_not_computed_is_refused_by_its_key(void **state) {
    (void)state;
    static const bad_case cases[] = {
        {{.key = "peft_type", .value = "\"IA3\""}, "peft_type"},
        {{.key = "peft_type", .value = ""}, "peft_type is missing"},
        {{.key = "r", .value = "0"}, "r is 0; wanted a whole number from 1 to 512"},
        {{.key = "r", .value = "513"}, "r is 513"},
        {{.key = "r", .value = "2.5"}, "r is 2.5"},
        {{.key = "r", .value = "\"2\""}, "r is "},
        {{.key = "r", .value = ""}, "key r is missing"},
        {{.key = "r", .value = "3"}, "has rank 2; the config (r, rank_pattern) wants 3"},
        {{.key = "lora_alpha", .value = "0"}, "lora_alpha is 0"},
        {{.key = "lora_alpha", .value = "-4"}, "lora_alpha is -4"},
        {{.key = "lora_alpha", .value = "NaN"}, "adapter_config.json"},
        {{.key = "lora_alpha", .value = "1e999"}, "adapter_config.json"},
        {{.key = "lora_alpha", .value = "\"nan\""},
         "lora_alpha is \"nan\"; wanted a number above 0, 1e+06 at most"},
        {{.key = "lora_alpha", .value = "1e7"}, "lora_alpha is 10000000"},
        {{.key = "lora_alpha", .value = ""}, "lora_alpha is missing"},
        {{.key = "alpha_pattern", .value = "{\"q_proj\":0}"}, "alpha_pattern.q_proj is 0"},
        {{.key = "rank_pattern", .value = "{\"q_proj\":4}"}, "wants 4"},
        {{.key = "rank_pattern", .value = "{\"q_proj\":0}"}, "rank_pattern.q_proj is 0"},
        {{.key = "rank_pattern", .value = "[2]"}, "rank_pattern is a list"},
        {{.key = "rank_pattern", .value = "{\"(q_proj\":2}"}, "rank_pattern: the pattern (q_proj"},
        {{.key = "rank_pattern", .value = "{\"((.|.)*)*[!?]\":2}"}, "more than 20000 steps"},
        {{.key = "target_modules", .value = "[\"q_proj\"]"}, "does not target"},
        {{.key = "target_modules", .value = "\".*q_proj\""}, "does not target"},
        {{.key = "target_modules", .value = "[\"q_proj\",\"up_proj\",\"o_proj\"]"},
         "targets model.layers.0.self_attn.o_proj, but there are no tensors"},
        {{.key = "target_modules", .value = "[\"q_proj\",\"up_proj\",\"lm_head\"]"},
         "targets lm_head"},
        {{.key = "target_modules", .value = "7"}, "target_modules is 7"},
        {{.key = "target_modules", .value = "[7]"}, "target_modules is a list"},
        {{.key = "target_modules", .value = "\"(\""}, "target_modules: the pattern"},
        {{.key = "exclude_modules", .value = "[\"q_proj\"]"}, "does not target"},
        {{.key = "layers_to_transform", .value = "[0]"}, "does not target"},
        {{.key = "layers_to_transform", .value = "\"0\""}, "layers_to_transform is"},
        {{.key = "modules_to_save", .value = "[\"lm_head\"]"}, "modules_to_save names lm_head"},
        {{.key = "modules_to_save", .value = "\"lm_head\""}, "modules_to_save is"},
        {{.key = "bias", .value = "\"some\""}, "bias is \"some\""},
        {{.key = "use_dora", .value = "true"}, "there is no magnitude vector"},
        {{.key = "use_dora", .value = "1"}, "use_dora is 1"},
        {{.key = "lora_bias", .value = "true"}, "there is no bias of B"},
        {{.key = "fan_in_fan_out", .value = "true"}, "fan_in_fan_out"},
        {{.key = "use_qalora", .value = "true"}, "use_qalora"},
        {{.key = "megatron_config", .value = "{\"a\":1}"}, "megatron_config"},
        {{.key = "layer_replication", .value = "[[0,1]]"}, "layer_replication"},
        {{.key = "alora_invocation_tokens", .value = "[1]"}, "alora_invocation_tokens"},
        {{.key = "arrow_config", .value = "{\"a\":1}"}, "arrow_config"},
        {{.key = "target_parameters", .value = "[\"x\"]"}, "target_parameters"},
        {{.key = "trainable_token_indices", .value = "[1]"},
         "trainable_token_indices names rows of embed_tokens, but there is no tensor"},
        {{.key = "trainable_token_indices", .value = "7"}, "trainable_token_indices is 7"},
        {{.key = "trainable_token_indices", .value = "[-1]"}, "trainable_token_indices is a list"},
        {{.key = "trainable_token_indices", .value = "[\"a\"]"},
         "trainable_token_indices is a list"},
        {{.key = "trainable_token_indices", .value = "{\"lm_head\":[]}"},
         "trainable_token_indices is an object"},
        {{.key = "trainable_token_indices", .value = "{\"o_proj\":[1]}"},
         "trainable_token_indices names the module o_proj"},
        {{.key = "a_key_of_tomorrow", .value = "1"}, "a_key_of_tomorrow"},
        {{.key = "init_lora_weights", .value = "\"pissa\""}, "changes the base's own weights"},
        {{.key = "init_lora_weights", .value = "\"loftq\""}, "changes the base's own weights"},
    };
    judge(cases, sizeof cases / sizeof *cases, llama);
}

/* Keys that say nothing about the arithmetic, or ask for nothing. */
static void a_config_may_say_how_the_training_went(void **state) {
    (void)state;
    static const lora_fault faults[] = {
        {.key = "init_lora_weights", .value = "\"eva\""},
        {.key = "init_lora_weights", .value = "true"},
        {.key = "eva_config", .value = "{\"rho\":2.0}"},
        {.key = "loftq_config", .value = "{}"},
        {.key = "a_key_of_tomorrow", .value = "false"},
        {.key = "target_modules", .value = "\"all-linear\""},
        {.key = "target_modules", .value = "null"},
        {.key = "target_modules", .value = "\"model\\\\.layers\\\\.\\\\d+\\\\..*(q|up)_proj\""},
        {.key = "target_modules", .value = "[\"q_proj\",\"up_proj\",\"query\",\"c_attn\"]"},
        {.key = "exclude_modules", .value = "[\"o_proj\"]"},
        {.key = "layers_to_transform", .value = "[0,1]"},
        {.key = "layers_to_transform", .value = "[]"},
        {.key = "rank_pattern", .value = "{\"o_proj\":8}"},
        {.key = "modules_to_save", .value = "null"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        expect_good(&faults[i], llama);
}

/* Tensors, one wrong at a time. */
static void a_tensor_that_does_not_fit_is_refused_by_its_name(void **state) {
    (void)state;
    static const bad_case cases[] = {
        {{.tensor = Q_A, .rename = ""}, Q_B " stands alone: there is no A"},
        {{.tensor = Q_B, .rename = ""}, Q_A " stands alone: there is no B"},
        {{.tensor = Q_A, .rename = LB_Q(0) ".lora_C.weight"}, "is no part of an adapter"},
        {{.tensor = Q_A, .rename = "model.layers.0.self_attn.q_proj.lora_A.weight"},
         "is no part of an adapter"},
        {{.tensor = Q_A, .rename = LB_LAYER(2) "self_attn.q_proj.lora_A.weight"},
         "is of layer 2; the base llama3 has 2 layers"},
        {{.tensor = Q_A, .rename = LB_LAYER(00) "self_attn.q_proj.lora_A.weight"},
         "is no part of an adapter"},
        {{.tensor = Q_A, .rows = 2, .cols = 32},
         "has the shape 2 x 32; the base llama3 wants 2 x 64"},
        {{.tensor = Q_B, .rows = 48, .cols = 2},
         "has the shape 48 x 2; the base llama3 wants 64 x 2"},
        {{.tensor = Q_A, .rows = 3, .cols = 64}, "has rank 3; its B has 2"},
        {{.tensor = Q_A, .rows = 0, .cols = 128}, "has 1 dimensions; wanted 2"},
        {{.tensor = Q_B, .rows = 64, .cols = 600}, "has rank 600; wanted 1 to 512"},
        {{.tensor = Q_B, .poison = NAN}, Q_B " holds a value that is no finite number"},
        {{.tensor = Q_A, .poison = INFINITY}, Q_A " holds a value that is no finite number"},
        {{.tensor = Q_A, .type = "I32"}, Q_A " has type I32"},
        {{.more = "base_model.model.model.norm.weight", .more_cols = 64},
         "is no part of an adapter"},
        {{.more = LB_LAYER(0) "input_layernorm.weight", .more_cols = 64},
         "is no part of an adapter"},
        {{.more = LB_Q(0) ".weight", .more_rows = 64, .more_cols = 64},
         "is a whole matrix of a layer"},
        {{.more = LB_Q(0) ".base_layer.bias", .more_cols = 64}, "is a bias, and the config's bias"},
        {{.key = "bias", .value = "\"all\"", .more = LB_Q(0) ".base_layer.bias", .more_cols = 64},
         "is a bias, and the base llama3 has none there"},
        {{.more = LB_Q(0) ".lora_B.bias", .more_cols = 64}, "lora_bias is not true"},
        {{.more = LB_Q(0) ".lora_magnitude_vector", .more_cols = 64}, "use_dora is not true"},
        {{.more = LB_Q(0) ".lora_A.default.weight", .more_rows = 2, .more_cols = 64},
         "is a second one of"},
        {{.more = LB_LAYER(0) "self_attn.qkv_proj.lora_A.weight", .more_rows = 2, .more_cols = 64},
         "stands alone"},
        {{.more = "base_model.model.score.lora_A.weight", .more_rows = 2, .more_cols = 64},
         "is an update of a score head"},
        {{.more = "base_model.model.score.weight", .more_rows = 3, .more_cols = 32},
         "has the shape"},
        {{.more = "base_model.model.lm_head.weight", .more_rows = 300, .more_cols = 64},
         "has 300 rows; the base llama3 has 304"},
        {{.more = "base_model.model.lm_head.weight", .more_rows = 304, .more_cols = 32},
         "has the shape 304 x 32"},
        {{.more = "base_model.model.lm_head.weight", .more_rows = 306, .more_cols = 64},
         "gives embed_tokens 304 rows and lm_head 306"},
        {{.more = "base_model.model.lm_head.original_module.weight",
          .more_rows = 304,
          .more_cols = 64},
         "is a table from before the training"},
        {{.more = TOKEN_ROWS, .more_rows = 2, .more_cols = 64},
         "the config's trainable_token_indices says nothing"},
        {{.key = TOKEN_IDS, .value = "[1,2]", .more = TOKEN_ROWS, .more_rows = 3, .more_cols = 64},
         "wanted a row of 64 for each of the 2 ids"},
        {{.key = TOKEN_IDS, .value = "[1,2]", .more = TOKEN_ROWS, .more_rows = 2, .more_cols = 32},
         "has the shape 2 x 32"},
        {{.key = TOKEN_IDS, .value = "[1,1]", .more = TOKEN_ROWS, .more_rows = 2, .more_cols = 64},
         "has two rows of token 1"},
        {{.key = TOKEN_IDS, .value = "[305]", .more = TOKEN_ROWS, .more_rows = 1, .more_cols = 64},
         "has a row of token 305 and none of token 304"},
        {{.more = "base_model.model.visual.blocks.0.attn.qkv.lora_A.weight",
          .more_rows = 2,
          .more_cols = 64},
         "is no part of an adapter"},
    };
    judge(cases, sizeof cases / sizeof *cases, llama);
}

/* A base with a table for each has to get rows for both. */
static void an_embedding_that_grows_alone_is_refused_where_nothing_ties_it(void **state) {
    (void)state;
    static const bad_case cases[] = {
        {{.more = "base_model.model.model.embed_tokens.weight", .more_rows = 306, .more_cols = 64},
         "gives embed_tokens 306 rows and lm_head 304"},
        {{.key = TOKEN_IDS, .value = "[304]", .more = TOKEN_ROWS, .more_rows = 1, .more_cols = 64},
         "gives embed_tokens 305 rows and lm_head 304"},
    };
    model_file *untied = open_base("qwen2");
    expect_good(&(lora_fault){0}, untied);
    judge(cases, sizeof cases / sizeof *cases, untied);
    model_file_close(untied);
}

/* Without a base at hand what needs none is checked all the same. */
static void facts_alone_are_checked_too(void **state) {
    (void)state;
    static const bad_case cases[] = {
        {{.key = "lora_alpha", .value = "0"}, "lora_alpha is 0"},
        {{.tensor = Q_A, .rename = ""}, "stands alone"},
        {{.tensor = Q_A, .rows = 3, .cols = 64}, "has rank 3; its B has 2"},
        {{.tensor = Q_B, .poison = NAN}, "no finite number"},
        {{.tensor = Q_B, .rename = "base_model.model.x"}, "is no part of an adapter"},
        {{.more = "base_model.model.pooler.dense.lora_A.weight", .more_rows = 2, .more_cols = 64},
         "is of an encoder, and tensors before it are of a decoder"},
        {{.key = "bias", .value = "\"all\"", .more = LB_Q(3) ".base_layer.bias", .more_cols = 64},
         "tensors of layer 3, but none of layer 2"},
    };
    judge(cases, sizeof cases / sizeof *cases, NULL);
}

static void another_base_is_refused_by_shape(void **state) {
    (void)state;
    static const bad_case cases[] = {
        {{.tensor = Q_A, .rows = 2, .cols = 2048}, "was trained for another one"},
        {{.tensor = Q_B, .rows = 2048, .cols = 2}, "was trained for another one"},
    };
    judge(cases, sizeof cases / sizeof *cases, llama);
    model_file *encoder;
    char path[1024];
    esp_error err = {0};
    snprintf(path, sizeof path, "%s/tests/vectors/encoders/bert.gguf", TEST_SOURCE_DIR);
    if (model_file_open(&encoder, path, &err)) fail_msg("%s", err.message);
    judge(&(bad_case){{0}, "is of a decoder; the base bert.gguf is an encoder"}, 1, encoder);
    model_file_close(encoder);
}

/* --- cut files ------------------------------------------------------------------------------- */

/* A file cut at any byte is refused or, never, read beyond its end (under a sanitizer). */
static void a_file_that_is_cut_short_is_refused(void **state) {
    (void)state;
    lora_bytes bytes = lb_build(&(lora_fault){0});
    size_t config = strlen(bytes.config), count = bytes.tensors.count;
    for (size_t cut = 0; cut < count; cut += 1 + count / 200) {
        uint8_t *part = mem_new(cut + 1, 1);
        lora_file *file = NULL;
        esp_error err = {0};
        memcpy(part, bytes.tensors.at, cut);
        assert_int_equal(lora_file_open_memory(&file, bytes.config, config, part, cut,
                                               model_file_weights(llama), &err),
                         ESP_INVALID);
        assert_true(err.message[0] && !file);
        free(part);
    }
    for (size_t cut = 1; cut < config; cut += 7) {
        lora_file *file = NULL;
        esp_error err = {0};
        assert_int_equal(lora_file_open_memory(&file, bytes.config, cut, bytes.tensors.at, count,
                                               model_file_weights(llama), &err),
                         ESP_INVALID);
    }
    lb_free(&bytes);
}

/* --- folders --------------------------------------------------------------------------------- */

static void put_file(const char *folder, const char *name, const void *bytes, size_t count) {
    char path[300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static void remove_folder(const char *folder) {
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors",
                                        "adapter_model.bin", "config.json"};
    char path[300];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(folder), 0);
}

static esp_code open_folder(const char *folder, esp_error *err) {
    lora_file *file = NULL;
    *err = (esp_error){0};
    esp_code code = lora_file_open(&file, folder, model_file_weights(llama), err);
    lora_file_close(file);
    return code;
}

static void a_folder_says_what_it_lacks(void **state) {
    (void)state;
    char folder[] = "/tmp/espalier-lora-XXXXXX";
    lora_bytes bytes = lb_build(&(lora_fault){0});
    esp_error err;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(open_folder(folder, &err), ESP_NOT_FOUND);
    assert_non_null(strstr(err.message, "holds no adapter_config.json"));
    put_file(folder, "adapter_config.json", bytes.config, strlen(bytes.config));
    assert_int_equal(open_folder(folder, &err), ESP_NOT_FOUND);
    assert_non_null(strstr(err.message, "holds no adapter_model.safetensors"));
    put_file(folder, "adapter_model.bin", "PK", 2);
    assert_int_equal(open_folder(folder, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "pickle"));
    put_file(folder, "adapter_model.safetensors", bytes.tensors.at, bytes.tensors.count);
    assert_int_equal(open_folder(folder, &err), ESP_OK);
    /* a header longer than any adapter's */
    uint64_t length = (8 << 20) + 1;
    memcpy(bytes.tensors.at, &length, sizeof length);
    put_file(folder, "adapter_model.safetensors", bytes.tensors.at, bytes.tensors.count);
    assert_int_equal(open_folder(folder, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "wanted 8388608 at most"));
    remove_folder(folder);
    lb_free(&bytes);
}

/* --- facts ----------------------------------------------------------------------------------- */

static lora_file *open_vector(const char *name, const model_file *base) {
    char path[1024];
    lora_file *file = NULL;
    esp_error err = {0};
    snprintf(path, sizeof path, "%s/tests/vectors/lora/%s", TEST_SOURCE_DIR, name);
    if (lora_file_open(&file, path, base ? model_file_weights(base) : NULL, &err))
        fail_msg("%s: %s", name, err.message);
    return file;
}

static void facts_say_what_an_adapter_is(void **state) {
    (void)state;
    lora_file *file = open_vector("llama-odd", NULL);
    const lora_facts *facts = lora_file_facts(file);
    assert_string_equal(facts->name, "llama-odd");
    assert_string_equal(facts->format, "peft");
    assert_string_equal(facts->base_name, "tiny/llama3");
    assert_int_equal(facts->rank_min, 5);
    assert_int_equal(facts->rank_max, 5);
    assert_true(facts->alpha == 7 && facts->rslora && !facts->dora);
    assert_int_equal(facts->updates, 4); /* q and k of two layers */
    assert_int_equal(facts->tensors, 8);
    assert_int_equal(facts->parameters, 2 * (5 * (64 + 64) + 5 * (64 + 32)));
    assert_int_equal(facts->target_count, 2);
    assert_string_equal(facts->targets[1], "k_proj");
    assert_int_equal(strncmp(facts->digest, "sha256:", 7), 0);
    assert_int_equal(strlen(facts->digest), 71);
    char *text = lora_file_describe(file);
    json_t *json = json_loads(text, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(json, "kind")), "adapter");
    assert_int_equal(json_integer_value(json_object_get(json, "rank_max")), 5);
    json_decref(json);
    free(text);
    lora_file_close(file);
}

/* The digest follows every byte of either file, and the path does not count. */
static void a_digest_is_of_the_content(void **state) {
    (void)state;
    char seen[4][ADAPTER_DIGEST_CHARS];
    const lora_fault faults[] = {
        {0}, {0}, {.tensor = Q_A, .poison = 0.25f}, {.key = "lora_alpha", .value = "5"}};
    for (size_t i = 0; i < 4; i++) {
        lora_bytes bytes = lb_build(&faults[i]);
        lora_file *file = NULL;
        assert_int_equal(lora_file_open_memory(&file, bytes.config, strlen(bytes.config),
                                               bytes.tensors.at, bytes.tensors.count, NULL, NULL),
                         ESP_OK);
        memcpy(seen[i], lora_file_facts(file)->digest, sizeof seen[i]);
        lora_file_close(file);
        lb_free(&bytes);
    }
    assert_string_equal(seen[0], seen[1]);
    assert_string_not_equal(seen[0], seen[2]);
    assert_string_not_equal(seen[0], seen[3]);
}

/* ---- outlines ---- */

static lora_file *open_outline(const char *path, const model_file *base) {
    lora_file *file = NULL;
    esp_error err = {0};
    if (lora_file_open_outline(&file, path, base ? model_file_weights(base) : NULL, &err))
        fail_msg("%s: %s", path, err.message);
    return file;
}

/* Of numbers it says nothing, and is the same whatever they are. */
static void an_outline_reads_no_number_of_a_tensor(void **state) {
    (void)state;
    char folder[] = "/tmp/espalier-lora-XXXXXX", seen[ADAPTER_DIGEST_CHARS];
    const lora_fault faults[] = {{0}, {.tensor = Q_B, .poison = NAN}};
    esp_error err;
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < 2; i++) {
        lora_bytes bytes = lb_build(&faults[i]);
        put_file(folder, "adapter_config.json", bytes.config, strlen(bytes.config));
        put_file(folder, "adapter_model.safetensors", bytes.tensors.at, bytes.tensors.count);
        lb_free(&bytes);
        assert_int_equal(open_folder(folder, &err), i ? ESP_INVALID : ESP_OK);
        lora_file *file = open_outline(folder, llama);
        if (i) assert_string_equal(lora_file_facts(file)->outline, seen);
        memcpy(seen, lora_file_facts(file)->outline, sizeof seen);
        lora_file_close(file);
    }
    remove_folder(folder);
}

/* What stands in the files' heads is held to all rules. */
static void an_outline_is_checked_too(void **state) {
    (void)state;
    char folder[] = "/tmp/espalier-lora-XXXXXX";
    const lora_fault faults[] = {{.key = "lora_alpha", .value = "0"},
                                 {.tensor = Q_A, .rename = ""}};
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        lora_bytes bytes = lb_build(&faults[i]);
        lora_file *file = NULL;
        esp_error err = {0}, whole;
        put_file(folder, "adapter_config.json", bytes.config, strlen(bytes.config));
        put_file(folder, "adapter_model.safetensors", bytes.tensors.at, bytes.tensors.count);
        lb_free(&bytes);
        assert_int_equal(lora_file_open_outline(&file, folder, model_file_weights(llama), &err),
                         ESP_INVALID);
        assert_null(file);
        assert_int_equal(open_folder(folder, &whole), ESP_INVALID);
        assert_string_equal(err.message, whole.message);
    }
    remove_folder(folder);
}

/* A base of another name may be the same one under an operator's name. */
static void a_base_of_another_name_is_worth_a_warning(void **state) {
    (void)state;
    lora_file *same = open_vector("llama-odd", llama_gguf);
    assert_string_equal(lora_file_facts(same)->warning, "");
    lora_file_close(same);
    const lora_fault fault = {.key = "base_model_name_or_path", .value = "\"org/Other-1B\""};
    lora_bytes bytes = lb_build(&fault);
    lora_file *other = NULL;
    assert_int_equal(lora_file_open_memory(&other, bytes.config, strlen(bytes.config),
                                           bytes.tensors.at, bytes.tensors.count,
                                           model_file_weights(llama), NULL),
                     ESP_OK);
    assert_non_null(strstr(lora_file_facts(other)->warning, "was trained on org/Other-1B"));
    assert_int_equal(lora_file_refuse_other(other, false, NULL), ESP_OK);
    lora_file_close(other);
    lb_free(&bytes);
}

/* The base records that it is a Llama 3, and the adapter, of the same shapes, was trained on something else. */
static void a_base_that_records_another_name_is_refused_unless_allowed(void **state) {
    (void)state;
    const lora_fault fault = {.key = "base_model_name_or_path", .value = "\"org/Qwen2.5-1B\""};
    lora_bytes bytes = lb_build(&fault);
    lora_file *file = NULL;
    esp_error err = {0};
    assert_int_equal(lora_file_open_memory(&file, bytes.config, strlen(bytes.config),
                                           bytes.tensors.at, bytes.tensors.count,
                                           model_file_weights(llama_gguf), NULL),
                     ESP_OK);
    assert_true(lora_file_facts(file)->other_base);
    assert_int_equal(lora_file_refuse_other(file, false, &err), ESP_INVALID);
    assert_string_equal(err.field, "--allow-other-base");
    assert_non_null(strstr(err.message,
                           "trained on org/Qwen2.5-1B, and the base llama3.gguf says that "
                           "it is tiny llama3"));
    assert_int_equal(lora_file_refuse_other(file, true, NULL), ESP_OK);
    lora_file_close(file);
    lb_free(&bytes);
}

static void a_score_head_has_labels(void **state) {
    (void)state;
    lora_file *file = open_vector("llama-score", llama);
    const lora_facts *facts = lora_file_facts(file);
    assert_string_equal(facts->task, "SEQ_CLS");
    assert_int_equal(facts->whole_rows[LORA_SCORE], 3);
    assert_non_null(facts->label_names);
    assert_string_equal(facts->label_names[1], "complaint");
    lora_scratch scratch = {0};
    kern_matrix_desc desc;
    assert_int_equal(lora_file_read_whole(file, LORA_SCORE, 1, 2, &scratch, &desc, NULL), ESP_OK);
    assert_int_equal(desc.rows, 2);
    assert_int_equal(desc.cols, 64);
    lora_scratch_free(&scratch);
    lora_file_close(file);
}

/* Two tokens more than the base: both tables have them, and the update of lm_head, too. */
static void added_tokens_make_both_tables_longer(void **state) {
    (void)state;
    lora_file *file = open_vector("llama-added", llama_gguf);
    const lora_facts *facts = lora_file_facts(file);
    assert_int_equal(facts->whole_rows[LORA_EMBEDDING], LB_VOCAB + 2);
    assert_int_equal(facts->whole_rows[LORA_OUTPUT], LB_VOCAB + 2);
    lora_scratch scratch = {0};
    kern_lora_desc head;
    kern_matrix_desc rows;
    bool touched;
    assert_int_equal(lora_file_read_head(file, &scratch, &head, &touched, NULL), ESP_OK);
    assert_true(touched && head.part[0].rows == LB_VOCAB + 2);
    assert_int_equal(lora_file_read_whole(file, LORA_EMBEDDING, LB_VOCAB, 2, &scratch, &rows, NULL),
                     ESP_OK);
    assert_int_equal(rows.rows, 2);
    lora_scratch_free(&scratch);
    lora_file_close(file);
}

/* Tables that a writer put beside the update are the base's own, and are left out. */
static void copies_of_the_base_are_not_kept(void **state) {
    (void)state;
    lora_file *file = open_vector("llama-dora", llama);
    assert_int_equal(lora_file_facts(file)->whole_rows[LORA_OUTPUT], 0);
    lora_file_close(file);
    file = open_vector("llama-tables", llama);
    assert_int_equal(lora_file_facts(file)->whole_rows[LORA_OUTPUT], LB_VOCAB);
    lora_file_close(file);
}

static void a_path_is_known_for_an_adapter(void **state) {
    (void)state;
    char path[1024];
    static const struct {
        const char *path;
        bool is;
    } paths[] = {{"lora/llama-all", true},    {"lora/llama-all.gguf", true},
                 {"families/llama3", false},  {"families/llama3.gguf", false},
                 {"families/no-such", false}, {"lora/cases.jsonl", false}};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        snprintf(path, sizeof path, "%s/tests/vectors/%s", TEST_SOURCE_DIR, paths[i].path);
        assert_int_equal(lora_path_is_adapter(path), paths[i].is);
    }
}

/* --- GGUF ------------------------------------------------------------------------------------ */

typedef struct gguf_fault {
    const char *type, *adapter, *architecture; /* NULL: right; "": no such key */
    float alpha;                               /* 0: right; -1: no such key; NaN */
    const char *more_key, *tensor;             /* the second tensor's name */
    uint32_t rows, cols;                       /* of lora_b */
    float poison;
    bool zero_alpha;
    const char *wanted;
} gguf_fault;

static void gguf_key(gguf_builder *b, const char *key, const char *seen, const char *right) {
    if (!seen || seen[0]) gb_text(b, key, seen ? seen : right);
}

static char *build_gguf(const gguf_fault *f, size_t *bytes) {
    gguf_builder b = {0};
    static float a[LB_RANK * LB_HIDDEN], other[64 * 64];
    uint64_t a_dims[] = {LB_HIDDEN, LB_RANK};
    uint64_t b_dims[] = {f->cols ? f->cols : LB_RANK, f->rows ? f->rows : LB_QUERY};
    for (size_t i = 0; i < sizeof a / sizeof *a; i++)
        a[i] = 0.1f;
    other[0] = f->poison;
    gguf_key(&b, "general.type", f->type, "adapter");
    gguf_key(&b, "adapter.type", f->adapter, "lora");
    gguf_key(&b, "general.architecture", f->architecture, "llama");
    if (f->alpha >= 0 || isnan(f->alpha))
        gb_f32(&b, "adapter.lora.alpha", f->alpha != 0 || f->zero_alpha ? f->alpha : 4);
    if (f->more_key) gb_u32(&b, f->more_key, 1);
    gb_tensor(&b, "blk.0.attn_q.weight.lora_a", 2, a_dims, DT_F32, a);
    gb_tensor(&b, f->tensor ? f->tensor : "blk.0.attn_q.weight.lora_b", 2, b_dims, DT_F32, other);
    return gb_finish(&b, bytes);
}

static void a_gguf_adapter_that_does_not_fit_is_refused(void **state) {
    (void)state;
    static const gguf_fault faults[] = {
        {.type = "model", .wanted = "general.type is model; wanted \"adapter\""},
        {.type = "", .wanted = "general.type is missing"},
        {.adapter = "other", .wanted = "adapter.type is other"},
        {.architecture = "qwen2", .wanted = "general.architecture is \"qwen2\""},
        {.architecture = "", .wanted = "general.architecture is missing"},
        {.alpha = -1, .wanted = "adapter.lora.alpha is missing"},
        {.alpha = NAN, .wanted = "adapter.lora.alpha is nan"},
        {.alpha = INFINITY, .wanted = "adapter.lora.alpha is inf"},
        {.zero_alpha = true, .wanted = "adapter.lora.alpha is 0"},
        {.more_key = "adapter.alora.invocation_tokens",
         .wanted = "adapter.alora.invocation_tokens"},
        {.tensor = "blk.0.attn_q.weight", .wanted = "is no part of an adapter"},
        {.tensor = "blk.1.attn_q.weight.lora_b", .wanted = "stands alone"},
        {.tensor = "blk.9.attn_q.weight.lora_b", .wanted = "is of layer 9"},
        {.tensor = "blk.0.attn_norm.weight.lora_b", .wanted = "is no part of an adapter"},
        {.rows = 32, .wanted = "has the shape 32 x 2"},
        {.cols = 3, .wanted = "has rank 2; its B has 3"},
        {.poison = NAN, .wanted = "no finite number"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        size_t count;
        char *bytes = build_gguf(&faults[i], &count);
        lora_file *file = NULL;
        esp_error err = {0};
        esp_code code = lora_file_open_memory(&file, NULL, 0, bytes, count,
                                              model_file_weights(llama_gguf), &err);
        if (code != ESP_INVALID || !strstr(err.message, faults[i].wanted))
            fail_msg("wanted \"%s\": %d, %s", faults[i].wanted, code, err.message);
        assert_null(file);
        free(bytes);
    }
    size_t count;
    char *bytes = build_gguf(&(gguf_fault){0}, &count);
    lora_file *file = NULL;
    esp_error err = {0};
    if (lora_file_open_memory(&file, NULL, 0, bytes, count, model_file_weights(llama_gguf), &err))
        fail_msg("%s", err.message);
    assert_int_equal(lora_file_facts(file)->rank_max, LB_RANK);
    lora_file_close(file);
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_adapter_that_is_spoiled_below_is_good),
        cmocka_unit_test(a_config_that_is_not_computed_is_refused_by_its_key),
        cmocka_unit_test(a_config_may_say_how_the_training_went),
        cmocka_unit_test(a_tensor_that_does_not_fit_is_refused_by_its_name),
        cmocka_unit_test(an_embedding_that_grows_alone_is_refused_where_nothing_ties_it),
        cmocka_unit_test(facts_alone_are_checked_too),
        cmocka_unit_test(another_base_is_refused_by_shape),
        cmocka_unit_test(a_file_that_is_cut_short_is_refused),
        cmocka_unit_test(a_folder_says_what_it_lacks),
        cmocka_unit_test(facts_say_what_an_adapter_is),
        cmocka_unit_test(a_digest_is_of_the_content),
        cmocka_unit_test(an_outline_reads_no_number_of_a_tensor),
        cmocka_unit_test(an_outline_is_checked_too),
        cmocka_unit_test(a_base_of_another_name_is_worth_a_warning),
        cmocka_unit_test(a_base_that_records_another_name_is_refused_unless_allowed),
        cmocka_unit_test(a_score_head_has_labels),
        cmocka_unit_test(added_tokens_make_both_tables_longer),
        cmocka_unit_test(copies_of_the_base_are_not_kept),
        cmocka_unit_test(a_path_is_known_for_an_adapter),
        cmocka_unit_test(a_gguf_adapter_that_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, open_bases, close_bases);
}
