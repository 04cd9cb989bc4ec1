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

/* A text of the body that fits and holds no NUL. */
static esp_code read_text(const json_t *body, const char *key, char *out, size_t room,
                          esp_error *err) {
    const json_t *value = json_object_get(body, key);
    const char *text = json_string_value(value);
    size_t bytes = json_string_length(value);
    if (!text || !bytes) return esp_fail_field(err, ESP_INVALID, key, "%s is wanted, as text", key);
    if (bytes >= room || strlen(text) != bytes)
        return esp_fail_field(err, ESP_INVALID, key, "%s has %zu bytes, or U+0000; at most %zu fit",
                              key, bytes, room - 1);
    memcpy(out, text, bytes + 1);
    return ESP_OK;
}

static esp_code read_body(adapter_ask *out, const json_t *body, esp_error *err) {
    if (!json_is_object(body))
        return esp_fail(err, ESP_INVALID, "the body is no JSON%s", body ? " object" : "");
    esp_code code = read_text(body, "lora_name", out->name, sizeof out->name, err);
    if (code == ESP_OK) code = store_check_name(out->name, strlen(out->name), err);
    if (code != ESP_OK || out->unloads) return code;
    out->in_place = json_is_true(json_object_get(body, "load_inplace"));
    return read_text(body, "lora_path", out->reference, sizeof out->reference, err);
}

esp_code adapter_ask_read(adapter_ask *out, const char *path, const char *text, size_t bytes,
                          esp_error *err) {
    json_error_t why;
    json_t *body = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
    *out = (adapter_ask){.unloads = !strcmp(path, unload_path)};
    esp_code code = read_body(out, body, err);
    json_decref(body);
    return code;
}

/* ---- doing it ---- */

static bool is_served(adapter_group *all, const char *name) {
    adapter_info *infos;
    size_t count, i = 0;
    group_list(all, &infos, &count);
    while (i < count && !(infos[i].state == ADAPTER_READY && infos[i].current &&
                          adapter_is_named(&infos[i], name)))
        i++;
    free(infos);
    return i < count;
}

static esp_code check_load(const adapter_routes *r, const adapter_ask *ask, esp_error *err) {
    if (!ask->in_place && is_served(r->adapters, ask->name))
        return esp_fail_field(err, ESP_EXISTS, "lora_name",
                              "the adapter '%s' is loaded already; load_inplace: true replaces it",
                              ask->name);
    return r->store ? ESP_OK
                    : esp_fail(err, ESP_PRECONDITION,
                               "this server has no store; start it with --adapter-store DIR");
}

static esp_code load(const adapter_routes *r, const adapter_ask *ask, esp_error *err) {
    esp_code code = check_load(r, ask, err);
    return code == ESP_OK ? group_load_stored_as(r->adapters, ask->name, ask->reference, NULL, err)
                          : code;
}

void adapter_routes_post(const adapter_routes *r, const http_post *in, http_answer *out) {
    adapter_ask ask;
    esp_error error = {0};
    esp_code code = adapter_ask_read(&ask, in->path, in->body, in->bytes, &error);
    if (code == ESP_OK)
        code = ask.unloads ? group_unload(r->adapters, ask.name, ADAPTER_WAIT, &error)
                           : load(r, &ask, &error);
    if (code != ESP_OK) {
        say_failed(out, &error);
        return;
    }
    log_event(LOG_INFO, ask.unloads ? "adapter_unloaded" : "adapter_loaded",
              "adapter=\"%s\" reference=\"%s\" by=http", ask.name, ask.reference);
    say_done(out, ask.name, ask.unloads ? "removed" : "added");
}
