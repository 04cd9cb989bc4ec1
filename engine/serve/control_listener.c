/* control_listener.c - the listener of --control, and the routes of --http-adapters: who may manage adapters,
 * apart from who may use them. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/serve_parts.h"

enum {
    CALLS_MAX = 256,
    WORKERS = 4,      /* the first takes no loads */
    CHUNK_MS = 30000, /* an upload that sends nothing for so long is cut */
};

static bool authorise(void *arg, const char *header, size_t bytes) {
    return auth_allows(((serve *)arg)->control_auth, header, bytes);
}

/* ---- routes ---- */

static bool posts_to(void *arg, const char *path) {
    (void)arg;
    return adapter_routes_have(path);
}

static void post(void *arg, const http_post *in, http_answer *out) {
    adapter_routes_post(&((serve *)arg)->routes, in, out);
}

void control_listener_add_routes(serve *s, http_source *source) {
    if (!s->config->http_adapters) return;
    s->routes = (adapter_routes){.adapters = replicas_adapters(s->replicas),
                                 .store = engine_adapter_store(s->engine)};
    source->posts_to = posts_to;
    source->authorise = authorise;
    source->post = post;
}

/* ---- listener ---- */

static esp_code open_rpc(serve *s, esp_error *err) {
    const serve_config *c = s->config;
    rpc_options options = {
        .address = c->control,
        .flag = "--control",
        .tls = {.cert_file = c->tls_cert, .key_file = c->tls_key, .ca_file = c->client_ca},
        .methods = control_methods,
        .method_count = control_method_count,
        .arg = s,
        .authorise = authorise,
        .calls_max = CALLS_MAX,
        .message_bytes_max = LIMIT_REQUEST_BYTES_MAX,
        .message_ms = CHUNK_MS,
        .workers = WORKERS};
    return rpc_server_open(&s->control_rpc, &options, err);
}

esp_code control_listener_open(serve *s, esp_error *err) {
    const serve_config *c = s->config;
    if (!c->control && !c->http_adapters) return ESP_OK;
    esp_code code = auth_open(&s->control_auth, c->control_token_file, "--control-token-file", err);
    if (code != ESP_OK || !c->control) return code;
    s->control_reflection = reflection_open("espalier/v1/inference.proto");
    code = control_open(&s->control, replicas_adapters(s->replicas),
                        engine_adapter_store(s->engine), err);
    return code == ESP_OK ? open_rpc(s, err) : code;
}

void control_listener_close(serve *s) {
    rpc_server_close(s->control_rpc);
    control_close(s->control);
    reflection_close(s->control_reflection);
    auth_close(s->control_auth);
}
