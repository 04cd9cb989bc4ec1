/* family_keys.h - metadata keys as a family reads them: present, of the right type, within bounds.
 */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_FAMILY_KEYS_H
#define ESPALIER_MODEL_FAMILY_KEYS_H

#include "engine/model/format/gguf.h"

typedef struct family_range {
    uint32_t min, max, multiple; /* multiple 0: any */
} family_range;

/* A key that must be there. */
ESP_CHECKED esp_code family_need_u32(const gguf_file *file, const char *key, family_range range,
                                     uint32_t *out, esp_error *err);
/* A key that may be missing; *out then keeps its value, which is held against the range as well. */
ESP_CHECKED esp_code family_may_u32(const gguf_file *file, const char *key, family_range range,
                                    uint32_t *out, esp_error *err);
/* The same for a finite float in [min, max]. */
ESP_CHECKED esp_code family_need_f32(const gguf_file *file, const char *key, float min, float max,
                                     float *out, esp_error *err);
ESP_CHECKED esp_code family_may_f32(const gguf_file *file, const char *key, float min, float max,
                                    float *out, esp_error *err);

/* Refuses every key that begins with prefix and whose rest is in neither list (NULL at its end; more
 * may be NULL): a key that we do not know may change the arithmetic. */
ESP_CHECKED esp_code family_refuse_unknown(const gguf_file *file, const char *prefix,
                                           const char *const *known, const char *const *more,
                                           esp_error *err);

#endif
