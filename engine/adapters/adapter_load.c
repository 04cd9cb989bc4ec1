/* adapter_load.c - names get their adapters, lose them, and hold on to them: load, unload, pin, alias. */
// SPDX-License-Identifier: Apache-2.0
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/adapters/adapters_inner.h"
#include "engine/base/mem.h"
#include "engine/base/rename.h"

/* ---- loading ---- */

/* One load of a name at a time. */
static adapter_entry *begin_load(adapters *a, const char *name) {
    adapter_entry *entry;
    pthread_mutex_lock(&a->lock);
    while ((entry = names_take(a, name))->loading)
        pthread_cond_wait(&a->changed, &a->lock);
    entry->loading = true;
    a->building++;
    pthread_mutex_unlock(&a->lock);
    return entry;
}

/* Under the lock. */
static void end_load(adapters *a, adapter_entry *entry) {
    entry->loading = false;
    a->building--;
    pthread_cond_broadcast(&a->changed);
    names_settle(a, entry);
}

/* Where an adapter's files are. */
typedef struct load_source {
    const char *path;
    const char *blob; /* the digest of the store's that lies there, held; NULL: none does */
    uint32_t version; /* the number of what is new to the name; 0: the next */
} load_source;

static void set_path(adapter *ad, const char *path) {
    if (ad->stored) return;
    free(ad->path);
    ad->path = mem_copy_text(path, strlen(path));
}

/* Under the lock: the name's version of this content, and a new one's image. */
static esp_code take_content(adapters *a, adapter_entry *entry, const load_source *from,
                             adapter_image *image, const adapter_facts *facts, adapter **out,
                             esp_error *err) {
    adapter *ad = names_digest(entry, facts->digest), *old = entry->current;
    bool renumbered = ad && from->version && ad->version != from->version;
    bool other = ad && loader_check(ad, image, facts, NULL) != ESP_OK; /* broken, or its words */
    if (renumbered || other) {
        adapter_leave(a, ad);
        ad = NULL;
    }
    if (!ad && a->adapter_count == ADAPTERS_MAX) {
        image_close(image);
        return esp_fail(err, ESP_EXHAUSTED, "%u adapters are known, which is the most; unload some",
                        a->adapter_count);
    }
    if (!ad) {
        uint32_t version = from->version ? from->version : entry->last_version + 1;
        ad = names_add(a, entry, version, facts->digest, from->path);
        loader_install(a, ad, image, facts);
    } else {
        if (ad->read)
            image_close(image);
        else
            loader_install(a, ad, image, facts);
        set_path(ad, from->path); /* where it lay before may be gone */
    }
    entry->current = ad;
    entry->unloaded = false;
    if (old && old != ad && !old->stored && !adapter_is_leaving(old)) adapter_leave(a, old);
    *out = ad;
    return ESP_OK;
}

/* *keeps: the blob is held for the adapter from now on, which lets it go. */
static esp_code load_from(adapters *a, const char *name, const load_source *from, bool *keeps,
                          adapter_info *info, esp_error *err) {
    const char *blob = from->blob;
    adapter_entry *entry = begin_load(a, name);
    adapter_image *image = NULL;
    adapter_facts facts = {0};
    adapter *ad = NULL;
    esp_code code = loader_read(a, from->path, true, &image, &facts, err);
    if (code == ESP_OK && blob && strcmp(facts.digest, blob) != 0) {
        image_close(image);
        code = esp_fail(err, ESP_DATA_LOSS,
                        "adapter %s: its files in the store are not what their digest says", name);
    }
    if (code == ESP_OK) loader_warn(name, &facts);
    pthread_mutex_lock(&a->lock);
    if (code == ESP_OK) code = take_content(a, entry, from, image, &facts, &ad, err);
    if (code == ESP_OK && info) list_info(ad, info);
    *keeps = code == ESP_OK && blob && !ad->stored && !ad->holds_blob;
    if (*keeps) ad->holds_blob = true;
    end_load(a, entry);
    pthread_mutex_unlock(&a->lock);
    return code;
}

esp_code adapters_load(adapters *a, const char *name, const char *path, adapter_info *info,
                       esp_error *err) {
    esp_code code = store_check_name(name, strlen(name), err);
    if (code != ESP_OK) return code;
    char whole[PATH_MAX];
    bool keeps;
    if (!realpath(path, whole)) snprintf(whole, sizeof whole, "%s", path);
    return load_from(a, name, &(load_source){.path = whole}, &keeps, info, err);
}

esp_code adapters_check(adapters *a, const char *path, esp_error *err) {
    adapter_image *image = NULL;
    adapter_facts facts = {0};
    esp_code code = loader_read(a, path, true, &image, &facts, err);
    if (code == ESP_OK) image_close(image);
    return code;
}

/* One that is not what it was before does not become it. */
static esp_code check_listed(adapters *a, adapter *ad, const adapter_image *image,
                             const adapter_facts *facts, esp_error *err) {
    esp_error why = {0};
    esp_code code = loader_check(ad, image, facts, &why);
    if (code == ESP_OK) return code;
    adapter_break(a, ad, &why);
    return esp_fail(err, code, "adapter %s@%u: %s", ad->name, ad->version, why.message);
}

/* Reads an adapter that is only listed; the caller has a reference. */
static esp_code read_listed(adapters *a, adapter *ad, esp_error *err) {
    pthread_mutex_lock(&a->lock);
    bool read = ad->read, broken = adapter_is_broken(ad);
    pthread_mutex_unlock(&a->lock);
    if (broken) return adapter_error(ad, err);
    if (read) return ESP_OK;
    adapter_entry *entry = begin_load(a, ad->name);
    adapter_image *image = NULL;
    adapter_facts facts = {0};
    esp_code code = loader_read(a, ad->path, true, &image, &facts, err);
    if (code != ESP_OK) adapter_name_blob(ad, err);
    if (code == ESP_OK) loader_warn(ad->name, &facts);
    pthread_mutex_lock(&a->lock);
    if (code == ESP_OK) code = check_listed(a, ad, image, &facts, err);
    if (code == ESP_OK && !ad->image)
        loader_install(a, ad, image, &facts);
    else
        image_close(image);
    end_load(a, entry);
    pthread_mutex_unlock(&a->lock);
    return code;
}

/* ---- words alone ---- */

/* Two may read them at once, or one beside a load; then the second one's go, and it matters to nobody why it has none. */
static esp_code keep_words(adapters *a, adapter *ad, adapter_words *words, esp_code code,
                           esp_error *why) {
    if (code != ESP_OK) adapter_name_blob(ad, why);
    pthread_mutex_lock(&a->lock);
    bool known = adapter_has_words(ad);
    if (code == ESP_OK && !known) adapter_take_words(ad, words);
    if (code != ESP_OK && !known) adapter_break(a, ad, why);
    pthread_mutex_unlock(&a->lock);
    if (code == ESP_OK && known) adapter_words_close(words);
    return known ? ESP_OK : code;
}

static esp_code read_words(adapters *a, adapter *ad) {
    adapter_words words = {0};
    esp_error why = {0};
    char path[PATH_MAX];
    pthread_mutex_lock(&a->lock);
    snprintf(path, sizeof path, "%s", ad->path);
    pthread_mutex_unlock(&a->lock);
    esp_code code = a->reader->read_words(a->reader, path, &words, &why);
    return keep_words(a, ad, &words, code, &why);
}

/* What is wrong is found once and then told for a while, like that which a load finds. */
esp_code adapters_read_words(adapters *a, adapter *ad, esp_error *err) {
    if (adapter_has_words(ad)) return ESP_OK;
    if (!adapter_is_broken(ad) && read_words(a, ad) == ESP_OK) return ESP_OK;
    return adapter_error(ad, err);
}

esp_code adapters_read_tokens(adapters *a, adapter *ad, esp_error *err) {
    return ad && ad->has_tokens ? adapters_read_words(a, ad, err) : ESP_OK;
}

void adapters_doubt(adapters *a, adapter *ad) {
    esp_error why = {0};
    (void)fail_other_words(&why);
    pthread_mutex_lock(&a->lock);
    if (!ad->read) adapter_break(a, ad, &why);
    pthread_mutex_unlock(&a->lock);
}

esp_code adapters_read_same_words(adapters *a, adapter *ad, const adapter *other, esp_error *err) {
    esp_code code = adapters_read_words(a, ad, err);
    if (code != ESP_OK || adapter_same_words(ad, other)) return code;
    return esp_fail_field(err, ESP_ABORTED, "model", "adapter %s was replaced; try again",
                          ad->name);
}

/* ---- from the store ---- */

static esp_code check_store(const adapters *a, const char *text, name_ref *ref, esp_error *err) {
    esp_code code = ref_parse(text, ref, err);
    if (code != ESP_OK || a->options.store) return code;
    return esp_fail_field(err, ESP_PRECONDITION, "--adapter-store",
                          "adapter %s: there is no store to load from; give --adapter-store",
                          ref->name);
}

static esp_code load_held(adapters *a, const char *name, const store_ref *from, uint32_t version,
                          adapter_info *info, esp_error *err) {
    const load_source source = {from->path, from->digest, version};
    bool keeps = false;
    char shown[STORE_NAME_MAX + 16];
    esp_code code = store_hold(a->options.store, from->digest, err);
    if (code != ESP_OK) return code;
    code = load_from(a, name, &source, &keeps, info, err);
    if (!keeps) store_let_go(a->options.store, from->digest);
    snprintf(shown, sizeof shown, "%s@%u", from->name, from->version);
    if (code != ESP_OK && err) esp_rename(err, from->digest + strlen(ADAPTER_DIGEST_PREFIX), shown);
    return code;
}

esp_code adapters_load_stored_as(adapters *a, const char *name, const char *text, uint32_t version,
                                 adapter_info *info, esp_error *err) {
    name_ref ref;
    store_ref stored;
    esp_code code = store_check_name(name, strlen(name), err);
    if (code == ESP_OK) code = check_store(a, text, &ref, err);
    if (code != ESP_OK) return code;
    if (!strcmp(ref.name, name)) return adapters_load_stored(a, text, info, err);
    code = store_resolve(a->options.store, text, &stored, err);
    return code == ESP_OK ? load_held(a, name, &stored, version, info, err) : code;
}

esp_code adapters_load_stored(adapters *a, const char *text, adapter_info *info, esp_error *err) {
    name_ref ref;
    adapter *ad = NULL;
    esp_code code = check_store(a, text, &ref, err);
    if (code != ESP_OK) return code;
    code = find_stored(a, text, ref_is_bare(&ref), true, &ad, err);
    if (code != ESP_OK) return code;
    code = read_listed(a, ad, err);
    if (code == ESP_OK && info) adapter_read_info(a, ad, info);
    adapter_release(a, ad);
    return code;
}

/* ---- unloading ---- */

/* Under the lock. Whoever runs with it is ended before it can be reaped. */
static void unload_one(adapters *a, adapter *ad, adapter_unload how) {
    if (how == ADAPTER_END) {
        atomic_store_explicit(&ad->ended, true, memory_order_release);
        post_engine(a, ad, FOR_ENGINE_END);
    }
    adapter_leave(a, ad);
}

/* Those that are leaving already may still be ended. */
static void unload_all(adapters *a, adapter_entry *entry, adapter_unload how) {
    adapter *next;
    for (adapter *ad = entry->versions; ad; ad = next) {
        next = ad->next_version;
        if (!adapter_is_leaving(ad) || adapter_users(ad) > 0) unload_one(a, ad, how);
    }
}

static bool is_in_store(const adapters *a, const char *name) {
    store_ref stored;
    return a->options.store && store_resolve(a->options.store, name, &stored, NULL) == ESP_OK;
}

esp_code adapters_unload(adapters *a, const char *text, adapter_unload how, esp_error *err) {
    name_ref ref;
    esp_code code = ref_parse(text, &ref, err);
    if (code != ESP_OK) return code;
    bool stored = is_in_store(a, ref.name);
    pthread_mutex_lock(&a->lock);
    adapter *ad = ref_known(a, &ref);
    bool blocked = names_are_blocked(a, ref.name);
    if (!ad && (!ref_is_bare(&ref) || !stored || blocked)) {
        code = names_unknown(a, text, err);
    } else if (!ref_is_bare(&ref)) {
        unload_one(a, ad, how);
    } else {
        adapter_entry *entry = names_take(a, ref.name);
        entry->unloaded = stored;
        unload_all(a, entry, how);
        names_settle(a, entry);
    }
    pthread_mutex_unlock(&a->lock);
    return code;
}

/* ---- pins and aliases ---- */

static esp_code pin(adapters *a, adapter *ad, esp_error *err) {
    uint32_t frames = atomic_load(&ad->frame_count), most = a->options.frame_count / 4;
    uint32_t pinned = atomic_load(&a->pinned_frames);
    if (atomic_load(&ad->pinned)) return ESP_OK;
    if (adapter_is_leaving(ad)) /* since it was found */
        return esp_fail(err, ESP_ABORTED, "adapter %s@%u is being unloaded", ad->name, ad->version);
    if (!a->in_place && pinned + frames > most)
        return esp_fail(err, ESP_EXHAUSTED,
                        "adapter %s takes %u frames of the arena and pinned ones have %u of the %u "
                        "that they may; unpin others or raise --kv-memory",
                        ad->name, frames, pinned, most);
    atomic_store(&ad->pinned, true);
    atomic_fetch_add(&a->pinned_frames, frames);
    post_engine(a, ad, FOR_ENGINE_PIN);
    return ESP_OK;
}

esp_code adapters_pin(adapters *a, const char *ref, bool pinned, esp_error *err) {
    adapter *ad = NULL;
    esp_code code = find_reference(a, ref, &ad, err);
    if (code != ESP_OK) return code;
    if (pinned) code = read_listed(a, ad, err);
    pthread_mutex_lock(&a->lock);
    if (code == ESP_OK && pinned) code = pin(a, ad, err);
    if (!pinned) adapter_unpin(a, ad);
    pthread_mutex_unlock(&a->lock);
    adapter_release(a, ad);
    return code;
}

esp_code adapters_set_alias(adapters *a, const char *name, uint32_t version, esp_error *err) {
    esp_code code = store_check_name(name, strlen(name), err);
    if (code != ESP_OK) return code;
    if (is_in_store(a, name)) {
        code = store_set_alias(a->options.store, name, version, err);
        /* Lists show it at once; requests look it up anew anyway. */
        adapter *now = NULL;
        if (code == ESP_OK && find_stored(a, name, true, false, &now, NULL) == ESP_OK)
            adapter_release(a, now);
        return code;
    }
    pthread_mutex_lock(&a->lock);
    adapter_entry *entry = names_find(a, name);
    adapter *ad = entry ? names_version(entry, version) : NULL;
    if (ad)
        entry->current = ad;
    else
        code = esp_fail_field(err, ESP_NOT_FOUND, "version", "adapter %s has no version %u", name,
                              version);
    pthread_mutex_unlock(&a->lock);
    return code;
}
