/* host_memory.h - entries of the op table for a device whose memory is the host's. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_HOST_MEMORY_H
#define ESPALIER_HOST_MEMORY_H

#include "kernels/kernels.h"

void *kern_host_take(const kern_device *dev, size_t bytes);
void kern_host_give(const kern_device *dev, void *memory, size_t bytes);
void kern_host_memory(const kern_device *dev, kern_memory *out);
void kern_host_move_frames(kern_device *dev, const kern_move_frames *op);

#endif
