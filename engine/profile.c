/* profile.c - names the arithmetic of an opened device. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/profile.h"

#include <stdio.h>

#include "engine/base/batch.h"
#include "engine/base/pool.h"
#include "engine/device.h"

void profile_print(const kern_ops *ops, const kern_device *dev, const esp_dtype *quantize,
                   char out[PROFILE_BYTES_MAX]) {
    snprintf(out, PROFILE_BYTES_MAX, "%s,tp=1,numerics=%d%s%s", ops->profile(dev), NUMERICS_VERSION,
             quantize ? ",quantize=" : "", quantize ? dtype_info(*quantize)->name : "");
}

esp_code profile_of_auto(char out[PROFILE_BYTES_MAX], esp_error *err) {
    model_config config = {.device = DEVICE_AUTO};
    thread_pool *pool = NULL;
    kern_device *dev = NULL;
    esp_code code = device_choose(&config, err);
    /* The profile does not depend on the thread count. */
    if (code == ESP_OK) code = pool_open(&pool, 1, err);
    if (code != ESP_OK) return code;
    const kern_ops *ops = device_ops(config.device);
    kern_options options = {
        .pool = pool, .kv_dtype = config.kv_dtype, .tokens_max = KV_PAGE_TOKENS};
    code = ops->open(&dev, &options, err);
    if (code == ESP_OK) {
        profile_print(ops, dev, NULL, out);
        ops->close(dev);
    }
    pool_close(pool);
    return code;
}
