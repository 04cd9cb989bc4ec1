/* test_auth.c - tokens, and the policy table walked method by method over a real connection. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/log.h"
#include "engine/serve/auth.h"
#include "engine/serve/reflection.h"
#include "engine/serve/serve_parts.h"
#include "internal/descriptor_names.pb-c.h"
#include "proto/descriptors.h"

static char token_path[] = "/tmp/espalier-tokens-XXXXXX";

static esp_code open_text(auth **out, const char *text, size_t bytes, esp_error *err) {
    FILE *file = fopen(token_path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    fclose(file);
    memset(err, 0, sizeof *err);
    return auth_open(out, token_path, "--token-file", err);
}

static bool allows(const auth *a, const char *header) {
    return auth_allows(a, header, header ? strlen(header) : 0);
}

static void without_a_file_everyone_is_allowed(void **state) {
    (void)state;
    auth *a;
    assert_int_equal(auth_open(&a, NULL, "--token-file", NULL), ESP_OK);
    assert_true(allows(a, NULL));
    assert_true(allows(a, "Bearer whatever"));
    auth_close(a);
}

/* Comments, blank lines, CRLF and a last line without its end. */
static void only_tokens_of_the_file_are_allowed(void **state) {
    (void)state;
    static const char text[] = "# operators\n\nalpha-1\r\n  beta.2  \n#gamma\ndelta/3+=";
    auth *a;
    esp_error error;
    assert_int_equal(open_text(&a, text, sizeof text - 1, &error), ESP_OK);
    assert_true(allows(a, "Bearer alpha-1"));
    assert_true(allows(a, "bearer beta.2"));
    assert_true(allows(a, "BEARER delta/3+="));
    static const char *const wrong[] = {NULL,
                                        "",
                                        "alpha-1",
                                        "Bearer ",
                                        "Bearer",
                                        "Bearer a",
                                        "Bearer alpha-1 ",
                                        "Bearer alpha-11",
                                        "Bearer gamma",
                                        "Bearer #gamma",
                                        "Basic alpha-1"};
    for (uint32_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_false(allows(a, wrong[i]));
    auth_close(a);
}

static void unusable_file_is_refused(void **state) {
    (void)state;
    static const char long_line[AUTH_TOKEN_BYTES_MAX * 2] = "";
    static const struct {
        const char *text;
        size_t bytes;
    } bad[] = {{"", 0},
               {"# none\n\n", 8},
               {"two words\n", 10},
               {"caf\xc3\xa9\n", 6},
               {"a\0b\n", 4},
               {long_line, sizeof long_line}};
    for (uint32_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        auth *a;
        esp_error error;
        assert_int_equal(open_text(&a, bad[i].text, bad[i].bytes, &error), ESP_INVALID);
        assert_string_equal(error.field, "--token-file");
        assert_null(a);
    }
    auth *a;
    assert_int_equal(auth_open(&a, "/nonexistent/tokens", "--token-file", NULL), ESP_INVALID);
}

/* ---- the tables ---- */

static bool has_row(const rpc_method *table, uint32_t count, const char *path) {
    for (uint32_t i = 0; i < count; i++)
        if (!strcmp(table[i].path, path)) return true;
    return false;
}

/* Adapters are managed on the control listener alone, text is generated on the other alone. */
static void check_rows(const char *path) {
    bool manages = strstr(path, "/espalier.v1.Control/") == path;
    bool inference = strstr(path, "/espalier.v1.Inference/") == path;
    if (has_row(serve_methods, serve_method_count, path) == manages)
        fail_msg("%s is %s table of clients", path, manages ? "in the" : "not in the");
    if (has_row(control_methods, control_method_count, path) && inference)
        fail_msg("%s is in the control table", path);
    if (!has_row(control_methods, control_method_count, path) && manages)
        fail_msg("%s has no row", path);
}

/* What reflection shows is what the tables have: no method published without a policy, none served
 * unpublished. */
static void tables_have_a_row_for_each_published_method(void **state) {
    (void)state;
    uint32_t clients = 0, managers = 0;
    Espalier__Internal__FileSet *set =
        espalier__internal__file_set__unpack(NULL, descriptor_set_bytes, descriptor_set);
    for (size_t f = 0; f < set->n_file; f++) {
        Espalier__Internal__FileNames *file =
            espalier__internal__file_names__unpack(NULL, set->file[f].len, set->file[f].data);
        for (size_t s = 0; s < file->n_service; s++)
            for (size_t m = 0; m < file->service[s]->n_method; m++) {
                char path[256];
                snprintf(path, sizeof path, "/%s.%s/%s", file->package, file->service[s]->name,
                         file->service[s]->method[m]->name);
                check_rows(path);
                clients += has_row(serve_methods, serve_method_count, path);
                managers += has_row(control_methods, control_method_count, path);
            }
        espalier__internal__file_names__free_unpacked(file, NULL);
    }
    espalier__internal__file_set__free_unpacked(set, NULL);
    assert_int_equal(clients, serve_method_count);
    assert_int_equal(managers, control_method_count);
}

static const auth *walk_auth;

static bool authorise(void *arg, const char *header, size_t bytes) {
    (void)arg;
    return auth_allows(walk_auth, header, bytes);
}

/* Stands for every handler: the call got past the policy. */
static void on_passed(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    (void)arg, (void)message;
    esp_error error = {0};
    (void)esp_fail(&error, ESP_ABORTED, "passed");
    rpc_finish(call, NULL, &error);
}

static esp_code call_with(const char *address, const char *path, const char *token) {
    rpc_channel *channel;
    rpc_channel_options to = {.address = address, .token = token};
    Espalier__V1__ListModelsRequest nothing = ESPALIER__V1__LIST_MODELS_REQUEST__INIT;
    ProtobufCMessage *answer;
    assert_int_equal(rpc_channel_open(&channel, &to, NULL), ESP_OK);
    esp_code code =
        rpc_unary(channel, path, &nothing.base, &espalier__v1__list_models_response__descriptor,
                  60000, &answer, NULL);
    rpc_channel_close(channel);
    return code;
}

/* Every row x {no token, a wrong one, a removed one, the right one}. */
static void walk(const rpc_method *table, uint32_t count) {
    enum { ROWS_MAX = 64 };
    rpc_method rows[ROWS_MAX];
    char address[64];
    auth *a;
    esp_error error;
    rpc_server *server;
    assert_in_range(count, 1, ROWS_MAX);
    memcpy(rows, table, count * sizeof *rows);
    for (uint32_t i = 0; i < count; i++)
        rows[i].on_request = on_passed;
    assert_int_equal(open_text(&a, "right\n#removed\n", 15, &error), ESP_OK);
    walk_auth = a;
    rpc_options options = {
        .address = "127.0.0.1:0", .methods = rows, .method_count = count, .authorise = authorise};
    assert_int_equal(rpc_server_open(&server, &options, &error), ESP_OK);
    assert_int_equal(rpc_server_start(server, &error), ESP_OK);
    snprintf(address, sizeof address, "127.0.0.1:%u", rpc_server_port(server));
    for (uint32_t i = 0; i < count; i++) {
        bool open = strstr(rows[i].path, "/grpc.health.v1.Health/") == rows[i].path;
        esp_code without = open ? ESP_ABORTED : ESP_UNAUTHENTICATED;
        assert_int_equal(call_with(address, rows[i].path, NULL), without);
        assert_int_equal(call_with(address, rows[i].path, "wrong"), without);
        assert_int_equal(call_with(address, rows[i].path, "removed"), without);
        assert_int_equal(call_with(address, rows[i].path, "right"), ESP_ABORTED);
    }
    rpc_server_close(server);
    auth_close(a);
}

static void tables_are_enforced_row_by_row(void **state) {
    (void)state;
    walk(serve_methods, serve_method_count);
    walk(control_methods, control_method_count);
}

static int make_file(void **state) {
    (void)state;
    log_set_level(LOG_OFF);
    int fd = mkstemp(token_path);
    return fd < 0 ? -1 : close(fd);
}

static int drop_file(void **state) {
    (void)state;
    return unlink(token_path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_file_everyone_is_allowed),
        cmocka_unit_test(only_tokens_of_the_file_are_allowed),
        cmocka_unit_test(unusable_file_is_refused),
        cmocka_unit_test(tables_have_a_row_for_each_published_method),
        cmocka_unit_test(tables_are_enforced_row_by_row),
    };
    return cmocka_run_group_tests(tests, make_file, drop_file);
}
