/* stream.h - output tokens -> output text, with stop strings found across token borders.
 *
 * A text_stream is fed token ids in order and gives out text that is final: never half a UTF-8 character and
 * never bytes that may turn out to be the beginning of a stop string. The stop string itself is not given
 * out. The engine runs one to know when to stop; the stream side runs its own to know what to send: both
 * see the same tokens, so both stop at the same one.
 *
 * Thread  one owner per text_stream; a stop_set is read-only after stop_set_fill. No malloc in text_next. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_STREAM_H
#define ESPALIER_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/sample.h"
#include "engine/text/tokenizer.h"

typedef struct stop_set {
    uint32_t count;
    uint32_t longest; /* bytes */
    uint16_t bytes[SAMPLE_STOP_MAX];
    char text[SAMPLE_STOP_MAX][SAMPLE_STOP_BYTES_MAX];
} stop_set;

/* ESP_INVALID (field "stop") for more than SAMPLE_STOP_MAX strings, an empty or too long one. */
ESP_CHECKED esp_code stop_set_fill(stop_set *set, const tok_text *strings, uint32_t count, esp_error *err);

typedef struct text_stream {
    tok_stream utf8;
    bool stopped; /* a stop string was found: everything after is dropped */
    uint32_t held; /* bytes that may begin a stop string */
    char hold[SAMPLE_STOP_BYTES_MAX];
} text_stream;

enum { TEXT_PIECE_MAX = TOK_PIECE_MAX + SAMPLE_STOP_BYTES_MAX };

/* Text that became final with this token; out need not be NUL-terminated by the caller and is not by us. */
size_t text_next(text_stream *stream, const tokenizer *tok, const stop_set *stops, int32_t id,
                 char out[TEXT_PIECE_MAX]);
/* What is still held, when the generation ended without a stop string. */
size_t text_end(text_stream *stream, char out[TEXT_PIECE_MAX]);

#endif
