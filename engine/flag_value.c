/* flag_value.c - one word of the command line or of a config file -> one field. */
// SPDX-License-Identifier: Apache-2.0
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/flags.h"

/* All of text as a decimal number; strtoull would take signs, blanks and octal. */
static bool read_u64(const char *text, uint64_t *out) {
    uint64_t value = 0;
    if (!*text) return false;
    for (; *text; text++) {
        if (!isdigit((unsigned char)*text) || !check_mul(value, 10, &value) ||
            !check_add(value, (uint64_t)(*text - '0'), &value))
            return false;
    }
    *out = value;
    return true;
}

static bool read_double(const char *text, double *out) {
    char *end;
    if (!isdigit((unsigned char)*text) && *text != '-' && *text != '.') return false;
    errno = 0;
    *out = strtod(text, &end);
    return *end == '\0' && end != text && errno == 0;
}

/* Power of 1,024 of a unit; -1 for an unknown one. "G", "g", "GB" and "GiB" are one. */
static int unit_power(const char *unit) {
    static const char letters[] = "KMGT";
    if (!*unit || !strcasecmp(unit, "B")) return 0;
    const char *at = strchr(letters, toupper((unsigned char)unit[0]));
    if (!at) return -1;
    if (unit[1] && strcasecmp(unit + 1, "B") && strcasecmp(unit + 1, "iB")) return -1;
    return (int)(at - letters) + 1;
}

bool flag_read_bytes(const char *text, uint64_t *out) {
    size_t digits = strspn(text, "0123456789.");
    int power = unit_power(text + digits);
    char number[32];
    if (digits == 0 || digits >= sizeof number || power < 0) return false;
    memcpy(number, text, digits);
    number[digits] = '\0';
    uint64_t whole;
    if (read_u64(number, &whole)) return check_mul(whole, 1ull << (10 * power), out);
    double value;
    if (!read_double(number, &value)) return false;
    value *= (double)(1ull << (10 * power));
    if (!(value < 0x1p63)) return false;
    *out = (uint64_t)value;
    return true;
}

static esp_code bad(esp_error *err, const char *source, const char *value, const char *wanted) {
    return esp_fail_field(err, ESP_OUT_OF_RANGE, source, "%s is \"%s\"; wanted %s", source, value,
                          wanted);
}

static esp_code later(esp_error *err, const char *source, const char *value) {
    return esp_fail_field(err, ESP_UNIMPLEMENTED, source,
                          "%s%s%s is not in this build yet; leave it out", source,
                          *value ? " " : "", value);
}

static esp_code set_u32(const flag *f, const char *source, const char *value, void *field,
                        esp_error *err) {
    uint64_t number;
    char wanted[80];
    snprintf(wanted, sizeof wanted, "a whole number from %.0f to %.0f", f->least, f->most);
    if (!read_u64(value, &number) || (double)number < f->least || (double)number > f->most)
        return bad(err, source, value, wanted);
    *(uint32_t *)field = (uint32_t)number;
    return ESP_OK;
}

/* "3" or "4-7", ascending. */
static esp_code set_span(const flag *f, const char *source, const char *value, char *base,
                         esp_error *err) {
    uint64_t first, last;
    char wanted[120], text[24];
    const char *dash = strchr(value, '-');
    size_t bytes = dash ? (size_t)(dash - value) : strlen(value);
    snprintf(wanted, sizeof wanted,
             "a whole number from %.0f to %.0f, or the first and the last of several, as in 4-7",
             f->least, f->most);
    if (bytes >= sizeof text) return bad(err, source, value, wanted);
    memcpy(text, value, bytes);
    text[bytes] = 0;
    if (!read_u64(text, &first) || !read_u64(dash ? dash + 1 : text, &last) ||
        (double)first < f->least || (double)last > f->most || first > last)
        return bad(err, source, value, wanted);
    memcpy(base + f->offset, &(uint32_t){(uint32_t)first}, sizeof(uint32_t));
    memcpy(base + f->number_offset, &(uint32_t){(uint32_t)last}, sizeof(uint32_t));
    return ESP_OK;
}

static esp_code set_f32(const flag *f, const char *source, const char *value, void *field,
                        esp_error *err) {
    double number;
    char wanted[80];
    snprintf(wanted, sizeof wanted, "a number from %g to %g", f->least, f->most);
    if (!read_double(value, &number) || !(number >= f->least && number <= f->most))
        return bad(err, source, value, wanted);
    *(float *)field = (float)number;
    return ESP_OK;
}

static esp_code set_switch(const char *source, const char *value, void *field, esp_error *err) {
    bool on = !strcasecmp(value, "true") || !strcasecmp(value, "yes") || !strcasecmp(value, "on");
    bool off = !strcasecmp(value, "false") || !strcasecmp(value, "no") || !strcasecmp(value, "off");
    if (!on && !off) return bad(err, source, value, "true or false");
    *(bool *)field = on;
    return ESP_OK;
}

static bool matches(const flag_choice *c, const char *value) {
    size_t bytes = strlen(c->word);
    return c->word[bytes - 1] == ':' ? !strncmp(c->word, value, bytes) : !strcmp(c->word, value);
}

/* What stands behind the choice's ':'; 0 for one without. */
static esp_code set_number(const flag *f, const flag_choice *c, const char *source,
                           const char *value, char *base, esp_error *err) {
    uint64_t number = 0;
    size_t bytes = strlen(c->word);
    char wanted[80];
    snprintf(wanted, sizeof wanted, "a number from 0 to %.0f behind %s", f->most, c->word);
    if (c->word[bytes - 1] == ':' &&
        (!read_u64(value + bytes, &number) || (double)number > f->most))
        return bad(err, source, value, wanted);
    uint32_t field = (uint32_t)number;
    memcpy(base + f->number_offset, &field, sizeof field);
    return ESP_OK;
}

static esp_code set_choice(const flag *f, const char *source, const char *value, char *base,
                           esp_error *err) {
    char wanted[200] = "";
    for (const flag_choice *c = f->choices; c->word; c++) {
        if (matches(c, value)) {
            if (c->later) return later(err, source, value);
            memcpy(base + f->offset, &c->value, sizeof c->value);
            if (f->also_offset) memcpy(base + f->also_offset, &c->also, sizeof c->also);
            return f->number_offset ? set_number(f, c, source, value, base, err) : ESP_OK;
        }
        if (c->later) continue;
        size_t used = strlen(wanted);
        snprintf(wanted + used, sizeof wanted - used, "%s%s", used ? ", " : "one of ", c->word);
    }
    return bad(err, source, value, wanted);
}

static void add_text(flag_list *list, const char *value) {
    ESP_ASSERT(list->count < FLAG_LIST_MAX); /* flags.c takes no more */
    list->at[list->count++] = value;
}

esp_code flag_set(const flag *f, const char *source, const char *value, void *base,
                  esp_error *err) {
    char *field = (char *)base + f->offset;
    esp_code code = ESP_OK;
    switch (f->kind) {
    case FLAG_TEXT:
        memcpy(field, &value, sizeof value);
        break;
    case FLAG_LIST:
        add_text((flag_list *)(void *)field, value);
        break;
    case FLAG_SWITCH:
        code = set_switch(source, value, field, err);
        break;
    case FLAG_U32:
        code = set_u32(f, source, value, field, err);
        break;
    case FLAG_SPAN:
        code = set_span(f, source, value, base, err);
        break;
    case FLAG_U64:
        if (!read_u64(value, (uint64_t *)(void *)field))
            code = bad(err, source, value, "a whole number from 0 to 18446744073709551615");
        break;
    case FLAG_BYTES:
        if (!flag_read_bytes(value, (uint64_t *)(void *)field))
            code = bad(err, source, value, "bytes, as in 4096, 512M or 1.5G");
        break;
    case FLAG_F32:
        code = set_f32(f, source, value, field, err);
        break;
    case FLAG_CHOICE:
        code = set_choice(f, source, value, base, err);
        break;
    case FLAG_LATER:
        code = later(err, source, value);
        break;
    }
    if (code == ESP_OK && f->given_offset) ((char *)base)[f->given_offset] = true;
    return code;
}
