/* pretokenize.c - the table of pre-tokenizer patterns, and cutting by them.
 *
 * Each row is held against the `tokenizers` library by tests/unit/test_pretokenize. A convention
 * without such a check is not in the table. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/text/pretokenize.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/text/newer_unicode.h"

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

struct pretokenizer {
    const pre_row *row;
    uint32_t stage_count;
    pcre2_code *stages[STAGES_MAX];
};

struct pre_cutter {
    const pretokenizer *pre;
    pcre2_match_data *match;
    pcre2_match_context *context;
    const pre_visitor *visitor; /* of the call that runs */
    esp_error *err;
};

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

static esp_code compile(const char *pattern, pcre2_code **out, esp_error *err) {
    int error;
    PCRE2_SIZE offset;
    /* The subject is validated by the caller; checking it again at every match would be quadratic.
     */
    *out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &error, &offset, NULL);
    if (!*out) {
        char reason[120];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)reason, sizeof reason);
        return esp_fail(err, ESP_INTERNAL, "pre-tokenizer pattern fails at offset %zu: %s", offset,
                        reason);
    }
    /* Where the kernel forbids making code, PCRE2 interprets: slower, same matches. */
    (void)pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);
    return ESP_OK;
}

esp_code pre_open(pretokenizer **out, const char *name, esp_error *err) {
    ESP_ASSERT(out);
    *out = NULL;
    const pre_row *row = name ? row_named(name) : NULL;
    if (!row) return refuse_name(name, err);
    pretokenizer *p = mem_new(1, sizeof *p);
    p->row = row;
    while (p->stage_count < STAGES_MAX && row->stages[p->stage_count]) {
        esp_code code = compile(row->stages[p->stage_count], &p->stages[p->stage_count], err);
        if (code) return pre_close(p), code;
        p->stage_count++;
    }
    *out = p;
    return ESP_OK;
}

void pre_close(pretokenizer *p) {
    if (!p) return;
    for (uint32_t i = 0; i < p->stage_count; i++)
        pcre2_code_free(p->stages[i]);
    free(p);
}

bool pre_takes_whole(const pretokenizer *p) { return p->row->takes_whole; }

bool pre_wants_nfc(const pretokenizer *p) { return p->row->wants_nfc; }

/* ---- cutting ---- */

pre_cutter *pre_cutter_open(const pretokenizer *p, size_t text_bytes_max) {
    pre_cutter *cutter = mem_new(1, sizeof *cutter);
    cutter->pre = p;
    cutter->match = pcre2_match_data_create(1, NULL);
    cutter->context = pcre2_match_context_create(NULL);
    ESP_ASSERT(cutter->match && cutter->context);
    /* One match passes over its text a few times at most (one pass an alternative). */
    size_t limit = 1000 + 16 * text_bytes_max;
    pcre2_set_match_limit(cutter->context, limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
    return cutter;
}

void pre_cutter_close(pre_cutter *cutter) {
    if (!cutter) return;
    pcre2_match_data_free(cutter->match);
    pcre2_match_context_free(cutter->context);
    free(cutter);
}

static esp_code cut_stage(pre_cutter *cutter, uint32_t stage, const char *text, size_t bytes);

/* Hands a piece to the next stage, or to the visitor behind the last. */
static esp_code pass_on(pre_cutter *cutter, uint32_t stage, const char *text, size_t bytes) {
    if (bytes == 0) return ESP_OK;
    if (stage + 1 < cutter->pre->stage_count) return cut_stage(cutter, stage + 1, text, bytes);
    return cutter->visitor->piece(cutter->visitor->arg, text, bytes);
}

static esp_code cut_stage(pre_cutter *cutter, uint32_t stage, const char *text, size_t bytes) {
    size_t at = 0;
    while (at < bytes) {
        int found = pcre2_match(cutter->pre->stages[stage], (PCRE2_SPTR)text, bytes, at,
                                PCRE2_NO_UTF_CHECK, cutter->match, cutter->context);
        if (found == PCRE2_ERROR_NOMATCH) break;
        if (found < 0)
            return esp_fail(cutter->err, ESP_INTERNAL,
                            "pre-tokenizer \"%s\" gave up %zu bytes into a text of %zu (PCRE2 %d)",
                            cutter->pre->row->names[0], at, bytes, found);
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(cutter->match);
        size_t begin = span[0], end = span[1]; /* a later stage writes over the span */
        ESP_ASSERT(begin >= at && end > begin && end <= bytes);
        esp_code code = pass_on(cutter, stage, text + at, begin - at);
        if (!code) code = pass_on(cutter, stage, text + begin, end - begin);
        if (code) return code;
        at = end;
    }
    return pass_on(cutter, stage, text + at, bytes - at);
}

esp_code pre_cut(pre_cutter *cutter, const char *text, size_t bytes, const pre_visitor *visitor,
                 esp_error *err) {
    cutter->visitor = visitor;
    cutter->err = err;
    return bytes ? cut_stage(cutter, 0, text, bytes) : ESP_OK;
}
