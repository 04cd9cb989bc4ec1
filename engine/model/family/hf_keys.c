/* hf_keys.c - keys of a configuration within bounds. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/family/hf_keys.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/model/format/json_bytes.h"

static const json_t *value_of(const hf_section *section, const char *key) {
    return section->object ? json_object_get(section->object, key) : NULL;
}

bool hf_has(const hf_section *section, const char *key) {
    const json_t *value = value_of(section, key);
    return value && !json_is_null(value);
}

bool hf_is_null(const hf_section *section, const char *key) {
    return json_is_null(value_of(section, key));
}

/* Collects what fits of a dump and lets the rest go. */
typedef struct shown_part {
    char *at;
    size_t used, max;
} shown_part;

static int collect(const char *bytes, size_t count, void *arg) {
    shown_part *part = arg;
    for (size_t i = 0; i < count; i++) {
        if (part->used == part->max) return -1;
        part->at[part->used++] = bytes[i] < 0x20 || bytes[i] > 0x7e ? '?' : bytes[i];
    }
    return 0;
}

static hf_shown show(const json_t *value) {
    hf_shown shown = {{0}};
    if (json_is_object(value)) return (hf_shown){"an object"};
    if (json_is_array(value)) {
        snprintf(shown.text, sizeof shown.text, "a list of %zu", json_array_size(value));
        return shown;
    }
    shown_part part = {shown.text, 0, sizeof shown.text - 4};
    if (json_dump_callback(value, collect, &part, JSON_ENCODE_ANY | JSON_ENSURE_ASCII) != 0)
        memcpy(shown.text + part.used, "...", 4);
    return shown;
}

hf_shown hf_show(const hf_section *section, const char *key) {
    const json_t *value = value_of(section, key);
    return value ? show(value) : (hf_shown){"missing"};
}

static esp_code fail_value(const hf_section *section, const char *key, const char *wanted,
                           esp_error *err) {
    return esp_fail(err, ESP_INVALID, "%s: %s%s is %s; wanted %s", section->file, section->path,
                    key, hf_show(section, key).text, wanted);
}

static esp_code fail_missing(const hf_section *section, const char *key, esp_error *err) {
    return esp_fail(err, ESP_INVALID,
                    "%s: the key %s%s is missing; the folder is incomplete: download it again",
                    section->file, section->path, key);
}

static bool in_range(family_range range, json_int_t value) {
    return value >= range.min && value <= range.max &&
           (range.multiple == 0 || value % range.multiple == 0);
}

/* Holds a default against the range as well: a sentence about it names the key that would mend it. */
esp_code hf_may_u32(const hf_section *section, const char *key, family_range range, uint32_t *out,
                    esp_error *err) {
    char wanted[80];
    snprintf(wanted, sizeof wanted, "a whole number from %u to %u", range.min, range.max);
    if (range.multiple > 1)
        snprintf(wanted, sizeof wanted, "a multiple of %u from %u to %u", range.multiple, range.min,
                 range.max);
    if (!hf_has(section, key))
        return in_range(range, *out) ? ESP_OK : fail_value(section, key, wanted, err);
    const json_t *value = value_of(section, key);
    if (!json_is_integer(value) || !in_range(range, json_integer_value(value)))
        return fail_value(section, key, wanted, err);
    *out = (uint32_t)json_integer_value(value);
    return ESP_OK;
}

esp_code hf_need_u32(const hf_section *section, const char *key, family_range range, uint32_t *out,
                     esp_error *err) {
    if (!hf_has(section, key)) return fail_missing(section, key, err);
    return hf_may_u32(section, key, range, out, err);
}

static bool is_real(const json_t *value, double min, double max) {
    if (!json_is_number(value)) return false;
    double real = json_number_value(value);
    return isfinite(real) && real >= min && real <= max;
}

esp_code hf_may_real(const hf_section *section, const char *key, double min, double max,
                     double *out, esp_error *err) {
    char wanted[80];
    if (!hf_has(section, key)) return ESP_OK;
    const json_t *value = value_of(section, key);
    snprintf(wanted, sizeof wanted, "a number from %g to %g", min, max);
    if (!is_real(value, min, max)) return fail_value(section, key, wanted, err);
    *out = json_number_value(value);
    return ESP_OK;
}

esp_code hf_need_real(const hf_section *section, const char *key, double min, double max,
                      double *out, esp_error *err) {
    if (!hf_has(section, key)) return fail_missing(section, key, err);
    return hf_may_real(section, key, min, max, out, err);
}

esp_code hf_may_bool(const hf_section *section, const char *key, bool *out, esp_error *err) {
    if (!hf_has(section, key)) return ESP_OK;
    const json_t *value = value_of(section, key);
    if (!json_is_boolean(value)) return fail_value(section, key, "true or false", err);
    *out = json_is_true(value);
    return ESP_OK;
}

esp_code hf_may_text(const hf_section *section, const char *key, const char **out, esp_error *err) {
    if (!hf_has(section, key)) return ESP_OK;
    const json_t *value = value_of(section, key);
    if (!json_is_string(value)) return fail_value(section, key, "a text", err);
    *out = json_string_value(value);
    return ESP_OK;
}

static esp_code check_list(const hf_section *section, const char *key, uint32_t count,
                           const char *of, esp_error *err) {
    char wanted[80];
    const json_t *list = value_of(section, key);
    if (json_is_array(list) && json_array_size(list) == count) return ESP_OK;
    snprintf(wanted, sizeof wanted, "a list of %u %s", count, of);
    return fail_value(section, key, wanted, err);
}

esp_code hf_need_reals(const hf_section *section, const char *key, uint32_t count, double min,
                       double max, float *out, esp_error *err) {
    if (!hf_has(section, key)) return fail_missing(section, key, err);
    esp_code code = check_list(section, key, count, "numbers", err);
    const json_t *list = value_of(section, key);
    for (uint32_t i = 0; i < count && !code; i++) {
        const json_t *value = json_array_get(list, i);
        if (!is_real(value, min, max))
            return esp_fail(err, ESP_INVALID, "%s: %s%s[%u] is %s; wanted a number from %g to %g",
                            section->file, section->path, key, i, show(value).text, min, max);
        out[i] = (float)json_number_value(value);
    }
    return code;
}

esp_code hf_may_texts(const hf_section *section, const char *key, uint32_t count, const char **out,
                      bool *found, esp_error *err) {
    *found = hf_has(section, key);
    if (!*found) return ESP_OK;
    esp_code code = check_list(section, key, count, "texts", err);
    const json_t *list = value_of(section, key);
    for (uint32_t i = 0; i < count && !code; i++) {
        const json_t *value = json_array_get(list, i);
        if (!json_is_string(value))
            return esp_fail(err, ESP_INVALID, "%s: %s%s[%u] is %s; wanted a text", section->file,
                            section->path, key, i, show(value).text);
        out[i] = json_string_value(value);
    }
    return code;
}

esp_code hf_may_section(const hf_section *section, const char *key, hf_section *out,
                        esp_error *err) {
    *out = (hf_section){.file = section->file};
    if (!hf_has(section, key)) return ESP_OK;
    const json_t *value = value_of(section, key);
    if (!json_is_object(value)) return fail_value(section, key, "an object", err);
    out->object = value;
    snprintf(out->path, sizeof out->path, "%.*s%.30s.", (int)sizeof out->path - 32, section->path,
             key);
    return ESP_OK;
}

static bool is_known(const char *key, const char *const *known) {
    for (; *known; known++)
        if (strcmp(*known, key) == 0) return true;
    return false;
}

esp_code hf_refuse_unknown(const hf_section *section, const char *const *known, esp_error *err) {
    json_t *object = (json_t *)(uintptr_t)section->object, *value; /* the iterator wants no const */
    const char *key;
    json_object_foreach(object, key, value) {
        if (json_is_null(value) || is_known(key, known)) continue;
        return esp_fail(err, ESP_INVALID,
                        "%s: the key %s%s (%s) is not known here; a model that needs it would be "
                        "computed wrongly",
                        section->file, section->path, json_show(key).text, show(value).text);
    }
    return ESP_OK;
}

bool hf_is_empty(const hf_section *section, const char *key) {
    const json_t *value = value_of(section, key);
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_OBJECT:
        return json_object_size(value) == 0;
    case JSON_ARRAY:
        return json_array_size(value) == 0;
    case JSON_STRING:
        return json_string_length(value) == 0;
    case JSON_INTEGER:
    case JSON_REAL:
        return json_number_value(value) == 0;
    case JSON_TRUE:
        return false;
    case JSON_FALSE:
    case JSON_NULL:
        break;
    }
    return true;
}

bool hf_is_one(const hf_section *section, const char *key) {
    const json_t *value = value_of(section, key);
    return json_is_number(value) && json_number_value(value) == 1;
}

bool hf_is_equal(const hf_section *section, const char *a, const char *b) {
    return json_equal(value_of(section, a), value_of(section, b)) == 1;
}
