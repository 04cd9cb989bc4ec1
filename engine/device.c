/* device.c - a CUDA device where there is one, the CPU everywhere. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/device.h"

#include "engine/base/log.h"

static void choose_auto(model_config *c) {
    esp_error why = {0};
    c->device = kern_cpu_best_level() == LEVEL_AUTO ? DEVICE_REF : DEVICE_CPU;
    if (c->ops || c->activations == ACT_INT8 || (c->kv_dtype_given && c->kv_dtype == DT_F32))
        return;
    if (kern_cuda_check(0, &why) == ESP_OK) c->device = DEVICE_CUDA;
    if (!c->serves) return; /* a command's stderr is its errors'; its profile says the device */
    if (c->device == DEVICE_CUDA) {
        log_event(LOG_INFO, "device_chosen", "device=cuda:0");
    } else if (why.code != ESP_UNIMPLEMENTED) {
        log_event(LOG_INFO, "device_chosen", "device=%s reason=\"%s\"", device_ops(c->device)->name,
                  why.message);
    }
}

static esp_code choose_kv_dtype(model_config *c, esp_error *err) {
    if (c->device != DEVICE_REF) {
        if (!c->kv_dtype_given) c->kv_dtype = DT_BF16;
        return ESP_OK;
    }
    if (!c->kv_dtype_given) c->kv_dtype = DT_F32;
    if (c->kv_dtype == DT_F32 || c->kv_dtype == DT_KV_INT8) return ESP_OK;
    return esp_fail_field(err, ESP_INVALID, "--kv-dtype",
                          "--kv-dtype %s: --device ref keeps f32 or, as --device cuda does, int8",
                          kern_kv_name(c->kv_dtype));
}

esp_code device_choose(model_config *config, esp_error *err) {
    esp_code code = ESP_OK;
    if (config->device == DEVICE_AUTO)
        choose_auto(config);
    else if (config->device == DEVICE_CUDA && !config->ops)
        code = kern_cuda_check(device_index(config), err);
    return code ? code : choose_kv_dtype(config, err);
}

const kern_ops *device_ops(device_kind device) {
    ESP_ASSERT(device != DEVICE_AUTO);
    return device == DEVICE_REF ? &kern_ref : device == DEVICE_CPU ? &kern_cpu : &kern_cuda;
}

kern_level device_level(const model_config *config) {
    return config->device == DEVICE_CPU ? config->level : LEVEL_AUTO;
}

uint32_t device_index(const model_config *config) {
    return config->device == DEVICE_CUDA ? config->device_index : 0;
}

uint32_t device_of_rank(const model_config *config, uint32_t rank) {
    if (config->device != DEVICE_CUDA) return 0;
    return config->gpus ? config->gpus[rank] : device_index(config) + rank;
}
