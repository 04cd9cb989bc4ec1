/* emu_kernels.h - small kernels for the tests of the emulator's runtime. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_KERNELS_H
#define EMU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* data[i] += value, count of them; device memory. */
int emu_add(uint32_t *data, uint32_t value, int count, void *stream);
/* to[i] = from[i] */
int emu_copy(uint32_t *to, const uint32_t *from, int count, void *stream);
/* Asks for threads in a block and bytes of dynamic shared memory; does nothing. */
int emu_shape(int threads, size_t bytes, void *stream);
/* Opts in to bytes of dynamic shared memory for emu_shape. */
int emu_opt_in(int bytes);

#ifdef __cplusplus
}
#endif
#endif
