/* hf_ranks.c - a tokenizer.model of tiktoken's form: lines of base64 and rank, as Llama 3 and 4 have it.
 *
 * The file has neither pattern nor special tokens; both go by the number of ranks (llama_models' tokenizer.py
 * for the release in question). */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/tokens/hf_inner.h"

/* `count` special tokens named by a format that takes a number, from `first` on; count 0: one name as it is. */
typedef struct name_run {
    const char *format;
    uint32_t first, count;
} name_run;

enum { RUNS_MAX = 48, NAME_BYTES = 64, RANK_DIGITS_MAX = 7 };

typedef struct release {
    uint32_t rank_count, special_count;
    const char *pattern;
    name_run runs[RUNS_MAX];
} release;

#define LLAMA3_PATTERN                                                                             \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "                     \
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLAMA4_WORD(head, tail)                                                                    \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]" head                              \
    "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]" tail "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
#define LLAMA4_PATTERN                                                                             \
    LLAMA4_WORD("*", "+")                                                                          \
    LLAMA4_WORD("+", "*")                                                                          \
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const release releases[] = {
    {128000,
     256,
     LLAMA3_PATTERN,
     {{"<|begin_of_text|>", 0, 0},
      {"<|end_of_text|>", 0, 0},
      {"<|reserved_special_token_%u|>", 0, 2},
      {"<|finetune_right_pad_id|>", 0, 0},
      {"<|step_id|>", 0, 0},
      {"<|start_header_id|>", 0, 0},
      {"<|end_header_id|>", 0, 0},
      {"<|eom_id|>", 0, 0},
      {"<|eot_id|>", 0, 0},
      {"<|python_tag|>", 0, 0},
      {"<|image|>", 0, 0},
      {"<|reserved_special_token_%u|>", 2, 244}}},
    {200000,
     2048,
     LLAMA4_PATTERN,
     {{"<|begin_of_text|>", 0, 0},
      {"<|end_of_text|>", 0, 0},
      {"<|fim_prefix|>", 0, 0},
      {"<|fim_middle|>", 0, 0},
      {"<|fim_suffix|>", 0, 0},
      {"<|header_start|>", 0, 0},
      {"<|header_end|>", 0, 0},
      {"<|eom|>", 0, 0},
      {"<|eot|>", 0, 0},
      {"<|step|>", 0, 0},
      {"<|text_post_train_reserved_special_token_%u|>", 0, 6},
      {"<|python_start|>", 0, 0},
      {"<|python_end|>", 0, 0},
      {"<|finetune_right_pad|>", 0, 0},
      {"<|text_post_train_reserved_special_token_%u|>", 8, 61},
      {"<|image_start|>", 0, 0},
      {"<|image_end|>", 0, 0},
      {"<|vision_reserved_special_token_%u|>", 0, 2},
      {"<|tile_x_separator|>", 0, 0},
      {"<|tile_y_separator|>", 0, 0},
      {"<|vision_reserved_special_token_%u|>", 2, 4},
      {"<|image|>", 0, 0},
      {"<|vision_reserved_special_token_%u|>", 6, 1},
      {"<|patch|>", 0, 0},
      {"<|vision_reserved_special_token_%u|>", 7, 1041},
      {"<|reasoning_reserved_special_token_%u|>", 0, 8},
      {"<|reasoning_thinking_start|>", 0, 0},
      {"<|reasoning_thinking_end|>", 0, 0},
      {"<|reserved_special_token_%u|>", 0, 2048}}},
};

/* The file as it is read. */
typedef struct rank_file {
    const char *at;
    size_t left;
    uint32_t rank;
    size_t used; /* of the pool */
} rank_file;

static esp_code refuse_line(const hf_reader *r, const rank_file *f, const char *what) {
    char path[32];
    snprintf(path, sizeof path, "line %u", f->rank + 1);
    return hf_fail(r, ESP_INVALID, path, "%s; wanted base64, a space and the rank %u", what,
                   f->rank);
}

/* "IQ== 0\n" */
static esp_code read_line(const hf_reader *r, rank_file *f) {
    const char *end = memchr(f->at, '\n', f->left);
    size_t bytes = end ? (size_t)(end - f->at) : f->left, made = 0, number = 0;
    const char *space = memchr(f->at, ' ', bytes);
    if (!space) return refuse_line(r, f, "has no space");
    size_t coded = (size_t)(space - f->at), digits = bytes - coded - 1;
    for (size_t i = 0; i < digits && i < RANK_DIGITS_MAX; i++) {
        if (space[1 + i] < '0' || space[1 + i] > '9') return refuse_line(r, f, "has no number");
        number = number * 10 + (size_t)(space[1 + i] - '0');
    }
    if (digits == 0 || digits > RANK_DIGITS_MAX || number != f->rank)
        return refuse_line(r, f, "has another rank");
    char *to = r->out->pool + f->used;
    if (!hf_decode_base64((tok_text){f->at, coded}, (uint8_t *)to, &made) || made == 0)
        return refuse_line(r, f, "has no base64");
    r->out->tokens[f->rank] = (tok_text){to, made};
    r->out->types[f->rank++] = TOK_NORMAL;
    f->used += made;
    bytes += end != NULL;
    f->at += bytes;
    f->left -= bytes;
    return ESP_OK;
}

static uint32_t count_lines(const file_view *file) {
    uint32_t lines = 0;
    for (size_t i = 0; i < file->count; i++)
        lines += file->bytes[i] == '\n' || i + 1 == file->count;
    return lines;
}

static const release *release_of(uint32_t lines) {
    for (size_t i = 0; i < sizeof releases / sizeof *releases; i++) {
        if (releases[i].rank_count == lines) return &releases[i];
    }
    return NULL;
}

static void name_specials(token_source *out, const release *from, size_t used) {
    uint32_t id = from->rank_count;
    for (size_t i = 0; i < RUNS_MAX && from->runs[i].format; i++) {
        const name_run *run = &from->runs[i];
        const char *number = strstr(run->format, "%u");
        for (uint32_t k = 0; k < (run->count ? run->count : 1) && id < out->source.token_count;
             k++) {
            char *at = out->pool + used;
            int head = number ? (int)(number - run->format) : (int)strlen(run->format);
            int bytes = snprintf(at, NAME_BYTES, "%.*s", head, run->format);
            if (number)
                bytes += snprintf(at + bytes, NAME_BYTES - (size_t)bytes, "%u%s", run->first + k,
                                  number + 2);
            out->tokens[id] = (tok_text){at, (size_t)bytes};
            out->types[id++] = TOK_CONTROL;
            used += (size_t)bytes;
        }
    }
    ESP_ASSERT(id == out->source.token_count);
}

static void set_rules(hf_reader *r, const release *from) {
    token_source *out = r->out;
    strcpy(out->kind, "gpt2");
    snprintf(out->origin, sizeof out->origin, "tokenizer.model");
    out->splits[0] =
        (tok_split){.kind = TOK_SPLIT_REGEX, .pattern = {from->pattern, strlen(from->pattern)}};
    out->plan = (tok_plan){.split_count = 1, .splits = out->splits};
    out->source.plan = &out->plan;
    out->source.raw_bytes = out->source.merges_by_id = out->source.take_whole = true;
    r->first_id = (int32_t)from->rank_count; /* <|begin_of_text|> */
    out->source.eos = (int32_t)from->rank_count + 1;
}

esp_code hf_read_ranks(hf_reader *r, const file_view *file) {
    token_source *out = r->out;
    uint32_t lines = count_lines(file);
    const release *from = release_of(lines);
    if (!from)
        return hf_fail(r, ESP_UNIMPLEMENTED, "",
                       "has %u ranks; known are Llama 3's 128000 and Llama 4's 200000", lines);
    uint32_t count = from->rank_count + from->special_count;
    out->source.token_count = count;
    out->tokens = mem_new(count, sizeof *out->tokens);
    out->types = mem_new(count, sizeof *out->types);
    out->pool = mem_new(file->count + (size_t)from->special_count * NAME_BYTES, 1);
    rank_file f = {.at = (const char *)file->bytes, .left = file->count};
    while (f.rank < from->rank_count) {
        esp_code code = read_line(r, &f);
        if (code) return code;
    }
    name_specials(out, from, f.used);
    set_rules(r, from);
    return ESP_OK;
}
