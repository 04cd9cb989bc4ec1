/* rpc_core.c - small helpers over the gRPC C core, and its log lines in our log. */
// SPDX-License-Identifier: Apache-2.0
#include <grpc/byte_buffer_reader.h>
#include <grpc/support/log.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "proto/rpc_parts.h"

enum { LOG_LINES_A_SECOND = 5, LOG_TEXT_MAX = 200 };

/* A client can make the core complain as often as it likes: a few lines a second reach our log. */
static bool may_log(void) {
    static _Atomic int64_t second;
    static _Atomic uint32_t lines;
    int64_t now = clock_now_us() / 1000000;
    if (atomic_exchange(&second, now) != now) atomic_store(&lines, 0);
    return atomic_fetch_add(&lines, 1) < LOG_LINES_A_SECOND;
}

static void log_core(gpr_log_func_args *args) {
    if (args->severity < GPR_LOG_SEVERITY_ERROR || !may_log()) return;
    char text[LOG_TEXT_MAX];
    size_t used = 0;
    for (const char *c = args->message; *c && used < sizeof text - 1; c++)
        text[used++] = *c == '"' || *c == '\\' || (unsigned char)*c < ' ' ? '\'' : *c;
    text[used] = '\0';
    log_event(LOG_WARN, "grpc_core", "reason=\"%s\"", text);
}

void rpc_core_up(void) {
    gpr_set_log_function(log_core);
    grpc_init();
}

void rpc_core_down(void) { grpc_shutdown_blocking(); }

grpc_byte_buffer *rpc_pack(const ProtobufCMessage *message, size_t *bytes) {
    *bytes = protobuf_c_message_get_packed_size(message);
    grpc_slice slice = grpc_slice_malloc(*bytes);
    protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

bool rpc_flatten(grpc_byte_buffer *buffer, grpc_slice *out) {
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, buffer)) return false;
    *out = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    return true;
}

bool rpc_slice_is(grpc_slice slice, const char *text) {
    size_t bytes = strlen(text);
    return GRPC_SLICE_LENGTH(slice) == bytes && !memcmp(GRPC_SLICE_START_PTR(slice), text, bytes);
}

gpr_timespec rpc_time_in(int64_t timeout_ms) {
    if (timeout_ms < 0) return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                        gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
}
