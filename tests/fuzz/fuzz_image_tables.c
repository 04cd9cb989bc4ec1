/* fuzz_image_tables.c - any bytes as the tables of an adapter that another rank sent: refused, or every piece of every
 * update lies in the image's frames, whole. Seeds: corpus/image_tables, made by make_image_tables_corpus.py. */
// SPDX-License-Identifier: Apache-2.0
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/adapters/adapter_image_inner.h"
#include "engine/adapters/image_tables.h"
#include "engine/base/pool.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LAYERS = 2, FRAME_BYTES = 8192, FRAMES = 4 };

/* One thread is the caller's. */
static kern_device *open_device(thread_pool **threads) {
    kern_device *dev = NULL;
    ESP_ASSERT(pool_open(threads, 1, NULL) == ESP_OK);
    kern_options options = {.pool = *threads, .tokens_max = 1};
    ESP_ASSERT(kern_ref.open(&dev, &options, NULL) == ESP_OK);
    return dev;
}

/* Writes to where a kernel would read. */
static void fill(const kern_device *dev, const kern_lora *lora) {
    static const float there[1];
    kern_lora_desc desc = {.cols = lora->cols, .part_count = lora->part_count};
    for (uint32_t i = 0; i < lora->part_count; i++)
        desc.part[i] = (kern_lora_part){.rank = lora->part[i].rank,
                                        .rows = lora->part[i].rows,
                                        .bias = lora->part[i].bias ? there : NULL,
                                        .magnitude = lora->part[i].magnitude ? there : NULL};
    size_t bytes[FRAMES * FRAME_BYTES / PIECE_ALIGNMENT];
    uint32_t count = kern_ref.lora_pieces(dev, &desc, FRAME_BYTES, NULL);
    if (count > sizeof bytes / sizeof *bytes) return; /* so many may lie one on another */
    kern_ref.lora_pieces(dev, &desc, FRAME_BYTES, bytes);
    for (uint32_t i = 0; i < count; i++)
        memset(lora->pieces[i], 1, bytes[i]);
}

static void look_at(const kern_device *dev, adapter_image *image) {
    const model_adapter *view = image_view(image);
    ESP_ASSERT(image_take_frames(image, NULL) == ESP_OK);
    if (view->head) fill(dev, view->head);
    for (uint32_t k = 0; k < MODEL_ADAPTER_LINEARS; k++)
        for (uint32_t layer = 0; view->linears[k] && layer < LAYERS; layer++)
            if (view->linears[k][layer]) fill(dev, view->linears[k][layer]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    esp_error err = {0};
    adapter_image *image = NULL;
    thread_pool *threads = NULL;
    kern_device *dev = open_device(&threads);
    image_options options = {.ops = &kern_ref,
                             .dev = dev,
                             .layers = LAYERS,
                             .frame_bytes = FRAME_BYTES,
                             .frames_max = FRAMES};
    esp_code code = image_read_tables(&image, &options, data, size, &err);
    ESP_ASSERT(code == ESP_OK || (err.code == code && err.message[0]));
    if (code == ESP_OK) look_at(dev, image);
    image_close(image);
    kern_ref.close(dev);
    pool_close(threads);
    return 0;
}
