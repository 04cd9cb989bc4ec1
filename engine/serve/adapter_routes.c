/* adapter_routes.c - two JSON bodies to two calls, and what came of them as HTTP. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/adapter_routes.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/serve/unload_wait.h"

static const char load_path[] = "/v1/load_lora_adapter";
static const char unload_path[] = "/v1/unload_lora_adapter";

bool adapter_routes_have(const char *path) {
    return !strcmp(path, load_path) || !strcmp(path, unload_path);
}

/* ---- answers ---- */

static void say_done(http_answer *out, const char *name, const char *what) {
    int bytes = asprintf(&out->body, "Success: LoRA adapter '%s' %s successfully.", name, what);
    ESP_ASSERT(bytes > 0);
    out->status = 200;
}

/* The names that clients of these routes know. */
static const char *type_of(unsigned status) {
    if (status == 400) return "BadRequestError";
    if (status == 404) return "NotFoundError";
    return status == 503 ? "ServiceUnavailableError" : "InternalServerError";
}

static void say_error(http_answer *out, unsigned status, const char *message, const char *param) {
    json_t *error = json_pack("{s:{s:s,s:s,s:s?,s:i}}", "error", "message", message, "type",
                              type_of(status), "param", *param ? param : NULL, "code", (int)status);
    out->body = error ? json_dumps(error, JSON_COMPACT) : NULL;
    json_decref(error);
    if (!out->body) out->body = mem_copy_text("{}", 2);
    out->status = status;
    out->json = true;
}

static void say_failed(http_answer *out, const esp_error *error) {
    unsigned status = 500;
    if (error->code == ESP_INVALID || error->code == ESP_OUT_OF_RANGE || error->code == ESP_EXISTS)
        status = 400;
    if (error->code == ESP_NOT_FOUND) status = 404;
    if (error->code == ESP_EXHAUSTED || error->code == ESP_PRECONDITION ||
        error->code == ESP_UNAVAILABLE || error->code == ESP_ABORTED)
        status = 503;
    say_error(out, status, error->message, error->field);
}

/* ---- what is asked ---- */

/* A text of the body without NUL, or "". */
static const char *text_of(const json_t *body, const char *key) {
    const json_t *value = json_object_get(body, key);
    const char *text = json_string_value(value);
    return text && strlen(text) == json_string_length(value) ? text : "";
}

static bool is_served(adapters *all, const char *name) {
    adapter_info *infos;
    size_t count, i = 0;
    adapters_list(all, &infos, &count);
    while (i < count && !(infos[i].state == ADAPTER_READY && infos[i].current &&
                          adapter_is_named(&infos[i], name)))
        i++;
    free(infos);
    return i < count;
}

/* Under a name that need not be the store's; the blob stays while this process lives. */
static esp_code load_as(const adapter_routes *r, const char *name, const char *reference,
                        esp_error *err) {
    store_ref ref;
    esp_code code = store_resolve(r->store, reference, &ref, err);
    if (code != ESP_OK) return code;
    if (!strcmp(ref.name, name)) return adapters_load_stored(r->adapters, reference, NULL, err);
    code = store_hold(r->store, ref.digest, err);
    return code == ESP_OK ? adapters_load(r->adapters, name, ref.path, NULL, err) : code;
}

static void post_load(const adapter_routes *r, const json_t *body, http_answer *out) {
    const char *name = text_of(body, "lora_name"), *reference = text_of(body, "lora_path");
    esp_error error = {0};
    if (!*name || !*reference) {
        say_error(out, 400, "both lora_name and lora_path are wanted, as texts", "");
        return;
    }
    esp_code code = store_check_name(name, strlen(name), &error);
    if (code == ESP_OK && is_served(r->adapters, name) &&
        !json_is_true(json_object_get(body, "load_inplace")))
        code = esp_fail_field(&error, ESP_EXISTS, "lora_name",
                              "the adapter '%s' is loaded already; load_inplace: true replaces it",
                              name);
    if (code == ESP_OK && !r->store)
        code = esp_fail(&error, ESP_PRECONDITION,
                        "this server has no store; start it with --adapter-store DIR");
    if (code == ESP_OK) code = load_as(r, name, reference, &error);
    if (code != ESP_OK) {
        say_failed(out, &error);
        return;
    }
    log_event(LOG_INFO, "adapter_loaded", "adapter=\"%s\" reference=\"%s\" by=http", name,
              reference);
    say_done(out, name, "added");
}

static void post_unload(const adapter_routes *r, const json_t *body, http_answer *out) {
    const char *name = text_of(body, "lora_name");
    esp_error error = {0};
    if (!*name) {
        say_error(out, 400, "lora_name is wanted, as text", "");
        return;
    }
    esp_code code = store_check_name(name, strlen(name), &error);
    if (code == ESP_OK) code = adapters_unload(r->adapters, name, ADAPTER_WAIT, &error);
    if (code != ESP_OK) {
        say_failed(out, &error);
        return;
    }
    log_event(LOG_INFO, "adapter_unloaded", "adapter=\"%s\" by=http", name);
    say_done(out, name, "removed");
}

void adapter_routes_post(const adapter_routes *r, const http_post *in, http_answer *out) {
    json_error_t why;
    json_t *body = json_loadb(in->body, in->bytes, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(body))
        say_error(out, 400, body ? "the body is no JSON object" : "the body is no JSON", "");
    else if (!strcmp(in->path, load_path))
        post_load(r, body, out);
    else
        post_unload(r, body, out);
    json_decref(body);
}
