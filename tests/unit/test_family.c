/* test_family.c - families (engine/model/family*.c) and model files (model_file.c): a valid tiny file
 * gives its spec, tokenizer and description; each key or tensor that is wrong is refused by name.
 * What a family computes is tested in test_families.c. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>
#include <xxhash.h>

#include "engine/model/checkpoint.h"
#include "engine/model/model.h"
#include "tests/unit/gguf_builder.h"

/* What a test changes in a valid tiny model. */
typedef struct change {
    const char *without[3];              /* integer keys that are left out */
    void (*more_keys)(gguf_builder *b);  /* appended, NULL for none */
    void (*more_tensors)(gb_tiny *t);    /* NULL for none */
    const char *rename_from, *rename_to; /* a tensor of the file, of equal length */
    tiny_llama_options options;
    bool no_tokenizer;
} change;

/* Where the text with its length before it stands in the file: not where it ends a longer one. */
static char *find_text(char *file, size_t bytes, const char *text) {
    gb_bytes needle = {0};
    gb_put_text(&needle, text);
    char *at = memmem(file, bytes, needle.at, needle.count);
    free(needle.at);
    assert_non_null(at);
    return at + 8;
}

static void rename_tensor(char *file, size_t bytes, const char *from, const char *to) {
    assert_int_equal(strlen(from), strlen(to));
    memcpy(find_text(file, bytes, from), to, strlen(to));
}

static char *build(const change *c, size_t *bytes) {
    gb_tiny t = {.o = gb_tiny_defaults(&c->options)};
    gb_tiny_metadata(&t.b, &t.o, c->without);
    if (!c->no_tokenizer) gb_tiny_tokenizer(&t.b);
    if (c->more_keys) c->more_keys(&t.b);
    gb_tiny_tensors(&t);
    if (c->more_tensors) c->more_tensors(&t);
    char *file = gb_finish(&t.b, bytes);
    if (c->rename_from) rename_tensor(file, *bytes, c->rename_from, c->rename_to);
    return file;
}

static void assert_refused(const change *c, const char *words) {
    size_t bytes;
    char *file = build(c, &bytes);
    model_file *tiny;
    esp_error err = {0};
    esp_code code = model_file_open_memory(&tiny, file, bytes, "m.gguf", &err);
    if (code != ESP_INVALID || !strstr(err.message, words)) print_error("%s\n", err.message);
    assert_int_equal(code, ESP_INVALID);
    assert_null(tiny);
    assert_non_null(strstr(err.message, words));
    assert_int_equal(strncmp(err.message, "m.gguf: ", 8), 0);
    free(file);
}

static model_file *assert_opens(const change *c, char **file) {
    size_t bytes;
    model_file *tiny;
    esp_error err = {0};
    *file = build(c, &bytes);
    esp_code code = model_file_open_memory(&tiny, *file, bytes, "m.gguf", &err);
    if (code) print_error("%s\n", err.message);
    assert_int_equal(code, ESP_OK);
    return tiny;
}

/* Every field of the spec comes from its key, and the vocabulary from the embedding. */
static void reads_the_spec_of_a_tiny_model(void **state) {
    (void)state;
    change c = {.options = {.layers = 3, .heads = 6, .kv_heads = 3, .head_dim = 32, .vocab = 300}};
    char *file;
    model_file *tiny = assert_opens(&c, &file);
    const model_spec *spec = model_file_spec(tiny);
    assert_string_equal(spec->family, "llama");
    assert_int_equal(spec->layers, 3);
    assert_int_equal(spec->hidden, 64);
    assert_int_equal(spec->heads, 6);
    assert_int_equal(spec->kv_heads, 3);
    assert_int_equal(spec->head_dim, 32);
    assert_int_equal(spec->intermediate, 128);
    assert_int_equal(spec->vocab, 300);
    assert_int_equal(spec->context, 256);
    assert_true(spec->norm_eps == 1e-5f);
    assert_false(spec->tied_embeddings);
    assert_int_equal(spec->rotary, 32);
    assert_true(spec->rope_interleaved);
    assert_true(spec->rope.theta == 10000.0);
    assert_true(fabsf(spec->attention_scale - 0.1767767f) < 1e-6f);
    assert_true(spec->embedding_scale == 1);
    model_file_close(tiny);
    free(file);
}

/* Without the optional keys: as many KV heads as heads, heads share the width, rope turns all of
 * it. */
static void fills_in_what_may_be_missing(void **state) {
    (void)state;
    change c = {.without = {"llama.attention.key_length", "llama.attention.value_length"},
                .options = {.tied = true, .dtype = DT_Q4_1}};
    char *file;
    model_file *tiny = assert_opens(&c, &file);
    assert_int_equal(model_file_spec(tiny)->head_dim, 16);
    assert_true(model_file_spec(tiny)->tied_embeddings);
    model_file_close(tiny);
    free(file);
    change d = {.without = {"llama.attention.head_count_kv", "llama.rope.dimension_count"},
                .options = {.kv_heads = 4}};
    tiny = assert_opens(&d, &file);
    assert_int_equal(model_file_spec(tiny)->kv_heads, 4);
    assert_int_equal(model_file_spec(tiny)->rotary, 16);
    model_file_close(tiny);
    free(file);
}

/* A role's tensor is found with its shape; the output matrix of a tied model is none. */
static void finds_tensors_by_role(void **state) {
    (void)state;
    change c = {.options = {.tied = true}};
    char *file;
    model_file *tiny = assert_opens(&c, &file);
    const model_tensor *tensor;
    assert_int_equal(checkpoint_find(model_file_weights(tiny), TENSOR_DOWN, 1, &tensor, NULL),
                     ESP_OK);
    assert_int_equal(tensor->dims[0], 128);
    assert_int_equal(tensor->dims[1], 64);
    assert_int_equal(strncmp(tensor->name.at, "blk.1.ffn_down.weight", tensor->name.bytes), 0);
    assert_int_equal(checkpoint_find(model_file_weights(tiny), TENSOR_OUTPUT, 0, &tensor, NULL),
                     ESP_OK);
    assert_null(tensor);
    model_file_close(tiny);
    free(file);
}

/* Each required key, left out, is named. */
static void names_missing_keys(void **state) {
    (void)state;
    static const char *const keys[] = {"llama.block_count", "llama.context_length",
                                       "llama.embedding_length", "llama.feed_forward_length",
                                       "llama.attention.head_count"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        change c = {.without = {keys[i]}};
        char words[96];
        snprintf(words, sizeof words, "key %s is missing", keys[i]);
        assert_refused(&c, words);
    }
}

/* Numbers out of bounds, and those that do not fit each other. The key in question is replaced. */
static void refuses_numbers_out_of_bounds(void **state) {
    (void)state;
    static const struct {
        const char *key;
        uint32_t value;
        const char *words;
    } cases[] = {
        {"llama.block_count", 0, "block_count is 0; wanted 1 to 512"},
        {"llama.block_count", 513, "block_count is 513; wanted 1 to 512"},
        {"llama.context_length", 0, "context_length is 0"},
        {"llama.embedding_length", 0, "embedding_length is 0"},
        {"llama.embedding_length", 48, "embedding_length is 48; wanted a multiple of 32"},
        {"llama.embedding_length", 131072, "embedding_length is 131072; wanted 32 to 65536"},
        {"llama.feed_forward_length", UINT32_MAX, "feed_forward_length is 4294967295"},
        {"llama.feed_forward_length", 100, "wanted a multiple of 32"},
        {"llama.attention.head_count", 0, "head_count is 0"},
        {"llama.attention.head_count", 5000, "head_count is 5000"},
        {"llama.attention.head_count", 3, "wanted a multiple of llama.attention.head_count_kv, 2"},
        {"llama.attention.head_count_kv", 0, "head_count_kv is 0"},
        {"llama.attention.head_count_kv", 8, "head_count_kv is 8; wanted 1 to 4"},
        {"llama.attention.key_length", 24, "key_length is 24"},
        {"llama.attention.key_length", 0, "key_length is 0"},
        {"llama.attention.key_length", 272, "key_length is 272"},
        {"llama.attention.key_length", 32, "value_length is 16; wanted the length of a key, 32"},
        {"llama.rope.dimension_count", 0, "dimension_count is 0; wanted 2 to 16"},
        {"llama.rope.dimension_count", 18, "dimension_count is 18; wanted 2 to 16"},
        {"llama.rope.dimension_count", 7, "dimension_count is 7; wanted a multiple of 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const change c = {.without = {cases[i].key}};
        gb_tiny t = {.o = gb_tiny_defaults(NULL)};
        gb_tiny_metadata(&t.b, &t.o, c.without);
        gb_u32(&t.b, cases[i].key, cases[i].value);
        gb_tiny_tokenizer(&t.b);
        gb_tiny_tensors(&t);
        size_t bytes;
        char *file = gb_finish(&t.b, &bytes);
        model_file *tiny;
        esp_error err = {0};
        assert_int_equal(model_file_open_memory(&tiny, file, bytes, "m.gguf", &err), ESP_INVALID);
        if (!strstr(err.message, cases[i].words)) print_error("%s\n", err.message);
        assert_non_null(strstr(err.message, cases[i].words));
        free(file);
    }
}

static void put_experts(gguf_builder *b) { gb_u32(b, "llama.expert_count", 8); }
static void put_yarn(gguf_builder *b) { gb_text(b, "llama.rope.scaling.type", "yarn"); }
static void put_longrope(gguf_builder *b) { gb_text(b, "llama.rope.scaling.type", "longrope"); }
static void put_attention_factor(gguf_builder *b) {
    gb_f32(b, "llama.rope.scaling.attn_factor", 1.2f);
}
static void put_old_factor(gguf_builder *b) { gb_f32(b, "llama.rope.scale_linear", -2); }
static void put_yarn_extra(gguf_builder *b) { gb_f32(b, "llama.rope.scaling.yarn_ext_factor", 1); }
static void put_nan_factor(gguf_builder *b) { gb_f32(b, "llama.rope.scaling.factor", NAN); }
static void put_bidirectional(gguf_builder *b) { gb_bool(b, "llama.attention.causal", false); }
static void put_unknown(gguf_builder *b) { gb_f32(b, "llama.logit_scale", 0.0625f); }
static void put_split(gguf_builder *b) { gb_u32(b, "split.count", 3); }
static void put_adapter(gguf_builder *b) { gb_text(b, "general.type", "adapter"); }
static void put_head_array(gguf_builder *b) {
    gb_array(b, "llama.attention.head_count", GGUF_U32, 2);
    gb_put_u32(&b->pairs, 4);
    gb_put_u32(&b->pairs, 4);
}
static void put_width_array(gguf_builder *b) {
    gb_array(b, "llama.feed_forward_length", GGUF_U32, 1);
    gb_put_u32(&b->pairs, 128);
}
static void put_template_number(gguf_builder *b) { gb_u32(b, "tokenizer.chat_template.x", 1); }

/* What we do not compute is refused by its key: experts, windows, rope scalings, per-layer heads,
 * keys that nobody knows; and so are files that are no whole model. */
static void refuses_variants_by_name(void **state) {
    (void)state;
    static const struct {
        void (*keys)(gguf_builder *);
        const char *without, *words;
    } cases[] = {
        {put_experts, "", "llama.expert_count is 8"},
        {put_yarn, "", "key llama.rope.scaling.original_context_length is missing"},
        {put_longrope, "", "scaling.type is \"longrope\", which is not supported for llama models"},
        {put_attention_factor, "", "attn_factor is 1.2; it is supported with longrope only"},
        {put_old_factor, "", "llama.rope.scale_linear is -2; wanted 0 to 1e+06"},
        {put_nan_factor, "", "llama.rope.scaling.factor is nan"},
        {put_yarn_extra, "", "key llama.rope.scaling.yarn_ext_factor (1) is not known"},
        {put_bidirectional, "", "llama.attention.causal is false"},
        {put_unknown, "", "key llama.logit_scale (0.0625) is not known"},
        {put_head_array, "llama.attention.head_count", "head_count is of type array"},
        {put_width_array, "llama.feed_forward_length", "feed_forward_length is of type array"},
        {put_split, "", "split.count is 3"},
        {put_adapter, "", "general.type is not \"model\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        change c = {.without = {cases[i].without}, .more_keys = cases[i].keys};
        assert_refused(&c, cases[i].words);
    }
}

static void put_harmless(gguf_builder *b) {
    gb_u32(b, "llama.expert_count", 0);
    gb_u32(b, "llama.vocab_size", 1);
    gb_text(b, "llama.rope.scaling.type", "none");
    gb_f32(b, "llama.rope.scaling.factor", 1);
    gb_bool(b, "llama.attention.causal", true);
    gb_text(b, "general.type", "model");
    gb_u32(b, "split.count", 1);
    put_template_number(b);
}

/* Keys that say what we compute anyway, or nothing about it, are no reason to refuse. */
static void takes_harmless_keys(void **state) {
    (void)state;
    change c = {.more_keys = put_harmless};
    char *file;
    model_file_close(assert_opens(&c, &file));
    free(file);
}

/* Another architecture, none, or one with bytes that must not reach a terminal. */
static void names_the_architectures_it_knows(void **state) {
    (void)state;
    static const struct {
        const char *name, *words;
    } cases[] = {{"gpt2", "general.architecture is \"gpt2\"; wanted one of llama, qwen2, qwen3, "
                          "gemma2, gemma3, phi3"},
                 {"llama\x1b", "general.architecture is \"llama?\""},
                 {NULL, "key general.architecture is missing"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        gguf_builder b = {0};
        if (cases[i].name) gb_text(&b, "general.architecture", cases[i].name);
        size_t bytes;
        char *file = gb_finish(&b, &bytes);
        model_file *tiny;
        esp_error err;
        assert_int_equal(model_file_open_memory(&tiny, file, bytes, "m", &err), ESP_INVALID);
        assert_non_null(strstr(err.message, cases[i].words));
        free(file);
    }
}

static void add_bias(gb_tiny *t) { gb_tiny_tensor(t, "blk.0.attn_q.bias", 0, 64, 0, 1); }
static void add_layer(gb_tiny *t) { gb_tiny_layer(t, 2); }
static void add_short_divisors(gb_tiny *t) { gb_tiny_tensor(t, "rope_freqs.weight", 0, 7, 1, 0); }
static void add_zero_divisors(gb_tiny *t) { gb_tiny_tensor(t, "rope_freqs.weight", 0, 8, 0, 0); }
static void add_divisors(gb_tiny *t) { gb_tiny_tensor(t, "rope_freqs.weight", 0, 8, 1, 0); }
static void add_long_list(gb_tiny *t) { gb_tiny_tensor(t, "rope_factors_long.weight", 0, 8, 1, 0); }

/* Tensors that are missing and tensors that have no place. */
static void refuses_missing_and_surplus_tensors(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *words;
        void (*more)(gb_tiny *);
    } cases[] = {
        {"blk.1.ffn_up.weight", "blk.1.ffn_uq.weight", "blk.1.ffn_up.weight is missing", NULL},
        {"output_norm.weight", "output_nurm.weight", "output_norm.weight is missing", NULL},
        {"token_embd.weight", "token_embt.weight", "token_embd.weight is missing", NULL},
        {"output.weight", "outpot.weight", "outpot.weight has no place in a llama model", NULL},
        {NULL, NULL, "blk.0.attn_q.bias has no place in a llama model of 2 layers", add_bias},
        {NULL, NULL, "blk.2.attn_norm.weight has no place", add_layer},
        {NULL, NULL, "rope_freqs.weight has the shape [7]; the metadata wants [8]",
         add_short_divisors},
        {NULL, NULL, "element 0 of tensor rope_freqs.weight is 0; wanted > 0", add_zero_divisors},
        {NULL, NULL, "rope_factors_long.weight has no place in a llama model", add_long_list},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        change c = {
            .rename_from = cases[i].from, .rename_to = cases[i].to, .more_tensors = cases[i].more};
        assert_refused(&c, cases[i].words);
    }
}

static void put_scalings(gguf_builder *b) {
    gb_text(b, "llama.rope.scaling.type", "yarn");
    gb_f32(b, "llama.rope.scaling.factor", 4);
    gb_u32(b, "llama.rope.scaling.original_context_length", 64);
    gb_f32(b, "llama.rope.scaling.yarn_beta_fast", 16);
}

static void put_window(gguf_builder *b) { gb_u32(b, "llama.attention.sliding_window", 48); }
static void put_factor(gguf_builder *b) { gb_f32(b, "llama.rope.scaling.factor", 4); }

/* Scalings and windows of the Llama architecture, each by its keys or tensor; not two at once. */
static void reads_scalings_and_windows(void **state) {
    (void)state;
    static const struct {
        void (*keys)(gguf_builder *);
        void (*tensors)(gb_tiny *);
        spec_scaling scaling;
        uint32_t window;
    } cases[] = {
        {put_scalings, NULL, SCALING_YARN, 0},
        {put_factor, NULL, SCALING_LINEAR, 0},
        {NULL, add_divisors, SCALING_DIVISORS, 0},
        {put_window, NULL, SCALING_NONE, 48},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        change c = {.more_keys = cases[i].keys, .more_tensors = cases[i].tensors};
        char *file;
        model_file *tiny = assert_opens(&c, &file);
        const model_spec *spec = model_file_spec(tiny);
        assert_int_equal(spec->rope.scaling, cases[i].scaling);
        assert_int_equal(spec->window, cases[i].window);
        assert_int_equal(spec->slides[1], cases[i].window > 0);
        if (spec->rope.scaling == SCALING_YARN) {
            assert_true(spec->rope.factor == 4 && spec->rope.original == 64);
            assert_true(spec->rope.beta_fast == 16 && spec->rope.beta_slow == 1);
            assert_true(fabs(spec->rope.magnitude - 1.1386294) < 1e-6);
        }
        model_file_close(tiny);
        free(file);
    }
    change both = {.more_keys = put_scalings, .more_tensors = add_divisors};
    assert_refused(&both, "rope_freqs.weight scales the rope frequencies, and llama.rope.scaling");
}

/* A file of tests/vectors/families, malloc'd. */
static char *read_vector(const char *name, size_t *bytes) {
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/vectors/families/%s.gguf", TEST_SOURCE_DIR, name);
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    assert_int_equal(fseek(in, 0, SEEK_END), 0);
    *bytes = (size_t)ftell(in);
    rewind(in);
    char *file = malloc(*bytes);
    assert_int_equal(fread(file, 1, *bytes, in), *bytes);
    fclose(in);
    return file;
}

/* Every other family, with one word of its file changed: a tensor or key that is then missing, or
 * unknown to it. */
static void other_families_refuse_by_name_too(void **state) {
    (void)state;
    static const struct {
        const char *file, *from, *to, *words;
    } cases[] = {
        {"qwen2", "blk.1.attn_k.bias", "blk.1.attn_k.bios", "blk.1.attn_k.bias is missing"},
        {"qwen2", "yarn", "yarm", "qwen2.rope.scaling.type is \"yarm\""},
        {"qwen2", "qwen2.rope.scaling.original_context_length",
         "qwen2.rope.scaling.original_context_langth", "original_context_length is missing"},
        {"qwen2", "qwen2.rope.scaling.factor", "qwen2.attention.clamp_kqv",
         "key qwen2.attention.clamp_kqv (4) is not known"},
        {"qwen3", "blk.0.attn_q_norm.weight", "blk.0.attn_q_nurm.weight",
         "blk.0.attn_q_norm.weight is missing"},
        {"gemma3", "blk.6.post_ffw_norm.weight", "blk.6.post_fww_norm.weight",
         "blk.6.post_ffw_norm.weight is missing"},
        {"gemma3", "linear", "luneur", "gemma3.rope.scaling.type is \"luneur\""},
        {"gemma2", "gemma2.attention.scale", "gemma2.attention.skale",
         "key gemma2.attention.skale (0.204124153) is not known"},
        {"gemma2", "gemma2.attn_logit_softcapping", "gemma2.attn_logit_softcappinG",
         "softcappinG (3) is not known"},
        {"phi3", "rope_factors_short.weight", "rope_factors_shirt.weight",
         "rope_factors_short.weight is missing"},
        {"phi3", "rope_factors_long.weight", "rope_factors_lang.weight",
         "attn_factor is 1.1547; it is supported with longrope only"},
        {"phi3", "blk.0.attn_qkv.weight", "blk.0.attn_qvk.weight",
         "blk.0.attn_qkv.weight is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t bytes;
        char *file = read_vector(cases[i].file, &bytes);
        model_file *opened;
        esp_error err = {0};
        rename_tensor(file, bytes, cases[i].from, cases[i].to);
        assert_int_equal(model_file_open_memory(&opened, file, bytes, "m.gguf", &err), ESP_INVALID);
        if (!strstr(err.message, cases[i].words)) print_error("%s\n", err.message);
        assert_non_null(strstr(err.message, cases[i].words));
        free(file);
    }
}

/* What makes each family itself, as the spec says it. */
static void reads_the_specs_of_other_families(void **state) {
    (void)state;
    size_t bytes;
    model_file *opened;
    char *file = read_vector("gemma3", &bytes);
    assert_int_equal(model_file_open_memory(&opened, file, bytes, "m", NULL), ESP_OK);
    const model_spec *spec = model_file_spec(opened);
    assert_true(spec->slides[0] && spec->slides[4] && !spec->slides[5] && spec->slides[6]);
    assert_true(spec->rope_local && spec->local_theta == 10000 && spec->rope.theta == 1000000);
    assert_true(spec->rope.scaling == SCALING_LINEAR && spec->rope.factor == 8);
    assert_true(spec->embedding_scale == 8 && spec->activation == ACTIVATION_GELU_TANH);
    assert_false(spec->rope_interleaved);
    model_file_close(opened);
    free(file);
    file = read_vector("phi4", &bytes);
    assert_int_equal(model_file_open_memory(&opened, file, bytes, "m", NULL), ESP_OK);
    spec = model_file_spec(opened);
    assert_int_equal(spec->rotary, 12);
    assert_int_equal(spec_short_context(spec), 64);
    assert_true(fabs(spec->rope.magnitude - sqrt(1 + log(4) / log(64))) < 1e-6);
    model_file_close(opened);
    free(file);
}

/* A shape that the metadata does not want, a norm in blocks, a matrix as a vector. */
static void refuses_mis_shaped_tensors(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint32_t dim_count;
        uint64_t dims[2];
        esp_dtype dtype;
        const char *words;
    } cases[] = {
        {"blk.0.attn_q.weight", 2, {64, 32}, DT_F32, "shape [64, 32]; the metadata wants [64, 64]"},
        {"blk.0.attn_k.weight", 2, {32, 64}, DT_F32, "shape [32, 64]; the metadata wants [64, 32]"},
        {"blk.0.ffn_down.weight",
         1,
         {8192, 1},
         DT_F32,
         "shape [8192]; the metadata wants [128, 64]"},
        {"blk.0.attn_norm.weight", 2, {64, 1}, DT_F32, "shape [64, 1]; the metadata wants [64]"},
        {"blk.0.ffn_norm.weight", 1, {64, 1}, DT_Q8_0, "has type Q8_0; wanted F32"},
    };
    float *zeros = mem_new(8192, sizeof *zeros);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        gb_tiny t = {.o = gb_tiny_defaults(NULL)};
        gb_tiny_metadata(&t.b, &t.o, NULL);
        gb_tensor(&t.b, cases[i].name, cases[i].dim_count, cases[i].dims, cases[i].dtype, zeros);
        gb_tiny_tensors(&t);
        size_t bytes;
        char *file = gb_finish(&t.b, &bytes), moved[64];
        /* the second of the two has the right shape: it gets another name */
        snprintf(moved, sizeof moved, "%s", cases[i].name);
        moved[4] = '9';
        char *second = find_text(file, bytes, cases[i].name);
        rename_tensor(second, bytes - (size_t)(second - file), cases[i].name, moved);
        model_file *tiny;
        esp_error err = {0};
        assert_int_equal(model_file_open_memory(&tiny, file, bytes, "m.gguf", &err), ESP_INVALID);
        if (!strstr(err.message, cases[i].words)) print_error("%s\n", err.message);
        assert_non_null(strstr(err.message, cases[i].words));
        free(file);
    }
    free(zeros);
}

static void put_small_vocabulary(gguf_builder *b) {
    gb_text(b, "tokenizer.ggml.model", "gpt2");
    gb_array(b, "tokenizer.ggml.tokens", GGUF_STRING, 2);
    gb_put_text(&b->pairs, "a");
    gb_put_text(&b->pairs, "b");
}
static void put_foreign_eos(gguf_builder *b) {
    put_small_vocabulary(b);
    gb_u32(b, "tokenizer.ggml.eos_token_id", 2);
}
static void put_short_types(gguf_builder *b) {
    put_small_vocabulary(b);
    gb_array(b, "tokenizer.ggml.token_type", GGUF_I32, 1);
    gb_put_u32(&b->pairs, 1);
}
static void put_bad_type(gguf_builder *b) {
    put_small_vocabulary(b);
    gb_array(b, "tokenizer.ggml.token_type", GGUF_I32, 2);
    gb_put_u32(&b->pairs, 1);
    gb_put_u32(&b->pairs, 7);
}
static void put_bos_without_id(gguf_builder *b) {
    put_small_vocabulary(b);
    gb_bool(b, "tokenizer.ggml.add_bos_token", true);
}
static void put_no_tokens(gguf_builder *b) { gb_text(b, "tokenizer.ggml.model", "gpt2"); }
static void put_odd_kind(gguf_builder *b) { gb_text(b, "tokenizer.ggml.model", "gp t2"); }
static void put_numbers_for_tokens(gguf_builder *b) {
    gb_text(b, "tokenizer.ggml.model", "gpt2");
    gb_array(b, "tokenizer.ggml.tokens", GGUF_I32, 0);
}
static void put_large_vocabulary(gguf_builder *b) {
    gb_text(b, "tokenizer.ggml.model", "gpt2");
    gb_array(b, "tokenizer.ggml.tokens", GGUF_STRING, TINY_TOKENS + 1);
    for (int i = 0; i <= TINY_TOKENS; i++)
        gb_put_text(&b->pairs, "x");
}
static void put_many_ends(gguf_builder *b) {
    gb_text(b, "tokenizer.ggml.model", "gpt2");
    gb_array(b, "tokenizer.ggml.tokens", GGUF_STRING, 65);
    for (int i = 0; i < 65; i++)
        gb_put_text(&b->pairs, "<|end|>");
    gb_array(b, "tokenizer.ggml.token_type", GGUF_I32, 65);
    for (int i = 0; i < 65; i++)
        gb_put_u32(&b->pairs, 3);
}

/* Tokenizer data: none, ids out of range, lists that do not fit each other or the embedding. */
static void refuses_bad_tokenizer_data(void **state) {
    (void)state;
    static const struct {
        void (*keys)(gguf_builder *);
        const char *words;
    } cases[] = {
        {NULL, "key tokenizer.ggml.model is missing; the file has no tokenizer"},
        {put_no_tokens, "key tokenizer.ggml.tokens is missing or empty"},
        {put_numbers_for_tokens, "array of int32; wanted an array of string"},
        {put_odd_kind, "tokenizer.ggml.model has 5 bytes; wanted a word"},
        {put_foreign_eos, "tokenizer.ggml.eos_token_id is 2; wanted less than the 2 tokens"},
        {put_short_types, "token_type has 1 entries; wanted one for each of 2 tokens"},
        {put_bad_type, "token_type says 7 of token 1; wanted 1 to 6"},
        {put_bos_without_id, "add_bos_token is true, but there is no tokenizer.ggml.bos_token_id"},
        {put_large_vocabulary, "wanted no more than the 292 rows of the embedding"},
        {put_many_ends, "more than 64 tokens that end a generation"},
    };
    assert_int_equal(TINY_TOKENS, 292);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        change c = {.no_tokenizer = true, .more_keys = cases[i].keys};
        assert_refused(&c, cases[i].words);
    }
}

/* The tokenizer opens and reads text back; <|im_end|> (eos) and <|endoftext|> end a generation. */
static void opens_the_tokenizer_of_the_file(void **state) {
    (void)state;
    change c = {0};
    char *file;
    model_file *tiny = assert_opens(&c, &file);
    tokenizer *tok;
    esp_error err = {0};
    esp_code code = model_file_tokenizer(tiny, &tok, &err);
    if (code) print_error("%s\n", err.message);
    assert_int_equal(code, ESP_OK);
    assert_int_equal(tok_count(tok), TINY_TOKENS);
    assert_int_equal(tok_bos(tok), 1);
    assert_int_equal(tok_eos(tok), 2);
    assert_true(tok_ends_generation(tok, 0));
    assert_false(tok_ends_generation(tok, 1));
    assert_true(tok_ends_generation(tok, 2));
    static const char text[] = "Hello world\n\xff";
    tok_ids ids = {0};
    const tok_encode_options options = {0};
    assert_int_equal(tok_encode(tok, text, sizeof text - 1, &options, &ids, &err), ESP_OK);
    assert_int_equal(ids.count, 4); /* Hello, Ġworld, newline, one byte */
    char back[64];
    size_t bytes = 0;
    for (uint32_t i = 0; i < ids.count; i++) {
        tok_text piece = tok_bytes(tok, ids.at[i]);
        memcpy(back + bytes, piece.at, piece.bytes);
        bytes += piece.bytes;
    }
    assert_int_equal(bytes, sizeof text - 1);
    assert_memory_equal(back, text, bytes);
    tok_ids_free(&ids);
    tok_close(tok);
    model_file_close(tiny);
    free(file);
}

static json_t *describe(model_file *tiny) {
    char *text = model_file_describe(tiny);
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    free(text);
    return root;
}

/* The description is JSON that says what inspect promises. */
static void describes_the_file(void **state) {
    (void)state;
    change c = {.options = {.dtype = DT_Q8_0, .tied = true}};
    char *file;
    model_file *tiny = assert_opens(&c, &file);
    json_t *root = describe(tiny), *tokens = json_object_get(root, "tokenizer");
    json_t *first = json_array_get(json_object_get(root, "tensors"), 0);
    assert_string_equal(json_string_value(json_object_get(root, "kind")), "model");
    assert_string_equal(json_string_value(json_object_get(root, "format")), "GGUF v3");
    assert_string_equal(json_string_value(json_object_get(root, "name")), "tiny llama");
    assert_string_equal(json_string_value(json_object_get(root, "quantization")), "Q8_0");
    /* 292*64 + 2 * (2*64*64 + 2*32*64 + 3*128*64 + 2*64) + 64 */
    assert_int_equal(json_integer_value(json_object_get(root, "parameters")), 92736);
    assert_int_equal(json_array_size(json_object_get(root, "tensors")), 20);
    assert_string_equal(json_string_value(json_object_get(first, "name")), "token_embd.weight");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(first, "shape"), 0)), 292);
    assert_string_equal(json_string_value(json_object_get(tokens, "pre")), "smollm");
    assert_int_equal(json_integer_value(json_object_get(tokens, "eos")), 2);
    assert_true(json_is_true(json_object_get(root, "chat_template")));
    size_t bytes;
    const char *template = model_file_template(tiny, &bytes);
    assert_int_equal(bytes, strlen(TINY_TEMPLATE));
    assert_memory_equal(template, TINY_TEMPLATE, bytes);
    json_decref(root);
    model_file_close(tiny);
    free(file);
}

/* XXH3-128 of the bytes, fed in two pieces, as 32 hex digits with the high half first. */
static void hash_in_pieces(const char *file, size_t bytes, char *out, size_t out_bytes) {
    XXH3_state_t *hash = XXH3_createState();
    XXH3_128bits_reset(hash);
    XXH3_128bits_update(hash, file, 1000);
    XXH3_128bits_update(hash, file + 1000, bytes - 1000);
    XXH128_hash_t value = XXH3_128bits_digest(hash);
    snprintf(out, out_bytes, "xxh3-128:%016llx%016llx", (unsigned long long)value.high64,
             (unsigned long long)value.low64);
    XXH3_freeState(hash);
}

/* The digest is that of all bytes, the same when asked twice, and one changed weight changes it. */
static void digests_every_byte(void **state) {
    (void)state;
    size_t bytes;
    char *file = gguf_build_tiny_llama(NULL, &bytes), first[64], wanted[64];
    model_file *tiny;
    assert_int_equal(model_file_open_memory(&tiny, file, bytes, "m", NULL), ESP_OK);
    snprintf(first, sizeof first, "%s", model_file_digest(tiny));
    assert_string_equal(model_file_digest(tiny), first);
    hash_in_pieces(file, bytes, wanted, sizeof wanted);
    assert_string_equal(first, wanted);
    model_file_close(tiny);
    file[bytes - 1] = (char)(file[bytes - 1] ^ 1);
    assert_int_equal(model_file_open_memory(&tiny, file, bytes, "m", NULL), ESP_OK);
    assert_string_not_equal(model_file_digest(tiny), first);
    model_file_close(tiny);
    free(file);
}

/* Every type of matrix that the builder writes opens, from a path as well. */
static void opens_every_matrix_type_from_a_path(void **state) {
    (void)state;
    char path[] = "/tmp/test_family.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    for (esp_dtype dtype = DT_F32; gb_writes(dtype); dtype++) {
        const tiny_llama_options options = {.dtype = dtype, .seed = 5};
        size_t bytes;
        model_file *tiny;
        esp_error err = {0};
        char *file = gguf_build_tiny_llama(&options, &bytes);
        assert_true(gb_save(path, file, bytes));
        assert_int_equal(model_file_open(&tiny, path, &err), ESP_OK);
        const tensor_set *tensors = &model_file_weights(tiny)->tensors;
        assert_int_equal(tensor_set_find(tensors, "output.weight")->dtype, dtype);
        model_file_close(tiny);
        free(file);
    }
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_the_spec_of_a_tiny_model),
        cmocka_unit_test(fills_in_what_may_be_missing),
        cmocka_unit_test(finds_tensors_by_role),
        cmocka_unit_test(names_missing_keys),
        cmocka_unit_test(refuses_numbers_out_of_bounds),
        cmocka_unit_test(refuses_variants_by_name),
        cmocka_unit_test(takes_harmless_keys),
        cmocka_unit_test(names_the_architectures_it_knows),
        cmocka_unit_test(refuses_missing_and_surplus_tensors),
        cmocka_unit_test(reads_scalings_and_windows),
        cmocka_unit_test(other_families_refuse_by_name_too),
        cmocka_unit_test(reads_the_specs_of_other_families),
        cmocka_unit_test(refuses_mis_shaped_tensors),
        cmocka_unit_test(refuses_bad_tokenizer_data),
        cmocka_unit_test(opens_the_tokenizer_of_the_file),
        cmocka_unit_test(describes_the_file),
        cmocka_unit_test(digests_every_byte),
        cmocka_unit_test(opens_every_matrix_type_from_a_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
