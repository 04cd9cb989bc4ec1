/* comm_patience.h - how long ranks wait in tests of collectives. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_COMM_PATIENCE_H
#define ESPALIER_COMM_PATIENCE_H

#include <stdint.h>
#include <stdio.h>

#include "tests/unit/hang.h"

/* Where one is late on purpose another may be so by chance, and be named instead: such a test begins with FIRST_US and
 * is tried again with twice as much patience, up to LAST_US. HANG_US: of those who are not late on purpose. */
enum { FIRST_US = 500000, LAST_US = 64000000 };

enum { LATE_WORDS_BYTES = 128 };

/* "WHO did not come within S s" */
static inline const char *late_words(char out[LATE_WORDS_BYTES], const char *who,
                                     int64_t patience_us) {
    snprintf(out, LATE_WORDS_BYTES, "%s did not come within %.1f s", who,
             (double)patience_us * 1e-6);
    return out;
}

#endif
