/* bench_tokenizer.c - how fast text becomes ids, and that twice the text takes about twice the
 * time.
 *
 *   bench_tokenizer MODEL.gguf|FOLDER [TEXT-FILE]
 *
 * Prints one JSON row: encode MB/s on text (of the file, or words drawn from the vocabulary, common
 * ones more often), the same as one long call, and for hostile texts MB/s and time(2N)/time(N) at N
 * = 1 MB: 2 is linear, 4 would be quadratic. Each figure is the best of five. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/model/format/gguf.h"
#include "engine/model/tokens/token_source.h"
#include "engine/text/tokenizer.h"

enum { MEGABYTE = 1 << 20, ROUNDS = 5, REQUEST_BYTES = 2048 };

static double encode_seconds(const tokenizer *tok, const char *text, size_t bytes, size_t at_once) {
    double best = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        tok_ids ids = {0};
        tok_encode_options options = {.parse_special = true};
        int64_t begin = clock_now_ns();
        for (size_t at = 0; at < bytes; at += at_once) {
            size_t part = bytes - at < at_once ? bytes - at : at_once;
            ESP_ASSERT(tok_encode(tok, text + at, part, &options, &ids, NULL) == ESP_OK);
        }
        double seconds = (double)(clock_now_ns() - begin) * 1e-9;
        if (seconds < best) best = seconds;
        tok_ids_free(&ids);
    }
    return best;
}

/* Words of the vocabulary, id u^3 of the way through it for u uniform. */
static void draw_words(const tokenizer *tok, char *text, size_t bytes) {
    uint64_t state = 1;
    for (size_t at = 0; at < bytes;) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        double u = (double)(state >> 33) / 2147483648.0;
        int32_t id = (int32_t)(u * u * u * tok_count(tok));
        tok_text word = tok_bytes(tok, id);
        if (tok_is_control(tok, id) || word.bytes > bytes - at) word = (tok_text){" ", 1};
        memcpy(text + at, word.at, word.bytes);
        at += word.bytes;
    }
}

static size_t read_text(const char *path, char *text, size_t bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) return perror(path), 0;
    size_t got = fread(text, 1, bytes, file);
    fclose(file);
    return got;
}

static void print_hostile(const tokenizer *tok, const char *name, const char *unit) {
    size_t unit_bytes = strlen(unit), count = MEGABYTE / unit_bytes, bytes = count * unit_bytes;
    char *text = mem_new(2 * bytes, 1);
    for (size_t i = 0; i < 2 * count; i++)
        memcpy(text + i * unit_bytes, unit, unit_bytes);
    double once = encode_seconds(tok, text, bytes, bytes);
    double twice = encode_seconds(tok, text, 2 * bytes, 2 * bytes);
    printf(",\"%s_mb_s\":%.1f,\"%s_doubling\":%.2f", name, (double)bytes / once * 1e-6, name,
           twice / once);
    free(text);
}

static void print_row(const tokenizer *tok, const char *model, const char *text, size_t bytes) {
    printf("{\"bench\":\"tokenizer\",\"version\":\"%s\",\"device\":\"cpu\",\"model\":\"%s\"",
           ESPALIER_VERSION, model);
    printf(",\"requests_mb_s\":%.1f",
           (double)bytes / encode_seconds(tok, text, bytes, REQUEST_BYTES) * 1e-6);
    printf(",\"one_text_mb_s\":%.1f",
           (double)bytes / encode_seconds(tok, text, bytes, bytes) * 1e-6);
    print_hostile(tok, "letter_a", "a");
    print_hostile(tok, "spaces", " ");
    print_hostile(tok, "cjk", "\xe6\xbc\xa2\xe5\xad\x97\xe4\xbb\xae\xe5\x90\x8d");
    print_hostile(tok, "digits", "7");
    print_hostile(tok, "special_begun", "<|im_start");
    print_hostile(tok, "invalid", "a\xff");
    printf("}\n");
}

static bool is_folder(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

static esp_code load(token_source *source, gguf_file **file, const char *path, esp_error *err) {
    if (is_folder(path)) return token_source_read_folder(source, path, err);
    esp_code code = gguf_open(file, path, err);
    return code ? code : token_source_read(source, *file, err);
}

int main(int argc, char **argv) {
    gguf_file *file = NULL;
    token_source source = {0};
    tokenizer *tok = NULL;
    esp_error err = {0};
    char name[96];
    if (argc < 2)
        return fprintf(stderr, "usage: bench_tokenizer MODEL.gguf|FOLDER [TEXT-FILE]\n"), 64;
    file_show_name(name, sizeof name, argv[1]);
    esp_code code = load(&source, &file, argv[1], &err);
    if (!code) code = tok_open(&tok, &source.source, &err);
    if (code) return fprintf(stderr, "bench_tokenizer: %s\n", err.message), esp_exit_status(code);
    char *text = mem_new(MEGABYTE, 1);
    size_t bytes = MEGABYTE;
    if (argc > 2)
        bytes = read_text(argv[2], text, MEGABYTE);
    else
        draw_words(tok, text, MEGABYTE);
    if (bytes) print_row(tok, name, text, bytes);
    free(text);
    tok_close(tok);
    token_source_free(&source);
    gguf_close(file);
    return bytes ? 0 : 66;
}
