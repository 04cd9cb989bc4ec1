/* flags.c - argv -> values -> fields. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/flags.h"

#include <stdlib.h>
#include <string.h>

const flag *flag_at(const flag_command *command, uint32_t index, size_t *base) {
    for (uint32_t part = 0; part < FLAG_TABLES_MAX && command->part[part].table; part++) {
        const flag_table *table = command->part[part].table;
        if (index < table->count) {
            *base = command->part[part].offset;
            return &table->flags[index];
        }
        index -= table->count;
    }
    return NULL;
}

void flag_values_free(flag_values *values) {
    for (uint32_t i = 0; i < FLAG_COUNT_MAX; i++) {
        free(values->text[i]);
        values->text[i] = NULL;
    }
}

/* What the command line gave: borrowed from argv; NULL = not given. */
typedef struct given {
    const char *value[FLAG_COUNT_MAX];
    struct {
        const flag *of; /* which FLAG_LIST option */
        const char *text;
    } list[FLAG_LIST_MAX]; /* the values of all of them, as they came */
    uint32_t list_count;
    const char *positional, *second;
    const char *config;
    bool help;
} given;

static bool find_flag(const flag_command *command, const char *name, size_t bytes, uint32_t *index,
                      const flag **out) {
    size_t base;
    for (uint32_t i = 0; (*out = flag_at(command, i, &base)); i++)
        if (strlen((*out)->name) == bytes && !memcmp((*out)->name, name, bytes)) {
            ESP_ASSERT(i < FLAG_COUNT_MAX);
            *index = i;
            return true;
        }
    return false;
}

static esp_code usage_error(esp_error *err, const flag_command *command, const char *what,
                            const char *seen) {
    return esp_fail_field(err, ESP_OUT_OF_RANGE, seen, "%s \"%s\"; see espalier %s --help", what,
                          seen, command->name);
}

static esp_code take_positional(const flag_command *command, char *word, given *g, esp_error *err) {
    const char **slot = g->positional ? &g->second : &g->positional;
    if (!(g->positional ? command->second : command->positional) || *slot)
        return usage_error(err, command, "unexpected argument", word);
    *slot = word;
    return ESP_OK;
}

static esp_code take_list(const flag *f, const char *text, given *g, esp_error *err) {
    if (g->list_count == FLAG_LIST_MAX)
        return esp_fail_field(err, ESP_OUT_OF_RANGE, f->name,
                              "--%s is one too many: at most %d options that may be repeated are "
                              "taken",
                              f->name, FLAG_LIST_MAX);
    g->list[g->list_count].of = f;
    g->list[g->list_count++].text = text;
    return ESP_OK;
}

/* "--name=value" or "--name value"; *next moves behind what was read. */
static esp_code take_flag(const flag_command *command, int argc, char **argv, int *next, given *g,
                          esp_error *err) {
    const char *word = argv[*next], *name = word + 2, *equals = strchr(name, '=');
    size_t bytes = equals ? (size_t)(equals - name) : strlen(name);
    ++*next;
    uint32_t index = 0;
    const flag *f = NULL;
    const char **slot = &g->config;
    bool config = command->config_file && bytes == 6 && !memcmp(name, "config", 6);
    if (!config) {
        if (!find_flag(command, name, bytes, &index, &f))
            return usage_error(err, command, "unknown option", word);
        slot = &g->value[index];
    }
    if (equals) {
        *slot = equals + 1;
    } else if (f && f->kind == FLAG_SWITCH) {
        *slot = "true";
    } else if (*next < argc) {
        *slot = argv[(*next)++];
    } else if (f && f->kind == FLAG_LATER) {
        *slot = ""; /* refused below, whatever it would have taken */
    } else {
        return esp_fail_field(err, ESP_OUT_OF_RANGE, word, "%s needs a value: %s %s", word, word,
                              f ? f->placeholder : "FILE");
    }
    return f && f->kind == FLAG_LIST ? take_list(f, *slot, g, err) : ESP_OK;
}

static esp_code read_words(const flag_command *command, int argc, char **argv, given *g,
                           esp_error *err) {
    bool only_positional = false;
    for (int i = 0; i < argc;) {
        esp_code code;
        if (!only_positional && !strcmp(argv[i], "--")) {
            only_positional = true;
            i++;
            continue;
        }
        if (!only_positional && (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))) {
            g->help = true;
            return ESP_OK;
        }
        if (!only_positional && !strncmp(argv[i], "--", 2))
            code = take_flag(command, argc, argv, &i, g, err);
        else if (!only_positional && argv[i][0] == '-' && argv[i][1])
            code = usage_error(err, command, "unknown option", argv[i]);
        else
            code = take_positional(command, argv[i++], g, err);
        if (code != ESP_OK) return code;
    }
    return ESP_OK;
}

static const char *last_component(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Of a FLAG_LIST option all values, of any other the one that counts. */
static esp_code set_one(const flag *f, const given *g, const char *source, const char *value,
                        void *base, esp_error *err) {
    bool listed = false;
    esp_code code = ESP_OK;
    for (uint32_t i = 0; i < g->list_count && code == ESP_OK; i++) {
        if (g->list[i].of != f) continue;
        listed = true;
        code = flag_set(f, source, g->list[i].text, base, err);
    }
    return listed ? code : flag_set(f, source, value, base, err);
}

/* The command's switch that needs no other option was given. */
static bool stands_alone(const flag_command *command, const given *g) {
    uint32_t index;
    const flag *f;
    return command->alone &&
           find_flag(command, command->alone, strlen(command->alone), &index, &f) &&
           g->value[index];
}

static esp_code set_all(const flag_command *command, const given *g, const flag_values *file,
                        void *target, esp_error *err) {
    const flag *f;
    size_t base;
    for (uint32_t i = 0; (f = flag_at(command, i, &base)); i++) {
        const char *value = g->value[i] ? g->value[i] : file->text[i];
        char source[128];
        if (g->value[i])
            snprintf(source, sizeof source, "--%s", f->name);
        else
            snprintf(source, sizeof source, "%s in %s", f->name,
                     g->config ? last_component(g->config) : "");
        if (value) {
            esp_code code = set_one(f, g, source, value, (char *)target + base, err);
            if (code != ESP_OK) return code;
        } else if (f->required && !stands_alone(command, g)) {
            return esp_fail_field(err, ESP_OUT_OF_RANGE, f->name,
                                  "--%s %s is missing; see espalier %s --help", f->name,
                                  f->placeholder, command->name);
        }
    }
    return ESP_OK;
}

static esp_code set_word(const flag_command *command, const char *word, const char *placeholder,
                         bool required, const char **out, esp_error *err) {
    if (!word && placeholder && required)
        return esp_fail(err, ESP_OUT_OF_RANGE, "%s is missing; see espalier %s --help", placeholder,
                        command->name);
    if (word) *out = word;
    return ESP_OK;
}

static esp_code set_positional(const flag_command *command, const given *g, void *target,
                               esp_error *err) {
    char *base = target;
    esp_code code =
        set_word(command, g->positional, command->positional, command->positional_required,
                 (const char **)(void *)(base + command->positional_offset), err);
    if (code != ESP_OK) return code;
    return set_word(command, g->second, command->second, true,
                    (const char **)(void *)(base + command->second_offset), err);
}

esp_code flags_parse(const flag_command *command, int argc, char **argv, void *target,
                     flag_values *values, bool *help, esp_error *err) {
    ESP_ASSERT(command && target && values && help);
    given g = {0};
    esp_code code = read_words(command, argc, argv, &g, err);
    *help = g.help;
    if (code != ESP_OK || g.help) return code;
    if (g.config) code = flag_file_load(command, g.config, values, err);
    if (code == ESP_OK) code = set_all(command, &g, values, target, err);
    if (code == ESP_OK) code = set_positional(command, &g, target, err);
    return code;
}
