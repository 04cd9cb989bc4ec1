/* test_jinja_templates.c - the published chat templates, each rendered as jinja2 renders it
 * (tests/vectors/make_jinja_vectors.py): prompts by digest, errors by their sentence.
 *
 * The templates are their models' own and not part of this repository: they are read from
 * $ESPALIER_SHARED/data/templates, or ../shared/data/templates beside the source tree, and from the
 * cache folder's templates/, which tests/vectors/collect_chat_templates.py fills. Where one is
 * absent, its case says so and is skipped. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/jinja/jinja.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/vector_file.h"

#define NOW_US 1736951696123456

enum { CONVERSATIONS_MAX = 512, RENDERED_MIN = 50, TEMPLATES = 43 };

typedef struct conversation {
    json_t *row;
    jinja_input in;
} conversation;

static conversation conversations[CONVERSATIONS_MAX];
static size_t conversation_count, template_count, skipped;

static FILE *open_shared(const char *name) {
    char path[1024];
    const char *shared = getenv("ESPALIER_SHARED");
    snprintf(path, sizeof path, "%s%s/data/templates/%s", shared ? shared : TEST_SOURCE_DIR,
             shared ? "" : "/../shared", name);
    return fopen(path, "rb");
}

/* The cache folder as scripts/lib.sh finds it. */
static FILE *open_cached(const char *name) {
    char path[1024];
    const char *own = getenv("ESPALIER_CACHE"), *xdg = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    if (own)
        snprintf(path, sizeof path, "%s/templates/%s", own, name);
    else
        snprintf(path, sizeof path, "%s%s/espalier/templates/%s",
                 xdg    ? xdg
                 : home ? home
                        : "",
                 xdg ? "" : "/.cache", name);
    return fopen(path, "rb");
}

static char *read_template(const char *name, size_t *bytes) {
    FILE *file = open_shared(name);
    if (!file) file = open_cached(name);
    if (!file) return NULL;
    char *text = calloc(JINJA_SOURCE_BYTES_MAX, 1);
    *bytes = fread(text, 1, JINJA_SOURCE_BYTES_MAX, file);
    fclose(file);
    return text;
}

/* NULL where the file is absent; fails where it is another template than the vectors were made
 * from. */
static jinja_template *open_named(const json_t *row) {
    const char *name = json_string_value(json_object_get(row, "name"));
    size_t bytes = 0;
    char *source = read_template(name, &bytes);
    if (!source) {
        printf("skipped: not there: %s\n", name);
        skipped++;
        return NULL;
    }
    if (fnv(FNV_START, source, bytes) != vector_digest(row))
        fail_msg("%s: not the template that the vectors were made from", name);
    jinja_template *t = NULL;
    esp_error err = {0};
    if (jinja_open(&t, source, bytes, &err)) fail_msg("%s: %s", name, err.message);
    free(source);
    template_count++;
    return t;
}

static const char *bare(const char *message) {
    int used = 0;
    return sscanf(message, "chat template, line %*u: %n", &used) >= 0 && used ? message + used
                                                                              : message;
}

/* Returns whether the template rendered, rather than raised. */
static bool check_case(const jinja_template *t, const char *name, size_t i, const json_t *row) {
    jinja_output out;
    esp_error err = {0};
    esp_code code = jinja_render(t, &conversations[i].in, &out, &err);
    const char *raises = json_string_value(json_object_get(row, "raises"));
    if (raises) {
        if (code != ESP_INVALID || strcmp(bare(err.message), raises) != 0)
            fail_msg("%s, conversation %zu\nwanted error: %s\ngot: %s", name, i, raises,
                     code ? err.message : out.text);
        return false;
    }
    size_t bytes = (size_t)json_integer_value(json_object_get(row, "bytes"));
    if (code != ESP_OK) fail_msg("%s, conversation %zu: %s", name, i, err.message);
    if (out.bytes != bytes || fnv(FNV_START, out.text, bytes) != vector_digest(row))
        fail_msg("%s, conversation %zu: another prompt:\n%s", name, i, out.text);
    jinja_output_free(&out);
    return true;
}

static void check_template(FILE *file, const json_t *head) {
    jinja_template *t = open_named(head);
    const char *name = json_string_value(json_object_get(head, "name"));
    size_t rendered = 0;
    for (size_t i = 0; i < conversation_count; i++) {
        json_t *row = vector_next(file);
        assert_non_null(row);
        if (t) rendered += check_case(t, name, i, row);
        json_decref(row);
    }
    if (t) printf("%s: %zu prompts, %zu errors\n", name, rendered, conversation_count - rendered);
    assert_true(!t || rendered >= RENDERED_MIN);
    jinja_close(t);
}

/* The file's conversations; returns the first template's row. */
static json_t *read_conversations(FILE *file) {
    for (json_t *row; (row = vector_next(file));) {
        if (!json_object_get(row, "data")) return row;
        assert_true(conversation_count < CONVERSATIONS_MAX);
        conversations[conversation_count++] = (conversation){row,
                                                             {.data = json_object_get(row, "data"),
                                                              .own = json_object_get(row, "own"),
                                                              .now_us = NOW_US}};
    }
    return NULL;
}

static void prompts_and_errors_are_jinja2_s(void **state) {
    (void)state;
    FILE *file = vector_open("chat_templates.jsonl");
    assert_non_null(file);
    json_t *head = read_conversations(file);
    for (; head; head = vector_next(file)) {
        check_template(file, head);
        json_decref(head);
    }
    fclose(file);
    for (size_t i = 0; i < conversation_count; i++)
        json_decref(conversations[i].row);
    printf("%zu templates, %zu skipped, %zu conversations each\n", template_count, skipped,
           conversation_count);
    assert_int_equal(template_count + skipped, TEMPLATES);
}

/* ---- whose bytes ---- */

static bool is_cyrillic(const char *at) { return (*at & 0xFC) == 0xD0; }

/* Contents are in Cyrillic, which no template writes: every such character is plain, and what else
 * is plain is a role or stands between the data's strings in one value. */
static void check_spans(const jinja_output *out, const char *name) {
    size_t letters = 0;
    for (size_t i = 0, span = 0; i < out->bytes; i++) {
        while (span < out->plain_count && out->plain[span].end <= i)
            span++;
        bool plain = span < out->plain_count && out->plain[span].begin <= i;
        bool letter = is_cyrillic(out->text + i);
        letters += letter;
        if (letter && !plain)
            fail_msg("%s: data at byte %zu is not plain:\n%s", name, i, out->text);
        if (plain && strchr("<>|[]", out->text[i]))
            fail_msg("%s: the template's byte %zu is plain:\n%s", name, i, out->text);
    }
    assert_true(letters > 0);
}

static void contents_are_plain_in_every_template(void **state) {
    (void)state;
    static const char data[] =
        "{\"messages\": [{\"role\": \"user\", \"content\": \" \u0443 \"},"
        " {\"role\": \"assistant\", \"content\": \"\u0430\\n\u0431\"},"
        " {\"role\": \"user\", \"content\": \"\u0432\"}],"
        " \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"\u0433\","
        " \"description\": \"\u0434\", \"\u0435\": [1, \"\u0436\"]}}],"
        " \"documents\": null, \"add_generation_prompt\": true, \"date_string\": \"\u0437\"}";
    static const char *const names[] = {"gemma2.jinja",
                                        "gemma3.jinja",
                                        "llama31.jinja",
                                        "llama32.jinja",
                                        "mistral_v3.jinja",
                                        "phi3.jinja",
                                        "qwen25.jinja",
                                        "mistral_nemo.jinja",
                                        "qwen3.jinja",
                                        "phi4mini.jinja",
                                        "smollm2.jinja",
                                        "r1_distill.jinja",
                                        "mistral_v1.jinja",
                                        "phi4.jinja",
                                        "phi3_mini.jinja",
                                        "chatml.jinja",
                                        "mistral_common_v3_tekken.jinja",
                                        "mistral_common_v13.jinja",
                                        "ministral3.jinja",
                                        "mistral_small32.jinja",
                                        "qwen3_coder.jinja",
                                        "qwq.jinja",
                                        "smollm3.jinja",
                                        "devstral.jinja",
                                        "llama33.jinja",
                                        "gguf_smollm2.jinja"};
    json_t *json = json_loads(data, 0, NULL),
           *own = json_pack("{s:s,s:s}", "bos_token", "<s>", "eos_token", "</s>");
    assert_non_null(json);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t bytes = 0;
        char *source = read_template(names[i], &bytes);
        jinja_template *t = NULL;
        jinja_output out;
        if (!source) continue;
        assert_int_equal(jinja_open(&t, source, bytes, NULL), ESP_OK);
        jinja_input in = {.data = json, .own = own, .now_us = NOW_US};
        esp_error err = {0};
        if (jinja_render(t, &in, &out, &err)) fail_msg("%s: %s", names[i], err.message);
        check_spans(&out, names[i]);
        jinja_output_free(&out);
        jinja_close(t);
        free(source);
    }
    json_decref(json);
    json_decref(own);
}

int main(void) {
    setenv("TZ", "UTC", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_and_errors_are_jinja2_s),
        cmocka_unit_test(contents_are_plain_in_every_template),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
