/* test_jinja.c - the language row by row against jinja2's answers (tests/vectors/
 * make_jinja_vectors.py), which bytes are the data's, and every limit. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/jinja/jinja.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/vector_file.h"

/* 2025-01-15 14:34:56.123456 UTC, as the vectors have it. */
#define NOW_US 1736951696123456

static jinja_template *open_template(const char *source) {
    jinja_template *t = NULL;
    esp_error err = {0};
    if (jinja_open(&t, source, strlen(source), &err)) fail_msg("%s: %s", source, err.message);
    return t;
}

/* Renders with data given as JSON text; the error's sentence is in *err. */
static esp_code render(const char *source, const char *data, jinja_output *out, esp_error *err) {
    jinja_template *t = open_template(source);
    json_t *json = json_loads(data, 0, NULL);
    assert_non_null(json);
    jinja_input in = {.data = json, .now_us = NOW_US};
    esp_code code = jinja_render(t, &in, out, err);
    json_decref(json);
    jinja_close(t);
    return code;
}

/* An error without its "chat template, line N: ". */
static const char *bare(const char *message) {
    int used = 0;
    return sscanf(message, "chat template, line %*u: %n", &used) >= 0 && used ? message + used
                                                                              : message;
}

/* ---- the language ---- */

static void check_row(const json_t *data, const json_t *row) {
    tok_text source = vector_text(row, "template");
    jinja_template *t = NULL;
    jinja_output out = {0};
    esp_error err = {0};
    esp_code code = jinja_open(&t, source.at, source.bytes, &err);
    if (json_object_get(row, "refused")) {
        if (code != ESP_INVALID || t) fail_msg("not refused: %s", source.at);
        assert_non_null(strstr(err.message, "chat template, line "));
        return;
    }
    if (code != ESP_OK) fail_msg("%s: %s", source.at, err.message);
    code = jinja_render(t, &(jinja_input){.data = data, .now_us = NOW_US}, &out, &err);
    tok_text text = vector_text(row, "text");
    const char *raises = json_string_value(json_object_get(row, "raises"));
    if (raises && (code != ESP_INVALID || strcmp(bare(err.message), raises) != 0))
        fail_msg("%s\nwanted error: %s\ngot: %s", source.at, raises, code ? err.message : out.text);
    if (!raises && (code || out.bytes != text.bytes || memcmp(out.text, text.at, text.bytes) != 0))
        fail_msg("%s\nwanted: %s\ngot: %s", source.at, text.at, code ? err.message : out.text);
    jinja_output_free(&out);
    jinja_close(t);
}

static void every_feature_is_jinja2_s(void **state) {
    (void)state;
    FILE *file = vector_open("jinja_features.jsonl");
    assert_non_null(file);
    json_t *first = vector_next(file);
    size_t rows = 0;
    for (json_t *row; (row = vector_next(file)); json_decref(row), rows++)
        check_row(json_object_get(first, "data"), row);
    json_decref(first);
    fclose(file);
    assert_true(rows > 900);
}

/* What Jinja has and this interpreter leaves out fails when the template is opened, by name. */
static void what_is_left_out_is_refused(void **state) {
    (void)state;
    static const char *const sources[] = {
        "{% include 'x' %}",     "{% import 'x' as x %}",
        "{% extends 'x' %}",     "{% block x %}{% endblock %}",
        "{% autoescape true %}", "{% for x in y recursive %}{% endfor %}",
        "{{ f(*a) }}",           "{{ f(**a) }}",
        "{{ x|urlize }}",        "{{ x|striptags }}",
        "{{ x|random }}",        "{% do x %}",
        "{{ '\\N{DASH}' }}",     "{{ 99999999999999999999 }}"};
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        jinja_template *t = NULL;
        esp_error err = {0};
        assert_int_equal(jinja_open(&t, sources[i], strlen(sources[i]), &err), ESP_INVALID);
        assert_null(t);
        assert_non_null(strstr(err.message, "chat template, line 1: "));
    }
}

/* A name that reaches into Python's machinery finds nothing, and using it says so. */
static void nothing_outside_the_data_is_reached(void **state) {
    (void)state;
    static const char *const sources[] = {"{{ s.__class__.__mro__ }}",
                                          "{{ s['__class__'].x }}",
                                          "{{ l.append(1) }}",
                                          "{{ d.update({}) }}",
                                          "{{ range.__globals__.x }}",
                                          "{{ s.format.__self__.x }}",
                                          "{{ (s|attr('__class__')).x }}",
                                          "{{ l|map(attribute='__class__.x')|list }}"};
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        jinja_output out;
        esp_error err = {0};
        assert_int_equal(render(sources[i], "{\"s\": \"x\", \"l\": [1], \"d\": {}}", &out, &err),
                         ESP_INVALID);
        if (!strstr(err.message, "is unsafe.")) fail_msg("%s: %s", sources[i], err.message);
    }
}

/* ---- whose bytes ---- */

/* The output with its plain bytes as they are and the others as dots. */
static void check_plain(const char *source, const char *wanted) {
    static const char data[] =
        "{\"a\": \"XyX\", \"b\": \" P q \", \"l\": [\"R\", \"S\"], \"n\": 77,"
        " \"d\": {\"K\": \"V\"}, \"c\": \"A,B\"}";
    jinja_output out;
    esp_error err = {0};
    if (render(source, data, &out, &err)) fail_msg("%s: %s", source, err.message);
    char *seen = calloc(out.bytes + 1, 1);
    memset(seen, '.', out.bytes);
    size_t end = 0;
    for (uint32_t i = 0; i < out.plain_count; i++) {
        tok_span span = out.plain[i];
        assert_true(span.begin < span.end && span.end <= out.bytes);
        assert_true(i == 0 || span.begin > end);
        memcpy(seen + span.begin, out.text + span.begin, span.end - span.begin);
        end = span.end;
    }
    if (strcmp(seen, wanted) != 0)
        fail_msg("%s\nwanted %s\ngot    %s\ntext   %s", source, wanted, seen, out.text);
    free(seen);
    jinja_output_free(&out);
}

static void data_stays_data_through_every_operation(void **state) {
    (void)state;
    static const char *const rows[][2] = {
        {"<{{ a }}>", ".XyX."},
        {"{{ '<' + a + '>' + a }}", ".XyX.XyX"},
        {"{{ '<' ~ a ~ n ~ 5 }}", ".XyX77."},
        {"{{ b|trim }}", "P q"},
        {"{{ ('<' + b + '>').strip('<> ') }}", "P q"},
        {"{{ ('<' + a)[1:3] }}{{ a[::-1] }}{{ a[0] }}", "XyXyXX"},
        {"{{ ('<' + a + '>')[::-1] }}", ".XyX."},
        {"{{ a|replace('y', '<z>') }}", "X<z>X"},
        {"{{ 'ooo'|replace('o', a) }}", "XyXXyXXyX"},
        {"{{ 'o<o'|replace('o', '-') }}", "..."},
        {"{{ l|join('-') }}{{ '-'.join(l) }}", "R.SR.S"},
        {"{{ a|upper }}{{ (a ~ 'z')|lower }}{{ a|capitalize }}{{ ('a ' ~ a)|title }}",
         "XYXxyx.Xyx..Xyx"},
        {"{{ d|tojson }}", "..K....V.."},
        {"{{ l|tojson(indent=1) }}", "....R.....S..."},
        {"{{ l }}{{ d }}", "..R....S....K....V.."},
        {"{{ n }}{{ n + 1 }}{{ 1 + 1 }}{{ l|length }}", "7778.."},
        {"{{ c.split(',')[1] }}{{ (c ~ ',z').split(',')|join('+') }}", "BA.B.."},
        {"{{ 'a%sb' % a }}{{ 'a{}b'.format(a) }}{{ '%s!'|format(n) }}", ".XyX..XyX.77."},
        {"{% for k, v in d.items() %}{{ k }}={{ v }}{% endfor %}", "K.V"},
        {"{% set x %}<{{ a }}>{% endset %}{{ x }}{{ x|upper }}", ".XyX..XYX."},
        {"{% macro f(x) %}({{ x }}){% endmacro %}{{ f(a) }}{{ f('q') }}", ".XyX...."},
        {"{{ a|indent(2, true) }}{{ a.center(7) }}{{ a.rjust(5, '*') }}", "..XyX..XyX....XyX"},
        {"{{ a.partition('y')|join('') }}{{ a.splitlines()[0] }}{{ a.removeprefix('X') }}",
         "XyXXyXyX"},
        {"{{ '7'|int + n|int }}{{ (n ~ '')|int }}{{ '7'|int }}", "8477."},
        {"{{ ('<' + a)|escape }}{{ '-'|safe + ('<' + a) }}", "....XyX.....XyX"},
        {"{{ a if n else 'x' }}{{ nope|default(a) }}{{ a|first }}{{ a|last }}", "XyXXyXXX"},
        {"{{ a * 2 }}{{ 'z' * 2 }}{{ a|list|join }}{{ a|reverse }}", "XyXXyX..XyXXyX"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_plain(rows[i][0], rows[i][1]);
}

/* A string that grew in place leaves those that were made from it before as they were. */
static void strings_that_share_memory_do_not_disturb_each_other(void **state) {
    (void)state;
    check_plain(
        "{% set x = 'a' + a %}{% set y = x + 'b' %}{% set z = x + a %}{{ x }}|{{ y }}|{{ z }}",
        ".XyX..XyX...XyXXyX");
    check_plain(
        "{% set ns = namespace(x='') %}{% for i in range(3) %}{% set ns.x = ns.x + i|string + a"
        " %}{% endfor %}{{ ns.x }}",
        ".XyX.XyX.XyX");
}

/* ---- limits ---- */

static void check_limit(const char *source, const char *wanted) {
    jinja_output out;
    esp_error err = {0};
    assert_int_equal(render(source, "{\"s\": \"xxxxxxxxxxxxxxxx\"}", &out, &err), ESP_INVALID);
    if (!strstr(err.message, wanted))
        fail_msg("%s\nwanted %s\ngot %s", source, wanted, err.message);
    assert_null(out.text);
}

/* What one word of a template makes the renderer compare or go through counts, wherever it is. */
static void long_work_of_one_word_is_counted(void **state) {
    (void)state;
#define AGAIN(body) "{% for a in range(99999) %}" body "{% endfor %}"
#define LISTS "{% set r = range(99999) | list %}{% set q = range(99999) | list %}"
    check_limit(LISTS AGAIN("{% set x = r == q %}"), "steps");
    check_limit(LISTS AGAIN("{% set x = -1 in r %}"), "steps");
    check_limit(LISTS AGAIN("{% set x = r.count(1) %}"), "steps");
    check_limit(LISTS AGAIN("{% set x = r | sum %}"), "steps");
    check_limit(LISTS AGAIN("{% set x = r | select('string') | first %}"), "steps");
    check_limit("{% set x = s * 9999 %}{% set y = ('zw' * 99999) ~ 'x' %}" AGAIN(
                    "{% set z = x.strip(y) %}"),
                "steps");
#define LONG "{% set x = s * 999999 %}{% set y = s * 999998 ~ 'xxxxxxxxxxxxxxxx' %}"
    check_limit(LONG AGAIN("{% set z = x.startswith(y) %}"), "steps");
    check_limit(LONG AGAIN("{% set z = x < y %}"), "steps");
    check_limit(LONG AGAIN("{% set z = x.rfind('x' * 99999 ~ 'y') %}"), "steps");
    check_limit(LONG AGAIN("{% set z = x.center(1) %}"), "steps");
#undef LONG
#undef LISTS
#undef AGAIN
}

static void every_limit_of_a_render_ends_in_a_sentence(void **state) {
    (void)state;
#define TIMES(body) "{% for a in range(99999) %}" body "{% endfor %}"
    check_limit(
        "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        "steps");
    check_limit("{% set x = s * 99999 %}" TIMES("{{ x.count('y') }}"), "steps");
    check_limit(TIMES(TIMES("")), "MiB");
    check_limit("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "inside each other");
    check_limit("{% set n = namespace(x=[]) %}" TIMES("{% set n.x = [n.x] %}") "{{ n.x }}",
                "inside each other");
    check_limit("{% set n = namespace(x=[], y=[]) %}" TIMES(
                    "{% set n.x = [n.x] %}{% set n.y = [n.y] %}") "{{ n.x == n.y }}",
                "inside each other");
    check_limit("{% set n = namespace() %}{% set n.x = n %}{{ n }}", "inside each other");
    check_limit(TIMES("{{ s * 16 }}"), "a prompt of more than 8388608 bytes");
    check_limit("{% set n = namespace(x=s) %}" TIMES("{% set n.x = n.x ~ n.x %}"), "MiB");
    check_limit("{{ s * 999999999999 }}", "");
    check_limit("{{ [1] * 999999999999 }}", "");
    check_limit("{{ ''.ljust(999999999999) }}", "");
    check_limit("{{ range(100001) }}", "Range too big");
    check_limit("{{ 9223372036854775807 + 1 }}", "does not fit a 64-bit integer");
    check_limit("{{ -9223372036854775807 - 2 }}", "does not fit a 64-bit integer");
    check_limit("{{ 2 ** 63 }}", "does not fit a 64-bit integer");
    check_limit("{{ (-9223372036854775807 - 1) // -1 }}", "does not fit a 64-bit integer");
}

static char *repeated(const char *unit, size_t times, const char *end) {
    size_t bytes = strlen(unit);
    char *text = calloc(bytes * times + strlen(end) + 1, 1);
    for (size_t i = 0; i < times; i++)
        memcpy(text + i * bytes, unit, bytes);
    strcpy(text + bytes * times, end);
    return text;
}

static void check_refused(char *source, const char *wanted) {
    jinja_template *t = NULL;
    esp_error err = {0};
    assert_int_equal(jinja_open(&t, source, strlen(source), &err), ESP_INVALID);
    if (!strstr(err.message, wanted)) fail_msg("wanted %s\ngot %s", wanted, err.message);
    free(source);
}

static void every_limit_of_a_template_ends_in_a_sentence(void **state) {
    (void)state;
    check_refused(repeated(" ", JINJA_SOURCE_BYTES_MAX, "x"), "at most 262144");
    check_refused(repeated("{% if a %}", 1000, ""), "inside each other");
    check_refused(repeated("{{ (((((((((((((((((((((((((((((((((((((((((((((((((", 9, ""),
                  "inside each other");
    char *sum = repeated("1+", 5000, "1 }}");
    memcpy(sum, "{{", 2);
    check_refused(sum, "levels");
    char *nots = repeated(" not", 5000, " 1 }}");
    memcpy(nots, "{{ n", 4);
    nots[4] = ' ';
    check_refused(nots, "");
    char *minuses = repeated("-", 5000, "1 }}");
    memcpy(minuses, "{{+", 3);
    check_refused(minuses, "inside each other");
}

/* The longest template, all of it tags, still compiles within the cap. */
static void a_template_of_full_size_is_taken(void **state) {
    (void)state;
    char *source = repeated("{{a}}", JINJA_SOURCE_BYTES_MAX / 5, "");
    jinja_template *t = NULL;
    esp_error err = {0};
    if (jinja_open(&t, source, strlen(source), &err)) fail_msg("%s", err.message);
    jinja_close(t);
    free(source);
}

int main(void) {
    setenv("TZ", "UTC", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_feature_is_jinja2_s),
        cmocka_unit_test(what_is_left_out_is_refused),
        cmocka_unit_test(nothing_outside_the_data_is_reached),
        cmocka_unit_test(data_stays_data_through_every_operation),
        cmocka_unit_test(strings_that_share_memory_do_not_disturb_each_other),
        cmocka_unit_test(long_work_of_one_word_is_counted),
        cmocka_unit_test(every_limit_of_a_render_ends_in_a_sentence),
        cmocka_unit_test(every_limit_of_a_template_ends_in_a_sentence),
        cmocka_unit_test(a_template_of_full_size_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
