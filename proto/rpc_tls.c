/* rpc_tls.c - TLS credentials from PEM files, each checked here first: the core would say of a bad
 * one only that the handshake failed, and asserts on some. */
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "proto/rpc_parts.h"

enum { PEM_BYTES_MAX = 1 << 20 };

/* The file as text, or NULL in *out when path is NULL. */
static esp_code read_pem(char **out, const char *path, const char *flag, esp_error *err) {
    *out = NULL;
    if (!path) return ESP_OK;
    FILE *file = fopen(path, "rb");
    if (!file)
        return esp_fail_field(err, ESP_INVALID, flag, "%s: cannot read %s: %s", flag, path,
                              strerror(errno));
    char *text = mem_new(PEM_BYTES_MAX + 1, 1);
    size_t bytes = fread(text, 1, PEM_BYTES_MAX + 1, file);
    bool bad = ferror(file) || bytes > PEM_BYTES_MAX || memchr(text, '\0', bytes);
    fclose(file);
    if (bad) {
        free(text);
        return esp_fail_field(err, ESP_INVALID, flag, "%s: %s is not a PEM file", flag, path);
    }
    *out = mem_resize(text, bytes + 1, 1);
    return ESP_OK;
}

static X509 *parse_cert(const char *text) {
    BIO *bio = text ? BIO_new_mem_buf(text, -1) : NULL;
    X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    BIO_free(bio);
    return cert;
}

/* A key with a password would otherwise be asked for on the terminal. */
static int no_password(char *buffer, int size, int writing, void *arg) {
    (void)buffer, (void)size, (void)writing, (void)arg;
    return 0;
}

static EVP_PKEY *parse_key(const char *text) {
    BIO *bio = text ? BIO_new_mem_buf(text, -1) : NULL;
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
    BIO_free(bio);
    return key;
}

typedef struct pem_texts {
    char *cert, *key, *ca;
} pem_texts;

static void free_texts(pem_texts *t) {
    free(t->cert);
    if (t->key) OPENSSL_cleanse(t->key, strlen(t->key));
    free(t->key);
    free(t->ca);
}

static esp_code check_pair(const pem_texts *t, const char *cert_flag, const char *key_flag,
                           esp_error *err) {
    if (!t->cert && !t->key) return ESP_OK;
    if (!t->cert || !t->key)
        return esp_fail_field(err, ESP_INVALID, t->cert ? key_flag : cert_flag,
                              "%s and %s are given together or not at all", cert_flag, key_flag);
    X509 *cert = parse_cert(t->cert);
    EVP_PKEY *key = parse_key(t->key);
    esp_code code = ESP_OK;
    if (!cert)
        code = esp_fail_field(err, ESP_INVALID, cert_flag, "%s: no PEM certificate in the file",
                              cert_flag);
    else if (!key)
        code = esp_fail_field(err, ESP_INVALID, key_flag,
                              "%s: no PEM private key without password in the file", key_flag);
    else if (X509_check_private_key(cert, key) != 1)
        code = esp_fail_field(err, ESP_INVALID, key_flag,
                              "%s does not belong to the certificate of %s", key_flag, cert_flag);
    X509_free(cert);
    EVP_PKEY_free(key);
    ERR_clear_error();
    return code;
}

static esp_code check_ca(const pem_texts *t, const char *flag, esp_error *err) {
    if (!t->ca) return ESP_OK;
    X509 *cert = parse_cert(t->ca);
    ERR_clear_error();
    if (!cert)
        return esp_fail_field(err, ESP_INVALID, flag, "%s: no PEM certificate in the file", flag);
    X509_free(cert);
    return ESP_OK;
}

static esp_code read_all(pem_texts *out, const rpc_tls *tls, const char *cert_flag,
                         const char *key_flag, const char *ca_flag, esp_error *err) {
    esp_code code = read_pem(&out->cert, tls->cert_file, cert_flag, err);
    if (code == ESP_OK) code = read_pem(&out->key, tls->key_file, key_flag, err);
    if (code == ESP_OK) code = read_pem(&out->ca, tls->ca_file, ca_flag, err);
    if (code == ESP_OK) code = check_pair(out, cert_flag, key_flag, err);
    if (code == ESP_OK) code = check_ca(out, ca_flag, err);
    return code;
}

esp_code rpc_server_credentials(grpc_server_credentials **out, const rpc_tls *tls, esp_error *err) {
    pem_texts t = {0};
    esp_code code = read_all(&t, tls, "--tls-cert", "--tls-key", "--client-ca", err);
    if (code == ESP_OK && t.ca && !t.cert)
        code = esp_fail_field(err, ESP_INVALID, "--client-ca",
                              "--client-ca needs --tls-cert and --tls-key");
    if (code == ESP_OK && !t.cert) {
        *out = grpc_insecure_server_credentials_create();
    } else if (code == ESP_OK) {
        grpc_ssl_pem_key_cert_pair pair = {.private_key = t.key, .cert_chain = t.cert};
        *out = grpc_ssl_server_credentials_create_ex(
            t.ca, &pair, 1,
            t.ca ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                 : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
            NULL);
    }
    free_texts(&t);
    return code;
}

esp_code rpc_channel_credentials(grpc_channel_credentials **out, const rpc_tls *tls, bool secure,
                                 esp_error *err) {
    pem_texts t = {0};
    esp_code code = read_all(&t, tls, "--cert", "--key", "--ca", err);
    if (code == ESP_OK && !secure && !t.cert && !t.ca) {
        *out = grpc_insecure_credentials_create();
    } else if (code == ESP_OK) {
        grpc_ssl_pem_key_cert_pair pair = {.private_key = t.key, .cert_chain = t.cert};
        *out = grpc_ssl_credentials_create_ex(t.ca, t.cert ? &pair : NULL, NULL, NULL);
    }
    free_texts(&t);
    return code;
}
