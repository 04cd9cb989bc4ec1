/* test_lora_merge.c - merged checkpoints: their logits against those of base and adapter (peft's, of
 * tests/vectors/lora), what is refused, and what a failure leaves behind. */
// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/model/lora/lora_merge.h"
#include "tests/unit/lora_cases.h"

/* What rounding the weights to bfloat16 costs these models; without the adapter it is ten times that. */
static const double TOLERANCE = 0.03;
enum { CASES_MIN = 40, REFUSED = 2 };

static char room[64]; /* a folder for the merged ones */

static int make_room(void **state) {
    (void)state;
    strcpy(room, "/tmp/espalier-merge-XXXXXX");
    return mkdtemp(room) ? 0 : -1;
}

static void remove_folder(const char *path) {
    char file[600];
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.') unlink(file);
    }
    if (dir) closedir(dir);
    rmdir(path);
}

static uint32_t count_entries(const char *path) {
    uint32_t count = 0;
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(dir);
    return count;
}

static int remove_room(void **state) {
    (void)state;
    return rmdir(room);
}

static esp_code merge(const char *base, const char *adapter, const char *out, bool *reads_text,
                      esp_error *err) {
    model_file *file = NULL;
    lora_file *lora = NULL;
    esp_code code = model_file_open(&file, base, err);
    if (!code) code = lora_file_open(&lora, adapter, model_file_weights(file), err);
    const lora_merge_options options = {.base_path = base, .adapter_path = adapter, .out = out};
    if (!code) code = lora_merge(file, lora, &options, reads_text, err);
    lora_file_close(lora);
    model_file_close(file);
    return code;
}

/* ---- logits ---- */

typedef struct judgement {
    uint32_t wrong, refused;
} judgement;

static void judge(const lora_case *c, const char *base_name, void *arg) {
    judgement *j = arg;
    char base[1024], adapter[1024], out[128];
    bool reads_text;
    esp_error err = {0};
    lora_case_path(base, "families", base_name);
    lora_case_path(adapter, "lora", c->name);
    snprintf(out, sizeof out, "%s/merged/", room);
    esp_code code = merge(base, adapter, out, &reads_text, &err);
    if (code == ESP_UNIMPLEMENTED) {
        assert_string_equal(c->name, "llama-second-bias"); /* no place in a llama folder */
        assert_int_equal(count_entries(room), 0);
        j->refused++;
        return;
    }
    if (code) fail_msg("%s on %s: %s", c->name, base_name, err.message);
    assert_int_equal(count_entries(room), 1);
    lora_rig r = rig_open(&kern_ref, out, NULL);
    lora_distance d = lora_case_judge(c, &r);
    rig_close(&r);
    remove_folder(out);
    if (d.relative_rms <= TOLERANCE) return;
    j->wrong++;
    print_error("%s on %s: %.2e of the range, rms %.2e\n", c->name, base_name, d.part_of_range,
                d.relative_rms);
}

/* Every family and feature; the norms and permuted rows of GGUF bases go back to what folders have. */
static void a_merged_model_gives_the_logits_of_base_and_adapter(void **state) {
    (void)state;
    judgement j = {0};
    assert_true(lora_case_each(judge, &j) >= CASES_MIN);
    assert_int_equal(j.wrong, 0);
    assert_int_equal(j.refused, REFUSED);
}

/* ---- the folder ---- */

static void added_tokens_make_a_larger_vocabulary(void **state) {
    (void)state;
    char base[1024], adapter[1024], out[128];
    bool reads_text;
    esp_error err = {0};
    model_file *file;
    lora_case_path(base, "families", "llama3");
    lora_case_path(adapter, "lora", "llama-added");
    snprintf(out, sizeof out, "%s/added", room);
    if (merge(base, adapter, out, &reads_text, &err)) fail_msg("%s", err.message);
    assert_int_equal(model_file_open(&file, out, &err), ESP_OK);
    assert_int_equal(model_file_spec(file)->vocab, 306);
    assert_false(model_file_spec(file)->tied_embeddings);
    model_file_close(file);
    remove_folder(out);
}

static void copy_file(const char *from, const char *to) {
    char line[4096];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    assert_true(in && out);
    for (size_t count; (count = fread(line, 1, sizeof line, in));)
        assert_int_equal(fwrite(line, 1, count, out), count);
    fclose(in);
    assert_int_equal(fclose(out), 0);
}

/* A base with its tokenizer beside it gives a folder that reads text, unless there are more tokens. */
static void the_tokenizer_comes_along(void **state) {
    (void)state;
    static const char *const files[][2] = {{"families/llama3", "config.json"},
                                           {"families/llama3", "model.safetensors"},
                                           {"families/tokenizer", "tokenizer.json"},
                                           {"families/tokenizer", "tokenizer_config.json"}};
    char from[1024], base[128], out[128], to[300], adapter[1024];
    bool reads_text;
    esp_error err = {0};
    model_file *file;
    tokenizer *tok;
    snprintf(base, sizeof base, "%s/base", room);
    snprintf(out, sizeof out, "%s/out", room);
    assert_int_equal(mkdir(base, 0700), 0);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        lora_case_path(from, files[i][0], files[i][1]);
        snprintf(to, sizeof to, "%s/%s", base, files[i][1]);
        copy_file(from, to);
    }
    lora_case_path(adapter, "lora", "llama-all");
    if (merge(base, adapter, out, &reads_text, &err)) fail_msg("%s", err.message);
    assert_true(reads_text);
    assert_int_equal(model_file_open(&file, out, &err), ESP_OK);
    assert_int_equal(model_file_tokenizer(file, &tok, &err), ESP_OK);
    tok_close(tok);
    model_file_close(file);
    remove_folder(out);
    /* the base's knows no added tokens */
    lora_case_path(adapter, "lora", "llama-added");
    if (merge(base, adapter, out, &reads_text, &err)) fail_msg("%s", err.message);
    assert_false(reads_text);
    remove_folder(out);
    remove_folder(base);
}

static void what_cannot_be_merged_leaves_nothing_behind(void **state) {
    (void)state;
    char base[1024], adapter[1024], out[160];
    bool reads_text;
    esp_error err = {0};
    lora_case_path(base, "families", "llama3");
    lora_case_path(adapter, "lora", "llama-score");
    snprintf(out, sizeof out, "%s/score", room);
    assert_int_equal(merge(base, adapter, out, &reads_text, &err), ESP_UNIMPLEMENTED);
    lora_case_path(adapter, "lora", "llama-all");
    snprintf(out, sizeof out, "%s/no/such/folder", room);
    assert_int_equal(merge(base, adapter, out, &reads_text, &err), ESP_INVALID);
    assert_string_equal(err.field, "--out");
    assert_int_equal(merge(base, adapter, room, &reads_text, &err), ESP_EXISTS);
    assert_int_equal(merge(base, adapter, "", &reads_text, &err), ESP_INVALID);
    assert_int_equal(count_entries(room), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_merged_model_gives_the_logits_of_base_and_adapter),
        cmocka_unit_test(added_tokens_make_a_larger_vocabulary),
        cmocka_unit_test(the_tokenizer_comes_along),
        cmocka_unit_test(what_cannot_be_merged_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, make_room, remove_room);
}
