/* auth.h - bearer tokens from a file.
 *
 * One token a line; blank lines and lines that begin with # are skipped. In memory there are
 * SHA-256 hashes only.
 *
 * Thread  read-only after open: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_AUTH_H
#define ESPALIER_AUTH_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"

enum { AUTH_TOKENS_MAX = 4096, AUTH_TOKEN_BYTES_MAX = 512 };

typedef struct auth auth;

/* token_file NULL: everyone is allowed. A file without a token, or with a line that is no token, is
 * refused, naming the flag that gave it ("--token-file"). */
ESP_CHECKED esp_code auth_open(auth **out, const char *token_file, const char *flag, esp_error *err);
void auth_close(auth *a);

/* header: the value of "authorization" ("Bearer TOKEN"), NULL when the call had none. The time
 * taken tells nothing about the tokens. */
bool auth_allows(const auth *a, const char *header, size_t bytes);

#endif
