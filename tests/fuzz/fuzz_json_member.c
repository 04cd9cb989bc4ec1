/* fuzz_json_member.c - any bytes as a JSON object of which one member is wanted: up to the first 0 byte its name, behind
 * that the object. Where the whole object can be read, the member is the one that it has, or there is none; where it
 * cannot, the member may be there all the same, for others are not looked at. */
// SPDX-License-Identifier: Apache-2.0
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/format/json_bytes.h"
#include "engine/model/format/json_member.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct text {
    const char *at;
    size_t bytes;
} text;

/* Of a valid object: the string that ends here is a name. */
static bool names_what_follows(const char *at, const char *end) {
    while (at < end && memchr(" \t\r\n", *at, 4))
        at++;
    return at < end && *at == ':';
}

/* Of a valid object: one of its own names, and not of those within, is written with escapes. */
static bool has_escaped_name(text object) {
    const char *end = object.at + object.bytes;
    bool quoted = false, escaped = false;
    uint32_t depth = 0;
    for (const char *at = object.at; at < end; at++) {
        if (quoted && *at == '\\') {
            escaped = true;
            at++;
        } else if (*at == '"') {
            if (quoted && escaped && depth == 1 && names_what_follows(at + 1, end)) return true;
            quoted = !quoted;
            escaped = false;
        } else if (!quoted) {
            depth += *at == '{' || *at == '[';
            depth -= *at == '}' || *at == ']';
        }
    }
    return false;
}

/* A whole number beyond 64 bits makes reals of all that are read with it (json_bytes.h): of the whole object, but of a
 * member only where it stands in it. */
static bool has_large_number(text object) {
    json_t *value = json_loadb(object.at, object.bytes, JSON_ALLOW_NUL, NULL);
    json_decref(value);
    return !value;
}

static json_t *as_reals(const json_t *value) {
    char *written = json_dumps(value, JSON_ENCODE_ANY);
    ESP_ASSERT(written);
    json_t *reals =
        json_loads(written, JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, NULL);
    free(written);
    ESP_ASSERT(reals);
    return reals;
}

static bool is_same(const json_t *a, const json_t *b, bool any_number) {
    if (!a || !b) return a == b;
    if (!any_number) return json_equal(a, b);
    json_t *x = as_reals(a), *y = as_reals(b);
    bool same = json_equal(x, y);
    json_decref(x);
    json_decref(y);
    return same;
}

/* whole: what the object is; NULL: it cannot be read. */
static void read_one(text object, const json_t *whole, const char *key) {
    json_t *member;
    esp_error err = {0};
    esp_code code = json_read_member(&member, object.at, object.bytes, key, "x.json", &err);
    ESP_ASSERT(code == ESP_OK || (code == ESP_INVALID && !member && err.message[0]));
    if (whole && has_escaped_name(object)) {
        ESP_ASSERT(code == ESP_INVALID && strstr(err.message, "written with escapes"));
    } else if (whole) {
        ESP_ASSERT(code == ESP_OK);
        ESP_ASSERT(is_same(member, json_object_get(whole, key), has_large_number(object)));
    }
    json_decref(member);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *cut = size ? memchr(data, 0, size) : NULL;
    if (!cut) return 0;
    text object = {(const char *)cut + 1, (size_t)(data + size - cut - 1)};
    json_t *whole, *one;
    const char *name;
    esp_error err = {0};
    esp_code code = json_read_tokens(&whole, object.at, object.bytes, "x.json", &err);
    ESP_ASSERT((code == ESP_OK) == (whole != NULL));
    read_one(object, whole, (const char *)data);
    size_t at = 0, wanted = json_object_size(whole) ? size % json_object_size(whole) : 0;
    json_object_foreach(whole, name, one) {
        if (at++ == wanted) read_one(object, whole, name);
    }
    json_decref(whole);
    return 0;
}
