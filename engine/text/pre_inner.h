/* pre_inner.h - what an open pretokenizer is made of: for pretokenize.c and pre_cut.c. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_PRE_INNER_H
#define ESPALIER_TEXT_PRE_INNER_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "engine/text/pretokenize.h"

typedef struct pre_stage {
    tok_split_kind kind;
    tok_behavior behavior;
    bool invert, first_only;
    pcre2_code *code; /* what is cut by a pattern */
    char *text;       /* TOK_SPLIT_LITERAL, TOK_SPLIT_PREFIX */
    size_t text_bytes;
} pre_stage;

struct pretokenizer {
    const char *name; /* for error sentences */
    bool takes_whole, wants_nfc;
    uint32_t stage_count;
    pre_stage stages[TOK_STEPS_MAX];
};

#endif
