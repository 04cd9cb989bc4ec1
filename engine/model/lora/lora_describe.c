/* lora_describe.c - an adapter's facts as JSON. */
// SPDX-License-Identifier: Apache-2.0
#include <jansson.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/model/lora/lora_inner.h"

static void set(json_t *object, const char *key, json_t *value) {
    ESP_ASSERT(value && json_object_set_new(object, key, value) == 0);
}

/* Names in an adapter's files may hold bytes that are no UTF-8. */
static json_t *text_of(const char *text) {
    json_t *value = json_string(text);
    return value ? value : json_string("?");
}

static json_t *texts_of(const char *const *texts, uint32_t count) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < count; i++)
        ESP_ASSERT(json_array_append_new(list, text_of(texts[i])) == 0);
    return list;
}

static json_t *score_of(const lora_facts *facts) {
    uint32_t labels = facts->whole_rows[LORA_SCORE];
    json_t *score = json_object();
    set(score, "labels", json_integer(labels));
    if (facts->label_names) set(score, "names", texts_of(facts->label_names, labels));
    return score;
}

char *lora_file_describe(const lora_file *file) {
    const lora_facts *f = &file->facts;
    json_t *root = json_object();
    set(root, "kind", json_string("adapter"));
    set(root, "name", text_of(f->name));
    set(root, "format", json_string(f->format));
    set(root, "base", text_of(f->base_name));
    set(root, "task", text_of(f->task));
    set(root, "rank_min", json_integer(f->rank_min));
    set(root, "rank_max", json_integer(f->rank_max));
    set(root, "alpha", json_real((double)f->alpha));
    set(root, "rslora", json_boolean(f->rslora));
    set(root, "dora", json_boolean(f->dora));
    set(root, "targets", texts_of(f->targets, f->target_count));
    set(root, "updates", json_integer(f->updates));
    set(root, "tensors", json_integer(f->tensors));
    set(root, "parameters", json_integer((json_int_t)f->parameters));
    set(root, "bytes", json_integer((json_int_t)f->bytes));
    set(root, "digest", json_string(f->digest));
    if (f->whole_rows[LORA_SCORE]) set(root, "score", score_of(f));
    if (f->warning[0]) set(root, "warning", text_of(f->warning));
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    ESP_ASSERT(text);
    json_decref(root);
    return text;
}
