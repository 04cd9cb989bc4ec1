/* test_stored_words.c - adapters of a store whose tokens are asked for before anything else of them: no tensor is read
 * for that, what is broken is found once, and nobody is served with tokens that are not those of the adapter that is
 * computed with. */
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/adapters/adapters_inner.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/replicas.h"
#include "engine/serve/generate_input.h"
#include "tests/unit/tiny_adapters.h"

enum { PLAIN, NARROW, WIDE, ADAPTERS, VOCAB = TINY_TOKENS, OUTPUT = 4 };

static const tiny_llama_options MODEL = {.layers = 2,
                                         .hidden = 64,
                                         .heads = 4,
                                         .kv_heads = 2,
                                         .head_dim = 16,
                                         .intermediate = 96,
                                         .vocab = VOCAB,
                                         .context = 256,
                                         .dtype = DT_Q8_0,
                                         .seed = 11,
                                         .tied = true};
static const uint32_t ADDED[ADAPTERS] = {0, 1, 5};
static const char *const NAMES[ADAPTERS] = {"plain", "narrow", "wide"};
static const char TENSORS[] = "adapter_model.safetensors", TOKENS[] = "tokenizer.json";

static char model_path[] = "/tmp/espalier-stored-XXXXXX";
static tiny_adapters sources;

static int make_files(void **state) {
    (void)state;
    log_set_level(LOG_OFF);
    tiny_write(model_path, &MODEL);
    for (uint32_t i = 0; i < ADAPTERS; i++)
        tiny_adapters_add(&sources, &(tiny_adapter_options){.base = &MODEL,
                                                            .rank = 4,
                                                            .targets = TA_Q,
                                                            .wholes = i != PLAIN,
                                                            .added = ADDED[i],
                                                            .seed = 70 + i});
    return 0;
}

static int drop_files(void **state) {
    (void)state;
    tiny_adapters_remove(&sources);
    return unlink(model_path);
}

/* ---- a store, and one engine or two over it ---- */

typedef struct stored_lab {
    char root[64];
    store_ref refs[ADAPTERS]; /* where each lies */
    replicas *many;           /* two engines, of which the first takes no requests; NULL: one */
    engine *e;                /* the one or the first */
    adapters *all;            /* its own */
} stored_lab;

static void import(stored_lab *l, const char *name, int which) {
    adapter_store *store;
    store_options options = {.root = l->root, .create = true};
    assert_int_equal(store_open(&store, &options, NULL), ESP_OK);
    assert_int_equal(store_import(store, sources.folders[which],
                                  &(store_import_options){.name = name}, &l->refs[which], NULL),
                     ESP_OK);
    store_close(store);
}

static stored_lab *make_store(void) {
    stored_lab *l = mem_new(1, sizeof *l);
    snprintf(l->root, sizeof l->root, "/tmp/espalier-stored-root-XXXXXX");
    assert_non_null(mkdtemp(l->root));
    for (int i = 0; i < ADAPTERS; i++)
        import(l, NAMES[i], i);
    return l;
}

static int open_one(void **state) {
    stored_lab *l = *state = make_store();
    l->e = tiny_open(model_path, (model_config){.device = DEVICE_REF, .adapter_store = l->root});
    l->all = engine_adapters(l->e);
    return 0;
}

static int open_two(void **state) {
    stored_lab *l = *state = make_store();
    model_config config = {
        .model_path = model_path, .device = DEVICE_REF, .threads = 2, .adapter_store = l->root};
    assert_int_equal(replicas_open(&l->many, &config, 2, NULL, NULL, NULL), ESP_OK);
    replicas_set_stuck(l->many, 0, true);
    l->e = replicas_engine(l->many, 0);
    l->all = engine_adapters(l->e);
    return 0;
}

static int close_lab(void **state) {
    stored_lab *l = *state;
    char command[128];
    if (l->many)
        replicas_close(l->many);
    else
        engine_close(l->e);
    snprintf(command, sizeof command, "rm -r %s", l->root);
    free(l);
    return system(command);
}

/* ---- what happens to files: done twice, they are as they were ---- */

/* Another bit in the byte that lies so far from the file's end, or, below 0, behind its begin. */
static void turn_bit(const stored_lab *l, int which, const char *name, long from_end) {
    char path[PATH_MAX + 64];
    uint8_t byte;
    snprintf(path, sizeof path, "%s/%s", l->refs[which].path, name);
    struct stat old;
    assert_int_equal(stat(path, &old), 0);
    assert_int_equal(chmod(path, 0600), 0);
    int fd = open(path, O_RDWR);
    off_t at = from_end > 0 ? old.st_size - from_end : -from_end;
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
    assert_int_equal(chmod(path, old.st_mode & 0777), 0);
}

/* The last digit of the first token's text, "<|w292|>" then "<|w293|>". */
static void turn_token(const stored_lab *l, int which) {
    static const char before[] = "{\"added_tokens\":[{\"id\":292,\"content\":\"<|w29";
    turn_bit(l, which, TOKENS, -(long)(sizeof before - 1));
}

/* The quote of its first key: no JSON. */
static void turn_quote(const stored_lab *l, int which, const char *name) {
    turn_bit(l, which, name, -1);
}

/* A tokenizer's files of narrow, out of sight and back. */
static void hide_tokens(const stored_lab *l, bool hide) {
    const char *const files[] = {TOKENS, "tokenizer_config.json"};
    for (size_t i = 0; i < 2; i++) {
        char seen[PATH_MAX + 64], hidden[PATH_MAX + 64];
        snprintf(seen, sizeof seen, "%s/%s", l->refs[NARROW].path, files[i]);
        snprintf(hidden, sizeof hidden, "%s/%zu", l->refs[NARROW].path, i);
        assert_int_equal(hide ? rename(seen, hidden) : rename(hidden, seen), 0);
    }
}

/* ---- adapters ---- */

static adapter *find(stored_lab *l, const char *name) {
    adapter *ad = NULL;
    esp_error err = {0};
    if (adapters_find(l->all, name, &ad, &err) != ESP_OK) fail_msg("%s: %s", name, err.message);
    return ad;
}

/* As who cuts a text for it does. */
static adapter *find_with_tokens(stored_lab *l, const char *name) {
    adapter *ad = find(l, name);
    assert_int_equal(adapters_read_tokens(l->all, ad, NULL), ESP_OK);
    return ad;
}

static adapter_state state_of(stored_lab *l, const adapter *ad) {
    adapter_info info;
    adapter_read_info(l->all, ad, &info);
    return info.state;
}

static void assert_broken(stored_lab *l, const char *name, esp_code code) {
    adapter *ad;
    assert_int_equal(adapters_find(l->all, name, &ad, NULL), code);
}

/* As if it had been broken for long. */
static void age(adapters *all, const char *name) {
    adapter *ad;
    assert_int_equal(adapters_find_anyhow(all, name, &ad, NULL), ESP_OK);
    assert_true(adapter_is_broken(ad));
    ad->broken_us -= BROKEN_FOR_US + 1;
    adapter_release(all, ad);
}

static void assert_says(const esp_error *err, const char *words) {
    if (!strstr(err->message, words)) fail_msg("wanted \"%s\": %s", words, err->message);
}

/* ---- requests ---- */

/* The reference is the request's. */
static request *make_request(stored_lab *l, adapter *ad) {
    uint32_t vocab = engine_vocab(l->e, ad);
    int32_t prompt[] = {'a', 'b', (int32_t)vocab - 1, 'c'};
    request_options o = {.prompt = prompt,
                         .prompt_count = 4,
                         .output_max = OUTPUT,
                         .ignore_eos = true,
                         .row_digests = true,
                         .adapters = l->all,
                         .adapter = ad};
    request *r = NULL;
    esp_error err = {0};
    if (request_new(&r, &o, vocab, &err) != ESP_OK) fail_msg("%s", err.message);
    return r;
}

static void assert_fails(stored_lab *l, request *r, const char *words) {
    tiny_run(l->e, r);
    assert_int_equal(r->finish, FINISH_ERROR);
    assert_int_equal(r->error.code, ESP_DATA_LOSS);
    assert_says(&r->error, words);
    request_unref(r);
}

static void assert_answers(stored_lab *l, const char *name) {
    tiny_answer answer;
    request *r = make_request(l, name ? find_with_tokens(l, name) : NULL);
    tiny_run(l->e, r);
    tiny_keep(r, &answer);
}

/* ---- reading ---- */

static void tokens_are_known_before_tensors_are_read(void **state) {
    stored_lab *l = *state;
    for (int i = 0; i < ADAPTERS; i++) {
        adapter *ad = find(l, NAMES[i]);
        assert_null(adapter_tokenizer(ad));
        assert_int_equal(adapters_read_tokens(l->all, ad, NULL), ESP_OK);
        assert_int_equal(engine_vocab(l->e, ad), VOCAB + ADDED[i]);
        assert_int_equal(tok_count(engine_tokenizer_of(l->e, ad)), VOCAB + ADDED[i]);
        assert_int_equal(adapter_has_words(ad), i != PLAIN); /* nobody reads it for nothing */
        assert_int_equal(state_of(l, ad), ADAPTER_LISTED);
        adapter_release(l->all, ad);
        assert_answers(l, NAMES[i]);
    }
}

/* A load gives the same words; those that were given out stay where they are. */
static void a_load_keeps_the_words_that_were_read(void **state) {
    stored_lab *l = *state;
    adapter *ad = find_with_tokens(l, "wide");
    const tokenizer *tok = adapter_tokenizer(ad);
    assert_int_equal(adapters_load_stored(l->all, "wide", NULL, NULL), ESP_OK);
    assert_int_equal(state_of(l, ad), ADAPTER_READY);
    assert_ptr_equal(adapter_tokenizer(ad), tok);
    assert_int_equal(adapter_vocab(ad), VOCAB + 5);
    adapter_release(l->all, ad);
    assert_answers(l, "wide");
}

/* ---- what is not what it should be ---- */

/* The thread that takes requests does not look at the numbers; the load does, and the request ends with what it
 * finds. */
static void damaged_tensors_fail_the_request_and_nobody_else(void **state) {
    stored_lab *l = *state;
    turn_bit(l, WIDE, TENSORS, 1);
    adapter *ad = find_with_tokens(l, "wide");
    assert_int_equal(adapter_vocab(ad), VOCAB + 5);
    assert_fails(l, make_request(l, ad), "files in the store are not what their digest says");
    assert_answers(l, "narrow");
    assert_answers(l, "plain");
    assert_answers(l, NULL);
    turn_bit(l, WIDE, TENSORS, 1);
    assert_broken(l, "wide", ESP_DATA_LOSS);
    age(l->all, "wide");
    assert_answers(l, "wide");
}

/* What serving asks before it makes a text ids: of so many tokens. */
static esp_code ask_words(stored_lab *l, const char *name, uint32_t *vocab, esp_error *err) {
    served_model served = {.name = "base", .adapters = l->all, .vocab = VOCAB};
    adapter *ad = NULL;
    esp_code code = find_model(&served, name, &ad, err);
    if (code == ESP_OK) code = find_words(&served, ad, err);
    *vocab = served.vocab;
    adapter_release(l->all, ad);
    return code;
}

static void assert_vocab(stored_lab *l, const char *name, uint32_t wanted) {
    uint32_t vocab;
    assert_int_equal(ask_words(l, name, &vocab, NULL), ESP_OK);
    assert_int_equal(vocab, wanted);
}

static void assert_wide_is_no_json(stored_lab *l) {
    uint32_t vocab;
    esp_error err = {0};
    assert_int_equal(ask_words(l, "wide", &vocab, &err), ESP_PRECONDITION);
    assert_string_equal(err.field, "model");
    assert_says(&err, "wide@1: tokenizer.json: the file is not a valid JSON");
}

static void words_that_cannot_be_read_are_not_read_again_for_a_while(void **state) {
    stored_lab *l = *state;
    adapters_stats stats;
    turn_quote(l, WIDE, TOKENS);
    assert_wide_is_no_json(l);
    turn_quote(l, WIDE, TOKENS); /* good again, and nobody looks */
    assert_wide_is_no_json(l);
    adapters_read_stats(l->all, &stats);
    assert_int_equal(stats.failures, 1);
    assert_vocab(l, "narrow", VOCAB + 1);
    age(l->all, "wide");
    assert_vocab(l, "wide", VOCAB + 5);
    assert_answers(l, "wide");
}

/* Who held it before knows as much. */
static void a_reference_to_a_broken_one_is_told_why(void **state) {
    stored_lab *l = *state;
    esp_error err = {0};
    adapter *ad = find(l, "wide");
    turn_quote(l, WIDE, TOKENS);
    assert_int_equal(adapters_read_tokens(l->all, ad, NULL), ESP_PRECONDITION);
    turn_quote(l, WIDE, TOKENS);
    assert_int_equal(adapters_read_tokens(l->all, ad, &err), ESP_PRECONDITION);
    assert_says(&err, "tokenizer.json");
    adapter_release(l->all, ad);
}

/* The operator who mended it need not wait. */
static void a_load_tries_a_broken_one_again_at_once(void **state) {
    stored_lab *l = *state;
    turn_quote(l, WIDE, TOKENS);
    assert_wide_is_no_json(l);
    turn_quote(l, WIDE, TOKENS);
    assert_int_equal(adapters_load_stored(l->all, "wide", NULL, NULL), ESP_OK);
    assert_answers(l, "wide");
}

/* The files that are opened twice, to be hashed and to be read, are the same both times, or it is said. */
static void files_that_are_replaced_while_they_are_read_are_noticed(void **state) {
    stored_lab *l = *state;
    lora_file *file = NULL;
    esp_error err = {0};
    const char *path = l->refs[NARROW].path;
    assert_int_equal(lora_file_open_outline(&file, path, NULL, NULL), ESP_OK);
    assert_int_equal(lora_file_check_outline(file, path, NULL), ESP_OK);
    turn_token(l, NARROW);
    assert_int_equal(lora_file_check_outline(file, path, &err), ESP_DATA_LOSS);
    assert_says(&err, "files were replaced while they were read");
    turn_token(l, NARROW);
    assert_int_equal(lora_file_check_outline(file, path, NULL), ESP_OK);
    lora_file_close(file);
}

/* Its text was cut by the base's tokens, for it seemed to have none of its own. */
static void tokens_that_appear_behind_a_text_serve_nobody(void **state) {
    stored_lab *l = *state;
    hide_tokens(l, true);
    adapter *ad = find_with_tokens(l, "narrow");
    assert_false(adapter_has_words(ad));
    request *r = make_request(l, ad);
    hide_tokens(l, false);
    assert_fails(l, r, "not what they were when its tokens were read");
    age(l->all, "narrow");
    assert_vocab(l, "narrow", VOCAB + 1);
    assert_answers(l, "narrow");
}

/* A file that is there and cannot be looked at is not one that is missing. */
static void what_cannot_be_looked_at_is_not_taken_for_missing(void **state) {
    stored_lab *l = *state;
    char path[PATH_MAX + 64];
    hide_tokens(l, true);
    snprintf(path, sizeof path, "%s/%s", l->refs[NARROW].path, TOKENS);
    assert_int_equal(symlink(TOKENS, path), 0); /* to itself */
    adapter *ad = find(l, "narrow");
    assert_int_not_equal(adapters_read_tokens(l->all, ad, NULL), ESP_OK);
    adapter_release(l->all, ad);
}

/* Both are sound files, but the text was cut by the one and the adapter is the other. */
static void words_of_other_content_are_served_to_nobody(void **state) {
    stored_lab *l = *state;
    turn_token(l, NARROW);
    adapter *ad = find_with_tokens(l, "narrow");
    assert_int_equal(tok_find(adapter_tokenizer(ad), "<|w293|>"), VOCAB);
    request *r = make_request(l, ad);
    turn_token(l, NARROW);
    assert_fails(l, r, "not what they were when its tokens were read");
    assert_broken(l, "narrow", ESP_DATA_LOSS);
    age(l->all, "narrow");
    ad = find_with_tokens(l, "narrow");
    assert_int_equal(tok_find(adapter_tokenizer(ad), "<|w292|>"), VOCAB);
    adapter_release(l->all, ad);
    assert_answers(l, "narrow");
}

/* The same where the operator loads it: the load fails, and the next one begins again. */
static void a_load_does_not_take_words_of_other_content(void **state) {
    stored_lab *l = *state;
    esp_error err = {0};
    turn_token(l, NARROW);
    adapter *ad = find_with_tokens(l, "narrow");
    turn_token(l, NARROW);
    assert_int_equal(adapters_load_stored(l->all, "narrow", NULL, &err), ESP_DATA_LOSS);
    assert_says(&err, "narrow@1: its files are not what they were when");
    assert_fails(l, make_request(l, ad), "when its tokens were read");
    assert_int_equal(adapters_load_stored(l->all, "narrow", NULL, NULL), ESP_OK);
    assert_answers(l, "narrow");
}

/* ---- of two engines ---- */

static engine *second(const stored_lab *l) { return replicas_engine(l->many, 1); }

/* By the second engine, whose adapter it is then. */
static void serve_there(stored_lab *l, request *r) {
    esp_error err = {0};
    if (replicas_submit(l->many, r, &err) != ESP_OK) fail_msg("%s", err.message);
    assert_ptr_equal(r->adapters, engine_adapters(second(l)));
    tiny_finish(second(l), r);
}

static void assert_narrow_is_replaced(stored_lab *l, request *r) {
    esp_error err = {0};
    assert_int_equal(replicas_submit(l->many, r, &err), ESP_ABORTED);
    assert_says(&err, "adapter narrow was replaced; try again");
    request_unref(r);
}

/* The second replica's thread never saw the file that the text was cut by. What no load has confirmed is then read anew
 * by both. */
static void words_of_two_replicas_are_the_same_or_nobody_is_served(void **state) {
    stored_lab *l = *state;
    turn_token(l, NARROW);
    request *r = make_request(l, find_with_tokens(l, "narrow"));
    turn_token(l, NARROW);
    assert_narrow_is_replaced(l, r);
    age(l->all, "narrow");
    age(engine_adapters(second(l)), "narrow");
    r = make_request(l, find_with_tokens(l, "narrow"));
    serve_there(l, r);
    assert_int_equal(r->finish, FINISH_LENGTH);
    request_unref(r);
}

/* What is wrong with its files there the load finds, whom no other request waits for. */
static void of_one_without_tokens_nothing_is_read_to_submit_it(void **state) {
    stored_lab *l = *state;
    assert_int_equal(adapters_load_stored(l->all, "plain", NULL, NULL), ESP_OK);
    adapter *ad = find(l, "plain");
    assert_true(adapter_has_words(ad));
    request *r = make_request(l, ad);
    turn_quote(l, PLAIN, "adapter_config.json");
    serve_there(l, r);
    assert_int_equal(r->finish, FINISH_ERROR);
    assert_says(&r->error, "adapter_config.json");
    request_unref(r);
}

/* The second replica sees files of tokens that the first did not when the text was cut. */
static void tokens_that_one_replica_sees_are_not_served_by_it(void **state) {
    stored_lab *l = *state;
    hide_tokens(l, true);
    request *r = make_request(l, find_with_tokens(l, "narrow"));
    hide_tokens(l, false);
    assert_narrow_is_replaced(l, r);
}

/* ---- names ---- */

/* The second replica is asked for the content, not for what the name means by then. */
static void a_replica_serves_the_version_that_was_found(void **state) {
    stored_lab *l = *state;
    import(l, "both", WIDE);
    request *r = make_request(l, find_with_tokens(l, "both"));
    import(l, "both", NARROW);
    serve_there(l, r);
    assert_int_equal(r->finish, FINISH_LENGTH);
    request_unref(r);
}

static void assert_is(const request *r, const stored_lab *l, int which) {
    assert_int_equal(tok_count(r->tok), VOCAB + ADDED[which]);
    assert_string_equal(r->by.digest, l->refs[which].digest);
}

/* A request stays with the version whose tokens its text was cut by. */
static void an_alias_may_move_between_words_and_load(void **state) {
    stored_lab *l = *state;
    import(l, "both", WIDE);
    import(l, "both", NARROW);
    adapter *later = find_with_tokens(l, "both");
    assert_int_equal(adapters_set_alias(l->all, "both", 1, NULL), ESP_OK);
    adapter *first = find_with_tokens(l, "both");
    assert_int_equal(adapter_version(first), 1);
    assert_int_equal(adapter_vocab(first), VOCAB + 5);
    assert_int_equal(adapter_vocab(later), VOCAB + 1);
    request *r = make_request(l, later), *s = make_request(l, first);
    tiny_submit(l->e, r);
    tiny_run(l->e, s);
    tiny_wait(l->e, r);
    assert_is(r, l, NARROW);
    assert_is(s, l, WIDE);
    tiny_answer narrow, wide;
    tiny_keep(r, &narrow);
    tiny_keep(s, &wide);
    assert_memory_not_equal(narrow.rows, wide.rows, sizeof wide.rows);
}

#define OF_ONE(story) cmocka_unit_test_setup_teardown(story, open_one, close_lab)
#define OF_TWO(story) cmocka_unit_test_setup_teardown(story, open_two, close_lab)

int main(void) {
    const struct CMUnitTest tests[] = {
        OF_ONE(tokens_are_known_before_tensors_are_read),
        OF_ONE(a_load_keeps_the_words_that_were_read),
        OF_ONE(damaged_tensors_fail_the_request_and_nobody_else),
        OF_ONE(words_that_cannot_be_read_are_not_read_again_for_a_while),
        OF_ONE(a_reference_to_a_broken_one_is_told_why),
        OF_ONE(a_load_tries_a_broken_one_again_at_once),
        OF_ONE(files_that_are_replaced_while_they_are_read_are_noticed),
        OF_ONE(tokens_that_appear_behind_a_text_serve_nobody),
        OF_ONE(what_cannot_be_looked_at_is_not_taken_for_missing),
        OF_ONE(words_of_other_content_are_served_to_nobody),
        OF_ONE(a_load_does_not_take_words_of_other_content),
        OF_TWO(words_of_two_replicas_are_the_same_or_nobody_is_served),
        OF_TWO(of_one_without_tokens_nothing_is_read_to_submit_it),
        OF_TWO(tokens_that_one_replica_sees_are_not_served_by_it),
        OF_TWO(a_replica_serves_the_version_that_was_found),
        OF_ONE(an_alias_may_move_between_words_and_load),
    };
    return cmocka_run_group_tests(tests, make_files, drop_files);
}
