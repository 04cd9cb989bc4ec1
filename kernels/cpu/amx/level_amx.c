/* level_amx.c - the table of the AMX level. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/amx/level_amx.h"
#include "kernels/cpu/amx/lora_amx.h"

const cpu_level cpu_level_amx = {
    .name = "amx",
    .by_rows = true,
    .scratch_bytes = sizeof(amx_scratch),
    .norm = level_norm_avx512,
    .linear = level_linear_amx,
    .rope_store = level_rope_store_avx512,
    .attention = level_attention_amx,
    .lora_shrink = amx_lora_shrink,
    .lora_fetch_next = amx_lora_fetch_next,
    .lora_update = amx_lora_update,
};
