/* ids_of_texts.c - texts in, ids and the texts made of them out: what comparisons with other tokenizers run.
 *
 *   ids_of_texts FOLDER-OR-GGUF [--parse] [--add]
 *
 * stdin: for each text its bytes as u32, then they. stdout: for each the number of ids as u32, the ids as i32,
 * then the detokenised text's bytes as u32, then they. Little-endian. --parse: special tokens' text is
 * recognised; --add: the tokenizer's own BOS and EOS. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/mem.h"
#include "engine/model/tokens/token_source.h"

typedef struct loaded {
    gguf_file *file;
    token_source source;
    tokenizer *tok;
} loaded;

static esp_code load(loaded *l, const char *path, esp_error *err) {
    struct stat status;
    bool folder = stat(path, &status) == 0 && S_ISDIR(status.st_mode);
    esp_code code = folder ? ESP_OK : gguf_open(&l->file, path, err);
    if (code) return code;
    code = folder ? token_source_read_folder(&l->source, path, err)
                  : token_source_read(&l->source, l->file, err);
    return code ? code : tok_open(&l->tok, &l->source.source, err);
}

static void write_u32(uint32_t value) { fwrite(&value, sizeof value, 1, stdout); }

static void write_text(const tokenizer *tok, const tok_ids *ids) {
    char *text = mem_new((size_t)(ids->count + 1) * TOK_PIECE_MAX, 1);
    tok_stream stream = {0};
    size_t bytes = 0;
    for (uint32_t i = 0; i < ids->count; i++)
        bytes += tok_stream_next(tok, &stream, ids->at[i], true, text + bytes);
    bytes += tok_stream_end(&stream, text + bytes);
    write_u32((uint32_t)bytes);
    fwrite(text, 1, bytes, stdout);
    free(text);
}

static esp_code answer(const tokenizer *tok, const char *text, size_t bytes,
                       const tok_encode_options *options, esp_error *err) {
    tok_ids ids = {0};
    esp_code code = tok_encode(tok, text, bytes, options, &ids, err);
    if (!code) {
        write_u32(ids.count);
        fwrite(ids.at, sizeof *ids.at, ids.count, stdout);
        write_text(tok, &ids);
    }
    tok_ids_free(&ids);
    return code;
}

int main(int argc, char **argv) {
    loaded l = {0};
    esp_error err = {0};
    tok_encode_options options = {0};
    uint32_t bytes;
    for (int i = 2; i < argc; i++) {
        options.parse_special |= strcmp(argv[i], "--parse") == 0;
        options.add_special |= strcmp(argv[i], "--add") == 0;
    }
    if (argc < 2)
        return fprintf(stderr, "usage: ids_of_texts FOLDER-OR-GGUF [--parse] [--add]\n"), 64;
    esp_code code = load(&l, argv[1], &err);
    while (!code && fread(&bytes, sizeof bytes, 1, stdin) == 1) {
        char *text = mem_new((size_t)bytes + 1, 1);
        if (fread(text, 1, bytes, stdin) != bytes)
            code = esp_fail(&err, ESP_INVALID, "the input ends within a text");
        if (!code) code = answer(l.tok, text, bytes, &options, &err);
        free(text);
    }
    if (code) fprintf(stderr, "ids_of_texts: %s\n", err.message);
    tok_close(l.tok);
    token_source_free(&l.source);
    gguf_close(l.file);
    return code ? esp_exit_status(code) : 0;
}
