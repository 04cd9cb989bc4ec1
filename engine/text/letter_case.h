/* letter_case.h - lower case, marks and word characters, as the `tokenizers` library knows them.
 *
 * Its tables are of different ages: lower case is Unicode 17's, marks are Unicode 8's. Both were read off by
 * trying every code point (tests/vectors/make_hf_tokenizer_vectors.py sweeps them).
 *
 * Thread  any; pure functions. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_LETTER_CASE_H
#define ESPALIER_TEXT_LETTER_CASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LETTER_CASE_MAX = 2 };

/* The lower case of one character by itself; returns how many code points it has. */
size_t letter_lower(int32_t point, int32_t out[LETTER_CASE_MAX]);

/* A combining mark (category M)? */
bool letter_is_mark(int32_t point);

/* A word's character: alphabetic, a mark, a decimal digit or a connector? */
bool letter_is_word(int32_t point);

#endif
