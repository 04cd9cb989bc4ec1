/* rename.h - an error's sentence in the words of its reader. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_RENAME_H
#define ESPALIER_BASE_RENAME_H

#include "engine/base/status.h"

/* What the sentence calls `from`, where it first does, it calls `to`: a name that its reader knows. Cut where it gets
 * too long. */
void esp_rename(esp_error *err, const char *from, const char *to);

#endif
