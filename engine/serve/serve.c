/* serve.c - up, until a signal, and down again.
 *
 *   up     addresses, tokens, listeners, engine thread, then the calls
 *   serve  the main thread sleeps until a signal, and looks four times a second whether steps still end
 *   drain  health NOT_SERVING; new requests refused; running streams finish
 *   down   at the end of the grace time, or at a second signal, what still runs is cancelled */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/serve.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/serve/address.h"
#include "engine/serve/metrics.h"
#include "engine/serve/serve_parts.h"

enum {
    LOOK_US = 250000,        /* between looks at the engine */
    STEP_STUCK_SECONDS = 10, /* a step that takes longer means that the engine is stuck */
    LAME_DUCK_US = 100000,   /* health says NOT_SERVING before the listener closes */
    CANCEL_US = 500000,      /* for cancelled streams to say so */
    FILES_WANTED = 65536,
    CALLS_SPARE = 512, /* live calls beyond what the engine holds: Tokenize, health, refusals */
};

/* ---- signals ---- */

static void stop_signals(sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
}

void serve_block_signals(void) {
    sigset_t set;
    stop_signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* The signal that came within timeout_us, or 0. */
static int wait_signal(int64_t timeout_us) {
    sigset_t set;
    stop_signals(&set);
    struct timespec timeout = {.tv_sec = timeout_us / 1000000,
                               .tv_nsec = timeout_us % 1000000 * 1000};
    int got = sigtimedwait(&set, NULL, &timeout);
    return got > 0 ? got : 0;
}

/* ---- checks before anything is opened ---- */

static esp_code check_exposure(const address *at, const char *flag_name, bool secure,
                               bool insecure_allowed, const char *remedy, esp_error *err) {
    if (at->loopback || secure || insecure_allowed) return ESP_OK;
    return esp_fail_field(err, ESP_OUT_OF_RANGE, flag_name,
                          "%s: %.200s can be reached from other hosts without encryption; %s, or "
                          "allow it with --insecure",
                          flag_name, at->host, remedy);
}

static void warn_insecure(const char *flag_name, const char *text, bool secure) {
    address at;
    if (secure || address_read(&at, text, flag_name, NULL) != ESP_OK || at.loopback) return;
    log_event(LOG_WARN, "insecure_listener",
              "flag=%s host=\"%s\" reason=\"prompts, answers and tokens travel unencrypted\"",
              flag_name, at.host);
}

static bool has_http(const serve_config *c) { return c->http && strcmp(c->http, "off") != 0; }

static esp_code check_control(const serve_config *c, esp_error *err) {
    address at;
    esp_code code = address_read(&at, c->control, "--control", err);
    if (code == ESP_OK)
        code = check_exposure(&at, "--control", c->tls_cert != NULL, c->insecure,
                              "give --tls-cert and --tls-key", err);
    return code == ESP_OK ? address_probe(&at, "--control", err) : code;
}

esp_code serve_check(const serve_config *c, esp_error *err) {
    address at;
    esp_code code = address_read(&at, c->grpc, "--grpc", err);
    if (code == ESP_OK)
        code = check_exposure(&at, "--grpc", c->tls_cert != NULL, c->insecure,
                              "give --tls-cert and --tls-key", err);
    if (code == ESP_OK) code = address_probe(&at, "--grpc", err);
    if (code == ESP_OK && c->control) code = check_control(c, err);
    if (code != ESP_OK || !has_http(c)) return code;
    code = address_read(&at, c->http, "--http", err);
    if (code == ESP_OK)
        code =
            check_exposure(&at, "--http", false, c->insecure, "use 127.0.0.1 or --http off", err);
    return code;
}

/* At the end of its file descriptors the core's listener dies for good, so there had better be
 * many. */
static void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) return;
    rlim_t wanted = limit.rlim_max < FILES_WANTED ? limit.rlim_max : FILES_WANTED;
    if (limit.rlim_cur >= wanted) return;
    limit.rlim_cur = wanted;
    if (setrlimit(RLIMIT_NOFILE, &limit))
        log_event(LOG_WARN, "file_limit", "reason=\"cannot raise the limit of open files\"");
}

/* ---- what the HTTP listener asks ---- */

static bool is_stuck(const engine *e) {
    engine_stats stats;
    engine_read_stats(e, &stats);
    return metrics_step_age(&stats, clock_now_us()) > STEP_STUCK_SECONDS;
}

/* Some replica makes progress. */
static bool is_alive(void *arg) {
    const serve *s = arg;
    bool alive = false;
    for (uint32_t i = 0; i < replicas_count(s->replicas) && !alive; i++) {
        const engine *e = replicas_engine(s->replicas, i);
        alive = !engine_broken(e) && !is_stuck(e);
    }
    return alive;
}

static bool is_ready(void *arg) { return health_serving(((serve *)arg)->health); }

static metrics_replica *read_replicas(const serve *s) {
    uint32_t count = replicas_count(s->replicas);
    metrics_replica *out = mem_new(count, sizeof *out);
    for (uint32_t i = 0; i < count; i++) {
        engine_read_stats(replicas_engine(s->replicas, i), &out[i].stats);
        out[i].up = replicas_is_up(s->replicas, i);
    }
    return out;
}

/* Of one reading: sums and parts of a page are the same numbers. */
static engine_stats sum_of(const metrics_replica *each, uint32_t count) {
    engine_stats sum = each[0].stats;
    for (uint32_t i = 1; i < count; i++)
        replicas_add_stats(&sum, &each[i].stats);
    return sum;
}

static char *write_metrics(void *arg, size_t *bytes) {
    const serve *s = arg;
    metrics_replica *each = read_replicas(s);
    engine_stats stats = sum_of(each, replicas_count(s->replicas));
    metrics_input in = {.stats = &stats,
                        .replicas = each,
                        .replica_count = replicas_count(s->replicas),
                        .now_us = clock_now_us(),
                        .calls = rpc_server_calls(s->rpc),
                        .serving = health_serving(s->health),
                        .model = engine_name(s->engine),
                        .profile = engine_profile(s->engine),
                        .version = ESPALIER_VERSION,
                        .adapters = replicas_adapters(s->replicas),
                        .by_adapter = s->adapter_metrics};
    record_stats records;
    if (s->recorder) {
        recorder_read_stats(s->recorder, &records);
        in.records = &records;
    }
    char *page = metrics_page(&in, bytes);
    free(each);
    return page;
}

static bool authorise(void *arg, const char *header, size_t bytes) {
    return auth_allows(((serve *)arg)->auth, header, bytes);
}

/* ---- up ---- */

static uint32_t calls_max(const serve_config *c) {
    uint32_t waiting = c->model.waiting_max ? c->model.waiting_max : LIMIT_WAITING_DEFAULT;
    uint32_t running = c->model.max_seqs ? c->model.max_seqs : 256;
    return (waiting + running) * (c->replicas ? c->replicas : 1) + CALLS_SPARE;
}

static esp_code open_rpc(serve *s, esp_error *err) {
    const serve_config *c = s->config;
    rpc_options options = {
        .address = c->grpc,
        .tls = {.cert_file = c->tls_cert, .key_file = c->tls_key, .ca_file = c->client_ca},
        .methods = serve_methods,
        .method_count = serve_method_count,
        .arg = s,
        .authorise = authorise,
        .calls_max = calls_max(c),
        .message_bytes_max = LIMIT_REQUEST_BYTES_MAX};
    return rpc_server_open(&s->rpc, &options, err);
}

static esp_code open_http(serve *s, esp_error *err) {
    http_source source = {.arg = s, .metrics = write_metrics, .alive = is_alive, .ready = is_ready};
    control_listener_add_routes(s, &source);
    return has_http(s->config) ? http_open(&s->http, s->config->http, &source, err) : ESP_OK;
}

static esp_code open_parts(serve *s, esp_error *err) {
    esp_code code = serve_check(s->config, err);
    if (code == ESP_OK) code = auth_open(&s->auth, s->config->token_file, "--token-file", err);
    if (code != ESP_OK) return code;
    generations_options streams = {.replicas = s->replicas,
                                   .unsent_bytes_max = s->config->slow_reader_bytes};
    if (!streams.unsent_bytes_max) streams.unsent_bytes_max = 256 << 10;
    if (s->config->record) code = recorder_open(&s->recorder, s->config->record, s->engine, err);
    if (code != ESP_OK) return code;
    streams.recorder = s->recorder;
    streams.metrics = s->adapter_metrics = adapter_metrics_open();
    raise_file_limit();
    s->health = health_open();
    s->reflection = reflection_open("espalier/v1/control.proto");
    code = generations_open(&s->generations, &streams, err);
    if (code == ESP_OK) code = open_rpc(s, err);
    if (code == ESP_OK) code = control_listener_open(s, err);
    if (code == ESP_OK) code = open_http(s, err);
    if (code == ESP_OK) code = replicas_start(s->replicas, err);
    if (code == ESP_OK) code = rpc_server_start(s->rpc, err);
    if (code == ESP_OK && s->control_rpc) code = rpc_server_start(s->control_rpc, err);
    return code;
}

/* Where it listens: the port is the one it has, where 0 was asked for. */
static void say_address(char out[ADDRESS_TEXT_BYTES], const char *text, const char *flag_name,
                        uint16_t port) {
    address at = {0};
    snprintf(out, ADDRESS_TEXT_BYTES, "off");
    if (address_read(&at, text, flag_name, NULL) == ESP_OK)
        snprintf(out, ADDRESS_TEXT_BYTES, strchr(at.host, ':') ? "[%s]:%u" : "%s:%u", at.host,
                 port);
}

static void log_serving(const serve *s) {
    char grpc_at[ADDRESS_TEXT_BYTES];
    char http_at[ADDRESS_TEXT_BYTES] = "off", control_at[ADDRESS_TEXT_BYTES] = "off";
    const char *why_not;
    if (!mem_huge_pages(&why_not)) log_event(LOG_INFO, "no_huge_pages", "reason=\"%s\"", why_not);
    warn_insecure("--grpc", s->config->grpc, s->config->tls_cert != NULL);
    if (s->control_rpc) warn_insecure("--control", s->config->control, s->config->tls_cert != NULL);
    if (has_http(s->config)) warn_insecure("--http", s->config->http, false);
    say_address(grpc_at, s->config->grpc, "--grpc", rpc_server_port(s->rpc));
    if (s->http) say_address(http_at, s->config->http, "--http", http_port(s->http));
    if (s->control_rpc)
        say_address(control_at, s->config->control, "--control", rpc_server_port(s->control_rpc));
    log_event(LOG_INFO, "serving",
              "grpc=%s http=%s control=%s model=\"%s\" profile=\"%s\" tls=%s auth=%s", grpc_at,
              http_at, control_at, engine_name(s->engine), engine_profile(s->engine),
              s->config->client_ca  ? "mutual"
              : s->config->tls_cert ? "server"
                                    : "off",
              s->config->token_file ? "token" : "off");
}

/* ---- serve ---- */

static void tell_change(const serve *s, uint32_t replica, bool up) {
    log_level level = up ? LOG_INFO : LOG_ERROR;
    if (replicas_count(s->replicas) == 1)
        log_event(level, up ? "engine_recovered" : "engine_stuck", "step_seconds=%d",
                  STEP_STUCK_SECONDS);
    else
        log_event(level, up ? "replica_back" : "replica_out", "replica=%u reason=%s left=%u",
                  replica,
                  up                                                     ? "progress"
                  : engine_broken(replicas_engine(s->replicas, replica)) ? "broken"
                                                                         : "stuck",
                  replicas_up(s->replicas));
}

/* up: [count] as they were found before. */
static void look_at_replicas(serve *s, bool *up) {
    uint32_t count = replicas_count(s->replicas);
    for (uint32_t i = 0; i < count; i++) {
        replicas_set_stuck(s->replicas, i, is_stuck(replicas_engine(s->replicas, i)));
        bool now = replicas_is_up(s->replicas, i);
        if (now != up[i]) tell_change(s, i, now);
        up[i] = now;
    }
    health_set(s->health, replicas_up(s->replicas) > 0);
    health_set_whole(s->health, replicas_up(s->replicas) == count);
}

/* Several that are all broken: another process can serve, this one never will. A single one stays, and says so. */
static bool none_is_left(const serve *s) {
    uint32_t count = replicas_count(s->replicas), broken = 0;
    for (uint32_t i = 0; i < count; i++)
        broken += engine_broken(replicas_engine(s->replicas, i));
    return count > 1 && broken == count;
}

/* 0: none of the replicas is left. */
static int serve_until_signal(serve *s) {
    bool up[REPLICAS_MAX];
    for (uint32_t i = 0; i < REPLICAS_MAX; i++)
        up[i] = true;
    health_set(s->health, true);
    health_set_whole(s->health, true);
    for (;;) {
        int got = wait_signal(LOOK_US);
        if (got) return got;
        look_at_replicas(s, up);
        if (none_is_left(s)) return 0;
    }
}

/* ---- down ---- */

/* True when all calls ended; false at the end of the grace time or at a second signal. */
static bool drain_calmly(serve *s, int64_t until_us) {
    while (clock_now_us() < until_us) {
        if (rpc_server_wait_drained(s->rpc, 0)) return true;
        if (wait_signal(20000)) {
            log_event(LOG_WARN, "drain_cut", "reason=\"second signal\" calls=%u",
                      rpc_server_calls(s->rpc));
            return false;
        }
    }
    return rpc_server_wait_drained(s->rpc, 0);
}

static void drain(serve *s) {
    int64_t began_us = clock_now_us();
    int64_t until_us = began_us + (int64_t)s->config->grace_seconds * 1000000;
    /* Refusing comes first: who reads NOT_SERVING and calls all the same is surely refused. */
    if (s->control_rpc) rpc_server_drain(s->control_rpc);
    generations_drain(s->generations);
    replicas_drain(s->replicas);
    health_set(s->health, false);
    health_set_whole(s->health, false);
    bool hurry = wait_signal(LAME_DUCK_US) != 0;
    health_end_watches(s->health);
    rpc_server_drain(s->rpc);
    if (hurry || !drain_calmly(s, until_us)) {
        replicas_cancel_all(s->replicas);
        (void)!rpc_server_wait_drained(s->rpc, CANCEL_US);
    }
    log_event(LOG_INFO, "drained", "seconds=%.3f cancelled_calls=%u",
              (double)(clock_now_us() - began_us) * 1e-6, rpc_server_calls(s->rpc));
}

/* Also after a start that failed half-way. Calls end first, then what their handlers use. */
static void close_parts(serve *s) {
    http_close(s->http);
    control_listener_close(s);
    rpc_server_close(s->rpc);
    generations_close(s->generations);
    (void)recorder_close(s->recorder); /* it has told the log what it lost */
    adapter_metrics_close(s->adapter_metrics);
    health_close(s->health);
    reflection_close(s->reflection);
    auth_close(s->auth);
}

static const char *why_draining(int got) {
    return got == SIGTERM ? "SIGTERM" : got == SIGINT ? "SIGINT" : "none";
}

esp_code serve_run(replicas *all, const serve_config *config, esp_error *err) {
    ESP_ASSERT(all && config && config->grpc);
    serve s = {.replicas = all, .engine = replicas_first(all), .config = config};
    esp_code code = open_parts(&s, err);
    if (code == ESP_OK) {
        log_serving(&s);
        int got = serve_until_signal(&s);
        log_event(LOG_INFO, "draining", "signal=%s calls=%u grace_seconds=%u", why_draining(got),
                  rpc_server_calls(s.rpc), config->grace_seconds);
        drain(&s);
        if (!got)
            code = esp_fail(err, ESP_UNAVAILABLE,
                            "all %u replicas have failed; the log says of each why (engine_broken)",
                            replicas_count(all));
    }
    close_parts(&s);
    return code;
}
