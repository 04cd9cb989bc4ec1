/* emu_device.h - the emulated devices: how many, which the thread has chosen, memory left. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_DEVICE_H
#define EMU_DEVICE_H

#include <cstddef>

#include "cuda_runtime_api.h"

namespace cuemu {

enum { DEVICES_MAX = 16 };

/* The calling thread's device. */
int current_device();

bool device_none();
bool device_valid(int device);

/* Takes bytes of a device's memory; false when it has not got them. */
bool device_take(int device, size_t bytes);
void device_give(int device, size_t bytes);

/* The error that a device is lost in, until emu_reset; cudaSuccess: it is well. */
cudaError_t device_error(int device);
void device_lose(int device, cudaError_t error);

/* Has the calling thread's device access to memory of `other`? */
bool device_reaches(int device, int other);

} // namespace cuemu

#endif
