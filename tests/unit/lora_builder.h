/* lora_builder.h - a small adapter in memory, right or with one thing wrong: rank 2 on q_proj and
 * up_proj of both layers of tests/vectors/families/llama3. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_LORA_BUILDER_H
#define ESPALIER_TESTS_LORA_BUILDER_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/gguf_builder.h"

#define LB_LAYER(n) "base_model.model.model.layers." #n "."
#define LB_Q(n) LB_LAYER(n) "self_attn.q_proj"

enum { LB_HIDDEN = 64, LB_QUERY = 64, LB_INNER = 96, LB_RANK = 2, LB_VOCAB = 304 };

/* What is wrong; all-zero: nothing. */
typedef struct lora_fault {
    const char *key, *value; /* this key of the config has that value, as JSON; "" takes it out */
    const char *tensor;      /* this tensor ... */
    const char *rename;      /* ... is called so; "" takes it out */
    uint32_t rows, cols;     /* ... has this shape; rows 0: a vector */
    float poison;            /* ... ends with this value, if not 0 */
    const char *type;        /* ... says this type, of 4 bytes an element */
    const char *more;        /* a tensor more, [more_rows, more_cols] */
    uint32_t more_rows, more_cols;
} lora_fault;

typedef struct lora_bytes {
    char config[2048];
    gb_bytes tensors;
} lora_bytes;

static inline void lb_config(const lora_fault *fault, char out[2048]) {
    const char *keys[][2] = {{"peft_type", "\"LORA\""},
                             {"task_type", "\"CAUSAL_LM\""},
                             {"base_model_name_or_path", "\"tiny/llama3\""},
                             {"r", "2"},
                             {"lora_alpha", "4"},
                             {"lora_dropout", "0.05"},
                             {"inference_mode", "true"},
                             {"fan_in_fan_out", "false"},
                             {"megatron_config", "null"},
                             {"target_modules", "[\"q_proj\",\"up_proj\"]"}};
    size_t used = (size_t)sprintf(out, "{\"peft_version\":\"0.21.2\"");
    bool said = false;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        bool own = fault->key && strcmp(fault->key, keys[i][0]) == 0;
        const char *value = own ? fault->value : keys[i][1];
        said = said || own;
        if (value[0]) used += (size_t)sprintf(out + used, ",\"%s\":%s", keys[i][0], value);
    }
    if (fault->key && !said)
        used += (size_t)sprintf(out + used, ",\"%s\":%s", fault->key, fault->value);
    sprintf(out + used, "}");
}

typedef struct lb_writer {
    const lora_fault *fault;
    char header[8192];
    gb_bytes data;
    uint64_t random;
} lb_writer;

/* rows 0: a vector of cols. */
static inline void lb_tensor(lb_writer *w, const char *name, uint32_t rows, uint32_t cols) {
    const lora_fault *fault = w->fault;
    bool own = fault->tensor && strcmp(fault->tensor, name) == 0;
    if (own && fault->rename && !fault->rename[0]) return;
    if (own && fault->cols) {
        rows = fault->rows;
        cols = fault->cols;
    }
    size_t count = (size_t)(rows ? rows : 1) * cols, begin = w->data.count,
           used = strlen(w->header);
    for (size_t i = 0; i < count; i++) {
        float value = 0.1f * gb_random(&w->random);
        if (own && fault->poison != 0 && i == count - 1) value = fault->poison;
        gb_put(&w->data, &value, sizeof value);
    }
    char shape[32];
    if (rows)
        snprintf(shape, sizeof shape, "%u,%u", rows, cols);
    else
        snprintf(shape, sizeof shape, "%u", cols);
    snprintf(w->header + used, sizeof w->header - used,
             "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
             used > 1 ? "," : "", own && fault->rename ? fault->rename : name,
             own && fault->type ? fault->type : "F32", shape, begin, w->data.count);
}

static inline void lb_update(lb_writer *w, const char *module, uint32_t rows) {
    char name[160];
    snprintf(name, sizeof name, "%s.lora_A.weight", module);
    lb_tensor(w, name, LB_RANK, LB_HIDDEN);
    snprintf(name, sizeof name, "%s.lora_B.weight", module);
    lb_tensor(w, name, rows, LB_RANK);
}

/* lb_free */
static inline lora_bytes lb_build(const lora_fault *fault) {
    lora_bytes out = {0};
    lb_writer w = {.fault = fault, .header = "{", .random = 7};
    lb_config(fault, out.config);
    lb_update(&w, LB_Q(0), LB_QUERY);
    lb_update(&w, LB_Q(1), LB_QUERY);
    lb_update(&w, LB_LAYER(0) "mlp.up_proj", LB_INNER);
    lb_update(&w, LB_LAYER(1) "mlp.up_proj", LB_INNER);
    if (fault->more) lb_tensor(&w, fault->more, fault->more_rows, fault->more_cols);
    strcat(w.header, "}");
    uint64_t length = strlen(w.header);
    gb_put(&out.tensors, &length, sizeof length);
    gb_put(&out.tensors, w.header, length);
    gb_put(&out.tensors, w.data.at, w.data.count);
    free(w.data.at);
    return out;
}

static inline void lb_free(lora_bytes *bytes) { free(bytes->tensors.at); }

#endif
