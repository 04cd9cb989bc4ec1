/* emu_control.h - the emulator's own knobs, for its tests; kernels' tests run on devices too and use none.
 *
 *   CUEMU_SEED=n             order of threads and blocks; 0 (default): first come, first served
 *   CUEMU_SM=80|86|89|90     architecture: limits of shared memory, what properties say
 *   CUEMU_DEVICES=n          emulated devices, 1 by default
 *   CUEMU_MEMORY=MiB         of each device, 256 by default
 *   CUEMU_STREAMS=lazy       operations run only when something waits for them; =random: some of them earlier, as the
 *                            seed has it; default: at once
 *   CUEMU_NUMBERS=rough      what a device approximates is as far off as it may be; mma sums are cut, not rounded
 *   CUEMU_INTERBLOCK=1       ThreadSanitizer also looks for races between blocks of a grid
 *   CUEMU_TRAP=1             a fault ends the launch with an error, not the process */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_CONTROL_H
#define EMU_CONTROL_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum emu_streams { EMU_STREAMS_EAGER, EMU_STREAMS_LAZY, EMU_STREAMS_RANDOM } emu_streams;

/* 0: threads and blocks in order; else a random order that the seed determines. */
void emu_seed(uint64_t seed);

/* A fault ends the launch: the device is in error (cudaErrorLaunchFailure) until emu_reset. */
void emu_trap_faults(bool trap);

/* As CUEMU_NUMBERS. */
void emu_set_rough(bool rough);

/* When operations of streams run. Streams must be idle. */
void emu_set_streams(emu_streams when);

/* Number of devices from now on, 0 to 16. */
void emu_set_devices(int count);

/* What the driver says of the link between two devices, both ways: its performance rank, or no access where rank
 * is negative. Before: 0 between all. */
void emu_set_link(int device, int other, int rank);

/* 80, 86, 89 or 90; others have the limits of 86. */
void emu_set_sm(int sm);

/* Clears a device's sticky error, as a new process would find it. */
void emu_reset(void);

/* Since the process began. ldmatrix conflicts: reads of eight rows that fall on one bank again. */
typedef struct emu_counts {
    uint64_t blocks, switches, barriers, warp_operations, ldmatrix_reads, ldmatrix_conflicts;
} emu_counts;
emu_counts emu_counted(void);

#ifdef __cplusplus
}
#endif
#endif
