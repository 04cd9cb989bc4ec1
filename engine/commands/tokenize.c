/* tokenize.c - espalier tokenize: text -> a JSON array of ids. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/commands/commands.h"
#include "engine/config.h"

typedef struct options {
    model_config model;
    const char *text;
    bool no_add_special, parse_special;
} options;

static const flag own_flags[] = {
    {.name = "text",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, text),
     .placeholder = "TEXT",
     .help = "the text; default: all of standard input, whatever bytes it holds"},
    {.name = "no-add-special",
     .kind = FLAG_SWITCH,
     .offset = offsetof(options, no_add_special),
     .help = "leave out the BOS and EOS tokens that the tokenizer's own rule adds"},
    {.name = "parse-special",
     .kind = FLAG_SWITCH,
     .offset = offsetof(options, parse_special),
     .help = "text like <|im_start|> becomes the special token; default: it is plain text"},
};
static const flag_table own_table = {
    .title = "Text", .flags = own_flags, .count = sizeof own_flags / sizeof *own_flags};

static const flag_command command = {
    .name = "tokenize",
    .summary = "Turns text into token ids, printed as a JSON array.",
    .usage = "--model PATH [--text TEXT] [options]",
    .examples = "  espalier tokenize --model m.gguf --text \"Hello world\"\n"
                "  espalier tokenize --model m.gguf < notes.txt\n",
    .part = {{&config_file_flags, offsetof(options, model)}, {&own_table, 0}},
};

static void print_ids(const tok_ids *ids) {
    putchar('[');
    for (uint32_t i = 0; i < ids->count; i++)
        printf(i ? ",%d" : "%d", ids->at[i]);
    printf("]\n");
}

esp_code command_tokenize(int argc, char **argv, esp_error *err) {
    options o = {0};
    bool go;
    esp_code code = command_options(&command, argc, argv, &o, &go, err);
    if (!go) return code;
    opened_file opened;
    char *input = NULL;
    size_t bytes = o.text ? strlen(o.text) : 0;
    code = open_file(o.model.model_path, &opened, err);
    if (code == ESP_OK && !o.text) code = read_stdin(&input, &bytes, err);
    tok_encode_options how = {.add_special = !o.no_add_special, .parse_special = o.parse_special};
    tok_ids ids = {0};
    if (code == ESP_OK)
        code = tok_encode(opened.tok, o.text ? o.text : input, bytes, &how, &ids, err);
    if (code == ESP_OK) print_ids(&ids);
    tok_ids_free(&ids);
    free(input);
    close_file(&opened);
    return code;
}
