/* test_generate_input.c - which requests become one, and with what in them. Token i is byte i here. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/serve/generate_input.h"
#include "tests/unit/byte_tokenizer.h"

enum { CONTEXT = 1000 };
static served_model served = {.name = "tiny", .context_max = CONTEXT, .vocab = 256};

typedef Espalier__V1__GenerateRequest message;

static message prompt_message(const char *text) {
    message m = ESPALIER__V1__GENERATE_REQUEST__INIT;
    m.input_case = ESPALIER__V1__GENERATE_REQUEST__INPUT_PROMPT;
    m.prompt = (char *)(uintptr_t)text;
    return m;
}

static void set_max_tokens(message *m, uint32_t value) {
    m->_max_tokens_case = ESPALIER__V1__GENERATE_REQUEST___MAX_TOKENS_MAX_TOKENS;
    m->max_tokens = value;
}

static request *accept(const message *m) {
    request *r;
    esp_error error = {0};
    if (generate_input(&served, m, 0, NULL, &r, &error) != ESP_OK) fail_msg("%s", error.message);
    return r;
}

static void refuse(const message *m, esp_code code, const char *field) {
    request *r;
    esp_error error = {0};
    assert_int_equal(generate_input(&served, m, 0, NULL, &r, &error), code);
    assert_null(r);
    assert_string_equal(error.field, field);
    assert_true(error.message[0] != '\0');
}

static void text_becomes_its_tokens(void **state) {
    (void)state;
    message m = prompt_message("abc");
    set_max_tokens(&m, 3);
    request *r = accept(&m);
    assert_int_equal(r->prompt_count, 3);
    assert_int_equal(r->tokens[0], 'a');
    assert_int_equal(r->tokens[2], 'c');
    assert_int_equal(r->output_max, 3);
    request_unref(r);
}

/* 512, or what the context has left. */
static void max_tokens_has_a_default(void **state) {
    (void)state;
    static char text[CONTEXT];
    memset(text, 'a', CONTEXT - 1);
    message m = prompt_message("abc");
    request *r = accept(&m);
    assert_int_equal(r->output_max, OUTPUT_TOKENS_DEFAULT);
    request_unref(r);
    m = prompt_message(text);
    r = accept(&m);
    assert_int_equal(r->output_max, 1);
    request_unref(r);
}

static void max_tokens_must_fit(void **state) {
    (void)state;
    message m = prompt_message("abc");
    set_max_tokens(&m, CONTEXT - 3);
    request_unref(accept(&m));
    set_max_tokens(&m, CONTEXT - 2);
    refuse(&m, ESP_INVALID, "max_tokens");
    set_max_tokens(&m, 0);
    refuse(&m, ESP_INVALID, "max_tokens");
    set_max_tokens(&m, UINT32_MAX);
    refuse(&m, ESP_INVALID, "max_tokens");
}

static void prompt_must_fit(void **state) {
    (void)state;
    static char text[CONTEXT + 2];
    static int32_t ids[CONTEXT + 1];
    memset(text, 'a', CONTEXT);
    message m = prompt_message(text);
    refuse(&m, ESP_INVALID, "input"); /* no room for one token of answer */
    text[CONTEXT] = 'a';
    refuse(&m, ESP_INVALID, "prompt");
    Espalier__V1__TokenIds list = ESPALIER__V1__TOKEN_IDS__INIT;
    list.ids = ids;
    list.n_ids = CONTEXT + 1;
    m.input_case = ESPALIER__V1__GENERATE_REQUEST__INPUT_TOKEN_IDS;
    m.token_ids = &list;
    refuse(&m, ESP_INVALID, "token_ids");
}

static void empty_and_missing_input_are_refused(void **state) {
    (void)state;
    message m = prompt_message("");
    refuse(&m, ESP_INVALID, "prompt");
    message none = ESPALIER__V1__GENERATE_REQUEST__INIT;
    refuse(&none, ESP_INVALID, "input");
    Espalier__V1__TokenIds list = ESPALIER__V1__TOKEN_IDS__INIT;
    m.input_case = ESPALIER__V1__GENERATE_REQUEST__INPUT_TOKEN_IDS;
    m.token_ids = &list;
    refuse(&m, ESP_INVALID, "token_ids");
}

static void ids_out_of_range_are_refused(void **state) {
    (void)state;
    static const int32_t bad[] = {-1, 256, INT32_MIN, INT32_MAX};
    for (uint32_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int32_t ids[] = {1, bad[i]};
        Espalier__V1__TokenIds list = ESPALIER__V1__TOKEN_IDS__INIT;
        message m = ESPALIER__V1__GENERATE_REQUEST__INIT;
        list.ids = ids;
        list.n_ids = 2;
        m.input_case = ESPALIER__V1__GENERATE_REQUEST__INPUT_TOKEN_IDS;
        m.token_ids = &list;
        refuse(&m, ESP_INVALID, "token_ids");
    }
}

/* Without a template chat says so; prompts still work. */
static void chat_without_a_template_is_unimplemented(void **state) {
    (void)state;
    Espalier__V1__ChatMessage one = ESPALIER__V1__CHAT_MESSAGE__INIT, *all[] = {&one};
    Espalier__V1__ChatInput chat = ESPALIER__V1__CHAT_INPUT__INIT;
    message m = ESPALIER__V1__GENERATE_REQUEST__INIT;
    one.role = (char *)(uintptr_t) "user";
    chat.messages = all;
    chat.n_messages = 1;
    m.input_case = ESPALIER__V1__GENERATE_REQUEST__INPUT_CHAT;
    m.chat = &chat;
    refuse(&m, ESP_UNIMPLEMENTED, "chat");
}

/* ---- chat ---- */

typedef Espalier__V1__ChatMessage chat_line;
typedef Espalier__V1__ChatInput chat_body;

static char *text(const char *literal) { return (char *)(uintptr_t)literal; }

static chat_line line_of(const char *role, const char *content) {
    chat_line line = ESPALIER__V1__CHAT_MESSAGE__INIT;
    line.role = text(role);
    if (content) {
        line._content_case = ESPALIER__V1__CHAT_MESSAGE___CONTENT_CONTENT;
        line.content = text(content);
    }
    return line;
}

/* One message through the template: its prompt is `wanted`; or, where that is NULL, it is refused
 * with this field and with a sentence that holds these words. */
static void ask_chat(const char *source, chat_body *body, chat_line *line, const char *wanted,
                     const char *field, const char *sentence) {
    chat_template *t = NULL;
    assert_int_equal(template_open(&t, source, strlen(source), NULL), ESP_OK);
    served_model model = served;
    model.chat = t;
    chat_line *all[] = {line};
    body->messages = all;
    body->n_messages = 1;
    message m = ESPALIER__V1__GENERATE_REQUEST__INIT;
    m.input_case = ESPALIER__V1__GENERATE_REQUEST__INPUT_CHAT;
    m.chat = body;
    request *r;
    esp_error err = {0};
    esp_code code = generate_input(&model, &m, 0, NULL, &r, &err);
    if (wanted) {
        char got[CONTEXT + 1] = "";
        if (code != ESP_OK) fail_msg("%s", err.message);
        for (uint32_t i = 0; i < r->prompt_count; i++)
            got[i] = (char)r->tokens[i];
        assert_string_equal(got, wanted);
        request_unref(r);
    } else {
        assert_int_equal(code, ESP_INVALID);
        assert_string_equal(err.field, field);
        if (!strstr(err.message, sentence)) fail_msg("%s", err.message);
    }
    template_close(t);
}

#define SHOW                                                                                       \
    "{% for m in messages %}{{ m.role }}:{{ m.content }}:{{ m.name }}:{{ m.tool_call_id }}:"       \
    "{{ m.reasoning_content }}:{{ m.tools }}:{{ m.tool_calls | tojson if m.tool_calls else '' "    \
    "}}{% endfor %}|"                                                                              \
    "{{ tools | tojson }}|{{ enable_thinking }}|{{ add_generation_prompt }}"

static void all_of_a_message_reaches_the_template(void **state) {
    (void)state;
    chat_body body = ESPALIER__V1__CHAT_INPUT__INIT;
    chat_line line = line_of("tool", "c");
    ask_chat(SHOW, &body, &line, "tool:c:::::|null||True", NULL, NULL);
    line.name = text("n");
    line.tool_call_id = text("id");
    line.reasoning_content = text("why");
    line.tool_calls_json = text("[{\"b\": 1.0, \"a\": \"<\"}]");
    line.tools_text = text("[9]");
    body.tools_json = text("[{\"t\":{}}]");
    body.template_arguments_json = text("{\"enable_thinking\": false}");
    ask_chat(SHOW, &body, &line,
             "tool:c:n:id:why:[9]:[{\"b\": 1.0, \"a\": \"<\"}]|[{\"t\": {}}]|False|True", NULL,
             NULL);
}

/* Published templates ask for `content is none` beside tool calls. */
static void content_left_out_is_null_beside_tool_calls_only(void **state) {
    (void)state;
    static const char ask[] = "{{ messages[0].content is none }}{{ messages[0].content == '' }}";
    chat_body body = ESPALIER__V1__CHAT_INPUT__INIT;
    chat_line line = line_of("assistant", NULL);
    ask_chat(ask, &body, &line, "FalseTrue", NULL, NULL);
    line.tool_calls_json = text("[{}]");
    ask_chat(ask, &body, &line, "TrueFalse", NULL, NULL);
    line = line_of("assistant", "");
    line.tool_calls_json = text("[{}]");
    ask_chat(ask, &body, &line, "FalseTrue", NULL, NULL);
}

static void json_fields_that_are_wrong_are_named(void **state) {
    (void)state;
    static const struct {
        const char *tools, *arguments, *calls, *field, *sentence;
    } bad[] = {
        {"[", "", "", "chat.tools_json", "no JSON at line 1"},
        {"{}", "", "", "chat.tools_json", "wanted a JSON array"},
        {"[1]", "", "", "chat.tools_json", "[0]: no JSON object"},
        {"[{\"a\":1,\"a\":2}]", "", "", "chat.tools_json", "no JSON"},
        {" ", "", "", "chat.tools_json", "no JSON"},
        {"", "[]", "", "chat.template_arguments_json", "wanted a JSON object"},
        {"", "{\"messages\":[]}", "", "chat.template_arguments_json", "messages"},
        {"", "{\"bos_token\":\"x\"}", "", "chat.template_arguments_json", "bos_token"},
        {"", "{\"a b\":1}", "", "chat.template_arguments_json", "is no name"},
        {"", "", "{}", "chat.messages.tool_calls_json", "chat.messages[0].tool_calls_json: wanted"},
        {"", "", "[{}, []]", "chat.messages.tool_calls_json", "[1]: no JSON object"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        chat_body body = ESPALIER__V1__CHAT_INPUT__INIT;
        chat_line line = line_of("user", "x");
        body.tools_json = text(bad[i].tools);
        body.template_arguments_json = text(bad[i].arguments);
        line.tool_calls_json = text(bad[i].calls);
        ask_chat("x", &body, &line, NULL, bad[i].field, bad[i].sentence);
    }
}

/* "[{},{},...]", to be freed. */
static char *objects(size_t count) {
    char *list = malloc(3 * count + 2);
    list[0] = '[';
    for (size_t i = 0; i < count; i++)
        memcpy(list + 1 + 3 * i, "{},", 3);
    memcpy(list + 3 * count, "]", 2);
    return list;
}

static void json_fields_have_limits(void **state) {
    (void)state;
    static char big[400 << 10];
    chat_body body = ESPALIER__V1__CHAT_INPUT__INIT;
    chat_line line = line_of("user", "x");
    char *tools = objects(1024), *more = objects(1025), *calls = objects(257);
    body.tools_json = tools;
    ask_chat("{{ tools | length }}", &body, &line, "1024", NULL, NULL);
    body.tools_json = more;
    ask_chat("x", &body, &line, NULL, "chat.tools_json", "1025 objects");
    body.tools_json = text("");
    line.tool_calls_json = calls;
    ask_chat("x", &body, &line, NULL, "chat.messages.tool_calls_json", "257 objects");
    memset(big, ' ', sizeof big - 1);
    body.tools_json = line.tool_calls_json = big; /* each is within the limit, both are not */
    ask_chat("x", &body, &line, NULL, "chat", "bytes in its JSON fields");
    free(tools);
    free(more);
    free(calls);
}

static void what_the_template_refuses_is_the_client_s_error(void **state) {
    (void)state;
    chat_body body = ESPALIER__V1__CHAT_INPUT__INIT;
    chat_line line = line_of("user", "x");
    ask_chat("{{ raise_exception('Only ' ~ tools) }}", &body, &line, NULL, "messages", "Only None");
}

static void model_is_looked_up_by_name(void **state) {
    (void)state;
    message m = prompt_message("a");
    m.model = (char *)(uintptr_t) "tiny";
    request_unref(accept(&m));
    m.model = (char *)(uintptr_t) "tin";
    refuse(&m, ESP_NOT_FOUND, "model");
}

static void seed_given_is_used_and_others_are_drawn(void **state) {
    (void)state;
    Espalier__V1__Sampling sampling = ESPALIER__V1__SAMPLING__INIT;
    message m = prompt_message("a");
    m.sampling = &sampling;
    sampling._seed_case = ESPALIER__V1__SAMPLING___SEED_SEED;
    sampling.seed = 0;
    request *given = accept(&m);
    assert_int_equal(given->policy.seed, 0);
    sampling._seed_case = ESPALIER__V1__SAMPLING___SEED__NOT_SET;
    request *one = accept(&m), *two = accept(&m);
    assert_int_not_equal(one->policy.seed, two->policy.seed);
    request_unref(given);
    request_unref(one);
    request_unref(two);
}

/* protobuf: "if there are duplicate map keys the last key seen is used". */
static void last_bias_of_a_token_counts(void **state) {
    (void)state;
    Espalier__V1__Sampling__LogitBiasEntry entry[3], *all[3];
    Espalier__V1__Sampling sampling = ESPALIER__V1__SAMPLING__INIT;
    static const float value[] = {1, 2, 3};
    static const int32_t key[] = {7, 9, 7};
    message m = prompt_message("a");
    for (uint32_t i = 0; i < 3; i++) {
        espalier__v1__sampling__logit_bias_entry__init(&entry[i]);
        entry[i].key = key[i];
        entry[i].value = value[i];
        all[i] = &entry[i];
    }
    sampling.logit_bias = all;
    sampling.n_logit_bias = 3;
    m.sampling = &sampling;
    request *r = accept(&m);
    assert_int_equal(r->policy.bias_count, 2);
    assert_int_equal(r->bias[0].id, 7);
    assert_true(r->bias[0].bias == 3);
    request_unref(r);
    sampling.n_logit_bias = SAMPLE_BIAS_MAX + 1; /* refused before the list is read */
    refuse(&m, ESP_INVALID, "logit_bias");
}

static void absurd_stop_lists_are_refused(void **state) {
    (void)state;
    char long_stop[SAMPLE_STOP_BYTES_MAX + 2], *stops[SAMPLE_STOP_MAX + 1];
    memset(long_stop, 'x', sizeof long_stop - 1);
    long_stop[sizeof long_stop - 1] = '\0';
    message m = prompt_message("a");
    for (uint32_t i = 0; i <= SAMPLE_STOP_MAX; i++)
        stops[i] = (char *)(uintptr_t) "end";
    m.stop = stops;
    m.n_stop = SAMPLE_STOP_MAX;
    request_unref(accept(&m));
    m.n_stop = SAMPLE_STOP_MAX + 1;
    refuse(&m, ESP_INVALID, "stop");
    m.n_stop = 1;
    stops[0] = (char *)(uintptr_t) "";
    refuse(&m, ESP_INVALID, "stop");
    stops[0] = long_stop;
    refuse(&m, ESP_INVALID, "stop");
}

static void numbers_out_of_range_are_refused(void **state) {
    (void)state;
    Espalier__V1__Sampling sampling = ESPALIER__V1__SAMPLING__INIT;
    message m = prompt_message("a");
    m.sampling = &sampling;
    sampling.temperature = __builtin_nanf("");
    refuse(&m, ESP_INVALID, "temperature");
    sampling.temperature = 1e30f;
    refuse(&m, ESP_INVALID, "temperature");
    sampling.temperature = 0;
    m.top_logprobs = SAMPLE_LOGPROBS_MAX + 1;
    refuse(&m, ESP_INVALID, "top_logprobs");
    m.top_logprobs = 0;
    m.priority = PRIORITY_MAX + 1;
    refuse(&m, ESP_INVALID, "priority");
    m.priority = INT32_MIN;
    refuse(&m, ESP_INVALID, "priority");
}

static int open_tokenizer(void **state) {
    (void)state;
    served.tok = byte_tokenizer();
    return 0;
}

static int close_tokenizer(void **state) {
    (void)state;
    tok_close((tokenizer *)(uintptr_t)served.tok);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_becomes_its_tokens),
        cmocka_unit_test(max_tokens_has_a_default),
        cmocka_unit_test(max_tokens_must_fit),
        cmocka_unit_test(prompt_must_fit),
        cmocka_unit_test(empty_and_missing_input_are_refused),
        cmocka_unit_test(ids_out_of_range_are_refused),
        cmocka_unit_test(chat_without_a_template_is_unimplemented),
        cmocka_unit_test(all_of_a_message_reaches_the_template),
        cmocka_unit_test(content_left_out_is_null_beside_tool_calls_only),
        cmocka_unit_test(json_fields_that_are_wrong_are_named),
        cmocka_unit_test(json_fields_have_limits),
        cmocka_unit_test(what_the_template_refuses_is_the_client_s_error),
        cmocka_unit_test(model_is_looked_up_by_name),
        cmocka_unit_test(seed_given_is_used_and_others_are_drawn),
        cmocka_unit_test(last_bias_of_a_token_counts),
        cmocka_unit_test(absurd_stop_lists_are_refused),
        cmocka_unit_test(numbers_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
