/* store_name.c - what a name may be, and the ways to say which version of it. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "engine/adapters/store_inner.h"

static bool is_letter_or_digit(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

/* Why the byte may not stand there, or NULL. */
static const char *reason(const char *name, size_t at) {
    unsigned char c = (unsigned char)name[at];
    if (is_letter_or_digit(name[at])) return NULL;
    if (c == 0) return "it holds a NUL byte";
    if (c >= 0x80) return "it holds a character that is not ASCII, which may look like another";
    if (c >= 'A' && c <= 'Z') return "it holds a capital letter";
    if (c == '/' || c == '\\') return "it holds a path";
    if (at == 0) return "it does not begin with a letter or digit";
    if (c == '.' && name[at - 1] == '.') return "it holds \"..\"";
    return c == '.' || c == '_' || c == '-' ? NULL : "it holds another character";
}

esp_code store_check_name(const char *name, size_t bytes, esp_error *err) {
    char shown[64];
    const char *why = bytes == 0               ? "it is empty"
                      : bytes > STORE_NAME_MAX ? "it is too long"
                      : name[bytes - 1] == '.' ? "it ends in '.'"
                                               : NULL;
    for (size_t i = 0; i < bytes && i < STORE_NAME_MAX; i++) {
        const char *wrong = reason(name, i);
        if (wrong) {
            why = wrong;
            break;
        }
    }
    if (!why) return ESP_OK;
    esp_show(shown, sizeof shown, name, bytes);
    return esp_fail_field(err, ESP_INVALID, "name",
                          "adapter name \"%s\" (%zu bytes): %s; wanted 1 to %d of a-z, 0-9, '.', "
                          "'_' and '-', the first a letter or digit",
                          shown, bytes, why, STORE_NAME_MAX);
}

const char *store_hex_of(const char *digest) {
    size_t prefix = strlen(ADAPTER_DIGEST_PREFIX);
    if (strncmp(digest, ADAPTER_DIGEST_PREFIX, prefix) != 0) return NULL;
    const char *hex = digest + prefix;
    return sha256_read_hex(hex, NULL) && hex[SHA256_HEX_CHARS] == 0 ? hex : NULL;
}

static bool read_version(const char *text, uint32_t *out) {
    uint64_t value = 0;
    if (*text < '1' || *text > '9') return false;
    for (; *text >= '0' && *text <= '9' && value <= UINT32_MAX; text++)
        value = 10 * value + (uint64_t)(*text - '0');
    *out = (uint32_t)value;
    return *text == 0 && value <= UINT32_MAX;
}

static bool read_prefix(const char *text, char out[SHA256_HEX_CHARS + 1]) {
    size_t prefix = strlen(ADAPTER_DIGEST_PREFIX);
    if (strncmp(text, ADAPTER_DIGEST_PREFIX, prefix) != 0) return false;
    text += prefix;
    size_t digits = strspn(text, "0123456789abcdef");
    if (text[digits] || digits < STORE_PREFIX_MIN || digits > SHA256_HEX_CHARS) return false;
    memcpy(out, text, digits + 1);
    return true;
}

esp_code store_parse_reference(const char *text, store_reference *out, esp_error *err) {
    *out = (store_reference){0};
    const char *at = strchr(text, '@');
    size_t bytes = at ? (size_t)(at - text) : strlen(text);
    esp_code code = store_check_name(text, bytes, err);
    if (code != ESP_OK) return code;
    memcpy(out->name, text, bytes);
    if (!at || read_version(at + 1, &out->version) || read_prefix(at + 1, out->prefix))
        return ESP_OK;
    char shown[96];
    esp_show(shown, sizeof shown, at, strlen(at));
    return esp_fail_field(
        err, ESP_INVALID, "name",
        "adapter \"%s\": \"%s\" says no version; wanted %s@3, or %s@sha256: and %d "
        "to %d hexadecimal digits",
        out->name, shown, out->name, out->name, STORE_PREFIX_MIN, SHA256_HEX_CHARS);
}
