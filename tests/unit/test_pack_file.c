/* test_pack_file.c - a pack gives back what was put in, and no file that differs in a bit is one. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <xxhash.h>

#include "engine/model/cache/pack_inner.h"
#include "tests/unit/kernel_lab.h"

static char folder[] = "/tmp/test_pack_XXXXXX";
static thread_pool *pool;

static const char *in_folder(const char *name) {
    static char path[4][128];
    static int next;
    char *out = path[next++ % 4];
    snprintf(out, sizeof path[0], "%s/%s", folder, name);
    return out;
}

enum { COLS = 96, BYTES = 5000, TABLE_BYTES = 3 * PACK_ENTRY_BYTES + 8 /* one stretch */ };
static const pack_place places[] = {{0, 0, 0}, {7, 1, 0}, {7, 1, 64}};

/* The i-th matrix of a test's pack: every second has an order. */
static kern_image image_of(uint32_t i, const uint32_t *order, const void *bytes) {
    return (kern_image){.dtype = i == 0 ? DT_F8_E4M3 : DT_Q4_K,
                        .rows = 3 + i,
                        .cols = COLS,
                        .order = i % 2 ? order : NULL,
                        .bytes = (const uint8_t *)bytes + 64 * i,
                        .count = BYTES + i};
}

static uint8_t bytes_in[8192];
static uint32_t order_in[COLS];

static esp_code open_writer(pack_writer **out, const char *path, esp_error *err) {
    return pack_writer_open(out, &(pack_writer_options){.path = path, .mode = 0644}, err);
}

static esp_code write_pack(const char *path, pack_key key, esp_error *err) {
    pack_writer *writer;
    esp_code code = open_writer(&writer, path, err);
    for (uint32_t i = 0; i < 3 && !code; i++) {
        kern_image image = image_of(i, order_in, bytes_in);
        code = pack_writer_add(writer, places[i], &image, err);
    }
    if (!code) code = pack_writer_finish(writer, key, 77, err);
    pack_writer_close(writer);
    return code;
}

static void check_contents(const pack_file *pack, const pack_key *key) {
    pack_key seen = pack_file_key(pack);
    assert_memory_equal(seen.model, key->model, sizeof seen.model);
    assert_true(seen.kind == key->kind);
    assert_int_equal(pack_file_identity(pack), 77);
    for (uint32_t i = 0; i < 3; i++) {
        kern_image want = image_of(i, order_in, bytes_in), got;
        assert_true(pack_file_find(pack, places[i], &got));
        assert_int_equal(got.dtype, want.dtype);
        assert_int_equal(got.rows, want.rows);
        assert_int_equal(got.cols, want.cols);
        assert_int_equal(got.count, want.count);
        assert_int_equal((uintptr_t)got.bytes % 64, 0);
        assert_memory_equal(got.bytes, want.bytes, want.count);
        assert_int_equal(!got.order, !want.order);
        if (want.order) assert_memory_equal(got.order, want.order, sizeof order_in);
    }
    kern_image none;
    assert_false(pack_file_find(pack, (pack_place){7, 2, 0}, &none));
}

static void a_pack_gives_back_what_was_put_in(void **state) {
    (void)state;
    const char *path = in_folder("a.pack");
    pack_key key = pack_key_of("xxh3-128:00", "q8_0", "cpu-tiles-1");
    pack_file *pack;
    esp_error err = {0};
    assert_int_equal(write_pack(path, key, &err), ESP_OK);
    assert_int_equal(access(in_folder("a.pack.new"), F_OK), -1);
    assert_int_equal(pack_file_open(&pack, path, pool, &err), ESP_OK);
    check_contents(pack, &key);
    assert_int_equal(write_pack(path, key, &err), ESP_OK); /* the mapping keeps the old file */
    check_contents(pack, &key);
    pack_file_close(pack);
    unlink(path);
}

static void keys_tell_apart_what_differs(void **state) {
    (void)state;
    pack_key a = pack_key_of("x", "q8_0", "l-1"), other = pack_key_of("y", "q8_0", "l-1");
    assert_true(a.kind == other.kind && memcmp(a.model, other.model, sizeof a.model) != 0);
    assert_true(a.kind != pack_key_of("x", "q4_k", "l-1").kind);
    assert_true(a.kind != pack_key_of("x", "q8_0", "l-2").kind);
}

/* The whole file in 64-byte aligned memory; free() it. */
static uint8_t *read_all(const char *path, size_t *count) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    uint8_t *bytes = aligned_alloc(64, 1 << 20);
    *count = fread(bytes, 1, 1 << 20, file);
    fclose(file);
    return bytes;
}

static esp_code open_bytes(const uint8_t *bytes, size_t count, esp_error *err) {
    pack_file *pack;
    esp_code code = pack_file_open_memory(&pack, bytes, count, pool, err);
    pack_file_close(pack);
    return code;
}

/* Every length that is too short, and one that is too long. */
static void a_truncated_pack_is_refused(void **state) {
    (void)state;
    const char *path = in_folder("t.pack");
    esp_error err = {0};
    assert_int_equal(write_pack(path, pack_key_of("x", "q8_0", "l"), &err), ESP_OK);
    size_t count;
    uint8_t *bytes = read_all(path, &count);
    assert_int_equal(open_bytes(bytes, count, &err), ESP_OK);
    for (size_t cut = 0; cut < count; cut += cut < 256 ? 1 : 61)
        assert_int_equal(open_bytes(bytes, cut, &err), ESP_INVALID);
    assert_int_equal(open_bytes(bytes, count + 1, &err), ESP_INVALID);
    free(bytes);
    unlink(path);
}

/* The rest of the header's page is nobody's; all other bits count. */
static void a_flipped_bit_is_found(void **state) {
    (void)state;
    const char *path = in_folder("f.pack");
    esp_error err = {0};
    assert_int_equal(write_pack(path, pack_key_of("x", "q8_0", "l"), &err), ESP_OK);
    size_t count;
    uint8_t *bytes = read_all(path, &count);
    for (size_t at = 0; at < count; at += at < PACK_HEADER_BYTES ? 1 : 37) {
        if (at >= PACK_HEADER_BYTES && at < PACK_ALIGNMENT) continue;
        bytes[at] ^= (uint8_t)(1u << at % 8);
        if (open_bytes(bytes, count, &err) != ESP_INVALID) fail_msg("byte %zu", at);
        bytes[at] ^= (uint8_t)(1u << at % 8);
    }
    free(bytes);
    unlink(path);
}

/* Hashes that are right around numbers that lie. */
static void a_lying_table_is_refused(void **state) {
    (void)state;
    const char *path = in_folder("l.pack");
    esp_error err = {0};
    assert_int_equal(write_pack(path, pack_key_of("x", "q8_0", "l"), &err), ESP_OK);
    size_t count;
    uint8_t *bytes = read_all(path, &count);
    for (int lie = 0; lie < 10; lie++) {
        uint8_t *copy = aligned_alloc(64, 1 << 20);
        memcpy(copy, bytes, count);
        pack_header *h = (pack_header *)(void *)copy;
        pack_entry *e = (pack_entry *)(void *)(copy + h->table_at);
        if (lie == 0) e->at = UINT64_MAX - 4095;
        if (lie == 1) e->bytes = UINT64_MAX;
        if (lie == 2) e->at = 0;
        if (lie == 3) e[1].order_bytes = 4;
        if (lie == 4) e->at += 64;
        if (lie == 5) h->entries = UINT32_MAX;
        if (lie == 6) h->table_at += PACK_ENTRY_BYTES;
        if (lie == 7) e->bytes = count;
        if (lie == 8) e[1].at = e[0].at; /* two over the same bytes */
        if (lie == 9) h->stretches = 2;
        if (lie < 5 || lie == 7 || lie == 8) h->table_hash = XXH3_64bits(e, TABLE_BYTES);
        h->header_hash = XXH3_64bits(h, PACK_HASHED_HEADER);
        if (open_bytes(copy, count, &err) != ESP_INVALID) fail_msg("lie %d", lie);
        free(copy);
    }
    free(bytes);
    unlink(path);
}

/* Over several stretches, and then out of the mapping into memory of its own. */
static void a_large_pack_gives_back_what_was_put_in(void **state) {
    (void)state;
    enum { LARGE_BYTES = 5 * PACK_STRETCH_BYTES / 2 + 777 };
    const char *path = in_folder("large.pack");
    pack_writer *writer;
    pack_file *pack;
    kern_image got, image = {.dtype = DT_Q4_K, .rows = 1, .cols = COLS, .order = order_in};
    uint8_t *bytes = malloc(LARGE_BYTES);
    for (uint32_t i = 0; i < LARGE_BYTES; i++)
        bytes[i] = (uint8_t)lab_hash(i);
    image.bytes = bytes;
    image.count = LARGE_BYTES;
    assert_int_equal(open_writer(&writer, path, NULL), ESP_OK);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(pack_writer_add(writer, places[i], &image, NULL), ESP_OK);
    assert_int_equal(pack_writer_finish(writer, pack_key_of("x", "", "l"), 1, NULL), ESP_OK);
    pack_writer_close(writer);
    assert_int_equal(pack_file_open(&pack, path, pool, NULL), ESP_OK);
    assert_true(pack->header.stretches > 3);
    for (int copied = 0; copied < 2; copied++) {
        for (uint32_t i = 0; i < 3; i++) {
            assert_true(pack_file_find(pack, places[i], &got));
            assert_memory_equal(got.order, order_in, sizeof order_in);
            assert_int_equal(got.count, LARGE_BYTES);
            assert_memory_equal(got.bytes, bytes, LARGE_BYTES);
        }
        if (!pack->copy) pack_file_copy(pack, pool);
        assert_string_equal(pack_file_how(pack), "copied");
    }
    pack_file_close(pack);
    free(bytes);
    unlink(path);
}

static bool refuse(void *arg) {
    *(int *)arg += 1;
    return false;
}

/* Behind the first stretch, and nothing is left. */
static void a_writer_that_is_told_to_stop_stops(void **state) {
    (void)state;
    int asked = 0;
    pack_writer *writer;
    pack_writer_options o = {
        .path = in_folder("s.pack"), .mode = 0600, .go_on = refuse, .arg = &asked};
    kern_image image = {.dtype = DT_Q4_K, .rows = 1, .cols = COLS, .count = 3 * PACK_STRETCH_BYTES};
    void *bytes = calloc(1, image.count);
    image.bytes = bytes;
    assert_int_equal(pack_writer_open(&writer, &o, NULL), ESP_OK);
    assert_int_equal(pack_writer_add(writer, places[0], &image, NULL), ESP_CANCELLED);
    assert_int_equal(asked, 1);
    pack_writer_close(writer);
    assert_int_equal(access(in_folder("s.pack.new"), F_OK), -1);
    free(bytes);
}

/* In place; of another file that has its name by then, nothing is changed. */
static void a_pack_gets_another_identity(void **state) {
    (void)state;
    const char *path = in_folder("r.pack");
    pack_key key = pack_key_of("x", "q8_0", "l"), other = pack_key_of("y", "q8_0", "l");
    pack_file *pack, *after;
    assert_int_equal(write_pack(path, key, NULL), ESP_OK);
    assert_int_equal(pack_file_open(&pack, path, pool, NULL), ESP_OK);
    assert_int_equal(pack_file_renew(pack, path, 78, NULL), ESP_OK);
    assert_int_equal(pack_file_open(&after, path, pool, NULL), ESP_OK);
    assert_int_equal(pack_file_identity(after), 78);
    pack_file_close(after);
    assert_int_equal(write_pack(path, other, NULL), ESP_OK);
    assert_int_equal(pack_file_renew(pack, path, 79, NULL), ESP_UNAVAILABLE);
    assert_int_equal(pack_file_open(&after, path, pool, NULL), ESP_OK);
    check_contents(after, &other);
    pack_file_close(after);
    pack_file_close(pack);
    unlink(path);
}

/* A folder that is not there; a file that another writer holds; a writer that gives up. */
static void an_unfinished_pack_is_no_pack(void **state) {
    (void)state;
    pack_writer *one, *two;
    esp_error err = {0};
    assert_int_equal(open_writer(&one, in_folder("none/a"), &err), ESP_NOT_FOUND);
    assert_int_equal(open_writer(&one, in_folder("u"), &err), ESP_OK);
    assert_int_equal(open_writer(&two, in_folder("u"), &err), ESP_UNAVAILABLE);
    pack_writer_close(one);
    assert_int_equal(access(in_folder("u"), F_OK), -1);
    assert_int_equal(access(in_folder("u.new"), F_OK), -1);
    FILE *left = fopen(in_folder("u.new"), "wb"); /* by a crash */
    fputs("half a pack", left);
    fclose(left);
    assert_int_equal(write_pack(in_folder("u"), pack_key_of("x", "q", "l"), &err), ESP_OK);
    assert_int_equal(access(in_folder("u.new"), F_OK), -1);
    unlink(in_folder("u"));
}

static int make_folder(void **state) {
    (void)state;
    for (uint32_t i = 0; i < sizeof bytes_in; i++)
        bytes_in[i] = (uint8_t)lab_hash(i);
    for (uint32_t i = 0; i < COLS; i++)
        order_in[i] = COLS - 1 - i;
    return pool_open(&pool, 2, NULL) == ESP_OK && mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    pool_close(pool);
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pack_gives_back_what_was_put_in),
        cmocka_unit_test(keys_tell_apart_what_differs),
        cmocka_unit_test(a_truncated_pack_is_refused),
        cmocka_unit_test(a_flipped_bit_is_found),
        cmocka_unit_test(a_lying_table_is_refused),
        cmocka_unit_test(a_large_pack_gives_back_what_was_put_in),
        cmocka_unit_test(a_writer_that_is_told_to_stop_stops),
        cmocka_unit_test(a_pack_gets_another_identity),
        cmocka_unit_test(an_unfinished_pack_is_no_pack),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
