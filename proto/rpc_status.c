/* rpc_status.c - an error's details for programs. */
// SPDX-License-Identifier: Apache-2.0
#include "proto/rpc_status.h"

#include <stdio.h>
#include <string.h>

#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "proto/wire.h"

#define DETAIL_TYPE "type.googleapis.com/google.rpc."

enum { DETAILS_MAX = 3, DETAIL_BYTES_MAX = 768, RETRY_SECONDS_MAX = 3600 };

typedef struct details {
    uint32_t count;
    Google__Rpc__PackedDetail detail[DETAILS_MAX], *list[DETAILS_MAX];
    uint8_t bytes[DETAILS_MAX][DETAIL_BYTES_MAX];
} details;

static void add(details *d, const char *type_url, const ProtobufCMessage *message) {
    size_t bytes = protobuf_c_message_get_packed_size(message);
    ESP_ASSERT(d->count < DETAILS_MAX && bytes <= DETAIL_BYTES_MAX);
    protobuf_c_message_pack(message, d->bytes[d->count]);
    Google__Rpc__PackedDetail *detail = &d->detail[d->count];
    google__rpc__packed_detail__init(detail);
    detail->type_url = (char *)type_url;
    detail->value = (ProtobufCBinaryData){.len = bytes, .data = d->bytes[d->count]};
    d->list[d->count++] = detail;
}

static void add_info(details *d, const esp_error *error) {
    Google__Rpc__ErrorInfo info = GOOGLE__RPC__ERROR_INFO__INIT;
    info.reason = (char *)esp_code_name(error->code);
    info.domain = (char *)"espalier";
    add(d, DETAIL_TYPE "ErrorInfo", &info.base);
}

static void add_field(details *d, const esp_error *error) {
    Google__Rpc__BadRequest__FieldViolation one = GOOGLE__RPC__BAD_REQUEST__FIELD_VIOLATION__INIT;
    Google__Rpc__BadRequest__FieldViolation *all[1] = {&one};
    Google__Rpc__BadRequest bad = GOOGLE__RPC__BAD_REQUEST__INIT;
    one.field = (char *)error->field;
    one.description = (char *)error->message;
    bad.n_field_violations = 1;
    bad.field_violations = all;
    add(d, DETAIL_TYPE "BadRequest", &bad.base);
}

static void add_retry(details *d, const esp_error *error) {
    Google__Rpc__RetryDelay delay = GOOGLE__RPC__RETRY_DELAY__INIT;
    Google__Rpc__RetryInfo retry = GOOGLE__RPC__RETRY_INFO__INIT;
    delay.seconds = error->retry_ms / 1000;
    delay.nanos = (int32_t)(error->retry_ms % 1000) * 1000000;
    retry.retry_delay = &delay;
    add(d, DETAIL_TYPE "RetryInfo", &retry.base);
}

size_t rpc_status_pack(const esp_error *error, uint8_t out[RPC_STATUS_BYTES_MAX]) {
    details d = {.count = 0};
    Google__Rpc__Status status = GOOGLE__RPC__STATUS__INIT;
    add_info(&d, error);
    if (error->field[0]) add_field(&d, error);
    if (error->retry_ms) add_retry(&d, error);
    status.code = (int32_t)error->code;
    status.message = (char *)error->message;
    status.n_details = d.count;
    status.details = d.list;
    ESP_ASSERT(google__rpc__status__get_packed_size(&status) <= RPC_STATUS_BYTES_MAX);
    return google__rpc__status__pack(&status, out);
}

static void *decode(const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t count,
                    mem_arena *arena) {
    ProtobufCMessage *message;
    return wire_decode(type, bytes, count, arena, &message, NULL) == ESP_OK ? message : NULL;
}

static void read_detail(const Google__Rpc__PackedDetail *detail, mem_arena *arena,
                        esp_error *error) {
    if (!strcmp(detail->type_url, DETAIL_TYPE "RetryInfo")) {
        Google__Rpc__RetryInfo *retry = decode(&google__rpc__retry_info__descriptor,
                                               detail->value.data, detail->value.len, arena);
        if (!retry || !retry->retry_delay) return;
        int64_t seconds = retry->retry_delay->seconds;
        int32_t nanos = retry->retry_delay->nanos;
        if (seconds >= 0 && seconds <= RETRY_SECONDS_MAX && nanos >= 0 && nanos < 1000000000)
            error->retry_ms = (uint32_t)(seconds * 1000 + nanos / 1000000);
    } else if (!strcmp(detail->type_url, DETAIL_TYPE "BadRequest")) {
        Google__Rpc__BadRequest *bad = decode(&google__rpc__bad_request__descriptor,
                                              detail->value.data, detail->value.len, arena);
        if (bad && bad->n_field_violations)
            snprintf(error->field, sizeof error->field, "%s", bad->field_violations[0]->field);
    }
}

void rpc_status_read(const uint8_t *bytes, size_t count, esp_error *error) {
    mem_arena *arena = mem_arena_open(wire_arena_bytes(count));
    Google__Rpc__Status *status = decode(&google__rpc__status__descriptor, bytes, count, arena);
    for (size_t i = 0; status && i < status->n_details; i++)
        read_detail(status->details[i], arena, error);
    mem_arena_close(arena);
}
