/* rpc_client.c - calls to another server, blocking.
 *
 * A stream has a completion queue of its own and waits for one operation by its tag. A single request
 * goes out whole at open, others one by one; the status is asked for at once, so that it is there when
 * the answers end. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "proto/rpc_parts.h"
#include "proto/rpc_status.h"

enum {
    RECONNECT_MS = 200,
    RECONNECT_MS_MAX = 2000,
    CONNECT_MS = 10000, /* a busy host may take its time to shake hands */
    CLIENT_KEEPALIVE_MS = 20000,
};

struct rpc_channel {
    grpc_channel *core;
    char *authorization; /* "Bearer ..." or NULL */
};

struct rpc_stream {
    grpc_call *core;
    grpc_completion_queue *queue;
    grpc_metadata_array headers, trailers;
    grpc_byte_buffer *answer;
    grpc_status_code code;
    grpc_slice sentence;
    char opened, answered, sent, ended; /* their addresses are the tags */
    bool over;                    /* the status is here */
};

/* ---- channel ---- */

static grpc_arg integer(const char *key, int value) {
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

static grpc_channel *make_channel(const rpc_channel_options *o,
                                  grpc_channel_credentials *credentials) {
    grpc_arg args[] = {
        integer(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
                o->message_bytes_max ? (int)o->message_bytes_max : 4 << 20),
        integer(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, RECONNECT_MS),
        integer(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, CONNECT_MS),
        integer(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, RECONNECT_MS_MAX),
        integer(GRPC_ARG_KEEPALIVE_TIME_MS, CLIENT_KEEPALIVE_MS),
        integer(GRPC_ARG_HTTP2_BDP_PROBE, 0),
        integer(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
        /* Straight to the address given: no proxy of the environment, no configuration from DNS. */
        integer(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        integer(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
    };
    grpc_channel_args all = {.num_args = sizeof args / sizeof *args, .args = args};
    return grpc_channel_create(o->address, credentials, &all);
}

static char *bearer(const char *token) {
    static const char scheme[] = "Bearer ";
    if (!token) return NULL;
    size_t bytes = strlen(token), before = sizeof scheme - 1;
    char *text = mem_new(before + bytes + 1, 1);
    memcpy(text, scheme, before);
    memcpy(text + before, token, bytes);
    return text;
}

esp_code rpc_channel_open(rpc_channel **out, const rpc_channel_options *options, esp_error *err) {
    ESP_ASSERT(out && options && options->address);
    *out = NULL;
    if (options->token &&
        !grpc_header_nonbin_value_is_legal(grpc_slice_from_static_string(options->token)))
        return esp_fail_field(err, ESP_INVALID, "--token", "--token: printable ASCII is wanted");
    rpc_core_up();
    grpc_channel_credentials *credentials = NULL;
    esp_code code = rpc_channel_credentials(&credentials, &options->tls, options->secure, err);
    if (code != ESP_OK) {
        rpc_core_down();
        return code;
    }
    rpc_channel *channel = mem_new(1, sizeof *channel);
    channel->core = make_channel(options, credentials);
    grpc_channel_credentials_release(credentials);
    channel->authorization = bearer(options->token);
    *out = channel;
    return ESP_OK;
}

void rpc_channel_close(rpc_channel *channel) {
    if (!channel) return;
    grpc_channel_destroy(channel->core);
    free(channel->authorization);
    free(channel);
    rpc_core_down();
}

/* ---- stream ---- */

static bool begin(rpc_stream *s, const grpc_op *ops, size_t count, char *tag) {
    RPC_TAG_GOES(tag);
    return grpc_call_start_batch(s->core, ops, count, tag, NULL) == GRPC_CALL_OK;
}

static bool await(rpc_stream *s, char *tag) {
    grpc_event event = grpc_completion_queue_pluck(s->queue, tag, rpc_time_in(-1), NULL);
    RPC_TAG_CAME(tag);
    return event.type == GRPC_OP_COMPLETE && event.success;
}

/* With the request, if there is just one. */
static void send_opening(rpc_stream *s, const rpc_channel *channel,
                         const ProtobufCMessage *request) {
    size_t bytes;
    grpc_byte_buffer *buffer = request ? rpc_pack(request, &bytes) : NULL;
    grpc_metadata metadata;
    grpc_op ops[4];
    memset(ops, 0, sizeof ops);
    memset(&metadata, 0, sizeof metadata);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    if (channel->authorization) {
        metadata.key = grpc_slice_from_static_string("authorization");
        metadata.value = grpc_slice_from_copied_string(channel->authorization);
        ops[0].data.send_initial_metadata.count = 1;
        ops[0].data.send_initial_metadata.metadata = &metadata;
    }
    ops[1].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[1].data.recv_initial_metadata.recv_initial_metadata = &s->headers;
    ops[2].op = GRPC_OP_SEND_MESSAGE;
    ops[2].data.send_message.send_message = buffer;
    ops[3].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    bool begun = begin(s, ops, request ? 4 : 2, &s->opened);
    ESP_ASSERT(begun);
    if (channel->authorization) grpc_slice_unref(metadata.value);
    if (buffer) grpc_byte_buffer_destroy(buffer);
}

bool rpc_stream_send(rpc_stream *s, const ProtobufCMessage *request) {
    size_t bytes;
    grpc_byte_buffer *buffer = rpc_pack(request, &bytes);
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_SEND_MESSAGE;
    op.data.send_message.send_message = buffer;
    bool begun = !s->over && begin(s, &op, 1, &s->sent);
    grpc_byte_buffer_destroy(buffer);
    return begun && await(s, &s->sent);
}

bool rpc_stream_send_end(rpc_stream *s) {
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    return !s->over && begin(s, &op, 1, &s->sent) && await(s, &s->sent);
}

static void ask_status(rpc_stream *s) {
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    op.data.recv_status_on_client.trailing_metadata = &s->trailers;
    op.data.recv_status_on_client.status = &s->code;
    op.data.recv_status_on_client.status_details = &s->sentence;
    bool begun = begin(s, &op, 1, &s->ended);
    ESP_ASSERT(begun);
}

esp_code rpc_stream_open(rpc_stream **out, rpc_channel *channel, const char *path,
                         const ProtobufCMessage *request, int64_t timeout_ms, esp_error *err) {
    rpc_stream *s = mem_new(1, sizeof *s);
    *out = NULL;
    s->sentence = grpc_empty_slice();
    grpc_metadata_array_init(&s->headers);
    grpc_metadata_array_init(&s->trailers);
    s->queue = grpc_completion_queue_create_for_pluck(NULL);
    grpc_slice method = grpc_slice_from_copied_string(path);
    s->core = grpc_channel_create_call(channel->core, NULL, GRPC_PROPAGATE_DEFAULTS, s->queue,
                                       method, NULL, rpc_time_in(timeout_ms), NULL);
    grpc_slice_unref(method);
    if (!s->core) {
        s->over = true;
        rpc_stream_close(s);
        return esp_fail(err, ESP_INTERNAL, "rpc: cannot begin a call of %s", path);
    }
    send_opening(s, channel, request);
    ask_status(s);
    *out = s;
    return ESP_OK;
}

static void read_trailers(const rpc_stream *s, esp_error *err) {
    for (size_t i = 0; i < s->trailers.count; i++) {
        const grpc_metadata *m = &s->trailers.metadata[i];
        if (rpc_slice_is(m->key, "grpc-status-details-bin"))
            rpc_status_read(GRPC_SLICE_START_PTR(m->value), GRPC_SLICE_LENGTH(m->value), err);
    }
}

/* The call's status as an error; the answers have ended. */
static esp_code end_status(rpc_stream *s, esp_error *err) {
    if (!s->over) await(s, &s->ended);
    s->over = true;
    if (s->code == GRPC_STATUS_OK) return ESP_OK;
    size_t bytes = GRPC_SLICE_LENGTH(s->sentence);
    esp_code code = (esp_code)s->code;
    if (bytes > ESP_MESSAGE_MAX) bytes = ESP_MESSAGE_MAX;
    (void)esp_fail(err, code, "%.*s", (int)bytes, (const char *)GRPC_SLICE_START_PTR(s->sentence));
    if (err) read_trailers(s, err);
    return code;
}

static esp_code decode_answer(rpc_stream *s, const ProtobufCMessageDescriptor *type,
                              ProtobufCMessage **out, esp_error *err) {
    grpc_slice bytes;
    bool readable = rpc_flatten(s->answer, &bytes);
    grpc_byte_buffer_destroy(s->answer);
    s->answer = NULL;
    if (readable) {
        *out = protobuf_c_message_unpack(type, NULL, GRPC_SLICE_LENGTH(bytes),
                                         GRPC_SLICE_START_PTR(bytes));
        grpc_slice_unref(bytes);
    }
    if (*out) return ESP_OK;
    return esp_fail(err, ESP_DATA_LOSS, "the server's answer is not a %s message", type->name);
}

esp_code rpc_stream_next(rpc_stream *s, const ProtobufCMessageDescriptor *type,
                         ProtobufCMessage **out, esp_error *err) {
    grpc_op op;
    *out = NULL;
    if (s->over) return end_status(s, err);
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &s->answer;
    if (!begin(s, &op, 1, &s->answered))
        return esp_fail(err, ESP_INTERNAL, "rpc: cannot read from the call");
    bool ok = await(s, &s->answered);
    if (!ok || !s->answer) return end_status(s, err);
    return decode_answer(s, type, out, err);
}

void rpc_stream_cancel(rpc_stream *s) { grpc_call_cancel(s->core, NULL); }

void rpc_stream_close(rpc_stream *s) {
    if (!s) return;
    if (s->core) {
        if (!s->over) {
            grpc_call_cancel(s->core, NULL);
            await(s, &s->ended);
        }
        await(s, &s->opened);
        grpc_call_unref(s->core);
    }
    grpc_completion_queue_shutdown(s->queue);
    grpc_completion_queue_destroy(s->queue);
    if (s->answer) grpc_byte_buffer_destroy(s->answer);
    grpc_metadata_array_destroy(&s->headers);
    grpc_metadata_array_destroy(&s->trailers);
    grpc_slice_unref(s->sentence);
    free(s);
}

esp_code rpc_unary(rpc_channel *channel, const char *path, const ProtobufCMessage *request,
                   const ProtobufCMessageDescriptor *type, int64_t timeout_ms,
                   ProtobufCMessage **out, esp_error *err) {
    rpc_stream *s;
    ProtobufCMessage *second = NULL;
    *out = NULL;
    esp_code code = rpc_stream_open(&s, channel, path, request, timeout_ms, err);
    if (code == ESP_OK) code = rpc_stream_next(s, type, out, err);
    if (code == ESP_OK && !*out)
        code = esp_fail(err, ESP_DATA_LOSS, "%s ended without an answer", path);
    if (code == ESP_OK) code = rpc_stream_next(s, type, &second, err);
    if (second) protobuf_c_message_free_unpacked(second, NULL);
    if (code != ESP_OK && *out) {
        protobuf_c_message_free_unpacked(*out, NULL);
        *out = NULL;
    }
    rpc_stream_close(s);
    return code;
}
