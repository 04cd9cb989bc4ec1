/* options.c - a command's words, and lists of ids. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "engine/base/mem.h"
#include "engine/commands/commands.h"
#include "engine/config.h"

esp_code command_options(const flag_command *command, int argc, char **argv, void *target, bool *go,
                         esp_error *err) {
    flag_values none = {{0}};
    bool help = false;
    ESP_ASSERT(!command->config_file); /* such a command keeps the values itself */
    esp_code code = flags_parse(command, argc, argv, target, &none, &help, err);
    if (help) flags_help(command, stdout);
    *go = code == ESP_OK && !help;
    return code;
}

static void push_id(tok_ids *ids, int32_t id) {
    if (ids->count == ids->capacity) {
        ids->capacity = ids->capacity ? 2 * ids->capacity : 64;
        ids->at = mem_resize(ids->at, ids->capacity, sizeof *ids->at);
    }
    ids->at[ids->count++] = id;
}

/* Digits at *text -> *id; false when there are none or the number is vocab or more. */
static bool read_id(const char **text, uint32_t vocab, int32_t *id) {
    uint64_t value = 0;
    const char *at = *text;
    for (; *at >= '0' && *at <= '9' && value < vocab; at++)
        value = 10 * value + (uint64_t)(*at - '0');
    bool good = at != *text && value < vocab && value <= INT32_MAX;
    *text = at;
    *id = (int32_t)value;
    return good;
}

esp_code read_ids(const char *text, uint32_t vocab, tok_ids *out, esp_error *err) {
    const char *at = text;
    for (;;) {
        at += strspn(at, " \t\n");
        const char *begin = at;
        int32_t id;
        bool good = read_id(&at, vocab, &id);
        at += strspn(at, " \t\n");
        if (!good || (*at && *at != ','))
            return esp_fail_field(
                err, ESP_OUT_OF_RANGE, "--ids",
                "--ids holds \"%.20s\" at number %u; wanted ids from 0 to %u with "
                "commas between, as in 1,2,3",
                begin, out->count + 1, vocab - 1);
        push_id(out, id);
        if (!*at++) return ESP_OK;
    }
}

esp_code read_concurrency(const char *text, tok_ids *out, esp_error *err) {
    esp_code code = read_ids(text, LIMIT_MAX_SEQS_MAX + 1, out, NULL);
    for (uint32_t i = 0; i < out->count; i++)
        if (out->at[i] == 0) code = ESP_OUT_OF_RANGE;
    if (code == ESP_OK && out->count <= CONCURRENCIES_MAX) return ESP_OK;
    return esp_fail_field(
        err, ESP_OUT_OF_RANGE, "--concurrency",
        "--concurrency is \"%s\"; wanted 1 to %d numbers from 1 to %d, as in 1,4,16", text,
        CONCURRENCIES_MAX, LIMIT_MAX_SEQS_MAX);
}
