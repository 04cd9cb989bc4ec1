/* sha256.h - SHA-256 of bytes that come one piece after another (FIPS 180-4).
 *
 * Thread  a sum belongs to one thread at a time. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_SHA256_H
#define ESPALIER_BASE_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SHA256_BYTES = 32, SHA256_HEX_CHARS = 64 };

typedef struct sha256_sum sha256_sum;

sha256_sum *sha256_open(void);
void sha256_close(sha256_sum *sum);
void sha256_add(sha256_sum *sum, const void *bytes, size_t count);
/* Ends the sum; nothing may be added behind it. */
void sha256_end(sha256_sum *sum, uint8_t out[SHA256_BYTES]);

/* 64 lower-case digits and a NUL. */
void sha256_hex(char out[SHA256_HEX_CHARS + 1], const uint8_t hash[SHA256_BYTES]);
/* Whether text begins with 64 lower-case hexadecimal digits; out may be NULL. */
bool sha256_read_hex(const char *text, uint8_t out[SHA256_BYTES]);

#endif
