/* family_config_rope.c - rope and its scalings from config.json.
 *
 * Two spellings: `rope_theta` beside a `rope_scaling` object, and the newer `rope_parameters`, which
 * holds both, or one such object for each of the two layer types. A file with both spellings must
 * say the same twice. The type is `rope_type`, once `type`; "su" is the old name of longrope. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/model/family/family_config.h"

static const double THETA_MIN = 2, THETA_MAX = 1e12, FACTOR_MAX = 1e6;

/* What the reading functions share. */
typedef struct rope_source {
    hf_section text;
    hf_section scaling; /* of layers that see everything; object NULL: plain rope */
    const config_traits *traits;
    model_spec *spec;
    esp_error *err;
} rope_source;

/* Every key that is read here, or says nothing about the arithmetic. */
static const char *const SCALING_KEYS[] = {
    "rope_type",        "type",
    "rope_theta",       "partial_rotary_factor",
    "factor",           "low_freq_factor",
    "high_freq_factor", "original_max_position_embeddings",
    "attention_factor", "beta_fast",
    "beta_slow",        "mscale",
    "mscale_all_dim",   "truncate",
    "short_factor",     "long_factor",
    "finetuned",        NULL,
};

static const struct {
    const char *name;
    spec_scaling scaling;
} TYPES[] = {
    {"default", SCALING_NONE}, {"linear", SCALING_LINEAR},     {"llama3", SCALING_DIVISORS},
    {"yarn", SCALING_YARN},    {"longrope", SCALING_LONGROPE}, {"su", SCALING_LONGROPE},
};

static esp_code read_type_named(const rope_source *r, const char *key, spec_scaling *out) {
    const char *seen = NULL;
    esp_code code = hf_may_text(&r->scaling, key, &seen, r->err);
    if (code) return code;
    for (size_t i = 0; i < sizeof TYPES / sizeof TYPES[0]; i++) {
        if (strcmp(TYPES[i].name, seen) != 0) continue;
        if (TYPES[i].scaling && !(r->traits->scalings >> TYPES[i].scaling & 1)) break;
        *out = TYPES[i].scaling;
        return ESP_OK;
    }
    return esp_fail(r->err, ESP_INVALID, "%s: %s%s is %s, which is not supported for %s models",
                    r->scaling.file, r->scaling.path, key, hf_show(&r->scaling, key).text,
                    r->traits->family);
}

static esp_code read_type(const rope_source *r) {
    static const char *const keys[] = {"rope_type", "type"};
    spec_scaling seen[2] = {SCALING_NONE, SCALING_NONE};
    uint32_t count = 0;
    for (size_t i = 0; i < 2; i++) {
        if (!hf_has(&r->scaling, keys[i])) continue;
        esp_code code = read_type_named(r, keys[i], &seen[count++]);
        if (code) return code;
    }
    if (count == 2 && seen[0] != seen[1])
        return esp_fail(r->err, ESP_INVALID, "%s: %srope_type is %s and %stype is %s; wanted one",
                        r->scaling.file, r->scaling.path, hf_show(&r->scaling, "rope_type").text,
                        r->scaling.path, hf_show(&r->scaling, "type").text);
    if (count == 0 && hf_has(&r->scaling, "factor"))
        return esp_fail(r->err, ESP_INVALID, "%s: the key %srope_type is missing", r->scaling.file,
                        r->scaling.path);
    r->spec->rope.scaling = seen[0];
    return ESP_OK;
}

static esp_code need_factor(const rope_source *r) {
    return hf_need_real(&r->scaling, "factor", 1, FACTOR_MAX, &r->spec->rope.factor, r->err);
}

/* Beside the type, or at the top, or (yarn, as ever) the context itself. */
static esp_code read_original(const rope_source *r) {
    static const char key[] = "original_max_position_embeddings";
    static const family_range range = {2, SPEC_CONTEXT_MAX, 0};
    uint32_t top = 0, *out = &r->spec->rope.original;
    if (hf_has(&r->text, key)) {
        esp_code code = hf_need_u32(&r->text, key, range, &top, r->err);
        if (code) return code;
    }
    *out = top;
    if (!top && r->spec->rope.scaling == SCALING_YARN) *out = r->spec->context;
    esp_code code = *out ? hf_may_u32(&r->scaling, key, range, out, r->err)
                         : hf_need_u32(&r->scaling, key, range, out, r->err);
    if (code || !top || *out == top) return code;
    return esp_fail(r->err, ESP_INVALID, "%s: %s%s is %u, and %s%s is %u; wanted them equal",
                    r->text.file, r->scaling.path, key, *out, r->text.path, key, top);
}

/* Wavelengths up to original / high are kept, those from original / low on are divided by factor,
 * between them the share of the two goes linearly with the turns within the original context. */
static esp_code read_llama3(const rope_source *r) {
    spec_rope *rope = &r->spec->rope;
    double low, high;
    esp_code code = need_factor(r);
    if (code || (code = read_original(r))) return code;
    if ((code = hf_need_real(&r->scaling, "low_freq_factor", 0.01, 1e4, &low, r->err))) return code;
    code = hf_need_real(&r->scaling, "high_freq_factor", 0.01, 1e4, &high, r->err);
    if (code) return code;
    if (high <= low)
        return esp_fail(r->err, ESP_INVALID,
                        "%s: %shigh_freq_factor is %g; wanted more than low_freq_factor, %g",
                        r->scaling.file, r->scaling.path, high, low);
    for (uint32_t i = 0; i < r->spec->rotary / 2; i++) {
        double turns = rope->original * pow(rope->theta, -2.0 * i / r->spec->rotary) / (2 * M_PI);
        double kept = fmin(fmax((turns - low) / (high - low), 0), 1);
        rope->divisors[i] = (float)(1 / ((1 - kept) / rope->factor + kept));
    }
    return ESP_OK;
}

static double yarn_magnitude(double factor, double scale) {
    return factor > 1 ? 0.1 * scale * log(factor) + 1 : 1;
}

static esp_code read_yarn_magnitude(const rope_source *r) {
    spec_rope *rope = &r->spec->rope;
    double scale = 0, scale_all = 0;
    esp_code code = hf_may_real(&r->scaling, "mscale", 0, 100, &scale, r->err);
    if (code) return code;
    if ((code = hf_may_real(&r->scaling, "mscale_all_dim", 0, 100, &scale_all, r->err)))
        return code;
    rope->magnitude = yarn_magnitude(rope->factor, 1);
    if (scale > 0 && scale_all > 0)
        rope->magnitude =
            yarn_magnitude(rope->factor, scale) / yarn_magnitude(rope->factor, scale_all);
    return hf_may_real(&r->scaling, "attention_factor", 0.01, 100, &rope->magnitude, r->err);
}

/* A file may name the context before scaling or behind it: the longer one is what it was made for. */
static void widen_context(model_spec *spec) {
    double scaled = spec->rope.original * spec->rope.factor;
    if (scaled > spec->context && scaled <= SPEC_CONTEXT_MAX) spec->context = (uint32_t)scaled;
}

static esp_code read_yarn(const rope_source *r) {
    spec_rope *rope = &r->spec->rope;
    bool truncate = true;
    esp_code code = need_factor(r);
    if (code || (code = read_original(r))) return code;
    rope->beta_fast = 32, rope->beta_slow = 1;
    code = hf_may_real(&r->scaling, "beta_fast", 0.01, 1e4, &rope->beta_fast, r->err);
    if (code) return code;
    code = hf_may_real(&r->scaling, "beta_slow", 0.01, 1e4, &rope->beta_slow, r->err);
    if (code) return code;
    if ((code = hf_may_bool(&r->scaling, "truncate", &truncate, r->err))) return code;
    if (!truncate)
        return esp_fail(r->err, ESP_INVALID, "%s: %struncate is false, which is not supported",
                        r->scaling.file, r->scaling.path);
    widen_context(r->spec);
    return read_yarn_magnitude(r);
}

static esp_code read_longrope(const rope_source *r) {
    spec_rope *rope = &r->spec->rope;
    uint32_t pairs = r->spec->rotary / 2;
    esp_code code = read_original(r);
    if (code) return code;
    code = hf_need_reals(&r->scaling, "short_factor", pairs, 1e-3, 1e6, rope->divisors, r->err);
    if (code) return code;
    code = hf_need_reals(&r->scaling, "long_factor", pairs, 1e-3, 1e6, rope->long_divisors, r->err);
    if (code) return code;
    double stretch = (double)r->spec->context / rope->original, factor = stretch;
    if ((code = hf_may_real(&r->scaling, "factor", 1, FACTOR_MAX, &factor, r->err))) return code;
    if (fabs(factor - stretch) > 1e-6 * stretch)
        return esp_fail(r->err, ESP_INVALID,
                        "%s: %sfactor is %g; wanted %g, max_position_embeddings over "
                        "original_max_position_embeddings",
                        r->scaling.file, r->scaling.path, factor, stretch);
    if (stretch > 1) rope->magnitude = sqrt(1 + log(stretch) / log(rope->original));
    return hf_may_real(&r->scaling, "attention_factor", 0.01, 100, &rope->magnitude, r->err);
}

static esp_code read_scaling(const rope_source *r) {
    esp_code code = hf_refuse_unknown(&r->scaling, SCALING_KEYS, r->err);
    if (code) return code;
    if ((code = read_type(r))) return code;
    switch (r->spec->rope.scaling) {
    case SCALING_LINEAR:
        return need_factor(r);
    case SCALING_DIVISORS:
        return read_llama3(r);
    case SCALING_YARN:
        return read_yarn(r);
    case SCALING_LONGROPE:
        return read_longrope(r);
    case SCALING_NONE:
        break;
    }
    return ESP_OK;
}

/* A key that may stand at the top, in the object, or with one value in both. */
static esp_code read_twice(const rope_source *r, const hf_section *inner, const char *key,
                           double min, double max, double *out) {
    double seen = 0;
    esp_code code = hf_may_real(&r->text, key, min, max, out, r->err);
    if (code || !hf_has(inner, key)) return code;
    if ((code = hf_may_real(inner, key, min, max, &seen, r->err))) return code;
    if (hf_has(&r->text, key) && seen != *out)
        return esp_fail(r->err, ESP_INVALID, "%s: %s%s is %g, and %s%s is %g; wanted them equal",
                        r->text.file, inner->path, key, seen, r->text.path, key, *out);
    *out = seen;
    return ESP_OK;
}

static esp_code read_rotary(const rope_source *r) {
    double part = 1;
    esp_code code = read_twice(r, &r->scaling, "partial_rotary_factor", 0.01, 1, &part);
    if (code) return code;
    r->spec->rotary = (uint32_t)(r->spec->head_dim * part);
    if (r->spec->rotary == r->spec->head_dim) return ESP_OK;
    if (!r->traits->partial_rotary || r->spec->rotary < 2 || r->spec->rotary % 2 != 0)
        return esp_fail(r->err, ESP_INVALID,
                        "%s: partial_rotary_factor is %g, %u of the %u dims of a head; that is not "
                        "supported for %s models",
                        r->text.file, part, r->spec->rotary, r->spec->head_dim, r->traits->family);
    return ESP_OK;
}

/* Window layers turn by a base of their own, which nothing scales. */
static esp_code read_local(const rope_source *r, const hf_section *local) {
    static const char key[] = "rope_local_base_freq";
    const char *type = "default";
    esp_code code = hf_may_real(&r->text, key, THETA_MIN, THETA_MAX, &r->spec->local_theta, r->err);
    if (code || !local->object) return code;
    static const char *const known[] = {"rope_type", "type", "rope_theta", NULL};
    if ((code = hf_refuse_unknown(local, known, r->err))) return code;
    if ((code = hf_may_text(local, "rope_type", &type, r->err))) return code;
    if (strcmp(type, "default") != 0)
        return esp_fail(r->err, ESP_INVALID, "%s: %srope_type is %s; wanted \"default\"",
                        local->file, local->path, hf_show(local, "rope_type").text);
    return hf_may_real(local, "rope_theta", THETA_MIN, THETA_MAX, &r->spec->local_theta, r->err);
}

/* One object for each layer type, or one for all. */
static esp_code split_parameters(rope_source *r, const hf_section *parameters, hf_section *local) {
    if (!hf_has(parameters, "full_attention") && !hf_has(parameters, "sliding_attention")) {
        r->scaling = *parameters;
        return ESP_OK;
    }
    static const char *const known[] = {"full_attention", "sliding_attention", NULL};
    if (r->traits->local_theta == 0)
        return esp_fail(r->err, ESP_INVALID,
                        "%s: %s has an object for each layer type, which is not supported for %s "
                        "models",
                        parameters->file, "rope_parameters", r->traits->family);
    esp_code code = hf_refuse_unknown(parameters, known, r->err);
    if (code) return code;
    if ((code = hf_may_section(parameters, "full_attention", &r->scaling, r->err))) return code;
    return hf_may_section(parameters, "sliding_attention", local, r->err);
}

static esp_code find_sections(rope_source *r, hf_section *local) {
    hf_section parameters;
    esp_code code = hf_may_section(&r->text, "rope_parameters", &parameters, r->err);
    if (code) return code;
    *local = (hf_section){.file = r->text.file};
    if ((code = hf_may_section(&r->text, "rope_scaling", &r->scaling, r->err))) return code;
    if (!parameters.object) return ESP_OK;
    if (r->scaling.object && !hf_is_equal(&r->text, "rope_scaling", "rope_parameters"))
        return esp_fail(r->err, ESP_INVALID,
                        "%s: there are rope_scaling and rope_parameters, and they differ; wanted "
                        "one of them",
                        r->text.file);
    return split_parameters(r, &parameters, local);
}

esp_code config_read_rope(const hf_config *config, const config_traits *traits, model_spec *spec,
                          esp_error *err) {
    rope_source r = {.text = hf_config_text(config), .traits = traits, .spec = spec, .err = err};
    hf_section local;
    spec->rope = (spec_rope){.theta = traits->theta, .factor = 1, .magnitude = 1};
    spec->local_theta = traits->local_theta;
    spec->rope_local = traits->local_theta > 0;
    esp_code code = find_sections(&r, &local);
    if (code) return code;
    code = read_twice(&r, &r.scaling, "rope_theta", THETA_MIN, THETA_MAX, &spec->rope.theta);
    if (code) return code;
    if ((code = read_rotary(&r))) return code;
    if (spec->rope_local && (code = read_local(&r, &local))) return code;
    return r.scaling.object ? read_scaling(&r) : ESP_OK;
}
