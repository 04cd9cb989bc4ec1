/* test_serve.c - the whole front over a tiny random model: a real listener, our own client, real
 * signals. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/serve/client.h"
#include "engine/serve/serve.h"
#include "espalier/v1/inference.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"
#include "proto/rpc.h"
#include "tests/unit/free_port.h"
#include "tests/unit/gguf_builder.h"
#include "tests/unit/hang.h"

enum { CONTEXT = 2048, HANG_LIMIT_MS = 2 * HANG_MS };

static char model_path[] = "/tmp/espalier-serve-XXXXXX";

static int make_model(void **state) {
    (void)state;
    log_set_level(LOG_OFF);
    size_t bytes;
    char *file = gguf_build_tiny_llama(&(tiny_llama_options){.layers = 2,
                                                             .hidden = 64,
                                                             .heads = 4,
                                                             .kv_heads = 2,
                                                             .head_dim = 16,
                                                             .intermediate = 96,
                                                             .vocab = 320,
                                                             .context = CONTEXT,
                                                             .dtype = DT_Q8_0,
                                                             .seed = 3,
                                                             .tied = true},
                                       &bytes);
    int fd = mkstemp(model_path);
    if (fd < 0 || write(fd, file, bytes) != (ssize_t)bytes) return -1;
    free(file);
    return close(fd);
}

static int drop_model(void **state) {
    (void)state;
    return unlink(model_path);
}

/* ---- a server on its own thread ---- */

typedef struct running {
    replicas *replicas;
    engine *engine;
    serve_config config;
    pthread_t thread;
    char address[FREE_PORT_BYTES];
    esp_code code;
    esp_error error;
    rpc_channel *channel;
} running;

static void *run_server(void *arg) {
    running *r = arg;
    r->code = serve_run(r->replicas, &r->config, &r->error);
    return NULL;
}

static void wait_serving(running *r) {
    client *c;
    client_options to = {.address = r->address};
    int64_t until_us = clock_now_us() + HANG_LIMIT_MS * 1000;
    assert_int_equal(client_open(&c, &to, NULL), ESP_OK);
    while (client_health(c, 1000, NULL) != ESP_OK) {
        assert_true(clock_now_us() < until_us);
        usleep(20000);
    }
    client_close(c);
}

static void start(running *r, serve_config config) {
    esp_error error = {0};
    memset(r, 0, sizeof *r);
    (void)free_port(r->address);
    r->config = config;
    r->config.grpc = r->address;
    r->config.http = "127.0.0.1:0";
    r->config.model.model_path = model_path;
    r->config.model.name = "tiny";
    r->config.model.threads = config.replicas ? config.replicas : 1;
    if (!r->config.grace_seconds) r->config.grace_seconds = HANG_LIMIT_MS / 1000;
    if (replicas_open(&r->replicas, &r->config.model, config.replicas, NULL, NULL, &error) !=
        ESP_OK)
        fail_msg("%s", error.message);
    r->engine = replicas_first(r->replicas);
    assert_int_equal(pthread_create(&r->thread, NULL, run_server, r), 0);
    wait_serving(r);
    rpc_channel_options to = {.address = r->address};
    assert_int_equal(rpc_channel_open(&r->channel, &to, NULL), ESP_OK);
}

static void join(running *r) {
    pthread_join(r->thread, NULL);
    if (r->code != ESP_OK) fail_msg("%s", r->error.message);
    rpc_channel_close(r->channel);
    replicas_close(r->replicas);
}

static void stop(running *r) {
    kill(getpid(), SIGTERM);
    join(r);
}

/* ---- the client ---- */

typedef struct ask {
    uint32_t max_tokens, top_logprobs;
    const uint64_t *seed;
    int64_t timeout_ms;
} ask;

static rpc_stream *generate(running *r, const ask *a) {
    static int32_t ids[] = {10, 20, 30, 40};
    Espalier__V1__GenerateRequest wanted = ESPALIER__V1__GENERATE_REQUEST__INIT;
    Espalier__V1__TokenIds input = ESPALIER__V1__TOKEN_IDS__INIT;
    Espalier__V1__Sampling sampling = ESPALIER__V1__SAMPLING__INIT;
    rpc_stream *stream;
    input.ids = ids;
    input.n_ids = 4;
    wanted.input_case = ESPALIER__V1__GENERATE_REQUEST__INPUT_TOKEN_IDS;
    wanted.token_ids = &input;
    wanted._max_tokens_case = ESPALIER__V1__GENERATE_REQUEST___MAX_TOKENS_MAX_TOKENS;
    wanted.max_tokens = a->max_tokens;
    wanted.top_logprobs = a->top_logprobs;
    wanted.ignore_eos = true;
    sampling.temperature = 1;
    if (a->seed) {
        sampling._seed_case = ESPALIER__V1__SAMPLING___SEED_SEED;
        sampling.seed = *a->seed;
    }
    wanted.sampling = &sampling;
    assert_int_equal(rpc_stream_open(&stream, r->channel, "/espalier.v1.Inference/Generate",
                                     &wanted.base, a->timeout_ms ? a->timeout_ms : HANG_LIMIT_MS,
                                     NULL),
                     ESP_OK);
    return stream;
}

typedef struct whole_answer {
    uint32_t count, messages;
    int32_t ids[CONTEXT];
    bool has_final;
    uint64_t seed;
    uint32_t prompt_tokens, output_tokens;
    int finish_reason;
    char profile[128];
} whole_answer;

static void keep(whole_answer *out, const Espalier__V1__GenerateResponse *piece) {
    out->messages++;
    assert_false(out->has_final); /* nothing follows the final message */
    if (piece->n_token_ids)       /* a message may carry none, and then no array either */
        memcpy(out->ids + out->count, piece->token_ids, piece->n_token_ids * sizeof *out->ids);
    out->count += (uint32_t)piece->n_token_ids;
    if (!piece->final) return;
    out->has_final = true;
    out->seed = piece->final->seed;
    out->prompt_tokens = piece->final->usage->prompt_tokens;
    out->output_tokens = piece->final->usage->output_tokens;
    out->finish_reason = piece->final->finish_reason;
    snprintf(out->profile, sizeof out->profile, "%s", piece->final->numeric_profile);
}

static esp_code read_all(rpc_stream *stream, whole_answer *out, esp_error *err) {
    memset(out, 0, sizeof *out);
    for (;;) {
        ProtobufCMessage *got;
        esp_code code =
            rpc_stream_next(stream, &espalier__v1__generate_response__descriptor, &got, err);
        if (!got) return code;
        keep(out, (const void *)got);
        protobuf_c_message_free_unpacked(got, NULL);
    }
}

static void wait_idle(running *r) {
    int64_t until_us = clock_now_us() + HANG_LIMIT_MS * 1000;
    engine_stats stats;
    for (engine_read_stats(r->engine, &stats); stats.live || stats.pages_used;
         engine_read_stats(r->engine, &stats)) {
        assert_true(clock_now_us() < until_us);
        usleep(5000);
    }
}

/* ---- tests ---- */

static void answer_streams_and_ends_with_what_replay_needs(void **state) {
    (void)state;
    running r;
    whole_answer first, again;
    start(&r, (serve_config){0});
    rpc_stream *stream = generate(&r, &(ask){.max_tokens = 40});
    assert_int_equal(read_all(stream, &first, NULL), ESP_OK);
    rpc_stream_close(stream);
    assert_true(first.has_final);
    assert_int_equal(first.count, 40);
    assert_int_equal(first.output_tokens, 40);
    assert_int_equal(first.prompt_tokens, 4);
    assert_int_equal(first.finish_reason, ESPALIER__V1__FINISH_REASON__FINISH_REASON_LENGTH);
    assert_string_equal(first.profile, engine_profile(r.engine));
    /* The seed that the server drew gives the same tokens again. */
    stream = generate(&r, &(ask){.max_tokens = 40, .seed = &first.seed});
    assert_int_equal(read_all(stream, &again, NULL), ESP_OK);
    rpc_stream_close(stream);
    assert_int_equal(again.seed, first.seed);
    assert_memory_equal(again.ids, first.ids, 40 * sizeof *first.ids);
    wait_idle(&r);
    stop(&r);
}

/* Whoever sends the next request when one is answered is not refused because of it. */
static void who_has_an_answer_finds_its_place_free(void **state) {
    (void)state;
    running r;
    whole_answer got;
    engine_stats stats;
    start(&r, (serve_config){0});
    for (uint32_t i = 0; i < 200; i++) {
        rpc_stream *stream = generate(&r, &(ask){.max_tokens = 1 + i % 20});
        assert_int_equal(read_all(stream, &got, NULL), ESP_OK);
        rpc_stream_close(stream);
        engine_read_stats(r.engine, &stats);
        assert_int_equal(stats.live, 0);
    }
    stop(&r);
}

/* 24 streams at once, every third cancelled after its first message, every third with a short
 * deadline. Those two kinds are so wide that none of them arrives whole while its reader looks elsewhere. */
static void streams_that_break_off_leave_nothing(void **state) {
    (void)state;
    enum { STREAMS = 24 };
    running r;
    rpc_stream *streams[STREAMS];
    whole_answer answer;
    start(&r, (serve_config){.slow_reader_bytes = 64 << 20});
    for (uint32_t i = 0; i < STREAMS; i++)
        streams[i] = generate(&r, &(ask){.max_tokens = i % 3 ? 1500 : 30,
                                         .top_logprobs = i % 3 ? 20 : 0,
                                         .timeout_ms = i % 3 == 2 ? 50 : 0});
    for (uint32_t i = 0; i < STREAMS; i++) {
        ProtobufCMessage *got = NULL;
        if (i % 3 == 1) {
            assert_int_equal(rpc_stream_next(streams[i],
                                             &espalier__v1__generate_response__descriptor, &got,
                                             NULL),
                             ESP_OK);
            protobuf_c_message_free_unpacked(got, NULL);
            rpc_stream_cancel(streams[i]);
        }
        esp_code code = read_all(streams[i], &answer, NULL);
        if (i % 3 == 0) assert_int_equal(answer.count, 30);
        if (i % 3 == 1) assert_int_equal(code, ESP_CANCELLED);
        if (i % 3 == 2) assert_int_equal(code, ESP_DEADLINE);
        rpc_stream_close(streams[i]);
    }
    wait_idle(&r);
    stop(&r);
}

/* 20 alternatives a token make some 600 bytes a token; the client reads none of them. */
static void slow_reader_is_cut_and_its_request_ends(void **state) {
    (void)state;
    running r;
    whole_answer answer;
    esp_error error = {0};
    start(&r, (serve_config){.slow_reader_bytes = 8192});
    rpc_stream *stream = generate(&r, &(ask){.max_tokens = 2000, .top_logprobs = 20});
    engine_stats stats;
    do {
        usleep(10000);
        engine_read_stats(r.engine, &stats);
    } while (stats.finished_total[FINISH_CANCELLED] + stats.finished_total[FINISH_LENGTH] == 0);
    assert_int_equal(stats.finished_total[FINISH_CANCELLED], 1);
    assert_int_equal(read_all(stream, &answer, &error), ESP_EXHAUSTED);
    assert_non_null(strstr(error.message, "slow reader"));
    rpc_stream_close(stream);
    wait_idle(&r);
    stop(&r);
}

static void bad_requests_are_refused_by_field(void **state) {
    (void)state;
    running r;
    ProtobufCMessage *answer;
    esp_error error = {0};
    start(&r, (serve_config){0});
    Espalier__V1__TokenizeRequest tokenize = ESPALIER__V1__TOKENIZE_REQUEST__INIT;
    tokenize.model = (char *)(uintptr_t) "other";
    assert_int_equal(rpc_unary(r.channel, "/espalier.v1.Inference/Tokenize", &tokenize.base,
                               &espalier__v1__tokenize_response__descriptor, HANG_LIMIT_MS, &answer,
                               &error),
                     ESP_NOT_FOUND);
    assert_string_equal(error.field, "model");
    assert_non_null(strstr(error.message, "tiny"));
    Espalier__V1__DetokenizeRequest detokenize = ESPALIER__V1__DETOKENIZE_REQUEST__INIT;
    int32_t ids[] = {1, 320};
    detokenize.token_ids = ids;
    detokenize.n_token_ids = 2;
    assert_int_equal(rpc_unary(r.channel, "/espalier.v1.Inference/Detokenize", &detokenize.base,
                               &espalier__v1__detokenize_response__descriptor, HANG_LIMIT_MS,
                               &answer, &error),
                     ESP_INVALID);
    assert_string_equal(error.field, "token_ids");
    rpc_stream *stream = generate(&r, &(ask){.max_tokens = CONTEXT});
    whole_answer none;
    assert_int_equal(read_all(stream, &none, &error), ESP_INVALID);
    assert_string_equal(error.field, "max_tokens");
    rpc_stream_close(stream);
    stop(&r);
}

static int next_health(rpc_stream *watch, esp_code *code) {
    ProtobufCMessage *got;
    *code =
        rpc_stream_next(watch, &grpc__health__v1__health_check_response__descriptor, &got, NULL);
    if (!got) return -1;
    int status = ((Grpc__Health__V1__HealthCheckResponse *)(void *)got)->status;
    protobuf_c_message_free_unpacked(got, NULL);
    return status;
}

/* SIGTERM in the middle of a stream whose reader pauses, so that it cannot end before we say so:
 * the watch tells NOT_SERVING and ends, a new request is refused, the stream gets all its tokens,
 * and serve_run returns well. */
static void drain_finishes_streams_and_refuses_new_ones(void **state) {
    (void)state;
    enum { LONG = 1500 };
    running r;
    esp_code code;
    whole_answer answer;
    start(&r, (serve_config){.slow_reader_bytes = 64 << 20});
    rpc_stream *stream = generate(&r, &(ask){.max_tokens = LONG, .top_logprobs = 20});
    rpc_channel *reader = r.channel;
    rpc_channel_options to = {.address = r.address};
    assert_int_equal(rpc_channel_open(&r.channel, &to, NULL), ESP_OK);
    Grpc__Health__V1__HealthCheckRequest about = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    rpc_stream *watch;
    assert_int_equal(rpc_stream_open(&watch, r.channel, "/grpc.health.v1.Health/Watch", &about.base,
                                     HANG_LIMIT_MS, NULL),
                     ESP_OK);
    assert_int_equal(next_health(watch, &code), 1);
    ProtobufCMessage *first;
    assert_int_equal(
        rpc_stream_next(stream, &espalier__v1__generate_response__descriptor, &first, NULL),
        ESP_OK);
    uint32_t had = (uint32_t)((Espalier__V1__GenerateResponse *)(void *)first)->n_token_ids;
    protobuf_c_message_free_unpacked(first, NULL);
    kill(getpid(), SIGTERM);
    assert_int_equal(next_health(watch, &code), 2);
    assert_int_equal(next_health(watch, &code), -1);
    assert_int_equal(code, ESP_UNAVAILABLE);
    rpc_stream_close(watch);
    rpc_stream *late = generate(&r, &(ask){.max_tokens = 5});
    assert_int_equal(read_all(late, &answer, NULL), ESP_UNAVAILABLE);
    rpc_stream_close(late);
    assert_int_equal(read_all(stream, &answer, NULL), ESP_OK);
    assert_int_equal(had + answer.count, LONG);
    rpc_stream_close(stream);
    rpc_channel_close(reader);
    join(&r);
}

/* Nobody would wait for an endless stream: the second signal cancels it with a status, not with
 * silence. */
static void second_signal_cancels_what_runs(void **state) {
    (void)state;
    running r;
    whole_answer answer;
    start(&r, (serve_config){0});
    rpc_stream *streams[4];
    for (uint32_t i = 0; i < 4; i++)
        streams[i] = generate(&r, &(ask){.max_tokens = 2000, .timeout_ms = -1});
    engine_stats stats;
    do {
        usleep(1000);
        engine_read_stats(r.engine, &stats);
    } while (stats.requests_total < 4);
    kill(getpid(), SIGTERM);
    usleep(1000);
    kill(getpid(), SIGINT);
    for (uint32_t i = 0; i < 4; i++) {
        esp_code code = read_all(streams[i], &answer, NULL);
        assert_true(code == ESP_UNAVAILABLE || (code == ESP_OK && answer.count == 2000));
        rpc_stream_close(streams[i]);
    }
    join(&r);
}

/* ---- several replicas ---- */

enum { REPLICAS = 2 };

/* ref, whose devices fail one after the other when they are told to. */
static kern_ops fragile;
static kern_device *_Atomic devices[REPLICAS];
static _Atomic uint32_t opened, failing, synced[REPLICAS];
static _Atomic bool held;

static esp_code fragile_open(kern_device **out, const kern_options *options, esp_error *err) {
    esp_code code = kern_ref.open(out, options, err);
    if (code == ESP_OK) atomic_store(&devices[atomic_fetch_add(&opened, 1)], *out);
    return code;
}

/* After so many turns a device waits while it is held: what was begun does not end before a fault is arranged. */
static void wait_while_held(kern_device *dev) {
    enum { TURNS = 20 };
    for (uint32_t i = 0; i < REPLICAS; i++)
        while (atomic_load(&devices[i]) == dev && atomic_load(&held) &&
               atomic_load(&synced[i]) >= TURNS)
            usleep(100);
    for (uint32_t i = 0; i < REPLICAS; i++)
        if (atomic_load(&devices[i]) == dev) atomic_fetch_add(&synced[i], 1);
}

static esp_code fragile_sync(kern_device *dev, esp_error *err) {
    wait_while_held(dev);
    for (uint32_t i = 0; i < atomic_load(&failing); i++)
        if (atomic_load(&devices[i]) == dev)
            return esp_fail(err, ESP_INTERNAL, "device %u fell off the bus", i);
    return kern_ref.sync(dev, err);
}

static void start_fragile(running *r) {
    serve_config config = {.replicas = REPLICAS};
    fragile = kern_ref;
    fragile.open = fragile_open;
    fragile.sync = fragile_sync;
    atomic_store(&opened, 0);
    atomic_store(&failing, 0);
    config.model.device = DEVICE_REF;
    config.model.ops = &fragile;
    atomic_store(&held, false);
    start(r, config);
    for (uint32_t i = 0; i < REPLICAS; i++)
        atomic_store(&synced[i], 0);
    atomic_store(&held, true);
}

static int health_of(running *r, const char *service) {
    Grpc__Health__V1__HealthCheckRequest about = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    ProtobufCMessage *got = NULL;
    about.service = (char *)(uintptr_t)service;
    assert_int_equal(rpc_unary(r->channel, "/grpc.health.v1.Health/Check", &about.base,
                               &grpc__health__v1__health_check_response__descriptor, HANG_LIMIT_MS,
                               &got, NULL),
                     ESP_OK);
    int status = ((Grpc__Health__V1__HealthCheckResponse *)(void *)got)->status;
    protobuf_c_message_free_unpacked(got, NULL);
    return status;
}

static void wait_health(running *r, const char *service, int wanted) {
    int64_t until_us = clock_now_us() + HANG_LIMIT_MS * 1000;
    while (health_of(r, service) != wanted) {
        assert_true(clock_now_us() < until_us);
        usleep(20000);
    }
}

static esp_code answer_one(running *r, uint32_t max_tokens, esp_error *err) {
    whole_answer answer;
    rpc_stream *stream = generate(r, &(ask){.max_tokens = max_tokens});
    esp_code code = read_all(stream, &answer, err);
    rpc_stream_close(stream);
    return code;
}

/* The first of two loses its device: its stream is told so, health says that a replica is missing, and all requests
 * after that are the other one's. With that one the server ends. */
static void a_server_lives_as_long_as_one_replica_does(void **state) {
    (void)state;
    running r;
    esp_error error = {0};
    whole_answer answer;
    start_fragile(&r);
    assert_int_equal(health_of(&r, "espalier.v1.Inference/replicas"), 1);
    rpc_stream *streams[REPLICAS];
    for (uint32_t i = 0; i < REPLICAS; i++)
        streams[i] = generate(&r, &(ask){.max_tokens = 1500});
    engine_stats stats;
    do
        engine_read_stats(r.engine, &stats);
    while (!stats.output_tokens_total);
    atomic_store(&failing, 1);
    atomic_store(&held, false);
    uint32_t fell = 0;
    for (uint32_t i = 0; i < REPLICAS; i++) {
        if (read_all(streams[i], &answer, &error) == ESP_OK) continue;
        assert_int_equal(error.code, ESP_UNAVAILABLE);
        assert_non_null(strstr(error.message, "device 0 fell"));
        fell++;
    }
    assert_int_equal(fell, 1);
    for (uint32_t i = 0; i < REPLICAS; i++)
        rpc_stream_close(streams[i]);
    wait_health(&r, "espalier.v1.Inference/replicas", 2);
    assert_int_equal(health_of(&r, ""), 1);
    for (uint32_t i = 0; i < 4; i++)
        if (answer_one(&r, 20, &error) != ESP_OK) fail_msg("%s", error.message);
    atomic_store(&failing, REPLICAS);
    assert_int_equal(answer_one(&r, 20, &error), ESP_UNAVAILABLE);
    pthread_join(r.thread, NULL);
    assert_int_equal(r.code, ESP_UNAVAILABLE);
    assert_non_null(strstr(r.error.message, "all 2 replicas have failed"));
    rpc_channel_close(r.channel);
    replicas_close(r.replicas);
}

static void a_drain_waits_for_all_replicas(void **state) {
    (void)state;
    enum { STREAMS = 6 };
    running r;
    rpc_stream *streams[STREAMS];
    whole_answer answer;
    start(&r, (serve_config){.replicas = REPLICAS});
    for (uint32_t i = 0; i < STREAMS; i++)
        streams[i] = generate(&r, &(ask){.max_tokens = 300, .timeout_ms = -1});
    engine_stats stats;
    do
        replicas_read_stats(r.replicas, &stats);
    while (stats.requests_total < STREAMS);
    for (uint32_t i = 0; i < REPLICAS; i++) {
        engine_read_stats(replicas_engine(r.replicas, i), &stats);
        assert_true(stats.requests_total > 0);
    }
    kill(getpid(), SIGTERM);
    for (uint32_t i = 0; i < STREAMS; i++) {
        assert_int_equal(read_all(streams[i], &answer, NULL), ESP_OK);
        assert_int_equal(answer.count, 300);
        rpc_stream_close(streams[i]);
    }
    join(&r);
}

static void open_address_without_tls_is_refused(void **state) {
    (void)state;
    esp_error error = {0};
    replicas *all;
    serve_config config = {.grpc = "0.0.0.0:0", .http = "off"};
    config.model.model_path = model_path;
    config.model.threads = 1;
    assert_int_equal(replicas_open(&all, &config.model, 1, NULL, NULL, &error), ESP_OK);
    assert_int_equal(serve_run(all, &config, &error), ESP_OUT_OF_RANGE);
    assert_string_equal(error.field, "--grpc");
    assert_non_null(strstr(error.message, "--insecure"));
    replicas_close(all);
}

int main(void) {
    serve_block_signals();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answer_streams_and_ends_with_what_replay_needs),
        cmocka_unit_test(who_has_an_answer_finds_its_place_free),
        cmocka_unit_test(streams_that_break_off_leave_nothing),
        cmocka_unit_test(slow_reader_is_cut_and_its_request_ends),
        cmocka_unit_test(bad_requests_are_refused_by_field),
        cmocka_unit_test(drain_finishes_streams_and_refuses_new_ones),
        cmocka_unit_test(second_signal_cancels_what_runs),
        cmocka_unit_test(a_server_lives_as_long_as_one_replica_does),
        cmocka_unit_test(a_drain_waits_for_all_replicas),
        cmocka_unit_test(open_address_without_tls_is_refused),
    };
    return cmocka_run_group_tests(tests, make_model, drop_model);
}
