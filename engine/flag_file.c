/* flag_file.c - --config FILE: a YAML mapping from option names to scalars. */
// SPDX-License-Identifier: Apache-2.0
#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/flags.h"

/* The first complaint of the YAML reader; what follows it is a backtrace, which may also stand alone:
 * then the error's code says what is wrong. */
typedef struct complaint {
    char text[160];
    bool over;
} complaint;

static void keep_first(cyaml_log_t level, void *context, const char *format, va_list args) {
    complaint *c = context;
    if (level < CYAML_LOG_ERROR || c->over) return;
    c->over = true;
    if (strstr(format, "Backtrace")) return;
    vsnprintf(c->text, sizeof c->text, format, args);
    c->text[strcspn(c->text, "\n")] = '\0';
}

static const char *complaint_text(const complaint *c, cyaml_err_t why) {
    const char *text = c->text;
    if (!strncmp(text, "Load: ", 6)) text += 6;
    if (*text) return text;
    /* What the reader calls its own mistake is a list or a mapping as a key. */
    return why == CYAML_ERR_INTERNAL_ERROR ? "a key is no single word" : cyaml_strerror(why);
}

/* One optional string per option, in the order of flag_at. */
static void make_schema(const flag_command *command, cyaml_schema_field_t *fields) {
    const flag *f;
    size_t base;
    uint32_t i;
    for (i = 0; (f = flag_at(command, i, &base)); i++) {
        ESP_ASSERT(i < FLAG_COUNT_MAX);
        fields[i] = (cyaml_schema_field_t){
            .key = f->name,
            .data_offset = (uint32_t)(offsetof(flag_values, text) + i * sizeof(char *)),
            .value = {.type = CYAML_STRING,
                      .flags = CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL,
                      .data_size = sizeof(char),
                      .string = {.min = 0, .max = CYAML_UNLIMITED}}};
    }
    fields[i].key = NULL; /* ends the list */
}

static bool is_marker(const char *line, size_t bytes, const char *marker) {
    return bytes >= 3 && !memcmp(line, marker, 3) && (bytes == 3 || strchr(" \t\r", line[3]));
}

/* The reader stops where the first document ends: what a later one says would be ignored. A marker
 * at a line's start ends a document even inside a text, so lines are enough to know. */
static bool has_second_document(const char *text, size_t bytes) {
    bool begun = false, ended = false;
    const char *line = text, *end = text + bytes;
    if (bytes >= 3 && !memcmp(line, "\xef\xbb\xbf", 3)) line += 3; /* the byte order mark */
    while (line < end) {
        const char *feed = memchr(line, '\n', (size_t)(end - line));
        size_t count = (size_t)((feed ? feed : end) - line), blank = 0;
        while (blank < count && strchr(" \t\r", line[blank]))
            blank++;
        bool says = blank < count && line[blank] != '#' && (begun || *line != '%');
        if (is_marker(line, count, "..."))
            ended = begun;
        else if (says && (ended || (begun && is_marker(line, count, "---"))))
            return true;
        else
            begun |= says;
        line += feed ? count + 1 : count;
    }
    return false;
}

static esp_code read_whole(const char *path, uint8_t **out, size_t *bytes, esp_error *err) {
    FILE *file = fopen(path, "rb");
    if (!file)
        return esp_fail_field(err, ESP_NOT_FOUND, "--config", "--config %s cannot be read: %s",
                              path, strerror(errno));
    uint8_t *data = mem_new(FLAG_CONFIG_BYTES_MAX + 1, 1);
    *bytes = fread(data, 1, FLAG_CONFIG_BYTES_MAX + 1, file);
    bool failed = ferror(file) != 0;
    fclose(file);
    if (!failed && *bytes <= FLAG_CONFIG_BYTES_MAX) {
        *out = data;
        return ESP_OK;
    }
    free(data);
    if (failed)
        return esp_fail_field(err, ESP_DATA_LOSS, "--config", "--config %s: reading failed", path);
    return esp_fail_field(err, ESP_INVALID, "--config", "--config %s is larger than %d bytes", path,
                          FLAG_CONFIG_BYTES_MAX);
}

static esp_code read_one_document(const char *path, uint8_t **out, size_t *bytes, esp_error *err) {
    esp_code code = read_whole(path, out, bytes, err);
    if (code != ESP_OK || !has_second_document((const char *)*out, *bytes)) return code;
    free(*out);
    *out = NULL;
    return esp_fail_field(err, ESP_INVALID, "--config",
                          "--config %s holds more than one YAML document; wanted one", path);
}

esp_code flag_file_load(const flag_command *command, const char *path, flag_values *values,
                        esp_error *err) {
    uint8_t *data = NULL;
    size_t bytes = 0;
    esp_code code = read_one_document(path, &data, &bytes, err);
    if (code != ESP_OK) return code;
    cyaml_schema_field_t fields[FLAG_COUNT_MAX + 1];
    make_schema(command, fields);
    const cyaml_schema_value_t schema = {
        .type = CYAML_MAPPING,
        .flags = CYAML_FLAG_POINTER,
        .data_size = sizeof(flag_values),
        .mapping = {.fields = fields},
    };
    complaint why = {0};
    const cyaml_config_t config = {.log_level = CYAML_LOG_ERROR,
                                   .log_fn = keep_first,
                                   .log_ctx = &why,
                                   .mem_fn = cyaml_mem,
                                   .flags = CYAML_CFG_NO_ALIAS};
    flag_values *loaded = NULL;
    cyaml_err_t failed =
        cyaml_load_data(data, bytes, &config, &schema, (cyaml_data_t **)&loaded, NULL);
    free(data);
    if (failed)
        return esp_fail_field(
            err, ESP_INVALID, "--config",
            "--config %s: %s; wanted lines like max-seqs: 64, each key an option of "
            "espalier %s without dashes",
            path, complaint_text(&why, failed), command->name);
    if (loaded) *values = *loaded; /* an empty file says nothing */
    free(loaded);
    return ESP_OK;
}
