/* level_amx.h - the AMX level: AVX-512's ops, but for linear and attention. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LEVEL_AMX_H
#define ESPALIER_LEVEL_AMX_H

#include "kernels/cpu/cpu.h"

void level_linear_amx(kern_device *dev, const kern_linear *op);
void level_attention_amx(kern_device *dev, const kern_attention *op);

#endif
