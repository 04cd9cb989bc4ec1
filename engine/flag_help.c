/* flag_help.c - --help, printed from the same table that parses. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "engine/flags.h"

enum { HELP_COLUMN = 28, HELP_WIDTH = 92 };

/* The sentence from HELP_COLUMN on, broken between words. */
static void print_help(const char *text, FILE *out) {
    size_t column = HELP_COLUMN;
    for (text += strspn(text, " "); *text; text += strspn(text, " ")) {
        size_t word = strcspn(text, " ");
        if (column == HELP_COLUMN) {
            column += word;
        } else if (column + 1 + word <= HELP_WIDTH) {
            fputc(' ', out);
            column += 1 + word;
        } else {
            fprintf(out, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN + word;
        }
        fprintf(out, "%.*s", (int)word, text);
        text += word;
    }
    fputc('\n', out);
}

static void print_flag(const char *name, const char *placeholder, const char *help, FILE *out) {
    int printed =
        fprintf(out, "  --%s%s%s", name, placeholder ? " " : "", placeholder ? placeholder : "");
    if (printed >= HELP_COLUMN - 1)
        fprintf(out, "\n%*s", HELP_COLUMN, "");
    else
        fprintf(out, "%*s", HELP_COLUMN - printed, "");
    print_help(help, out);
}

static void print_table(const flag_table *table, FILE *out) {
    fprintf(out, "\n%s:\n", table->title);
    for (uint32_t i = 0; i < table->count; i++) {
        const flag *f = &table->flags[i];
        if (f->kind != FLAG_LATER) print_flag(f->name, f->placeholder, f->help, out);
    }
}

void flags_help(const flag_command *command, FILE *out) {
    fprintf(out, "%s\n\nusage: espalier %s %s\n", command->summary, command->name, command->usage);
    for (uint32_t i = 0; i < FLAG_TABLES_MAX && command->part[i].table; i++)
        print_table(command->part[i].table, out);
    if (command->config_file) {
        fprintf(out, "\nConfiguration file:\n");
        print_flag(
            "config", "FILE",
            "YAML, one option a line by its name without dashes (max-seqs: 64); an option on "
            "the command line wins",
            out);
    }
    fprintf(out, "\nexamples:\n%s", command->examples);
}
