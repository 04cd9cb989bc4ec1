/* bench_residency.c - how long an adapter takes to come onto the device: from disk (read, checked, packed,
 * copied into frames) and from memory (copied). One JSON row for each.
 *
 *   bench_residency MODEL STORE COUNT
 *
 * The store's adapters are lora-0000 to lora-<COUNT - 1> (make_adapters). They come one after another,
 * with nothing else to do: once with memory for few, and once with memory for all and frames for few.
 * cpu_ms is processor time of the whole process: what it takes on a machine that has other things to do. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/engine.h"

static void die(const char *what, const esp_error *err) {
    fprintf(stderr, "bench_residency: %s: %s\n", what, err->message);
    exit(1);
}

static double cpu_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

typedef struct move {
    double ms, cpu_ms;
} move;

/* The engine thread's part is done here, every 50 us. */
static move bring(adapters *a, const char *name) {
    esp_error err = {0};
    adapter *ad = NULL;
    sched_adapters how = adapters_for_scheduler(a);
    double cpu = cpu_ms();
    int64_t began_us = clock_now_us();
    if (adapters_find(a, name, &ad, &err) != ESP_OK) die(name, &err);
    for (sched_turn turn = SCHED_LATER; turn != SCHED_HELD;) {
        adapters_step(a, clock_now_us());
        turn = how.hold(how.arg, ad, clock_now_us());
        if (turn == SCHED_NEVER) {
            adapter_error(ad, &err);
            die(name, &err);
        }
        if (turn == SCHED_LATER) nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
    move m = {(double)(clock_now_us() - began_us) * 1e-3, cpu_ms() - cpu};
    how.drop(how.arg, ad);
    adapter_release(a, ad);
    return m;
}

static int by_time(const void *x, const void *y) {
    const move *a = x, *b = y;
    return (a->ms > b->ms) - (a->ms < b->ms);
}

static void print_row(const char *from, move *moves, uint32_t count, const adapter_info *info) {
    double cpu = 0;
    for (uint32_t i = 0; i < count; i++)
        cpu += moves[i].cpu_ms;
    qsort(moves, count, sizeof *moves, by_time);
    printf("{\"from\":\"%s\",\"adapters\":%u,\"packed_bytes\":%llu,\"file_bytes\":%llu,"
           "\"ms_p50\":%.3f,\"ms_p99\":%.3f,\"cpu_ms_mean\":%.3f}\n",
           from, count, (unsigned long long)info->bytes, (unsigned long long)info->file_bytes,
           moves[count / 2].ms, moves[count - 1 - count / 100].ms, cpu / count);
}

/* Two rounds, the second one counts: by then memory holds what it can. */
static void run(model_config config, const char *from, uint32_t count, uint64_t memory) {
    esp_error err = {0};
    engine *e = NULL;
    config.adapter_memory = memory;
    if (engine_open(&e, &config, NULL, NULL, &err) != ESP_OK) die("engine", &err);
    adapters *a = engine_adapters(e);
    move *moves = mem_new(count, sizeof *moves);
    char name[32];
    for (uint32_t i = 0; i < 2 * count; i++) {
        snprintf(name, sizeof name, "lora-%04u", i % count);
        moves[i % count] = bring(a, name);
    }
    adapter *ad;
    adapter_info info;
    if (adapters_find(a, name, &ad, &err) != ESP_OK) die(name, &err);
    adapter_read_info(a, ad, &info);
    adapter_release(a, ad);
    print_row(from, moves, count, &info);
    free(moves);
    engine_close(e);
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: bench_residency MODEL STORE COUNT\n");
        return 64;
    }
    uint32_t count = (uint32_t)strtoul(argv[3], NULL, 10);
    model_config config = {.model_path = argv[1],
                           .adapter_store = argv[2],
                           .max_seqs = 1,
                           .max_context = 64,
                           .kv_memory = 128 << 20};
    if (count < 2) return 64;
    run(config, "disk", count, 48 << 20);
    run(config, "memory", count, (uint64_t)4 << 30);
    return 0;
}
