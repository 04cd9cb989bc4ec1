/* test_chat_source.c - which of a folder's files gives the chat template, as the reference picks. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/tokens/chat_source.h"

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

static chat_source config(const char *json) {
    chat_source source;
    esp_error err = {0};
    if (chat_source_read_config(&source, json, strlen(json), "tokenizer_config.json", &err))
        fail_msg("%s", err.message);
    return source;
}

static void check_config(const char *json, const char *text, const char *tool_use) {
    chat_source source = config(json);
    assert_int_equal(!source.text, !text);
    assert_int_equal(!source.tool_use, !tool_use);
    if (text) assert_string_equal(source.text, text);
    if (text) assert_int_equal(source.bytes, strlen(text));
    if (tool_use) assert_string_equal(source.tool_use, tool_use);
    if (tool_use) assert_int_equal(source.tool_use_bytes, strlen(tool_use));
    chat_source_free(&source);
}

static void a_config_says_it_as_text_or_by_names(void **state) {
    (void)state;
    check_config("{}", NULL, NULL);
    check_config("{\"chat_template\": null}", NULL, NULL);
    check_config("{\"chat_template\": \"x\","
                 " \"model_max_length\": 1000000000000000019884624838656}",
                 "x", NULL);
    check_config("{\"chat_template\": \"a\\u00e9\\n\"}", "a\xc3\xa9\n", NULL);
    check_config("{\"chat_template\": []}", NULL, NULL);
    check_config("{\"chat_template\": [{\"name\": \"rag\", \"template\": \"r\"},"
                 " {\"name\": \"tool_use\", \"template\": \"t\"},"
                 " {\"name\": \"default\", \"template\": \"d\", \"more\": 1}]}",
                 "d", "t");
    check_config("{\"chat_template\": [{\"name\": \"default\", \"template\": \"\"}]}", "", NULL);
    check_config("{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"t\"}]}", NULL,
                 NULL);
}

static void check_refused(const char *json, size_t bytes, const char *words) {
    chat_source source;
    esp_error err = {0};
    assert_int_equal(chat_source_read_config(&source, json, bytes, "tokenizer_config.json", &err),
                     ESP_INVALID);
    assert_null(source.text);
    if (!strstr(err.message, "tokenizer_config.json") || !strstr(err.message, words))
        fail_msg("%s", err.message);
}

static void a_config_that_is_wrong_is_refused_with_file_and_field(void **state) {
    (void)state;
    static const char *const bad[][2] = {
        {"", "not valid JSON"},
        {"[]", "wanted an object"},
        {"{\"chat_template\": 1}", "chat_template is neither"},
        {"{\"chat_template\": {\"default\": \"x\"}}", "chat_template is neither"},
        {"{\"chat_template\": [\"x\"]}", "chat_template[0]"},
        {"{\"chat_template\": [{\"name\": \"default\", \"template\": \"x\"}, {\"name\": 1}]}",
         "chat_template[1]"},
        {"{\"chat_template\": [{\"name\": \"default\"}]}", "chat_template[0]"},
        {"{\"chat_template\": [{\"name\": \"default\", \"template\": \"x\"},"
         " {\"name\": \"default\", \"template\": \"y\"}]}",
         "two templates are named \"default\""},
        {"{\"chat_template\": \"a\", \"chat_template\": \"b\"}", "duplicate"},
        {"{\"chat_template\": \"a\\u0000b\"}", "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        check_refused(bad[i][0], strlen(bad[i][0]), bad[i][1]);
}

static void absurd_configs_are_refused_within_bounds(void **state) {
    (void)state;
    enum { DEEP = 10000, LONG = CHAT_SOURCE_TEMPLATE_MAX + 1 };
    static char deep[DEEP], text[LONG + 32];
    memset(deep, '[', sizeof deep);
    check_refused(deep, sizeof deep, "depth");
    int used = snprintf(text, sizeof text, "{\"chat_template\": \"");
    memset(text + used, 'x', LONG);
    memcpy(text + used + LONG, "\"}", 2);
    check_refused(text, (size_t)used + LONG + 2, "262145 bytes");
    char many[65 * 40] = "{\"chat_template\": [", *at = many + strlen(many);
    for (int i = 0; i < 65; i++)
        at += sprintf(at, "%s{\"name\":\"%d\",\"template\":\"\"}", i ? "," : "", i);
    memcpy(at, "]}", 2);
    check_refused(many, (size_t)(at - many) + 2, "65 templates");
}

/* ---- folders ---- */

static char folder[64];

static void put(const char *name, const char *content) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fwrite(content, 1, strlen(content), file);
    fclose(file);
}

static void drop(const char *name) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(remove(path), 0);
}

static void check_folder(const char *text, const char *tool_use) {
    chat_source source;
    esp_error err = {0};
    if (chat_source_read_folder(&source, folder, &err)) fail_msg("%s", err.message);
    assert_int_equal(!source.text, !text);
    assert_int_equal(!source.tool_use, !tool_use);
    if (text) assert_string_equal(source.text, text);
    if (tool_use) assert_string_equal(source.tool_use, tool_use);
    chat_source_free(&source);
}

#define CONFIG                                                                                     \
    "{\"chat_template\": [{\"name\": \"default\", \"template\": \"d\"},"                           \
    " {\"name\": \"tool_use\", \"template\": \"t\"}]}"

/* The reference forgets tokenizer_config.json's templates, all of them, where a file has one. */
static void files_of_their_own_go_before_the_config(void **state) {
    (void)state;
    char extra[128];
    snprintf(extra, sizeof extra, "%s/additional_chat_templates", folder);
    check_folder(NULL, NULL);
    put("tokenizer_config.json", CONFIG);
    check_folder("d", "t");
    put("chat_template.jinja", "file");
    check_folder("file", NULL);
    assert_int_equal(mkdir(extra, 0700), 0);
    put("additional_chat_templates/tool_use.jinja", "file t");
    put("additional_chat_templates/other.jinja", "other");
    check_folder("file", "file t");
    drop("additional_chat_templates/tool_use.jinja");
    drop("additional_chat_templates/other.jinja");
    drop("additional_chat_templates");
    drop("chat_template.jinja");
    drop("tokenizer_config.json");
}

static void refuse_folder(const char *words) {
    chat_source source;
    esp_error err = {0};
    assert_int_not_equal(chat_source_read_folder(&source, folder, &err), ESP_OK);
    assert_null(source.text);
    if (!strstr(err.message, words)) fail_msg("%s", err.message);
}

static void files_that_cannot_be_read_are_named(void **state) {
    (void)state;
    static char big[CHAT_SOURCE_TEMPLATE_MAX + 2];
    char path[128];
    snprintf(path, sizeof path, "%s/chat_template.jinja", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    refuse_folder("chat_template.jinja: is a folder");
    drop("chat_template.jinja");
    put("chat_template.jinja", "");
    refuse_folder("chat_template.jinja: the file is empty");
    memset(big, 'x', sizeof big - 1);
    put("chat_template.jinja", big);
    refuse_folder("chat_template.jinja: a chat template of 262145 bytes");
    drop("chat_template.jinja");
    put("tokenizer_config.json", "{");
    refuse_folder("tokenizer_config.json: the file is not valid JSON");
    drop("tokenizer_config.json");
}

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/espalier-chat-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_config_says_it_as_text_or_by_names),
        cmocka_unit_test(a_config_that_is_wrong_is_refused_with_file_and_field),
        cmocka_unit_test(absurd_configs_are_refused_within_bounds),
        cmocka_unit_test(files_of_their_own_go_before_the_config),
        cmocka_unit_test(files_that_cannot_be_read_are_named),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
