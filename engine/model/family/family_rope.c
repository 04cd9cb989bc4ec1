/* family_rope.c - rope and its scalings from metadata.
 *
 * A scaling is named by rope.scaling.type, or shown by a list of divisors among the tensors:
 * rope_freqs.weight (Llama 3.1 and later), rope_factors_long.weight (LongRoPE). Without either, a
 * factor means linear scaling, as in the reference implementation. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <string.h>

#include "engine/model/family/family_decoder.h"

enum { ORIGINAL_CONTEXT_MAX = 16777216 };

/* What the reading functions share. */
typedef struct rope_reader {
    const gguf_file *file;
    const decoder_traits *traits;
    model_spec *spec;
    esp_error *err;
} rope_reader;

static const struct {
    const char *name;
    spec_scaling scaling;
} TYPES[] = {
    {"none", SCALING_NONE},
    {"linear", SCALING_LINEAR},
    {"yarn", SCALING_YARN},
    {"longrope", SCALING_LONGROPE},
};

static bool allowed(const rope_reader *r, spec_scaling scaling) {
    return scaling == SCALING_NONE || r->traits->scalings >> scaling & 1;
}

static esp_code refuse_type(const rope_reader *r, model_text type) {
    bool plain = type.bytes <= 32;
    for (size_t i = 0; i < type.bytes && plain; i++)
        plain = type.at[i] >= 0x20 && type.at[i] <= 0x7e;
    return esp_fail(r->err, ESP_INVALID,
                    "%s: %s.rope.scaling.type is \"%.*s\", which is not supported for %s models",
                    gguf_name(r->file), r->traits->architecture, plain ? (int)type.bytes : 1,
                    plain ? type.at : "?", r->traits->architecture);
}

/* *named: the file has a type. */
static esp_code read_type(const rope_reader *r, bool *named) {
    model_text type = {"", 0};
    decoder_key key = decoder_key_of(r->traits->architecture, "rope.scaling.type");
    esp_code code = gguf_get_text(r->file, key.text, named, &type, r->err);
    if (code || !*named) return code;
    for (size_t i = 0; i < sizeof TYPES / sizeof TYPES[0]; i++) {
        if (strlen(TYPES[i].name) != type.bytes || memcmp(TYPES[i].name, type.at, type.bytes) != 0)
            continue;
        if (!allowed(r, TYPES[i].scaling)) break;
        r->spec->rope.scaling = TYPES[i].scaling;
        return ESP_OK;
    }
    return refuse_type(r, type);
}

static esp_code read_real(const rope_reader *r, const char *suffix, float min, float max,
                          double *out, bool *found) {
    float value = (float)*out;
    decoder_key key = decoder_key_of(r->traits->architecture, suffix);
    esp_code code = gguf_get_f32(r->file, key.text, found, &value, r->err);
    if (code) return code;
    if (*found) code = family_may_f32(r->file, key.text, min, max, &value, r->err);
    if (!code && *found) *out = (double)value;
    return code;
}

/* The factor of linear scaling and yarn; 0 stands for 1. */
static esp_code read_factor(const rope_reader *r) {
    static const char *const suffixes[] = {"rope.scaling.factor", "rope.scale_linear"};
    for (size_t i = 0; i < 2; i++) {
        bool found;
        double factor = 1;
        esp_code code = read_real(r, suffixes[i], 0, 1e6f, &factor, &found);
        if (code) return code;
        if (!found || factor == 0) continue;
        r->spec->rope.factor = factor;
        break;
    }
    return ESP_OK;
}

static esp_code need_original(const rope_reader *r) {
    decoder_key key =
        decoder_key_of(r->traits->architecture, "rope.scaling.original_context_length");
    return family_need_u32(r->file, key.text, (family_range){2, ORIGINAL_CONTEXT_MAX, 0},
                           &r->spec->rope.original, r->err);
}

static esp_code read_yarn(const rope_reader *r) {
    spec_rope *rope = &r->spec->rope;
    bool found;
    esp_code code = need_original(r);
    if (code) return code;
    rope->beta_fast = 32, rope->beta_slow = 1;
    code = read_real(r, "rope.scaling.yarn_beta_fast", 0.01f, 1e4f, &rope->beta_fast, &found);
    if (code) return code;
    code = read_real(r, "rope.scaling.yarn_beta_slow", 0.01f, 1e4f, &rope->beta_slow, &found);
    if (rope->factor > 1) rope->magnitude = 0.1 * log(rope->factor) + 1;
    return code;
}

static esp_code read_longrope(const rope_reader *r) {
    spec_rope *rope = &r->spec->rope;
    bool found;
    esp_code code = need_original(r);
    if (code) return code;
    double stretch = (double)r->spec->context / rope->original;
    if (stretch > 1) rope->magnitude = sqrt(1 + log(stretch) / log(rope->original));
    return read_real(r, "rope.scaling.attn_factor", 0.01f, 100, &rope->magnitude, &found);
}

/* Only LongRoPE files are known to carry it; elsewhere its meaning has changed over the years. */
static esp_code refuse_attention_factor(const rope_reader *r) {
    bool found;
    double factor = 1;
    esp_code code = read_real(r, "rope.scaling.attn_factor", 0, 1e6f, &factor, &found);
    if (code || factor == 1) return code;
    return esp_fail(r->err, ESP_INVALID,
                    "%s: %s.rope.scaling.attn_factor is %g; it is supported with longrope only",
                    gguf_name(r->file), r->traits->architecture, factor);
}

/* A list of divisors beside another scaling is a model that nobody defined. */
static esp_code read_lists(const rope_reader *r) {
    static const struct {
        const char *tensor;
        spec_scaling scaling;
    } lists[] = {{"rope_freqs.weight", SCALING_DIVISORS},
                 {"rope_factors_long.weight", SCALING_LONGROPE}};
    spec_rope *rope = &r->spec->rope;
    for (size_t i = 0; i < 2; i++) {
        if (!gguf_find(r->file, lists[i].tensor) || !allowed(r, lists[i].scaling)) continue;
        if (rope->scaling != SCALING_NONE && rope->scaling != lists[i].scaling)
            return esp_fail(r->err, ESP_INVALID,
                            "%s: tensor %s scales the rope frequencies, and %s.rope.scaling asks "
                            "for another scaling; wanted one of the two",
                            gguf_name(r->file), lists[i].tensor, r->traits->architecture);
        rope->scaling = lists[i].scaling;
    }
    return ESP_OK;
}

static esp_code read_scaling(const rope_reader *r) {
    spec_rope *rope = &r->spec->rope;
    bool named;
    rope->factor = rope->magnitude = 1;
    esp_code code = read_type(r, &named);
    if (code) return code;
    if ((code = read_factor(r))) return code;
    if (!named && rope->factor != 1) rope->scaling = SCALING_LINEAR;
    if (!allowed(r, rope->scaling))
        return esp_fail(r->err, ESP_INVALID,
                        "%s: %s.rope.scaling.factor is %g; rope scaling is not supported for %s "
                        "models",
                        gguf_name(r->file), r->traits->architecture, rope->factor,
                        r->traits->architecture);
    if ((code = read_lists(r))) return code;
    if (rope->scaling == SCALING_LONGROPE) return read_longrope(r);
    if ((code = refuse_attention_factor(r))) return code;
    return rope->scaling == SCALING_YARN ? read_yarn(r) : ESP_OK;
}

esp_code decoder_read_rope(const gguf_file *file, const decoder_traits *traits, model_spec *spec,
                           esp_error *err) {
    rope_reader r = {.file = file, .traits = traits, .spec = spec, .err = err};
    bool found;
    spec->rope.theta = 10000;
    esp_code code = read_real(&r, "rope.freq_base", 1.0f, 1e12f, &spec->rope.theta, &found);
    if (code) return code;
    spec->rotary = spec->head_dim;
    decoder_key key = decoder_key_of(traits->architecture, "rope.dimension_count");
    code = family_may_u32(file, key.text, (family_range){2, spec->head_dim, 2}, &spec->rotary, err);
    return code ? code : read_scaling(&r);
}
