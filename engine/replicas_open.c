/* replicas_open.c - which devices, threads and memory each replica gets, and the engines over them. */
// SPDX-License-Identifier: Apache-2.0
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/cpus.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "engine/device.h"
#include "engine/gpu_groups.h"
#include "engine/replicas_inner.h"

enum { DEVICES_TEXT_BYTES = 256 };

static uint32_t ranks_of(const model_config *c) { return c->tp ? c->tp : 1; }

/* ---- processors ---- */

/* The calling thread, and what it starts, stays on those processors; *before: where it was. An empty set: anywhere.
 * Refused, it stays where it is. */
static void move_to(const cpu_set_t *cpus, cpu_set_t *before) {
    if (before && sched_getaffinity(0, sizeof *before, before) != 0) CPU_ZERO(before);
    if (CPU_COUNT(cpus)) (void)sched_setaffinity(0, sizeof *cpus, cpus);
}

static esp_code plan_threads(const replicas *all, model_config *c, esp_error *err) {
    uint32_t threads = c->threads ? c->threads : pool_default_threads();
    uint64_t wanted = (uint64_t)all->count * ranks_of(c);
    if (c->device == DEVICE_CPU && threads < wanted)
        return esp_fail_field(
            err, ESP_OUT_OF_RANGE, "--replicas",
            "--replicas %u with --tp %u want a thread for each of %llu ranks, and "
            "there are %u (--threads, or the cores that this process may use); "
            "lower --replicas",
            all->count, ranks_of(c), (unsigned long long)wanted, threads);
    c->threads = threads >= all->count ? threads / all->count : 1;
    return ESP_OK;
}

static void plan_memories(replicas *all) {
    cpu_map map;
    cpus_read_own(&map);
    for (uint32_t i = 0; i < all->count; i++)
        if (!cpus_part(&map, i, all->count, &all->of[i].cpus)) CPU_ZERO(&all->of[i].cpus);
}

/* ---- GPUs ---- */

static esp_code too_many(const replicas *all, const model_config *c, uint32_t there,
                         esp_error *err) {
    const char *field = all->count > 1 ? "--replicas" : "--tp";
    uint32_t first = device_index(c);
    return esp_fail_field(err, ESP_OUT_OF_RANGE, field,
                          "--replicas %u with --tp %u want %llu GPUs, and from cuda:%u on this "
                          "machine has %u; lower one of them",
                          all->count, ranks_of(c), (unsigned long long)all->count * ranks_of(c),
                          first, there > first ? there - first : 0);
}

static esp_code plan_gpus(replicas *all, const model_config *c, esp_error *err) {
    uint32_t there = kern_cuda_count(err), tp = ranks_of(c);
    if (there == 0) return err ? err->code : ESP_UNAVAILABLE;
    if (there > GPU_GROUPS_DEVICES_MAX) there = GPU_GROUPS_DEVICES_MAX;
    uint32_t *links = mem_new((size_t)there * there, sizeof *links);
    for (uint32_t a = 0; a < there; a++)
        for (uint32_t b = 0; b < there; b++)
            links[a * there + b] = a == b ? 0 : kern_cuda_link(a, b);
    const gpu_groups_options o = {.device_count = there,
                                  .links = links,
                                  .first = device_index(c),
                                  .group_size = tp,
                                  .group_count = all->count};
    all->gpus = mem_new((size_t)all->count * tp, sizeof *all->gpus);
    bool enough = gpu_groups_choose(&o, all->gpus);
    free(links);
    return enough ? ESP_OK : too_many(all, c, there, err);
}

/* ---- all together ---- */

/* One engine alone chooses its device itself. */
static esp_code plan(replicas *all, model_config *c, esp_error *err) {
    if (all->count == 1 && ranks_of(c) == 1) return ESP_OK;
    esp_code code = device_choose(c, err);
    if (code == ESP_OK && c->device == DEVICE_CUDA) code = plan_gpus(all, c, err);
    if (code != ESP_OK || all->count == 1) return code;
    if (c->device != DEVICE_CUDA) plan_memories(all);
    return plan_threads(all, c, err);
}

static model_config config_of(const replicas *all, const model_config *c, uint32_t index) {
    model_config own = *c;
    own.replica = index;
    own.replicas = all->count;
    if (all->gpus) own.gpus = all->gpus + (size_t)index * ranks_of(c);
    if (index == 0) return own;
    own.digest = false;
    own.op_timer = NULL;
    if (c->device != DEVICE_CUDA) { /* one memory: each has as many pages as the first */
        engine_stats first;
        engine_read_stats(all->of[0].e, &first);
        own.page_count = first.pages_total;
    }
    return own;
}

/* ---- opening ---- */

typedef struct opener {
    replica *to;
    model_config config;
    esp_code code;
    esp_error error;
    pthread_t thread;
    bool started;
} opener;

static void *open_one(void *arg) {
    opener *o = arg;
    move_to(&o->to->cpus, NULL);
    o->code = engine_open(&o->to->e, &o->config, NULL, NULL, &o->error);
    return NULL;
}

static void start_opener(opener *o) {
    int failed = pthread_create(&o->thread, NULL, open_one, o);
    o->started = !failed;
    if (failed)
        o->code = esp_fail_field(&o->error, ESP_EXHAUSTED, "--replicas",
                                 "replica %u cannot start a thread: %s", o->config.replica,
                                 strerror(failed));
}

static esp_code open_others(replicas *all, const model_config *c, esp_error *err) {
    opener *of = mem_new(all->count, sizeof *of);
    esp_code code = ESP_OK;
    for (uint32_t i = 1; i < all->count; i++) {
        of[i] = (opener){.to = &all->of[i], .config = config_of(all, c, i)};
        start_opener(&of[i]);
    }
    for (uint32_t i = 1; i < all->count; i++)
        if (of[i].started) pthread_join(of[i].thread, NULL);
    for (uint32_t i = 1; i < all->count && code == ESP_OK; i++) {
        code = of[i].code;
        if (code != ESP_OK && err) *err = of[i].error;
    }
    free(of);
    return code;
}

/* Which of them answers must not be seen in the answer. */
static esp_code check_alike(const replicas *all, esp_error *err) {
    const char *first = engine_profile(all->of[0].e);
    for (uint32_t i = 1; i < all->count; i++) {
        const char *other = engine_profile(all->of[i].e);
        if (strcmp(first, other) == 0) continue;
        return esp_fail_field(
            err, ESP_PRECONDITION, "--replicas",
            "--replicas: replica 0 computes as \"%s\" and replica %u as \"%s\", so "
            "that their answers would differ; serve devices of one kind, from "
            "--device cuda:N on",
            first, i, other);
    }
    return ESP_OK;
}

static void tell(const replicas *all, const model_config *c) {
    char devices[DEVICES_TEXT_BYTES];
    uint32_t tp = ranks_of(c);
    for (uint32_t i = 0; i < all->count && all->count > 1; i++) {
        size_t used = 0;
        devices[0] = 0;
        for (uint32_t rank = 0; all->gpus && rank < tp && used < sizeof devices - 16; rank++)
            used += (size_t)snprintf(devices + used, sizeof devices - used, "%scuda:%u",
                                     rank ? "," : "", all->gpus[i * tp + rank]);
        log_event(LOG_INFO, "replica_opened", "replica=%u devices=%s threads=%u ranks=%u", i,
                  all->gpus ? devices : device_ops(c->device)->name, c->threads, tp);
    }
}

static esp_code open_all(replicas *all, const model_config *config,
                         void (*progress)(void *, uint64_t, uint64_t), void *progress_arg,
                         esp_error *err) {
    model_config c = *config;
    cpu_set_t before;
    esp_code code = plan(all, &c, err);
    if (code != ESP_OK) return code;
    model_config first = config_of(all, &c, 0);
    move_to(&all->of[0].cpus, &before);
    code = engine_open(&all->of[0].e, &first, progress, progress_arg, err);
    move_to(&before, NULL);
    if (code == ESP_OK) code = open_others(all, &c, err);
    if (code == ESP_OK) code = check_alike(all, err);
    if (code == ESP_OK) tell(all, &c);
    return code;
}

esp_code replicas_open(replicas **out, const model_config *config, uint32_t count,
                       void (*progress)(void *, uint64_t, uint64_t), void *progress_arg,
                       esp_error *err) {
    ESP_ASSERT(out && config && count <= REPLICAS_MAX);
    replicas *all = mem_new(1, sizeof *all);
    all->count = count ? count : 1;
    esp_code code = open_all(all, config, progress, progress_arg, err);
    if (code != ESP_OK) {
        replicas_close(all);
        return code;
    }
    replicas_join(all);
    *out = all;
    return ESP_OK;
}

/* Threads that an engine starts stay where it does. */
esp_code replicas_start(replicas *all, esp_error *err) {
    esp_code code = ESP_OK;
    for (uint32_t i = 0; i < all->count && code == ESP_OK; i++) {
        cpu_set_t before;
        move_to(&all->of[i].cpus, &before);
        code = engine_start(all->of[i].e, err);
        move_to(&before, NULL);
    }
    return code;
}
