/* test_adapter_group.c - two replicas' adapters as one's, the loader's turns taken by hand. */
// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/adapter_lab.h"

#include "engine/adapters/adapter_group.h"
#include "engine/adapters/adapters_inner.h"

enum { REPLICAS = 2 };

typedef struct pair {
    lab *of[REPLICAS];
    adapter_group *g;
} pair;

/* pages: of the second. */
static pair pair_open(uint32_t pages) {
    pair p;
    adapters *of[REPLICAS];
    for (uint32_t i = 0; i < REPLICAS; i++) {
        p.of[i] =
            lab_open(&(lab_options){.pages = i ? pages : 64, .seqs_max = 4, .context_max = 64});
        of[i] = p.of[i]->a;
    }
    p.g = group_open(of, REPLICAS);
    return p;
}

static void pair_close(pair *p) {
    group_close(p->g);
    for (uint32_t i = 0; i < REPLICAS; i++)
        lab_close(p->of[i]);
}

static void settle(lab *l) {
    for (int i = 0; i < 50; i++) {
        while (loader_turn(l->a))
            continue;
        adapters_step(l->a, l->now_us += 100000);
    }
}

static void load(lab *l, const char *name, uint32_t file, uint8_t mark, uint32_t pieces) {
    l->files[file] = (lab_file){.mark = mark, .pieces = pieces};
    assert_int_equal(adapters_load(l->a, name, lab_path(file), NULL, NULL), ESP_OK);
}

static void load_both(pair *p, const char *name, uint32_t file, uint8_t mark, uint32_t pieces) {
    for (uint32_t i = 0; i < REPLICAS; i++)
        load(p->of[i], name, file, mark, pieces);
}

static adapter *find_it(lab *l, const char *ref) {
    adapter *ad = NULL;
    assert_int_equal(adapters_find(l->a, ref, &ad, NULL), ESP_OK);
    return ad;
}

/* The list, as "name@version state users;..." */
static void assert_list(const pair *p, const char *wanted) {
    static const char *const states[] = {"listed", "ready", "leaving", "broken"};
    adapter_info *infos;
    size_t count, used = 0;
    char text[512] = "";
    group_list(p->g, &infos, &count);
    for (size_t i = 0; i < count; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s@%u %s %u", i ? "; " : "",
                                 infos[i].name, infos[i].version, states[infos[i].state],
                                 infos[i].users);
    assert_string_equal(text, wanted);
    free(infos);
}

static void equal_content_is_listed_once(void **state) {
    (void)state;
    pair p = pair_open(64);
    load_both(&p, "a", 1, 7, 3);
    adapter *here = find_it(p.of[0], "a"), *there = find_it(p.of[1], "a");
    adapter *again = find_it(p.of[1], "a");
    assert_list(&p, "a@1 ready 3");
    adapter_info *infos;
    size_t count;
    adapters_stats stats;
    group_look(p.g, &infos, &count, &stats);
    assert_int_equal(infos[0].requests, 1); /* those that looked it up with the first */
    assert_int_equal(infos[0].bytes, 3 * LAB_PIECE);
    assert_true(infos[0].current);
    free(infos);
    assert_int_equal(stats.known, 2);
    assert_int_equal(stats.host_bytes, 2 * 2 * LAB_FRAME); /* whole frames */
    adapter_release(p.of[0]->a, here);
    adapter_release(p.of[1]->a, there);
    adapter_release(p.of[1]->a, again);
    pair_close(&p);
}

static void what_differs_stays_apart(void **state) {
    (void)state;
    pair p = pair_open(64);
    load(p.of[0], "a", 1, 7, 3);
    load(p.of[1], "a", 2, 8, 3); /* the same number of other content */
    load(p.of[1], "b", 3, 9, 1); /* known to the second alone */
    assert_list(&p, "a@1 ready 0; a@1 ready 0; b@1 ready 0");
    pair_close(&p);
}

/* The user of an unloaded adapter is seen wherever it runs, beside the one that was loaded anew. */
static void a_version_that_leaves_is_told_from_a_new_one(void **state) {
    (void)state;
    pair p = pair_open(64);
    load_both(&p, "a", 1, 7, 3);
    adapter *there = find_it(p.of[1], "a");
    assert_int_equal(group_unload(p.g, "a", ADAPTER_WAIT, NULL), ESP_OK);
    for (uint32_t i = 0; i < REPLICAS; i++)
        settle(p.of[i]);
    assert_list(&p, "a@1 leaving 1");
    load_both(&p, "a", 1, 7, 3);
    adapter_info *infos;
    size_t count, leaving = 0;
    group_list(p.g, &infos, &count);
    for (size_t i = 0; i < count; i++)
        leaving += infos[i].state == ADAPTER_LEAVING && infos[i].users == 1;
    assert_int_equal(leaving, 1);
    free(infos);
    adapter_release(p.of[1]->a, there);
    settle(p.of[1]);
    group_list(p.g, &infos, &count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(infos[i].state, ADAPTER_READY);
    free(infos);
    pair_close(&p);
}

/* The second has 8 frames, of which pinned ones may have 2. */
static void a_failure_names_its_replica(void **state) {
    (void)state;
    pair p = pair_open(8);
    esp_error err = {0};
    load_both(&p, "a", 1, 7, 7);
    assert_int_equal(group_pin(p.g, "a", true, &err), ESP_EXHAUSTED);
    assert_non_null(strstr(err.message, "replica 1: adapter a takes 4 frames"));
    assert_int_equal(group_unload(p.g, "a", ADAPTER_WAIT, NULL), ESP_OK);
    for (uint32_t i = 0; i < REPLICAS; i++)
        settle(p.of[i]);
    pair_close(&p);
}

static void what_the_second_never_heard_of_is_no_error(void **state) {
    (void)state;
    pair p = pair_open(64);
    esp_error err = {0};
    load(p.of[0], "a", 1, 7, 3);
    assert_int_equal(group_set_alias(p.g, "a", 1, NULL), ESP_OK);
    assert_int_equal(group_unload(p.g, "a@1", ADAPTER_WAIT, NULL), ESP_OK);
    assert_int_equal(group_unload(p.g, "a", ADAPTER_WAIT, &err), ESP_NOT_FOUND);
    assert_int_equal(group_set_alias(p.g, "a", 1, &err), ESP_NOT_FOUND);
    assert_null(strstr(err.message, "replica"));
    settle(p.of[0]);
    pair_close(&p);
}

/* Where an adapter is, without asking for it. */
static void the_tier_tells_who_has_it(void **state) {
    (void)state;
    pair p = pair_open(64);
    char digest[ADAPTER_DIGEST_CHARS], other[ADAPTER_DIGEST_CHARS];
    lab_digest(7, 3, digest);
    lab_digest(8, 3, other);
    load(p.of[0], "a", 1, 7, 3);
    assert_int_equal(adapters_tier(p.of[0]->a, "a", digest), ADAPTER_HOST);
    assert_int_equal(adapters_tier(p.of[0]->a, "a", other), ADAPTER_DISK);
    assert_int_equal(adapters_tier(p.of[1]->a, "a", digest), ADAPTER_DISK);
    assert_int_equal(adapters_pin(p.of[0]->a, "a", true, NULL), ESP_OK);
    settle(p.of[0]);
    assert_int_equal(adapters_tier(p.of[0]->a, "a", digest), ADAPTER_DEVICE);
    adapter *ad = find_it(p.of[0], "a");
    assert_true(lab_is(ad, 7));
    adapter_release(p.of[0]->a, ad);
    assert_list(&p, "a@1 ready 0");
    assert_int_equal(group_pin(p.g, "a", false, NULL), ESP_OK);
    pair_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_content_is_listed_once),
        cmocka_unit_test(what_differs_stays_apart),
        cmocka_unit_test(a_version_that_leaves_is_told_from_a_new_one),
        cmocka_unit_test(a_failure_names_its_replica),
        cmocka_unit_test(what_the_second_never_heard_of_is_no_error),
        cmocka_unit_test(the_tier_tells_who_has_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
