/* text_buffer.c - see text_buffer.h. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/text_buffer.h"

#include <string.h>

#include "engine/base/mem.h"

void text_buffer_add(text_buffer *text, const char *piece, size_t bytes) {
    enum { REPLACEMENT_BYTES = 3 };
    size_t most = text->bytes + bytes * REPLACEMENT_BYTES + 1;
    if (most > text->capacity) {
        text->capacity = most < 64 ? 64 : most + most / 2;
        text->at = mem_resize(text->at, text->capacity, 1);
    }
    for (size_t i = 0; i < bytes; i++) {
        if (piece[i]) {
            text->at[text->bytes++] = piece[i];
        } else {
            memcpy(text->at + text->bytes, "\xef\xbf\xbd", REPLACEMENT_BYTES);
            text->bytes += REPLACEMENT_BYTES;
        }
    }
    text->at[text->bytes] = '\0';
}

void text_buffer_clear(text_buffer *text) {
    text->bytes = 0;
    if (text->at) text->at[0] = '\0';
}
