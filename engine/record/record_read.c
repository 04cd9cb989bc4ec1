/* record_read.c - a file of records, line by line; nothing in it is believed.
 *
 * A writer that was stopped in the middle of a line leaves one without its end: it is left out and
 * counted. Anything else that is wrong refuses the file by line and field. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/record/record_inner.h"

static void record_free(record *r) {
    free(r->prompt);
    free(r->bias);
    free(r->stops);
    free(r->stop_bytes);
    free(r->ids);
    free(r->rows);
}

void recording_free(recording *r) {
    for (uint32_t i = 0; i < r->count; i++)
        record_free(&r->records[i]);
    free(r->records);
    *r = (recording){0};
}

/* The next free record; it counts from now on, so that recording_free finds it. */
static record *add_record(recording *r, uint32_t line) {
    if (r->count == r->capacity) {
        r->capacity = r->capacity ? 2 * r->capacity : 64;
        r->records = mem_resize(r->records, r->capacity, sizeof *r->records);
    }
    record *added = &r->records[r->count++];
    *added = (record){.line = line};
    return added;
}

/* Equal bits are promised within one profile, of one model. */
static esp_code check_equal(const record_place *at, const recording *r, const char *key,
                            const char *first, const char *here, esp_error *err) {
    if (!strcmp(first, here)) return ESP_OK;
    char shown[PROFILE_BYTES_MAX];
    esp_show(shown, sizeof shown, here, strlen(here));
    return esp_fail_field(err, ESP_PRECONDITION, key,
                          "%s: line %u has the %s %s, line %u %s; replay them as two files",
                          at->file, at->line, key, shown, r->records[0].line, first);
}

static esp_code read_origin(const record_place *at, const json_t *object, recording *r,
                            esp_error *err) {
    const char *name, *path, *digest, *profile;
    esp_code code = record_text(at, object, "model", sizeof r->model - 1, &name, err);
    if (code == ESP_OK)
        code = record_text(at, object, "model_path", sizeof r->model_path - 1, &path, err);
    if (code == ESP_OK)
        code = record_text(at, object, "digest", sizeof r->digest - 1, &digest, err);
    if (code == ESP_OK)
        code = record_text(at, object, "profile", sizeof r->profile - 1, &profile, err);
    if (code != ESP_OK) return code;
    if (r->count > 1) {
        code = check_equal(at, r, "digest", r->digest, digest, err);
        return code == ESP_OK ? check_equal(at, r, "profile", r->profile, profile, err) : code;
    }
    strcpy(r->model, name); /* record_text held each one to its size */
    strcpy(r->model_path, path);
    strcpy(r->digest, digest);
    strcpy(r->profile, profile);
    return ESP_OK;
}

static esp_code check_format(const record_place *at, const json_t *object, esp_error *err) {
    const char *format = json_string_value(json_object_get(object, "format"));
    if (format && !strcmp(format, RECORD_FORMAT)) return ESP_OK;
    char shown[48];
    esp_show(shown, sizeof shown, format ? format : "nothing", strlen(format ? format : "nothing"));
    return esp_fail_field(err, ESP_INVALID, "format", "%s: line %u: format: %s; wanted %s",
                          at->file, at->line, shown, RECORD_FORMAT);
}

/* One object; NULL and ESP_OK for a line that was cut off. */
static esp_code parse_line(const record_place *at, const char *text, size_t bytes, json_t **out,
                           esp_error *err) {
    json_error_t why;
    *out = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
    if (json_is_object(*out)) return ESP_OK;
    if (!*out && json_error_code(&why) == json_error_premature_end_of_input) return ESP_OK;
    esp_code code = esp_fail(err, ESP_INVALID, "%s: line %u: %s; wanted one JSON object a line",
                             at->file, at->line, *out ? "not an object" : why.text);
    json_decref(*out);
    *out = NULL;
    return code;
}

static esp_code read_line(recording *r, const record_place *at, const char *text, size_t bytes,
                          esp_error *err) {
    if (bytes > RECORD_LINE_BYTES_MAX || r->count == RECORD_COUNT_MAX)
        return esp_fail(err, ESP_INVALID,
                        "%s: line %u has %zu bytes; at most %d lines of %d bytes are read",
                        at->file, at->line, bytes, RECORD_COUNT_MAX, RECORD_LINE_BYTES_MAX);
    json_t *object;
    esp_code code = parse_line(at, text, bytes, &object, err);
    if (code != ESP_OK) return code;
    if (!object) {
        r->cut++;
        return ESP_OK;
    }
    record *added = add_record(r, at->line);
    code = check_format(at, object, err);
    if (code == ESP_OK) code = read_origin(at, object, r, err);
    if (code == ESP_OK) code = record_fill(at, object, added, err);
    json_decref(object);
    return code;
}

esp_code recording_read(recording *out, const void *bytes, size_t count, const char *name,
                        esp_error *err) {
    const char *at = bytes, *end = at + count;
    record_place place = {.file = name};
    *out = (recording){0};
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)((newline ? newline : end) - at);
        place.line++;
        esp_code code = length ? read_line(out, &place, at, length, err) : ESP_OK;
        if (code != ESP_OK) return code;
        at += length + (newline != NULL);
    }
    if (out->count) return ESP_OK;
    return esp_fail(err, ESP_INVALID, "%s: holds no whole line; wanted what --record wrote", name);
}
