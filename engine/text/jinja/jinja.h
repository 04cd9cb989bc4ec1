/* jinja.h - a closed interpreter of the Jinja that published chat templates are written in.
 *
 * It renders what jinja2 3.1 renders when set up as for chat templates: trim_blocks, lstrip_blocks,
 * loop controls, an undefined value that prints nothing and fails when it is used, a tojson without
 * HTML escapes, {% generation %}, raise_exception and strftime_now, nothing mutable. No expression
 * reaches anything outside the data of one call: no files, no imports, no attributes but those
 * listed in jinja_attribute.c and jinja_methods.c.
 *
 * Language: for (with filter, else, unpacking, break, continue, loop.*), if, set, block set,
 * namespace, macro, call, with, filter, raw, generation; all of Jinja's expressions. Left out, and
 * refused when the template is opened: include, import, extends, block, autoescape, trans, recursive
 * loops, star arguments. Integers are 64-bit; a template that leaves them is refused, not wrapped.
 *
 * Every byte of the output is known to be the template's or the data's (jinja_output.plain), through
 * slices, joins, replacements and JSON: the tokenizer takes no control token out of data.
 *
 * Limits  each below; a template that passes one ends with ESP_INVALID and a sentence.
 * Thread  a template is read-only after open: any; a render allocates its own arena. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_JINJA_H
#define ESPALIER_TEXT_JINJA_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/text/tokenizer.h"

enum {
    JINJA_SOURCE_BYTES_MAX = 256 << 10,  /* a template */
    JINJA_COMPILED_BYTES_MAX = 64 << 20, /* its parsed form */
    JINJA_NESTING_MAX = 200,             /* brackets and blocks inside each other */
    JINJA_DEPTH_MAX = 200,             /* expressions and macro calls inside each other, data too */
    JINJA_STEPS_MAX = 20 << 20,        /* of evaluation; long strings cost one per 16-64 bytes */
    JINJA_VALUE_BYTES_MAX = 256 << 20, /* all values of one render */
    JINJA_OUTPUT_BYTES_MAX = 8 << 20,
};

typedef struct jinja_template jinja_template;

/* Compiles source (copied). ESP_INVALID names the line and what was wanted there. */
ESP_CHECKED esp_code jinja_open(jinja_template **out, const char *source, size_t bytes,
                                esp_error *err);
void jinja_close(jinja_template *t);

/* What a template sees. Both are JSON objects whose members become its variables; either may be
 * NULL, and both are only read. Strings and numbers of `data` are plain text in the output, those
 * of `own` (bos_token, eos_token) are the model's and may be control tokens. own wins. */
typedef struct jinja_input {
    const json_t *data;
    const json_t *own;
    int64_t now_us; /* for strftime_now: microseconds since 1970; shown in the local time zone */
} jinja_input;

typedef struct jinja_output {
    char *text; /* NUL-terminated, malloc'd, like plain; jinja_output_free */
    size_t bytes;
    tok_span *plain; /* the data's bytes; ascending, disjoint, not empty, not touching */
    uint32_t plain_count;
} jinja_output;

/* On failure *out is all-zero and the code is ESP_INVALID. What raise_exception says is the error's
 * whole message; any other failure's message is "chat template, line N: " and Python's own
 * sentence where Python has one. */
ESP_CHECKED esp_code jinja_render(const jinja_template *t, const jinja_input *in, jinja_output *out,
                                  esp_error *err);
void jinja_output_free(jinja_output *out);

#endif
