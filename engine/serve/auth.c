/* auth.c - bearer tokens. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/auth.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "engine/base/log.h"
#include "engine/base/mem.h"

typedef struct token_hash {
    uint8_t bytes[SHA256_DIGEST_LENGTH];
} token_hash;

struct auth {
    bool open_to_all;
    uint32_t count;
    token_hash *hashes;
};

/* Without the white space around it; false for a line that holds no token. */
static bool trim(const char **text, size_t *bytes) {
    static const char space[] = " \t\r\n";
    while (*bytes && strchr(space, **text))
        ++*text, --*bytes;
    while (*bytes && strchr(space, (*text)[*bytes - 1]))
        --*bytes;
    return *bytes > 0 && **text != '#';
}

static bool is_token(const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (text[i] <= ' ' || text[i] > '~') return false;
    return bytes <= AUTH_TOKEN_BYTES_MAX;
}

static esp_code add_line(auth *a, const char *text, size_t bytes, uint32_t line, const char *flag,
                         esp_error *err) {
    if (!trim(&text, &bytes)) return ESP_OK;
    if (!is_token(text, bytes))
        return esp_fail_field(err, ESP_INVALID, flag,
                              "%s: line %u is no token; wanted 1 to %d printable ASCII "
                              "characters without spaces",
                              flag, line, AUTH_TOKEN_BYTES_MAX);
    if (a->count == AUTH_TOKENS_MAX)
        return esp_fail_field(err, ESP_INVALID, flag, "%s: more than %d tokens in it", flag,
                              AUTH_TOKENS_MAX);
    a->hashes = mem_resize(a->hashes, a->count + 1, sizeof *a->hashes);
    SHA256((const uint8_t *)text, bytes, a->hashes[a->count++].bytes);
    return ESP_OK;
}

static esp_code read_lines(auth *a, FILE *file, const char *flag, esp_error *err) {
    char line[AUTH_TOKEN_BYTES_MAX + 64];
    esp_code code = ESP_OK;
    for (uint32_t number = 1; code == ESP_OK && fgets(line, sizeof line, file); number++) {
        size_t bytes = strlen(line);
        bool whole = bytes && (line[bytes - 1] == '\n' || feof(file));
        code = whole ? add_line(a, line, bytes, number, flag, err)
                     : esp_fail_field(err, ESP_INVALID, flag,
                                      "%s: line %u is too long or holds a NUL", flag, number);
    }
    OPENSSL_cleanse(line, sizeof line);
    return code;
}

static void warn_if_public(FILE *file) {
    struct stat st;
    if (fstat(fileno(file), &st) == 0 && (st.st_mode & (S_IRGRP | S_IROTH)))
        log_event(LOG_WARN, "token_file_readable",
                  "reason=\"others on this host may read the token file; chmod 600 it\"");
}

esp_code auth_open(auth **out, const char *token_file, const char *flag, esp_error *err) {
    auth *a = mem_new(1, sizeof *a);
    *out = NULL;
    a->open_to_all = !token_file;
    esp_code code = ESP_OK;
    if (token_file) {
        FILE *file = fopen(token_file, "re");
        if (!file) {
            auth_close(a);
            return esp_fail_field(err, ESP_INVALID, flag, "%s: cannot read %s: %s", flag,
                                  token_file, strerror(errno));
        }
        warn_if_public(file);
        code = read_lines(a, file, flag, err);
        fclose(file);
        if (code == ESP_OK && a->count == 0)
            code = esp_fail_field(err, ESP_INVALID, flag, "%s: no token in %s; nobody could call",
                                  flag, token_file);
    }
    if (code != ESP_OK)
        auth_close(a);
    else
        *out = a;
    return code;
}

void auth_close(auth *a) {
    if (!a) return;
    free(a->hashes);
    free(a);
}

bool auth_allows(const auth *a, const char *header, size_t bytes) {
    static const char scheme[] = "bearer ";
    enum { SCHEME_BYTES = sizeof scheme - 1 };
    if (a->open_to_all) return true;
    if (!header || bytes <= SCHEME_BYTES || strncasecmp(header, scheme, SCHEME_BYTES) != 0)
        return false;
    uint8_t hash[SHA256_DIGEST_LENGTH];
    SHA256((const uint8_t *)header + SCHEME_BYTES, bytes - SCHEME_BYTES, hash);
    bool found = false;
    for (uint32_t i = 0; i < a->count; i++) /* no early end */
        found |= CRYPTO_memcmp(hash, a->hashes[i].bytes, sizeof hash) == 0;
    return found;
}
