/* test_rpc_tls.c - TLS and mutual TLS on loopback, with certificates made here. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/log.h"
#include "espalier/v1/inference.pb-c.h"
#include "proto/rpc.h"

enum { TIMEOUT_MS = 20000 };

/* A key, and a certificate that signs itself: its own authority. */
typedef struct identity {
    char cert_file[64], key_file[64];
} identity;

static FILE *temporary(char path[64]) {
    strcpy(path, "/tmp/espalier-pem-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    return fdopen(fd, "w");
}

static void add_extension(X509 *cert, int kind, const char *value) {
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, kind, value);
    assert_non_null(extension);
    assert_int_equal(X509_add_ext(cert, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

static void make_identity(identity *out, long serial) {
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    X509_NAME *name = X509_get_subject_name(cert);
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), serial);
    X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
    X509_gmtime_adj(X509_getm_notAfter(cert), 86400);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"test", -1, -1, 0);
    X509_set_issuer_name(cert, name);
    X509_set_pubkey(cert, key);
    add_extension(cert, NID_basic_constraints, "critical,CA:TRUE");
    add_extension(cert, NID_subject_alt_name, "IP:127.0.0.1");
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    FILE *file = temporary(out->cert_file);
    assert_int_equal(PEM_write_X509(file, cert), 1);
    fclose(file);
    file = temporary(out->key_file);
    assert_int_equal(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(file);
    X509_free(cert);
    EVP_PKEY_free(key);
}

static identity server_id, client_id, stranger_id;

static int make_files(void **state) {
    (void)state;
    log_set_level(LOG_OFF);
    make_identity(&server_id, 1);
    make_identity(&client_id, 2);
    make_identity(&stranger_id, 3);
    return 0;
}

static int drop_files(void **state) {
    (void)state;
    const identity *all[] = {&server_id, &client_id, &stranger_id};
    for (uint32_t i = 0; i < 3; i++) {
        unlink(all[i]->cert_file);
        unlink(all[i]->key_file);
    }
    return 0;
}

static void on_hello(void *arg, rpc_call *call, const ProtobufCMessage *asked) {
    (void)arg, (void)asked;
    Espalier__V1__DetokenizeResponse answer = ESPALIER__V1__DETOKENIZE_RESPONSE__INIT;
    rpc_finish(call, &answer.base, NULL);
}

static const rpc_method methods[] = {{.path = "/test.Tls/Hello",
                                      .access = RPC_ACCESS_ANYONE,
                                      .request = &espalier__v1__tokenize_request__descriptor,
                                      .on_request = on_hello}};

static rpc_server *open_server(const char *client_ca) {
    rpc_server *server;
    esp_error error = {0};
    rpc_options options = {.address = "127.0.0.1:0",
                           .tls = {.cert_file = server_id.cert_file,
                                   .key_file = server_id.key_file,
                                   .ca_file = client_ca},
                           .methods = methods,
                           .method_count = 1};
    if (rpc_server_open(&server, &options, &error) != ESP_OK) fail_msg("%s", error.message);
    assert_int_equal(rpc_server_start(server, &error), ESP_OK);
    return server;
}

static esp_code hello(const rpc_server *server, const char *roots, const identity *own) {
    char address[64];
    rpc_channel *channel;
    ProtobufCMessage *answer = NULL;
    Espalier__V1__TokenizeRequest nothing = ESPALIER__V1__TOKENIZE_REQUEST__INIT;
    snprintf(address, sizeof address, "127.0.0.1:%u", rpc_server_port(server));
    rpc_channel_options to = {.address = address,
                              .tls = {.ca_file = roots,
                                      .cert_file = own ? own->cert_file : NULL,
                                      .key_file = own ? own->key_file : NULL}};
    assert_int_equal(rpc_channel_open(&channel, &to, NULL), ESP_OK);
    esp_code code =
        rpc_unary(channel, "/test.Tls/Hello", &nothing.base,
                  &espalier__v1__detokenize_response__descriptor, TIMEOUT_MS, &answer, NULL);
    if (answer) protobuf_c_message_free_unpacked(answer, NULL);
    rpc_channel_close(channel);
    return code;
}

static void tls_server_answers_clients_that_trust_it(void **state) {
    (void)state;
    rpc_server *server = open_server(NULL);
    assert_int_equal(hello(server, server_id.cert_file, NULL), ESP_OK);
    assert_int_equal(hello(server, stranger_id.cert_file, NULL), ESP_UNAVAILABLE);
    assert_int_equal(hello(server, NULL, NULL), ESP_UNAVAILABLE); /* plain text */
    rpc_server_close(server);
}

/* Without a certificate, and with one of another authority: no connection, so no call. */
static void mutual_tls_wants_a_certificate_of_the_authority(void **state) {
    (void)state;
    rpc_server *server = open_server(client_id.cert_file);
    assert_int_equal(hello(server, server_id.cert_file, &client_id), ESP_OK);
    assert_int_equal(hello(server, server_id.cert_file, NULL), ESP_UNAVAILABLE);
    assert_int_equal(hello(server, server_id.cert_file, &stranger_id), ESP_UNAVAILABLE);
    rpc_server_close(server);
}

static void key_of_another_certificate_is_refused(void **state) {
    (void)state;
    rpc_server *server;
    esp_error error = {0};
    rpc_options options = {
        .address = "127.0.0.1:0",
        .tls = {.cert_file = server_id.cert_file, .key_file = stranger_id.key_file}};
    assert_int_equal(rpc_server_open(&server, &options, &error), ESP_INVALID);
    assert_string_equal(error.field, "--tls-key");
}

int main(void) {
#ifdef __SANITIZE_THREAD__
    /* OpenSSL is not instrumented either, and we suppress no library but the C core's. test_rpc runs there. */
    return 77;
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tls_server_answers_clients_that_trust_it),
        cmocka_unit_test(mutual_tls_wants_a_certificate_of_the_authority),
        cmocka_unit_test(key_of_another_certificate_is_refused),
    };
    return cmocka_run_group_tests(tests, make_files, drop_files);
}
