/* pre_pattern.h - a tokenizer.json's regular expression, written for PCRE2.
 *
 * The file's dialect is Oniguruma's (Ruby). What both read alike is copied; what they read differently
 * (\s, \w, \p{...}, whose Unicode is newer there than PCRE2's) is spelled out as code points; the rest
 * (nested classes, &&, \h, \G, \R, named groups, options in the middle, {1,3}+) is refused by name.
 *
 * Thread  any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_PRE_PATTERN_H
#define ESPALIER_TEXT_PRE_PATTERN_H

#include "engine/text/tokenizer.h"

enum { PRE_PATTERN_MAX = 4096 }; /* bytes of a pattern in a file */

/* On success *out is malloc'd. ESP_INVALID or ESP_UNIMPLEMENTED names what the pattern has. */
ESP_CHECKED esp_code pre_pattern_translate(tok_text pattern, char **out, esp_error *err);

/* Compiles a translated pattern (or one of our own); *out is a pcre2_code. */
struct pcre2_real_code_8;
ESP_CHECKED esp_code pre_pattern_compile(const char *pattern, struct pcre2_real_code_8 **out,
                                         esp_error *err);

#endif
