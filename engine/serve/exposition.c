/* exposition.c - lines of the text format. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/exposition.h"

#include <inttypes.h>

void exposition_head(FILE *out, const char *name, const char *type, const char *help) {
    fprintf(out, "# HELP espalier_%s %s\n# TYPE espalier_%s %s\n", name, help, name, type);
}

void exposition_label(FILE *out, const char *name, const char *value) {
    fprintf(out, "%s=\"", name);
    for (; *value; value++) {
        if (*value == '\n')
            fputs("\\n", out);
        else
            fprintf(out, "%s%c", *value == '"' || *value == '\\' ? "\\" : "", *value);
    }
    fputc('"', out);
}

/* "espalier_NAME_SUFFIX{key="value"}" without the last brace where more labels follow. */
static void begin_series(FILE *out, const char *name, const char *suffix, const char *key,
                         const char *value) {
    fprintf(out, "espalier_%s_%s", name, suffix);
    if (!key) return;
    fputc('{', out);
    exposition_label(out, key, value);
}

void exposition_histogram(FILE *out, const char *name, const char *key, const char *value,
                          const histogram *h) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        total += h->count[i];
        begin_series(out, name, "bucket", key, value);
        fputc(key ? ',' : '{', out);
        if (i < HISTOGRAM_BUCKETS - 1)
            fprintf(out, "le=\"%g\"} %" PRIu64 "\n", histogram_bounds[i], total);
        else
            fprintf(out, "le=\"+Inf\"} %" PRIu64 "\n", total);
    }
    begin_series(out, name, "sum", key, value);
    fprintf(out, "%s %.9g\n", key ? "}" : "", h->sum);
    begin_series(out, name, "count", key, value);
    fprintf(out, "%s %" PRIu64 "\n", key ? "}" : "", total);
}
