/* family_find.c - how a family and its tensors are found in a Hugging Face folder. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "engine/model/family/family_table.h"
#include "engine/model/family/hf_keys.h"
#include "engine/model/format/json_bytes.h"

static bool has_class(const model_family *family, const char *name) {
    for (const char *const *known = family->classes; known && *known; known++)
        if (strcmp(*known, name) == 0) return true;
    return false;
}

static esp_code fail_class(const hf_section *root, const char *seen, esp_error *err) {
    char known[320] = "";
    for (size_t i = 0; FAMILIES[i]; i++)
        for (const char *const *name = FAMILIES[i]->classes; name && *name; name++) {
            size_t used = strlen(known);
            snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", *name);
        }
    return esp_fail(err, ESP_INVALID, "%s: architectures[0] is \"%s\"; wanted one of %s",
                    root->file, json_show(seen).text, known);
}

static esp_code find_by_type(const hf_section *root, const model_family **out, esp_error *err) {
    const char *seen = NULL;
    esp_code code = hf_may_text(root, "model_type", &seen, err);
    if (code) return code;
    for (size_t i = 0; FAMILIES[i] && seen; i++) {
        const char *type = FAMILIES[i]->model_type;
        if (!type || strcmp(type, seen) != 0) continue;
        *out = FAMILIES[i];
        return ESP_OK;
    }
    return esp_fail(err, ESP_INVALID,
                    "%s: there is no class in `architectures`, and model_type is %s, which is not "
                    "known here",
                    root->file, hf_show(root, "model_type").text);
}

esp_code family_find_config(const hf_config *config, const model_family **out, esp_error *err) {
    hf_section root = hf_config_root(config);
    const char *seen = hf_config_class(config);
    if (!seen && hf_has(&root, "architectures"))
        return esp_fail(err, ESP_INVALID, "%s: architectures is %s; wanted a list of one text",
                        root.file, hf_show(&root, "architectures").text);
    if (!seen) return find_by_type(&root, out, err);
    for (size_t i = 0; FAMILIES[i]; i++) {
        if (!has_class(FAMILIES[i], seen)) continue;
        *out = FAMILIES[i];
        return ESP_OK;
    }
    return fail_class(&root, seen, err);
}

static bool begins(model_text text, const char *with) {
    size_t bytes = strlen(with);
    return text.bytes >= bytes && memcmp(text.at, with, bytes) == 0;
}

static bool is(model_text text, const char *wanted) {
    return text.bytes == strlen(wanted) && begins(text, wanted);
}

static bool ends(model_text text, const char *with) {
    size_t bytes = strlen(with);
    return text.bytes >= bytes && memcmp(text.at + text.bytes - bytes, with, bytes) == 0;
}

model_text family_bare_name(model_text name) {
    /* "language_model.lm_head.weight" stands beside "language_model.model.". */
    static const char *const around[] = {"model.language_model.",
                                         "language_model.model.",
                                         "language_model.",
                                         "model.",
                                         "bert.",
                                         "roberta."};
    for (size_t i = 0; i < sizeof around / sizeof *around; i++) {
        size_t bytes = strlen(around[i]);
        if (begins(name, around[i])) return (model_text){name.at + bytes, name.bytes - bytes};
    }
    return name;
}

/* Indices 0, 1, 2 that were once saved; what turns one state into a class or into words. */
static bool encoder_ignores(model_text bare_name) {
    return begins(bare_name, "embeddings.position_ids") || begins(bare_name, "pooler.") ||
           begins(bare_name, "cls.") || begins(bare_name, "lm_head.");
}

bool family_ignores_tensor(const model_spec *spec, model_text bare_name) {
    if (spec->encoder) return encoder_ignores(bare_name);
    if (ends(bare_name, ".rotary_emb.inv_freq")) return true;
    if (begins(bare_name, "vision_tower.") || begins(bare_name, "multi_modal_projector."))
        return true;
    if (spec->pooling != POOLING_NONE)
        return begins(bare_name, "lm_head."); /* no logits are made */
    return spec->tied_embeddings && is(bare_name, "lm_head.weight");
}
