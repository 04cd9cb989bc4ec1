/* vector_file.h - reads a file of one JSON object a line from tests/vectors. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_VECTOR_FILE_H
#define ESPALIER_TESTS_VECTOR_FILE_H

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer.h"

static inline FILE *vector_open(const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/vectors/%s", TEST_SOURCE_DIR, name);
    FILE *file = fopen(path, "r");
    if (!file) perror(path);
    return file;
}

/* The next line's object, or NULL at the end; the caller drops the reference. */
static inline json_t *vector_next(FILE *file) {
    char *line = NULL;
    size_t room = 0;
    ssize_t bytes = getline(&line, &room, file);
    json_error_t error;
    json_t *row = bytes > 0 ? json_loadb(line, (size_t)bytes, JSON_ALLOW_NUL, &error) : NULL;
    if (bytes > 0 && !row) fprintf(stderr, "vector file: %s in %.80s\n", error.text, line);
    free(line);
    return row;
}

/* A string member; {NULL, 0} when there is none. */
static inline tok_text vector_text(const json_t *row, const char *key) {
    const json_t *value = json_object_get(row, key);
    return (tok_text){json_string_value(value), value ? json_string_length(value) : 0};
}

/* A digest member, 16 hex digits. */
static inline uint64_t vector_digest(const json_t *row) {
    return strtoull(json_string_value(json_object_get(row, "digest")), NULL, 16);
}

#define FNV_START 0xcbf29ce484222325u

static inline uint64_t fnv(uint64_t state, const void *bytes, size_t count) {
    const uint8_t *at = bytes;
    for (size_t i = 0; i < count; i++)
        state = (state ^ at[i]) * 0x100000001b3u;
    return state;
}

#endif
