/* fuzz_flag_file.c - any bytes as the file of `serve --config`: refused with a sentence, or every
 * option in its range. Seeds: corpus/flag_file, made by make_flag_file_corpus.py. */
// SPDX-License-Identifier: Apache-2.0
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const flag_command serve = {
    .name = "serve",
    .config_file = true,
    .part = {{&config_model_flags, offsetof(serve_config, model)}, {&config_serve_flags, 0}},
};

/* What the file said is inside the file: no text is longer, none is left where it was refused. */
static void check_values(const flag_values *values, esp_code code, size_t size) {
    size_t base, total = 0;
    for (uint32_t i = 0; i < FLAG_COUNT_MAX; i++) {
        if (!values->text[i]) continue;
        ESP_ASSERT(code != ESP_INVALID && flag_at(&serve, i, &base));
        total += strlen(values->text[i]);
    }
    ESP_ASSERT(total <= 3 * size); /* "\L" of two bytes is a sign of three */
}

/* Each number of an accepted file fits its row of the table. */
static void check_ranges(const serve_config *config) {
    const flag *f;
    size_t base;
    for (uint32_t i = 0; (f = flag_at(&serve, i, &base)); i++) {
        if (f->kind != FLAG_U32) continue;
        uint32_t value;
        memcpy(&value, (const char *)config + base + f->offset, sizeof value);
        ESP_ASSERT(value <= f->most);
    }
    ESP_ASSERT(config->model.model_path);
}

static void parse(char *path, size_t size) {
    char option[] = "--config";
    char *argv[] = {option, path};
    serve_config config;
    flag_values values = {{0}};
    bool help = false;
    esp_error err = {0};
    config_serve_defaults(&config);
    esp_code code = flags_parse(&serve, 2, argv, &config, &values, &help, &err);
    ESP_ASSERT(!help && (code == ESP_OK || (err.code == code && err.message[0])));
    check_values(&values, code, size);
    if (code == ESP_OK) {
        check_ranges(&config);
        if (config_serve_check(&config, &err) != ESP_OK) ESP_ASSERT(err.message[0]);
    }
    flag_values_free(&values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > FLAG_CONFIG_BYTES_MAX + 1) return 0;
    int fd = memfd_create("config", MFD_CLOEXEC);
    ESP_ASSERT(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    parse(path, size);
    close(fd);
    return 0;
}
