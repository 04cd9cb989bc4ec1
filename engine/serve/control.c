/* control.c - espalier.v1.Control: the handlers. LoadAdapter is in control_load.c. */
// SPDX-License-Identifier: Apache-2.0
#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/serve/control_parts.h"

esp_code control_open(control **out, adapter_group *from, adapter_store *store, esp_error *err) {
    control *c = mem_new(1, sizeof *c);
    *out = c;
    c->adapters = from;
    c->store = store;
    return unload_waits_open(&c->waits, from, err);
}

void control_close(control *c) {
    if (!c) return;
    unload_waits_close(c->waits);
    free(c);
}

/* ---- adapters as messages ---- */

static_assert((int)ESPALIER__V1__ADAPTER_STATE__ADAPTER_STATE_BROKEN == ADAPTER_BROKEN + 1,
              "states in one order");
static_assert((int)ESPALIER__V1__ADAPTER_TIER__ADAPTER_TIER_DEVICE == ADAPTER_DEVICE + 1,
              "tiers in one order");

/* Monotonic microseconds, of the past, to microseconds since 1970. */
static uint64_t unix_us(int64_t past_us) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t now_us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    return past_us ? (uint64_t)(now_us - (clock_now_us() - past_us)) : 0;
}

static char *text(const char *constant) { return (char *)(uintptr_t)constant; }

void control_describe(Espalier__V1__Adapter *out, const adapter_info *info) {
    espalier__v1__adapter__init(out);
    out->name = text(info->name);
    out->version = info->version;
    out->digest = text(info->digest);
    out->state = (Espalier__V1__AdapterState)(info->state + 1);
    out->tier = (Espalier__V1__AdapterTier)(info->tier + 1);
    out->current = info->current;
    out->pinned = info->pinned;
    out->rank = info->rank;
    out->bytes = info->bytes;
    out->users = info->users;
    out->last_use_unix_us = unix_us(info->last_use_us);
    out->requests = info->requests;
    out->loads = info->loads;
    out->evictions = info->evictions;
    out->error = text(info->error.message);
}

/* Not adapters_find: nobody asks for the adapter here. */
bool control_find(control *c, const char *reference, adapter_info *out) {
    adapter_info *infos;
    size_t count, i = 0;
    bool bare = !strchr(reference, '@');
    group_list(c->adapters, &infos, &count);
    while (i < count && !(adapter_is_named(&infos[i], reference) && (infos[i].current || !bare)))
        i++;
    if (i < count) *out = infos[i];
    free(infos);
    return i < count;
}

/* ---- unload ---- */

void control_unload(control *c, rpc_call *call, const ProtobufCMessage *message) {
    static const Espalier__V1__UnloadAdapterResponse answer =
        ESPALIER__V1__UNLOAD_ADAPTER_RESPONSE__INIT;
    const Espalier__V1__UnloadAdapterRequest *in = (const void *)message;
    esp_error error = {0};
    bool end = in->users == ESPALIER__V1__USERS__USERS_END;
    esp_code code = ESP_OK;
    if ((unsigned)in->users > ESPALIER__V1__USERS__USERS_END)
        code = esp_fail_field(&error, ESP_INVALID, "users",
                              "users: %d is neither USERS_WAIT nor USERS_END", in->users);
    if (code == ESP_OK)
        code = group_unload(c->adapters, in->adapter, end ? ADAPTER_END : ADAPTER_WAIT, &error);
    if (code != ESP_OK) {
        rpc_finish(call, NULL, &error);
        return;
    }
    log_event(LOG_INFO, "adapter_unloaded", "adapter=\"%s\" users=%s", in->adapter,
              end ? "ended" : "waited_for");
    unload_wait(c->waits, call, in->adapter, &answer.base);
}

/* ---- list ---- */

/* "name@version.given": the last one, and how many of its name and number were given: more than one where some were
 * unloaded and still serve. */
typedef struct page_token {
    char name[STORE_NAME_MAX + 1];
    uint32_t version, given;
} page_token;

enum { PAGE_TOKEN_BYTES = STORE_NAME_MAX + 24 };

/* Reads digits up to `until`; strtoul would take a sign and spaces too. */
static bool read_number(const char **at, char until, uint32_t *out) {
    char *end = NULL;
    unsigned long value = isdigit((unsigned char)**at) ? strtoul(*at, &end, 10) : 0;
    if (!value || value > UINT32_MAX || *end != until) return false;
    *out = (uint32_t)value;
    *at = end + 1;
    return true;
}

static esp_code read_token(page_token *out, const char *token, esp_error *err) {
    const char *at = strrchr(token, '@');
    size_t bytes = at ? (size_t)(at - token) : 0;
    *out = (page_token){0};
    if (!*token) return ESP_OK;
    if (at) at++;
    if (bytes == 0 || bytes > STORE_NAME_MAX || !read_number(&at, '.', &out->version) ||
        !read_number(&at, '\0', &out->given))
        return esp_fail_field(err, ESP_INVALID, "page_token",
                              "page_token: it is none that ListAdapters gave");
    memcpy(out->name, token, bytes);
    return ESP_OK;
}

/* seen: how many of its name and number are before it in the list. */
static bool is_behind(const adapter_info *info, uint32_t seen, const page_token *token) {
    int order = strcmp(info->name, token->name);
    if (order || info->version != token->version)
        return order > 0 || (order == 0 && info->version > token->version);
    return seen >= token->given;
}

static uint32_t seen_before(const adapter_info *infos, size_t i) {
    uint32_t seen = 0;
    while (seen < i && !strcmp(infos[i - seen - 1].name, infos[i].name) &&
           infos[i - seen - 1].version == infos[i].version)
        seen++;
    return seen;
}

static void send_page(rpc_call *call, const Espalier__V1__ListAdaptersRequest *in,
                      const page_token *after, const adapter_info *infos, size_t count) {
    Espalier__V1__ListAdaptersResponse answer = ESPALIER__V1__LIST_ADAPTERS_RESPONSE__INIT;
    char token[PAGE_TOKEN_BYTES];
    uint32_t room = in->page_size ? in->page_size : CONTROL_PAGE_DEFAULT;
    Espalier__V1__Adapter *at = mem_new(room, sizeof *at);
    answer.adapters = mem_new(room, sizeof *answer.adapters);
    for (size_t i = 0; i < count; i++) {
        uint32_t seen = seen_before(infos, i);
        if ((*in->name && strcmp(infos[i].name, in->name) != 0) ||
            !is_behind(&infos[i], seen, after))
            continue;
        if (answer.n_adapters == room) {
            answer.next_page_token = token;
            break;
        }
        snprintf(token, sizeof token, "%s@%u.%u", infos[i].name, infos[i].version, seen + 1);
        control_describe(&at[answer.n_adapters], &infos[i]);
        answer.adapters[answer.n_adapters] = &at[answer.n_adapters];
        answer.n_adapters++;
    }
    rpc_finish(call, &answer.base, NULL);
    free(answer.adapters);
    free(at);
}

void control_list(control *c, rpc_call *call, const ProtobufCMessage *message) {
    const Espalier__V1__ListAdaptersRequest *in = (const void *)message;
    esp_error error = {0};
    page_token after;
    esp_code code = read_token(&after, in->page_token, &error);
    if (code == ESP_OK && in->page_size > CONTROL_PAGE_MAX)
        code = esp_fail_field(&error, ESP_INVALID, "page_size", "page_size: %u is over %d",
                              in->page_size, CONTROL_PAGE_MAX);
    if (code != ESP_OK) {
        rpc_finish(call, NULL, &error);
        return;
    }
    adapter_info *infos;
    size_t count;
    group_list(c->adapters, &infos, &count);
    send_page(call, in, &after, infos, count);
    free(infos);
}

/* ---- alias and pin ---- */

/* slot is the field of answer that holds the adapter. */
static void answer_adapter(control *c, rpc_call *call, const char *reference,
                           Espalier__V1__Adapter **slot, const ProtobufCMessage *answer) {
    Espalier__V1__Adapter one;
    adapter_info info;
    if (control_find(c, reference, &info)) {
        control_describe(&one, &info);
        *slot = &one;
    }
    rpc_finish(call, answer, NULL);
}

void control_set_alias(control *c, rpc_call *call, const ProtobufCMessage *message) {
    const Espalier__V1__SetAliasRequest *in = (const void *)message;
    Espalier__V1__SetAliasResponse answer = ESPALIER__V1__SET_ALIAS_RESPONSE__INIT;
    esp_error error = {0};
    if (group_set_alias(c->adapters, in->name, in->version, &error) != ESP_OK) {
        rpc_finish(call, NULL, &error);
        return;
    }
    log_event(LOG_INFO, "adapter_alias", "adapter=\"%s\" version=%u", in->name, in->version);
    answer_adapter(c, call, in->name, &answer.adapter, &answer.base);
}

void control_pin(control *c, rpc_call *call, const ProtobufCMessage *message) {
    const Espalier__V1__PinRequest *in = (const void *)message;
    Espalier__V1__PinResponse answer = ESPALIER__V1__PIN_RESPONSE__INIT;
    esp_error error = {0};
    if (group_pin(c->adapters, in->adapter, in->pinned, &error) != ESP_OK) {
        rpc_finish(call, NULL, &error);
        return;
    }
    log_event(LOG_INFO, "adapter_pin", "adapter=\"%s\" pinned=%d", in->adapter, in->pinned);
    answer_adapter(c, call, in->adapter, &answer.adapter, &answer.base);
}
