/* test_adapter_churn.c - ten thousand loads and unloads beside running requests, with a loader thread, a
 * thread that loads and unloads, one that lists and pins, and this one that steps: nobody computes with
 * another's adapter, and at the end there is as much memory and as many frames as before. */
// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/adapter_lab.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "engine/adapters/adapters_inner.h"
#include "engine/base/clock.h"
#include "tests/unit/hang.h"

#ifdef ESPALIER_SANITIZED
enum { CYCLES = 1000, WARM = 200 };
#else
#include <jemalloc/jemalloc.h>
/* What threads have freed and keep counts as in use: here they keep nothing. */
const char *malloc_conf = "tcache:false";
enum { CYCLES = 10000, WARM = 2000 };
#endif
enum { NAMES = 8, CLIENTS = 16, PAGES = 48, HOST_FRAMES = 24 };

typedef struct client {
    bool live;
    adapter *ad;
    sched_seq seq;
    uint32_t generated;
} client;

typedef struct churn {
    lab *l;
    _Atomic uint32_t cycle;
    _Atomic bool pauses, goes_on; /* at WARM, for memory to be measured with nothing in it */
    _Atomic bool over;
    client clients[CLIENTS];
    uint32_t live;
    _Atomic uint64_t requests;
    uint64_t failed, random;
} churn;

/* Bytes in use in the whole process. */
static size_t memory_in_use(void) {
#ifdef ESPALIER_SANITIZED
    return 0;
#else
    uint64_t epoch = 1;
    size_t bytes = 0, width = sizeof bytes;
    assert_int_equal(mallctl("epoch", NULL, NULL, &epoch, sizeof epoch), 0);
    assert_int_equal(mallctl("stats.allocated", &bytes, &width, NULL, 0), 0);
    return bytes;
#endif
}

static const char *name_of(uint32_t i, char name[16]) {
    snprintf(name, 16, "churn-%u", i % NAMES);
    return name;
}

/* So that names were used, too, however slow the other threads are. */
static bool has_been_used(churn *c) {
    adapters_stats stats;
    adapters_read_stats(c->l->a, &stats);
    return atomic_load(&c->requests) > CYCLES / 10 && stats.loads > CYCLES / 20;
}

/* Loads content that no name has, then unloads an older name, its users or not. */
static void *load_and_unload(void *arg) {
    churn *c = arg;
    char name[16];
    int64_t until_us = clock_now_us() + HANG_US;
    for (uint32_t i = 0; i < CYCLES || (!has_been_used(c) && clock_now_us() < until_us); i++) {
        esp_code code = adapters_load(c->l->a, name_of(i, name), lab_path(i), NULL, NULL);
        assert_int_equal(code, ESP_OK);
        if (i >= NAMES / 2)
            (void)!adapters_unload(c->l->a, name_of(i + NAMES / 2, name),
                                   i % 2 ? ADAPTER_WAIT : ADAPTER_END, NULL);
        atomic_store(&c->cycle, i + 1);
        if (i + 1 == WARM) {
            atomic_store(&c->pauses, true);
            while (!atomic_load(&c->goes_on))
                nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
        }
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL); /* some come to be used */
    }
    atomic_store(&c->over, true);
    return NULL;
}

static void *list_and_pin(void *arg) {
    churn *c = arg;
    char name[16];
    for (uint32_t i = 0; !atomic_load(&c->over); i++) {
        adapter_info *list;
        size_t count;
        adapters_list(c->l->a, &list, &count);
        free(list);
        (void)!adapters_pin(c->l->a, name_of(i, name), i % 3 == 0, NULL);
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
    return NULL;
}

static void end(churn *c, client *who) {
    adapter_release(c->l->a, who->ad);
    who->live = false;
    c->live--;
}

static void on_end(lab *l, adapter *ad, const esp_error *why) {
    churn *c = l->owner;
    assert_int_equal(why->code, ESP_ABORTED);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        client *who = &c->clients[i];
        if (!who->live || who->ad != ad) continue;
        sched_finish(l->sched, clock_now_us(), who->seq);
        end(c, who);
    }
}

static void submit(churn *c, client *who) {
    char name[16];
    c->random = c->random * 6364136223846793005ull + 1442695040888963407ull;
    *who = (client){0};
    name_of((uint32_t)(c->random >> 40), name);
    if (adapters_find(c->l->a, name, &who->ad, NULL) != ESP_OK) return;
    sched_request want = {.owner = who, .prompt_tokens = 20, .output_max = 6, .adapter = who->ad};
    if (sched_submit(c->l->sched, clock_now_us(), &want, &who->seq, NULL) != ESP_OK) {
        adapter_release(c->l->a, who->ad); /* pinned ones leave too little */
        return;
    }
    who->live = true;
    c->live++;
    c->requests++;
}

static void compute(churn *c, const sched_plan *plan) {
    for (uint32_t i = 0; i < plan->work_count; i++) {
        const client *who = plan->work[i].owner;
        unsigned mark;
        assert_int_equal(sscanf(adapter_content(who->ad), "sha256:%32x", &mark), 1);
        assert_true(lab_is(who->ad, (uint8_t)mark));
    }
    sched_computed(c->l->sched);
    for (uint32_t i = 0; i < plan->work_count; i++) {
        client *who = plan->work[i].owner;
        if (!plan->work[i].row) continue;
        if (++who->generated == 6) {
            sched_finish(c->l->sched, clock_now_us(), who->seq);
            end(c, who);
        } else {
            sched_append(c->l->sched, who->seq);
        }
    }
}

static void step(churn *c, bool submits) {
    for (uint32_t i = 0; i < CLIENTS && submits; i++)
        if (!c->clients[i].live) submit(c, &c->clients[i]);
    adapters_step(c->l->a, clock_now_us());
    sched_plan plan;
    sched_step(c->l->sched, clock_now_us(), &plan);
    for (uint32_t i = 0; i < plan.dropped_count; i++) {
        client *who = plan.dropped[i].owner;
        /* Submitted while its name was ended. */
        assert_int_equal(adapter_error(who->ad, NULL), ESP_ABORTED);
        c->failed++;
        end(c, who);
    }
    compute(c, &plan);
    if (plan.work_count == 0) sched_yield();
}

/* No requests, all names gone, and what they held. */
static void empty(churn *c) {
    char name[16];
    while (c->live > 0)
        step(c, false);
    for (uint32_t i = 0; i < NAMES; i++)
        (void)!adapters_unload(c->l->a, name_of(i, name), ADAPTER_WAIT, NULL);
    adapters_stats stats;
    int64_t until_us = clock_now_us() + HANG_US;
    do {
        adapters_step(c->l->a, clock_now_us());
        adapters_read_stats(c->l->a, &stats);
        sched_yield();
    } while ((stats.known > 0 || stats.host_bytes > 0 || stats.frames > 0) &&
             clock_now_us() < until_us);
    assert_int_equal(stats.known, 0);
    assert_int_equal(stats.host_bytes, 0);
    assert_int_equal(kv_free_count(sched_kv(c->l->sched)), PAGES);
    kv_check(sched_kv(c->l->sched));
}

static void loads_and_unloads_beside_requests_leave_nothing_behind(void **state) {
    (void)state;
    churn *c = mem_new(1, sizeof *c);
    c->l = lab_open(&(lab_options){.pages = PAGES,
                                   .seqs_max = 8,
                                   .context_max = 64,
                                   .host_memory = (uint64_t)HOST_FRAMES * LAB_FRAME,
                                   .threaded = true});
    c->l->endless = true;
    c->l->owner = c;
    c->l->on_end = on_end;
    pthread_t loads, lists;
    assert_int_equal(pthread_create(&loads, NULL, load_and_unload, c), 0);
    assert_int_equal(pthread_create(&lists, NULL, list_and_pin, c), 0);
    size_t warm = 0;
    while (!atomic_load(&c->over)) {
        step(c, true);
        if (atomic_load(&c->goes_on) || !atomic_load(&c->pauses)) continue;
        empty(c);
        warm = memory_in_use();
        atomic_store(&c->goes_on, true);
    }
    pthread_join(loads, NULL);
    pthread_join(lists, NULL);
    assert_true(has_been_used(c));
    empty(c);
    size_t after = memory_in_use();
    adapters_stats stats;
    adapters_read_stats(c->l->a, &stats);
    print_message("%u cycles, %llu requests, %llu refused late, %llu moves, %llu evictions; "
                  "%zu bytes in use after %u cycles, %zu at the end\n",
                  (unsigned)c->cycle, (unsigned long long)c->requests, (unsigned long long)c->failed,
                  (unsigned long long)stats.loads, (unsigned long long)stats.evictions, warm,
                  (unsigned)WARM, after);
    assert_true(after < warm + 8 * (CYCLES - WARM)); /* half the smallest block with each load */
    lab_close(c->l);
    free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_and_unloads_beside_requests_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
