/* test_packed.c - quantised Hugging Face matrices become blocks that mean the same weights.
 *
 * tests/vectors/packed_weights.jsonl, written by make_packed_vectors.py beside it; then the same
 * matrices with one part spoiled. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/base/mem.h"
#include "engine/model/packed/packed.h"
#include "tests/unit/vector_file.h"

/* --- a line of the file -------------------------------------------------------------------- */

enum { TENSORS_MAX = 8 };

typedef struct packed_case {
    json_t *row;
    tensor_set tensors;
    void *bytes[TENSORS_MAX]; /* of each tensor */
    packed_scheme scheme;
    float *weights;
    uint32_t rows, cols;
} packed_case;

static int base64_digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static void *base64_bytes(const json_t *value, size_t *count) {
    const char *text = json_string_value(value);
    assert_non_null(text);
    uint8_t *out = malloc(json_string_length(value) + 1);
    uint32_t window = 0, bits = 0;
    *count = 0;
    for (; base64_digit(*text) >= 0; text++) {
        window = window << 6 | (uint32_t)base64_digit(*text);
        if ((bits += 6) < 8) continue;
        out[(*count)++] = (uint8_t)(window >> (bits -= 8));
    }
    return out;
}

static void set_type(model_tensor *tensor, const char *name) {
    static const struct {
        const char *name;
        tensor_raw raw;
        esp_dtype dtype;
    } types[] = {{"F32", RAW_NONE, DT_F32},  {"F16", RAW_NONE, DT_F16}, {"BF16", RAW_NONE, DT_BF16},
                 {"I32", RAW_I32, 0},        {"I64", RAW_I64, 0},       {"I8", RAW_I8, 0},
                 {"F8_E4M3", RAW_F8_E4M3, 0}};
    size_t i = 0;
    while (strcmp(types[i].name, name) != 0)
        i++;
    tensor->raw = types[i].raw;
    tensor->dtype = types[i].dtype;
}

static uint32_t number(const json_t *object, const char *key) {
    return (uint32_t)json_integer_value(json_object_get(object, key));
}

static void read_scheme(const json_t *scheme, packed_scheme *out) {
    static const char *const names[] = {"", "gptq", "awq", "words", "int8", "fp8"};
    const char *name = json_string_value(json_object_get(scheme, "packing"));
    out->bits = number(scheme, "bits");
    out->group_cols = number(scheme, "group_cols");
    out->zero_bias = number(scheme, "zero_bias");
    out->block_rows = number(scheme, "block_rows");
    out->symmetric = json_is_true(json_object_get(scheme, "symmetric"));
    while (strcmp(names[out->packing], name) != 0)
        out->packing++;
}

static void read_tensor(packed_case *c, const json_t *entry) {
    size_t bytes, count = json_array_size(json_object_get(entry, "dims"));
    void *data = base64_bytes(json_object_get(entry, "bytes"), &bytes);
    model_tensor tensor = {.dim_count = (uint32_t)count,
                           .dims = {1, 1, 1, 1},
                           .data = data,
                           .bytes = bytes,
                           .file = "test"};
    const json_t *name = json_object_get(entry, "name");
    tensor.name = (model_text){json_string_value(name), json_string_length(name)};
    for (size_t i = 0; i < count; i++) {
        const json_t *dim = json_array_get(json_object_get(entry, "dims"), count - 1 - i);
        tensor.dims[i] = (uint64_t)json_integer_value(dim);
    }
    set_type(&tensor, json_string_value(json_object_get(entry, "type")));
    c->bytes[c->tensors.count] = data;
    tensor_set_add(&c->tensors, &tensor);
}

static bool case_next(FILE *file, packed_case *c) {
    *c = (packed_case){.row = vector_next(file)};
    if (!c->row) return false;
    size_t i, bytes;
    const json_t *entry;
    json_array_foreach(json_object_get(c->row, "tensors"), i, entry) read_tensor(c, entry);
    c->rows = number(c->row, "rows");
    c->cols = number(c->row, "cols");
    c->weights = base64_bytes(json_object_get(c->row, "weights"), &bytes);
    assert_int_equal(bytes, (size_t)c->rows * c->cols * sizeof(float));
    read_scheme(json_object_get(c->row, "scheme"), &c->scheme);
    esp_error err = {0};
    assert_int_equal(tensor_set_seal(&c->tensors, &err), ESP_OK);
    return true;
}

static void case_free(packed_case *c) {
    for (uint32_t i = 0; i < c->tensors.count; i++)
        free(c->bytes[i]);
    tensor_set_free(&c->tensors);
    free(c->weights);
    json_decref(c->row);
}

static const char *case_name(const packed_case *c) {
    return json_string_value(json_object_get(c->row, "name"));
}

/* The first case whose name begins so. */
static void case_named(const char *name, packed_case *c) {
    FILE *file = vector_open("packed_weights.jsonl");
    while (case_next(file, c) && strncmp(case_name(c), name, strlen(name)) != 0)
        case_free(c);
    assert_non_null(c->row);
    fclose(file);
}

/* The tensor of the case's module with this suffix, to be spoiled. */
static model_tensor *part_of(const packed_case *c, const char *suffix) {
    for (uint32_t i = 0; i < c->tensors.count; i++) {
        const char *dot = strrchr(c->tensors.at[i].name.at, '.');
        if (strcmp(dot + 1, suffix) == 0) return &c->tensors.at[i];
    }
    fail_msg("no part %s", suffix);
    return NULL;
}

static esp_code open_case(const packed_case *c, packed_matrix *out, esp_error *err) {
    const json_t *module = json_object_get(c->row, "module");
    model_text name = {json_string_value(module), json_string_length(module)};
    return packed_find(out, &c->tensors, name, &c->scheme, err);
}

/* --- what they mean ------------------------------------------------------------------------ */

/* Rows first .. first + count, compared bit for bit. */
static void check_rows(const packed_case *c, const packed_matrix *m, const uint32_t *order,
                       uint32_t first, uint32_t count) {
    esp_error err = {0};
    size_t row_bytes = packed_row_bytes(m);
    uint8_t *blocks = malloc(row_bytes * count);
    float *got = malloc(c->cols * sizeof *got);
    if (packed_read_rows(m, first, count, blocks, &err) != ESP_OK) fail_msg("%s", err.message);
    for (uint32_t r = 0; r < count; r++) {
        dtype_info(m->dtype)->dequantise(blocks + r * row_bytes, got, c->cols);
        for (uint32_t k = 0; k < c->cols; k++) {
            uint32_t input = order ? order[k] : k;
            float want = c->weights[(size_t)(first + r) * c->cols + input];
            if (!(got[k] == want))
                fail_msg("%s: weight %u,%u is %a, not %a", case_name(c), first + r, input,
                         (double)got[k], (double)want);
        }
    }
    free(got);
    free(blocks);
}

static void check_case(const packed_case *c) {
    packed_matrix m;
    esp_error err = {0};
    if (open_case(c, &m, &err) != ESP_OK) fail_msg("%s: %s", case_name(c), err.message);
    assert_int_equal(m.rows, c->rows);
    assert_int_equal(m.cols, c->cols);
    assert_int_equal(m.ordered, json_is_true(json_object_get(c->row, "ordered")));
    uint32_t *order = m.ordered ? malloc(m.cols * sizeof *order) : NULL;
    if (order) packed_read_order(&m, order);
    check_rows(c, &m, order, 0, c->rows);
    check_rows(c, &m, order, c->rows / 3, c->rows - c->rows / 3);
    check_rows(c, &m, order, c->rows - 1, 1);
    free(order);
}

static void blocks_mean_what_their_parts_mean(void **state) {
    (void)state;
    bool seen[PACKING_COUNT] = {false};
    FILE *file = vector_open("packed_weights.jsonl");
    assert_non_null(file);
    for (packed_case c; case_next(file, &c); case_free(&c)) {
        check_case(&c);
        seen[c.scheme.packing] = true;
    }
    fclose(file);
    for (int p = PACKING_GPTQ; p < PACKING_COUNT; p++)
        assert_true(seen[p]);
}

/* --- spoiled ------------------------------------------------------------------------------- */

/* Opening or reading fails with a sentence that has all of these words. */
static void assert_refused(const packed_case *c, const char *first, const char *second) {
    packed_matrix m;
    esp_error err = {0};
    esp_code code = open_case(c, &m, &err);
    if (code == ESP_OK) {
        void *blocks = malloc(packed_row_bytes(&m) * m.rows);
        code = packed_read_rows(&m, 0, m.rows, blocks, &err);
        free(blocks);
    }
    assert_int_equal(code, ESP_INVALID);
    if (!strstr(err.message, first) || !strstr(err.message, second))
        fail_msg("%s: %s", case_name(c), err.message);
}

typedef void spoil_fn(packed_case *c);

static void check_spoiled(const char *name, spoil_fn *spoil, const char *first,
                          const char *second) {
    packed_case c;
    case_named(name, &c);
    spoil(&c);
    assert_refused(&c, first, second);
    case_free(&c);
}

static void put_i32(packed_case *c, const char *part, size_t index, int32_t value) {
    memcpy((uint8_t *)part_of(c, part)->data + index * 4, &value, sizeof value);
}

static void group_beyond(packed_case *c) { put_i32(c, "g_idx", 5, 2); }
static void group_below(packed_case *c) { put_i32(c, "g_idx", 63, -1); }
static void group_uneven(packed_case *c) { put_i32(c, "g_idx", 0, 1); }
static void lose_scales(packed_case *c) { part_of(c, "scales")->name.bytes--; }
static void group_of_48(packed_case *c) { c->scheme.group_cols = 48; }
static void five_bits(packed_case *c) { c->scheme.bits = 5; }
static void no_bits(packed_case *c) { c->scheme.bits = 0; }
static void many_bits(packed_case *c) { c->scheme.bits = 64; }
static void other_groups(packed_case *c) { c->scheme.group_cols = 64; }
static void float_zeros(packed_case *c) { part_of(c, "qzeros")->raw = RAW_NONE; }
static void flat_codes(packed_case *c) { part_of(c, "qweight")->dim_count = 1; }
static void no_codes(packed_case *c) { part_of(c, "qweight")->dims[0] = 0; }
static void huge_codes(packed_case *c) { part_of(c, "qweight")->dims[1] = 1ull << 40; }
static void whole_scales(packed_case *c) { part_of(c, "scales")->raw = RAW_I32; }
static void infinite_scale(packed_case *c) {
    memcpy((void *)part_of(c, "scales")->data, "\0\x7c", 2);
}
static void other_shape(packed_case *c) { memset((void *)part_of(c, "weight_shape")->data, 1, 1); }
static void asymmetric(packed_case *c) { c->scheme.symmetric = false; }
static void nan_weight(packed_case *c) {
    memset((uint8_t *)part_of(c, "weight")->data + 70, 255, 1);
}
static void other_blocks(packed_case *c) { c->scheme.block_rows = 8; }

static void spoiled_parts_are_refused_by_name(void **state) {
    (void)state;
    check_spoiled("gptq 4 bits, groups of 32", group_beyond, "input 5 is in group 2", "g_idx");
    check_spoiled("gptq 4 bits, groups of 32", group_below, "input 63 is in group -1", "0 to 1");
    check_spoiled("gptq 4 bits, groups of 32", group_uneven, "gives group 0 31 inputs", "g_idx");
    check_spoiled("gptq 3 bits, groups of 32", group_of_48, "q_proj", "group_size is 48");
    check_spoiled("gptq 4 bits, groups of 32", five_bits, "q_proj", "5 bits");
    check_spoiled("gptq 4 bits, groups of 32", no_bits, "q_proj", "0 bits");
    check_spoiled("gptq 4 bits, groups of 32", many_bits, "q_proj", "64 bits");
    check_spoiled("gptq 4 bits, groups of 32", other_groups, "q_proj.qzeros", "wanted 1 x 2");
    check_spoiled("gptq 4 bits, groups of 32", float_zeros, "q_proj.qzeros", "wanted I32");
    check_spoiled("gptq 4 bits, groups of 32", flat_codes, "q_proj.qweight", "two dimensions");
    check_spoiled("gptq 4 bits, groups of 32", no_codes, "q_proj.qweight", "neither of them 0");
    check_spoiled("gptq 4 bits, groups of 32", huge_codes, "q_proj.qweight", "dimensions");
    check_spoiled("gptq 4 bits, groups of 32", whole_scales, "q_proj.scales", "BF16");
    check_spoiled("gptq 4 bits, groups of 32", infinite_scale, "q_proj.scales", "inf");
    check_spoiled("awq, groups of 32", five_bits, "q_proj", "AWQ");
    check_spoiled("pack-quantized int4, group 32", other_shape, "weight_shape", "16 x 64");
    check_spoiled("pack-quantized int4, group 32", asymmetric, "q_proj", "weight_zero_point");
    check_spoiled("int-quantized, group 0", asymmetric, "q_proj", "weight_zero_point");
    check_spoiled("fp8, F32 scales []", nan_weight, "row 1", "no number");
    check_spoiled("fp8, F32 scales [3, 2]", other_blocks, "weight_scale_inv", "wanted 5 x 2");
}

/* A tensor that another name hides is missing. */
static void a_missing_part_is_named(void **state) {
    (void)state;
    packed_case c;
    case_named("gptq 4 bits, groups of 32", &c);
    free(c.tensors.by_name);
    c.tensors.by_name = NULL;
    lose_scales(&c);
    esp_error err = {0};
    assert_int_equal(tensor_set_seal(&c.tensors, &err), ESP_OK);
    assert_refused(&c, "q_proj", ".scales is missing");
    case_free(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_mean_what_their_parts_mean),
        cmocka_unit_test(spoiled_parts_are_refused_by_name),
        cmocka_unit_test(a_missing_part_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
