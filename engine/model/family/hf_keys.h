/* hf_keys.h - keys of a configuration as a family reads them: present, of the right type, within
 * bounds. Each sentence names file, key, what was seen and what was wanted. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_HF_KEYS_H
#define ESPALIER_MODEL_HF_KEYS_H

#include "engine/model/family/family_keys.h"
#include "engine/model/family/hf_config.h"

/* There, and not null. */
bool hf_has(const hf_section *section, const char *key);
bool hf_is_null(const hf_section *section, const char *key);

/* A key that may be missing; *out then keeps its value, which is held against the range as well. */
ESP_CHECKED esp_code hf_may_u32(const hf_section *section, const char *key, family_range range,
                                uint32_t *out, esp_error *err);
ESP_CHECKED esp_code hf_may_real(const hf_section *section, const char *key, double min, double max,
                                 double *out, esp_error *err);
ESP_CHECKED esp_code hf_may_bool(const hf_section *section, const char *key, bool *out,
                                 esp_error *err);
ESP_CHECKED esp_code hf_may_text(const hf_section *section, const char *key, const char **out,
                                 esp_error *err);
/* A key that must be there. */
ESP_CHECKED esp_code hf_need_u32(const hf_section *section, const char *key, family_range range,
                                 uint32_t *out, esp_error *err);
ESP_CHECKED esp_code hf_need_real(const hf_section *section, const char *key, double min,
                                  double max, double *out, esp_error *err);
/* A list of exactly count numbers. */
ESP_CHECKED esp_code hf_need_reals(const hf_section *section, const char *key, uint32_t count,
                                   double min, double max, float *out, esp_error *err);
/* A list of exactly count texts; *found = false and nothing written when the key is missing. */
ESP_CHECKED esp_code hf_may_texts(const hf_section *section, const char *key, uint32_t count,
                                  const char **out, bool *found, esp_error *err);
/* The object behind a key; out->object NULL when it is missing. */
ESP_CHECKED esp_code hf_may_section(const hf_section *section, const char *key, hf_section *out,
                                    esp_error *err);

/* Refuses every key of an object that is not in the list (NULL at its end) and has a value. */
ESP_CHECKED esp_code hf_refuse_unknown(const hf_section *section, const char *const *known,
                                       esp_error *err);
/* Whether a value asks for nothing: missing, null, false, 0, or empty. */
bool hf_is_empty(const hf_section *section, const char *key);
bool hf_is_one(const hf_section *section, const char *key);
/* Whether two keys have the same value. */
bool hf_is_equal(const hf_section *section, const char *a, const char *b);

/* The value as JSON, printable and cut to fit, for error sentences. */
typedef struct hf_shown {
    char text[64];
} hf_shown;
hf_shown hf_show(const hf_section *section, const char *key);

#endif
