/* linear_int8_amx.c - linear with activations in int8 at the AMX level: AVX-512's, to the same bits. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

void linear_int8_amx(kern_device *dev, const kern_linear *op) { linear_int8_avx512_vnni(dev, op); }
