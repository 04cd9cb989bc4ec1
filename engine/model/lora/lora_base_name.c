/* lora_base_name.c - family, version and size out of a model's name. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/lora/lora_base_name.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { WORD_MAX = 32, NAME_MAX_BYTES = 128 };

static const char *const FAMILIES[] = {"llama", "tinyllama", "codellama", "smollm",  "qwen",
                                       "gemma", "codegemma", "phi",       "mistral", "mixtral",
                                       "olmo",  "falcon",    "granite",   "yi",      NULL};

/* What a name says; all-zero: nothing. */
typedef struct name_parts {
    const char *family;
    char version[WORD_MAX]; /* "2.5"; "": not said */
    double size;            /* parameters; 0: not said */
} name_parts;

static const char *last_component(const char *name) {
    const char *slash = strrchr(name, '/');
    return slash ? slash + 1 : name;
}

/* The next word, small: letters, digits and dots between them. False: none. */
static bool next_word(const char **at, char out[WORD_MAX]) {
    size_t used = 0;
    while (**at && !isalnum((unsigned char)**at))
        ++*at;
    for (; isalnum((unsigned char)**at) || (used && **at == '.'); ++*at)
        if (used + 1 < WORD_MAX) out[used++] = (char)tolower((unsigned char)**at);
    while (used && out[used - 1] == '.')
        used--;
    out[used] = 0;
    return used > 0;
}

static bool is_number(const char *text) { return *text && !text[strspn(text, "0123456789.")]; }

/* "135m", "1.5b" */
static double size_of(const char *word) {
    char *unit;
    if (!isdigit((unsigned char)*word)) return 0;
    double count = strtod(word, &unit);
    if ((*unit != 'm' && *unit != 'b') || (unit[1] && unit[1] != '.')) return 0;
    return count * (*unit == 'm' ? 1e6 : 1e9);
}

static const char *family_of(const char *word, const char **rest) {
    size_t letters = 0;
    while (isalpha((unsigned char)word[letters]))
        letters++;
    *rest = word + letters;
    for (size_t i = 0; FAMILIES[i]; i++)
        if (strlen(FAMILIES[i]) == letters && !strncmp(word, FAMILIES[i], letters))
            return FAMILIES[i];
    return NULL;
}

static name_parts parts_of(const char *name) {
    name_parts out = {0};
    char word[WORD_MAX];
    bool behind = false; /* the word before was the family's, without a number */
    const char *at = last_component(name), *rest;
    while (next_word(&at, word)) {
        const char *family = out.family ? NULL : family_of(word, &rest);
        if (family) out.family = family;
        const char *version = family ? rest : behind ? word : "";
        if (is_number(version)) strcpy(out.version, version);
        behind = family && !*rest;
        if (!out.size) out.size = size_of(word);
    }
    return out;
}

names_verdict base_names_compare(const char *one, const char *other) {
    name_parts a = parts_of(one), b = parts_of(other);
    if (!a.family || !b.family) return NAMES_UNKNOWN;
    bool versions = a.version[0] && b.version[0];
    /* One size has several names, as 1B and 1.2B. */
    bool sizes = a.size > 0 && b.size > 0 && (a.size > 1.3 * b.size || b.size > 1.3 * a.size);
    if (strcmp(a.family, b.family) != 0 || sizes) return NAMES_DIFFER;
    return versions && strtod(a.version, NULL) != strtod(b.version, NULL) ? NAMES_DIFFER
                                                                          : NAMES_ALIKE;
}

/* Letters and digits alone, small. */
static void squeeze(char *out, const char *text) {
    size_t used = 0;
    for (; *text && used + 1 < NAME_MAX_BYTES; text++)
        if (isalnum((unsigned char)*text)) out[used++] = (char)tolower((unsigned char)*text);
    out[used] = 0;
}

bool base_names_agree(const char *recorded, const char *seen) {
    char wanted[NAME_MAX_BYTES], in[NAME_MAX_BYTES];
    squeeze(wanted, last_component(recorded));
    squeeze(in, last_component(seen));
    return strstr(in, wanted) != NULL;
}
