/* amxemu.h - whether AMX is emulated, and how the emulation ends a program. See README.md. */
// SPDX-License-Identifier: Apache-2.0
#ifndef AMXEMU_H
#define AMXEMU_H

#include <stdbool.h>

/* ESPALIER_AMXEMU=1: this run is for the AMX level. The others have a run of their own. */
bool amxemu_on(void);

/* Says why on stderr and ends the program. format: as printf's. */
_Noreturn void amxemu_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
