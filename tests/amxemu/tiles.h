/* tiles.h - the tiles of one thread: eight of up to 16 rows of 64 bytes.
 *
 * Source  Intel SDM volume 1, chapter 18, and volume 2 (LDTILECFG, TILELOADD, TDPBF16PS, TDPBSSD) */
// SPDX-License-Identifier: Apache-2.0
#ifndef AMXEMU_TILES_H
#define AMXEMU_TILES_H

#include "tests/amxemu/instruction.h"

/* Does what i says with the calling thread's tiles. A fault of the program's ends it: amxemu_fail. */
void tiles_do(const instruction *i);

#endif
