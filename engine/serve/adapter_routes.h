/* adapter_routes.h - the two HTTP routes by which existing tools load and unload adapters.
 *
 *   POST /v1/load_lora_adapter    {"lora_name": N, "lora_path": REFERENCE, "load_inplace": false}
 *   POST /v1/unload_lora_adapter  {"lora_name": N}
 *
 * lora_path is a reference into the store ("name", "name@3", "name@sha256:..."), never a path. Under a
 * lora_name other than the reference's it is served until this process ends or it is unloaded; the store
 * does not get that name. A lora_name that is served already is refused unless load_inplace is true. An
 * unload lets running requests end. Other fields are ignored.
 *
 * 200 and a line of text; else {"error": {"message", "type", "param", "code"}} with the code as status: 400;
 * 404 not found; 503 no room, or no store; 500.
 *
 * Thread   any; loads block. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ADAPTER_ROUTES_H
#define ESPALIER_ADAPTER_ROUTES_H

#include "engine/adapters/adapter_group.h"
#include "engine/adapters/store.h"
#include "engine/serve/http.h"

/* store may be NULL. */
typedef struct adapter_routes {
    adapter_group *adapters;
    adapter_store *store;
} adapter_routes;

/* What a body asks for: texts that may be names and references. */
typedef struct adapter_ask {
    bool unloads, in_place;
    char name[STORE_NAME_MAX + 1];
    char reference[STORE_REFERENCE_MAX + 1]; /* "" of an unload */
} adapter_ask;
ESP_CHECKED esp_code adapter_ask_read(adapter_ask *out, const char *path, const char *text,
                                      size_t bytes, esp_error *err);

bool adapter_routes_have(const char *path);
void adapter_routes_post(const adapter_routes *r, const http_post *in, http_answer *out);

#endif
