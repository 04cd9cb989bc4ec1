/* test_scheduler.c - text scenarios with their expected plans, and the few cases they cannot say.
 *
 * A scenario (tests/unit/scenarios/NAME.txt) is one story, a command a line, # begins a comment:
 *
 *   open seqs=4 waiting=8 step=16 context=256 pages=16 [groups=1] [short=N] [window=N] [chunk=N]
 *   (window: of the last group)
 *   submit NAME prompt=N out=N [priority=N] [deadline=US]
 *   refuse prompt=N out=N code=NAME [field=NAME] [says=WORD] [retry=MS]
 *   step US: PLAN
 *   cancel NAME | finish NAME US | preempt
 *   adapter NAME here|away|broken [frames=N]   (NAME is one letter; a submit's adapter=NAME must hold it.
 *   One that is here has its frames leased; away, they are returned)
 *   lease N: granted|refused
 *   wanted [NAME]...   the adapters that are asked for ahead of their turn since the last such line
 *   state waiting=N running=N free=N
 *
 * PLAN lists, in the plan's order, NAME@FIRST+COUNT, with * when the row is wanted; then
 * preempted=N if any; then NAME=CODE for those dropped; or the word nothing. After a step the plan
 * is computed, each row gives its sequence a token, and a sequence that has all of them is
 * finished. */
// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scheduler/scheduler.h"

enum { ACTORS_MAX = 32, LINE_BYTES = 512 };

/* A sequence of the story; its owner pointer leads back here. */
typedef struct actor {
    char name[16];
    sched_seq seq;
    uint32_t out, generated;
} actor;

/* An adapter of the story, by its letter. */
typedef struct story_adapter {
    enum { AWAY, HERE, BROKEN } where;
    bool wanted; /* ahead of its turn */
    uint32_t frame_count, holds;
    uint32_t frames[64];
} story_adapter;

typedef struct story {
    const char *path;
    int line;
    scheduler *s;
    actor actors[ACTORS_MAX];
    uint32_t actor_count;
    uint32_t steps;
    story_adapter adapters[26];
    uint32_t lent[64];
} story;

static _Noreturn void complain(const story *t, const char *wanted, const char *seen) {
    print_error("%s:%d: wanted \"%s\", seen \"%s\"\n", t->path, t->line, wanted, seen);
    fail();
    abort();
}

/* The text behind "key=" in a line, or NULL. */
static const char *value_of(const char *line, const char *key) {
    char pattern[32];
    snprintf(pattern, sizeof pattern, " %s=", key);
    const char *found = strstr(line, pattern);
    return found ? found + strlen(pattern) : NULL;
}

static int64_t number(const char *line, const char *key, int64_t otherwise) {
    const char *value = value_of(line, key);
    return value ? strtoll(value, NULL, 10) : otherwise;
}

static actor *find(story *t, const char *line) {
    char name[16];
    if (sscanf(line, "%*s %15s", name) == 1)
        for (uint32_t i = 0; i < t->actor_count; i++)
            if (strcmp(t->actors[i].name, name) == 0) return &t->actors[i];
    complain(t, "a name that was submitted", line);
}

static story_adapter *adapter_of(story *t, const char *name) {
    if (!name || *name < 'a' || *name > 'z') complain(t, "an adapter's letter", name ? name : "");
    return &t->adapters[*name - 'a'];
}

static sched_turn on_hold(void *arg, void *adapter, int64_t now_us) {
    (void)arg;
    (void)now_us;
    story_adapter *a = adapter;
    if (a->where == HERE) a->holds++;
    return a->where == HERE ? SCHED_HELD : a->where == AWAY ? SCHED_LATER : SCHED_NEVER;
}

static void on_drop(void *arg, void *adapter) {
    (void)arg;
    story_adapter *a = adapter;
    assert_true(a->holds > 0);
    a->holds--;
}

static void on_want(void *arg, void *adapter) {
    (void)arg;
    ((story_adapter *)adapter)->wanted = true;
}

static void send_away(story *t, story_adapter *a) {
    assert_int_equal(a->holds, 0);
    if (a->where == HERE) sched_return(t->s, a->frame_count, a->frames);
    a->where = AWAY;
}

/* In a story nobody waits for what is here, so that all of it is unwanted. */
static bool on_shed(void *arg, sched_shed level, const void *but) {
    (void)level;
    story *t = arg;
    for (int i = 0; i < 26; i++) {
        story_adapter *a = &t->adapters[i];
        if (a->where != HERE || a->holds || a == but || !a->frame_count) continue;
        send_away(t, a);
        return true;
    }
    return false;
}

static uint32_t on_frames(void *arg, const void *adapter) {
    (void)arg;
    return ((const story_adapter *)adapter)->frame_count;
}

static uint32_t on_pinned(void *arg, const void *but) {
    (void)arg;
    (void)but;
    return 0;
}

static void do_adapter(story *t, const char *line) {
    char name[2], where[16];
    if (sscanf(line, "adapter %1s %15s", name, where) != 2) complain(t, "adapter NAME WHERE", line);
    story_adapter *a = adapter_of(t, name);
    send_away(t, a);
    a->frame_count = (uint32_t)number(line, "frames", a->frame_count);
    if (strcmp(where, "away") == 0) return;
    a->where = strcmp(where, "here") == 0 ? HERE : BROKEN;
    if (a->where == HERE && !sched_lease(t->s, a->frame_count, a->frames))
        complain(t, "frames for it", line);
    sched_retry(t->s, a);
}

static void do_wanted(story *t, const char *line) {
    char seen[128] = "wanted";
    for (int i = 0; i < 26; i++) {
        size_t used = strlen(seen);
        if (t->adapters[i].wanted) snprintf(seen + used, sizeof seen - used, " %c", 'a' + i);
        t->adapters[i].wanted = false;
    }
    if (strcmp(seen, line) != 0) complain(t, line, seen);
}

static void do_lease(story *t, const char *line) {
    uint32_t count;
    char wanted[16];
    if (sscanf(line, "lease %u: %15s", &count, wanted) != 2) complain(t, "lease N: ANSWER", line);
    bool granted = sched_lease(t->s, count, t->lent);
    if (granted) sched_return(t->s, count, t->lent);
    const char *seen = granted ? "granted" : "refused";
    if (strcmp(seen, wanted) != 0) complain(t, wanted, seen);
}

static void do_open(story *t, const char *line) {
    sched_options options = {.seqs_max = (uint32_t)number(line, "seqs", 0),
                             .waiting_max = (uint32_t)number(line, "waiting", 0),
                             .step_tokens = (uint32_t)number(line, "step", 0),
                             .prefill_chunk = (uint32_t)number(line, "chunk", 0),
                             .context_max = (uint32_t)number(line, "context", 0),
                             .short_context = (uint32_t)number(line, "short", 0),
                             .kv = {.page_count = (uint32_t)number(line, "pages", 0),
                                    .group_count = (uint32_t)number(line, "groups", 1)}};
    if (options.kv.group_count)
        options.kv.windows[options.kv.group_count - 1] = (uint32_t)number(line, "window", 0);
    esp_error err = {0};
    if (sched_open(&t->s, &options, &err) != ESP_OK) complain(t, "open", err.message);
    sched_set_adapters(t->s, &(sched_adapters){.arg = t,
                                               .hold = on_hold,
                                               .drop = on_drop,
                                               .want = on_want,
                                               .shed = on_shed,
                                               .frames = on_frames,
                                               .pinned = on_pinned});
}

static sched_request request_of(const char *line, void *owner) {
    return (sched_request){.owner = owner,
                           .prompt_tokens = (uint32_t)number(line, "prompt", 0),
                           .output_max = (uint32_t)number(line, "out", 0),
                           .prompt_only =
                               number(line, "prompt_only", 0) || number(line, "whole", 0),
                           .whole = number(line, "whole", 0) > 0,
                           .priority = (int32_t)number(line, "priority", 0),
                           .deadline_us = number(line, "deadline", 0)};
}

static void do_submit(story *t, const char *line) {
    assert_true(t->actor_count < ACTORS_MAX);
    actor *a = &t->actors[t->actor_count++];
    *a = (actor){0};
    if (sscanf(line, "%*s %15s", a->name) != 1) complain(t, "a name", line);
    sched_request request = request_of(line, a);
    if (value_of(line, "adapter")) request.adapter = adapter_of(t, value_of(line, "adapter"));
    a->out = request.output_max;
    esp_error err = {0};
    if (sched_submit(t->s, 0, &request, &a->seq, &err) != ESP_OK)
        complain(t, "accepted", err.message);
}

static void must_hold(const story *t, const char *line, const char *key, const char *seen) {
    const char *value = value_of(line, key);
    if (!value) return;
    char wanted[64];
    snprintf(wanted, sizeof wanted, "%.*s", (int)strcspn(value, " "), value);
    if (!strstr(seen, wanted)) complain(t, wanted, seen);
}

static void do_refuse(story *t, const char *line) {
    sched_request request = request_of(line, NULL);
    if (value_of(line, "adapter")) request.adapter = adapter_of(t, value_of(line, "adapter"));
    sched_seq seq;
    esp_error err = {0};
    esp_code code = sched_submit(t->s, 0, &request, &seq, &err);
    if (code == ESP_OK) complain(t, "refused", "accepted");
    assert_int_equal(code, err.code);
    must_hold(t, line, "code", esp_code_name(code));
    must_hold(t, line, "field", err.field);
    must_hold(t, line, "says", err.message);
    assert_int_equal(err.retry_ms, number(line, "retry", 0));
}

static void describe(const sched_plan *plan, char *out, size_t bytes) {
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < plan->work_count; i++) {
        const sched_work *w = &plan->work[i];
        used += (size_t)snprintf(out + used, bytes - used, "%s%s@%u+%u%s", used ? " " : "",
                                 ((actor *)w->owner)->name, w->first, w->count, w->row ? "*" : "");
    }
    if (plan->preempted)
        used += (size_t)snprintf(out + used, bytes - used, "%spreempted=%u", used ? " " : "",
                                 plan->preempted);
    for (uint32_t i = 0; i < plan->dropped_count; i++) {
        const sched_dropped *d = &plan->dropped[i];
        used += (size_t)snprintf(out + used, bytes - used, "%s%s=%s", used ? " " : "",
                                 ((actor *)d->owner)->name, esp_code_name(d->why));
    }
    if (used == 0) snprintf(out, bytes, "nothing");
}

static void answer(story *t, const sched_plan *plan, int64_t now_us) {
    sched_computed(t->s);
    for (uint32_t i = 0; i < plan->work_count; i++) {
        if (!plan->work[i].row) continue;
        actor *a = plan->work[i].owner;
        if (++a->generated >= a->out)
            sched_finish(t->s, now_us, a->seq);
        else
            sched_append(t->s, a->seq);
    }
}

static void do_step(story *t, const char *line) {
    int64_t now_us;
    int wanted_at = 0;
    if (sscanf(line, "step %" SCNd64 ": %n", &now_us, &wanted_at) != 1 || wanted_at == 0)
        complain(t, "step US: PLAN", line);
    sched_plan plan;
    sched_step(t->s, now_us, &plan);
    char seen[1024];
    describe(&plan, seen, sizeof seen);
    if (strcmp(seen, line + wanted_at) != 0) complain(t, line + wanted_at, seen);
    answer(t, &plan, now_us);
    t->steps++;
}

static void do_finish(story *t, const char *line) {
    int64_t now_us = 0;
    sscanf(line, "finish %*s %" SCNd64, &now_us);
    sched_finish(t->s, now_us, find(t, line)->seq);
}

static void do_state(story *t, const char *line) {
    sched_stats stats;
    sched_read_stats(t->s, &stats);
    char seen[128];
    snprintf(seen, sizeof seen, "state waiting=%u running=%u free=%u", stats.waiting, stats.running,
             stats.pages_free);
    if (strcmp(seen, line) != 0) complain(t, line, seen);
}

static void do_line(story *t, const char *line) {
    char word[16] = "";
    sscanf(line, "%15s", word);
    if (strcmp(word, "open") == 0)
        do_open(t, line);
    else if (strcmp(word, "submit") == 0)
        do_submit(t, line);
    else if (strcmp(word, "refuse") == 0)
        do_refuse(t, line);
    else if (strcmp(word, "step") == 0)
        do_step(t, line);
    else if (strcmp(word, "cancel") == 0)
        sched_cancel(t->s, find(t, line)->seq);
    else if (strcmp(word, "finish") == 0)
        do_finish(t, line);
    else if (strcmp(word, "preempt") == 0)
        assert_true(sched_preempt_newest(t->s));
    else if (strcmp(word, "state") == 0)
        do_state(t, line);
    else if (strcmp(word, "adapter") == 0)
        do_adapter(t, line);
    else if (strcmp(word, "wanted") == 0)
        do_wanted(t, line);
    else if (strcmp(word, "lease") == 0)
        do_lease(t, line);
    else
        complain(t, "a command", line);
    sched_check(t->s);
    kv_check(sched_kv(t->s));
}

static void tell(const char *path) {
    static story t;
    t = (story){.path = path};
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    char line[LINE_BYTES];
    while (fgets(line, sizeof line, file)) {
        t.line++;
        line[strcspn(line, "#\n")] = '\0';
        for (size_t n = strlen(line); n > 0 && line[n - 1] == ' '; n--)
            line[n - 1] = '\0';
        if (line[0]) do_line(&t, line);
    }
    fclose(file);
    assert_true(t.s != NULL);
    sched_close(t.s);
}

/* Every file of tests/unit/scenarios; each tells in its comments what it is about. */
static void scenarios_lead_to_their_plans(void **state) {
    (void)state;
    glob_t found;
    assert_int_equal(glob(TEST_SOURCE_DIR "/tests/unit/scenarios/*.txt", 0, NULL, &found), 0);
    assert_true(found.gl_pathc >= 8);
    for (size_t i = 0; i < found.gl_pathc; i++)
        tell(found.gl_pathv[i]);
    globfree(&found);
}

static scheduler *open_small(uint32_t waiting_max) {
    sched_options options = {.seqs_max = 2,
                             .waiting_max = waiting_max,
                             .step_tokens = 32,
                             .context_max = 128,
                             .kv = {.page_count = 16, .group_count = 1}};
    scheduler *s;
    assert_int_equal(sched_open(&s, &options, NULL), ESP_OK);
    return s;
}

static sched_seq submit(scheduler *s, int64_t now_us) {
    sched_seq seq;
    sched_request request = {.prompt_tokens = 8, .output_max = 4};
    assert_int_equal(sched_submit(s, now_us, &request, &seq, NULL), ESP_OK);
    return seq;
}

/* A client's cancel may arrive after its request ended and the slot has a new owner. */
static void a_stale_cancel_harms_nobody(void **state) {
    (void)state;
    scheduler *s = open_small(1);
    sched_plan plan;
    sched_seq old = submit(s, 0);
    sched_finish(s, 1, old);
    bool same_slot = false;
    for (int i = 0; i < 3; i++) { /* three slots come back in turn */
        sched_seq now = submit(s, 2);
        same_slot |= now.slot == old.slot;
        sched_cancel(s, old);
        sched_cancel(s, (sched_seq){0});
        sched_cancel(s, (sched_seq){1000000, 1});
        sched_step(s, 3, &plan);
        assert_int_equal(plan.dropped_count, 0);
        assert_int_equal(plan.work_count, 1);
        sched_finish(s, 4, now);
    }
    assert_true(same_slot);
    assert_true(sched_idle(s));
    sched_close(s);
}

/* The step was launched, then the sequence pushed back: its sampled token is kept, and known ones
 * are computed again from the first. */
static void a_token_sampled_before_a_preemption_is_kept(void **state) {
    (void)state;
    scheduler *s = open_small(2);
    sched_plan plan;
    sched_seq seq = submit(s, 0);
    sched_step(s, 0, &plan);
    sched_computed(s);
    assert_true(sched_preempt_newest(s));
    sched_append(s, seq);
    sched_check(s);
    sched_step(s, 1, &plan);
    assert_int_equal(plan.work_count, 1);
    assert_int_equal(plan.work[0].first, 0);
    assert_int_equal(plan.work[0].count, 9);
    assert_true(plan.work[0].row);
    sched_close(s);
}

static uint32_t launch(scheduler *s, int64_t now_us, sched_work *works) {
    sched_plan plan;
    sched_step(s, now_us, &plan);
    memcpy(works, plan.work, plan.work_count * sizeof *works);
    sched_launched(s);
    for (uint32_t i = 0; i < plan.work_count; i++)
        sched_append(s, works[i].seq);
    sched_check(s);
    return plan.work_count;
}

/* One of two ends with the first step while the second is in flight, which writes to its page: page and seat are let
 * go with that one, and who waits comes in then. Frames are leased when nothing is in flight. */
static void what_a_step_in_flight_uses_is_kept(void **state) {
    (void)state;
    scheduler *s = open_small(3);
    sched_work first[2], second[2], third[2];
    uint32_t frame;
    sched_seq ends = submit(s, 0), stays = submit(s, 0), waits = submit(s, 0);
    assert_int_equal(launch(s, 0, first), 2);
    assert_true(sched_may_lead(s));
    assert_int_equal(launch(s, 1, second), 2);
    assert_int_equal(second[0].first, 8);
    assert_false(sched_lease(s, 1, &frame));
    sched_finish(s, 2, ends);
    sched_collected(s, first, 2);
    assert_false(sched_lives(s, ends));
    assert_int_equal(kv_free_count(sched_kv(s)), 14);

    assert_true(sched_may_lead(s));
    assert_int_equal(launch(s, 2, third), 1);
    assert_int_equal(third[0].seq.slot, stays.slot);
    sched_collected(s, second, 2);
    sched_check(s);
    assert_int_equal(kv_free_count(sched_kv(s)), 15);
    sched_collected(s, third, 1);
    assert_int_equal(launch(s, 3, first), 2);
    assert_int_equal(first[1].seq.slot, waits.slot);
    sched_close(s);
}

/* Pushed back between plan and result: the result must not count as cached. */
static void a_plan_of_a_preempted_sequence_does_not_count(void **state) {
    (void)state;
    scheduler *s = open_small(2);
    sched_plan plan;
    submit(s, 0);
    sched_step(s, 0, &plan);
    assert_true(sched_preempt_newest(s));
    sched_computed(s);
    sched_check(s);
    sched_step(s, 1, &plan);
    assert_int_equal(plan.work[0].first, 0);
    assert_int_equal(plan.work[0].count, 8);
    assert_false(sched_idle(s));
    sched_close(s);
}

/* A plan that was never computed (the device failed) is planned again. */
static void a_plan_that_was_not_computed_comes_again(void **state) {
    (void)state;
    scheduler *s = open_small(2);
    sched_plan plan;
    submit(s, 0);
    for (int i = 0; i < 3; i++) {
        sched_step(s, i, &plan);
        assert_int_equal(plan.token_count, 8);
        sched_check(s);
    }
    sched_close(s);
}

static uint32_t retry_hint(scheduler *s, int64_t now_us) {
    sched_seq seq;
    esp_error err;
    sched_request request = {.prompt_tokens = 8, .output_max = 4};
    assert_int_equal(sched_submit(s, now_us, &request, &seq, &err), ESP_EXHAUSTED);
    return err.retry_ms;
}

/* Finishes every 200 ms: about that long; then a stall, and the hint grows with it, to a cap. */
static void the_retry_hint_follows_the_pace_of_finishes(void **state) {
    (void)state;
    scheduler *s = open_small(1);
    int64_t now_us = 1000000;
    for (int i = 0; i < 50; i++, now_us += 200000)
        sched_finish(s, now_us, submit(s, now_us));
    now_us -= 200000;
    submit(s, now_us);
    assert_int_equal(retry_hint(s, now_us), 200);
    assert_int_equal(retry_hint(s, now_us + 5000000), 5000);
    assert_int_equal(retry_hint(s, now_us + ((int64_t)1 << 60)), 60000);
    sched_close(s);
}

static void limits_of_zero_are_refused_by_flag(void **state) {
    (void)state;
    const sched_options good = {.seqs_max = 1,
                                .waiting_max = 1,
                                .step_tokens = 1,
                                .context_max = 1,
                                .kv = {.page_count = 1, .group_count = 1}};
    sched_options bad[6] = {good, good, good, good, good, good};
    const char *fields[] = {"--max-seqs",    "--max-waiting", "--step-tokens",
                            "--max-context", "--kv-memory",   "--max-seqs"};
    bad[0].seqs_max = 0;
    bad[1].waiting_max = 0;
    bad[2].step_tokens = 0;
    bad[3].context_max = 0;
    bad[4].kv.page_count = 0;
    bad[5].seqs_max = UINT32_MAX;
    for (int i = 0; i < 6; i++) {
        scheduler *s;
        esp_error err;
        assert_int_equal(sched_open(&s, &bad[i], &err), ESP_INVALID);
        assert_string_equal(err.field, fields[i]);
        assert_null(s);
    }
    sched_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scenarios_lead_to_their_plans),
        cmocka_unit_test(a_stale_cancel_harms_nobody),
        cmocka_unit_test(a_token_sampled_before_a_preemption_is_kept),
        cmocka_unit_test(what_a_step_in_flight_uses_is_kept),
        cmocka_unit_test(a_plan_of_a_preempted_sequence_does_not_count),
        cmocka_unit_test(a_plan_that_was_not_computed_comes_again),
        cmocka_unit_test(the_retry_hint_follows_the_pace_of_finishes),
        cmocka_unit_test(limits_of_zero_are_refused_by_flag),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
