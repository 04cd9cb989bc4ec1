/* npy.h - writes a float32 matrix, row by row, as a NumPy .npy file.
 *
 *   0   93 'N' 'U' 'M' 'P' 'Y'   magic
 *   6   1 0                      version
 *   8   u16, little-endian       bytes of the text that follows
 *   10  "{'descr': '<f4', 'fortran_order': False, 'shape': (rows, columns), }", blanks, '\n',
 *       so that the data begins at a multiple of 64
 *
 * Source  NumPy Enhancement Proposal 1. The file appears under its name only when it is whole. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_NPY_H
#define ESPALIER_NPY_H

#include <stdint.h>

#include "engine/base/status.h"

typedef struct npy_file npy_file;

ESP_CHECKED esp_code npy_open(npy_file **out, const char *path, uint32_t rows, uint32_t columns,
                              esp_error *err);
/* The next row, [columns]. */
ESP_CHECKED esp_code npy_row(npy_file *npy, const float *row, esp_error *err);
/* Gives the file its name; asserts that all rows came. */
ESP_CHECKED esp_code npy_finish(npy_file *npy, esp_error *err);
/* Without npy_finish nothing is left on the disk. NULL is fine. */
void npy_close(npy_file *npy);

#endif
