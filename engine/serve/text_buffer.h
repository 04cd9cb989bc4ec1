/* text_buffer.h - growing text for a protobuf string: NUL-terminated, without U+0000 inside. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_BUFFER_H
#define ESPALIER_TEXT_BUFFER_H

#include <stddef.h>

/* All-zero is empty; free(at) when done. */
typedef struct text_buffer {
    char *at; /* NULL or NUL-terminated */
    size_t bytes, capacity;
} text_buffer;

/* protobuf-c ends a string at a NUL, so U+0000 is appended as U+FFFD. */
void text_buffer_add(text_buffer *text, const char *piece, size_t bytes);
void text_buffer_clear(text_buffer *text); /* keeps the memory */

#endif
