/* inspect.c - espalier inspect: what a model is, as JSON. */
// SPDX-License-Identifier: Apache-2.0
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/commands/commands.h"
#include "engine/model/lora/lora_file.h"
#include "engine/profile.h"

typedef struct options {
    const char *path;
} options;

static const flag_command command = {
    .name = "inspect",
    .summary =
        "Describes a model, a GGUF file or a Hugging Face folder, as JSON: family, shape,\n"
        "quantisation, tensors, tokenizer, digest, and the numeric profile of --device auto on\n"
        "this machine. Of one that does not load it says what stands in the way.\n"
        "Describes an adapter, a PEFT folder or a GGUF file, too: rank, targets, base, digest.",
    .usage = "PATH",
    .examples = "  espalier inspect m.gguf\n",
    .positional = "PATH",
    .positional_offset = offsetof(options, path),
    .positional_required = true,
};

static void print_with_profile(const char *described, const char *profile) {
    json_t *root = json_loads(described, 0, NULL);
    ESP_ASSERT(root && json_object_set_new(root, "profile", json_string(profile)) == 0);
    json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(root);
}

static esp_code print_adapter(const char *path, esp_error *err) {
    lora_file *file = NULL;
    esp_code code = lora_file_open(&file, path, NULL, err);
    if (code != ESP_OK) return code;
    char *described = lora_file_describe(file);
    puts(described);
    free(described);
    lora_file_close(file);
    return ESP_OK;
}

esp_code command_inspect(int argc, char **argv, esp_error *err) {
    options o = {0};
    bool go;
    esp_code code = command_options(&command, argc, argv, &o, &go, err);
    if (!go) return code;
    if (lora_path_is_adapter(o.path)) return print_adapter(o.path, err);
    model_file *file = NULL;
    char profile[PROFILE_BYTES_MAX];
    code = model_file_open(&file, o.path, err);
    if (code == ESP_OK) code = profile_of_auto(profile, err);
    if (code == ESP_OK) {
        char *described = model_file_describe(file);
        print_with_profile(described, profile);
        free(described);
    }
    model_file_close(file);
    return code;
}
