/* adapters.c - names and references: load, find, release, unload, pin, and what lists show. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/adapters/adapters.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/adapters/adapters_inner.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"

/* Frames of images that are used where they lie. */
enum { IN_PLACE_FRAME_BYTES = 1 << 20, IN_PLACE_FRAMES_MAX = 1 << 16 };

/* ---- open and close ---- */

/* An arena of frames that are too small for a piece is none. */
static void choose_frames(adapters *a) {
    const adapters_options *o = &a->options;
    a->in_place = !o->sched || o->frame_bytes < LORA_PIECE_MIN;
    a->frame_bytes = a->in_place ? IN_PLACE_FRAME_BYTES : o->frame_bytes;
    a->frames_max = a->in_place ? IN_PLACE_FRAMES_MAX : o->frame_count / 2;
}

esp_code adapters_open(adapters **out, const adapters_options *options, esp_error *err) {
    ESP_ASSERT(out && options && (options->base || (options->reader && options->layers)));
    adapters *a = mem_new(1, sizeof *a);
    a->options = *options;
    a->layers = options->base ? options->base->spec.layers : options->layers;
    choose_frames(a);
    pthread_mutex_init(&a->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&a->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    a->for_loader = queue_open(ADAPTERS_MAX);
    a->for_engine = queue_open(ADAPTERS_MAX);
    a->in = mem_new(ADAPTERS_MAX, sizeof *a->in);
    a->reader = options->reader;
    if (!a->reader) {
        a->files = file_reader_open(&(file_reader_options){
            .base = options->base, .ops = options->ops, .device = options->device});
        a->reader = file_reader_door(a->files);
    }
    esp_code code = options->by_hand ? ESP_OK : loader_start(a, err);
    if (code != ESP_OK) {
        adapters_close(a);
        a = NULL;
    }
    *out = a;
    return code;
}

static void close_named(adapters *a, adapter_entry *entry) {
    while (entry->versions) {
        adapter *ad = entry->versions;
        entry->versions = ad->next_version;
        ad->next_version = a->unnamed;
        a->unnamed = ad;
    }
    free(entry);
}

static void close_all(adapters *a) {
    for (uint32_t i = 0; i < NAME_BUCKETS; i++)
        while (a->names[i]) {
            adapter_entry *entry = a->names[i];
            a->names[i] = entry->next;
            close_named(a, entry);
        }
    while (a->unnamed) {
        turns_let_go(a, a->unnamed);
        adapter_free(a, a->unnamed);
    }
}

void adapters_close(adapters *a) {
    if (!a) return;
    loader_stop(a);
    close_all(a);
    ESP_ASSERT(atomic_load(&a->host_bytes) == 0);
    file_reader_close(a->files);
    queue_close(a->for_loader);
    queue_close(a->for_engine);
    free(a->in);
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

/* ---- posts ---- */

/* An adapter stands in a queue at most once, so that the queue never is full. */
static bool post(queue *to, _Atomic uint32_t *bits, uint32_t more, adapter *ad) {
    if (atomic_fetch_or_explicit(bits, more, memory_order_acq_rel) != 0) return false;
    bool pushed = queue_push(to, ad);
    ESP_ASSERT(pushed);
    return true;
}

void post_loader(adapters *a, adapter *ad, uint32_t bits) {
    if (post(a->for_loader, &ad->for_loader, bits, ad)) signal_wake(&a->loader_signal);
}

void post_engine(adapters *a, adapter *ad, uint32_t bits) {
    if (post(a->for_engine, &ad->for_engine, bits, ad) && a->options.wake)
        a->options.wake(a->options.arg);
}

/* ---- references ---- */

static void give_reference(adapter *ad) {
    uint32_t before = atomic_fetch_add_explicit(&ad->users, 1, memory_order_acq_rel);
    ESP_ASSERT(!(before & USERS_LEAVING));
}

/* Nothing of it is touched after the count went down, but by the last user of one that is leaving, who
 * alone asks for its end. */
void adapter_release(adapters *a, adapter *ad) {
    if (!ad) return;
    uint32_t before = atomic_fetch_sub_explicit(&ad->users, 1, memory_order_acq_rel);
    ESP_ASSERT((before & ~USERS_LEAVING) > 0);
    if (before == (USERS_LEAVING | 1)) post_loader(a, ad, FOR_LOADER_REAP);
}

void adapter_unpin(adapters *a, adapter *ad) {
    if (atomic_exchange(&ad->pinned, false)) atomic_fetch_sub(&a->pinned_frames, ad->frame_count);
}

void adapter_leave(adapters *a, adapter *ad) {
    adapter_entry *entry = ad->entry;
    uint32_t before = atomic_fetch_or_explicit(&ad->users, USERS_LEAVING, memory_order_acq_rel);
    if (before & USERS_LEAVING) return;
    adapter_unpin(a, ad);
    if (entry->current == ad) {
        entry->current = NULL;
        for (adapter *v = entry->versions; v && !entry->current; v = v->next_version)
            if (!adapter_is_leaving(v)) entry->current = v;
    }
    if (before == 0) post_loader(a, ad, FOR_LOADER_REAP);
}

/* ---- references as text ---- */

typedef struct name_ref {
    char name[STORE_NAME_MAX + 1];
    uint32_t version;                  /* 0: not said */
    char digest[ADAPTER_DIGEST_CHARS]; /* "": not said; may be cut */
} name_ref;

static bool parse_version(const char *text, uint32_t *out) {
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 9 || text[digits]) return false;
    *out = (uint32_t)strtoul(text, NULL, 10);
    return *out > 0;
}

static bool parse_digest(const char *text, char out[ADAPTER_DIGEST_CHARS]) {
    size_t prefix = strlen(ADAPTER_DIGEST_PREFIX);
    if (strncmp(text, ADAPTER_DIGEST_PREFIX, prefix) != 0) return false;
    size_t digits = strspn(text + prefix, "0123456789abcdef");
    if (digits < STORE_PREFIX_MIN || digits > 2 * SHA256_BYTES || text[prefix + digits])
        return false;
    snprintf(out, ADAPTER_DIGEST_CHARS, "%s", text);
    return true;
}

static esp_code parse_ref(const char *ref, name_ref *out, esp_error *err) {
    *out = (name_ref){0};
    size_t length = strcspn(ref, "@");
    esp_code code = store_check_name(ref, length, err);
    if (code != ESP_OK) return code;
    memcpy(out->name, ref, length);
    const char *rest = ref + length;
    if (!*rest || parse_version(rest + 1, &out->version) || parse_digest(rest + 1, out->digest))
        return ESP_OK;
    char shown[64];
    esp_show(shown, sizeof shown, rest + 1, strlen(rest + 1));
    return esp_fail_field(err, ESP_INVALID, "model",
                          "adapter %s: \"%s\" is no version; name@3 or name@sha256:<%u digits or "
                          "more> is",
                          out->name, shown, (unsigned)STORE_PREFIX_MIN);
}

static adapter *known(const adapters *a, const name_ref *ref) {
    const adapter_entry *entry = names_find(a, ref->name);
    if (!entry) return NULL;
    if (ref->version) return names_version(entry, ref->version);
    if (*ref->digest) return names_digest(entry, ref->digest);
    return entry->current;
}

static bool is_bare(const name_ref *ref) { return !ref->version && !*ref->digest; }

/* ---- finding ---- */

static esp_code broken(const adapter *ad, esp_error *err) {
    esp_fail_field(err, ad->error.code, "model", "adapter %s: %s", ad->name, ad->error.message);
    return ad->error.code;
}

/* Under the lock. One that could not be read is given another chance after a while. */
static bool is_worn_out(const adapter *ad) {
    return atomic_load_explicit(&ad->broken, memory_order_acquire) &&
           clock_now_us() - ad->broken_us > BROKEN_FOR_US;
}

/* Under the lock: the listed version that a store's reference is, made when it is not known. */
static esp_code list_stored(adapters *a, const store_ref *stored, adapter **out, esp_error *err) {
    adapter_entry *entry = names_take(a, stored->name);
    adapter *ad = names_digest(entry, stored->digest);
    if (ad && ad->stored && is_worn_out(ad)) {
        adapter_leave(a, ad);
        ad = NULL;
    }
    *out = ad;
    if (ad) return ESP_OK;
    if (a->adapter_count == ADAPTERS_MAX) {
        names_settle(a, entry);
        return esp_fail(err, ESP_EXHAUSTED, "%u adapters are known, which is the most; unload some",
                        a->adapter_count);
    }
    esp_code code = store_hold(a->options.store, stored->digest, err);
    if (code != ESP_OK) {
        names_settle(a, entry);
        return code;
    }
    *out = names_add(a, entry, stored->version, stored->digest, stored->path);
    (*out)->stored = true;
    return ESP_OK;
}

static bool is_blocked(const adapters *a, const char *name) {
    const adapter_entry *entry = names_find(a, name);
    return entry && entry->unloaded;
}

/* A reference on a name of the store; `loads`: also of one that was unloaded. */
static esp_code find_stored(adapters *a, const char *text, bool bare, bool loads, adapter **out,
                            esp_error *err) {
    store_ref stored;
    esp_code code = store_resolve(a->options.store, text, &stored, err);
    if (code != ESP_OK) return code;
    pthread_mutex_lock(&a->lock);
    if (!loads && is_blocked(a, stored.name))
        code = names_unknown(a, text, err);
    else
        code = list_stored(a, &stored, out, err);
    if (code == ESP_OK) {
        (*out)->entry->unloaded = false;
        if (bare) (*out)->entry->current = *out;
        give_reference(*out);
    }
    pthread_mutex_unlock(&a->lock);
    return code;
}

/* What is only known here comes before the store, whose names are looked up anew each time: another
 * process may have moved an alias. */
static esp_code find(adapters *a, const char *text, adapter **out, esp_error *err) {
    name_ref ref;
    *out = NULL;
    esp_code code = parse_ref(text, &ref, err);
    if (code != ESP_OK) return code;
    pthread_mutex_lock(&a->lock);
    adapter *ad = known(a, &ref);
    bool ours = ad && (!ad->stored || !a->options.store);
    bool asks_store = !ours && a->options.store && !is_blocked(a, ref.name);
    if (ours) {
        give_reference(ad);
        *out = ad;
    } else if (!asks_store) {
        code = names_unknown(a, text, err);
    }
    pthread_mutex_unlock(&a->lock);
    if (!asks_store) return code;
    code = find_stored(a, text, is_bare(&ref), false, out, err);
    if (code != ESP_NOT_FOUND) return code;
    pthread_mutex_lock(&a->lock);
    code = names_unknown(a, text, err);
    pthread_mutex_unlock(&a->lock);
    return code;
}

esp_code adapters_find(adapters *a, const char *ref, adapter **out, esp_error *err) {
    esp_code code = find(a, ref, out, err);
    if (code != ESP_OK) return code;
    if (atomic_load_explicit(&(*out)->broken, memory_order_acquire)) {
        code = broken(*out, err);
        adapter_release(a, *out);
        *out = NULL;
        return code;
    }
    atomic_fetch_add_explicit(&(*out)->requests, 1, memory_order_relaxed);
    return ESP_OK;
}

const char *adapter_name(const adapter *ad) { return ad->name; }
uint32_t adapter_version(const adapter *ad) { return ad->version; }
const char *adapter_content(const adapter *ad) { return ad->digest; }

void adapter_error(const adapter *ad, esp_error *err) {
    if (atomic_load_explicit(&ad->ended, memory_order_acquire))
        esp_fail_field(err, ESP_ABORTED, "model", "adapter %s@%u was unloaded", ad->name,
                       ad->version);
    else if (atomic_load_explicit(&ad->broken, memory_order_acquire))
        broken(ad, err);
    else
        esp_fail_field(err, ESP_UNAVAILABLE, "model", "adapter %s@%u cannot be had now", ad->name,
                       ad->version);
}

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

static void read_info(const adapter *ad, adapter_info *out);

static void set_path(adapter *ad, const char *path) {
    if (ad->stored) return;
    free(ad->path);
    ad->path = mem_copy_text(path, strlen(path));
}

/* Under the lock: the name's version of this content, and a new one's image. */
static esp_code take_content(adapters *a, adapter_entry *entry, const char *path,
                             adapter_image *image, const adapter_facts *facts, adapter **out,
                             esp_error *err) {
    adapter *ad = names_digest(entry, facts->digest), *old = entry->current;
    if (ad && atomic_load_explicit(&ad->broken, memory_order_acquire)) {
        adapter_leave(a, ad);
        ad = NULL;
    }
    if (!ad && a->adapter_count == ADAPTERS_MAX) {
        image_close(image);
        return esp_fail(err, ESP_EXHAUSTED, "%u adapters are known, which is the most; unload some",
                        a->adapter_count);
    }
    if (!ad) {
        ad = names_add(a, entry, entry->last_version + 1, facts->digest, path);
        loader_install(a, ad, image, facts);
    } else {
        image_close(image);
        set_path(ad, path); /* where it lay before may be gone */
    }
    entry->current = ad;
    entry->unloaded = false;
    if (old && old != ad && !old->stored && !adapter_is_leaving(old)) adapter_leave(a, old);
    *out = ad;
    return ESP_OK;
}

esp_code adapters_load(adapters *a, const char *name, const char *path, adapter_info *info,
                       esp_error *err) {
    esp_code code = store_check_name(name, strlen(name), err);
    if (code != ESP_OK) return code;
    char whole[PATH_MAX];
    if (!realpath(path, whole)) snprintf(whole, sizeof whole, "%s", path);
    adapter_entry *entry = begin_load(a, name);
    adapter_image *image = NULL;
    adapter_facts facts = {0};
    adapter *ad = NULL;
    code = loader_read(a, whole, true, &image, &facts, err);
    pthread_mutex_lock(&a->lock);
    if (code == ESP_OK) code = take_content(a, entry, whole, image, &facts, &ad, err);
    if (code == ESP_OK && info) read_info(ad, info);
    end_load(a, entry);
    pthread_mutex_unlock(&a->lock);
    return code;
}

esp_code adapters_check(adapters *a, const char *path, esp_error *err) {
    adapter_image *image = NULL;
    adapter_facts facts = {0};
    esp_code code = loader_read(a, path, true, &image, &facts, err);
    if (code == ESP_OK) image_close(image);
    return code;
}

/* Reads an adapter that is only listed; the caller has a reference. */
static esp_code read_listed(adapters *a, adapter *ad, esp_error *err) {
    pthread_mutex_lock(&a->lock);
    bool read = ad->read;
    pthread_mutex_unlock(&a->lock);
    if (read) return ESP_OK;
    adapter_entry *entry = begin_load(a, ad->name);
    adapter_image *image = NULL;
    adapter_facts facts = {0};
    esp_code code = loader_read(a, ad->path, true, &image, &facts, err);
    pthread_mutex_lock(&a->lock);
    if (code == ESP_OK && strcmp(facts.digest, ad->digest) != 0)
        code = esp_fail(err, ESP_DATA_LOSS,
                        "adapter %s@%u: its files in the store are not what their digest says",
                        ad->name, ad->version);
    if (code == ESP_OK && !ad->image)
        loader_install(a, ad, image, &facts);
    else
        image_close(image);
    end_load(a, entry);
    pthread_mutex_unlock(&a->lock);
    return code;
}

esp_code adapters_load_stored(adapters *a, const char *text, adapter_info *info, esp_error *err) {
    name_ref ref;
    adapter *ad = NULL;
    esp_code code = parse_ref(text, &ref, err);
    if (code != ESP_OK) return code;
    if (!a->options.store)
        return esp_fail_field(err, ESP_PRECONDITION, "--adapter-store",
                              "adapter %s: there is no store to load from; give --adapter-store",
                              ref.name);
    code = find_stored(a, text, is_bare(&ref), true, &ad, err);
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
    esp_code code = parse_ref(text, &ref, err);
    if (code != ESP_OK) return code;
    bool stored = is_in_store(a, ref.name);
    pthread_mutex_lock(&a->lock);
    adapter *ad = known(a, &ref);
    bool blocked = is_blocked(a, ref.name);
    if (!ad && (!is_bare(&ref) || !stored || blocked)) {
        code = names_unknown(a, text, err);
    } else if (!is_bare(&ref)) {
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
    esp_code code = find(a, ref, &ad, err);
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

/* ---- lists ---- */

static adapter_state state_of(const adapter *ad) {
    if (adapter_is_leaving(ad)) return ADAPTER_LEAVING;
    if (atomic_load_explicit(&ad->broken, memory_order_acquire)) return ADAPTER_BROKEN;
    return ad->read ? ADAPTER_READY : ADAPTER_LISTED;
}

static adapter_tier tier_of(const adapter *ad) {
    if (atomic_load_explicit(&ad->on_device, memory_order_acquire)) return ADAPTER_DEVICE;
    return ad->image && image_is_home(ad->image) ? ADAPTER_HOST : ADAPTER_DISK;
}

/* Under the lock. */
static void read_info(const adapter *ad, adapter_info *out) {
    *out = (adapter_info){.version = ad->version,
                          .state = state_of(ad),
                          .tier = tier_of(ad),
                          .current = ad->entry && ad->entry->current == ad,
                          .pinned = atomic_load(&ad->pinned),
                          .rank = ad->facts.rank,
                          .bytes = ad->image ? image_bytes(ad->image) : ad->packed_bytes,
                          .file_bytes = ad->facts.file_bytes,
                          .parameters = ad->facts.parameters,
                          .users = adapter_users(ad),
                          .requests = atomic_load(&ad->requests),
                          .loads = atomic_load(&ad->loads),
                          .evictions = atomic_load(&ad->evictions),
                          .last_use_us = atomic_load(&ad->last_use_us)};
    memcpy(out->name, ad->name, sizeof out->name);
    memcpy(out->digest, ad->digest, sizeof out->digest);
    if (atomic_load_explicit(&ad->broken, memory_order_acquire)) out->error = ad->error;
}

void adapter_read_info(adapters *a, const adapter *ad, adapter_info *out) {
    pthread_mutex_lock(&a->lock);
    read_info(ad, out);
    pthread_mutex_unlock(&a->lock);
}

static int by_name(const void *x, const void *y) {
    const adapter_info *p = x, *q = y;
    int names = strcmp(p->name, q->name);
    return names ? names : (p->version > q->version) - (p->version < q->version);
}

void adapters_list(adapters *a, adapter_info **out, size_t *count) {
    pthread_mutex_lock(&a->lock);
    adapter_info *list = mem_new(a->adapter_count + 1, sizeof *list);
    size_t filled = 0;
    for (uint32_t i = 0; i < NAME_BUCKETS; i++)
        for (const adapter_entry *e = a->names[i]; e; e = e->next)
            for (const adapter *ad = e->versions; ad; ad = ad->next_version)
                read_info(ad, &list[filled++]);
    pthread_mutex_unlock(&a->lock);
    qsort(list, filled, sizeof *list, by_name);
    *out = list;
    *count = filled;
}

void adapters_read_stats(adapters *a, adapters_stats *out) {
    *out = (adapters_stats){.host_bytes = atomic_load(&a->host_bytes),
                            .frames = atomic_load(&a->leased_frames),
                            .loads = atomic_load(&a->loads),
                            .evictions = atomic_load(&a->evictions),
                            .failures = atomic_load(&a->failures)};
    pthread_mutex_lock(&a->lock);
    for (uint32_t i = 0; i < NAME_BUCKETS; i++)
        for (const adapter_entry *e = a->names[i]; e; e = e->next)
            for (const adapter *ad = e->versions; ad; ad = ad->next_version) {
                adapter_tier tier = tier_of(ad);
                out->listed++;
                out->host += tier == ADAPTER_HOST;
                out->device += tier == ADAPTER_DEVICE;
                out->pinned += atomic_load(&ad->pinned);
            }
    pthread_mutex_unlock(&a->lock);
}
