/* cuda_replay.h - steps that are remembered: CUDA graphs of decodes.
 *
 * A step of some sequences with one token and one row each, whose ops are always the same
 * (kern_step.repeats), is computed as one of REPLAY_SIZES sequences: those that are too many are nobody's.
 * The first step of a size is launched op by op, the second one is captured, every later one is one launch.
 *
 *   NEW --- launched op by op, padded ---> MET --- captured, launched ---> READY --- launched --->
 *                 |                         |
 *                 +--- something unfit -----+---> REFUSED: op by op for ever
 *
 * Collectives with other ranks are captured with the ops between which they go, which NCCL wants of all ranks of
 * a launch or of none. So these say before each such step how far they are with its graph, and all do what the last of
 * them can; and what one cannot capture or launch, none does (kern_options.least).
 *
 * With adapters in the batch the tables of their segments differ from step to step; the ops of a READY
 * step are then called for these alone, and the launch comes behind them.
 *
 * Memory  At most 2 * 14 graphs. No more are captured once they take REPLAY_BYTES_MAX of device memory.
 * Law 1   A row's bits do not depend on how many are computed with it, so padding changes none. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CUDA_REPLAY_H
#define ESPALIER_CUDA_REPLAY_H

#include "kernels/cuda/cuda_device.h"

#define REPLAY_BYTES_MAX ((uint64_t)256 << 20)

void replay_open(kern_device *dev);
void replay_close(kern_device *dev);
/* Which sizes there are: all that fit. Without it there are none. */
void replay_reserve(kern_device *dev, const kern_reserve *most);
/* As how many sequences so many are computed; as many as there are where that is no size. */
uint32_t replay_size(uint32_t seqs);
/* What the graphs read has moved: all are NEW again. */
void replay_forget(kern_device *dev);

/* kern_ops.step_begin and step_end. */
bool cuda_step_begin(kern_device *dev, const kern_step *step);
bool cuda_step_end(kern_device *dev);

/* Steps that were one launch, since open; for tests. */
uint64_t replay_count(const kern_device *dev);

#endif
