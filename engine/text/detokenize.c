/* detokenize.c - ids back to text as they come, whole characters only. */
// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "engine/text/tokenizer_inner.h"
#include "engine/text/utf8.h"

static const char replacement[3] = {'\xef', '\xbf', '\xbd'}; /* U+FFFD */

static size_t put(char *out, size_t at, const char *bytes, size_t count) {
    ESP_ASSERT(at + count <= TOK_PIECE_MAX); /* tok_open bounds every token so that this holds */
    memcpy(out + at, bytes, count);
    return at + count;
}

static void hold(tok_stream *stream, const char *bytes, size_t count) {
    ESP_ASSERT(count < sizeof stream->held);
    memcpy(stream->held, bytes, count);
    stream->held_count = (uint8_t)count;
}

size_t tok_stream_next(const tokenizer *tok, tok_stream *stream, int32_t id, bool show_control,
                       char out[TOK_PIECE_MAX]) {
    tok_text token = tok_bytes(tok, id);
    bool shown = token.bytes > 0;
    if (tok_is_control(tok, id) && !show_control) return 0;

    if (tok->drops_first_space && !stream->begun && token.bytes && token.at[0] == ' ')
        token = (tok_text){token.at + 1, token.bytes - 1};
    stream->begun |= shown;

    char joined[TOK_PIECE_MAX + sizeof stream->held];
    size_t bytes = stream->held_count, at = 0, written = 0, length;
    memcpy(joined, stream->held, bytes);
    memcpy(joined + bytes, token.at, token.bytes);
    bytes += token.bytes;

    for (stream->held_count = 0; at < bytes; at += length) {
        utf8_kind kind = utf8_first(joined + at, bytes - at, &length);
        if (kind == UTF8_WHOLE) written = put(out, written, joined + at, length);
        if (kind == UTF8_BROKEN) written = put(out, written, replacement, sizeof replacement);
        if (kind == UTF8_PARTIAL) hold(stream, joined + at, length);
    }
    return written;
}

size_t tok_stream_end(tok_stream *stream, char out[TOK_PIECE_MAX]) {
    if (stream->held_count == 0) return 0;
    stream->held_count = 0; /* one unfinished character is one maximal subpart */
    return put(out, 0, replacement, sizeof replacement);
}
