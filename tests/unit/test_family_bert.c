/* test_family_bert.c - BERT's metadata and config.json: each thing that is refused, by key, seen and
 * wanted. The GGUF files are the tiny model of tests/vectors/encoders with one value changed. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/mem.h"
#include "engine/model/family/family.h"
#include "engine/model/model.h"

enum { FILE_BYTES_MAX = 1 << 20 };

static uint8_t *read_bert(size_t *bytes) {
    FILE *file = fopen(TEST_SOURCE_DIR "/tests/vectors/encoders/bert.gguf", "rb");
    assert_non_null(file);
    uint8_t *out = mem_new(FILE_BYTES_MAX, 1);
    *bytes = fread(out, 1, FILE_BYTES_MAX, file);
    fclose(file);
    return out;
}

/* What stands behind a key's name and its type, or the name itself. */
static uint8_t *find(uint8_t *bytes, size_t count, const char *name, bool value) {
    uint8_t *at = memmem(bytes, count, name, strlen(name));
    assert_non_null(at);
    return value ? at + strlen(name) + sizeof(uint32_t) : at;
}

static void expect(const uint8_t *bytes, size_t count, const char *says) {
    model_file *file;
    esp_error err = {0};
    esp_code code = model_file_open_memory(&file, bytes, count, "bert.gguf", &err);
    if (code != ESP_INVALID || !strstr(err.message, says))
        fail_msg("wanted \"%s\" in \"%s\"", says, err.message);
}

static void numbers_out_of_range_are_refused_by_key(void **state) {
    (void)state;
    static const struct {
        const char *key;
        uint32_t value;
        const char *says;
    } bad[] = {
        {"bert.context_length", 0, "bert.context_length is 0"},
        {"bert.context_length", 65, "position_embd.weight has the shape"},
        {"bert.context_length", UINT32_MAX, "bert.context_length is 4294967295"},
        {"bert.block_count", 0, "bert.block_count is 0"},
        {"bert.block_count", 3, "blk.2."},
        {"bert.block_count", 1, "blk.1."},
        {"bert.embedding_length", 65, "bert.embedding_length is 65"},
        {"bert.embedding_length", 128, "has the shape"},
        {"bert.feed_forward_length", 0, "bert.feed_forward_length is 0"},
        {"bert.attention.head_count", 0, "head_count is 0"},
        {"bert.attention.head_count", 3, "head_count 3"},
        {"bert.attention.head_count", 64, "head_count 64"},
        {"bert.attention.layer_norm_epsilon", 0x7fc00000, "layer_norm_epsilon is nan"},
        {"bert.attention.layer_norm_epsilon", 0, "layer_norm_epsilon is 0"},
        {"bert.pooling_type", 0, "bert.pooling_type is 0"},
        {"bert.pooling_type", 4, "bert.pooling_type is 4"},
        {"bert.pooling_type", 77, "bert.pooling_type is 77"},
        {"bert.attention.causal", 1, "bert.attention.causal is true"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t count, width = strstr(bad[i].key, "causal") ? 1 : sizeof bad[i].value;
        uint8_t *bytes = read_bert(&count);
        memcpy(find(bytes, count, bad[i].key, true), &bad[i].value, width);
        expect(bytes, count, bad[i].says);
        free(bytes);
    }
}

/* Under another name a key is unknown, or missing, and a tensor missing. */
static void what_is_missing_or_unknown_is_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *says;
    } bad[] = {
        {"bert.pooling_type", "bort.pooling_type", "bert.pooling_type is missing"},
        {"bert.pooling_type", "bert.pooling_tipe", "bert.pooling_tipe"},
        {"bert.context_length", "bort.context_length", "bert.context_length is missing"},
        {"bert.attention.layer_norm_epsilon", "bort.attention.layer_norm_epsilon", "is missing"},
        {"blk.0.attn_q.bias", "blk.0.attn_q.bios", "blk.0.attn_q.bias is missing"},
        {"blk.1.attn_output.bias", "blk.1.attn_output.bios", "blk.1.attn_output.bias is missing"},
        {"blk.1.ffn_down.bias", "blk.1.ffn_down.bios", "blk.1.ffn_down.bias is missing"},
        {"blk.0.layer_output_norm.bias", "blk.0.layer_output_norm.bios", "is missing"},
        {"position_embd.weight", "position_embd.waight", "position_embd.weight is missing"},
        {"token_embd.weight", "token_embd.waight", "token_embd.weight"},
        {"token_embd_norm.bias", "token_embd_norm.bios", "token_embd_norm.bias is missing"},
        {"token_types.weight", "token_tipes.weight", "token_types.weight is missing"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t count;
        uint8_t *bytes = read_bert(&count);
        memcpy(find(bytes, count, bad[i].from, false), bad[i].to, strlen(bad[i].to));
        expect(bytes, count, bad[i].says);
        free(bytes);
    }
}

/* --- config.json ---------------------------------------------------------------------------- */

static esp_code read_config(const char *text, const model_family **family, model_spec *spec,
                            esp_error *err) {
    hf_config *config;
    esp_code code = hf_config_open_memory(&config, text, strlen(text), err);
    if (code) return code;
    code = family_find_config(config, family, err);
    if (!code) code = (*family)->read_config(config, spec, err);
    hf_config_close(config);
    return code;
}

#define SHAPE                                                                                      \
    "\"num_hidden_layers\":6,\"hidden_size\":384,\"intermediate_size\":1536,"                      \
    "\"num_attention_heads\":12,\"vocab_size\":30522,\"max_position_embeddings\":512"
#define BERT "{\"architectures\":[\"BertModel\"]," SHAPE
#define XLM_R "{\"architectures\":[\"XLMRobertaModel\"]," SHAPE

static void config_gives_the_shape(void **state) {
    (void)state;
    const model_family *family;
    model_spec spec;
    esp_error err = {0};
    if (read_config(BERT ",\"hidden_act\":\"gelu\",\"layer_norm_eps\":1e-12,\"type_vocab_size\":2}",
                    &family, &spec, &err))
        fail_msg("%s", err.message);
    assert_ptr_equal(family, &family_bert);
    assert_true(spec.encoder && spec.head_dim == 32 && spec.context == 512);
    assert_int_equal(spec.activation, ACTIVATION_GELU_ERF);
    assert_int_equal(spec.position_offset, 0);
    assert_int_equal(read_config(BERT ",\"hidden_act\":\"gelu_new\"}", &family, &spec, &err), 0);
    assert_int_equal(spec.activation, ACTIVATION_GELU_TANH);
}

/* XLM-RoBERTa's positions begin behind the padding token's row. */
static void positions_of_roberta_begin_later(void **state) {
    (void)state;
    const model_family *family;
    model_spec spec;
    esp_error err = {0};
    assert_int_equal(read_config(XLM_R ",\"pad_token_id\":1}", &family, &spec, &err), 0);
    assert_int_equal(spec.position_offset, 2);
    assert_int_equal(spec.context, 510);
    assert_int_equal(read_config(XLM_R ",\"pad_token_id\":511}", &family, &spec, &err),
                     ESP_INVALID);
    assert_non_null(strstr(err.message, "max_position_embeddings is 512"));
}

static void config_is_refused_by_key(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"{\"architectures\":[\"BertForSequenceClassification\"]," SHAPE "}",
         "BertForSequenceClassification"},
        {"{\"architectures\":[\"BertModel\"]}", "num_hidden_layers"},
        {BERT ",\"hidden_act\":\"relu\"}", "hidden_act is \"relu\""},
        {BERT ",\"position_embedding_type\":\"relative_key\"}", "relative_key"},
        {BERT ",\"is_decoder\":true}", "is_decoder is true"},
        {BERT ",\"add_cross_attention\":true}", "add_cross_attention is true"},
        {BERT ",\"type_vocab_size\":0}", "type_vocab_size"},
        {BERT ",\"layer_norm_eps\":-1}", "layer_norm_eps"},
        {"{\"architectures\":[\"BertModel\"],\"num_hidden_layers\":6,\"hidden_size\":384,"
         "\"intermediate_size\":1536,\"num_attention_heads\":7,\"vocab_size\":30522,"
         "\"max_position_embeddings\":512}",
         "7 attention heads"},
        {"{\"architectures\":[\"BertModel\"],\"num_hidden_layers\":6,\"hidden_size\":384,"
         "\"intermediate_size\":1536,\"num_attention_heads\":12,\"vocab_size\":30522,"
         "\"max_position_embeddings\":0}",
         "max_position_embeddings"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const model_family *family;
        model_spec spec;
        esp_error err = {0};
        if (read_config(bad[i].text, &family, &spec, &err) != ESP_INVALID ||
            !strstr(err.message, bad[i].says))
            fail_msg("case %zu: wanted \"%s\" in \"%s\"", i, bad[i].says, err.message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_out_of_range_are_refused_by_key),
        cmocka_unit_test(what_is_missing_or_unknown_is_refused_by_name),
        cmocka_unit_test(config_gives_the_shape),
        cmocka_unit_test(positions_of_roberta_begin_later),
        cmocka_unit_test(config_is_refused_by_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
