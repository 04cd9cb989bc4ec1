/* test_packed_folders.c - Hugging Face folders in every packing give the reference's logits, and
 * those that say one thing wrong of their packing do not.
 *
 * tests/vectors/packed, made by make_packed_folders.py. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/tiny_forward.h"
#include "tests/unit/vector_file.h"

enum { ROWS = 8 }; /* the last of the prompt's */
static const double REF_TOLERANCE = 1e-4, CPU_TOLERANCE = 3e-2, MISS = 5;

typedef struct folder_case {
    json_t *row;
    const char *name;
    int32_t ids[TINY_TOKENS_MAX];
    uint32_t count;
    float *logits; /* [ROWS, vocab] */
} folder_case;

static int base64_digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static void *base64_bytes(const json_t *value) {
    const char *text = json_string_value(value);
    assert_non_null(text);
    uint8_t *out = malloc(json_string_length(value) + 1);
    uint32_t window = 0, bits = 0, count = 0;
    for (; base64_digit(*text) >= 0; text++) {
        window = window << 6 | (uint32_t)base64_digit(*text);
        if ((bits += 6) >= 8) out[count++] = (uint8_t)(window >> (bits -= 8));
    }
    return out;
}

static bool case_next(FILE *file, folder_case *c) {
    *c = (folder_case){.row = vector_next(file)};
    if (!c->row) return false;
    const json_t *ids = json_object_get(c->row, "ids");
    c->name = json_string_value(json_object_get(c->row, "name"));
    c->count = (uint32_t)json_array_size(ids);
    assert_in_range(c->count, ROWS, TINY_TOKENS_MAX);
    for (uint32_t i = 0; i < c->count; i++)
        c->ids[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    c->logits = base64_bytes(json_object_get(c->row, "logits"));
    return true;
}

static void case_free(folder_case *c) {
    free(c->logits);
    json_decref(c->row);
}

typedef struct distance {
    double part_of_range, relative_rms;
} distance;

static distance measure(const folder_case *c, const float *seen, uint32_t vocab) {
    double low = INFINITY, high = -INFINITY, top = 0, square = 0, size = 0;
    const float *last = seen + (size_t)(c->count - ROWS) * vocab;
    for (uint32_t i = 0; i < ROWS * vocab; i++) {
        double w = (double)c->logits[i], d = fabs((double)last[i] - w);
        low = fmin(low, w), high = fmax(high, w);
        top = d <= top ? top : d; /* NaN wins */
        square += d * d, size += w * w;
    }
    return (distance){top / (high - low), sqrt(square / size)};
}

static distance run(const folder_case *c, const kern_ops *ops, const char *path) {
    uint32_t vocab = 0;
    esp_error err = {0};
    float *seen = tiny_logits(ops, path, (model_options){0}, c->ids, c->count, &vocab, &err);
    if (!seen) fail_msg("%s: %s", c->name, err.message);
    distance d = measure(c, seen, vocab);
    free(seen);
    return d;
}

static void folders_give_the_reference_logits(void **state) {
    (void)state;
    uint32_t cases = 0;
    FILE *file = vector_open("packed/logits.jsonl");
    assert_non_null(file);
    for (folder_case c; case_next(file, &c); case_free(&c), cases++) {
        char path[512];
        snprintf(path, sizeof path, "%s/tests/vectors/packed/%s", TEST_SOURCE_DIR, c.name);
        distance ref = run(&c, &kern_ref, path);
        print_message("%s: ref %.1e of the range", c.name, ref.part_of_range);
        if (!(ref.part_of_range <= REF_TOLERANCE)) fail_msg("%s on ref", c.name);
        if (kern_cpu_best_level() != LEVEL_AUTO) {
            distance cpu = run(&c, &kern_cpu, path);
            print_message(", cpu %.2f%% rms", 100 * cpu.relative_rms);
            if (!(cpu.relative_rms <= CPU_TOLERANCE)) fail_msg("%s on cpu", c.name);
        }
        print_message("\n");
    }
    fclose(file);
    assert_int_equal(cases, 12);
}

/* --- spoiled twins --------------------------------------------------------------------------- */

static char folder[] = "/tmp/test_packed_folders_XXXXXX";

/* The case's folder with a word of its config.json changed; the path lives until the next call. */
static const char *spoiled_folder(const char *name, const char *word, const char *other) {
    char from[512], to[512], text[8192];
    static char path[64];
    snprintf(path, sizeof path, "%s", folder);
    snprintf(to, sizeof to, "%s/model.safetensors", folder);
    snprintf(from, sizeof from, "%s/tests/vectors/packed/%s/model.safetensors", TEST_SOURCE_DIR,
             name);
    unlink(to);
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    assert_true(in && out);
    for (int c; (c = fgetc(in)) != EOF;)
        fputc(c, out);
    fclose(in);
    fclose(out);
    snprintf(from, sizeof from, "%s/tests/vectors/packed/%s/config.json", TEST_SOURCE_DIR, name);
    snprintf(to, sizeof to, "%s/config.json", folder);
    in = fopen(from, "rb"), out = fopen(to, "wb");
    assert_true(in && out);
    text[fread(text, 1, sizeof text - 1, in)] = 0;
    char *at = strstr(text, word);
    assert_non_null(at);
    fprintf(out, "%.*s%s%s", (int)(at - text), text, other, at + strlen(word));
    fclose(in);
    fclose(out);
    return path;
}

/* The zero points of one layout read as the other's. */
static void a_wrong_convention_misses_by_far(void **state) {
    (void)state;
    static const char *const twins[][3] = {
        {"gptq4", "\"sym\": false", "\"checkpoint_format\": \"gptq_v2\""},
        {"gptq8", "\"sym\": false", "\"checkpoint_format\": \"gptq_v2\""},
        {"gptq3_v2", "\"gptq_v2\"", "\"gptq\""},
        {"words4", "\"symmetric\": false", "\"symmetric\": true"},
    };
    FILE *file = vector_open("packed/logits.jsonl");
    for (folder_case c; case_next(file, &c); case_free(&c))
        for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) {
            if (strcmp(twins[i][0], c.name) != 0) continue;
            distance d = run(&c, &kern_ref, spoiled_folder(c.name, twins[i][1], twins[i][2]));
            if (!(d.part_of_range >= MISS * REF_TOLERANCE))
                fail_msg("%s: misses by %g", c.name, d.part_of_range);
        }
    fclose(file);
}

static void check_refused(const char *name, const char *word, const char *other,
                          const char *sentence) {
    model_file *file;
    esp_error err = {0};
    esp_code code = model_file_open(&file, spoiled_folder(name, word, other), &err);
    assert_true(code == ESP_INVALID || code == ESP_UNIMPLEMENTED);
    if (!strstr(err.message, sentence)) fail_msg("%s", err.message);
}

static void a_config_that_does_not_fit_is_refused(void **state) {
    (void)state;
    check_refused("gptq4", "\"bits\": 4", "\"bits\": 8", "q_proj");
    check_refused("gptq4", "\"group_size\": 32", "\"group_size\": 64", "wanted 1 x");
    check_refused("gptq4", "\"quant_method\": \"gptq\"", "\"quant_method\": \"hqq\"", "\"hqq\"");
    check_refused("awq", "\"quant_method\": \"awq\"", "\"quant_method\": \"gptq\"", "q_proj");
    check_refused("awq", "\"quantization_config\"", "\"quantization_config_\"", "q_proj");
    check_refused("fp8_blocks", "\"quantization_config\"", "\"quantization_config_\"", "F8_E4M3");
    check_refused("words4", "\"pack-quantized\"", "\"int-quantized\"", "q_proj");
    check_refused("int8", "\"input_activations\": null",
                  "\"input_activations\": {\"type\": \"int\"}", "whole numbers");
    check_refused("int8", "\"hidden_size\": 64", "\"hidden_size\": 128", "64");
}

/* `inspect` names the method, and says of 8-bit activations that they are not rounded. */
static void the_description_names_the_packing(void **state) {
    (void)state;
    static const char *const wanted[][2] = {
        {"gptq4", "\"quantization\": \"gptq\""},
        {"words4", "\"quantization\": \"compressed-tensors\""},
        {"fp8_blocks", "\"activations\": \"float8 as trained, not rounded here\""}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        char path[512];
        model_file *file;
        esp_error err = {0};
        snprintf(path, sizeof path, "%s/tests/vectors/packed/%s", TEST_SOURCE_DIR, wanted[i][0]);
        assert_int_equal(model_file_open(&file, path, &err), ESP_OK);
        char *text = model_file_describe(file);
        if (!strstr(text, wanted[i][1])) fail_msg("%s: %s", wanted[i][0], text);
        free(text);
        model_file_close(file);
    }
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "%s/config.json", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    unlink(path);
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folders_give_the_reference_logits),
        cmocka_unit_test(a_wrong_convention_misses_by_far),
        cmocka_unit_test(a_config_that_does_not_fit_is_refused),
        cmocka_unit_test(the_description_names_the_packing),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
