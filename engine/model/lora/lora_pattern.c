/* lora_pattern.c - patterns of modules' names, on PCRE2 with limits. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/lora/lora_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/format/json_bytes.h"

/* Steps of one match: names are short, and honest patterns take some hundred. */
enum { STEPS_MAX = 20000, HEAP_KIB_MAX = 1024 };

struct lora_pattern {
    char *text;
    const char *key;
    lora_anchor anchor;
    pcre2_code *code; /* NULL: plain */
    pcre2_match_context *limits;
};

static bool is_plain(const char *text, lora_anchor anchor) {
    if (anchor != ANCHOR_ALL && anchor != ANCHOR_END) return false;
    for (; *text; text++) {
        bool word = (*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z') ||
                    (*text >= '0' && *text <= '9') || *text == '_' || *text == '.';
        if (!word) return false;
    }
    return true;
}

/* The pattern within what PEFT puts around it. */
static char *surround(const char *text, lora_anchor anchor) {
    static const char *const around[][2] = {
        [ANCHOR_ALL] = {"(?:", ")\\z"},
        [ANCHOR_END] = {"(?:.*\\.)?(?:", ")\\z"},
        [ANCHOR_LAYER] = {"(?:^|.*?\\.)(?:", ")\\.(?<n>\\d+)\\."},
        [ANCHOR_START] = {"", ""}};
    size_t bytes = strlen(text) + strlen(around[anchor][0]) + strlen(around[anchor][1]) + 1;
    char *all = mem_new(bytes, 1);
    snprintf(all, bytes, "%s%s%s", around[anchor][0], text, around[anchor][1]);
    return all;
}

static esp_code compile(lora_pattern *pattern, esp_error *err) {
    int number = 0;
    PCRE2_SIZE at = 0;
    char *all = surround(pattern->text, pattern->anchor);
    pattern->code = pcre2_compile((PCRE2_SPTR)all, PCRE2_ZERO_TERMINATED,
                                  PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C, &number, &at, NULL);
    free(all);
    if (!pattern->code) {
        PCRE2_UCHAR why[96] = "";
        pcre2_get_error_message(number, why, sizeof why);
        return esp_fail(err, ESP_INVALID, "adapter_config.json: %s: the pattern %s is wrong: %s",
                        pattern->key, json_show(pattern->text).text, (const char *)why);
    }
    pattern->limits = pcre2_match_context_create(NULL);
    ESP_ASSERT(pattern->limits);
    pcre2_set_match_limit(pattern->limits, STEPS_MAX);
    pcre2_set_depth_limit(pattern->limits, STEPS_MAX);
    pcre2_set_heap_limit(pattern->limits, HEAP_KIB_MAX);
    return ESP_OK;
}

esp_code lora_pattern_open(lora_pattern **out, const char *text, lora_anchor anchor,
                           const char *key, esp_error *err) {
    size_t bytes = strlen(text);
    *out = NULL;
    if (bytes == 0 || bytes > LORA_PATTERN_BYTES_MAX)
        return esp_fail(err, ESP_INVALID,
                        "adapter_config.json: %s: a pattern has %zu bytes; wanted 1 to %d", key,
                        bytes, LORA_PATTERN_BYTES_MAX);
    lora_pattern *pattern = mem_new(1, sizeof *pattern);
    pattern->text = mem_copy_text(text, bytes);
    pattern->key = key;
    pattern->anchor = anchor;
    esp_code code = is_plain(text, anchor) ? ESP_OK : compile(pattern, err);
    if (code)
        lora_pattern_close(pattern);
    else
        *out = pattern;
    return code;
}

void lora_pattern_close(lora_pattern *pattern) {
    if (!pattern) return;
    pcre2_code_free(pattern->code);
    pcre2_match_context_free(pattern->limits);
    free(pattern->text);
    free(pattern);
}

bool lora_pattern_is_plain(const lora_pattern *pattern) { return !pattern->code; }

/* A dot stands for any character, as in the regular expression that the text is. */
static bool match_plain(const lora_pattern *pattern, model_text name) {
    size_t bytes = strlen(pattern->text);
    if (bytes > name.bytes || (pattern->anchor == ANCHOR_ALL && bytes < name.bytes)) return false;
    const char *tail = name.at + name.bytes - bytes;
    if (tail > name.at && tail[-1] != '.') return false;
    for (size_t i = 0; i < bytes; i++)
        if (pattern->text[i] != '.' && pattern->text[i] != tail[i]) return false;
    return true;
}

/* Digits of the group that stands for the number. */
static void read_number(const lora_pattern *pattern, pcre2_match_data *match, model_text name,
                        uint32_t *number) {
    int group = pcre2_substring_number_from_name(pattern->code, (PCRE2_SPTR) "n");
    if (group < 0) return;
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(match);
    uint64_t value = 0;
    for (PCRE2_SIZE i = ends[2 * group]; i < ends[2 * group + 1] && value <= UINT32_MAX; i++)
        value = 10 * value + (uint64_t)(name.at[i] - '0');
    *number = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

esp_code lora_pattern_match(const lora_pattern *pattern, model_text name, bool *matches,
                            uint32_t *number, esp_error *err) {
    if (!pattern->code) {
        *matches = match_plain(pattern, name);
        return ESP_OK;
    }
    pcre2_match_data *match = pcre2_match_data_create_from_pattern(pattern->code, NULL);
    ESP_ASSERT(match);
    int groups =
        pcre2_match(pattern->code, (PCRE2_SPTR)name.at, name.bytes, 0, 0, match, pattern->limits);
    *matches = groups > 0;
    if (groups > 0 && number) read_number(pattern, match, name, number);
    pcre2_match_data_free(match);
    if (groups > 0 || groups == PCRE2_ERROR_NOMATCH) return ESP_OK;
    return esp_fail(err, ESP_INVALID,
                    "adapter_config.json: %s: the pattern %s takes more than %d steps on the name "
                    "of a module; wanted a simpler one",
                    pattern->key, json_show(pattern->text).text, STEPS_MAX);
}
