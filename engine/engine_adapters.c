/* engine_adapters.c - the adapters of an engine as it opens: those of the command line, the store, and what ranks share. */
// SPDX-License-Identifier: Apache-2.0
#include <limits.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/engine_parts.h"

static void on_announce(void *arg) { ranks_send_adapter(arg); }
static void on_wake(void *arg) { signal_wake(&((engine *)arg)->inbox_signal); }
static void on_arrived(void *arg, adapter *ad) { sched_retry(((engine *)arg)->sched, ad); }
static void on_end_users(void *arg, adapter *ad, const esp_error *why) {
    engine_end_users(arg, ad, why);
}

static esp_code check_names_differ(const flag_list *all, uint32_t count, const char *name,
                                   esp_error *err) {
    char other[CONFIG_ADAPTER_NAME_BYTES];
    const char *path;
    for (uint32_t i = 0; i < count; i++)
        if (config_adapter(all->at[i], other, &path, NULL) == ESP_OK && !strcmp(other, name))
            return esp_fail_field(err, ESP_OUT_OF_RANGE, "--adapter",
                                  "--adapter: two are called \"%s\"; give one another name, as in "
                                  "--adapter NAME=DIR",
                                  name);
    return ESP_OK;
}

static esp_code load_adapters(engine *e, esp_error *err) {
    const flag_list *all = &e->config.adapters;
    esp_code code = ESP_OK;
    for (uint32_t i = 0; i < all->count && code == ESP_OK; i++) {
        char name[CONFIG_ADAPTER_NAME_BYTES];
        const char *path;
        code = config_adapter(all->at[i], name, &path, err);
        if (code == ESP_OK) code = check_names_differ(all, i, name, err);
        if (code == ESP_OK) code = adapters_load(e->adapters, name, path, NULL, err);
    }
    return code;
}

/* A server finds what `espalier adapter import` has put into the default store, if there is one; one that
 * was named is made, for uploads. */
static esp_code open_store(engine *e, esp_error *err) {
    const model_config *c = &e->config;
    char folder[PATH_MAX];
    const char *root = c->adapter_store;
    esp_error why = {0};
    if (!root && c->serves) root = config_adapter_store(folder, sizeof folder);
    if (!root) return ESP_OK;
    bool create = c->adapter_store && c->serves; /* for uploads */
    esp_code code = store_open(&e->store, &(store_options){.root = root, .create = create}, &why);
    if (code == ESP_OK || (!c->adapter_store && code == ESP_NOT_FOUND)) return ESP_OK;
    if (err) *err = why;
    return code;
}

/* What each rank holds of the adapters' updates, as of the base's matrices. */
static esp_code plan_shards(engine *e, esp_error *err) {
    if (!e->comm) return ESP_OK;
    esp_code code = ESP_OK;
    e->shards = mem_new(e->comm->size, sizeof *e->shards);
    for (uint32_t rank = 0; rank < e->comm->size && code == ESP_OK; rank++)
        code = shard_plan(&e->shards[rank], model_file_weights(e->file), rank, e->comm->size, err);
    return code;
}

esp_code engine_open_adapters(engine *e, model_file **file, esp_error *err) {
    if (!engine_takes_adapters(e)) return ESP_OK;
    e->file = *file;
    *file = NULL;
    esp_code code = open_store(e, err);
    if (code == ESP_OK) code = plan_shards(e, err);
    if (code != ESP_OK) return code;
    code = adapters_open(&e->adapters,
                         &(adapters_options){.ops = e->ops,
                                             .dev = e->dev,
                                             .device = e->opened_with,
                                             .base = model_file_weights(e->file),
                                             .tok = e->tok,
                                             .allow_other_base = e->config.allow_other_base,
                                             .sched = e->sched,
                                             .arena = e->arena,
                                             .frame_bytes = e->arena_bytes / e->page_count,
                                             .frame_count = e->page_count,
                                             .host_memory = engine_adapter_memory(e),
                                             .store = e->store,
                                             .comm = e->comm,
                                             .shards = e->shards,
                                             .announce = on_announce,
                                             .wake = on_wake,
                                             .arrived = on_arrived,
                                             .end_users = on_end_users,
                                             .arg = e},
                         err);
    if (code != ESP_OK) return code;
    sched_adapters how = adapters_for_scheduler(e->adapters);
    sched_set_adapters(e->sched, &how);
    return load_adapters(e, err);
}

void engine_open_followed(engine *e) {
    if (!engine_takes_adapters(e)) return;
    e->followed =
        adapter_follower_open(&(follower_options){.ops = e->ops,
                                                  .dev = e->dev,
                                                  .comm = e->comm,
                                                  .model = e->model,
                                                  .arena = e->arena,
                                                  .frame_bytes = e->arena_bytes / e->page_count,
                                                  .frame_count = e->page_count,
                                                  .ids_max = ADAPTERS_MAX});
}
