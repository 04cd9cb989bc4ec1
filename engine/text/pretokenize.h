/* pretokenize.h - cuts text into the pieces inside which tokens are merged.
 *
 * Which cuts is the model's convention, named by tokenizer.ggml.pre: a row of the table in
 * pretokenize.c; or a tokenizer.json declares it (tok_plan). A row has one or more stages, each a pattern; a stage cuts every piece of the
 * stage before into its matches and what lies between them, and sees nothing outside that piece.
 *
 * The patterns are compiled once, by PCRE2 with its JIT. Each consumes what it looks at, up to a
 * bounded number of passes, so cutting is linear; a match limit stands behind that claim.
 *
 * Thread  a pretokenizer: any; a pre_cutter belongs to one call. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_PRETOKENIZE_H
#define ESPALIER_TEXT_PRETOKENIZE_H

#include "engine/text/tokenizer.h"

typedef struct pretokenizer pretokenizer;

/* name: NULL counts as missing. An unknown one is ESP_UNIMPLEMENTED with the list of known ones. */
ESP_CHECKED esp_code pre_open(pretokenizer **out, const char *name, esp_error *err);
/* The stages of a plan. ESP_INVALID or ESP_UNIMPLEMENTED names a pattern that cannot be computed. */
ESP_CHECKED esp_code pre_open_plan(pretokenizer **out, const tok_plan *plan, bool takes_whole,
                                   esp_error *err);
void pre_close(pretokenizer *p);

/* A piece that is one token is taken without merging. */
bool pre_takes_whole(const pretokenizer *p);
/* Text is brought to Unicode's form NFC first. */
bool pre_wants_nfc(const pretokenizer *p);

/* Work memory for cutting texts of at most text_bytes_max bytes. */
typedef struct pre_cutter pre_cutter;
pre_cutter *pre_cutter_open(const pretokenizer *p, size_t text_bytes_max);
void pre_cutter_close(pre_cutter *cutter);

/* Who gets the pieces, in order; an error ends the cutting and is returned. */
typedef struct pre_visitor {
    esp_code (*piece)(void *arg, const char *at, size_t bytes);
    void *arg;
} pre_visitor;

/* Where in the text that tok_encode got a piece begins. */
typedef enum pre_place { PRE_TEXT_BEGINS, PRE_PIECE_BEGINS, PRE_PIECE_GOES_ON } pre_place;

/* text must be well-formed UTF-8. The pieces are not empty and cover it, unless a plan removes matches
 * or puts a prefix in front (not of a piece that goes on). */
ESP_CHECKED esp_code pre_cut_at(pre_cutter *cutter, const char *text, size_t bytes, pre_place place,
                                const pre_visitor *visitor, esp_error *err);
/* The same at the text's beginning. */
ESP_CHECKED esp_code pre_cut(pre_cutter *cutter, const char *text, size_t bytes,
                             const pre_visitor *visitor, esp_error *err);

#endif
