/* utf8.h - where UTF-8 is well formed and where it is not.
 *
 * Well formed as table 3-7 of the Unicode standard has it: no overlong forms, no surrogates,
 * nothing above U+10FFFF.
 *
 * Thread  any; pure functions. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_UTF8_H
#define ESPALIER_TEXT_UTF8_H

#include <stddef.h>

typedef enum utf8_kind {
    UTF8_WHOLE,   /* one whole character */
    UTF8_BROKEN,  /* a maximal subpart of an ill-formed sequence: one U+FFFD */
    UTF8_PARTIAL, /* the text ends inside a character that may still become whole */
} utf8_kind;

/* Looks at the beginning of text, bytes >= 1. *length is how many bytes the answer is about: 1..4.
 */
utf8_kind utf8_first(const char *text, size_t bytes, size_t *length);

/* Length of the longest prefix made of whole characters. */
size_t utf8_whole_prefix(const char *text, size_t bytes);

/* SentencePiece writes a space as U+2581. */
#define UTF8_SPACE_MARK "\xe2\x96\x81"
enum { UTF8_SPACE_MARK_BYTES = 3 };
/* Copies text to out with every U+2581 as a space; returns the bytes written, bytes at most. out may be
 * text itself. */
size_t utf8_marks_to_spaces(const char *text, size_t bytes, char *out);

/* The reverse; out has room for UTF8_SPACE_MARK_BYTES times bytes. */
size_t utf8_spaces_to_marks(const char *text, size_t bytes, char *out);

/* Bytes of the white-space character (Unicode's White_Space) that text begins with; 0: none. */
size_t utf8_space_prefix(const char *text, size_t bytes);
/* The same for the one it ends with. */
size_t utf8_space_suffix(const char *text, size_t bytes);

#endif
