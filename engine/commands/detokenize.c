/* detokenize.c - espalier detokenize: ids -> the bytes they stand for. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <unistd.h>

#include "engine/commands/commands.h"
#include "engine/config.h"

typedef struct options {
    model_config model;
    const char *ids;
} options;

static const flag own_flags[] = {
    {.name = "ids",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, ids),
     .placeholder = "1,2,3",
     .required = true,
     .help = "the token ids"},
};
static const flag_table own_table = {
    .title = "Tokens", .flags = own_flags, .count = sizeof own_flags / sizeof *own_flags};

static const flag_command command = {
    .name = "detokenize",
    .summary = "Turns token ids into text, with special tokens by their names, bytes that are no "
               "UTF-8 as\n"
               "U+FFFD, and no newline added (except on a terminal).",
    .usage = "--model PATH --ids 1,2,3",
    .examples = "  espalier detokenize --model m.gguf --ids 19556,905\n",
    .part = {{&config_file_flags, offsetof(options, model)}, {&own_table, 0}},
};

/* As a text of its own: without the space that a tokenizer put in front of it. */
static void print_text(const tokenizer *tok, const tok_ids *ids) {
    char piece[TOK_PIECE_MAX];
    tok_stream stream = {0};
    for (uint32_t i = 0; i < ids->count; i++)
        print_model_text(piece, tok_stream_next(tok, &stream, ids->at[i], true, piece));
    print_model_text(piece, tok_stream_end(&stream, piece));
    if (isatty(STDOUT_FILENO)) putchar('\n');
}

esp_code command_detokenize(int argc, char **argv, esp_error *err) {
    options o = {0};
    bool go;
    esp_code code = command_options(&command, argc, argv, &o, &go, err);
    if (!go) return code;
    opened_file opened;
    tok_ids ids = {0};
    code = open_file(o.model.model_path, &opened, err);
    if (code == ESP_OK) code = read_ids(o.ids, tok_count(opened.tok), &ids, err);
    if (code == ESP_OK) print_text(opened.tok, &ids);
    tok_ids_free(&ids);
    close_file(&opened);
    return code;
}
