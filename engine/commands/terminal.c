/* terminal.c - a model's text where it may be read by a person's terminal. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <unistd.h>

#include "engine/commands/commands.h"

/* C0 without newline and tab, and DEL; C1 is c2 80 to c2 9f in UTF-8. */
static bool is_control(const unsigned char *at, size_t left) {
    if (*at < 0x20) return *at != '\n' && *at != '\t';
    return *at == 0x7f || (*at == 0xc2 && left > 1 && at[1] >= 0x80 && at[1] < 0xa0);
}

static void print_visibly(const unsigned char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        if (!is_control(text + i, bytes - i))
            putchar(text[i]);
        else if (text[i] == 0xc2)
            printf("\\x%02x", text[++i]);
        else
            printf("^%c", text[i] ^ 0x40);
    }
}

void print_model_text(const char *text, size_t bytes) {
    if (isatty(STDOUT_FILENO))
        print_visibly((const unsigned char *)text, bytes);
    else
        fwrite(text, 1, bytes, stdout);
}
