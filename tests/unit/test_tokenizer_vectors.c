/* test_tokenizer_vectors.c - SmolLM2's ids equal the `tokenizers` library's on 2,000 mixed texts
 * and on texts of up to a megabyte (tests/vectors/make_tokenizer_vectors.py). Needs the model file.
 */
// SPDX-License-Identifier: Apache-2.0
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/text/template.h"
#include "tests/unit/model_tokenizer.h"
#include "tests/unit/vector_file.h"

static tokenizer *smollm2;
static char *chat;
static size_t chat_bytes;

static void encode(tok_text text, bool special, tok_ids *ids) {
    tok_encode_options options = {.parse_special = special};
    assert_int_equal(tok_encode(smollm2, text.at, text.bytes, &options, ids, NULL), ESP_OK);
}

/* Every byte that has a token comes back; SmolLM2 lacks a few (make_tokenizer_vectors.py). */
static void check_round_trip(tok_text text, const tok_ids *ids) {
    char *back = malloc(text.bytes + 1), *wanted = malloc(text.bytes + 1);
    size_t back_bytes = 0, wanted_bytes = 0;
    for (uint32_t i = 0; i < ids->count; i++) {
        tok_text token = tok_bytes(smollm2, ids->at[i]);
        assert_true(back_bytes + token.bytes <= text.bytes);
        memcpy(back + back_bytes, token.at, token.bytes);
        back_bytes += token.bytes;
    }
    for (size_t i = 0; i < text.bytes; i++) {
        char byte[2] = {text.at[i], 0};
        if (byte[0] == 0 || tok_find(smollm2, byte) >= 0) wanted[wanted_bytes++] = byte[0];
    }
    assert_int_equal(back_bytes, wanted_bytes);
    assert_memory_equal(back, wanted, wanted_bytes);
    free(back);
    free(wanted);
}

static void check_text(const json_t *row) {
    tok_ids ids = {0};
    tok_text text = vector_text(row, "text");
    const json_t *wanted = json_object_get(row, "ids");
    encode(text, json_is_true(json_object_get(row, "special")), &ids);
    bool same = ids.count == json_array_size(wanted);
    for (uint32_t i = 0; same && i < ids.count; i++)
        same = ids.at[i] == json_integer_value(json_array_get(wanted, i));
    if (!same) fail_msg("ids differ: %s", json_dumps(row, JSON_ENSURE_ASCII));
    check_round_trip(text, &ids);
    tok_ids_free(&ids);
}

static void check_repeat(const json_t *row) {
    tok_ids ids = {0};
    tok_text unit = vector_text(row, "repeat");
    size_t count = (size_t)json_integer_value(json_object_get(row, "count"));
    char *text = malloc(unit.bytes * count);
    for (size_t i = 0; i < count; i++)
        memcpy(text + i * unit.bytes, unit.at, unit.bytes);
    encode((tok_text){text, unit.bytes * count}, json_is_true(json_object_get(row, "special")),
           &ids);
    uint64_t digest =
        fnv(FNV_START, ids.at, ids.count * sizeof *ids.at); /* little-endian machine */
    if (ids.count != json_integer_value(json_object_get(row, "id_count")) ||
        digest != vector_digest(row))
        fail_msg("ids differ: %s", json_dumps(row, JSON_ENSURE_ASCII));
    free(text);
    tok_ids_free(&ids);
}

static void ids_equal_the_reference(void **state) {
    (void)state;
    FILE *file = vector_open("smollm2_tokenizer.jsonl");
    assert_non_null(file);
    size_t texts = 0, repeats = 0;
    for (json_t *row; (row = vector_next(file)); json_decref(row)) {
        bool repeat = json_object_get(row, "repeat") != NULL;
        repeat ? check_repeat(row) : check_text(row);
        repeat ? repeats++ : texts++;
    }
    fclose(file);
    assert_true(texts >= 2000);
    assert_true(repeats >= 18);
}

/* One thread's view: a few texts, many times; all give what the first encoding gave. */
static void *encode_often(void *arg) {
    static const tok_text texts[] = {{"The harbour was quiet; it's 1,024 km away.", 42},
                                     {"\xe9\x9b\xa8\xe5\x81\x9c\xe4\xba\x86 abc\xff", 13}};
    bool *same = arg;
    *same = true;
    for (int round = 0; round < 200; round++) {
        for (int t = 0; t < 2; t++) {
            tok_ids ids = {0}, again = {0};
            tok_encode_options options = {.parse_special = true};
            esp_code code = tok_encode(smollm2, texts[t].at, texts[t].bytes, &options, &ids, NULL);
            if (!code)
                code = tok_encode(smollm2, texts[t].at, texts[t].bytes, &options, &again, NULL);
            if (code || ids.count != again.count ||
                memcmp(ids.at, again.at, ids.count * sizeof *ids.at) != 0)
                *same = false;
            tok_ids_free(&ids);
            tok_ids_free(&again);
        }
    }
    return NULL;
}

/* Four threads share one tokenizer (run under ThreadSanitizer too). */
static void threads_encode_at_once(void **state) {
    (void)state;
    pthread_t threads[4];
    bool same[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, &same[i]), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_true(same[i]);
    }
}

static void the_file_s_facts_are_there(void **state) {
    (void)state;
    assert_int_equal(tok_count(smollm2), 49152);
    assert_int_equal(tok_find(smollm2, "<|im_start|>"), 1);
    assert_int_equal(tok_find(smollm2, "<|im_end|>"), 2);
    assert_int_equal(tok_eos(smollm2), 2);
    assert_true(tok_ends_generation(smollm2, 2));
    assert_true(tok_is_control(smollm2, 1));
    assert_false(tok_is_control(smollm2, 17));
}

/* Control tokens of a prompt whose role and content are this text. */
static uint32_t control_tokens(const chat_template *t, tok_text text, bool spans) {
    chat_message message = {text, text};
    chat_prompt prompt;
    tok_ids ids = {0};
    uint32_t count = 0;
    assert_int_equal(template_render(t, &message, 1, true, &prompt, NULL), ESP_OK);
    tok_encode_options options = {.parse_special = true,
                                  .plain = spans ? prompt.plain : NULL,
                                  .plain_count = spans ? prompt.plain_count : 0};
    assert_int_equal(tok_encode(smollm2, prompt.text, prompt.bytes, &options, &ids, NULL), ESP_OK);
    for (uint32_t i = 0; i < ids.count; i++)
        count += tok_is_control(smollm2, ids.at[i]);
    tok_ids_free(&ids);
    chat_prompt_free(&prompt);
    return count;
}

/* Each special string of the model, put into role and content: the prompt has the five control
 * tokens of the file's template (system, end, role, end, assistant) and no other. Without spans it
 * has two more. */
static void clients_make_no_control_tokens(void **state) {
    (void)state;
    chat_template *t;
    esp_error err = {0};
    uint32_t tried = 0;
    if (template_open(&t, chat, chat_bytes, &err)) fail_msg("%s", err.message);
    for (int32_t id = 0; (uint32_t)id < tok_count(smollm2); id++) {
        if (!tok_is_control(smollm2, id)) continue;
        assert_int_equal(control_tokens(t, tok_bytes(smollm2, id), true), 5);
        assert_int_equal(control_tokens(t, tok_bytes(smollm2, id), false), 7);
        tried++;
    }
    assert_int_equal(tried, 17);
    template_close(t);
}

int main(void) {
    char path[1024];
    esp_error err = {0};
    if (!test_model_path(path)) {
        printf("skipped: not downloaded (%s)\n", path);
        return TEST_SKIPPED;
    }
    if (test_model_tokenizer(path, &smollm2, &chat, &chat_bytes, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_equal_the_reference),
        cmocka_unit_test(threads_encode_at_once),
        cmocka_unit_test(clients_make_no_control_tokens),
        cmocka_unit_test(the_file_s_facts_are_there),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tok_close(smollm2);
    free(chat);
    return failed;
}
