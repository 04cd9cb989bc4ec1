/* cuda_order.c - orders of inputs that packed matrices ask for, each on the device once.
 *
 * The matrices of a layer that read one input mostly have one order (kernels/cpu/order.c). As one pointer it
 * has linear line the inputs up once, and take gate and up together. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_matrix.h"

static cuda_order *find(const kern_device *dev, const uint32_t *inputs, uint32_t cols) {
    cuda_order *order = dev->orders;
    while (order &&
           (order->cols != cols || memcmp(order->inputs, inputs, cols * sizeof *inputs) != 0))
        order = order->next;
    return order;
}

static esp_code add(kern_device *dev, const uint32_t *inputs, uint32_t cols, esp_error *err) {
    void *there;
    for (uint32_t c = 0; c < cols; c++)
        ESP_ASSERT(inputs[c] < cols);
    esp_code code = cuda_alloc(dev, cols * sizeof *inputs, &there, err);
    if (code != ESP_OK) return code;
    cuda_upload(dev, there, inputs, cols * sizeof *inputs);
    cuda_order *order = mem_new(1, sizeof *order + cols * sizeof *inputs);
    order->cols = cols;
    order->there = there;
    memcpy(order->inputs, inputs, cols * sizeof *inputs);
    order->next = dev->orders;
    dev->orders = order;
    return ESP_OK;
}

esp_code cuda_order_take(kern_device *dev, const uint32_t *inputs, uint32_t cols, cuda_order **out,
                         esp_error *err) {
    if (!find(dev, inputs, cols)) {
        esp_code code = add(dev, inputs, cols, err);
        if (code != ESP_OK) return code;
    }
    *out = find(dev, inputs, cols);
    (*out)->users++;
    return ESP_OK;
}

void cuda_order_drop(kern_device *dev, cuda_order *order) {
    if (!order || --order->users > 0) return;
    cuda_order **at = &dev->orders;
    while (*at != order)
        at = &(*at)->next;
    *at = order->next;
    cuda_release(dev, order->there, order->cols * sizeof *order->there);
    free(order);
}
