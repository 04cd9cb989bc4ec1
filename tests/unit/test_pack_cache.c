/* test_pack_cache.c - packs, of --quantize and of weights as they are: the second start uses what the
 * first one made, and computes the same bits; what is stale or damaged is made anew. On the tiny models
 * of tests/vectors/families. */
// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/log.h"
#include "engine/model/cache/pack_cache.h"
#include "engine/model/weights.h"
#include "tests/unit/tiny_forward.h"

enum { TOKENS = 6, VOCAB_MAX = 512 };

static char folder[] = "/tmp/test_packs_XXXXXX";
static char model_path[64], pack_path[96], plain_path[96], cache_path[64];

/* Puts the file at *arg in the model's place, once. */
static void exchange(void *arg, uint64_t done, uint64_t total) {
    const char **other = arg;
    (void)done, (void)total;
    if (*other) assert_int_equal(rename(*other, model_path), 0);
    *other = NULL;
}
static const char *other_model; /* for which the model's file is exchanged while it is read */

/* One start: the logits of some tokens. */
static void start_as(const kern_ops *ops, model_options o, float *logits) {
    static const int32_t ids[TOKENS] = {1, 40, 7, 299, 20, 3};
    o.model_path = model_path;
    o.cache_folder = cache_path;
    o.progress = exchange;
    o.progress_arg = &other_model;
    uint32_t vocab = 0;
    esp_error err = {0};
    float *seen = tiny_logits(ops, model_path, o, ids, TOKENS, &vocab, &err);
    if (!seen) fail_msg("%s", err.message);
    assert_true(vocab <= VOCAB_MAX);
    memcpy(logits, seen, (size_t)TOKENS * vocab * sizeof *logits);
    free(seen);
}

/* With --quantize q8_0. */
static void start(const kern_ops *ops, bool keep, float *logits) {
    model_options o = {
        .quantize = true, .quantize_to = DT_Q8_0, .packs = keep ? PACKS_KEEP : PACKS_OFF};
    start_as(ops, o, logits);
}

static void copy_file(const char *from, const char *to) {
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    assert_true(in && out);
    for (int c; (c = fgetc(in)) != EOF;)
        fputc(c, out);
    fclose(in);
    fclose(out);
}

static struct stat status_of(const char *path) {
    struct stat status = {0};
    stat(path, &status);
    return status;
}

static void remove_caches(void) {
    DIR *caches = opendir(cache_path);
    char path[512];
    for (struct dirent *entry; caches && (entry = readdir(caches));) {
        snprintf(path, sizeof path, "%s/%s", cache_path, entry->d_name);
        unlink(path);
    }
    if (caches) closedir(caches);
    rmdir(cache_path);
}

static float first[TOKENS * VOCAB_MAX], second[TOKENS * VOCAB_MAX];

/* A start that finds the pack or leaves it as it lies; one that replaces it. */
static void check_start(const kern_ops *ops, bool replaced) {
    struct stat before = status_of(pack_path);
    start(ops, true, second);
    assert_memory_equal(first, second, sizeof first);
    struct stat after = status_of(pack_path);
    assert_true(after.st_ino > 0);
    assert_int_equal(replaced, before.st_ino != after.st_ino);
}

static void put_byte(const char *path, long at, int byte) {
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    fputc(byte, file);
    fclose(file);
}

static void the_second_start_maps_what_the_first_made(void **state) {
    (void)state;
    start(&kern_ref, false, first);
    assert_int_equal(access(pack_path, F_OK), -1);
    check_start(&kern_ref, true);
    check_start(&kern_ref, false);
    unlink(pack_path);
}

static void a_stale_or_damaged_pack_is_made_anew(void **state) {
    (void)state;
    start(&kern_ref, false, first);
    check_start(&kern_ref, true);
    put_byte(pack_path, 5000, 0x5a); /* inside a matrix */
    check_start(&kern_ref, true);
    put_byte(pack_path, 9, 0x5a); /* inside the header */
    check_start(&kern_ref, true);
    assert_int_equal(truncate(pack_path, 6000), 0);
    check_start(&kern_ref, true);
    assert_int_equal(truncate(pack_path, 0), 0);
    check_start(&kern_ref, true);
    check_start(&kern_ref, false);
    unlink(pack_path);
}

/* The file's times change, its content does not: its digest says so. Then the content does. */
static void a_changed_model_has_another_pack(void **state) {
    (void)state;
    start(&kern_ref, false, first);
    check_start(&kern_ref, true);
    long last = (long)status_of(model_path).st_size - 1;
    FILE *file = fopen(model_path, "rb");
    assert_int_equal(fseek(file, last - 1, SEEK_SET), 0);
    int before = fgetc(file);
    fclose(file);
    put_byte(model_path, last - 1, before);
    check_start(&kern_ref, false);
    put_byte(model_path, last - 1, before ^ 1);
    start(&kern_ref, false, first);
    check_start(&kern_ref, true);
    put_byte(model_path, last - 1, before);
    unlink(pack_path);
}

/* What is mapped is the old file: its weights under the new one's identity would be believed later. */
static void of_a_model_exchanged_meanwhile_no_pack_is_kept(void **state) {
    (void)state;
    char other[80];
    snprintf(other, sizeof other, "%s/other.gguf", folder);
    copy_file(model_path, other);
    start(&kern_ref, false, first);
    other_model = other;
    start(&kern_ref, true, second);
    assert_null(other_model);
    assert_memory_equal(first, second, sizeof first);
    assert_int_equal(access(pack_path, F_OK), -1);
    check_start(&kern_ref, true);
    unlink(pack_path);
}

/* Of the level that is chosen here. */
static const char *cpu_layout(void) {
    return kern_cpu_best_level() == LEVEL_AMX ? "cpu-rows" : "cpu-tiles";
}

/* Each has its own, beside the other's. */
static void a_pack_is_of_one_device(void **state) {
    (void)state;
    char of_cpu[96];
    if (kern_cpu_best_level() == LEVEL_AUTO) skip();
    snprintf(of_cpu, sizeof of_cpu, "%s.q8_0.%s.espalier-pack", model_path, cpu_layout());
    start(&kern_cpu, true, first);
    assert_int_equal(access(pack_path, F_OK), -1);
    ino_t of_cpu_is = status_of(of_cpu).st_ino;
    assert_true(of_cpu_is > 0);
    start(&kern_ref, false, first);
    check_start(&kern_ref, true);
    check_start(&kern_ref, false);
    start(&kern_cpu, false, first);
    start(&kern_cpu, true, second);
    assert_memory_equal(first, second, sizeof first);
    assert_true(status_of(of_cpu).st_ino == of_cpu_is);
    assert_int_equal(unlink(pack_path) | unlink(of_cpu), 0);
}

/* One that names another device's layout is not read and gets its successor. */
static void a_pack_of_another_layout_is_replaced(void **state) {
    (void)state;
    char of_cpu[96];
    if (kern_cpu_best_level() == LEVEL_AUTO) skip();
    snprintf(of_cpu, sizeof of_cpu, "%s.q8_0.%s.espalier-pack", model_path, cpu_layout());
    start(&kern_cpu, true, first);
    assert_int_equal(rename(of_cpu, pack_path), 0);
    start(&kern_ref, false, first);
    check_start(&kern_ref, true);
    unlink(pack_path);
}

/* Weights as they are: the same bits with and without, on every device. */
static void a_plain_model_has_a_pack_too(void **state) {
    (void)state;
    char of_cpu[96];
    snprintf(of_cpu, sizeof of_cpu, "%s.%s.espalier-pack", model_path, cpu_layout());
    bool both = kern_cpu_best_level() != LEVEL_AUTO;
    for (int i = 0; i <= both; i++) {
        const kern_ops *ops = i ? &kern_cpu : &kern_ref;
        const char *path = i ? of_cpu : plain_path;
        start_as(ops, (model_options){.packs = PACKS_USE}, first);
        assert_int_equal(access(path, F_OK), -1);
        start_as(ops, (model_options){.packs = PACKS_KEEP}, second);
        assert_memory_equal(first, second, sizeof first);
        ino_t made = status_of(path).st_ino;
        assert_true(made > 0);
        start_as(ops, (model_options){.packs = PACKS_USE}, second);
        assert_memory_equal(first, second, sizeof first);
        assert_true(status_of(path).st_ino == made);
        assert_int_equal(unlink(path), 0);
    }
}

/* A tiny model is packed in no time. */
static void what_packs_quickly_is_not_kept(void **state) {
    (void)state;
    start_as(&kern_ref, (model_options){.packs = PACKS_KEEP_IF_WORTH}, first);
    assert_int_equal(access(plain_path, F_OK), -1);
}

static esp_code no_image(const kern_matrix *matrix, kern_image *out, esp_error *err) {
    (void)matrix, (void)out;
    return esp_fail(err, ESP_EXHAUSTED, "no memory for a copy");
}

/* The model starts all the same. */
static void where_images_find_no_memory_none_is_kept(void **state) {
    (void)state;
    kern_ops ops = kern_ref;
    start_as(&kern_ref, (model_options){.packs = PACKS_OFF}, first);
    ops.image = no_image;
    start_as(&ops, (model_options){.packs = PACKS_KEEP}, second);
    assert_memory_equal(first, second, sizeof first);
    assert_int_equal(access(plain_path, F_OK), -1);
}

/* Whoever comes second while the pack is being written packs for himself and leaves it alone. */
static void of_two_at_once_one_writes(void **state) {
    (void)state;
    pack_writer *other;
    pack_writer_options writing = {.path = plain_path, .mode = 0600};
    assert_int_equal(pack_writer_open(&other, &writing, NULL), ESP_OK);
    start_as(&kern_ref, (model_options){.packs = PACKS_OFF}, first);
    model_options o = {.packs = PACKS_KEEP};
    start_as(&kern_ref, o, second);
    assert_memory_equal(first, second, sizeof first);
    assert_int_equal(access(plain_path, F_OK), -1);
    assert_int_equal(pack_writer_finish(other, pack_key_of("", "", ""), 0, NULL), ESP_OK);
    pack_writer_close(other);
    assert_int_equal(unlink(plain_path), 0);
    remove_caches();
}

static const char *in_packs(char out[512], const char *path) {
    DIR *packs = opendir(path);
    out[0] = 0;
    for (struct dirent *entry; packs && (entry = readdir(packs));)
        if (strstr(entry->d_name, ".espalier-pack"))
            snprintf(out, 512, "%s/%s", path, entry->d_name);
    if (packs) closedir(packs);
    return out;
}

/* The model is closed while its pack may still be on its way: it is there whole, or not at all. */
static void a_pack_written_behind_is_whole_or_none(void **state) {
    (void)state;
    char packs[96], kept[512];
    snprintf(packs, sizeof packs, "%s/packs", folder);
    model_options o = {.packs = PACKS_KEEP, .packs_behind = true, .pack_folder = packs};
    start_as(&kern_ref, (model_options){.packs = PACKS_OFF}, first);
    for (int i = 0; i < 20; i++) {
        start_as(&kern_ref, o, second);
        assert_memory_equal(first, second, sizeof first);
        assert_null(strstr(in_packs(kept, packs), ".new"));
    }
    assert_int_equal(access(plain_path, F_OK), -1);
    unlink(kept);
    rmdir(packs);
}

static bool digest_of(const char *path, char out[MODEL_DIGEST_CHARS]) {
    snprintf(out, MODEL_DIGEST_CHARS, "of %s", path + strlen(path) - 6);
    return true;
}

/* Nobody waits for it, and it comes all the same. */
static void a_pack_is_written_behind(void **state) {
    (void)state;
    uint64_t bytes[64] = {1, 2, 3};
    const pack_item item = {.image = {DT_F32, 1, 128, NULL, bytes, sizeof bytes}};
    pack_cache_options o = {.model_path = model_path,
                            .identity = pack_identity_of(model_path),
                            .format = "",
                            .layout = "ref-blocks-1",
                            .digest = digest_of};
    assert_int_equal(pool_open(&o.pool, 1, NULL), ESP_OK);
    pack_cache *cache = pack_cache_open(&o);
    pack_cache_keep(cache, &item, 1, true);
    for (int tries = 0; access(plain_path, F_OK) != 0 && tries < 300000; tries++)
        usleep(1000);
    pack_cache_close(cache);
    cache = pack_cache_open(&o);
    kern_image got;
    assert_true(pack_cache_find(cache, item.place, &got));
    assert_memory_equal(got.bytes, bytes, sizeof bytes);
    pack_cache_close(cache);
    pool_close(o.pool);
    unlink(plain_path);
}

/* Nothing can be written beside the model: the pack is kept in the folder of caches, and found. */
static void a_pack_may_lie_in_the_folder_of_caches(void **state) {
    (void)state;
    char blocked[128], kept[512] = "";
    snprintf(blocked, sizeof blocked, "%s.new", pack_path);
    assert_int_equal(mkdir(blocked, 0700), 0); /* where the new file would be */
    start(&kern_ref, true, first);
    assert_int_equal(access(pack_path, F_OK), -1);
    DIR *caches = opendir(cache_path);
    assert_non_null(caches);
    for (struct dirent *entry; (entry = readdir(caches));)
        if (strstr(entry->d_name, ".q8_0.ref-blocks.espalier-pack"))
            snprintf(kept, sizeof kept, "%s/%s", cache_path, entry->d_name);
    closedir(caches);
    struct stat before = status_of(kept);
    start(&kern_ref, true, second);
    assert_memory_equal(first, second, sizeof first);
    struct stat after = status_of(kept);
    assert_true(before.st_ino > 0 && before.st_ino == after.st_ino);
    assert_int_equal(unlink(kept) | rmdir(cache_path) | rmdir(blocked), 0);
}

static esp_dtype dtype_at(const kern_ops *ops, const kern_matrix *matrix) {
    return ops->shape(matrix).dtype;
}

/* Rows of 64 cannot be Q4_K: they are Q8_0. */
static void narrow_rows_fall_back(void **state) {
    (void)state;
    thread_pool *pool;
    kern_device *dev;
    model_file *file;
    model *m;
    esp_error err = {0};
    assert_int_equal(pool_open(&pool, 1, &err), ESP_OK);
    kern_options options = {.pool = pool, .kv_dtype = DT_F32, .tokens_max = 16};
    assert_int_equal(kern_ref.open(&dev, &options, &err), ESP_OK);
    assert_int_equal(model_file_open(&file, model_path, &err), ESP_OK);
    model_options o = {.ops = &kern_ref,
                       .dev = dev,
                       .tokens_max = 16,
                       .rows_max = 16,
                       .context_max = 16,
                       .quantize = true,
                       .quantize_to = DT_Q4_K,
                       .pool = pool};
    assert_int_equal(model_open(&m, file, &o, &err), ESP_OK);
    assert_int_equal(dtype_at(&kern_ref, m->embedding), DT_Q8_0);
    assert_int_equal(dtype_at(&kern_ref, m->layers[0].down), DT_Q8_0);
    model_close(m);
    model_file_close(file);
    kern_ref.close(dev);
    pool_close(pool);
}

static int make_folder(void **state) {
    (void)state;
    log_set_level(LOG_OFF);
    if (!mkdtemp(folder)) return -1;
    snprintf(model_path, sizeof model_path, "%s/m.gguf", folder);
    snprintf(pack_path, sizeof pack_path, "%s.q8_0.ref-blocks.espalier-pack", model_path);
    snprintf(plain_path, sizeof plain_path, "%s.ref-blocks.espalier-pack", model_path);
    snprintf(cache_path, sizeof cache_path, "%s/cache", folder);
    copy_file(TEST_SOURCE_DIR "/tests/vectors/families/llama3.gguf", model_path);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(model_path);
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_second_start_maps_what_the_first_made),
        cmocka_unit_test(a_stale_or_damaged_pack_is_made_anew),
        cmocka_unit_test(a_changed_model_has_another_pack),
        cmocka_unit_test(of_a_model_exchanged_meanwhile_no_pack_is_kept),
        cmocka_unit_test(a_pack_is_of_one_device),
        cmocka_unit_test(a_pack_of_another_layout_is_replaced),
        cmocka_unit_test(a_plain_model_has_a_pack_too),
        cmocka_unit_test(what_packs_quickly_is_not_kept),
        cmocka_unit_test(where_images_find_no_memory_none_is_kept),
        cmocka_unit_test(of_two_at_once_one_writes),
        cmocka_unit_test(a_pack_written_behind_is_whole_or_none),
        cmocka_unit_test(a_pack_is_written_behind),
        cmocka_unit_test(a_pack_may_lie_in_the_folder_of_caches),
        cmocka_unit_test(narrow_rows_fall_back),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
