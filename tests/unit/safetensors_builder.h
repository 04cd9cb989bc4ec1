/* safetensors_builder.h - makes .safetensors files in memory for tests, right and wrong ones.
 *
 *   char *file = st_build("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
 *   &bytes);
 *
 * The data is 0, 1, 2, ... modulo 256. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_SAFETENSORS_BUILDER_H
#define ESPALIER_TESTS_SAFETENSORS_BUILDER_H

#include <stdint.h>
#include <string.h>

#include "engine/base/mem.h"

/* A file with this header length, header and count bytes of data; malloc'd. */
static inline char *st_build_length(uint64_t length, const char *header, size_t data,
                                    size_t *bytes) {
    size_t used = strlen(header);
    *bytes = 8 + used + data;
    char *file = mem_new(*bytes, 1);
    for (int i = 0; i < 8; i++)
        file[i] = (char)(length >> 8 * i);
    memcpy(file + 8, header, used);
    for (size_t i = 0; i < data; i++)
        file[8 + used + i] = (char)i;
    return file;
}

static inline char *st_build(const char *header, size_t data, size_t *bytes) {
    return st_build_length(strlen(header), header, data, bytes);
}

#endif
