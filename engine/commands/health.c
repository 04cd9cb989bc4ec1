/* health.c - espalier health: exit 0 when the server is serving. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/commands/commands.h"
#include "engine/commands/remote.h"

enum { CHECK_TIMEOUT_MS = 2000, PAUSE_MS = 50 };

typedef struct options {
    client_options connection;
    float wait_seconds;
} options;

static const flag own_flags[] = {
    {.name = "wait",
     .kind = FLAG_F32,
     .offset = offsetof(options, wait_seconds),
     .most = 86400,
     .placeholder = "SECONDS",
     .help = "ask again until it serves, at most this long; default 0: ask once"},
};
static const flag_table own_table = {
    .title = "Patience", .flags = own_flags, .count = sizeof own_flags / sizeof *own_flags};

static const flag_command command = {
    .name = "health",
    .summary =
        "Exits with 0 when the server at HOST:PORT (default " DEFAULT_ADDRESS ") is serving.",
    .usage = "[HOST:PORT] [--wait SECONDS] [options]",
    .examples = "  espalier health --wait 30\n  espalier health node7:8470 --ca ca.pem\n",
    .positional = "HOST:PORT",
    .positional_offset = offsetof(options, connection.address),
    .part = {{&own_table, 0}, {&remote_flags, offsetof(options, connection)}},
};

#ifdef ESPALIER_SERVER
/* A fresh connection each time: one that failed waits longer and longer before it tries again. */
static esp_code ask(const options *o, int64_t timeout_ms, esp_error *err) {
    client *c = NULL;
    esp_code code = remote_open(&c, &o->connection, err);
    if (code == ESP_OK) code = client_health(c, timeout_ms, err);
    client_close(c);
    return code;
}

static esp_code health(const options *o, esp_error *err) {
    int64_t end_us = clock_now_us() + (int64_t)((double)o->wait_seconds * 1e6);
    for (;;) {
        esp_code code = ask(o, CHECK_TIMEOUT_MS, err);
        bool may_change = code == ESP_UNAVAILABLE || code == ESP_DEADLINE;
        if (!may_change || clock_now_us() >= end_us) return code;
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000}, NULL);
    }
}
#else
static esp_code health(const options *o, esp_error *err) {
    (void)o;
    return esp_fail(err, ESP_UNIMPLEMENTED,
                    "this build has no gRPC client; configure it with -DESPALIER_SERVER=ON");
}
#endif

esp_code command_health(int argc, char **argv, esp_error *err) {
    options o = {.connection = {.address = DEFAULT_ADDRESS}};
    bool go;
    esp_code code = command_options(&command, argc, argv, &o, &go, err);
    if (!go) return code;
    code = health(&o, err);
    if (code == ESP_OK) printf("SERVING\n");
    return code;
}
