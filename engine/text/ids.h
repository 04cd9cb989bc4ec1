/* ids.h - appending to a tok_ids. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TEXT_IDS_H
#define ESPALIER_TEXT_IDS_H

#include "engine/text/tokenizer.h"

/* Appends one id. */
void tok_ids_add(tok_ids *ids, int32_t id);

#endif
