/* stream.c - stop strings across token borders. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/stream.h"

#include <string.h>

esp_code stop_set_fill(stop_set *set, const tok_text *strings, uint32_t count, esp_error *err) {
    memset(set, 0, sizeof *set);
    if (count > SAMPLE_STOP_MAX)
        return esp_fail_field(err, ESP_INVALID, "stop",
                              "stop: %u strings given, at most %d allowed", count, SAMPLE_STOP_MAX);
    for (uint32_t i = 0; i < count; i++) {
        if (strings[i].bytes == 0)
            return esp_fail_field(err, ESP_INVALID, "stop", "stop: string %u is empty", i);
        if (strings[i].bytes > SAMPLE_STOP_BYTES_MAX)
            return esp_fail_field(err, ESP_INVALID, "stop",
                                  "stop: string %u has %zu bytes, at most %d allowed", i,
                                  strings[i].bytes, SAMPLE_STOP_BYTES_MAX);
        set->bytes[i] = (uint16_t)strings[i].bytes;
        memcpy(set->text[i], strings[i].at, strings[i].bytes);
        if (set->bytes[i] > set->longest) set->longest = set->bytes[i];
    }
    set->count = count;
    return ESP_OK;
}

/* Where the first stop string begins in text, or bytes when none is whole in it. */
static size_t find_stop(const stop_set *stops, const char *text, size_t bytes) {
    size_t first = bytes;
    for (uint32_t i = 0; i < stops->count; i++) {
        const char *at = memmem(text, bytes, stops->text[i], stops->bytes[i]);
        if (at && (size_t)(at - text) < first) first = (size_t)(at - text);
    }
    return first;
}

/* Length of the longest end of text that begins a stop string. */
static size_t begun_stop(const stop_set *stops, const char *text, size_t bytes) {
    size_t most = stops->longest ? stops->longest - 1 : 0;
    for (size_t n = bytes < most ? bytes : most; n > 0; n--)
        for (uint32_t i = 0; i < stops->count; i++)
            if (n < stops->bytes[i] && !memcmp(text + bytes - n, stops->text[i], n)) return n;
    return 0;
}

size_t text_next(text_stream *stream, const tokenizer *tok, const stop_set *stops, int32_t id,
                 char out[TEXT_PIECE_MAX]) {
    if (stream->stopped) return 0;
    memcpy(out, stream->hold, stream->held);
    size_t bytes = stream->held;
    stream->utf8.begun = true; /* an answer goes on from its prompt: its first space counts */
    bytes += tok_stream_next(tok, &stream->utf8, id, false, out + bytes);
    stream->held = 0;
    size_t stop = find_stop(stops, out, bytes);
    if (stop < bytes) {
        stream->stopped = true;
        return stop;
    }
    size_t begun = begun_stop(stops, out, bytes);
    memcpy(stream->hold, out + bytes - begun, begun);
    stream->held = (uint32_t)begun;
    return bytes - begun;
}

size_t text_end(text_stream *stream, char out[TEXT_PIECE_MAX]) {
    if (stream->stopped) return 0;
    memcpy(out, stream->hold, stream->held);
    size_t bytes = stream->held;
    stream->held = 0;
    return bytes + tok_stream_end(&stream->utf8, out + bytes);
}
