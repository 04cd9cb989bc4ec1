/* json_member.c - finds one member of a JSON object and makes a value of it alone. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/format/json_member.h"

#include <stdbool.h>
#include <string.h>

#include "engine/model/format/json_bytes.h"

typedef struct json_cursor {
    const char *at, *begin, *end;
    bool escaped; /* it stopped at a key of the object that has escapes */
} json_cursor;

typedef struct json_span {
    const char *at;
    size_t bytes;
} json_span;

static void skip_blanks(json_cursor *c) {
    while (c->at < c->end && memchr(" \t\r\n", *c->at, 4))
        c->at++;
}

/* One character, whatever blanks are before it. */
static bool take(json_cursor *c, char wanted) {
    skip_blanks(c);
    if (c->at == c->end || *c->at != wanted) return false;
    c->at++;
    return true;
}

/* What stands between the quotes. */
static bool take_string(json_cursor *c, json_span *out) {
    if (!take(c, '"')) return false;
    *out = (json_span){.at = c->at};
    while (c->at < c->end && *c->at != '"')
        c->at += *c->at == '\\' && c->end - c->at > 1 ? 2 : 1;
    out->bytes = (size_t)(c->at - out->at);
    return take(c, '"');
}

/* Up to the comma or bracket behind it, which is its object's. */
static bool take_value(json_cursor *c, json_span *out) {
    size_t depth = 0;
    json_span text;
    skip_blanks(c);
    *out = (json_span){.at = c->at};
    while (c->at < c->end) {
        char seen = *c->at;
        bool opens = seen == '{' || seen == '[', closes = seen == '}' || seen == ']';
        if (depth == 0 && (closes || seen == ',')) break;
        if (seen == '"') {
            if (!take_string(c, &text)) return false;
            continue;
        }
        depth += opens;
        depth -= closes;
        c->at++;
    }
    out->bytes = (size_t)(c->at - out->at);
    return depth == 0 && out->bytes > 0;
}

static bool is_key(json_span seen, const char *key) {
    return seen.bytes == strlen(key) && memcmp(seen.at, key, seen.bytes) == 0;
}

/* No key that is looked for needs escapes, and one that has some may be it all the same: it is not read, so that it is
 * not missed either. */
static bool take_key(json_cursor *c, json_span *out) {
    const char *begin = c->at;
    if (!take_string(c, out)) return false;
    c->escaped = memchr(out->at, '\\', out->bytes) != NULL;
    if (c->escaped) c->at = begin;
    return !c->escaped;
}

/* The whole object up to the end of its bytes; found: how often it has the member. */
static bool find_member(json_cursor *c, const char *key, json_span *value, uint32_t *found) {
    if (!take(c, '{')) return false;
    bool more = !take(c, '}');
    while (more) {
        json_span seen, one;
        if (!take_key(c, &seen) || !take(c, ':') || !take_value(c, &one)) return false;
        if (is_key(seen, key)) {
            *value = one;
            ++*found;
        }
        more = take(c, ',');
        if (!more && !take(c, '}')) return false;
    }
    skip_blanks(c);
    return c->at == c->end;
}

esp_code json_read_member(json_t **out, const void *bytes, size_t count, const char *key,
                          const char *name, esp_error *err) {
    json_cursor c = {.at = bytes, .begin = bytes, .end = (const char *)bytes + count};
    json_span value = {0};
    uint32_t found = 0;
    *out = NULL;
    bool whole = find_member(&c, key, &value, &found);
    if (c.escaped)
        return esp_fail(err, ESP_INVALID,
                        "%s: the file has a name written with escapes (\\), at its "
                        "byte %zu; wanted the names of its members as they are",
                        name, (size_t)(c.at - c.begin));
    if (!whole)
        return esp_fail(err, ESP_INVALID,
                        "%s: the file is not a valid JSON object, at its byte %zu", name,
                        (size_t)(c.at - c.begin));
    if (found > 1)
        return esp_fail(err, ESP_INVALID, "%s: the file has %u members \"%s\"; wanted one", name,
                        found, key);
    return found ? json_read_value(out, value.at, value.bytes, name, key, err) : ESP_OK;
}
