/* descriptors.h - the public .proto files as one serialised google.protobuf.FileDescriptorSet, for
 * reflection. Generated at build time (proto.cmake). */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_DESCRIPTORS_H
#define ESPALIER_DESCRIPTORS_H

#include <stddef.h>
#include <stdint.h>

extern const uint8_t descriptor_set[];
extern const size_t descriptor_set_bytes;

#endif
