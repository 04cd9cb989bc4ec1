/* order.c - orders of inputs that packed matrices ask for, each kept once.
 *
 * A checkpoint may sort the columns of a matrix, so that weights which share a scale lie together;
 * q, k and v of a layer mostly have the same order. Equal orders are then one pointer, and linear
 * lines the inputs up once for all of them. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"

static bool same_order(const cpu_order *order, const uint32_t *inputs, uint32_t cols) {
    return order->cols == cols && memcmp(order->inputs, inputs, cols * sizeof *inputs) == 0;
}

cpu_order *cpu_order_take(kern_device *dev, const uint32_t *inputs, uint32_t cols) {
    cpu_order *order = dev->orders;
    while (order && !same_order(order, inputs, cols))
        order = order->next;
    if (!order) {
        for (uint32_t c = 0; c < cols; c++)
            ESP_ASSERT(inputs[c] < cols);
        order = mem_new(1, sizeof *order + cols * sizeof *inputs);
        order->cols = cols;
        memcpy(order->inputs, inputs, cols * sizeof *inputs);
        order->next = dev->orders;
        dev->orders = order;
    }
    order->users++;
    return order;
}

void cpu_order_drop(kern_device *dev, cpu_order *order) {
    if (!order || --order->users > 0) return;
    cpu_order **at = &dev->orders;
    while (*at != order)
        at = &(*at)->next;
    *at = order->next;
    free(order);
}
