/* fused_amx.h - few tokens without tiles, to the bits that tiles give. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_FUSED_AMX_H
#define ESPALIER_FUSED_AMX_H

#include "kernels/cpu/level/linear_job.h"

enum { AMX_FUSED_TOKENS = 3 };

/* The whole op; at most AMX_FUSED_TOKENS tokens, matrices whose codes bf16 holds exactly. */
void linear_fused_amx(linear_job *job);

#endif
