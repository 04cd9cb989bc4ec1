/* rename.c - one text for another in a sentence. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/rename.h"

#include <string.h>

void esp_rename(esp_error *err, const char *from, const char *to) {
    const char *at = *from ? strstr(err->message, from) : NULL;
    if (!at) return;
    esp_error was = *err;
    esp_fail_field(err, was.code, was.field, "%.*s%s%s", (int)(at - err->message), was.message, to,
                   was.message + (at - err->message) + strlen(from));
    err->retry_ms = was.retry_ms;
}
