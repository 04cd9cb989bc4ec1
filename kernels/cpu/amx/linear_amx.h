/* linear_amx.h - the two ways of linear_amx.c; pool functions over a linear_job. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LINEAR_AMX_H
#define ESPALIER_LINEAR_AMX_H

#include <stdint.h>

void amx_few_tokens(void *job, uint32_t worker, uint32_t workers);  /* up to FEW_TOKENS */
void amx_many_tokens(void *job, uint32_t worker, uint32_t workers); /* more */

#endif
