/* fuzz_gguf.c - any bytes as a model file: the reader and its getters, then family, spec, tensor
 * shapes, tokenizer and description. Seeds: corpus/gguf, made by make_gguf_corpus.py. */
// SPDX-License-Identifier: Apache-2.0
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A sum that depends on every byte, so that reading them is not optimised away. */
static uint32_t touch(const void *at, uint64_t bytes) {
    const uint8_t *byte = at;
    uint32_t sum = 0;
    for (uint64_t i = 0; i < bytes; i++)
        sum = sum * 31 + byte[i];
    return sum;
}

static uint32_t touch_array(const gguf_file *file, const char *key, gguf_type type) {
    bool found;
    gguf_array array;
    uint32_t sum = 0;
    if (gguf_get_array(file, key, type, &found, &array, NULL) || !found) return 0;
    if (type == GGUF_STRING) {
        const uint8_t *cursor = array.at;
        for (uint64_t i = 0; i < array.count; i++) {
            model_text text = gguf_next_text(&array, &cursor);
            sum += touch(text.at, text.bytes);
        }
    } else if (type == GGUF_U32 || type == GGUF_I32 || type == GGUF_F32) {
        for (uint64_t i = 0; i < array.count; i++)
            sum += gguf_array_u32(&array, i);
    }
    return sum;
}

/* Asks for one key by every getter; all but one at most must say that the type is another. */
static uint32_t touch_key(const gguf_file *file, const char *key) {
    bool found, truth = false;
    uint32_t whole = 0, sum = 0;
    float real = 0;
    model_text text = {"", 0};
    esp_error err;
    if (!gguf_get_u32(file, key, &found, &whole, &err)) sum += whole;
    if (!gguf_get_f32(file, key, &found, &real, &err)) sum += real > 0;
    if (!gguf_get_bool(file, key, &found, &truth, &err)) sum += truth;
    if (!gguf_get_text(file, key, &found, &text, &err)) sum += touch(text.at, text.bytes);
    for (uint32_t type = 0; type < GGUF_TYPE_COUNT; type++)
        sum += touch_array(file, key, (gguf_type)type);
    return sum;
}

static uint32_t touch_pairs(const gguf_file *file) {
    uint32_t sum = 0;
    for (uint64_t i = 0; i < gguf_kv_count(file); i++) {
        model_text key;
        char value[40], *name;
        gguf_kv_print(file, i, &key, value, sizeof value);
        sum += touch(value, strlen(value));
        name = strndup(key.at, key.bytes);
        if (name) sum += touch_key(file, name);
        free(name);
    }
    return sum;
}

static uint32_t touch_tensors(const gguf_file *file) {
    uint32_t sum = 0;
    for (uint64_t i = 0; i < gguf_tensor_count(file); i++) {
        const model_tensor *tensor = gguf_tensor_at(file, i);
        char *name = strndup(tensor->name.at, tensor->name.bytes);
        if (name && gguf_find(file, name) != tensor) abort();
        free(name);
        sum += touch(tensor->data, tensor->bytes);
    }
    return sum;
}

static void open_model(const uint8_t *data, size_t size) {
    model_file *opened;
    tokenizer *tok;
    esp_error err = {0};
    if (model_file_open_memory(&opened, data, size, "fuzz", &err)) {
        if (!err.message[0]) abort();
        return;
    }
    free(model_file_describe(opened));
    if (model_file_tokenizer(opened, &tok, &err) == ESP_OK) tok_close(tok);
    model_file_close(opened);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static volatile uint32_t sink; /* the reads must not be optimised away */
    gguf_file *file;
    esp_error err = {0};
    if (gguf_open_memory(&file, data, size, "fuzz", &err)) {
        if (!err.message[0]) abort();
        return 0;
    }
    sink = touch_pairs(file) + touch_tensors(file);
    (void)sink;
    gguf_close(file);
    open_model(data, size);
    return 0;
}
