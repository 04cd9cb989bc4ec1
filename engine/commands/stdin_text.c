/* stdin_text.c - all of standard input. */
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/commands/commands.h"

enum { STDIN_BYTES_MAX = 1 << 30 };

esp_code read_stdin(char **out, size_t *bytes, esp_error *err) {
    size_t capacity = 1 << 16;
    char *text = mem_new(capacity, 1);
    *bytes = 0;
    for (size_t got; (got = fread(text + *bytes, 1, capacity - *bytes, stdin)) > 0;) {
        *bytes += got;
        if (*bytes == capacity && capacity < STDIN_BYTES_MAX)
            text = mem_resize(text, capacity *= 2, 1);
    }
    *out = text;
    if (ferror(stdin))
        return esp_fail(err, ESP_DATA_LOSS, "standard input cannot be read: %s", strerror(errno));
    if (*bytes >= STDIN_BYTES_MAX)
        return esp_fail(err, ESP_INVALID, "standard input has %d bytes or more; split it",
                        STDIN_BYTES_MAX);
    return ESP_OK;
}
