/* hf_pipeline.c - tokenizer.json: normalizer, pre_tokenizer and decoder as a tok_plan.
 *
 * What cannot be computed is refused with the place in the file where it stands. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/model/tokens/hf_inner.h"
#include "engine/text/pre_pattern.h"
#include "engine/text/spaced_text.h"

/* pcre2.h's, by its tag; see pre_pattern.h */
void pcre2_code_free_8(struct pcre2_real_code_8 *code);

#define SPACE_MARK "\xe2\x96\x81"
/* \w of the pre-tokenizer Whitespace, which is not Oniguruma's. */
#define WORD                                                                                       \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{"     \
    "1F169}"                                                                                       \
    "\\x{1F170}-\\x{1F189}\\x{200c}\\x{200d}"
enum { NESTED_MAX = 8 };

/* A place in the file: an object with a type. */
typedef struct place {
    const json_t *object;
    const char *path;
    int depth;
    const char *type;
} place;

typedef esp_code (*place_reader)(hf_reader *r, place at);

static bool is_text(tok_text text, const char *wanted) {
    return text.bytes == strlen(wanted) && memcmp(text.at, wanted, text.bytes) == 0;
}

static bool is_type(place at, const char *type) { return strcmp(at.type, type) == 0; }

static esp_code refuse_type(const hf_reader *r, place at, const char *why) {
    return hf_fail(r, ESP_UNIMPLEMENTED, at.path, "is of type \"%.60s\", %s", at.type, why);
}

/* Null is nothing; else an object that names its type goes to the reader. */
static esp_code enter(hf_reader *r, const json_t *object, const char *path, int depth,
                      place_reader read) {
    if (!object || json_is_null(object)) return ESP_OK;
    const char *type = json_string_value(json_object_get(object, "type"));
    if (!type) return hf_fail(r, ESP_INVALID, path, "is no object with a \"type\"");
    if (depth > NESTED_MAX)
        return hf_fail(r, ESP_INVALID, path, "is nested more than %d deep", NESTED_MAX);
    return read(r, (place){object, path, depth, type});
}

/* A Sequence's members, in order. */
static esp_code enter_each(hf_reader *r, place at, const char *key, place_reader read) {
    const json_t *list = json_object_get(at.object, key);
    if (!json_is_array(list)) return hf_fail(r, ESP_INVALID, at.path, "has no array \"%s\"", key);
    esp_code code = ESP_OK;
    for (size_t i = 0; !code && i < json_array_size(list); i++) {
        char path[HF_PATH_MAX];
        snprintf(path, sizeof path, "%s.%s[%zu]", at.path, key, i);
        const json_t *member = json_array_get(list, i);
        if (!json_is_object(member)) return hf_fail(r, ESP_INVALID, path, "is no object");
        code = enter(r, member, path, at.depth + 1, read);
    }
    return code;
}

/* {"String": S} or {"Regex": R} */
static esp_code read_pattern(const hf_reader *r, place at, tok_text *out, bool *is_regex) {
    const json_t *pattern = json_object_get(at.object, "pattern");
    const json_t *string = json_object_get(pattern, "String");
    const json_t *regex = json_object_get(pattern, "Regex");
    *is_regex = regex != NULL;
    if (regex) string = regex;
    if (!json_is_string(string) || json_object_size(pattern) != 1)
        return hf_fail(r, ESP_INVALID, at.path,
                       "has no \"pattern\" with one string \"String\" or \"Regex\"");
    *out = (tok_text){json_string_value(string), json_string_length(string)};
    if (out->bytes == 0) return hf_fail(r, ESP_INVALID, at.path, "has an empty \"pattern\"");
    return ESP_OK;
}

static esp_code check_regex(const hf_reader *r, const char *path, tok_text pattern) {
    char *translated = NULL;
    struct pcre2_real_code_8 *compiled = NULL;
    esp_error why = {0};
    esp_code code = pre_pattern_translate(pattern, &translated, &why);
    if (!code) code = pre_pattern_compile(translated, &compiled, &why);
    pcre2_code_free_8(compiled);
    free(translated);
    return code ? hf_fail(r, code, path, "cannot be computed: %.280s", why.message) : ESP_OK;
}

/* ---- normalizer ---- */

static esp_code add_normal(const hf_reader *r, const char *path, tok_normal step) {
    tok_plan *plan = &r->out->plan;
    if (plan->normal_count == TOK_STEPS_MAX)
        return hf_fail(r, ESP_INVALID, path, "is step %d; at most %d", TOK_STEPS_MAX + 1,
                       TOK_STEPS_MAX);
    r->out->normals[plan->normal_count++] = step;
    return ESP_OK;
}

static esp_code read_replace(const hf_reader *r, place at) {
    tok_normal step = {.kind = TOK_REPLACE, .text = {"", 0}};
    esp_code code = read_pattern(r, at, &step.pattern, &step.is_regex);
    if (!code) code = hf_get_text(r, at.object, at.path, "content", &step.text);
    if (!code && step.is_regex) code = check_regex(r, at.path, step.pattern);
    return code ? code : add_normal(r, at.path, step);
}

static esp_code read_prepend(const hf_reader *r, place at) {
    tok_normal step = {.kind = TOK_PREPEND, .text = {"", 0}};
    esp_code code = hf_get_text(r, at.object, at.path, "prepend", &step.text);
    return code ? code : add_normal(r, at.path, step);
}

static esp_code read_strip(const hf_reader *r, place at) {
    tok_normal step = {.kind = TOK_STRIP_SPACES};
    esp_code code = hf_get_bool(r, at.object, at.path, "strip_left", &step.left);
    if (!code) code = hf_get_bool(r, at.object, at.path, "strip_right", &step.right);
    return code ? code : add_normal(r, at.path, step);
}

static esp_code read_charsmap(const hf_reader *r, place at) {
    tok_text text = {"", 0};
    size_t bytes = 0;
    esp_code code = hf_get_text(r, at.object, at.path, "precompiled_charsmap", &text);
    if (code || text.bytes == 0) return code;
    if (r->out->charsmap) return hf_fail(r, ESP_UNIMPLEMENTED, at.path, "is the second charsmap");
    r->out->charsmap = mem_new(text.bytes, 1);
    if (!hf_decode_base64(text, r->out->charsmap, &bytes))
        return hf_fail(r, ESP_INVALID, at.path, "has a precompiled_charsmap that is no base64");
    charsmap map;
    esp_error why = {0};
    code = charsmap_open(&map, r->out->charsmap, bytes, &why);
    charsmap_close(&map);
    if (code) return hf_fail(r, code, at.path, "is damaged: %.280s", why.message);
    return add_normal(
        r, at.path,
        (tok_normal){.kind = TOK_CHARSMAP, .pattern = {(const char *)r->out->charsmap, bytes}});
}

/* The one setting that BERT's way of engine/text computes. */
static esp_code read_bert_normalizer(hf_reader *r, place at) {
    bool clean = true, chinese = true, lowercase = true;
    esp_code code = hf_get_bool(r, at.object, at.path, "clean_text", &clean);
    if (!code) code = hf_get_bool(r, at.object, at.path, "handle_chinese_chars", &chinese);
    if (!code) code = hf_get_bool(r, at.object, at.path, "lowercase", &lowercase);
    bool accents = lowercase;
    if (!code) code = hf_get_bool(r, at.object, at.path, "strip_accents", &accents);
    if (code) return code;
    if (!clean || !chinese || accents != lowercase)
        return hf_fail(
            r, ESP_UNIMPLEMENTED, at.path,
            "has clean_text %d, handle_chinese_chars %d, lowercase %d, strip_accents %d; "
            "wanted the first two true and the last two alike",
            clean, chinese, lowercase, accents);
    r->bert_normal = true;
    r->uncased = lowercase;
    return ESP_OK;
}

static esp_code read_normalizer(hf_reader *r, place at) {
    static const struct {
        const char *name;
        tok_normal_kind kind;
    } plain[] = {{"NFC", TOK_NFC},
                 {"NFD", TOK_NFD},
                 {"NFKC", TOK_NFKC},
                 {"NFKD", TOK_NFKD},
                 {"Lowercase", TOK_LOWERCASE},
                 {"StripAccents", TOK_STRIP_ACCENTS}};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (is_type(at, plain[i].name))
            return add_normal(r, at.path, (tok_normal){.kind = plain[i].kind});
    }
    if (is_type(at, "Sequence")) return enter_each(r, at, "normalizers", read_normalizer);
    if (is_type(at, "Replace")) return read_replace(r, at);
    if (is_type(at, "Prepend")) return read_prepend(r, at);
    if (is_type(at, "Strip")) return read_strip(r, at);
    if (is_type(at, "Precompiled")) return read_charsmap(r, at);
    if (is_type(at, "BertNormalizer")) return read_bert_normalizer(r, at);
    return refuse_type(r, at, "which is not known here");
}

/* ---- pre_tokenizer ---- */

static esp_code add_split(const hf_reader *r, const char *path, tok_split stage) {
    tok_plan *plan = &r->out->plan;
    if (r->byte_level)
        return hf_fail(r, ESP_UNIMPLEMENTED, path, "comes after ByteLevel; wanted that last");
    if (r->bert) return hf_fail(r, ESP_UNIMPLEMENTED, path, "stands beside BertPreTokenizer");
    if (plan->split_count == TOK_STEPS_MAX)
        return hf_fail(r, ESP_INVALID, path, "is stage %d; at most %d", TOK_STEPS_MAX + 1,
                       TOK_STEPS_MAX);
    r->out->splits[plan->split_count++] = stage;
    return ESP_OK;
}

static esp_code add_regex(const hf_reader *r, const char *path, const char *pattern,
                          tok_behavior behavior, bool invert) {
    return add_split(r, path,
                     (tok_split){.kind = TOK_SPLIT_REGEX,
                                 .behavior = behavior,
                                 .invert = invert,
                                 .pattern = {pattern, strlen(pattern)}});
}

static esp_code read_behavior(const hf_reader *r, place at, tok_behavior *out) {
    static const char *const names[] = {[TOK_ISOLATED] = "Isolated",
                                        [TOK_REMOVED] = "Removed",
                                        [TOK_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [TOK_WITH_NEXT] = "MergedWithNext",
                                        [TOK_CONTIGUOUS] = "Contiguous"};
    tok_text text = {"", 0};
    esp_code code = hf_get_text(r, at.object, at.path, "behavior", &text);
    if (code || text.bytes == 0) return code;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (is_text(text, names[i])) return *out = (tok_behavior)i, ESP_OK;
    }
    return hf_fail(r, ESP_INVALID, at.path, "has the unknown behavior \"%.40s\"", text.at);
}

static esp_code read_split(const hf_reader *r, place at) {
    tok_split stage = {.kind = TOK_SPLIT_LITERAL};
    bool is_regex = false;
    esp_code code = read_pattern(r, at, &stage.pattern, &is_regex);
    if (!code) code = read_behavior(r, at, &stage.behavior);
    if (!code) code = hf_get_bool(r, at.object, at.path, "invert", &stage.invert);
    if (!code && is_regex) code = check_regex(r, at.path, stage.pattern);
    if (is_regex) stage.kind = TOK_SPLIT_REGEX;
    return code ? code : add_split(r, at.path, stage);
}

static const char gpt2_words[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|"
    "\\s+(?!\\S)|\\s+";

static esp_code read_byte_level(hf_reader *r, place at) {
    bool prefix = true, regex = true;
    esp_code code = hf_get_bool(r, at.object, at.path, "add_prefix_space", &prefix);
    if (!code) code = hf_get_bool(r, at.object, at.path, "use_regex", &regex);
    if (!code && prefix)
        code = add_split(r, at.path, (tok_split){.kind = TOK_SPLIT_PREFIX, .pattern = {" ", 1}});
    if (!code && regex) code = add_regex(r, at.path, gpt2_words, TOK_ISOLATED, false);
    if (!code && (r->byte_level || r->bert)) code = refuse_type(r, at, "which stands here twice");
    r->byte_level = true;
    return code;
}

static esp_code read_metaspace(const hf_reader *r, place at) {
    tok_text mark = {SPACE_MARK, 3}, scheme = {"always", 6};
    bool split = true, prefix = true;
    esp_code code = hf_get_text(r, at.object, at.path, "replacement", &mark);
    if (!code) code = hf_get_bool(r, at.object, at.path, "add_prefix_space", &prefix);
    if (!prefix) scheme = (tok_text){"never", 5};
    if (!code) code = hf_get_text(r, at.object, at.path, "prepend_scheme", &scheme);
    if (!code) code = hf_get_bool(r, at.object, at.path, "split", &split);
    if (code) return code;
    bool first = is_text(scheme, "first"), never = is_text(scheme, "never");
    if (!is_text(mark, SPACE_MARK) || (!first && !never && !is_text(scheme, "always")))
        return hf_fail(r, ESP_UNIMPLEMENTED, at.path,
                       "has replacement \"%.20s\" and prepend_scheme \"%.20s\"; wanted U+2581 and "
                       "first, always or never",
                       mark.at, scheme.at);
    code = add_split(r, at.path, (tok_split){.kind = TOK_SPLIT_MARKS});
    if (!code && !never)
        code = add_split(
            r, at.path,
            (tok_split){.kind = TOK_SPLIT_PREFIX, .pattern = {SPACE_MARK, 3}, .first_only = first});
    if (code || !split) return code;
    return add_split(r, at.path,
                     (tok_split){.kind = TOK_SPLIT_LITERAL,
                                 .behavior = TOK_WITH_NEXT,
                                 .pattern = {SPACE_MARK, 3}});
}

static esp_code read_digits(const hf_reader *r, place at) {
    bool individual = false;
    esp_code code = hf_get_bool(r, at.object, at.path, "individual_digits", &individual);
    tok_split stage = {.kind = TOK_SPLIT_DIGITS,
                       .behavior = individual ? TOK_ISOLATED : TOK_CONTIGUOUS};
    return code ? code : add_split(r, at.path, stage);
}

static esp_code read_punctuation(const hf_reader *r, place at) {
    tok_split stage = {.kind = TOK_SPLIT_PUNCTUATION};
    esp_code code = read_behavior(r, at, &stage.behavior);
    return code ? code : add_split(r, at.path, stage);
}

static esp_code read_delimiter(const hf_reader *r, place at) {
    tok_split stage = {.kind = TOK_SPLIT_LITERAL, .behavior = TOK_REMOVED};
    esp_code code = hf_get_text(r, at.object, at.path, "delimiter", &stage.pattern);
    if (!code && stage.pattern.bytes == 0)
        code = hf_fail(r, ESP_INVALID, at.path, "has no \"delimiter\"");
    return code ? code : add_split(r, at.path, stage);
}

/* BERT's own: words between white space, each punctuation mark by itself. With BertNormalizer it is kind bert's
 * way. */
static esp_code read_bert_words(hf_reader *r, place at) {
    if (r->bert_normal) {
        if (r->bert || r->byte_level || r->out->plan.split_count)
            return refuse_type(r, at, "which stands beside another one");
        r->bert = true;
        return ESP_OK;
    }
    esp_code code = add_regex(r, at.path, "\\s", TOK_REMOVED, false);
    return code ? code : add_split(r, at.path, (tok_split){.kind = TOK_SPLIT_PUNCTUATION});
}

static esp_code read_pre_tokenizer(hf_reader *r, place at) {
    if (is_type(at, "Sequence")) return enter_each(r, at, "pretokenizers", read_pre_tokenizer);
    if (is_type(at, "Split")) return read_split(r, at);
    if (is_type(at, "ByteLevel")) return read_byte_level(r, at);
    if (is_type(at, "Metaspace")) return read_metaspace(r, at);
    if (is_type(at, "Digits")) return read_digits(r, at);
    if (is_type(at, "Punctuation")) return read_punctuation(r, at);
    if (is_type(at, "CharDelimiterSplit")) return read_delimiter(r, at);
    if (is_type(at, "BertPreTokenizer")) return read_bert_words(r, at);
    if (is_type(at, "WhitespaceSplit")) return add_regex(r, at.path, "\\s", TOK_REMOVED, false);
    if (is_type(at, "Whitespace"))
        return add_regex(r, at.path, "[" WORD "]+|[^\\s" WORD "]+", TOK_REMOVED, true);
    return refuse_type(r, at, "which is not known here");
}

/* ---- decoder ---- */

static esp_code read_decoder_replace(const hf_reader *r, place at) {
    tok_text pattern, content = {"", 0};
    bool is_regex;
    esp_code code = read_pattern(r, at, &pattern, &is_regex);
    if (!code) code = hf_get_text(r, at.object, at.path, "content", &content);
    if (code) return code;
    if (is_regex || !is_text(pattern, SPACE_MARK) || !is_text(content, " "))
        return hf_fail(r, ESP_UNIMPLEMENTED, at.path,
                       "replaces \"%.40s\" by \"%.40s\"; wanted U+2581 by a space", pattern.at,
                       content.at);
    return ESP_OK;
}

static esp_code read_decoder_strip(const hf_reader *r, place at) {
    tok_text content = {"", 0};
    esp_code code = hf_get_text(r, at.object, at.path, "content", &content);
    if (code) return code;
    json_int_t start = json_integer_value(json_object_get(at.object, "start"));
    json_int_t stop = json_integer_value(json_object_get(at.object, "stop"));
    if (!is_text(content, " ") || start < 0 || start > 1 || stop != 0)
        return hf_fail(r, ESP_UNIMPLEMENTED, at.path,
                       "strips %lld and %lld of \"%.20s\"; wanted 0 or 1 and 0 of a space",
                       (long long)start, (long long)stop, content.at);
    if (start) r->out->source.drop_first_space = true;
    return ESP_OK;
}

static esp_code read_decoder_metaspace(const hf_reader *r, place at) {
    bool prefix = true;
    tok_text scheme = {"", 0};
    esp_code code = hf_get_bool(r, at.object, at.path, "add_prefix_space", &prefix);
    if (!code) code = hf_get_text(r, at.object, at.path, "prepend_scheme", &scheme);
    if (scheme.bytes) prefix = !is_text(scheme, "never");
    if (prefix) r->out->source.drop_first_space = true;
    return code;
}

static esp_code read_decoder(hf_reader *r, place at) {
    bool word_piece = is_type(at, "WordPiece"), byte_level = is_type(at, "ByteLevel");
    if (is_type(at, "Sequence")) return enter_each(r, at, "decoders", read_decoder);
    if (is_type(at, "Replace")) return read_decoder_replace(r, at);
    if (is_type(at, "Strip")) return read_decoder_strip(r, at);
    if (is_type(at, "Metaspace")) return read_decoder_metaspace(r, at);
    if (is_type(at, "ByteFallback") || is_type(at, "Fuse")) return ESP_OK;
    if (byte_level && !r->byte_level) return refuse_type(r, at, "but the pre_tokenizer is not");
    if (byte_level) return ESP_OK;
    if (word_piece && r->bert) return ESP_OK;
    return refuse_type(r, at, "which is not known here");
}

esp_code hf_read_pipeline(hf_reader *r, const json_t *root) {
    r->out->plan.normals = r->out->normals;
    r->out->plan.splits = r->out->splits;
    esp_code code = enter(r, json_object_get(root, "normalizer"), "normalizer", 0, read_normalizer);
    if (!code)
        code = enter(r, json_object_get(root, "pre_tokenizer"), "pre_tokenizer", 0,
                     read_pre_tokenizer);
    if (!code && r->bert_normal && (!r->bert || r->out->plan.normal_count))
        code = hf_fail(r, ESP_UNIMPLEMENTED, "normalizer",
                       "is a BertNormalizer beside others; wanted it alone, with BertPreTokenizer");
    return code ? code : enter(r, json_object_get(root, "decoder"), "decoder", 0, read_decoder);
}
