/* sha256.c - OpenSSL's SHA-256 behind a small door. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/sha256.h"

#include <openssl/evp.h>
#include <stdio.h>

#include "engine/base/status.h"

/* The library's own context under our name. */
static EVP_MD_CTX *inner(sha256_sum *sum) { return (EVP_MD_CTX *)sum; }

sha256_sum *sha256_open(void) {
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    ESP_ASSERT(context && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1);
    return (sha256_sum *)context;
}

void sha256_close(sha256_sum *sum) { EVP_MD_CTX_free(inner(sum)); }

void sha256_add(sha256_sum *sum, const void *bytes, size_t count) {
    ESP_ASSERT(EVP_DigestUpdate(inner(sum), bytes, count) == 1);
}

void sha256_end(sha256_sum *sum, uint8_t out[SHA256_BYTES]) {
    ESP_ASSERT(EVP_DigestFinal_ex(inner(sum), out, NULL) == 1);
}

void sha256_hex(char out[SHA256_HEX_CHARS + 1], const uint8_t hash[SHA256_BYTES]) {
    for (int i = 0; i < SHA256_BYTES; i++)
        snprintf(out + 2 * i, 3, "%02x", hash[i]);
}

static int digit_of(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool sha256_read_hex(const char *text, uint8_t out[SHA256_BYTES]) {
    for (int i = 0; i < SHA256_BYTES; i++) {
        int high = digit_of(text[2 * i]), low = high < 0 ? -1 : digit_of(text[2 * i + 1]);
        if (low < 0) return false;
        if (out) out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}
