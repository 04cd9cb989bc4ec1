/* adapter_find.c - what "name", "name@3", "name@sha256:..." mean now, here and in the store. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/adapters/adapters_inner.h"
#include "engine/base/clock.h"

/* ---- references as text ---- */

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

esp_code ref_parse(const char *ref, name_ref *out, esp_error *err) {
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

adapter *ref_known(const adapters *a, const name_ref *ref) {
    const adapter_entry *entry = names_find(a, ref->name);
    if (!entry) return NULL;
    if (ref->version) return names_version(entry, ref->version);
    if (*ref->digest) return names_digest(entry, ref->digest);
    return entry->current;
}

bool ref_is_bare(const name_ref *ref) { return !ref->version && !*ref->digest; }

/* ---- finding ---- */

static esp_code broken_error(const adapter *ad, esp_error *err) {
    return esp_fail_field(err, ad->error.code, "model", "adapter %s: %s", ad->name,
                          ad->error.message);
}

/* Under the lock. One that could not be read is given another chance after a while. */
static bool is_worn_out(const adapter *ad) {
    return atomic_load_explicit(&ad->broken, memory_order_acquire) &&
           clock_now_us() - ad->broken_us > BROKEN_FOR_US;
}

/* Under the lock: the same files under the same number, to be read when they are asked for. */
static adapter *begin_again(adapters *a, adapter *ad) {
    adapter_entry *entry = ad->entry;
    bool current = entry->current == ad;
    if (a->adapter_count == ADAPTERS_MAX) return ad;
    adapter_leave(a, ad);
    adapter *again = names_add(a, entry, ad->version, ad->digest, ad->path);
    if (current) entry->current = again;
    again->holds_blob = ad->holds_blob && store_hold(a->options.store, ad->digest, NULL) == ESP_OK;
    return again;
}

/* A name that was removed from the store and imported again counts its versions from 1 again. Who loads, tries again
 * at once. */
static bool is_outdated(const adapter *ad, const store_ref *stored, bool loads) {
    bool again = loads ? adapter_is_broken(ad) : is_worn_out(ad);
    return ad->stored && (again || ad->version != stored->version);
}

/* Under the lock: the listed version that a store's reference is, made when it is not known. */
static esp_code list_stored(adapters *a, const store_ref *stored, bool loads, adapter **out,
                            esp_error *err) {
    adapter_entry *entry = names_take(a, stored->name);
    adapter *ad = names_digest(entry, stored->digest);
    if (ad && is_outdated(ad, stored, loads)) {
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

bool names_are_blocked(const adapters *a, const char *name) {
    const adapter_entry *entry = names_find(a, name);
    return entry && entry->unloaded;
}

/* A reference on a name of the store; `loads`: also of one that was unloaded. */
esp_code find_stored(adapters *a, const char *text, bool bare, bool loads, adapter **out,
                     esp_error *err) {
    store_ref stored;
    esp_code code = store_resolve(a->options.store, text, &stored, err);
    if (code != ESP_OK) return code;
    pthread_mutex_lock(&a->lock);
    if (!loads && names_are_blocked(a, stored.name))
        code = names_unknown(a, text, err);
    else
        code = list_stored(a, &stored, loads, out, err);
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
esp_code find_reference(adapters *a, const char *text, adapter **out, esp_error *err) {
    name_ref ref;
    *out = NULL;
    esp_code code = ref_parse(text, &ref, err);
    if (code != ESP_OK) return code;
    pthread_mutex_lock(&a->lock);
    adapter *ad = ref_known(a, &ref);
    bool ours = ad && (!ad->stored || !a->options.store);
    bool asks_store = !ours && a->options.store && !names_are_blocked(a, ref.name);
    if (ours && !ad->stored && is_worn_out(ad)) ad = begin_again(a, ad);
    if (ours) {
        give_reference(ad);
        *out = ad;
    } else if (!asks_store) {
        code = names_unknown(a, text, err);
    }
    pthread_mutex_unlock(&a->lock);
    if (!asks_store) return code;
    code = find_stored(a, text, ref_is_bare(&ref), false, out, err);
    if (code != ESP_NOT_FOUND) return code;
    pthread_mutex_lock(&a->lock);
    code = names_unknown(a, text, err);
    pthread_mutex_unlock(&a->lock);
    return code;
}

bool adapter_is_broken(const adapter *ad) {
    return atomic_load_explicit(&ad->broken, memory_order_acquire);
}

esp_code adapters_find_anyhow(adapters *a, const char *ref, adapter **out, esp_error *err) {
    esp_code code = find_reference(a, ref, out, err);
    if (code == ESP_OK) atomic_fetch_add_explicit(&(*out)->requests, 1, memory_order_relaxed);
    return code;
}

esp_code adapters_find(adapters *a, const char *ref, adapter **out, esp_error *err) {
    esp_code code = find_reference(a, ref, out, err);
    if (code != ESP_OK) return code;
    if (adapter_is_broken(*out)) {
        code = broken_error(*out, err);
        adapter_release(a, *out);
        *out = NULL;
        return code;
    }
    atomic_fetch_add_explicit(&(*out)->requests, 1, memory_order_relaxed);
    return ESP_OK;
}

esp_code adapters_find_content(adapters *a, const char *name, const char *digest, adapter **out,
                               esp_error *err) {
    char ref[STORE_NAME_MAX + 1 + ADAPTER_DIGEST_CHARS];
    snprintf(ref, sizeof ref, "%s@%s", name, digest);
    return adapters_find(a, ref, out, err);
}

const char *adapter_name(const adapter *ad) { return ad->name; }
uint32_t adapter_version(const adapter *ad) { return ad->version; }
const char *adapter_content(const adapter *ad) { return ad->digest; }
bool adapter_may_have_tokens(const adapter *ad) { return ad->has_tokens; }
bool adapter_has_words(const adapter *ad) {
    return atomic_load_explicit(&ad->has_words, memory_order_acquire);
}
uint32_t adapter_vocab(const adapter *ad) { return adapter_has_words(ad) ? ad->words.vocab : 0; }
tokenizer *adapter_tokenizer(const adapter *ad) {
    return adapter_has_words(ad) ? ad->words.tok : NULL;
}
const char *const *adapter_labels(const adapter *ad) {
    return adapter_has_words(ad) ? ad->words.labels : NULL;
}
uint32_t adapter_label_count(const adapter *ad) {
    return adapter_has_words(ad) ? ad->words.label_count : 0;
}
bool adapter_same_words(const adapter *a, const adapter *b) {
    return adapter_has_words(a) && adapter_has_words(b) && !strcmp(a->words.from, b->words.from);
}

esp_code adapter_error(const adapter *ad, esp_error *err) {
    if (atomic_load_explicit(&ad->ended, memory_order_acquire))
        return esp_fail_field(err, ESP_ABORTED, "model", "adapter %s@%u was unloaded", ad->name,
                              ad->version);
    if (adapter_is_broken(ad)) return broken_error(ad, err);
    return esp_fail_field(err, ESP_UNAVAILABLE, "model", "adapter %s@%u cannot be had now",
                          ad->name, ad->version);
}
