/* chosen_adapter.c - the adapters that a command was given. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/commands/commands.h"
#include "engine/engine.h"

esp_code chosen_adapter(const engine *e, const model_config *config, uint32_t index, adapter **out,
                        esp_error *err) {
    char name[CONFIG_ADAPTER_NAME_BYTES];
    const char *path;
    *out = NULL;
    if (config->adapters.count == 0) return ESP_OK;
    esp_code code = config_adapter(config->adapters.at[index], name, &path, err);
    return code == ESP_OK ? adapters_find(engine_adapters(e), name, out, err) : code;
}

esp_code check_one_adapter(const model_config *config, esp_error *err) {
    if (config->adapters.count <= 1) return ESP_OK;
    return esp_fail_field(err, ESP_OUT_OF_RANGE, "--adapter",
                          "--adapter was given %u times; one request goes through one",
                          config->adapters.count);
}
