/* wire.c - walks protobuf's wire format: (tag, value)*, tag = field number << 3 | wire type.
 *
 *   type 0  varint                  type 2  varint length, then so many bytes
 *   type 1  8 bytes                 type 5  4 bytes          3, 4: groups, refused
 *
 * Source: protobuf.dev, "Encoding". */
// SPDX-License-Identifier: Apache-2.0
#include "proto/wire.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

typedef struct reader {
    const uint8_t *at, *end;
} reader;

/* Names of the messages around the field being read, outermost first. */
typedef struct field_path {
    const char *name[WIRE_DEPTH_MAX + 1];
    uint32_t count;
} field_path;

static bool read_varint(reader *r, uint64_t *out) {
    uint64_t value = 0;
    for (uint32_t shift = 0; shift < 64; shift += 7) {
        if (r->at == r->end) return false;
        uint8_t byte = *r->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *out = value;
            return true;
        }
    }
    return false;
}

static bool skip(reader *r, uint64_t count) {
    if (count > (uint64_t)(r->end - r->at)) return false;
    r->at += count;
    return true;
}

static void write_path(const field_path *path, char out[ESP_FIELD_MAX]) {
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < path->count && used < ESP_FIELD_MAX; i++) {
        int wrote = snprintf(out + used, ESP_FIELD_MAX - used, "%s%s", i ? "." : "", path->name[i]);
        used += (size_t)(wrote > 0 ? wrote : 0);
    }
}

static esp_code malformed(const ProtobufCMessageDescriptor *type, esp_error *err) {
    return esp_fail(err, ESP_INVALID, "the bytes are not a %s message", type->name);
}

static esp_code check_string(const uint8_t *bytes, uint64_t count, const field_path *path,
                             esp_error *err) {
    char field[ESP_FIELD_MAX];
    for (uint64_t i = 0; i < count;) {
        utf8proc_int32_t point;
        utf8proc_ssize_t length =
            utf8proc_iterate(bytes + i, (utf8proc_ssize_t)(count - i), &point);
        if (length > 0 && point != 0) {
            i += (uint64_t)length;
            continue;
        }
        write_path(path, field);
        return esp_fail_field(err, ESP_INVALID, field, "%s: %s at byte %llu; wanted UTF-8 text",
                              field, length > 0 ? "U+0000" : "invalid UTF-8",
                              (unsigned long long)i);
    }
    return ESP_OK;
}

static esp_code check_message(const ProtobufCMessageDescriptor *type, reader r, field_path *path,
                              esp_error *err);

/* field is NULL when we do not know the number. */
static esp_code check_bytes(const ProtobufCFieldDescriptor *field, const uint8_t *bytes,
                            uint64_t count, field_path *path, esp_error *err) {
    if (!field || (field->type != PROTOBUF_C_TYPE_STRING && field->type != PROTOBUF_C_TYPE_MESSAGE))
        return ESP_OK;
    if (path->count >= WIRE_DEPTH_MAX)
        return esp_fail(err, ESP_INVALID, "messages are nested deeper than %d", WIRE_DEPTH_MAX);
    path->name[path->count++] = field->name;
    esp_code code =
        field->type == PROTOBUF_C_TYPE_STRING
            ? check_string(bytes, count, path, err)
            : check_message(field->descriptor, (reader){bytes, bytes + count}, path, err);
    path->count--;
    return code;
}

static esp_code check_field(const ProtobufCMessageDescriptor *type, reader *r, field_path *path,
                            esp_error *err) {
    uint64_t tag, value;
    if (!read_varint(r, &tag) || tag > UINT32_MAX || tag >> 3 == 0) return malformed(type, err);
    switch (tag & 7) {
    case 0:
        return read_varint(r, &value) ? ESP_OK : malformed(type, err);
    case 1:
        return skip(r, 8) ? ESP_OK : malformed(type, err);
    case 5:
        return skip(r, 4) ? ESP_OK : malformed(type, err);
    case 2:
        break;
    default:
        return malformed(type, err);
    }
    if (!read_varint(r, &value)) return malformed(type, err);
    const uint8_t *bytes = r->at;
    if (!skip(r, value)) return malformed(type, err);
    return check_bytes(protobuf_c_message_descriptor_get_field(type, (unsigned)(tag >> 3)), bytes,
                       value, path, err);
}

static esp_code check_message(const ProtobufCMessageDescriptor *type, reader r, field_path *path,
                              esp_error *err) {
    while (r.at < r.end) {
        esp_code code = check_field(type, &r, path, err);
        if (code != ESP_OK) return code;
    }
    return ESP_OK;
}

esp_code wire_check(const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t count,
                    esp_error *err) {
    field_path path = {.count = 0};
    if (count == 0) return ESP_OK;
    return check_message(type, (reader){bytes, bytes + count}, &path, err);
}

typedef struct decoder {
    mem_arena *arena;
    bool full;
} decoder;

static void *take(void *data, size_t bytes) {
    decoder *d = data;
    void *memory = mem_arena_take(d->arena, bytes);
    if (!memory) d->full = true;
    return memory;
}

static void keep(void *data, void *memory) {
    (void)data;
    (void)memory; /* the arena ends it */
}

esp_code wire_decode(const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t count,
                     mem_arena *arena, ProtobufCMessage **out, esp_error *err) {
    static const uint8_t nothing[1];
    *out = NULL;
    esp_code code = wire_check(type, bytes, count, err);
    if (code != ESP_OK) return code;
    decoder d = {.arena = arena};
    ProtobufCAllocator allocator = {.alloc = take, .free = keep, .allocator_data = &d};
    *out = protobuf_c_message_unpack(type, &allocator, count, count ? bytes : nothing);
    if (*out) return ESP_OK;
    if (!d.full) return malformed(type, err);
    return esp_fail(err, ESP_EXHAUSTED,
                    "the request's %zu bytes hold too many small parts; send fewer and longer ones",
                    count);
}

size_t wire_arena_bytes(size_t count) {
    if (count >= (WIRE_ARENA_MAX - WIRE_ARENA_SPARE) / WIRE_ARENA_FACTOR) return WIRE_ARENA_MAX;
    return count * WIRE_ARENA_FACTOR + WIRE_ARENA_SPARE;
}
