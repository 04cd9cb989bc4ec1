/* sim_adapters.c - hundreds of thousands of random steps of residency and scheduler together: adapters
 * are loaded, replaced, pinned, unloaded and lost while requests run through them, in too little memory
 * and too small an arena. The loader's turns are taken by hand, a few between steps, so a history
 * replays from its seed.
 *
 * Held after every step: the books of pages and sequences; each planned sequence reads, to the byte,
 * the adapter that its name meant when the request began; memory within its bound. In the end nothing is
 * left of anything. */
// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/adapter_lab.h"

#include "engine/adapters/adapters_inner.h"
#include "engine/base/log.h"

enum { NAMES = 10, CLIENTS = 48 };

typedef struct setting {
    const char *name;
    uint32_t pages, seqs_max, context_max, pieces_max, host_frames;
    uint32_t prompt_max, output_max;
    /* Chances in 1024, per step. */
    uint32_t loads, unloads, ends, pins, aliases, losses, cancels, submits, base_requests;
} setting;

typedef struct client {
    bool live;
    adapter *ad; /* NULL: the base */
    uint8_t mark;
    bool may_fail;
    sched_seq seq;
    uint32_t output_max, generated;
    uint64_t submitted_step;
} client;

typedef struct world {
    const setting *set;
    lab *l;
    uint64_t random, step;
    int64_t now_us;
    uint8_t meaning[NAMES]; /* mark of the file that the bare name means; 0: not found */
    bool shaken[NAMES];     /* a file of it was lost: it may break */
    uint32_t next_file;
    client clients[CLIENTS];
    uint32_t live;
    uint64_t accepted, done, failed, ended_by_unload, longest, empty_steps;
} world;

static uint32_t draw(world *w, uint32_t below) {
    w->random ^= w->random >> 12;
    w->random ^= w->random << 25;
    w->random ^= w->random >> 27;
    return (uint32_t)((w->random * 0x2545f4914f6cdd1dull) >> 33) % below;
}

static bool chance(world *w, uint32_t in_1024) { return draw(w, 1024) < in_1024; }

static const char *name_of(uint32_t i) {
    static char name[16];
    snprintf(name, sizeof name, "n%u", i);
    return name;
}

static void load(world *w) {
    uint32_t name = draw(w, NAMES), file = w->next_file++ % LAB_FILES;
    lab_file *f = &w->l->files[file];
    *f = (lab_file){.mark = (uint8_t)(1 + draw(w, 250)),
                    .pieces = draw(w, w->set->pieces_max + 1),
                    .fails = draw(w, 8) ? ESP_OK : ESP_INVALID};
    /* With no other thread to give memory back, a load that would wait for it must not be tried. */
    esp_error err = {0};
    esp_code code = adapters_load(w->l->a, name_of(name), lab_path(file), NULL, &err);
    if (f->fails) {
        assert_int_equal(code, ESP_INVALID);
    } else if (code == ESP_OK) {
        w->meaning[name] = f->mark;
        w->shaken[name] = false;
    } else {
        assert_int_equal(code, ESP_EXHAUSTED);
    }
}

/* Pinned ones must not fail their requests by their files' loss: they need them no more. */
static void lose_a_file(world *w) {
    w->l->files[draw(w, LAB_FILES)].fails = ESP_NOT_FOUND;
    for (uint32_t i = 0; i < NAMES; i++)
        w->shaken[i] = true;
    for (uint32_t i = 0; i < CLIENTS; i++)
        w->clients[i].may_fail = true;
}

static void unload(world *w, adapter_unload how) {
    uint32_t name = draw(w, NAMES);
    esp_code code = adapters_unload(w->l->a, name_of(name), how, NULL);
    assert_int_equal(code, w->meaning[name] ? ESP_OK : ESP_NOT_FOUND);
    w->meaning[name] = 0;
}

static void pin(world *w) {
    uint32_t name = draw(w, NAMES);
    esp_code code = adapters_pin(w->l->a, name_of(name), draw(w, 2), NULL);
    assert_true(code == ESP_OK || code == ESP_EXHAUSTED || !w->meaning[name] || w->shaken[name]);
}

static void submit(world *w, client *c) {
    uint32_t name = draw(w, NAMES);
    *c = (client){.submitted_step = w->step, .output_max = 1 + draw(w, w->set->output_max)};
    if (!chance(w, w->set->base_requests)) {
        esp_error err = {0};
        esp_code code = adapters_find(w->l->a, name_of(name), &c->ad, &err);
        if (code != ESP_OK) {
            assert_true(code == ESP_NOT_FOUND ? !w->meaning[name] : w->shaken[name]);
            return;
        }
        assert_true(w->meaning[name]);
        c->mark = w->meaning[name];
        c->may_fail = w->shaken[name];
    }
    sched_request want = {.owner = c,
                          .prompt_tokens = 1 + draw(w, w->set->prompt_max),
                          .output_max = c->output_max,
                          .adapter = c->ad};
    esp_error err = {0};
    esp_code code = sched_submit(w->l->sched, w->now_us, &want, &c->seq, &err);
    if (code != ESP_OK) { /* with its adapter and the pinned ones it fits never */
        assert_int_equal(code, ESP_INVALID);
        adapter_release(w->l->a, c->ad);
        return;
    }
    c->live = true;
    w->live++;
    w->accepted++;
}

static void end(world *w, client *c) {
    assert_true(c->live);
    c->live = false;
    w->live--;
    w->done++;
    uint64_t steps = w->step - c->submitted_step;
    if (steps > w->longest) w->longest = steps;
    adapter_release(w->l->a, c->ad);
}

static void on_end(lab *l, adapter *ad, const esp_error *why) {
    world *w = l->owner;
    assert_int_equal(why->code, ESP_ABORTED);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        client *c = &w->clients[i];
        if (!c->live || c->ad != ad) continue;
        sched_finish(l->sched, w->now_us, c->seq);
        w->ended_by_unload++;
        end(w, c);
    }
}

static void disturb(world *w) {
    const setting *t = w->set;
    if (chance(w, t->loads)) load(w);
    if (chance(w, t->unloads)) unload(w, ADAPTER_WAIT);
    if (chance(w, t->ends)) unload(w, ADAPTER_END);
    if (chance(w, t->pins)) pin(w);
    if (chance(w, t->losses)) lose_a_file(w);
    client *c = &w->clients[draw(w, CLIENTS)];
    if (!c->live && chance(w, t->submits)) submit(w, c);
    c = &w->clients[draw(w, CLIENTS)];
    if (c->live && chance(w, t->cancels)) sched_cancel(w->l->sched, c->seq);
}

static void complain(const client *c) {
    esp_error err = {0};
    adapter_error(c->ad, &err);
    fail_msg("a request failed whose adapter was never lost: %s", err.message);
}

static void check_plan(world *w, const sched_plan *plan) {
    for (uint32_t i = 0; i < plan->work_count; i++) {
        const client *c = plan->work[i].owner;
        assert_true(c->live);
        if (c->ad) assert_true(lab_is(c->ad, c->mark));
    }
    for (uint32_t i = 0; i < plan->dropped_count; i++) {
        client *c = plan->dropped[i].owner;
        esp_code why = plan->dropped[i].why;
        if (why == ESP_UNAVAILABLE && !c->may_fail) complain(c);
        assert_true(why == ESP_CANCELLED || c->ad);
        w->failed += why != ESP_CANCELLED;
        end(w, c);
    }
    w->empty_steps = plan->work_count || !w->live ? 0 : w->empty_steps + 1;
    assert_true(w->empty_steps < 1000);
}

static void answer(world *w, const sched_plan *plan) {
    sched_computed(w->l->sched);
    for (uint32_t i = 0; i < plan->work_count; i++) {
        client *c = plan->work[i].owner;
        if (!plan->work[i].row) continue;
        if (++c->generated == c->output_max) {
            sched_finish(w->l->sched, w->now_us, c->seq);
            end(w, c);
        } else {
            sched_append(w->l->sched, c->seq);
        }
    }
}

static void check_books(world *w) {
    const kv_cache *kv = sched_kv(w->l->sched);
    sched_check(w->l->sched);
    kv_check(kv);
    adapters_stats stats;
    adapters_read_stats(w->l->a, &stats);
    assert_int_equal(stats.frames, kv_leased_count(kv));
    assert_true(stats.frames <= w->set->pages / 2 + w->set->pages / 4);
    assert_true(stats.host_bytes <= (uint64_t)w->set->host_frames * LAB_FRAME);
}

static void step(world *w, bool disturbed) {
    w->now_us += 1 + draw(w, 60000);
    if (disturbed) disturb(w);
    for (uint32_t turns = draw(w, 4); turns > 0; turns--)
        loader_turn(w->l->a);
    adapters_step(w->l->a, w->now_us);
    sched_plan plan;
    sched_step(w->l->sched, w->now_us, &plan);
    check_plan(w, &plan);
    answer(w, &plan);
    if (w->step++ % 8 == 0) check_books(w);
}

static void nothing_is_left(world *w) {
    for (uint32_t i = 0; i < NAMES; i++)
        (void)!adapters_unload(w->l->a, name_of(i), ADAPTER_WAIT, NULL);
    for (int i = 0; i < 20; i++) {
        while (loader_turn(w->l->a))
            continue;
        adapters_step(w->l->a, w->now_us);
    }
    adapters_stats stats;
    adapters_read_stats(w->l->a, &stats);
    assert_int_equal(stats.known, 0);
    assert_int_equal(stats.host_bytes, 0);
    assert_int_equal(kv_free_count(sched_kv(w->l->sched)), w->set->pages);
}

static void run(const setting *set, uint64_t seed, uint64_t steps) {
    world *w = mem_new(1, sizeof *w);
    *w = (world){.set = set, .random = seed * 0x9e3779b97f4a7c15ull, .now_us = 1000};
    w->l = lab_open(&(lab_options){.pages = set->pages,
                                   .seqs_max = set->seqs_max,
                                   .context_max = set->context_max,
                                   .host_memory = (uint64_t)set->host_frames * LAB_FRAME});
    w->l->owner = w;
    w->l->on_end = on_end;
    while (w->step < steps)
        step(w, true);
    while (w->live > 0)
        step(w, false);
    nothing_is_left(w);
    adapters_stats stats;
    adapters_read_stats(w->l->a, &stats);
    sched_stats books;
    sched_read_stats(w->l->sched, &books);
    print_message("%-8s %7llu requests, %5llu failed, %5llu ended, %6llu moves, %6llu evictions, "
                  "%6llu preemptions, longest %llu steps\n",
                  set->name, (unsigned long long)w->accepted, (unsigned long long)w->failed,
                  (unsigned long long)w->ended_by_unload, (unsigned long long)stats.loads,
                  (unsigned long long)stats.evictions, (unsigned long long)books.preemptions_total,
                  (unsigned long long)w->longest);
    assert_true(w->accepted == w->done && w->accepted > steps / 100);
    assert_true(stats.evictions > steps / 1000);
    lab_close(w->l);
    free(w);
}

static const setting settings[] = {
    {.name = "crowded", /* every adapter fits alone, three never together */
     .pages = 24,
     .seqs_max = 6,
     .context_max = 128,
     .pieces_max = 12,
     .host_frames = 64,
     .prompt_max = 60,
     .output_max = 20,
     .loads = 20,
     .unloads = 10,
     .ends = 5,
     .pins = 8,
     .cancels = 10,
     .submits = 500,
     .base_requests = 200},
    {.name = "disk", /* memory for two or three: all others are read again and again */
     .pages = 40,
     .seqs_max = 8,
     .context_max = 96,
     .pieces_max = 8,
     .host_frames = 16,
     .prompt_max = 40,
     .output_max = 30,
     .loads = 20,
     .unloads = 3,
     .submits = 600,
     .base_requests = 100},
    {.name = "lossy", /* files vanish */
     .pages = 48,
     .seqs_max = 8,
     .context_max = 96,
     .pieces_max = 10,
     .host_frames = 12,
     .prompt_max = 40,
     .output_max = 30,
     .loads = 60,
     .unloads = 10,
     .ends = 10,
     .pins = 20,
     .losses = 20,
     .cancels = 20,
     .submits = 600,
     .base_requests = 100},
    {.name = "starved", /* a sequence may take nearly all pages */
     .pages = 12,
     .seqs_max = 4,
     .context_max = 176,
     .pieces_max = 8,
     .host_frames = 64,
     .prompt_max = 120,
     .output_max = 56,
     .loads = 20,
     .unloads = 10,
     .ends = 5,
     .pins = 10,
     .submits = 300,
     .base_requests = 300},
};
enum { SETTINGS = sizeof settings / sizeof settings[0], SEEDS = 3, STEPS = 50000 };

static void random_steps_keep_the_books_and_mix_up_no_adapters(void **state) {
    (void)state;
    log_set_level(LOG_OFF); /* what fails here was made to */
    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        for (size_t i = 0; i < SETTINGS; i++)
            run(&settings[i], seed, STEPS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_steps_keep_the_books_and_mix_up_no_adapters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
