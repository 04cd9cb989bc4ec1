/* test_adapter_store.c - adapters by name: versions, aliases, removal, uploads, limits. */
// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/store_lab.h"

/* ---- names and versions ---- */

static void an_imported_adapter_is_found_by_name_version_and_digest(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    store_ref made = lab_import(store, "intents", 1);
    assert_int_equal(made.version, 1);
    char by_digest[STORE_REFERENCE_MAX], by_prefix[STORE_REFERENCE_MAX];
    snprintf(by_digest, sizeof by_digest, "intents@%s", made.digest);
    snprintf(by_prefix, sizeof by_prefix, "intents@%.19s", made.digest); /* 12 digits */
    const char *const ways[] = {"intents", "intents@1", by_digest, by_prefix};
    for (int i = 0; i < 4; i++) {
        store_ref ref = lab_resolve(store, ways[i]);
        assert_string_equal(ref.name, "intents");
        assert_string_equal(ref.digest, made.digest);
        assert_string_equal(ref.path, made.path);
        assert_int_equal(ref.version, 1);
    }
    assert_int_equal(access(lab_path("store/blobs/sha256/%s/adapter_config.json",
                                     made.digest + strlen(ADAPTER_DIGEST_PREFIX)),
                            R_OK),
                     0);
    store_close(store);
    lab_check();
}

/* `sha256sum adapter_config.json adapter_model.safetensors | sha256sum` of the first source. */
static void the_digest_is_what_sha256sum_prints(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    store_ref made = lab_import(store, "intents", 1);
    char command[1024], line[128] = "";
    snprintf(command, sizeof command,
             "cd %s && sha256sum adapter_config.json adapter_model.safetensors | sha256sum",
             lab_source(1));
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_non_null(fgets(line, sizeof line, pipe));
    assert_int_equal(pclose(pipe), 0);
    assert_memory_equal(line, made.digest + strlen(ADAPTER_DIGEST_PREFIX), SHA256_HEX_CHARS);
    store_close(store);
}

/* An adapter that brings rows of tokens says in its tokenizer's files which those are; another's do not count. */
static void files_of_added_tokens_belong_to_the_adapter_that_brings_their_rows(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    store_import_options options = {.name = "rows"};
    store_ref rows;
    char folder[1024], command[1400], line[128] = "";
    snprintf(folder, sizeof folder, "%s/tests/vectors/lora/tokens-added", TEST_SOURCE_DIR);
    assert_int_equal(store_import(store, folder, &options, &rows, NULL), ESP_OK);
    assert_int_equal(access(lab_path("store/blobs/sha256/%s/added_tokens.json",
                                     rows.digest + strlen(ADAPTER_DIGEST_PREFIX)),
                            R_OK),
                     0);
    snprintf(command, sizeof command,
             "cd %s && sha256sum adapter_config.json adapter_model.safetensors added_tokens.json | "
             "sha256sum",
             folder);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_non_null(fgets(line, sizeof line, pipe));
    assert_int_equal(pclose(pipe), 0);
    assert_memory_equal(line, rows.digest + strlen(ADAPTER_DIGEST_PREFIX), SHA256_HEX_CHARS);
    store_ref plain = lab_import(store, "plain", 1);
    const char *source = lab_source(1);
    adapter_folder_put(source, "tokenizer.json", "{}", 2);
    store_ref again = lab_import(store, "plain", 1);
    assert_string_equal(again.digest, plain.digest);
    assert_int_equal(access(lab_path("store/blobs/sha256/%s/tokenizer.json",
                                     plain.digest + strlen(ADAPTER_DIGEST_PREFIX)),
                            F_OK),
                     -1);
    assert_int_equal(store_verify(store, rows.digest, NULL), ESP_OK);
    store_close(store);
    lab_check();
}

static void each_import_is_a_version_and_the_alias_follows_unless_kept(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    (void)lab_import(store, "a", 1);
    assert_int_equal(lab_import(store, "a", 2).version, 2);
    assert_int_equal(lab_resolve(store, "a").version, 2);
    store_ref third;
    store_import_options keep = {.name = "a", .keep_alias = true};
    assert_int_equal(store_import(store, lab_source(3), &keep, &third, NULL), ESP_OK);
    assert_int_equal(third.version, 3);
    assert_int_equal(lab_resolve(store, "a").version, 2);
    assert_int_equal(store_set_alias(store, "a", 1, NULL), ESP_OK);
    assert_int_equal(lab_resolve(store, "a").version, 1);
    esp_error err = {0};
    assert_int_equal(store_set_alias(store, "a", 9, &err), ESP_NOT_FOUND);
    assert_non_null(strstr(err.message, "its versions: 1, 2, 3"));
    assert_int_equal(store_set_alias(store, "a", 0, &err), ESP_NOT_FOUND);
    assert_int_equal(store_set_alias(store, "b", 1, &err), ESP_NOT_FOUND);
    store_close(store);
    lab_check();
}

static void content_that_is_there_is_neither_a_version_nor_a_copy(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    store_ref first = lab_import(store, "a", 1);
    (void)lab_import(store, "a", 2);
    store_ref again = lab_import(store, "a", 1);
    assert_int_equal(again.version, 1);
    assert_int_equal(lab_resolve(store, "a").version, 1); /* what was imported last */
    assert_string_equal(lab_import(store, "b", 1).digest, first.digest);
    assert_int_equal(lab_count("blobs/sha256"), 2);
    store_close(store);
    lab_check();
}

static void a_removed_version_goes_and_its_number_does_not_come_back(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    esp_error err = {0};
    uint32_t count;
    for (uint32_t seed = 1; seed <= 3; seed++)
        (void)lab_import(store, "a", seed);
    assert_int_equal(store_remove(store, "a@3", &count, &err), ESP_PRECONDITION);
    assert_non_null(strstr(err.message, "move the alias first"));
    assert_int_equal(store_set_alias(store, "a", 2, NULL), ESP_OK);
    assert_int_equal(store_remove(store, "a@3", &count, &err), ESP_OK);
    assert_int_equal(count, 1);
    assert_int_equal(lab_count("blobs/sha256"), 2);
    assert_int_equal(lab_import(store, "a", 3).version, 4);
    assert_int_equal(store_remove(store, "a", &count, &err), ESP_OK);
    assert_int_equal(count, 3);
    assert_int_equal(lab_count("blobs/sha256"), 0);
    store_ref ref;
    assert_int_equal(store_resolve(store, "a", &ref, &err), ESP_NOT_FOUND);
    assert_int_equal(store_remove(store, "a", &count, &err), ESP_NOT_FOUND);
    store_close(store);
    lab_check();
}

static void the_last_version_takes_its_name_along(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    (void)lab_import(store, "a", 1);
    assert_int_equal(store_remove(store, "a@1", NULL, NULL), ESP_OK);
    assert_int_equal(lab_count("names"), 0);
    store_close(store);
    lab_check();
}

static void files_go_with_the_last_name_that_has_them(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    (void)lab_import(store, "a", 1);
    (void)lab_import(store, "b", 1);
    assert_int_equal(store_remove(store, "a", NULL, NULL), ESP_OK);
    (void)lab_resolve(store, "b");
    assert_int_equal(lab_count("blobs/sha256"), 1);
    assert_int_equal(store_remove(store, "b", NULL, NULL), ESP_OK);
    assert_int_equal(lab_count("blobs/sha256"), 0);
    store_close(store);
    lab_check();
}

static void names_are_refused_with_what_is_wanted(void **state) {
    (void)state;
    char long_name[301];
    memset(long_name, 'a', 300);
    long_name[300] = 0;
    static const char *const wrong[] = {"",         "A",           "Intents", "../x",         "a/b",
                                        "a..b",     ".a",          "-a",      "_a",           "a b",
                                        "a%2e",     "a@1",         "a\\b",    "a\n",          "a.",
                                        "\xd0\xb0", "caf\xc3\xa9", "a\x7f",   "a\xe2\x80\x8b"};
    esp_error err = {0};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        err = (esp_error){0};
        assert_int_equal(store_check_name(wrong[i], strlen(wrong[i]), &err), ESP_INVALID);
        assert_non_null(strstr(err.message, "wanted 1 to 128 of a-z"));
        assert_string_equal(err.field, "name");
    }
    assert_int_equal(store_check_name(long_name, 300, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "300 bytes"));
    assert_int_equal(store_check_name(long_name, 129, &err), ESP_INVALID);
    assert_int_equal(store_check_name("a\0b", 3, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "NUL"));
    static const char *const right[] = {"a", "0", "intents", "a.b-c_d", "a1.2", "x.json"};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++)
        assert_int_equal(store_check_name(right[i], strlen(right[i]), NULL), ESP_OK);
    assert_int_equal(store_check_name(long_name, 128, NULL), ESP_OK);
}

static void a_name_of_128_bytes_is_imported_and_listed(void **state) {
    (void)state;
    char name[STORE_NAME_MAX + 1];
    memset(name, 'z', STORE_NAME_MAX);
    name[STORE_NAME_MAX] = 0;
    adapter_store *store = lab_store(NULL);
    (void)lab_import(store, name, 1);
    store_list list;
    assert_int_equal(store_read_list(store, &list, NULL), ESP_OK);
    assert_int_equal(list.count, 1);
    assert_string_equal(list.at[0].name, name);
    store_list_free(&list);
    store_close(store);
}

static void references_are_refused_with_what_is_wanted(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    store_ref made = lab_import(store, "a", 1), ref;
    char upper[STORE_REFERENCE_MAX], longer[STORE_REFERENCE_MAX], other[STORE_REFERENCE_MAX];
    snprintf(upper, sizeof upper, "a@sha256:ABCDEFABCDEF");
    snprintf(longer, sizeof longer, "a@%s0", made.digest);
    snprintf(other, sizeof other, "a@sha256:%c%.11s", made.digest[7] == '0' ? '1' : '0',
             made.digest + 8);
    const char *const wrong[] = {"a@",           "a@0",
                                 "a@01",         "a@-1",
                                 "a@1 ",         "a@1x",
                                 "a@@1",         "a@latest",
                                 "a@sha256:",    "a@sha256:0123456789a",
                                 "a@4294967296", "a@md5:0123456789ab",
                                 "../a@1",       upper,
                                 longer};
    esp_error err = {0};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(store_resolve(store, wrong[i], &ref, &err), ESP_INVALID);
    assert_int_equal(store_resolve(store, "a@2", &ref, &err), ESP_NOT_FOUND);
    assert_int_equal(store_resolve(store, "a@4294967295", &ref, &err), ESP_NOT_FOUND);
    assert_int_equal(store_resolve(store, other, &ref, &err), ESP_NOT_FOUND);
    assert_int_equal(store_resolve(store, "b", &ref, &err), ESP_NOT_FOUND);
    assert_null(strstr(err.message, lab_folder)); /* for clients: no path of the host */
    store_close(store);
}

/* ---- the manifest ---- */

static void the_manifest_says_what_was_imported(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    store_ref made = lab_import(store, "a", 1);
    store_manifest m;
    assert_int_equal(store_read_manifest(store, made.digest, &m, NULL), ESP_OK);
    assert_string_equal(m.digest, made.digest);
    assert_int_equal(m.file_count, 2);
    assert_int_equal(m.parameters, 2 * ADAPTER_FOLDER_RANK * ADAPTER_FOLDER_WIDTH);
    assert_int_equal(m.rank_min, ADAPTER_FOLDER_RANK);
    assert_int_equal(m.rank_max, ADAPTER_FOLDER_RANK);
    assert_string_equal(m.targets, "q_proj");
    assert_string_equal(m.base, "test/base");
    assert_int_equal(strlen(m.imported), 20);
    size_t tensors;
    free(adapter_folder_tensors(1, &tensors));
    assert_int_equal(m.bytes, tensors + strlen(adapter_folder_config()));
    store_close(store);
}

static void changed_files_are_found_and_mended_by_importing_again(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    store_ref made = lab_import(store, "a", 1);
    esp_error err = {0};
    assert_int_equal(store_verify(store, made.digest, &err), ESP_OK);
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/" ADAPTER_TENSORS_FILE, made.path);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, -1, SEEK_END);
    fputc(0x55, file);
    fclose(file);
    assert_int_equal(store_verify(store, made.digest, &err), ESP_DATA_LOSS);
    assert_non_null(strstr(err.message, ADAPTER_TENSORS_FILE));
    assert_int_equal(lab_import(store, "a", 1).version, 1);
    assert_int_equal(store_verify(store, made.digest, &err), ESP_OK);
    store_close(store);
    lab_check();
}

/* ---- uploads ---- */

static store_stage *begin(adapter_store *store, const char *name, const char *digest) {
    store_stage *stage;
    esp_error err = {0};
    store_import_options options = {.name = name, .digest = digest};
    if (store_stage_begin(store, &options, &stage, &err) != ESP_OK) fail_msg("%s", err.message);
    return stage;
}

/* Sends a file in pieces of 100 bytes, `bytes` of it. */
static esp_code send(store_stage *stage, const char *name, const void *content, size_t count,
                     size_t bytes, esp_error *err) {
    esp_code code = store_stage_file(stage, name, count, err);
    for (size_t at = 0; code == ESP_OK && at < bytes; at += 100)
        code = store_stage_write(stage, (const char *)content + at,
                                 bytes - at < 100 ? bytes - at : 100, err);
    return code;
}

static esp_code send_config(store_stage *stage, esp_error *err) {
    const char *config = adapter_folder_config();
    return send(stage, ADAPTER_CONFIG_FILE, config, strlen(config), strlen(config), err);
}

static esp_code send_tensors(store_stage *stage, uint32_t seed, size_t less, esp_error *err) {
    size_t count;
    char *tensors = adapter_folder_tensors(seed, &count);
    esp_code code = send(stage, ADAPTER_TENSORS_FILE, tensors, count, count - less, err);
    free(tensors);
    return code;
}

static void an_upload_with_the_declared_digest_is_imported(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    store_ref made = lab_import(store, "a", 1), ref;
    store_stage *stage = begin(store, "b", made.digest);
    assert_int_equal(send_tensors(stage, 1, 0, NULL), ESP_OK); /* in either order */
    assert_int_equal(send_config(stage, NULL), ESP_OK);
    assert_int_equal(store_stage_commit(stage, &ref, NULL), ESP_OK);
    store_stage_close(stage);
    assert_string_equal(ref.digest, made.digest);
    (void)lab_resolve(store, "b@1");
    store_close(store);
    lab_check();
}

static void an_upload_of_other_content_than_declared_is_refused(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    store_ref made = lab_import(store, "a", 1);
    store_stage *stage = begin(store, "a", made.digest);
    esp_error err = {0};
    assert_int_equal(send_config(stage, NULL), ESP_OK);
    assert_int_equal(send_tensors(stage, 2, 0, NULL), ESP_OK);
    assert_int_equal(store_stage_commit(stage, NULL, &err), ESP_INVALID);
    assert_string_equal(err.field, "digest");
    store_stage_close(stage);
    assert_int_equal(lab_count("stage"), 0);
    assert_int_equal(lab_resolve(store, "a").version, 1);
    store_close(store);
    lab_check();
}

static void half_an_upload_is_refused(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    esp_error err = {0};
    store_stage *stage = begin(store, "a", NULL);
    assert_int_equal(send_config(stage, NULL), ESP_OK);
    assert_int_equal(send_tensors(stage, 1, 7, NULL), ESP_OK);
    assert_int_equal(store_stage_commit(stage, NULL, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "bytes came; send all of them"));
    assert_int_equal(store_stage_commit(stage, NULL, &err), ESP_PRECONDITION);
    store_stage_close(stage);
    stage = begin(store, "a", NULL);
    assert_int_equal(send_config(stage, NULL), ESP_OK);
    assert_int_equal(store_stage_commit(stage, NULL, &err), ESP_INVALID);
    store_stage_close(stage);
    store_stage_close(begin(store, "a", NULL)); /* nothing came at all */
    assert_int_equal(lab_count("stage"), 0);
    assert_int_equal(lab_count("names"), 0);
    store_close(store);
    lab_check();
}

static void an_upload_that_breaks_its_word_can_only_be_closed(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    esp_error err = {0};
    store_stage *stage = begin(store, "a", NULL);
    assert_int_equal(store_stage_write(stage, "x", 1, &err), ESP_INVALID); /* of no file */
    assert_int_equal(send_config(stage, &err), ESP_PRECONDITION);
    store_stage_close(stage);
    stage = begin(store, "a", NULL);
    assert_int_equal(store_stage_file(stage, ADAPTER_CONFIG_FILE, 2, &err), ESP_OK);
    assert_int_equal(store_stage_write(stage, "{} ", 3, &err), ESP_INVALID);
    assert_int_equal(store_stage_commit(stage, NULL, &err), ESP_PRECONDITION);
    store_stage_close(stage);
    static const char *const names[] = {"config.yaml",       "../names/a.json",
                                        "manifest.json",     "",
                                        "adapter_model.bin", "adapter_config.json/x"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        stage = begin(store, "a", NULL);
        assert_int_equal(store_stage_file(stage, names[i], 2, &err), ESP_INVALID);
        store_stage_close(stage);
    }
    store_close(store);
    lab_check();
}

static void a_declared_digest_must_be_one(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    store_stage *stage;
    static const char *const wrong[] = {"", "sha256:", "sha256:0123456789ab", "xxh3-128:00"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        store_import_options options = {.name = "a", .digest = wrong[i]};
        assert_int_equal(store_stage_begin(store, &options, &stage, NULL), ESP_INVALID);
        assert_null(stage);
    }
    store_close(store);
}

static esp_code refuse(void *arg, const char *path, esp_error *err) {
    *(int *)arg += access(path, R_OK) == 0;
    return esp_fail(err, ESP_INVALID, "made for another base");
}

static void what_the_check_refuses_is_not_imported(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    (void)lab_import(store, "a", 1);
    int seen = 0;
    esp_error err = {0};
    store_import_options options = {.name = "a", .check = refuse, .check_arg = &seen};
    assert_int_equal(store_import(store, lab_source(2), &options, NULL, &err), ESP_INVALID);
    assert_string_equal(err.message, "made for another base");
    assert_int_equal(seen, 1);
    assert_int_equal(lab_resolve(store, "a").version, 1);
    assert_int_equal(lab_count("blobs/sha256"), 1);
    store_close(store);
    lab_check();
}

/* ---- limits ---- */

static void a_full_store_refuses_and_keeps_what_it_has(void **state) {
    (void)state;
    size_t one;
    free(adapter_folder_tensors(1, &one));
    adapter_store *store = lab_store(&(store_options){.bytes_max = 4 * one});
    esp_error err = {0};
    uint32_t imported = 0;
    while (imported < 10 && lab_try_import(store, "a", imported + 1, NULL, &err) == ESP_OK)
        imported++;
    assert_in_range(imported, 1, 3);
    assert_int_equal(err.code, ESP_EXHAUSTED);
    assert_non_null(strstr(err.message, "the adapter store is full"));
    assert_int_equal(lab_resolve(store, "a").version, imported);
    assert_int_equal(lab_count("stage"), 0);
    assert_int_equal(store_remove(store, "a", NULL, NULL), ESP_OK);
    (void)lab_import(store, "a", 9);
    store_close(store);
    lab_check();
}

static void an_adapter_above_its_limit_is_refused_before_a_byte_comes(void **state) {
    (void)state;
    adapter_store *store = lab_store(&(store_options){.adapter_bytes_max = 1000});
    store_stage *stage = begin(store, "a", NULL);
    esp_error err = {0};
    assert_int_equal(store_stage_file(stage, ADAPTER_TENSORS_FILE, 1001, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "wanted 1 to 1000"));
    store_stage_close(stage);
    stage = begin(store, "a", NULL);
    assert_int_equal(store_stage_file(stage, ADAPTER_CONFIG_FILE, UINT64_MAX, &err), ESP_INVALID);
    store_stage_close(stage);
    stage = begin(store, "a", NULL);
    assert_int_equal(store_stage_file(stage, ADAPTER_CONFIG_FILE, 0, &err), ESP_INVALID);
    store_stage_close(stage);
    store_close(store);
    store = lab_store(NULL); /* more than any disk of a test machine has */
    stage = begin(store, "a", NULL);
    esp_code code = store_stage_file(stage, ADAPTER_TENSORS_FILE, STORE_ADAPTER_BYTES_MAX, &err);
    assert_true(code == ESP_OK || code == ESP_EXHAUSTED);
    store_stage_close(stage);
    store_close(store);
}

/* ---- holding ---- */

/* The server loads from a blob while the operator removes its name. */
static void a_held_adapter_stays_until_it_is_let_go(void **state) {
    (void)state;
    adapter_store *server = lab_store(NULL), *operator= lab_store(NULL);
    store_ref ref = lab_import(server, "a", 1);
    assert_int_equal(store_hold(server, ref.digest, NULL), ESP_OK);
    assert_int_equal(store_hold(server, ref.digest, NULL), ESP_OK);
    assert_int_equal(store_remove(operator, "a", NULL, NULL), ESP_OK);
    store_let_go(server, ref.digest);
    store_close(lab_store(NULL)); /* clears away what is not held */
    assert_int_equal(access(ref.path, R_OK), 0);
    assert_int_equal(lab_count("unsure"), 1);
    assert_int_equal(store_verify(server, ref.digest, NULL), ESP_OK);
    store_let_go(server, ref.digest);
    lab_check();
    assert_int_equal(access(ref.path, F_OK), -1);
    esp_error err = {0};
    assert_int_equal(store_hold(server, ref.digest, &err), ESP_NOT_FOUND);
    assert_int_equal(store_hold(server, "sha256:1", &err), ESP_INVALID);
    store_close(server);
    store_close(operator);
}

static void an_adapter_that_comes_back_while_held_is_the_same_files(void **state) {
    (void)state;
    adapter_store *store = lab_store(NULL);
    store_ref ref = lab_import(store, "a", 1);
    assert_int_equal(store_hold(store, ref.digest, NULL), ESP_OK);
    assert_int_equal(store_remove(store, "a", NULL, NULL), ESP_OK);
    assert_string_equal(lab_import(store, "b", 1).path, ref.path);
    store_let_go(store, ref.digest);
    store_close(store);
    lab_check();
    store = lab_store(NULL);
    (void)lab_resolve(store, "b");
    store_close(store);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, lab_open, lab_close)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(an_imported_adapter_is_found_by_name_version_and_digest),
        TEST(the_digest_is_what_sha256sum_prints),
        TEST(files_of_added_tokens_belong_to_the_adapter_that_brings_their_rows),
        TEST(each_import_is_a_version_and_the_alias_follows_unless_kept),
        TEST(content_that_is_there_is_neither_a_version_nor_a_copy),
        TEST(a_removed_version_goes_and_its_number_does_not_come_back),
        TEST(the_last_version_takes_its_name_along),
        TEST(files_go_with_the_last_name_that_has_them),
        TEST(names_are_refused_with_what_is_wanted),
        TEST(a_name_of_128_bytes_is_imported_and_listed),
        TEST(references_are_refused_with_what_is_wanted),
        TEST(the_manifest_says_what_was_imported),
        TEST(changed_files_are_found_and_mended_by_importing_again),
        TEST(an_upload_with_the_declared_digest_is_imported),
        TEST(an_upload_of_other_content_than_declared_is_refused),
        TEST(half_an_upload_is_refused),
        TEST(an_upload_that_breaks_its_word_can_only_be_closed),
        TEST(a_declared_digest_must_be_one),
        TEST(what_the_check_refuses_is_not_imported),
        TEST(a_full_store_refuses_and_keeps_what_it_has),
        TEST(an_adapter_above_its_limit_is_refused_before_a_byte_comes),
        TEST(a_held_adapter_stays_until_it_is_let_go),
        TEST(an_adapter_that_comes_back_while_held_is_the_same_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
