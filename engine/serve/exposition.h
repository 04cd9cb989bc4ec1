/* exposition.h - the words of the Prometheus text format 0.0.4. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_EXPOSITION_H
#define ESPALIER_EXPOSITION_H

#include <stdio.h>

#include "engine/histogram.h"

/* HELP and TYPE of a family; names here stand without "espalier_". */
void exposition_head(FILE *out, const char *name, const char *type, const char *help);
/* name="value", escaped. */
void exposition_label(FILE *out, const char *name, const char *value);
/* The series of a histogram; key and value are a label that they share, NULL for none. */
void exposition_histogram(FILE *out, const char *name, const char *key, const char *value,
                          const histogram *h);

#endif
