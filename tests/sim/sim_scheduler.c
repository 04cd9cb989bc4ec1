/* sim_scheduler.c - a million random steps of the scheduler, with everything checked after each.
 *
 * A world is one scheduler with few pages, so that it preempts all the time, and clients that
 * submit, cancel and set deadlines at random from a fixed seed. The simulator keeps its own small
 * record of every request and holds each plan to it. Each world is run twice: with plans that are computed
 * before the next is made, and with plans that are in flight meanwhile wherever they may be. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/mem.h"
#include "scheduler/scheduler.h"

enum { STEPS_TOTAL = 1000000 };

typedef struct setting {
    const char *name;
    uint32_t seqs_max, waiting_max, step_tokens, context_max, pages, groups;
    uint32_t short_context; /* 0: none */
    uint32_t prefill_chunk; /* 0: what answers leave */
    uint32_t windows[KV_GROUPS_MAX];
    uint32_t prompt_max, output_max;
    /* Chances in 1024, per step. */
    uint32_t submits, cancels, forced, early_ends;
    uint32_t deadlines; /* per submit */
    bool priorities;
} setting;

/* What a client knows of its request. */
typedef struct client {
    bool live, cancelled;
    bool outgrown; /* its pages were filled as those of a long sequence */
    sched_seq seq;
    sched_request request;
    uint32_t generated, cached;
    uint64_t submitted_step;
} client;

enum { SEQS_MAX = 16 };

/* A work of the plan in flight. */
typedef struct flown {
    sched_work work;
    bool last;      /* its row is its request's last one */
    uint32_t frame; /* of group 0 where its last token is written */
} flown;

typedef struct world {
    const setting *set;
    bool ahead, in_flight;
    flown flight[SEQS_MAX];
    uint32_t flown_count;
    uint64_t led, futile; /* plans made in flight; works whose sequences had ended */
    uint64_t random, step, digest;
    int64_t now_us;
    scheduler *s;
    client *clients; /* [client_count] */
    uint32_t client_count, live_count;
    uint64_t accepted, ended, preempted, longest_steps;
} world;

/* xorshift64*; Vigna, "An experimental exploration of Marsaglia's xorshift generators" (2016). */
static uint32_t draw(world *w, uint32_t below) {
    w->random ^= w->random >> 12;
    w->random ^= w->random << 25;
    w->random ^= w->random >> 27;
    return (uint32_t)((w->random * 0x2545f4914f6cdd1dull) >> 33) % below;
}

static bool chance(world *w, uint32_t in_1024) { return draw(w, 1024) < in_1024; }

static client *random_client(world *w) { return &w->clients[draw(w, w->client_count)]; }

static bool fits(const world *w, const sched_request *r) {
    uint32_t tokens = r->prompt_tokens + r->output_max;
    return tokens <= w->set->context_max &&
           kv_pages_for(sched_kv(w->s), tokens) <= kv_page_count(sched_kv(w->s));
}

static void submit(world *w, client *c) {
    const setting *t = w->set;
    *c = (client){.submitted_step = w->step};
    c->request = (sched_request){.owner = c,
                                 .prompt_tokens = 1 + draw(w, t->prompt_max),
                                 .output_max = 1 + draw(w, t->output_max)};
    if (t->priorities) c->request.priority = (int32_t)draw(w, 3) - 1;
    if (chance(w, t->deadlines)) c->request.deadline_us = w->now_us + draw(w, 20000);
    sched_stats stats;
    sched_read_stats(w->s, &stats);
    bool room = stats.waiting < t->waiting_max;
    esp_error err;
    esp_code code = sched_submit(w->s, w->now_us, &c->request, &c->seq, &err);
    assert_int_equal(code, !fits(w, &c->request) ? ESP_INVALID : room ? ESP_OK : ESP_EXHAUSTED);
    assert_true(code != ESP_EXHAUSTED || err.retry_ms > 0);
    if (code != ESP_OK) return;
    c->live = true;
    w->live_count++;
    w->accepted++;
}

static void end(world *w, client *c) {
    assert_true(c->live);
    c->live = false;
    w->live_count--;
    w->ended++;
    uint64_t steps = w->step - c->submitted_step;
    if (steps > w->longest_steps) w->longest_steps = steps;
}

static void cancel(world *w, client *c) {
    if (!c->live) return;
    sched_cancel(w->s, c->seq);
    c->cancelled = true;
}

static void collect(world *w);

static void disturb(world *w, bool submits) {
    const setting *t = w->set;
    for (uint32_t chances = t->submits; submits && chances > 0;
         chances -= chances < 1024 ? chances : 1024) {
        client *c = random_client(w);
        if (!c->live && chance(w, chances)) submit(w, c);
    }
    if (chance(w, t->cancels)) cancel(w, random_client(w));
    if (!chance(w, t->forced)) return;
    if (w->in_flight) collect(w);
    sched_preempt_newest(w->s);
}

static void check_dropped(world *w, const sched_plan *plan) {
    for (uint32_t i = 0; i < plan->dropped_count; i++) {
        const sched_dropped *d = &plan->dropped[i];
        client *c = d->owner;
        bool late = c->request.deadline_us != 0 && c->request.deadline_us <= w->now_us;
        assert_int_equal(d->seq.generation, c->seq.generation);
        assert_int_equal(d->why, c->cancelled ? ESP_CANCELLED : ESP_DEADLINE);
        assert_true(c->cancelled || late);
        end(w, c);
    }
    for (uint32_t i = 0; i < w->client_count; i++) {
        const client *c = &w->clients[i];
        if (!c->live) continue;
        assert_false(c->cancelled);
        assert_true(c->request.deadline_us == 0 || c->request.deadline_us > w->now_us);
    }
}

static void check_work(world *w, const sched_work *work) {
    client *c = work->owner;
    assert_true(c->live);
    uint32_t known = c->request.prompt_tokens + c->generated;
    /* It goes on where it was, or from the start after a preemption. */
    assert_true(work->first == c->cached || work->first == 0);
    assert_int_equal(work->outgrown, w->set->short_context && known > w->set->short_context);
    assert_true(work->outgrown == c->outgrown || work->first == 0);
    c->outgrown = work->outgrown;
    assert_true(work->count >= 1 && work->first + work->count <= known);
    assert_int_equal(work->row, work->first + work->count == known);
    for (uint32_t group = 0; group < w->set->groups; group++) {
        /* Every page that the step reads or writes is there, and none that it cannot reach. */
        kv_list list = kv_pages(sched_kv(w->s), work->table, group);
        uint32_t window = w->set->windows[group];
        uint32_t oldest = window && work->first >= window ? work->first - window + 1 : 0;
        assert_int_equal(list.begin, oldest / KV_PAGE_TOKENS);
        assert_true((work->first + work->count - 1) / KV_PAGE_TOKENS < list.end);
        assert_true(list.end - list.begin <=
                    kv_group_pages(window, w->set->step_tokens, known + 1));
    }
    c->cached = work->first + work->count;
}

/* What is written in flight is nobody else's. */
static void check_frames(const world *w, const sched_work *work) {
    kv_list list = kv_pages(sched_kv(w->s), work->table, 0);
    for (uint32_t f = 0; w->in_flight && !w->set->windows[0] && f < w->flown_count; f++) {
        const flown *other = &w->flight[f];
        bool same = other->work.seq.slot == work->seq.slot &&
                    other->work.seq.generation == work->seq.generation;
        for (uint32_t i = list.begin; !same && i < list.end; i++)
            assert_int_not_equal(list.pages[i], other->frame);
    }
}

static void check_plan(world *w, const sched_plan *plan) {
    uint32_t tokens = 0, rows = 0, partial = 0, decodes = 0;
    assert_true(plan->work_count <= w->set->seqs_max);
    for (uint32_t i = 0; i < plan->work_count; i++) {
        const sched_work *work = &plan->work[i];
        check_work(w, work);
        check_frames(w, work);
        for (uint32_t j = 0; j < i; j++)
            assert_int_not_equal(plan->work[j].table, work->table);
        tokens += work->count;
        rows += work->row;
        partial += !work->row;
        decodes += work->row && work->count == 1 && work->first > 0;
        w->digest = (w->digest ^ ((uint64_t)work->seq.slot << 32 | work->first)) * 0x100000001b3ull;
    }
    assert_int_equal(tokens, plan->token_count);
    assert_int_equal(rows, plan->row_count);
    assert_true(tokens <= w->set->step_tokens);
    assert_true(partial <= 1);
    if (decodes && w->set->prefill_chunk) assert_true(tokens <= decodes + w->set->prefill_chunk);
    /* Nobody stands still without a reason: those who run are computing. */
    assert_true(plan->work_count > 0 || w->live_count == 0 || plan->preempted > 0 || w->in_flight);
    w->preempted += plan->preempted;
}

static void answer(world *w, const sched_plan *plan) {
    sched_computed(w->s);
    for (uint32_t i = 0; i < plan->work_count; i++) {
        if (!plan->work[i].row) continue;
        client *c = plan->work[i].owner;
        if (++c->generated == c->request.output_max || chance(w, w->set->early_ends)) {
            sched_finish(w->s, w->now_us, c->seq);
            end(w, c);
        } else {
            sched_append(w->s, c->seq);
        }
    }
}

/* ---- plans in flight ---- */

static void finish(world *w, client *c) {
    sched_finish(w->s, w->now_us, c->seq);
    end(w, c);
}

static void collect(world *w) {
    for (uint32_t i = 0; i < w->flown_count; i++) {
        const flown *f = &w->flight[i];
        bool lives = sched_lives(w->s, f->work.seq);
        w->futile += !lives;
        if (lives && (f->last || (f->work.row && chance(w, w->set->early_ends))))
            finish(w, f->work.owner);
    }
    sched_work works[SEQS_MAX];
    for (uint32_t i = 0; i < w->flown_count; i++)
        works[i] = w->flight[i].work;
    sched_collected(w->s, works, w->flown_count);
    w->in_flight = false;
    w->flown_count = 0;
}

static flown flown_of(const world *w, const sched_work *work) {
    const client *c = work->owner;
    kv_list list = kv_pages(sched_kv(w->s), work->table, 0);
    return (flown){.work = *work,
                   .last = work->row && c->generated + 1 == c->request.output_max,
                   .frame = list.pages[(work->first + work->count - 1) / KV_PAGE_TOKENS]};
}

/* The plan is in flight, beside the one before it; then that one is collected. */
static void fly(world *w, const sched_plan *plan) {
    flown next[SEQS_MAX];
    uint32_t count = plan->work_count;
    assert_true(count <= SEQS_MAX);
    for (uint32_t i = 0; i < count; i++)
        next[i] = flown_of(w, &plan->work[i]);
    if (count) sched_launched(w->s);
    for (uint32_t i = 0; i < count; i++) {
        if (!next[i].work.row || next[i].last) continue;
        ((client *)next[i].work.owner)->generated++;
        sched_append(w->s, next[i].work.seq);
    }
    sched_check(w->s);
    w->led += w->in_flight && count;
    if (w->in_flight) collect(w);
    memcpy(w->flight, next, count * sizeof *next);
    w->flown_count = count;
    w->in_flight = count > 0;
}

static void check_books(const world *w) {
    sched_check(w->s);
    kv_check(sched_kv(w->s));
    sched_stats stats;
    sched_read_stats(w->s, &stats);
    assert_int_equal(stats.waiting + stats.running, w->live_count);
    if (w->in_flight) return;
    assert_int_equal(sched_idle(w->s), w->live_count == 0);
    assert_true(w->live_count > 0 || stats.pages_free == stats.pages_total);
}

static void step(world *w, bool submits) {
    sched_plan plan;
    w->now_us += 1 + draw(w, 100);
    disturb(w, submits);
    if (w->in_flight && !sched_may_lead(w->s)) collect(w);
    sched_step(w->s, w->now_us, &plan);
    check_dropped(w, &plan);
    check_plan(w, &plan);
    (w->ahead ? fly : answer)(w, &plan);
    check_books(w);
    w->step++;
}

static world *open_world(const setting *set, bool ahead, uint64_t seed) {
    world *w = mem_new(1, sizeof *w);
    *w = (world){.set = set, .ahead = ahead, .random = seed, .now_us = 1000};
    sched_options options = {.seqs_max = set->seqs_max,
                             .waiting_max = set->waiting_max,
                             .step_tokens = set->step_tokens,
                             .context_max = set->context_max,
                             .short_context = set->short_context,
                             .prefill_chunk = set->prefill_chunk,
                             .kv = {.page_count = set->pages, .group_count = set->groups}};
    memcpy(options.kv.windows, set->windows, sizeof set->windows);
    assert_int_equal(sched_open(&w->s, &options, NULL), ESP_OK);
    w->client_count = set->seqs_max + set->waiting_max + 4;
    w->clients = mem_new(w->client_count, sizeof *w->clients);
    return w;
}

static void close_world(world *w) {
    sched_close(w->s);
    free(w->clients);
    free(w);
}

/* First come, first served, and the oldest running one is never pushed back: it gains a token a
 * step. So each of those ahead takes at most its own tokens in steps, and a step more for each
 * preemption that ended without admitting. One that outgrows the short context runs it over again. Forced preemptions cost a whole run over again. */
static uint64_t patience(const setting *set) {
    uint64_t ahead = set->seqs_max + set->waiting_max + 1;
    return ahead * ((uint64_t)set->prompt_max + 2 * set->output_max + set->short_context);
}

static void run(const setting *set, bool ahead, uint64_t steps) {
    world *w = open_world(set, ahead, 0x9e3779b97f4a7c15ull);
    while (w->step < steps)
        step(w, true);
    uint64_t limit = w->step + patience(set) * (set->forced ? 20 : 1 + ahead);
    while (!sched_idle(w->s) && w->step < limit)
        step(w, false);
    assert_true(sched_idle(w->s) && !w->in_flight);
    bool early = set->cancels + set->early_ends > 0; /* or all ends are known beforehand */
    assert_true(!ahead || (w->led > steps / 20 && (w->futile > 0) == early));
    assert_true(w->accepted == w->ended && w->accepted > steps / 1000);
    assert_true(w->preempted > steps / 1000); /* the pages are short, as they were meant to be */
    /* With priorities a low one may be overtaken for as long as high ones come. */
    if (!set->priorities && !set->forced)
        assert_true(w->longest_steps <= patience(set) * (1 + ahead));
    print_message(
        "%-10s %8llu steps, %7llu requests, %6llu preempted, longest %llu steps, %llu led\n",
        set->name, (unsigned long long)w->step, (unsigned long long)w->accepted,
        (unsigned long long)w->preempted, (unsigned long long)w->longest_steps,
        (unsigned long long)w->led);
    close_world(w);
}

static const setting settings[] = {
    {.name = "crowded",
     .prefill_chunk = 8,
     .seqs_max = 8,
     .waiting_max = 16,
     .step_tokens = 32,
     .context_max = 128,
     .short_context = 50,
     .pages = 12,
     .groups = 1,
     .prompt_max = 60,
     .output_max = 60,
     .submits = 400,
     .cancels = 10},
    {.name = "groups",
     .seqs_max = 6,
     .waiting_max = 6,
     .step_tokens = 24,
     .context_max = 96,
     .pages = 26,
     .groups = 3,
     .prompt_max = 64,
     .output_max = 40,
     .submits = 300,
     .cancels = 5,
     .early_ends = 20},
    {.name = "deadlines",
     .prefill_chunk = 3,
     .seqs_max = 8,
     .waiting_max = 16,
     .step_tokens = 16,
     .context_max = 128,
     .pages = 10,
     .groups = 1,
     .prompt_max = 100,
     .output_max = 50,
     .submits = 500,
     .cancels = 60,
     .deadlines = 600},
    {.name = "priorities",
     .prefill_chunk = 20,
     .seqs_max = 4,
     .waiting_max = 12,
     .step_tokens = 64,
     .context_max = 160,
     .pages = 11,
     .groups = 1,
     .prompt_max = 100,
     .output_max = 70,
     .submits = 100,
     .cancels = 10,
     .deadlines = 50,
     .priorities = true},
    {.name = "forced",
     .seqs_max = 8,
     .waiting_max = 8,
     .step_tokens = 48,
     .context_max = 128,
     .pages = 14,
     .groups = 1,
     .prompt_max = 40,
     .output_max = 40,
     .submits = 300,
     .cancels = 20,
     .forced = 30,
     .deadlines = 100,
     .early_ends = 30},
    {.name = "windows", /* chunks longer than the window */
     .seqs_max = 8,
     .waiting_max = 12,
     .step_tokens = 40,
     .context_max = 256,
     .pages = 24,
     .groups = 3,
     .windows = {0, 24, 24},
     .prompt_max = 100,
     .output_max = 80,
     .submits = 300,
     .cancels = 10,
     .early_ends = 5},
    {.name = "sliding", /* all layers slide; long outputs; some are computed anew */
     .seqs_max = 6,
     .waiting_max = 12,
     .step_tokens = 12,
     .context_max = 400,
     .short_context = 90,
     .pages = 15,
     .groups = 2,
     .windows = {17, 17},
     .prompt_max = 120,
     .output_max = 200,
     .submits = 200,
     .cancels = 20,
     .deadlines = 50,
     .forced = 5,
     .priorities = true},
    {.name = "starved",
     .seqs_max = 12,
     .waiting_max = 4,
     .step_tokens = 3,
     .context_max = 64,
     .pages = 4,
     .groups = 1,
     .prompt_max = 20,
     .output_max = 44,
     .submits = 1024},
};
enum { SETTINGS = sizeof settings / sizeof settings[0] };

static void a_million_steps_keep_every_invariant_and_starve_nobody(void **state) {
    (void)state;
    for (size_t i = 0; i < SETTINGS; i++)
        run(&settings[i], false, (STEPS_TOTAL + SETTINGS - 1) / SETTINGS);
}

/* A sequence has a seat for a step longer than it needs, where it ends with a plan in flight; that is all. */
static void nor_do_plans_in_flight(void **state) {
    (void)state;
    for (size_t i = 0; i < SETTINGS; i++)
        run(&settings[i], true, (STEPS_TOTAL + SETTINGS - 1) / SETTINGS);
}

static uint64_t digest_of(const setting *set, uint64_t seed) {
    world *w = open_world(set, seed % 3 == 0, seed);
    while (w->step < 5000)
        step(w, true);
    uint64_t digest = w->digest;
    close_world(w);
    return digest;
}

/* Same requests at the same times: the same plans, so that a run can be replayed from its log. */
static void equal_histories_give_equal_plans(void **state) {
    (void)state;
    for (size_t i = 0; i < SETTINGS; i++) {
        assert_true(digest_of(&settings[i], 1) == digest_of(&settings[i], 1));
        assert_true(digest_of(&settings[i], 1) != digest_of(&settings[i], 2));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_million_steps_keep_every_invariant_and_starve_nobody),
        cmocka_unit_test(nor_do_plans_in_flight),
        cmocka_unit_test(equal_histories_give_equal_plans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
