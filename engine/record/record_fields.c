/* record_fields.c - the values of one line: their types, their ranges, their lengths. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/config.h"
#include "engine/record/record_inner.h"

esp_code record_bad(const record_place *at, const char *key, const char *wanted, esp_error *err) {
    return esp_fail_field(err, ESP_INVALID, key, "%s: line %u: %s: wanted %s", at->file, at->line,
                          key, wanted);
}

esp_code record_text(const record_place *at, const json_t *object, const char *key,
                     size_t bytes_max, const char **out, esp_error *err) {
    const json_t *value = json_object_get(object, key);
    *out = json_string_value(value);
    if (*out && json_string_length(value) == strlen(*out) && strlen(*out) <= bytes_max)
        return ESP_OK;
    return record_bad(at, key, "a text of usual length", err);
}

static bool read_whole(const json_t *value, int64_t most, int64_t *out) {
    if (!json_is_integer(value)) return false;
    *out = json_integer_value(value);
    return *out >= 0 && *out <= most;
}

static esp_code read_u32(const record_place *at, const json_t *object, const char *key,
                         int64_t most, uint32_t *out, esp_error *err) {
    int64_t value;
    if (!read_whole(json_object_get(object, key), most, &value))
        return record_bad(at, key, "a whole number in its range", err);
    *out = (uint32_t)value;
    return ESP_OK;
}

/* Ranges are the policy's own check's; here only what a float32 can be. */
static esp_code read_float(const record_place *at, const json_t *object, const char *key,
                           float *out, esp_error *err) {
    const json_t *value = json_object_get(object, key);
    double number = json_number_value(value);
    if (!json_is_number(value) || number < -1e6 || number > 1e6)
        return record_bad(at, key, "a number from -1e6 to 1e6", err);
    *out = (float)number;
    return ESP_OK;
}

static esp_code read_ids(const record_place *at, const json_t *object, const char *key,
                         int32_t **out, uint32_t *count, esp_error *err) {
    const json_t *list = json_object_get(object, key);
    size_t length = json_array_size(list);
    if (!json_is_array(list) || length > LIMIT_CONTEXT_MAX)
        return record_bad(at, key, "a list of token ids", err);
    *out = mem_new(length ? length : 1, sizeof **out);
    *count = (uint32_t)length;
    for (size_t i = 0; i < length; i++) {
        int64_t id;
        if (!read_whole(json_array_get(list, i), INT32_MAX, &id))
            return record_bad(at, key, "token ids only", err);
        (*out)[i] = (int32_t)id;
    }
    return ESP_OK;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* `digits` hex digits as one number. */
static bool read_hex(const char *text, uint32_t digits, uint64_t *out) {
    *out = 0;
    for (uint32_t i = 0; i < digits; i++) {
        int digit = hex_digit(text[i]);
        if (digit < 0) return false;
        *out = *out << 4 | (uint64_t)digit;
    }
    return true;
}

static esp_code read_rows(const record_place *at, const json_t *object, record *out,
                          esp_error *err) {
    const char *key = "logits_xxh3", *wanted = "16 hex digits for each of the ids";
    const json_t *value = json_object_get(object, key);
    const char *text = json_string_value(value);
    if (!text || json_string_length(value) != (size_t)out->count * 16)
        return record_bad(at, key, wanted, err);
    out->rows = mem_new(out->count ? out->count : 1, sizeof *out->rows);
    for (uint32_t i = 0; i < out->count; i++)
        if (!read_hex(text + (size_t)i * 16, 16, &out->rows[i]))
            return record_bad(at, key, wanted, err);
    return ESP_OK;
}

/* One stop string behind the others. */
static bool read_stop(const json_t *value, record *out, size_t *used) {
    const char *text = json_string_value(value);
    size_t digits = text ? json_string_length(value) : 0;
    if (digits == 0 || digits % 2 || digits > 2 * SAMPLE_STOP_BYTES_MAX) return false;
    char *bytes = out->stop_bytes + *used;
    for (size_t i = 0; i < digits / 2; i++) {
        uint64_t byte;
        if (!read_hex(text + 2 * i, 2, &byte)) return false;
        bytes[i] = (char)byte;
    }
    out->stops[out->options.stop_count++] = (tok_text){bytes, digits / 2};
    *used += digits / 2;
    return true;
}

static esp_code read_stops(const record_place *at, const json_t *object, record *out,
                           esp_error *err) {
    const json_t *list = json_object_get(object, "stop_hex");
    size_t length = json_array_size(list), used = 0;
    const char *wanted = "a list of stop strings in hex digits, 1 to 256 bytes each, at most 16";
    if (!json_is_array(list) || length > SAMPLE_STOP_MAX)
        return record_bad(at, "stop_hex", wanted, err);
    if (length == 0) return ESP_OK;
    out->stops = mem_new(length, sizeof *out->stops);
    out->stop_bytes = mem_new(length, SAMPLE_STOP_BYTES_MAX);
    for (size_t i = 0; i < length; i++)
        if (!read_stop(json_array_get(list, i), out, &used))
            return record_bad(at, "stop_hex", wanted, err);
    return ESP_OK;
}

static esp_code read_seed(const record_place *at, const json_t *object, uint64_t *out,
                          esp_error *err) {
    const char *text, *wanted = "decimal digits of a number below 2^64, as a text";
    esp_code code = record_text(at, object, "seed", 20, &text, err);
    if (code != ESP_OK) return code;
    *out = 0;
    for (const char *c = text; *c; c++)
        if (*c < '0' || *c > '9' || __builtin_mul_overflow(*out, 10, out) ||
            __builtin_add_overflow(*out, (uint64_t)(*c - '0'), out))
            return record_bad(at, "seed", wanted, err);
    return *text ? ESP_OK : record_bad(at, "seed", wanted, err);
}

static bool read_bias_entry(const json_t *pair, sample_bias *out) {
    int64_t id;
    const json_t *bias = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !read_whole(json_array_get(pair, 0), INT32_MAX, &id) ||
        !json_is_number(bias))
        return false;
    double value = json_number_value(bias);
    *out = (sample_bias){.id = (int32_t)id, .bias = (float)value};
    return value >= -100 && value <= 100;
}

static esp_code read_bias(const record_place *at, const json_t *sampling, record *out,
                          esp_error *err) {
    const char *key = "logit_bias", *wanted = "a list of [id, bias from -100 to 100]";
    const json_t *list = json_object_get(sampling, key);
    size_t length = json_array_size(list);
    if (!json_is_array(list) || length > SAMPLE_BIAS_MAX) return record_bad(at, key, wanted, err);
    if (length == 0) return ESP_OK;
    out->bias = mem_new(length, sizeof *out->bias);
    out->options.policy.bias = out->bias;
    out->options.policy.bias_count = (uint32_t)length;
    for (size_t i = 0; i < length; i++)
        if (!read_bias_entry(json_array_get(list, i), &out->bias[i]))
            return record_bad(at, key, wanted, err);
    return ESP_OK;
}

static esp_code read_sampling(const record_place *at, const json_t *object, record *out,
                              esp_error *err) {
    const json_t *in = json_object_get(object, "sampling");
    sample_policy *p = &out->options.policy;
    if (!json_is_object(in)) return record_bad(at, "sampling", "an object", err);
    const struct {
        const char *key;
        float *to;
    } numbers[] = {
        {"temperature", &p->temperature},
        {"top_p", &p->top_p},
        {"min_p", &p->min_p},
        {"repetition_penalty", &p->repetition_penalty},
        {"presence_penalty", &p->presence_penalty},
        {"frequency_penalty", &p->frequency_penalty},
    };
    esp_code code = read_u32(at, in, "top_k", UINT32_MAX, &p->top_k, err);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers && code == ESP_OK; i++)
        code = read_float(at, in, numbers[i].key, numbers[i].to, err);
    return code == ESP_OK ? read_bias(at, in, out, err) : code;
}

static esp_code read_finish(const record_place *at, const json_t *object, finish_reason *out,
                            esp_error *err) {
    const char *text;
    esp_code code = record_text(at, object, "finish_reason", 16, &text, err);
    if (code != ESP_OK) return code;
    for (finish_reason reason = FINISH_STOP; reason <= FINISH_ERROR; reason++)
        if (!strcmp(text, finish_reason_name(reason))) {
            *out = reason;
            return ESP_OK;
        }
    return record_bad(at, "finish_reason", "stop, length, cancelled, deadline or error", err);
}

static bool is_adapter_digest(const char *text) {
    uint64_t part;
    size_t prefix = strlen(ADAPTER_DIGEST_PREFIX);
    if (strlen(text) != ADAPTER_DIGEST_CHARS - 1 ||
        strncmp(text, ADAPTER_DIGEST_PREFIX, prefix) != 0)
        return false;
    for (text += prefix; *text; text += 16)
        if (!read_hex(text, 16, &part)) return false;
    return true;
}

/* Both keys or neither. */
static esp_code read_adapter(const record_place *at, const json_t *object, record *out,
                             esp_error *err) {
    const char *label, *digest;
    if (!json_object_get(object, "adapter") && !json_object_get(object, "adapter_digest"))
        return ESP_OK;
    esp_code code = record_text(at, object, "adapter", sizeof out->adapter - 1, &label, err);
    if (code == ESP_OK && !*label) code = record_bad(at, "adapter", "name@version", err);
    if (code == ESP_OK)
        code = record_text(at, object, "adapter_digest", ADAPTER_DIGEST_CHARS, &digest, err);
    if (code == ESP_OK && !is_adapter_digest(digest))
        code = record_bad(at, "adapter_digest", "sha256: and 64 hex digits", err);
    if (code != ESP_OK) return code;
    strcpy(out->adapter, label);
    strcpy(out->adapter_digest, digest);
    return ESP_OK;
}

static esp_code read_answer(const record_place *at, const json_t *object, record *out,
                            esp_error *err) {
    esp_code code = read_ids(at, object, "ids", &out->ids, &out->count, err);
    if (code == ESP_OK && out->count > out->options.output_max)
        code = record_bad(at, "ids", "no more than max_tokens", err);
    if (code == ESP_OK) code = read_rows(at, object, out, err);
    return code == ESP_OK ? read_finish(at, object, &out->finish, err) : code;
}

esp_code record_fill(const record_place *at, const json_t *object, record *out, esp_error *err) {
    request_options *o = &out->options;
    const json_t *ignore = json_object_get(object, "ignore_eos");
    esp_code code = read_ids(at, object, "prompt", &out->prompt, &o->prompt_count, err);
    o->prompt = out->prompt;
    if (code == ESP_OK) code = read_adapter(at, object, out, err);
    if (code == ESP_OK)
        code = read_u32(at, object, "max_tokens", LIMIT_CONTEXT_MAX, &o->output_max, err);
    if (code == ESP_OK && !json_is_boolean(ignore))
        code = record_bad(at, "ignore_eos", "true or false", err);
    o->ignore_eos = json_is_true(ignore);
    if (code == ESP_OK) code = read_stops(at, object, out, err);
    o->stop = out->stops;
    if (code == ESP_OK) code = read_seed(at, object, &o->policy.seed, err);
    if (code == ESP_OK) code = read_sampling(at, object, out, err);
    return code == ESP_OK ? read_answer(at, object, out, err) : code;
}
