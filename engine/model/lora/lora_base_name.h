/* lora_base_name.h - whether two names of models can be names of one.
 *
 * Names are chosen by people: of one model they differ by owner, quantisation, format and purpose. What
 * they agree on is the family, its version and the size, where they say them. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_LORA_BASE_NAME_H
#define ESPALIER_MODEL_LORA_BASE_NAME_H

#include <stdbool.h>

/* The one's last component, as letters and digits alone, is part of the other's. */
bool base_names_agree(const char *recorded, const char *seen);
typedef enum names_verdict {
    NAMES_UNKNOWN, /* one of them names no known family */
    NAMES_ALIKE,   /* one family, and no other version or size of it */
    NAMES_DIFFER,  /* another family, or another version or size of it */
} names_verdict;
names_verdict base_names_compare(const char *one, const char *other);

#endif
