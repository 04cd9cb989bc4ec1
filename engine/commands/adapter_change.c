/* adapter_change.c - espalier adapter alias and remove. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/commands/adapter.h"

typedef struct options {
    const char *name, *version;
    store_place store;
} options;

/* ---- alias ---- */

static const flag_command alias_command = {
    .name = "adapter alias",
    .summary = "Makes the bare name mean that version, in one step: a request sees the one or the\n"
               "other. Requests that run go on with the version they began with.",
    .usage = "NAME VERSION [--store DIR]",
    .examples = "  espalier adapter alias intents 2\n",
    .positional = "NAME",
    .positional_offset = offsetof(options, name),
    .positional_required = true,
    .second = "VERSION",
    .second_offset = offsetof(options, version),
    .part = {{&store_flags, offsetof(options, store)}},
};

static esp_code read_version(const char *text, uint32_t *out, esp_error *err) {
    size_t digits = strspn(text, "0123456789");
    unsigned long value = digits && digits <= 10 && !text[digits] ? strtoul(text, NULL, 10) : 0;
    *out = (uint32_t)value;
    if (value > 0 && value <= UINT32_MAX) return ESP_OK;
    char shown[40];
    esp_show(shown, sizeof shown, text, strlen(text));
    return esp_fail(err, ESP_OUT_OF_RANGE,
                    "VERSION is \"%s\"; wanted a number that espalier adapter show lists", shown);
}

esp_code adapter_alias(int argc, char **argv, esp_error *err) {
    options o = {0};
    bool go;
    adapter_store *store;
    uint32_t version;
    esp_code code = command_options(&alias_command, argc, argv, &o, &go, err);
    if (!go) return code;
    code = read_version(o.version, &version, err);
    if (code == ESP_OK) code = open_store(&o.store, false, &store, err);
    if (code != ESP_OK) return code;
    code = store_set_alias(store, o.name, version, err);
    if (code == ESP_OK) printf("%s -> %s@%u\n", o.name, o.name, version);
    store_close(store);
    return code;
}

/* ---- remove ---- */

static const flag_command remove_command = {
    .name = "adapter remove",
    .summary = "Takes a version away, or with the bare name the name and all its versions. Files\n"
               "that no other name has go too; those that a server has in use, when it lets go.",
    .usage = "NAME[@VERSION] [--store DIR]",
    .examples = "  espalier adapter remove intents@1\n"
                "  espalier adapter remove intents\n",
    .positional = "NAME",
    .positional_offset = offsetof(options, name),
    .positional_required = true,
    .part = {{&store_flags, offsetof(options, store)}},
};

esp_code adapter_remove(int argc, char **argv, esp_error *err) {
    options o = {0};
    bool go;
    adapter_store *store;
    uint32_t count;
    esp_code code = command_options(&remove_command, argc, argv, &o, &go, err);
    if (!go) return code;
    code = open_store(&o.store, false, &store, err);
    if (code != ESP_OK) return code;
    code = store_remove(store, o.name, &count, err);
    if (code == ESP_OK) printf("removed %s: %u version%s\n", o.name, count, count == 1 ? "" : "s");
    store_close(store);
    return code;
}
