/* wire.h - bytes that a stranger sent -> a protobuf message.
 *
 * protobuf-c alone takes invalid UTF-8, hides what follows a NUL inside a string, recurses as deep
 * as the bytes say and allocates up to forty times their size. So the bytes are walked once before,
 * with the message's descriptor in hand, and decoded into an arena with a cap.
 *
 * Thread  any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_WIRE_H
#define ESPALIER_WIRE_H

#include <protobuf-c/protobuf-c.h>

#include "engine/base/mem.h"
#include "engine/base/status.h"

enum {
    WIRE_DEPTH_MAX = 8,        /* messages inside messages */
    WIRE_ARENA_MAX = 64 << 20, /* bytes of a decoded message */
    WIRE_ARENA_SPARE = 1 << 20,
    WIRE_ARENA_FACTOR = 16,
};

/* ESP_INVALID for bytes that are no message, for a string that is not UTF-8 or holds U+0000 (the
 * field's path is named), and for nesting beyond WIRE_DEPTH_MAX. */
ESP_CHECKED esp_code wire_check(const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                                size_t count, esp_error *err);

/* Checks, then decodes into the arena; the message lives as long as the arena and is never freed by
 * itself. Besides wire_check's errors: ESP_EXHAUSTED when the arena's cap is passed. */
ESP_CHECKED esp_code wire_decode(const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                                 size_t count, mem_arena *arena, ProtobufCMessage **out,
                                 esp_error *err);

/* The cap for a message of so many bytes: 16 times that and 1 MiB, at most 64 MiB. */
size_t wire_arena_bytes(size_t count);

#endif
