/* family_embedding.c - pooling from metadata keys. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/family/family_embedding.h"

#include "engine/model/family/family_decoder.h"
#include "engine/model/family/family_keys.h"

/* Their numbers in the format. */
enum { TYPE_NONE, TYPE_MEAN, TYPE_CLS, TYPE_LAST };

static esp_code read_pooling(const gguf_file *file, const char *key, model_spec *spec,
                             esp_error *err) {
    static const spec_pooling poolings[] = {[TYPE_NONE] = POOLING_NONE,
                                            [TYPE_MEAN] = POOLING_MEAN,
                                            [TYPE_CLS] = POOLING_FIRST,
                                            [TYPE_LAST] = POOLING_LAST};
    bool found;
    uint32_t type = 0;
    esp_code code = gguf_get_u32(file, key, &found, &type, err);
    if (code || (!found && !spec->encoder)) return code;
    /* An encoder that does not pool gives nothing that is served here. */
    if (!found)
        return esp_fail(err, ESP_INVALID,
                        "%s: metadata key %s is missing; wanted 1 (mean), 2 (cls) or 3 (last): "
                        "how a text becomes one vector is not guessed",
                        gguf_name(file), key);
    if (type > TYPE_LAST || (type == TYPE_NONE && spec->encoder))
        return esp_fail(err, ESP_INVALID,
                        "%s: metadata key %s is %u, which is not supported; wanted 1 (mean), 2 "
                        "(cls) or 3 (last)",
                        gguf_name(file), key, type);
    spec->pooling = poolings[type];
    return ESP_OK;
}

esp_code embedding_read_keys(const gguf_file *file, const char *architecture, model_spec *spec,
                             esp_error *err) {
    bool found;
    decoder_key key = decoder_key_of(architecture, "pooling_type");
    esp_code code = read_pooling(file, key.text, spec, err);
    if (code) return code;
    spec->normalise = spec->pooling != POOLING_NONE;
    key = decoder_key_of(architecture, "normalize_embeddings");
    return gguf_get_bool(file, key.text, &found, &spec->normalise, err);
}
