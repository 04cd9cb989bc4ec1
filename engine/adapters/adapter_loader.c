/* adapter_loader.c - the thread that reads adapters, copies them into frames, and frees them; and the
 * memory that packed ones take.
 *
 * Images are dropped for others to come: the one of least value that no move needs (residency.h), in use
 * or not, for what is on the device needs it no more and the rest is read again. */
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine/adapters/adapters_inner.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/base/rename.h"

/* A quarter of what one core copies: the steps' own threads keep the rest of the memory's bandwidth. */
#define BYTES_PER_SECOND_DEFAULT ((uint64_t)2 << 30)
enum { PATIENCE_SECONDS = 10, LOADER_NICE = 5, BURST_US = 1000 };

/* ---- memory ---- */

static bool can_drop(const adapter *ad) {
    if (!ad->image || ad->busy || !image_is_home(ad->image)) return false;
    return image_frame_count(ad->image) > 0 || !atomic_load(&ad->on_device);
}

static void give(void *arg, uint64_t bytes) {
    adapters *a = arg;
    atomic_fetch_sub(&a->host_bytes, bytes);
    pthread_cond_broadcast(&a->changed);
}

/* Under the lock. What is on the device keeps its tables. */
static void drop_image(adapters *a, adapter *ad) {
    homes_leave(a, ad);
    residency_leave(&a->host_level, &ad->host_use);
    if (atomic_load_explicit(&ad->on_device, memory_order_acquire)) {
        image_drop(ad->image);
    } else {
        image_close(ad->image);
        ad->image = NULL;
    }
}

static bool make_room(adapters *a, uint64_t bytes) {
    while (atomic_load(&a->host_bytes) + bytes > a->options.host_memory) {
        adapter *least = a->in_place ? NULL : homes_least(a, can_drop);
        if (!least) return false;
        drop_image(a, least);
    }
    atomic_fetch_add(&a->host_bytes, bytes);
    return true;
}

/* The loader's. What is larger than all memory for adapters never has room, and does not wait for it. */
static bool take_now(void *arg, uint64_t bytes) {
    adapters *a = arg;
    pthread_mutex_lock(&a->lock);
    bool taken = make_room(a, bytes);
    pthread_mutex_unlock(&a->lock);
    a->read_bytes += bytes;
    a->read_waits = !taken && a->read_bytes <= a->options.host_memory;
    return taken;
}

/* Waits while others have memory that they will give back. */
static bool take_patiently(void *arg, uint64_t bytes) {
    adapters *a = arg;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += PATIENCE_SECONDS;
    pthread_mutex_lock(&a->lock);
    bool taken = make_room(a, bytes), late = bytes > a->options.host_memory || !a->started;
    while (!taken && !late && !a->in_place) {
        late = pthread_cond_timedwait(&a->changed, &a->lock, &until) == ETIMEDOUT;
        taken = make_room(a, bytes);
    }
    pthread_mutex_unlock(&a->lock);
    return taken;
}

esp_code loader_read(adapters *a, const char *path, bool patient, adapter_image **out,
                     adapter_facts *facts, esp_error *err) {
    image_options o = {.ops = a->options.ops,
                       .dev = a->options.dev,
                       .layers = a->layers,
                       .vocab = a->vocab,
                       .frame_bytes = a->frame_bytes,
                       .frames_max = a->frames_max,
                       .take = patient ? take_patiently : take_now,
                       .give = give,
                       .arg = a,
                       .shards = a->options.shards,
                       .ranks = a->options.comm ? a->options.comm->size : 0};
    adapter_image *image = image_open(&o);
    esp_code code = a->reader->read(a->reader, path, image, facts, err);
    if (code == ESP_OK) {
        *out = image;
        return ESP_OK;
    }
    image_close(image);
    return code;
}

void loader_warn(const char *name, const adapter_facts *facts) {
    if (facts->warning[0])
        log_event(LOG_WARN, "adapter_base", "adapter=\"%s\" reason=\"%s\"", name, facts->warning);
}

/* Under the lock. */
void adapter_take_words(adapter *ad, const adapter_words *words) {
    ESP_ASSERT(!adapter_has_words(ad));
    ad->words = *words;
    atomic_store_explicit(&ad->has_words, true, memory_order_release);
}

void loader_install(adapters *a, adapter *ad, adapter_image *image, const adapter_facts *facts) {
    if (ad->image && image_is_home(ad->image)) {
        image_close(image);
        return;
    }
    ESP_ASSERT(!ad->image); /* what is not home is on the device, and nobody reads it */
    ESP_ASSERT(!ad->read ||
               ad->frame_count == image_frame_count(image)); /* one content, one image */
    ad->image = image;
    ad->facts = *facts;
    adapter_words words = image_take_words(image);
    if (adapter_has_words(ad))
        adapter_words_close(&words);
    else
        adapter_take_words(ad, &words);
    ad->read = true;
    ad->packed_bytes = image_bytes(image);
    if (!ad->frames) ad->frames = mem_new(image_frame_count(image) + 1, sizeof *ad->frames);
    atomic_store_explicit(&ad->frame_count, image_frame_count(image), memory_order_release);
    homes_note(a, ad);
}

/* Under the lock. */
static void set_busy(adapters *a, adapter *ad, bool busy) {
    a->busy_count += (uint32_t)busy - (uint32_t)ad->busy;
    ad->busy = busy;
}

/* ---- moves ---- */

/* A move takes at least as long as its bytes at the given rate, give or take BURST_US. */
static void pace(adapters *a, uint64_t bytes) {
    uint64_t rate = a->options.bytes_per_second;
    if (!rate) rate = BYTES_PER_SECOND_DEFAULT;
    int64_t now_us = clock_now_us();
    if (a->next_move_us < now_us) a->next_move_us = now_us;
    a->next_move_us += (int64_t)((double)bytes * 1e6 / (double)rate);
}

static void wait_for_pace(const adapters *a) {
    int64_t wait_us = a->next_move_us - clock_now_us();
    if (wait_us <= BURST_US || !a->started) return;
    struct timespec pause = {.tv_sec = wait_us / 1000000, .tv_nsec = wait_us % 1000000 * 1000};
    nanosleep(&pause, NULL);
}

void adapter_name_blob(const adapter *ad, esp_error *err) {
    char shown[STORE_NAME_MAX + 16];
    if (!err) return;
    snprintf(shown, sizeof shown, "%s@%u", ad->name, ad->version);
    esp_rename(err, ad->digest + strlen(ADAPTER_DIGEST_PREFIX), shown);
}

void loader_fail(adapters *a, adapter *ad, const esp_error *why) {
    adapter_break(a, ad, why);
    post_engine(a, ad, FOR_ENGINE_FAILED);
}

/* Room may come when those have ended that hold it now. */
static bool others_hold_memory(adapters *a) {
    pthread_mutex_lock(&a->lock);
    bool others = a->building > 0 || a->unnamed || a->busy_count > 0;
    pthread_mutex_unlock(&a->lock);
    return others;
}

esp_code fail_other_words(esp_error *err) {
    return esp_fail(err, ESP_DATA_LOSS,
                    "its files are not what they were when its tokens were read; try again");
}

/* Of one without a tokenizer's files nobody reads words before they cut a text: then it has no tokens. */
static bool has_same_words(const adapter *ad, const adapter_words *words) {
    if (!adapter_has_words(ad)) return ad->has_tokens || !words->tok;
    return strcmp(ad->words.from, words->from) == 0;
}

/* One that was found broken meanwhile stays that: it is not loaded, too. */
esp_code loader_check(const adapter *ad, const adapter_image *image, const adapter_facts *facts,
                      esp_error *err) {
    if (adapter_is_broken(ad)) return esp_fail(err, ad->error.code, "%s", ad->error.message);
    if (strcmp(ad->digest, facts->digest) != 0)
        return esp_fail(err, ESP_DATA_LOSS, "its files %s",
                        ad->stored ? "in the store are not what their digest says"
                                   : "are not what they were when it was loaded; load it again");
    return has_same_words(ad, image_words(image)) ? ESP_OK : fail_other_words(err);
}

/* Behind what else is to be done, which may give memory back. */
static void read_again(adapters *a, adapter *ad) {
    const struct timespec pause = {.tv_nsec = AGAIN_US * 1000};
    if (a->started) nanosleep(&pause, NULL);
    post_loader(a, ad, FOR_LOADER_READ);
}

static void do_read(adapters *a, adapter *ad) {
    adapter_image *image = NULL;
    adapter_facts facts;
    esp_error error = {0};
    char path[PATH_MAX];
    pthread_mutex_lock(&a->lock);
    snprintf(path, sizeof path, "%s", ad->path);
    bool home = ad->image && image_is_home(ad->image), first = !ad->read;
    set_busy(a, ad, home);
    if (home) homes_note(a, ad);
    pthread_mutex_unlock(&a->lock);
    if (!home) {
        wait_for_pace(a);
        a->read_bytes = 0;
        a->read_waits = false;
        esp_code code = loader_read(a, path, false, &image, &facts, &error);
        if (code == ESP_EXHAUSTED && a->read_waits && others_hold_memory(a)) {
            read_again(a, ad);
            return;
        }
        pthread_mutex_lock(&a->lock);
        bool same = code == ESP_OK && loader_check(ad, image, &facts, &error) == ESP_OK;
        if (same) {
            pace(a, image_bytes(image));
            loader_install(a, ad, image, &facts);
            set_busy(a, ad, true);
        } else {
            image_close(image);
        }
        pthread_mutex_unlock(&a->lock);
        if (same && first) loader_warn(ad->name, &facts);
        if (!same) {
            adapter_name_blob(ad, &error);
            loader_fail(a, ad, &error);
            return;
        }
    }
    post_engine(a, ad, FOR_ENGINE_HOME);
}

/* Nobody moves it now. */
static void end_move(adapters *a, adapter *ad) {
    pthread_mutex_lock(&a->lock);
    set_busy(a, ad, false);
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

static void do_copy(adapters *a, adapter *ad) {
    uint32_t count = image_frame_count(ad->image);
    for (uint32_t i = 0; i < count; i++) {
        size_t bytes;
        const void *from = image_frame(ad->image, i, &bytes);
        if (!bytes) continue; /* another rank's */
        wait_for_pace(a);
        void *to = (uint8_t *)a->options.arena + ad->frames[i] * a->frame_bytes;
        a->options.ops->upload_beside(a->options.dev, to, from, bytes);
        pace(a, bytes);
    }
    image_point_at(ad->image, a->options.arena, ad->frames);
    if (!a->options.comm) end_move(a, ad);
    post_engine(a, ad, FOR_ENGINE_COPIED);
}

static void do_out(adapters *a, adapter *ad) {
    pthread_mutex_lock(&a->lock);
    set_busy(a, ad, false);
    if (ad->image && !image_is_home(ad->image)) {
        image_close(ad->image);
        ad->image = NULL;
    }
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

static void do_reap(adapters *a, adapter *ad) {
    pthread_mutex_lock(&a->lock);
    names_remove(a, ad);
    ad->next_version = a->unnamed;
    a->unnamed = ad;
    pthread_mutex_unlock(&a->lock);
    post_engine(a, ad, FOR_ENGINE_REAP);
}

void adapter_free(adapters *a, adapter *ad) {
    pthread_mutex_lock(&a->lock);
    adapter **link = &a->unnamed;
    while (*link != ad)
        link = &(*link)->next_version;
    *link = ad->next_version;
    a->adapter_count--;
    a->freed_loads += atomic_load(&ad->loads);
    a->freed_evictions += atomic_load(&ad->evictions);
    set_busy(a, ad, false);
    homes_leave(a, ad);
    image_close(ad->image);
    adapter_unpin(a, ad);
    pthread_mutex_unlock(&a->lock);
    if (ad->stored || ad->holds_blob) store_let_go(a->options.store, ad->digest);
    free(ad->path);
    free(ad->frames);
    adapter_words_close(&ad->words);
    free(ad);
}

bool loader_turn(adapters *a) {
    adapter *ad = queue_pop(a->for_loader);
    if (!ad) return false;
    uint32_t bits = atomic_exchange_explicit(&ad->for_loader, 0, memory_order_acq_rel);
    if (bits & FOR_LOADER_SENT) end_move(a, ad);
    if (bits & FOR_LOADER_OUT) do_out(a, ad);
    if (bits & FOR_LOADER_READ) do_read(a, ad);
    if (bits & FOR_LOADER_COPY) do_copy(a, ad);
    if (bits & FOR_LOADER_REAP) do_reap(a, ad);
    if (bits & FOR_LOADER_REAPED) adapter_free(a, ad);
    return true;
}

/* ---- the thread ---- */

static void *run(void *arg) {
    adapters *a = arg;
    /* Who steps goes first where processors are short; refused, it is as nice as the others. */
    (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), LOADER_NICE);
    while (!atomic_load_explicit(&a->stopping, memory_order_acquire)) {
        uint32_t seen = signal_seen(&a->loader_signal);
        if (!loader_turn(a)) signal_wait(&a->loader_signal, seen, -1);
    }
    return NULL;
}

esp_code loader_start(adapters *a, esp_error *err) {
    int failed = pthread_create(&a->thread, NULL, run, a);
    if (failed)
        return esp_fail(err, ESP_EXHAUSTED, "adapters: cannot start their thread: %s",
                        strerror(failed));
    pthread_setname_np(a->thread, "adapters");
    a->started = true;
    return ESP_OK;
}

void loader_stop(adapters *a) {
    if (!a->started) return;
    atomic_store_explicit(&a->stopping, true, memory_order_release);
    signal_wake(&a->loader_signal);
    pthread_join(a->thread, NULL);
    a->started = false;
}
