/* test_rank_packs.c - each rank's pack of its part: made at the first start, used at the next, of no use to another
 * number of ranks or to another rank. */
// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/unit/rank_kl.h"
#include "tests/unit/tiny_engine.h"

enum { IDS = 30 };

/* The MLP's parts are uneven, the output matrix is the embedding. */
static const tiny_llama_options MODEL = {.layers = 2,
                                         .hidden = 128,
                                         .heads = 8,
                                         .kv_heads = 4,
                                         .head_dim = 32,
                                         .intermediate = 288,
                                         .vocab = 333,
                                         .dtype = DT_F32,
                                         .seed = 31,
                                         .tied = true};

static char model_path[] = "/tmp/espalier-rank-packs-XXXXXX",
            folder[] = "/tmp/espalier-packs-XXXXXX";
static _Atomic uint32_t packed;

static esp_code count_pack(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                           esp_error *err) {
    packed++;
    return kern_ref.pack(dev, desc, out, err);
}

/* One start; the matrices that it packed. */
static uint32_t start(model_config config, rank_rows *rows) {
    kern_ops counting = kern_ref;
    int32_t ids[IDS];
    esp_error err = {0};
    counting.pack = count_pack;
    config.device = DEVICE_REF;
    config.ops = &counting;
    packed = 0;
    for (int i = 0; i < IDS; i++)
        ids[i] = 3 + i * 37 % 190;
    engine *e = tiny_open(model_path, config);
    if (rank_read_rows(e, NULL, ids, IDS, rows, &err) != ESP_OK) fail_msg("%s", err.message);
    engine_close(e);
    return packed;
}

/* fn for each pack; how many there are. */
static uint32_t each_pack(void (*fn)(const char *path)) {
    char path[512];
    uint32_t count = 0;
    DIR *all = opendir(folder);
    assert_non_null(all);
    for (struct dirent *one; (one = readdir(all));) {
        if (!strstr(one->d_name, ".espalier-pack")) continue;
        snprintf(path, sizeof path, "%s/%s", folder, one->d_name);
        if (fn) fn(path);
        count++;
    }
    closedir(all);
    return count;
}

static void assert_same_bits(const rank_rows *a, const rank_rows *b) {
    assert_memory_equal(a->at, b->at, (size_t)a->count * a->vocab * sizeof *a->at);
}

static void check_packs(model_config config) {
    rank_rows plain, kept, mapped;
    config.pack = "off";
    uint32_t all = start(config, &plain);
    assert_int_equal(each_pack(NULL), 0);
    config.pack = folder;
    assert_int_equal(start(config, &kept), all);
    assert_int_equal(each_pack(NULL), config.tp);
    assert_int_equal(start(config, &mapped), 0);
    assert_same_bits(&plain, &kept);
    assert_same_bits(&plain, &mapped);
    free(plain.at);
    free(kept.at);
    free(mapped.at);
}

static void remove_pack(const char *path) { assert_int_equal(unlink(path), 0); }

static void each_rank_keeps_a_pack_of_its_part(void **state) {
    (void)state;
    for (uint32_t tp = 2; tp <= 4; tp += 2) {
        check_packs((model_config){.tp = tp});
        each_pack(remove_pack);
        check_packs((model_config){.tp = tp, .quantize = DT_Q8_0, .quantize_given = true});
        each_pack(remove_pack);
    }
}

/* Two ranks' packs lie beside four's. */
static void packs_of_other_numbers_of_ranks_are_left_alone(void **state) {
    (void)state;
    rank_rows rows[3];
    assert_true(start((model_config){.tp = 2, .pack = folder}, &rows[0]) > 0);
    assert_true(start((model_config){.tp = 4, .pack = folder}, &rows[1]) > 0);
    assert_int_equal(each_pack(NULL), 6);
    assert_true(start((model_config){.tp = 1, .pack = folder}, &rows[2]) > 0);
    assert_int_equal(each_pack(NULL), 7);
    for (uint32_t i = 0; i < 3; i++) {
        rank_rows again;
        assert_int_equal(start((model_config){.tp = 4 >> i, .pack = folder}, &again), 0);
        assert_same_bits(&again, &rows[i < 2 ? 1 - i : 2]);
        free(again.at);
    }
    for (uint32_t i = 0; i < 3; i++)
        free(rows[i].at);
    each_pack(remove_pack);
}

static void spoil_rank_1(const char *path) {
    if (!strstr(path, "rank1of2")) return;
    FILE *file = fopen(path, "r+b");
    assert_true(file && fseek(file, -100, SEEK_END) == 0);
    for (int i = 0; i < 50; i++)
        fputc(0x5a, file);
    fclose(file);
}

static void a_rank_whose_pack_is_damaged_packs_again(void **state) {
    (void)state;
    rank_rows plain, mended;
    uint32_t all = start((model_config){.tp = 2, .pack = folder}, &plain);
    each_pack(spoil_rank_1);
    assert_int_equal(start((model_config){.tp = 2, .pack = folder}, &mended), all / 2);
    assert_same_bits(&plain, &mended);
    free(plain.at);
    free(mended.at);
    each_pack(remove_pack);
}

static int make_files(void **state) {
    (void)state;
    tiny_write(model_path, &MODEL);
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_files(void **state) {
    (void)state;
    rmdir(folder);
    return unlink(model_path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_rank_keeps_a_pack_of_its_part),
        cmocka_unit_test(packs_of_other_numbers_of_ranks_are_left_alone),
        cmocka_unit_test(a_rank_whose_pack_is_damaged_packs_again),
    };
    return cmocka_run_group_tests(tests, make_files, drop_files);
}
