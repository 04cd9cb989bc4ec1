/* pretokenize.c - the table of pre-tokenizer patterns, and the stages that a plan declares.
 *
 * Each row is held against the `tokenizers` library by tests/unit/test_pretokenize. A convention
 * without such a check is not in the table. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/pretokenize.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/text/newer_unicode.h"
#include "engine/text/pre_inner.h"
#include "engine/text/pre_pattern.h"

enum { STAGES_MAX = 3, NAMES_MAX = 3 };

/* Members of character classes: \p{L}, \p{N} and \s of the published patterns. Space is spelled out
 * because PCRE2's \s has U+180E, which is no white space since Unicode 6.3. */
#define LETTER "\\p{L}" NEWER_LETTERS
#define NUMBER "\\p{N}" NEWER_NUMBERS
#define SPACE "\\t-\\r\\x{85}\\p{Z}"

#define EACH_DIGIT "[" NUMBER NEWEST_NUMBERS "]"

/* What the later patterns end in. */
#define SPACES_BUT_LAST "[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"

#define GPT2_WORDS                                                                                 \
    "'(?:s|t|re|ve|m|ll|d)| ?[" LETTER "]+| ?[" NUMBER "]+| ?[^" SPACE LETTER NUMBER               \
    "]+|" SPACES_BUT_LAST

/* digits: how many digits stay together, as a quantifier. */
#define CL100K_WORDS(digits)                                                                       \
    "(?i:'(?:s|t|re|ve|m|ll|d))|[^\\r\\n" LETTER NUMBER "]?[" LETTER "]+|[" NUMBER "]" digits      \
    "| ?[^" SPACE LETTER NUMBER "]+[\\r\\n]*|[" SPACE "]*[\\r\\n]+|" SPACES_BUT_LAST

/* Letters that may stand before the last small letter of a word, and those that may be small. */
#define HEAD "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}" NEWER_CAPITAL NEWER_CASELESS NEWER_MARKS
#define TAIL "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}" NEWER_SMALL NEWER_CASELESS NEWER_MARKS

/* A word is cut where a small letter meets a capital one. suffix: what may follow a word. */
#define CASED_WORDS(digits, suffix)                                                                \
    "[^\\r\\n" LETTER NUMBER "]?[" HEAD "]*[" TAIL "]+" suffix "|[^\\r\\n" LETTER NUMBER           \
    "]?[" HEAD "]+[" TAIL "]*" suffix "|[" NUMBER "]" digits "| ?[^" SPACE LETTER NUMBER           \
    "]+[\\r\\n/]*|[" SPACE "]*[\\r\\n]+|" SPACES_BUT_LAST

#define SHORT_FORM "(?i:'(?:s|t|re|ve|m|ll|d))?"

#define MARK "\\p{M}" NEWER_MARKS
#define SIGN "\\p{P}\\p{S}" NEWER_SIGNS

#define DEEPSEEK_WORDS                                                                             \
    "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n" LETTER SIGN "]?[" LETTER MARK "]+| ?[" SIGN               \
    "]+[\\r\\n]*|[" SPACE "]*[\\r\\n]+|" SPACES_BUT_LAST

typedef struct pre_row {
    const char *names[NAMES_MAX];   /* as in tokenizer.ggml.pre; NULL ends */
    const char *stages[STAGES_MAX]; /* NULL ends */
    bool takes_whole, wants_nfc;
} pre_row;

static const pre_row rows[] = {
    /* SmolLM, SmolLM2, StarCoder: tokenizer.json has Digits(individual_digits), then ByteLevel with
     * its own pattern. */
    {{"smollm", "starcoder"}, {EACH_DIGIT, GPT2_WORDS}, false, false},
    /* encoder.py of the GPT-2 release; ByteLevel(use_regex) of the tokenizers library. */
    {{"gpt-2", "gpt2"}, {GPT2_WORDS}, false, false},
    /* Llama 3: pattern and ignore_merges of its tokenizer.json. */
    {{"llama-bpe", "llama3", "llama-v3"}, {CL100K_WORDS("{1,3}")}, true, false},
    /* Qwen 2, 2.5 and 3: tokenizer.json has the normaliser NFC, then this pattern. */
    {{"qwen2"}, {CL100K_WORDS("")}, false, true},
    /* DeepSeek-R1's distillations into Qwen: that pattern, without the normaliser. */
    {{"deepseek-r1-qwen"}, {CL100K_WORDS("")}, false, false},
    /* Mistral Nemo and later: `pattern` of tekken.json; whole tokens first, as in tiktoken. */
    {{"tekken"}, {CASED_WORDS("", "")}, true, false},
    /* o200k of GPT-4o (Phi-4-mini), and Llama 4's tokenizer.py. */
    {{"gpt-4o", "llama4"}, {CASED_WORDS("{1,3}", SHORT_FORM)}, false, false},
    /* DeepSeek V3 and later: the three Splits of tokenizer.json. */
    {{"deepseek-v3"},
     {"[" NUMBER "]{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+",
      DEEPSEEK_WORDS},
     false,
     false},
};
enum { ROW_COUNT = sizeof rows / sizeof *rows };

/* ---- opening ---- */

static const pre_row *row_named(const char *name) {
    for (int r = 0; r < ROW_COUNT; r++) {
        for (int n = 0; n < NAMES_MAX && rows[r].names[n]; n++) {
            if (strcmp(rows[r].names[n], name) == 0) return &rows[r];
        }
    }
    return NULL;
}

static esp_code refuse_name(const char *name, esp_error *err) {
    char known[320] = "";
    for (int r = 0; r < ROW_COUNT; r++) {
        for (int n = 0; n < NAMES_MAX && rows[r].names[n]; n++) {
            size_t used = strlen(known);
            snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", rows[r].names[n]);
        }
    }
    return esp_fail_field(err, ESP_UNIMPLEMENTED, "tokenizer.ggml.pre",
                          "tokenizer.ggml.pre is %s%.64s%s; pre-tokenizers known here: %s",
                          name ? "\"" : "", name ? name : "missing", name ? "\"" : "", known);
}

esp_code pre_open(pretokenizer **out, const char *name, esp_error *err) {
    ESP_ASSERT(out);
    *out = NULL;
    const pre_row *row = name ? row_named(name) : NULL;
    if (!row) return refuse_name(name, err);
    pretokenizer *p = mem_new(1, sizeof *p);
    p->name = row->names[0];
    p->takes_whole = row->takes_whole;
    p->wants_nfc = row->wants_nfc;
    while (p->stage_count < STAGES_MAX && row->stages[p->stage_count]) {
        const char *pattern = row->stages[p->stage_count];
        pre_stage *stage = &p->stages[p->stage_count++];
        *stage = (pre_stage){.kind = TOK_SPLIT_REGEX, .behavior = TOK_ISOLATED};
        esp_code code = pre_pattern_compile(pattern, &stage->code, err);
        if (code) return pre_close(p), code;
    }
    *out = p;
    return ESP_OK;
}

static esp_code open_regex(pre_stage *stage, tok_text pattern, esp_error *err) {
    char *translated;
    esp_code code = pre_pattern_translate(pattern, &translated, err);
    if (!code) code = pre_pattern_compile(translated, &stage->code, err);
    free(translated);
    return code;
}

static esp_code open_stage(pre_stage *stage, const tok_split *split, esp_error *err) {
    *stage = (pre_stage){.kind = split->kind,
                         .behavior = split->behavior,
                         .invert = split->invert,
                         .first_only = split->first_only};
    switch (split->kind) {
    case TOK_SPLIT_REGEX:
        return open_regex(stage, split->pattern, err);
    case TOK_SPLIT_DIGITS:
        return pre_pattern_compile(EACH_DIGIT, &stage->code, err);
    case TOK_SPLIT_LITERAL:
    case TOK_SPLIT_PREFIX:
        if (split->pattern.bytes == 0)
            return esp_fail(err, ESP_INVALID, "a text to split at or to prepend is empty");
        stage->text = mem_copy_text(split->pattern.at, split->pattern.bytes);
        stage->text_bytes = split->pattern.bytes;
        return ESP_OK;
    case TOK_SPLIT_PUNCTUATION:
    case TOK_SPLIT_MARKS:
        break;
    }
    return ESP_OK;
}

esp_code pre_open_plan(pretokenizer **out, const tok_plan *plan, bool takes_whole, esp_error *err) {
    ESP_ASSERT(out && plan && plan->split_count <= TOK_STEPS_MAX);
    *out = NULL;
    pretokenizer *p = mem_new(1, sizeof *p);
    p->name = "declared";
    p->takes_whole = takes_whole;
    for (uint32_t i = 0; i < plan->split_count; i++) {
        esp_code code = open_stage(&p->stages[p->stage_count++], &plan->splits[i], err);
        if (code) return pre_close(p), code;
    }
    *out = p;
    return ESP_OK;
}

void pre_close(pretokenizer *p) {
    if (!p) return;
    for (uint32_t i = 0; i < p->stage_count; i++) {
        pcre2_code_free(p->stages[i].code);
        free(p->stages[i].text);
    }
    free(p);
}

bool pre_takes_whole(const pretokenizer *p) { return p->takes_whole; }

bool pre_wants_nfc(const pretokenizer *p) { return p->wants_nfc; }
