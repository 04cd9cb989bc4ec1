/* flags.h - a command's options as one table, from which come parsing, validation and --help.
 *
 * A flag_table describes the fields of one plain struct; a command is a list of such tables, each
 * with the place of its struct inside the command's own. Values come from the command line and, for
 * commands that have --config, from a YAML file; a flag wins over the file. Options that are
 * planned but not built are rows too: they are refused as such, not as unknown.
 *
 * Ownership  strings in the target are borrowed from argv or from the flag_values, which outlive
 * it. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_FLAGS_H
#define ESPALIER_FLAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/base/status.h"

typedef enum flag_kind {
    FLAG_TEXT,   /* const char * */
    FLAG_LIST,   /* flag_list: each time the option is given, its text is one more */
    FLAG_SWITCH, /* bool; takes no value on the command line */
    FLAG_U32,    /* uint32_t in [least, most] */
    FLAG_SPAN,   /* uint32_t in [least, most], alone or as in 4-7; number_offset: the last */
    FLAG_U64,    /* uint64_t */
    FLAG_BYTES,  /* uint64_t; K, M, G, T are powers of 1,024 */
    FLAG_F32,    /* float in [least, most] */
    FLAG_CHOICE, /* int; one of the choices */
    FLAG_LATER,  /* nothing: not built yet */
} flag_kind;

enum { FLAG_LIST_MAX = 64 };

typedef struct flag_list {
    const char *at[FLAG_LIST_MAX];
    uint32_t count;
} flag_list;

typedef struct flag_choice {
    const char *word; /* NULL ends the list; one that ends in ':' takes any rest */
    int value;
    int also;   /* second value, for also_offset */
    bool later; /* not built yet */
} flag_choice;

/* One option. Every name, place holder and sentence stands in --help. */
typedef struct flag {
    const char *name; /* "max-seqs" */
    flag_kind kind;
    size_t offset; /* of the field in the table's struct */
    const char *placeholder;
    const char *help; /* what it does, its unit, its default */
    double least, most;
    const flag_choice *choices;
    size_t also_offset;  /* int that takes the choice's second value; 0 = none */
    /* uint32_t <= most: what stands behind a choice that ends in ':', or the last of a span; 0 = none */
    size_t number_offset;
    size_t given_offset; /* bool set to true when the option was given; 0 = none */
    bool required;
} flag;

typedef struct flag_table {
    const char *title; /* heading in --help */
    const flag *flags;
    uint32_t count;
} flag_table;

enum { FLAG_TABLES_MAX = 4, FLAG_COUNT_MAX = 64, FLAG_CONFIG_BYTES_MAX = 1 << 20 };

typedef struct flag_command {
    const char *name;         /* "serve" */
    const char *summary;      /* one line */
    const char *usage;        /* the arguments, without "espalier NAME" */
    const char *examples;     /* whole lines */
    const char *positional;   /* placeholder of the one free argument, or NULL */
    size_t positional_offset; /* const char * */
    bool positional_required;
    const char *second;   /* placeholder of one more, which is required; or NULL */
    size_t second_offset; /* const char * */
    bool config_file;         /* takes --config FILE */
    const char *alone;        /* a switch with which nothing else is required, or NULL */
    struct {
        const flag_table *table;
        size_t offset; /* of the table's struct in the target */
    } part[FLAG_TABLES_MAX];
} flag_command;

/* Owns what a config file said; all-zero is empty. */
typedef struct flag_values {
    char *text[FLAG_COUNT_MAX];
} flag_values;
void flag_values_free(flag_values *values);

/* Fills the target, whose defaults are set before. ESP_OUT_OF_RANGE (exit 64) for a usage mistake,
 * ESP_UNIMPLEMENTED for an option of a later build; --help sets *help and looks at nothing else. */
ESP_CHECKED esp_code flags_parse(const flag_command *command, int argc, char **argv, void *target,
                                 flag_values *values, bool *help, esp_error *err);

void flags_help(const flag_command *command, FILE *out);

/* One value into its field of the struct at base. source begins error sentences: "--threads" or
 * "threads in serve.yaml". */
ESP_CHECKED esp_code flag_set(const flag *flag, const char *source, const char *value, void *base,
                              esp_error *err);

/* The file's value of each key, by index over all tables of the command; keys that are no option of
 * it, lists and nested mappings are refused. */
ESP_CHECKED esp_code flag_file_load(const flag_command *command, const char *path,
                                    flag_values *values, esp_error *err);

/* The i-th option of the command over all its tables, or NULL; *base is its struct's offset. */
const flag *flag_at(const flag_command *command, uint32_t index, size_t *base);

/* "4G", "512M", "1.5G", "4096" -> bytes; false when it is no size or too large. */
bool flag_read_bytes(const char *text, uint64_t *out);

#endif
