/* test_gguf.c - the GGUF reader (engine/model/gguf*.c): what it reads, and each rule by a file that
 * breaks it. A rule against an overflow has a sibling case that gets past the first check only. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/gguf_builder.h"

static const float ONES[256] = {1, 1, 1, 1};

/* Opens what the builder made; the file is named m.gguf. */
static esp_code open_built(gguf_builder *b, char **file, gguf_file **gguf, esp_error *err) {
    size_t bytes;
    *file = gb_finish(b, &bytes);
    return gguf_open_memory(gguf, *file, bytes, "/models/m.gguf", err);
}

/* The file is refused by a sentence that names it and holds the words. */
static void assert_refused(gguf_builder *b, const char *words) {
    char *file;
    gguf_file *gguf;
    esp_error err = {0};
    esp_code code = open_built(b, &file, &gguf, &err);
    if (code != ESP_INVALID || !strstr(err.message, words)) print_error("%s\n", err.message);
    assert_int_equal(code, ESP_INVALID);
    assert_null(gguf);
    assert_non_null(strstr(err.message, words));
    assert_int_equal(strncmp(err.message, "m.gguf: ", 8), 0);
    free(file);
}

/* The file opens; the caller closes both. */
static gguf_file *assert_opens(gguf_builder *b, char **file) {
    gguf_file *gguf;
    esp_error err = {0};
    esp_code code = open_built(b, file, &gguf, &err);
    if (code) print_error("%s\n", err.message);
    assert_int_equal(code, ESP_OK);
    return gguf;
}

static bool text_is(model_text text, const char *wanted) {
    return text.bytes == strlen(wanted) && memcmp(text.at, wanted, text.bytes) == 0;
}

/* One pair of each of the 13 types, then arrays of each element type. */
static void put_every_type(gguf_builder *b) {
    static const uint8_t bytes[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    static const uint32_t sizes[GGUF_TYPE_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    for (uint32_t type = 0; type < GGUF_TYPE_COUNT; type++) {
        char key[32];
        if (type == GGUF_ARRAY) continue;
        snprintf(key, sizeof key, "one.%u", type);
        gb_pair(b, key, (gguf_type)type);
        type == GGUF_STRING ? gb_put_text(&b->pairs, "text")
                            : gb_put(&b->pairs, bytes, sizes[type]);
        snprintf(key, sizeof key, "many.%u", type);
        gb_array(b, key, (gguf_type)type, 2);
        for (int i = 0; i < 2; i++)
            type == GGUF_STRING ? gb_put_text(&b->pairs, i ? "" : "first")
                                : gb_put(&b->pairs, bytes, sizes[type]);
    }
}

/* Every metadata type, alone and in an array, and two tensors: all of it is found again. */
static void reads_every_type_and_its_tensors(void **state) {
    (void)state;
    gguf_builder b = {.version = 2};
    put_every_type(&b);
    gb_tensor(&b, "b", 2, (uint64_t[]){32, 2}, DT_Q4_0, ONES);
    gb_tensor(&b, "a", 1, (uint64_t[]){3}, DT_F32, ONES);
    char *file;
    gguf_file *gguf = assert_opens(&b, &file);
    assert_int_equal(gguf_version(gguf), 2);
    assert_int_equal(gguf_kv_count(gguf), 24);
    assert_int_equal(gguf_tensor_count(gguf), 2);
    assert_string_equal(gguf_name(gguf), "m.gguf");
    assert_ptr_equal(gguf_data(gguf), file);
    const model_tensor *a = gguf_find(gguf, "a"), *second = gguf_find(gguf, "b");
    assert_ptr_equal(second, gguf_tensor_at(gguf, 0));
    assert_int_equal(second->bytes, 36);
    assert_int_equal(second->dtype, DT_Q4_0);
    assert_int_equal(a->dims[0], 3);
    assert_int_equal((const char *)a->data - file, gguf_bytes(gguf) - 12);
    assert_memory_equal(a->data, ONES, 12);
    assert_null(gguf_find(gguf, "c"));
    gguf_close(gguf);
    free(file);
}

/* Type numbers and sizes of 256 weights, ggml.h and ggml-common.h of the reference implementation.
 */
static void knows_the_types_of_tensors(void **state) {
    (void)state;
    static const struct {
        uint32_t number;
        esp_dtype dtype;
        size_t bytes;
    } types[] = {{0, DT_F32, 1024},    {1, DT_F16, 512},     {2, DT_Q4_0, 144},  {3, DT_Q4_1, 160},
                 {6, DT_Q5_0, 176},    {7, DT_Q5_1, 192},    {8, DT_Q8_0, 272},  {10, DT_Q2_K, 84},
                 {11, DT_Q3_K, 110},   {12, DT_Q4_K, 144},   {13, DT_Q5_K, 176}, {14, DT_Q6_K, 210},
                 {20, DT_IQ4_NL, 144}, {23, DT_IQ4_XS, 136}, {30, DT_BF16, 512}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        const uint8_t zeros[1024] = {0};
        gguf_builder b = {0};
        gb_tensor_entry(&b, "t", 1, (uint64_t[]){256}, types[i].number, 0);
        gb_put(&b.data, zeros, types[i].bytes);
        char *file;
        gguf_file *gguf = assert_opens(&b, &file);
        assert_int_equal(gguf_tensor_at(gguf, 0)->dtype, types[i].dtype);
        assert_int_equal(gguf_tensor_at(gguf, 0)->bytes, types[i].bytes);
        gguf_close(gguf);
        free(file);
    }
}

/* Integers of any width and sign are read when the value fits, and refused with key and value when
 * not. */
static void reads_integers_that_fit(void **state) {
    (void)state;
    gguf_builder b = {0};
    uint32_t out = 7;
    bool found;
    esp_error err = {0};
    gb_pair(&b, "i8", GGUF_I8);
    gb_put(&b.pairs, &(int8_t){-1}, 1);
    gb_pair(&b, "u16", GGUF_U16);
    gb_put(&b.pairs, &(uint16_t){65535}, 2);
    gb_pair(&b, "i64", GGUF_I64);
    gb_put_u64(&b.pairs, 4294967295u);
    gb_pair(&b, "u64", GGUF_U64);
    gb_put_u64(&b.pairs, 4294967296u);
    char *file;
    gguf_file *gguf = assert_opens(&b, &file);
    assert_int_equal(gguf_get_u32(gguf, "u16", &found, &out, &err), ESP_OK);
    assert_int_equal(out, 65535);
    assert_int_equal(gguf_get_u32(gguf, "i64", &found, &out, &err), ESP_OK);
    assert_int_equal(out, 4294967295u);
    assert_int_equal(gguf_get_u32(gguf, "i8", &found, &out, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "i8 is -1"));
    assert_int_equal(gguf_get_u32(gguf, "u64", &found, &out, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "u64 is 4294967296"));
    assert_int_equal(gguf_get_u32(gguf, "none", &found, &out, &err), ESP_OK);
    assert_false(found);
    assert_int_equal(out, 4294967295u);
    gguf_close(gguf);
    free(file);
}

/* A key of another type than asked is an error that names key, seen and wanted. */
static void getters_name_the_type_they_saw(void **state) {
    (void)state;
    gguf_builder b = {0};
    gb_text(&b, "word", "yes");
    gb_array(&b, "list", GGUF_F32, 1);
    gb_put_u32(&b.pairs, 0x40000000);
    char *file;
    gguf_file *gguf = assert_opens(&b, &file);
    bool found, truth;
    uint32_t whole;
    float real;
    model_text text;
    gguf_array array;
    esp_error err;
    assert_int_equal(gguf_get_u32(gguf, "word", &found, &whole, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "word is of type string; wanted an integer"));
    assert_int_equal(gguf_get_f32(gguf, "word", &found, &real, &err), ESP_INVALID);
    assert_int_equal(gguf_get_bool(gguf, "word", &found, &truth, &err), ESP_INVALID);
    assert_int_equal(gguf_get_text(gguf, "list", &found, &text, &err), ESP_INVALID);
    assert_int_equal(gguf_get_array(gguf, "word", GGUF_I32, &found, &array, &err), ESP_INVALID);
    assert_int_equal(gguf_get_array(gguf, "list", GGUF_I32, &found, &array, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "an array of float; wanted an array of int32"));
    assert_int_equal(gguf_get_array(gguf, "list", GGUF_F32, &found, &array, &err), ESP_OK);
    assert_int_equal(gguf_array_u32(&array, 0), 0x40000000);
    gguf_close(gguf);
    free(file);
}

/* A string array is walked by a cursor; printing shows numbers, texts and array sizes. */
static void walks_string_arrays_and_prints(void **state) {
    (void)state;
    gguf_builder b = {0};
    gb_array(&b, "words", GGUF_STRING, 3);
    gb_put_text(&b.pairs, "one");
    gb_put_text(&b.pairs, "");
    gb_put_text(&b.pairs, "three");
    gb_f32(&b, "real", 0.5f);
    gb_text(&b, "text", "a\nb\xff");
    char *file, value[8];
    gguf_file *gguf = assert_opens(&b, &file);
    bool found;
    gguf_array words;
    model_text key;
    assert_int_equal(gguf_get_array(gguf, "words", GGUF_STRING, &found, &words, NULL), ESP_OK);
    const uint8_t *cursor = words.at;
    assert_true(text_is(gguf_next_text(&words, &cursor), "one"));
    assert_true(text_is(gguf_next_text(&words, &cursor), ""));
    assert_true(text_is(gguf_next_text(&words, &cursor), "three"));
    assert_ptr_equal(cursor, words.end);
    gguf_kv_print(gguf, 0, &key, value, sizeof value);
    assert_string_equal(value, "[3]");
    gguf_kv_print(gguf, 1, &key, value, sizeof value);
    assert_string_equal(value, "0.5");
    assert_true(text_is(key, "real"));
    gguf_kv_print(gguf, 2, &key, value, sizeof value);
    assert_string_equal(value, "a?b?");
    gguf_close(gguf);
    free(file);
}

/* Cut anywhere, a valid file is refused, and not one byte past its end is read (AddressSanitizer).
 */
static void refuses_every_truncation(void **state) {
    (void)state;
    gguf_builder b = {0};
    put_every_type(&b);
    gb_tensor(&b, "a", 1, (uint64_t[]){3}, DT_F32, ONES);
    gb_tensor(&b, "b", 2, (uint64_t[]){32, 2}, DT_Q8_0, ONES);
    size_t bytes;
    char *file = gb_finish(&b, &bytes);
    for (size_t cut = 0; cut < bytes; cut++) {
        char *part = malloc(cut ? cut : 1);
        memcpy(part, file, cut);
        gguf_file *gguf;
        esp_error err = {0};
        assert_int_equal(gguf_open_memory(&gguf, part, cut, "m.gguf", &err), ESP_INVALID);
        assert_true(err.message[0] != 0);
        free(part);
    }
    free(file);
}

/* Magic, version and byte order each have their own sentence. */
static void refuses_foreign_headers(void **state) {
    (void)state;
    static const struct {
        uint32_t version;
        const char *words;
    } cases[] = {{1, "version 1; wanted 2 or 3"},
                 {4, "version 4; wanted 2 or 3"},
                 {0x03000000, "is big-endian"},
                 {0x02000000, "is big-endian"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        gguf_builder b = {.version = cases[i].version};
        assert_refused(&b, cases[i].words);
    }
    gguf_file *gguf;
    esp_error err;
    static const char old[32] = "ggjt";
    assert_int_equal(gguf_open_memory(&gguf, old, sizeof old, "m", &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "does not begin with \"GGUF\""));
    assert_int_equal(gguf_open_memory(&gguf, NULL, 0, "m", &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "empty"));
}

/* Counts beyond what the bytes can hold are refused before anything is allocated for them; a count
 * whose product with the size of an entry wraps around to something small is no way past. */
static void refuses_counts_beyond_the_file(void **state) {
    (void)state;
    static const uint64_t counts[] = {
        2, 1000, UINT32_MAX, UINT64_MAX, (uint64_t)1 << 60, (uint64_t)1 << 61};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        gguf_builder b = {0};
        gb_u32(&b, "k", 1);
        b.pair_count = counts[i];
        assert_refused(&b, "");
        gguf_builder c = {0};
        gb_tensor(&c, "t", 1, (uint64_t[]){1}, DT_F32, ONES);
        c.tensor_count = counts[i];
        assert_refused(&c, "");
    }
    gguf_builder b = {.pair_count = UINT64_MAX};
    assert_refused(&b, "announces 18446744073709551615 metadata pairs");
    gguf_builder c = {.tensor_count = (uint64_t)1 << 61};
    assert_refused(&c, "announces 2305843009213693952 tensors");
}

/* Key lengths: none, more than 65535, past the end of the file, and so long that a sum would wrap.
 */
static void refuses_bad_keys(void **state) {
    (void)state;
    static const uint64_t lengths[] = {1u << 20, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        gguf_builder b = {.pair_count = 1};
        gb_put_u64(&b.pairs, lengths[i]);
        gb_put(&b.pairs, ONES, 32);
        assert_refused(&b, "key of metadata pair 0 runs past the end");
    }
    gguf_builder empty = {0};
    gb_u32(&empty, "", 1);
    gb_u32(&empty, "k", 1);
    assert_refused(&empty, "has 0 bytes; wanted 1 to 65535");
    char *key = mem_new(65537, 1);
    memset(key, 'k', 65536);
    gguf_builder wide = {0};
    gb_u32(&wide, key, 1);
    assert_refused(&wide, "has 65536 bytes; wanted 1 to 65535");
    key[65535] = 0;
    gguf_builder widest = {0};
    gb_u32(&widest, key, 1);
    char *file;
    gguf_close(assert_opens(&widest, &file));
    free(file);
    free(key);
    gguf_builder foreign = {0};
    gb_u32(&foreign, "k\n", 1);
    assert_refused(&foreign, "key k? holds bytes that are not printable");
}

/* The same key twice, whatever stands between. */
static void refuses_duplicate_keys(void **state) {
    (void)state;
    gguf_builder b = {0};
    gb_u32(&b, "twice", 1);
    gb_u32(&b, "other", 1);
    gb_text(&b, "twice", "x");
    assert_refused(&b, "key twice stands there twice");
}

/* Types outside the table, of a value and of an element; arrays of arrays; bools that are neither.
 */
static void refuses_bad_types(void **state) {
    (void)state;
    gguf_builder b = {0};
    gb_pair(&b, "k", (gguf_type)13);
    gb_put_u64(&b.pairs, 0);
    assert_refused(&b, "key k has type 13");
    gguf_builder c = {0};
    gb_array(&c, "k", (gguf_type)4000000000u, 0);
    assert_refused(&c, "key k has element type 4000000000");
    gguf_builder d = {0};
    gb_array(&d, "k", GGUF_ARRAY, 1);
    gb_put_u32(&d.pairs, GGUF_U8);
    gb_put_u64(&d.pairs, 0);
    assert_refused(&d, "key k is an array of arrays");
    gguf_builder e = {0};
    gb_pair(&e, "k", GGUF_BOOL);
    gb_put(&e.pairs, "\x02", 1);
    assert_refused(&e, "bool that is neither");
    gguf_builder f = {0};
    gb_array(&f, "k", GGUF_BOOL, 3);
    gb_put(&f.pairs, "\x00\x01\xff", 3);
    assert_refused(&f, "bool that is neither");
}

/* Array counts: too many, product wraps to 0 or to a small number, and texts inside that lie about
 * their length after a count that is fine. */
static void refuses_bad_arrays(void **state) {
    (void)state;
    static const struct {
        gguf_type element;
        uint64_t count;
    } cases[] = {{GGUF_U8, 1000},           {GGUF_U64, UINT64_MAX},
                 {GGUF_U64, 1ull << 61},    {GGUF_U64, (1ull << 61) + 1},
                 {GGUF_U32, 1ull << 62},    {GGUF_STRING, 1ull << 61},
                 {GGUF_STRING, UINT64_MAX}, {GGUF_I16, (1ull << 63) + 1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        gguf_builder b = {0};
        gb_array(&b, "k", cases[i].element, cases[i].count);
        gb_put(&b.pairs, ONES, 64);
        assert_refused(&b, "key k runs past the end");
    }
    static const uint64_t lengths[] = {100, UINT64_MAX, UINT64_MAX - 15};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        gguf_builder b = {0};
        gb_array(&b, "k", GGUF_STRING, 2);
        gb_put_text(&b.pairs, "fine");
        gb_put_u64(&b.pairs, lengths[i]);
        gb_put(&b.pairs, ONES, 16);
        assert_refused(&b, "key k runs past the end");
    }
}

/* general.alignment: a power of two from 8 to 65536, of an integer type. */
static void refuses_bad_alignment(void **state) {
    (void)state;
    static const uint32_t bad[] = {0, 1, 4, 24, 33, 131072, 0x80000000u, UINT32_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        gguf_builder b = {0};
        gb_u32(&b, "general.alignment", bad[i]);
        assert_refused(&b, "wanted a power of two from 8 to 65536");
    }
    gguf_builder b = {0};
    gb_text(&b, "general.alignment", "32");
    assert_refused(&b, "general.alignment is of type string");
    static const uint32_t good[] = {8, 64, 4096};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        gguf_builder c = {.alignment = good[i]};
        char *file;
        gb_u32(&c, "general.alignment", good[i]);
        gb_tensor(&c, "t", 1, (uint64_t[]){3}, DT_F32, ONES);
        gb_tensor(&c, "u", 1, (uint64_t[]){3}, DT_F32, ONES);
        gguf_file *gguf = assert_opens(&c, &file);
        assert_int_equal(((const char *)gguf_find(gguf, "u")->data - file) % good[i], 0);
        gguf_close(gguf);
        free(file);
    }
}

/* A tensor table entry of dim_count dims, with 64 bytes of data behind. */
static gguf_builder one_entry(const char *name, uint32_t dim_count, const uint64_t *dims,
                              uint32_t type, uint64_t offset) {
    gguf_builder b = {0};
    gb_tensor_entry(&b, name, dim_count, dims, type, offset);
    gb_put(&b.data, ONES, 64);
    return b;
}

/* Names: none, too long, not printable, twice. */
static void refuses_bad_tensor_names(void **state) {
    (void)state;
    char name[80] = "";
    gguf_builder b = one_entry(name, 1, (uint64_t[]){16}, 0, 0);
    assert_refused(&b, "has 0 bytes; wanted 1 to 64");
    memset(name, 'n', 65);
    b = one_entry(name, 1, (uint64_t[]){16}, 0, 0);
    assert_refused(&b, "has 65 bytes; wanted 1 to 64");
    b = one_entry("\x1b[31m", 1, (uint64_t[]){16}, 0, 0);
    assert_refused(&b, "not printable ASCII");
    b = one_entry("t", 1, (uint64_t[]){8}, 0, 0);
    gb_tensor_entry(&b, "t", 1, (uint64_t[]){8}, 0, 32);
    assert_refused(&b, "the tensor t stands there twice");
}

/* Dimensions: their number, zeros, and products that overflow, first in elements, then (the sibling
 * that passes that check) in bytes; negative numbers read as huge ones. */
static void refuses_bad_dims(void **state) {
    (void)state;
    const uint64_t ones[8] = {16, 1, 1, 1, 1, 1, 1, 1};
    gguf_builder b = one_entry("t", 0, ones, 0, 0);
    assert_refused(&b, "tensor t has 0 dimensions");
    b = one_entry("t", 5, ones, 0, 0);
    assert_refused(&b, "tensor t has 5 dimensions");
    b = one_entry("t", 2, (uint64_t[]){16, 0}, 0, 0);
    assert_refused(&b, "dimension 1 of size 0");
    b = one_entry("t", 1, (uint64_t[]){0}, 0, 0);
    assert_refused(&b, "dimension 0 of size 0");
    b = one_entry("t", 2, (uint64_t[]){1ull << 32, 1ull << 32}, 0, 0);
    assert_refused(&b, "product of its dimensions overflows");
    b = one_entry("t", 3, (uint64_t[]){1ull << 32, (1ull << 32) - 1, 2}, 0, 0);
    assert_refused(&b, "product of its dimensions overflows");
    b = one_entry("t", 2, (uint64_t[]){UINT64_MAX, UINT64_MAX}, 0, 0);
    assert_refused(&b, "product of its dimensions overflows");
    b = one_entry("t", 1, (uint64_t[]){1ull << 62}, 0, 0);
    assert_refused(&b, "size in bytes overflows");
    b = one_entry("t", 1, (uint64_t[]){(1ull << 62) + 4}, 0, 0);
    assert_refused(&b, "size in bytes overflows");
    b = one_entry("t", 1, (uint64_t[]){UINT64_MAX - 31}, 8, 0);
    assert_refused(&b, "size in bytes overflows");
    b = one_entry("t", 1, (uint64_t[]){1ull << 63}, 8, 0);
    assert_refused(&b, "only 64 bytes of data");
    b = one_entry("t", 1, (uint64_t[]){(1ull << 62) - 1}, 0, 0);
    assert_refused(&b, "only 64 bytes of data");
}

/* A row holds whole blocks, whatever the whole tensor's size. */
static void refuses_rows_of_part_blocks(void **state) {
    (void)state;
    gguf_builder b = one_entry("t", 2, (uint64_t[]){16, 2}, 2, 0);
    assert_refused(&b, "tensor t has 16 columns; Q4_0 wants a multiple of 32");
    b = one_entry("t", 2, (uint64_t[]){128, 2}, 12, 0);
    assert_refused(&b, "tensor t has 128 columns; Q4_K wants a multiple of 256");
}

/* Types: known to the format but not to us, and unknown: both with the list of what is supported.
 */
static void refuses_unsupported_types(void **state) {
    (void)state;
    gguf_builder b = one_entry("t", 1, (uint64_t[]){256}, 21, 0);
    assert_refused(&b, "type 21 (IQ3_S), which is not supported; wanted one of F32, F16, Q4_0");
    b = one_entry("t", 1, (uint64_t[]){256}, 21, 0);
    assert_refused(&b, "Q6_K, IQ4_NL, IQ4_XS, BF16");
    b = one_entry("t", 1, (uint64_t[]){256}, 4, 0);
    assert_refused(&b, "type 4 (unknown)");
    b = one_entry("t", 1, (uint64_t[]){256}, UINT32_MAX, 0);
    assert_refused(&b, "type 4294967295 (unknown)");
}

/* Offsets: unaligned, outside, and so large that offset + bytes wraps around into the file. */
static void refuses_bad_offsets(void **state) {
    (void)state;
    gguf_builder b = one_entry("t", 1, (uint64_t[]){8}, 0, 8);
    assert_refused(&b, "begins at offset 8, not a multiple of 32");
    b = one_entry("t", 1, (uint64_t[]){8}, 0, 1ull << 40);
    assert_refused(&b, "begins at offset 1099511627776; wanted 0");
    b = one_entry("t", 1, (uint64_t[]){16}, 0, UINT64_MAX - 31);
    assert_refused(&b, "begins at offset 18446744073709551584; wanted 0");
    b = one_entry("t", 1, (uint64_t[]){8}, 0, 0);
    gb_tensor_entry(&b, "u", 1, (uint64_t[]){8}, 0, UINT64_MAX - 31);
    assert_refused(&b, "tensor u begins at offset 18446744073709551584; wanted 32");
    b = one_entry("t", 1, (uint64_t[]){8}, 0, 0);
    gb_tensor_entry(&b, "u", 1, (uint64_t[]){(1ull << 62) - 8}, 0, 32);
    assert_refused(&b, "tensor u has 18446744073709551584 bytes at offset 32, but only 64");
}

/* The table may list tensors in any order, but the data has neither overlaps nor gaps nor a rest.
 */
static void refuses_overlaps_gaps_and_rests(void **state) {
    (void)state;
    gguf_builder b = one_entry("late", 1, (uint64_t[]){8}, 0, 32);
    gb_tensor_entry(&b, "early", 1, (uint64_t[]){8}, 0, 0);
    char *file;
    gguf_close(assert_opens(&b, &file));
    free(file);
    b = one_entry("t", 1, (uint64_t[]){16}, 0, 0);
    gb_tensor_entry(&b, "u", 1, (uint64_t[]){8}, 0, 32);
    assert_refused(&b, "tensor u begins at offset 32; wanted 64, it overlaps");
    b = one_entry("t", 1, (uint64_t[]){8}, 0, 0);
    gb_tensor_entry(&b, "u", 1, (uint64_t[]){8}, 0, 0);
    assert_refused(&b, "it overlaps");
    b = one_entry("t", 1, (uint64_t[]){8}, 0, 32);
    assert_refused(&b, "there is a gap");
    b = one_entry("t", 1, (uint64_t[]){17}, 0, 0);
    assert_refused(&b, "tensor t has 68 bytes at offset 0, but only 64");
    b = one_entry("t", 1, (uint64_t[]){8}, 0, 0);
    assert_refused(&b, "has 32 bytes behind its last tensor");
    gguf_builder bare = {0};
    gb_put(&bare.data, ONES, 64);
    assert_refused(&bare, "behind its last tensor");
}

/* The last tensor may be padded to the alignment or not. */
static void takes_the_last_tensor_padded_or_not(void **state) {
    (void)state;
    for (int padded = 0; padded < 2; padded++) {
        gguf_builder b = {0};
        char *file;
        gb_tensor(&b, "t", 1, (uint64_t[]){3}, DT_F32, ONES);
        if (padded) gb_pad(&b.data, 32);
        gguf_close(assert_opens(&b, &file));
        free(file);
    }
}

/* Of paths: none there, a folder, a pipe (which must not be waited for), an empty file, a valid
 * one. */
static void opens_regular_files_only(void **state) {
    (void)state;
    char folder[] = "/tmp/test_gguf.XXXXXX", path[64];
    gguf_file *gguf;
    esp_error err;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/m.gguf", folder);
    assert_int_equal(gguf_open(&gguf, path, &err), ESP_NOT_FOUND);
    assert_string_equal(err.message, "m.gguf: cannot open: No such file or directory");
    assert_int_equal(gguf_open(&gguf, folder, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "is a folder"));
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(gguf_open(&gguf, path, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "not a regular file"));
    unlink(path);
    assert_true(gb_save(path, "", 0));
    assert_int_equal(gguf_open(&gguf, path, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "empty"));
    gguf_builder b = {0};
    size_t bytes;
    gb_tensor(&b, "t", 1, (uint64_t[]){3}, DT_F32, ONES);
    char *file = gb_finish(&b, &bytes);
    assert_true(gb_save(path, file, bytes));
    assert_int_equal(gguf_open(&gguf, path, &err), ESP_OK);
    assert_int_equal(gguf_bytes(gguf), bytes);
    assert_memory_equal(gguf_find(gguf, "t")->data, ONES, 12);
    gguf_close(gguf);
    free(file);
    unlink(path);
    rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_type_and_its_tensors),
        cmocka_unit_test(knows_the_types_of_tensors),
        cmocka_unit_test(reads_integers_that_fit),
        cmocka_unit_test(getters_name_the_type_they_saw),
        cmocka_unit_test(walks_string_arrays_and_prints),
        cmocka_unit_test(refuses_every_truncation),
        cmocka_unit_test(refuses_foreign_headers),
        cmocka_unit_test(refuses_counts_beyond_the_file),
        cmocka_unit_test(refuses_bad_keys),
        cmocka_unit_test(refuses_duplicate_keys),
        cmocka_unit_test(refuses_bad_types),
        cmocka_unit_test(refuses_bad_arrays),
        cmocka_unit_test(refuses_bad_alignment),
        cmocka_unit_test(refuses_bad_tensor_names),
        cmocka_unit_test(refuses_bad_dims),
        cmocka_unit_test(refuses_rows_of_part_blocks),
        cmocka_unit_test(refuses_unsupported_types),
        cmocka_unit_test(refuses_bad_offsets),
        cmocka_unit_test(refuses_overlaps_gaps_and_rests),
        cmocka_unit_test(takes_the_last_tensor_padded_or_not),
        cmocka_unit_test(opens_regular_files_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
