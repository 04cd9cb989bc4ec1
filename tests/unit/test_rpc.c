/* test_rpc.c - a loopback server of small methods, called by our own client and, where it must
 * misbehave, by the bare C core. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/queue.h"
#include "espalier/v1/inference.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "proto/rpc.h"
#include "tests/unit/hang.h"

/* What is to be cut is so first; where a machine is so busy that it was cut too soon, it is tried with twice that. */
enum { CUT_MS = 300, PIECES = 200, FLOOD_BYTES = 64 << 10 };

/* ---- the server: the request's text says nothing, the method everything ---- */

static _Atomic uint32_t closed_calls;
static signal_word closed_signal;

static void note_closed(void) {
    atomic_fetch_add(&closed_calls, 1);
    signal_wake(&closed_signal);
}

static void wait_closed(uint32_t count) {
    int64_t until_us = clock_now_us() + HANG_US;
    for (;;) {
        uint32_t seen = signal_seen(&closed_signal);
        if (atomic_load(&closed_calls) >= count) return;
        assert_true(clock_now_us() < until_us);
        signal_wait(&closed_signal, seen, 100000);
    }
}

static const char *text_of(const ProtobufCMessage *message) {
    return ((const Espalier__V1__TokenizeRequest *)(const void *)message)->text;
}

static void on_echo(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    (void)arg;
    Espalier__V1__DetokenizeResponse answer = ESPALIER__V1__DETOKENIZE_RESPONSE__INIT;
    answer.text = (char *)(uintptr_t)text_of(message);
    rpc_finish(call, &answer.base, NULL);
}

static void on_fail(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    (void)arg, (void)message;
    esp_error error = {0};
    (void)esp_fail_field(&error, ESP_EXHAUSTED, "max_tokens", "100%% full: caf\xc3\xa9");
    error.retry_ms = 1250;
    rpc_finish(call, NULL, &error);
}

/* A stream of `left` messages, each begun when the one before was taken. */
typedef struct counter {
    uint32_t next, left;
    size_t bytes;
} counter;

static void send_next(counter *c, rpc_call *call) {
    Espalier__V1__DetokenizeResponse answer = ESPALIER__V1__DETOKENIZE_RESPONSE__INIT;
    char *text = mem_new(c->bytes + 16, 1);
    memset(text, 'x', c->bytes);
    snprintf(text + c->bytes, 16, "%u", c->next++);
    answer.text = text;
    if (--c->left)
        rpc_send(call, &answer.base);
    else
        rpc_finish(call, &answer.base, NULL);
    free(text);
}

static void on_counter_event(void *user, rpc_call *call, rpc_event event) {
    if (event == RPC_SENT) {
        send_next(user, call);
    } else {
        note_closed();
        rpc_call_release(call);
        free(user);
    }
}

static void begin_counter(rpc_call *call, uint32_t count, size_t bytes) {
    counter *c = mem_new(1, sizeof *c);
    *c = (counter){.left = count, .bytes = bytes};
    rpc_call_hold(call);
    if (rpc_call_attach(call, on_counter_event, c)) {
        send_next(c, call);
    } else {
        rpc_call_release(call);
        free(c);
    }
}

static void on_count(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    (void)arg, (void)message;
    begin_counter(call, PIECES, 0);
}

static void on_flood(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    (void)arg, (void)message;
    begin_counter(call, UINT32_MAX, FLOOD_BYTES);
}

static void on_hang_event(void *user, rpc_call *call, rpc_event event) {
    (void)user;
    if (event != RPC_CLOSED) return;
    note_closed();
    rpc_call_release(call);
}

/* One message, so that the client knows that it runs; then nothing. */
static void on_hang(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    (void)arg, (void)message;
    Espalier__V1__DetokenizeResponse answer = ESPALIER__V1__DETOKENIZE_RESPONSE__INIT;
    rpc_call_hold(call);
    if (!rpc_call_attach(call, on_hang_event, NULL))
        rpc_call_release(call);
    else
        rpc_send(call, &answer.base);
}

/* Joins the texts of an upload; "stop" is answered at once, "slow" keeps its handler until the client is
 * gone. */
typedef struct upload {
    char text[4096];
    _Atomic bool closed;
} upload;
static _Atomic bool slow_entered, slow_leaves;
static _Atomic uint32_t closed_in_handler, uploads_begun;

static void on_upload_event(void *user, rpc_call *call, rpc_event event) {
    if (event != RPC_CLOSED) return;
    atomic_store(&((upload *)user)->closed, true);
    free(user);
    note_closed();
    rpc_call_release(call);
}

static upload *begin_upload(rpc_call *call) {
    upload *u = mem_new(1, sizeof *u);
    rpc_call_hold(call);
    if (rpc_call_attach(call, on_upload_event, u)) {
        atomic_fetch_add(&uploads_begun, 1);
        return u;
    }
    rpc_call_release(call);
    free(u);
    return NULL;
}

static void on_upload(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    (void)arg;
    upload *u = rpc_call_user(call);
    if (!u && !(u = begin_upload(call))) return;
    if (message && !strcmp(text_of(message), "slow")) {
        atomic_store(&slow_entered, true);
        while (!atomic_load(&slow_leaves))
            usleep(1000);
        if (atomic_load(&u->closed)) atomic_fetch_add(&closed_in_handler, 1);
    }
    if (message) strncat(u->text, text_of(message), sizeof u->text - strlen(u->text) - 1);
    if (message && strcmp(text_of(message), "stop") != 0) {
        rpc_receive(call);
        return;
    }
    Espalier__V1__DetokenizeResponse answer = ESPALIER__V1__DETOKENIZE_RESPONSE__INIT;
    answer.text = u->text;
    rpc_finish(call, &answer.base, NULL);
}

static bool allow_right(void *arg, const char *header, size_t bytes) {
    (void)arg;
    return header && bytes == 12 && !memcmp(header, "Bearer right", 12);
}

#define ROW(name, fn, who, ...)                                                                    \
    {                                                                                              \
        .path = "/test.Rpc/" name, .access = who,                                                  \
        .request = &espalier__v1__tokenize_request__descriptor, .on_request = fn, __VA_ARGS__      \
    }
static const rpc_method methods[] = {
    ROW("Echo", on_echo, RPC_ACCESS_ANYONE, .on_worker = false),
    ROW("WorkerEcho", on_echo, RPC_ACCESS_ANYONE, .on_worker = true),
    ROW("Fail", on_fail, RPC_ACCESS_ANYONE, .on_worker = false),
    ROW("Count", on_count, RPC_ACCESS_ANYONE, .on_worker = true),
    ROW("Flood", on_flood, RPC_ACCESS_ANYONE, .on_worker = false),
    ROW("Hang", on_hang, RPC_ACCESS_ANYONE, .on_worker = false),
    ROW("Vital", on_echo, RPC_ACCESS_ANYONE, .vital = true, .calls_max = 1),
    ROW("Upload", on_upload, RPC_ACCESS_ANYONE, .on_worker = true, .uploads = true),
    ROW("Token", on_echo, RPC_ACCESS_TOKEN, .on_worker = false),
    ROW("Forgotten", on_echo, RPC_ACCESS_NOBODY, .on_worker = false),
};

typedef struct fixture {
    rpc_server *server;
    rpc_channel *channel;
    char address[64];
} fixture;

static void open_channel(fixture *f, const char *token) {
    rpc_channel_options to = {.address = f->address, .token = token};
    rpc_channel_close(f->channel);
    assert_int_equal(rpc_channel_open(&f->channel, &to, NULL), ESP_OK);
}

static void open_with(fixture *f, rpc_options options) {
    esp_error error = {0};
    memset(f, 0, sizeof *f);
    atomic_store(&closed_calls, 0);
    atomic_store(&uploads_begun, 0);
    options.address = "127.0.0.1:0";
    options.methods = methods;
    options.method_count = sizeof methods / sizeof *methods;
    options.authorise = allow_right;
    if (rpc_server_open(&f->server, &options, &error) != ESP_OK) fail_msg("%s", error.message);
    assert_int_equal(rpc_server_start(f->server, &error), ESP_OK);
    snprintf(f->address, sizeof f->address, "127.0.0.1:%u", rpc_server_port(f->server));
    open_channel(f, NULL);
}

static void close_all(fixture *f) {
    rpc_channel_close(f->channel);
    rpc_server_close(f->server);
}

/* ---- the client ---- */

static const ProtobufCMessageDescriptor *const answer_type =
    &espalier__v1__detokenize_response__descriptor;

static esp_code call_text(fixture *f, const char *path, const char *text, char **out,
                          esp_error *err) {
    Espalier__V1__TokenizeRequest request = ESPALIER__V1__TOKENIZE_REQUEST__INIT;
    ProtobufCMessage *answer;
    request.text = (char *)(uintptr_t)text;
    esp_code code = rpc_unary(f->channel, path, &request.base, answer_type, HANG_MS, &answer, err);
    if (code != ESP_OK) return code;
    if (out) *out = strdup(((Espalier__V1__DetokenizeResponse *)(void *)answer)->text);
    protobuf_c_message_free_unpacked(answer, NULL);
    return code;
}

static rpc_stream *open_stream(fixture *f, const char *path, int64_t timeout_ms) {
    Espalier__V1__TokenizeRequest request = ESPALIER__V1__TOKENIZE_REQUEST__INIT;
    rpc_stream *stream;
    assert_int_equal(rpc_stream_open(&stream, f->channel, path, &request.base, timeout_ms, NULL),
                     ESP_OK);
    return stream;
}

/* The next text, freed by the caller; NULL at the end, whose status goes to *code. */
static char *next_text(rpc_stream *stream, esp_code *code, esp_error *err) {
    ProtobufCMessage *answer;
    *code = rpc_stream_next(stream, answer_type, &answer, err);
    if (!answer) return NULL;
    char *text = strdup(((Espalier__V1__DetokenizeResponse *)(void *)answer)->text);
    protobuf_c_message_free_unpacked(answer, NULL);
    return text;
}

static esp_code read_to_end(rpc_stream *stream, uint32_t *count, esp_error *err) {
    esp_code code;
    *count = 0;
    for (char *text; (text = next_text(stream, &code, err)); free(text))
        ++*count;
    return code;
}

static rpc_stream *open_upload(fixture *f) {
    rpc_stream *stream;
    assert_int_equal(rpc_stream_open(&stream, f->channel, "/test.Rpc/Upload", NULL, HANG_MS, NULL),
                     ESP_OK);
    return stream;
}

static bool send_text(rpc_stream *stream, const char *text) {
    Espalier__V1__TokenizeRequest request = ESPALIER__V1__TOKENIZE_REQUEST__INIT;
    request.text = (char *)(uintptr_t)text;
    return rpc_stream_send(stream, &request.base);
}

static rpc_stream *open_hanging(fixture *f, int64_t timeout_ms) {
    rpc_stream *stream = open_stream(f, "/test.Rpc/Hang", timeout_ms);
    esp_code code;
    free(next_text(stream, &code, NULL));
    assert_int_equal(code, ESP_OK);
    return stream;
}

/* ---- tests ---- */

/* The same answer from a poller and from a worker. */
static void unary_call_is_answered(void **state) {
    (void)state;
    fixture f;
    open_with(&f, (rpc_options){0});
    static const char *const paths[] = {"/test.Rpc/Echo", "/test.Rpc/WorkerEcho"};
    for (uint32_t i = 0; i < 20; i++) {
        char *text = NULL;
        assert_int_equal(call_text(&f, paths[i % 2], "gr\xc3\xbc\xc3\x9f", &text, NULL), ESP_OK);
        assert_string_equal(text, "gr\xc3\xbc\xc3\x9f");
        free(text);
    }
    close_all(&f);
}

/* 200 messages, one under way at a time, the last together with the status. */
static void stream_arrives_whole_and_in_order(void **state) {
    (void)state;
    fixture f;
    open_with(&f, (rpc_options){0});
    rpc_stream *stream = open_stream(&f, "/test.Rpc/Count", HANG_MS);
    esp_code code;
    char *text, wanted[16];
    for (uint32_t i = 0; (text = next_text(stream, &code, NULL)); i++) {
        snprintf(wanted, sizeof wanted, "%u", i);
        assert_string_equal(text, wanted);
        free(text);
        assert_in_range(i, 0, PIECES - 1);
    }
    assert_int_equal(code, ESP_OK);
    rpc_stream_close(stream);
    wait_closed(1);
    close_all(&f);
}

/* Code, sentence, field and retry hint come through grpc-status-details-bin. */
static void error_keeps_sentence_field_and_retry_hint(void **state) {
    (void)state;
    fixture f;
    esp_error error = {0};
    open_with(&f, (rpc_options){0});
    assert_int_equal(call_text(&f, "/test.Rpc/Fail", "", NULL, &error), ESP_EXHAUSTED);
    assert_string_equal(error.message, "100% full: caf\xc3\xa9");
    assert_string_equal(error.field, "max_tokens");
    assert_int_equal(error.retry_ms, 1250);
    close_all(&f);
}

/* Returns whether the handler had begun before that, which the client is told. */
static bool deadline_ends_the_call(int64_t timeout_ms) {
    fixture f;
    uint32_t count;
    open_with(&f, (rpc_options){0});
    rpc_stream *stream = open_stream(&f, "/test.Rpc/Hang", timeout_ms);
    assert_int_equal(read_to_end(stream, &count, NULL), ESP_DEADLINE);
    rpc_stream_close(stream);
    if (count) wait_closed(1);
    close_all(&f);
    return count > 0;
}

/* The client's deadline passes while the handler does nothing: both sides learn of it. */
static void deadline_ends_the_call_on_both_sides(void **state) {
    (void)state;
    for (int64_t ms = CUT_MS; !deadline_ends_the_call(ms); ms *= 2)
        assert_true(ms < HANG_MS);
}

static void client_cancel_closes_the_call(void **state) {
    (void)state;
    fixture f;
    uint32_t count;
    open_with(&f, (rpc_options){0});
    rpc_stream *stream = open_hanging(&f, -1);
    rpc_stream_cancel(stream);
    assert_int_equal(read_to_end(stream, &count, NULL), ESP_CANCELLED);
    wait_closed(1);
    rpc_stream_close(stream);
    close_all(&f);
}

static void client_disconnect_closes_the_call(void **state) {
    (void)state;
    fixture f;
    open_with(&f, (rpc_options){0});
    rpc_stream *stream = open_hanging(&f, -1);
    rpc_stream_close(stream);
    wait_closed(1);
    close_all(&f);
}

/* A hundred messages, one at a time, on changing workers; the end is told to the handler. */
static void upload_arrives_whole_and_in_order(void **state) {
    (void)state;
    fixture f;
    char wanted[4096] = "", piece[16];
    esp_code code;
    open_with(&f, (rpc_options){0});
    rpc_stream *stream = open_upload(&f);
    for (uint32_t i = 0; i < 100; i++) {
        snprintf(piece, sizeof piece, "%u,", i);
        strcat(wanted, piece);
        assert_true(send_text(stream, piece));
    }
    assert_true(rpc_stream_send_end(stream));
    char *text = next_text(stream, &code, NULL);
    assert_string_equal(text, wanted);
    free(text);
    assert_null(next_text(stream, &code, NULL));
    assert_int_equal(code, ESP_OK);
    rpc_stream_close(stream);
    wait_closed(1);
    close_all(&f);
}

static void upload_may_be_answered_before_its_end(void **state) {
    (void)state;
    fixture f;
    esp_code code;
    open_with(&f, (rpc_options){0});
    rpc_stream *stream = open_upload(&f);
    assert_true(send_text(stream, "a,"));
    assert_true(send_text(stream, "stop"));
    char *text = next_text(stream, &code, NULL);
    assert_string_equal(text, "a,stop");
    free(text);
    assert_null(next_text(stream, &code, NULL));
    assert_int_equal(code, ESP_OK);
    assert_false(send_text(stream, "b"));
    rpc_stream_close(stream);
    wait_closed(1);
    close_all(&f);
}

static void upload_without_a_message_is_refused(void **state) {
    (void)state;
    fixture f;
    esp_code code;
    open_with(&f, (rpc_options){0});
    rpc_stream *stream = open_upload(&f);
    assert_true(rpc_stream_send_end(stream));
    assert_null(next_text(stream, &code, NULL));
    assert_int_equal(code, ESP_INVALID);
    rpc_stream_close(stream);
    close_all(&f);
}

/* Returns whether the first message came through before that. */
static bool stalled_upload_is_cut(uint32_t message_ms) {
    fixture f;
    esp_code code;
    open_with(&f, (rpc_options){.message_ms = message_ms});
    rpc_stream *stream = open_upload(&f);
    (void)!send_text(stream, "a,");
    assert_null(next_text(stream, &code, NULL));
    assert_int_equal(code, ESP_DEADLINE);
    bool begun = atomic_load(&uploads_begun);
    if (begun) wait_closed(1);
    rpc_stream_close(stream);
    close_all(&f);
    return begun;
}

static void upload_that_stalls_is_cut(void **state) {
    (void)state;
    for (uint32_t ms = CUT_MS; !stalled_upload_is_cut(ms); ms *= 2)
        assert_true(ms < HANG_MS);
}

/* The client goes away while a handler is at work with what it attached: that goes when the handler
 * has returned. */
static void closing_waits_for_the_upload_at_work(void **state) {
    (void)state;
    fixture f;
    atomic_store(&slow_entered, false);
    atomic_store(&slow_leaves, false);
    atomic_store(&closed_in_handler, 0);
    open_with(&f, (rpc_options){0});
    rpc_stream *stream = open_upload(&f);
    assert_true(send_text(stream, "slow"));
    while (!atomic_load(&slow_entered))
        usleep(1000);
    rpc_stream_close(stream);
    usleep(50000); /* time to do it wrong */
    assert_int_equal(atomic_load(&closed_calls), 0);
    atomic_store(&slow_leaves, true);
    wait_closed(1);
    assert_int_equal(atomic_load(&closed_in_handler), 0);
    close_all(&f);
}

static void message_over_the_limit_is_refused(void **state) {
    (void)state;
    fixture f;
    esp_error error = {0};
    char *big = mem_new(40001, 1);
    memset(big, 'a', 40000);
    open_with(&f, (rpc_options){.message_bytes_max = 32 << 10});
    assert_int_equal(call_text(&f, "/test.Rpc/Echo", big, NULL, &error), ESP_EXHAUSTED);
    big[1000] = '\0';
    assert_int_equal(call_text(&f, "/test.Rpc/Echo", big, NULL, &error), ESP_OK);
    free(big);
    close_all(&f);
}

/* Field 2 of the request is a string; other messages have a number and bytes there. */
static void malformed_message_is_refused_naming_the_field(void **state) {
    (void)state;
    fixture f;
    esp_error error = {0};
    ProtobufCMessage *answer;
    Espalier__V1__Usage number = ESPALIER__V1__USAGE__INIT;
    Google__Rpc__PackedDetail bytes = GOOGLE__RPC__PACKED_DETAIL__INIT;
    number.output_tokens = 7;
    bytes.value = (ProtobufCBinaryData){.len = 3, .data = (uint8_t *)(uintptr_t) "a\0b"};
    open_with(&f, (rpc_options){0});
    assert_int_equal(
        rpc_unary(f.channel, "/test.Rpc/Echo", &number.base, answer_type, HANG_MS, &answer, &error),
        ESP_INVALID);
    assert_non_null(strstr(error.message, "espalier.v1.TokenizeRequest"));
    assert_int_equal(
        rpc_unary(f.channel, "/test.Rpc/Echo", &bytes.base, answer_type, HANG_MS, &answer, &error),
        ESP_INVALID);
    assert_string_equal(error.field, "text");
    close_all(&f);
}

static void unknown_method_is_unimplemented(void **state) {
    (void)state;
    fixture f;
    open_with(&f, (rpc_options){0});
    assert_int_equal(call_text(&f, "/test.Rpc/None", "", NULL, NULL), ESP_UNIMPLEMENTED);
    close_all(&f);
}

static void method_without_access_is_for_nobody(void **state) {
    (void)state;
    fixture f;
    open_with(&f, (rpc_options){0});
    open_channel(&f, "right");
    assert_int_equal(call_text(&f, "/test.Rpc/Forgotten", "", NULL, NULL), ESP_DENIED);
    close_all(&f);
}

static void token_method_wants_the_right_token(void **state) {
    (void)state;
    fixture f;
    open_with(&f, (rpc_options){0});
    assert_int_equal(call_text(&f, "/test.Rpc/Token", "", NULL, NULL), ESP_UNAUTHENTICATED);
    open_channel(&f, "wrong");
    assert_int_equal(call_text(&f, "/test.Rpc/Token", "", NULL, NULL), ESP_UNAUTHENTICATED);
    open_channel(&f, "right");
    assert_int_equal(call_text(&f, "/test.Rpc/Token", "", NULL, NULL), ESP_OK);
    close_all(&f);
}

/* Two calls hang; the third is refused at once with a hint, one whose method has a bound of its own is not. */
static void calls_beyond_the_cap_are_refused(void **state) {
    (void)state;
    fixture f;
    esp_error error = {0};
    open_with(&f, (rpc_options){.calls_max = 2});
    rpc_stream *one = open_hanging(&f, -1), *two = open_hanging(&f, -1);
    assert_int_equal(call_text(&f, "/test.Rpc/Echo", "", NULL, &error), ESP_EXHAUSTED);
    assert_true(error.retry_ms > 0);
    assert_int_equal(call_text(&f, "/test.Rpc/Vital", "", NULL, &error), ESP_OK);
    rpc_stream_close(one);
    rpc_stream_close(two);
    wait_closed(2);
    close_all(&f);
}

/* Headers without a message: invisible to a server that waits for messages only. */
static void client_that_sends_headers_only_is_cut(void **state) {
    (void)state;
    fixture f;
    open_with(&f, (rpc_options){.message_ms = CUT_MS});
    grpc_channel_credentials *plain = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create(f.address, plain, NULL);
    grpc_channel_credentials_release(plain);
    grpc_completion_queue *completions = grpc_completion_queue_create_for_pluck(NULL);
    grpc_call *call = grpc_channel_create_call(channel, NULL, GRPC_PROPAGATE_DEFAULTS, completions,
                                               grpc_slice_from_static_string("/test.Rpc/Echo"),
                                               NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    grpc_metadata_array headers, trailers;
    grpc_status_code status = GRPC_STATUS_OK;
    grpc_slice sentence = grpc_empty_slice();
    grpc_op ops[3];
    char tag;
    memset(ops, 0, sizeof ops);
    grpc_metadata_array_init(&headers);
    grpc_metadata_array_init(&trailers);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[1].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[1].data.recv_status_on_client.trailing_metadata = &trailers;
    ops[1].data.recv_status_on_client.status = &status;
    ops[1].data.recv_status_on_client.status_details = &sentence;
    ops[2].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[2].data.recv_initial_metadata.recv_initial_metadata = &headers;
    assert_int_equal(grpc_call_start_batch(call, ops, 3, &tag, NULL), GRPC_CALL_OK);
    gpr_timespec limit =
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(HANG_MS, GPR_TIMESPAN));
    assert_int_equal(grpc_completion_queue_pluck(completions, &tag, limit, NULL).type,
                     GRPC_OP_COMPLETE);
    assert_int_equal(status, GRPC_STATUS_DEADLINE_EXCEEDED);
    grpc_call_unref(call);
    grpc_slice_unref(sentence);
    grpc_metadata_array_destroy(&headers);
    grpc_metadata_array_destroy(&trailers);
    grpc_completion_queue_shutdown(completions);
    grpc_completion_queue_destroy(completions);
    grpc_channel_destroy(channel);
    close_all(&f);
}

/* The client opens a stream of large messages and reads none: its window fills, the send stalls. */
static void reader_that_stalls_is_cut(void **state) {
    (void)state;
    fixture f;
    uint32_t count;
    open_with(&f, (rpc_options){.stall_ms = CUT_MS});
    rpc_stream *stream = open_stream(&f, "/test.Rpc/Flood", -1);
    wait_closed(1);
    assert_int_equal(read_to_end(stream, &count, NULL), ESP_EXHAUSTED);
    rpc_stream_close(stream);
    close_all(&f);
}

/* A stream that runs when the drain begins gets all its messages; a new call does not get in. */
static void drain_lets_streams_finish_and_refuses_new_calls(void **state) {
    (void)state;
    fixture f;
    uint32_t count;
    open_with(&f, (rpc_options){0});
    rpc_stream *running = open_stream(&f, "/test.Rpc/Count", HANG_MS);
    esp_code code;
    free(next_text(running, &code, NULL));
    rpc_server_drain(f.server);
    assert_int_equal(call_text(&f, "/test.Rpc/Echo", "", NULL, NULL), ESP_UNAVAILABLE);
    assert_int_equal(read_to_end(running, &count, NULL), ESP_OK);
    assert_int_equal(count, PIECES - 1);
    rpc_stream_close(running);
    assert_true(rpc_server_wait_drained(f.server, HANG_US));
    close_all(&f);
}

static void cancel_all_ends_what_the_drain_waits_for(void **state) {
    (void)state;
    fixture f;
    uint32_t count;
    open_with(&f, (rpc_options){0});
    rpc_stream *hanging = open_hanging(&f, -1);
    rpc_server_drain(f.server);
    assert_false(rpc_server_wait_drained(f.server, 50000));
    rpc_server_cancel_all(f.server);
    assert_int_equal(read_to_end(hanging, &count, NULL), ESP_UNAVAILABLE);
    assert_true(rpc_server_wait_drained(f.server, HANG_US));
    rpc_stream_close(hanging);
    close_all(&f);
}

static void closing_ends_live_calls(void **state) {
    (void)state;
    fixture f;
    uint32_t count;
    open_with(&f, (rpc_options){0});
    rpc_stream *streams[8];
    for (uint32_t i = 0; i < 8; i++)
        streams[i] = open_hanging(&f, -1);
    rpc_server_close(f.server);
    assert_int_equal(atomic_load(&closed_calls), 8);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(read_to_end(streams[i], &count, NULL), ESP_UNAVAILABLE);
        rpc_stream_close(streams[i]);
    }
    rpc_channel_close(f.channel);
}

static void port_in_use_is_one_sentence(void **state) {
    (void)state;
    fixture f;
    esp_error error = {0};
    rpc_server *second;
    open_with(&f, (rpc_options){0});
    rpc_options same = {.address = f.address};
    assert_int_equal(rpc_server_open(&second, &same, &error), ESP_UNAVAILABLE);
    assert_null(second);
    assert_non_null(strstr(error.message, "--grpc"));
    close_all(&f);
}

static void unreachable_server_is_unavailable(void **state) {
    (void)state;
    fixture f;
    open_with(&f, (rpc_options){0});
    rpc_server_close(f.server);
    f.server = NULL;
    assert_int_equal(call_text(&f, "/test.Rpc/Echo", "", NULL, NULL), ESP_UNAVAILABLE);
    rpc_channel_close(f.channel);
}

static void missing_tls_file_is_named(void **state) {
    (void)state;
    esp_error error = {0};
    rpc_server *server;
    rpc_options options = {
        .address = "127.0.0.1:0",
        .tls = {.cert_file = "/nonexistent.pem", .key_file = "/nonexistent.key"}};
    assert_int_equal(rpc_server_open(&server, &options, &error), ESP_INVALID);
    assert_string_equal(error.field, "--tls-cert");
    options.tls.key_file = NULL;
    options.tls.cert_file = TEST_SOURCE_DIR "/CMakeLists.txt";
    assert_int_equal(rpc_server_open(&server, &options, &error), ESP_INVALID);
    assert_string_equal(error.field, "--tls-key");
    options.tls.key_file = options.tls.cert_file;
    assert_int_equal(rpc_server_open(&server, &options, &error), ESP_INVALID);
    assert_string_equal(error.field, "--tls-cert");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unary_call_is_answered),
        cmocka_unit_test(stream_arrives_whole_and_in_order),
        cmocka_unit_test(error_keeps_sentence_field_and_retry_hint),
        cmocka_unit_test(deadline_ends_the_call_on_both_sides),
        cmocka_unit_test(client_cancel_closes_the_call),
        cmocka_unit_test(client_disconnect_closes_the_call),
        cmocka_unit_test(upload_arrives_whole_and_in_order),
        cmocka_unit_test(upload_may_be_answered_before_its_end),
        cmocka_unit_test(upload_without_a_message_is_refused),
        cmocka_unit_test(upload_that_stalls_is_cut),
        cmocka_unit_test(closing_waits_for_the_upload_at_work),
        cmocka_unit_test(message_over_the_limit_is_refused),
        cmocka_unit_test(malformed_message_is_refused_naming_the_field),
        cmocka_unit_test(unknown_method_is_unimplemented),
        cmocka_unit_test(method_without_access_is_for_nobody),
        cmocka_unit_test(token_method_wants_the_right_token),
        cmocka_unit_test(calls_beyond_the_cap_are_refused),
        cmocka_unit_test(client_that_sends_headers_only_is_cut),
        cmocka_unit_test(reader_that_stalls_is_cut),
        cmocka_unit_test(drain_lets_streams_finish_and_refuses_new_calls),
        cmocka_unit_test(cancel_all_ends_what_the_drain_waits_for),
        cmocka_unit_test(closing_ends_live_calls),
        cmocka_unit_test(port_in_use_is_one_sentence),
        cmocka_unit_test(unreachable_server_is_unavailable),
        cmocka_unit_test(missing_tls_file_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
