/* serve_parts.h - what the files of the front share; not for outsiders. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_SERVE_PARTS_H
#define ESPALIER_SERVE_PARTS_H

#include <stdatomic.h>

#include "engine/config.h"
#include "engine/engine.h"
#include "engine/record/recorder.h"
#include "engine/replicas.h"
#include "engine/serve/adapter_metrics.h"
#include "engine/serve/adapter_routes.h"
#include "engine/serve/auth.h"
#include "engine/serve/control.h"
#include "engine/serve/generation.h"
#include "engine/serve/health.h"
#include "engine/serve/http.h"
#include "engine/serve/reflection.h"
#include "proto/rpc.h"

/* One running server. Handlers get it as their arg. */
typedef struct serve {
    replicas *replicas;
    engine *engine; /* the first of them, which stands for all */
    const serve_config *config;
    auth *auth;
    health *health;
    reflection *reflection;
    generations *generations;
    rpc_server *rpc;
    http *http;         /* NULL with --http off */
    recorder *recorder; /* NULL without --record */
    adapter_metrics *adapter_metrics;
    /* All NULL without --control; control_auth also without --http-adapters. */
    auth *control_auth;
    control *control;
    reflection *control_reflection;
    rpc_server *control_rpc;
    adapter_routes routes;
} serve;

/* methods.c: every method there is, and who may call it; control_methods on the listener of --control. */
extern const rpc_method serve_methods[], control_methods[];
extern const uint32_t serve_method_count, control_method_count;

/* control_listener.c: opened, not started; nothing where no adapters are managed. */
ESP_CHECKED esp_code control_listener_open(serve *s, esp_error *err);
void control_listener_close(serve *s); /* also half-open */
/* The routes of --http-adapters, added to what the HTTP listener is asked for. */
void control_listener_add_routes(serve *s, http_source *source);

/* inference.c */
void inference_generate(void *arg, rpc_call *call, const ProtobufCMessage *message);
void inference_embed(void *arg, rpc_call *call, const ProtobufCMessage *message);
void inference_classify(void *arg, rpc_call *call, const ProtobufCMessage *message);
void inference_tokenize(void *arg, rpc_call *call, const ProtobufCMessage *message);
void inference_detokenize(void *arg, rpc_call *call, const ProtobufCMessage *message);
/* list_models.c */
void inference_list_models(void *arg, rpc_call *call, const ProtobufCMessage *message);

#endif
