/* adapter.h - what the commands of `espalier adapter` share. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_COMMANDS_ADAPTER_H
#define ESPALIER_COMMANDS_ADAPTER_H

#include <jansson.h>

#include "engine/adapters/store.h"
#include "engine/commands/commands.h"

esp_code adapter_import(int argc, char **argv, esp_error *err);
esp_code adapter_list(int argc, char **argv, esp_error *err);
esp_code adapter_show(int argc, char **argv, esp_error *err);
esp_code adapter_remove(int argc, char **argv, esp_error *err);
esp_code adapter_alias(int argc, char **argv, esp_error *err);
esp_code adapter_merge(int argc, char **argv, esp_error *err);

/* Where the store is. */
typedef struct store_place {
    const char *path; /* NULL: config_adapter_store */
} store_place;
extern const flag_table store_flags; /* of store_place */

/* create: it may be made. */
ESP_CHECKED esp_code open_store(const store_place *place, bool create, adapter_store **out,
                                esp_error *err);

/* "0.9 MB", of powers of ten */
typedef struct size_text {
    char text[24];
} size_text;
size_text show_size(uint64_t bytes);
/* "8", "8-64", "none" */
typedef struct rank_text {
    char text[24];
} rank_text;
rank_text show_ranks(const store_manifest *manifest);

/* What a version is, as JSON: name, version, digest, imported and the manifest. The caller's. */
json_t *describe_version(const char *name, const store_version *version,
                         const store_manifest *manifest);
void print_json(json_t *root); /* and gives it back */

#endif
