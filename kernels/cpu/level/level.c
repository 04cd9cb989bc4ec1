/* level.c - the table of this level's ops. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/level/level.h"

const cpu_level LEVEL_NAME(cpu_level) = {
    .name = LEVEL_TEXT(CPU_LEVEL),
    .norm = LEVEL_NAME(level_norm),
    .linear = LEVEL_NAME(level_linear),
    .rope_store = LEVEL_NAME(level_rope_store),
    .attention = LEVEL_NAME(level_attention),
    .lora_shrink = LEVEL_NAME(lora_shrink),
    .lora_fetch_next = LEVEL_NAME(lora_fetch_next),
    .lora_update = LEVEL_NAME(lora_update),
    .tiles = LEVEL_NAME(level_tiles),
};
