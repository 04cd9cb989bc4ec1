/* family_table.h - the table of families, for the two that search it: family.c and family_find.c. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_FAMILY_TABLE_H
#define ESPALIER_MODEL_FAMILY_TABLE_H

#include "engine/model/family/family.h"

extern const model_family *const FAMILIES[]; /* NULL at the end */

#endif
