/* methods.c - the policy tables: every method, who may call it, and where it runs.
 *
 * A method without a row does not exist on that listener; a row without an access is for nobody. With no token file
 * the methods that want a token are open (auth.h); each listener has a file of its own. Health is for
 * anyone, because probes carry no secrets. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/serve_parts.h"
#include "espalier/v1/control.pb-c.h"
#include "espalier/v1/inference.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"

static void on_check(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    health_check(((serve *)arg)->health, call, message);
}

static void on_watch(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    health_watch(((serve *)arg)->health, call, message);
}

static void on_reflection(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    reflection_answer(((serve *)arg)->reflection, call, message);
}

#define CONTROL_HANDLER(name)                                                                      \
    static void on_##name(void *arg, rpc_call *call, const ProtobufCMessage *message) {            \
        control_##name(((serve *)arg)->control, call, message);                                    \
    }
CONTROL_HANDLER(load)
CONTROL_HANDLER(unload)
CONTROL_HANDLER(list)
CONTROL_HANDLER(set_alias)
CONTROL_HANDLER(pin)

static void on_control_reflection(void *arg, rpc_call *call, const ProtobufCMessage *message) {
    reflection_answer(((serve *)arg)->control_reflection, call, message);
}

enum { HEALTH_CALLS_MAX = 256, HEALTH_REQUEST_BYTES_MAX = 4096 };

/* What both listeners have: health, and reflection over their own services; v1alpha is the same messages
 * under the older name. */
#define SHARED_METHODS(reflect)                                                                    \
    {.path = "/grpc.health.v1.Health/Check",                                                       \
     .access = RPC_ACCESS_ANYONE,                                                                  \
     .request = &grpc__health__v1__health_check_request__descriptor,                               \
     .on_request = on_check,                                                                       \
     .vital = true,                                                                                \
     .calls_max = HEALTH_CALLS_MAX,                                                                \
     .request_bytes_max = HEALTH_REQUEST_BYTES_MAX},                                               \
        REFLECTION("v1", reflect), REFLECTION("v1alpha", reflect)
#define REFLECTION(release, reflect)                                                               \
    {                                                                                              \
        .path = "/grpc.reflection." release ".ServerReflection/ServerReflectionInfo",              \
        .access = RPC_ACCESS_TOKEN,                                                                \
        .request = &grpc__reflection__v1__server_reflection_request__descriptor,                   \
        .on_request = reflect, .many_requests = true                                               \
    }

const rpc_method serve_methods[] = {
    {.path = "/espalier.v1.Inference/Generate",
     .access = RPC_ACCESS_TOKEN,
     .request = &espalier__v1__generate_request__descriptor,
     .on_request = inference_generate,
     .on_worker = true},
    {.path = "/espalier.v1.Inference/Embed",
     .access = RPC_ACCESS_TOKEN,
     .request = &espalier__v1__embed_request__descriptor,
     .on_request = inference_embed,
     .on_worker = true,
     .bulk = true},
    {.path = "/espalier.v1.Inference/Classify",
     .access = RPC_ACCESS_TOKEN,
     .request = &espalier__v1__classify_request__descriptor,
     .on_request = inference_classify,
     .on_worker = true,
     .bulk = true},
    {.path = "/espalier.v1.Inference/Tokenize",
     .access = RPC_ACCESS_TOKEN,
     .request = &espalier__v1__tokenize_request__descriptor,
     .on_request = inference_tokenize,
     .on_worker = true,
     .bulk = true},
    {.path = "/espalier.v1.Inference/Detokenize",
     .access = RPC_ACCESS_TOKEN,
     .request = &espalier__v1__detokenize_request__descriptor,
     .on_request = inference_detokenize,
     .on_worker = true,
     .bulk = true},
    {.path = "/espalier.v1.Inference/ListModels",
     .access = RPC_ACCESS_TOKEN,
     .request = &espalier__v1__list_models_request__descriptor,
     .on_request = inference_list_models,
     .on_worker = true,
     .bulk = true},
    {.path = "/grpc.health.v1.Health/Watch",
     .access = RPC_ACCESS_ANYONE,
     .request = &grpc__health__v1__health_check_request__descriptor,
     .on_request = on_watch,
     .calls_max = HEALTH_CALLS_MAX,
     .request_bytes_max = HEALTH_REQUEST_BYTES_MAX},
    SHARED_METHODS(on_reflection),
};
const uint32_t serve_method_count = sizeof serve_methods / sizeof *serve_methods;

const rpc_method control_methods[] = {
    {.path = "/espalier.v1.Control/LoadAdapter",
     .access = RPC_ACCESS_TOKEN,
     .request = &espalier__v1__load_adapter_request__descriptor,
     .on_request = on_load,
     .on_worker = true,
     .bulk = true,
     .uploads = true},
    {.path = "/espalier.v1.Control/UnloadAdapter",
     .access = RPC_ACCESS_TOKEN,
     .request = &espalier__v1__unload_adapter_request__descriptor,
     .on_request = on_unload,
     .on_worker = true},
    {.path = "/espalier.v1.Control/ListAdapters",
     .access = RPC_ACCESS_TOKEN,
     .request = &espalier__v1__list_adapters_request__descriptor,
     .on_request = on_list,
     .on_worker = true},
    {.path = "/espalier.v1.Control/SetAlias",
     .access = RPC_ACCESS_TOKEN,
     .request = &espalier__v1__set_alias_request__descriptor,
     .on_request = on_set_alias,
     .on_worker = true},
    {.path = "/espalier.v1.Control/Pin",
     .access = RPC_ACCESS_TOKEN,
     .request = &espalier__v1__pin_request__descriptor,
     .on_request = on_pin,
     .on_worker = true},
    SHARED_METHODS(on_control_reflection),
};
const uint32_t control_method_count = sizeof control_methods / sizeof *control_methods;
