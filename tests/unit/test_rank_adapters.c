/* test_rank_adapters.c - adapters on a model that several ranks share: the answers of one rank, within what another
 * order of sums may change; the same bits whoever is in the batch; they come and go on all ranks alike.
 *
 *   ref  KL of every row <= 1e-9
 *   cpu  mean KL <= 1e-4; through the adapters of tests/vectors/lora, which turn these tiny models around: at most
 *        half of what one rank is away from ref */
// SPDX-License-Identifier: Apache-2.0
#include <pthread.h>

#include "tests/unit/lora_cases.h"
#include "tests/unit/rank_kl.h"
#include "tests/unit/tiny_adapters.h"

enum { ADAPTERS = 8, REQUESTS = 16, OUTPUT = 6, VOCAB = 320 };

static bool has_cpu(void) { return kern_cpu_best_level() != LEVEL_AUTO; }

/* ---- every kind of adapter, on every family that takes it ---- */

typedef struct tally {
    device_kind device;
    uint32_t shared[5], wrong; /* by ranks */
} tally;

/* Rows through the adapter; false: this model or adapter is not served so. */
static bool read_case(const lora_case *c, const char *base, device_kind device, uint32_t tp,
                      rank_rows *out) {
    char path[1024], folder[1024];
    esp_error err = {0};
    engine *e = NULL;
    adapter *ad = NULL;
    lora_case_path(path, "families", base);
    lora_case_path(folder, "lora", c->name);
    model_config config = {.model_path = path, .device = device, .tp = tp, .threads = 1};
    config.rank_patience_seconds = HANG_SECONDS;
    config.adapters.at[config.adapters.count++] = folder;
    esp_code code = engine_open(&e, &config, NULL, NULL, &err);
    if (code == ESP_OK && adapters_find(engine_adapters(e), c->name, &ad, &err)) fail();
    if (code == ESP_OK) {
        code = rank_read_rows(e, ad, c->ids, c->id_count, out, &err);
        if (code != ESP_OK) free(out->at);
    }
    adapter_release(e ? engine_adapters(e) : NULL, ad);
    engine_close(e);
    bool refused = code == ESP_INVALID || code == ESP_UNIMPLEMENTED || code == ESP_PRECONDITION;
    if (code != ESP_OK && !refused) fail_msg("%s on %s: %s", c->name, base, err.message);
    return code == ESP_OK;
}

/* How far ranks may be from one. */
static double most_kl(const lora_case *c, const char *base, device_kind device,
                      const rank_rows *one) {
    rank_rows exact;
    if (device == DEVICE_REF) return 1e-9;
    assert_true(read_case(c, base, DEVICE_REF, 1, &exact));
    double own = rank_kl(&exact, one).mean;
    free(exact.at);
    return fmax(1e-4, own / 2);
}

static void compare_case(const lora_case *c, const char *base, void *arg) {
    tally *t = arg;
    rank_rows one, many;
    if (!strstr(base, ".gguf") || !read_case(c, base, t->device, 1, &one)) return;
    double most = most_kl(c, base, t->device, &one);
    for (uint32_t tp = 2; tp <= 4; tp += 2) {
        if (!read_case(c, base, t->device, tp, &many)) continue;
        rank_distance d = rank_kl(&one, &many);
        bool near = (t->device == DEVICE_REF ? d.worst : d.mean) <= most;
        if (!near)
            print_error("%s on %s, tp %u: mean KL %g, worst %g\n", c->name, base, tp, d.mean,
                        d.worst);
        t->shared[tp]++;
        t->wrong += !near;
        free(many.at);
    }
    free(one.at);
}

static void check_kinds(device_kind device) {
    tally t = {.device = device};
    lora_case_each(compare_case, &t);
    assert_true(t.shared[2] >= 22 && t.shared[4] >= 3);
    assert_int_equal(t.wrong, 0);
}

static void on_ref_every_kind_answers_as_on_one_rank(void **state) {
    (void)state;
    check_kinds(DEVICE_REF);
}

static void on_cpu_every_kind_answers_as_on_one_rank(void **state) {
    (void)state;
    if (!has_cpu()) skip();
    check_kinds(DEVICE_CPU);
}

/* ---- one model, eight adapters ---- */

/* At 2 and 4 ranks attention and the MLP are shared, the latter in uneven parts. */
static const tiny_llama_options MODEL = {.layers = 2,
                                         .hidden = 128,
                                         .heads = 8,
                                         .kv_heads = 4,
                                         .head_dim = 32,
                                         .intermediate = 288,
                                         .vocab = VOCAB,
                                         .context = 256,
                                         .dtype = DT_Q8_0,
                                         .seed = 21};

static char model_path[] = "/tmp/espalier-rank-adapters-XXXXXX";
static tiny_adapters files;

/* Ranks from 1 to 19; two bring an embedding and an output matrix, one of them for more tokens. */
static int make_files(void **state) {
    (void)state;
    static const unsigned targets[] = {TA_ALL, TA_Q | TA_V, TA_O | TA_DOWN};
    static const uint32_t ranks[ADAPTERS] = {8, 16, 1, 19, 4, 12, 17, 2};
    tiny_write(model_path, &MODEL);
    for (uint32_t i = 0; i < ADAPTERS; i++) {
        tiny_adapters_add(&files, &(tiny_adapter_options){.base = &MODEL,
                                                          .rank = ranks[i],
                                                          .targets = targets[i % 3],
                                                          .wholes = i % 4 == 3,
                                                          .added = i == 7 ? 5 : 0,
                                                          .std = 0.05f,
                                                          .seed = 100 + i});
    }
    return 0;
}

static int drop_files(void **state) {
    (void)state;
    tiny_adapters_remove(&files);
    return unlink(model_path);
}

static engine *open_with(model_config config) {
    return tiny_open_with(model_path, &files, ADAPTERS, config);
}

static rank_rows rows_through(engine *e, int which) {
    int32_t ids[40];
    rank_rows rows;
    esp_error err = {0};
    adapter *ad = tiny_find(e, which);
    for (int i = 0; i < 40; i++)
        ids[i] = 3 + i * 37 % 190;
    if (rank_read_rows(e, ad, ids, 40, &rows, &err) != ESP_OK) fail_msg("%s", err.message);
    adapter_release(engine_adapters(e), ad);
    return rows;
}

static void each_adapter_answers_as_on_one_rank(void **state) {
    (void)state;
    for (int d = 0; d <= has_cpu(); d++) {
        device_kind device = d ? DEVICE_CPU : DEVICE_REF;
        engine *one = open_with((model_config){.device = device});
        for (uint32_t tp = 2; tp <= 4; tp++) {
            engine *many = tp == 3 ? NULL : open_with((model_config){.device = device, .tp = tp});
            for (int which = 0; many && which < ADAPTERS; which++) {
                rank_rows a = rows_through(one, which), b = rows_through(many, which);
                rank_distance far = rank_kl(&a, &b);
                if (!(d ? far.mean <= 1e-4 : far.worst <= 1e-9))
                    fail_msg("adapter %d, tp %u: mean KL %g", which, tp, far.mean);
                free(a.at);
                free(b.at);
            }
            engine_close(many);
        }
        engine_close(one);
    }
}

/* ---- law 1 ---- */

static request *make_request(engine *e, uint32_t number, int which) {
    int32_t prompt[64];
    uint32_t count = 1 + number * 7 % 50, noise = number * 2654435761u + 1;
    for (uint32_t i = 0; i < count; i++) {
        noise = noise * 1664525u + 1013904223u;
        prompt[i] = (int32_t)((noise >> 8) % 256);
    }
    request_options o = {.prompt = prompt,
                         .prompt_count = count,
                         .output_max = OUTPUT,
                         .ignore_eos = true,
                         .row_digests = true,
                         .adapters = engine_adapters(e),
                         .adapter = tiny_find(e, which)};
    request *r = NULL;
    esp_error err = {0};
    if (request_new(&r, &o, VOCAB, &err) != ESP_OK) fail_msg("%s", err.message);
    return r;
}

/* Request i goes through this: every adapter, and the base between them. */
static int adapter_of(uint32_t number) {
    return number % 5 == 4 ? BASE : (int)(number * 3 % ADAPTERS);
}

static const tiny_crowd crowd = {REQUESTS, make_request, adapter_of};

static void check_company(model_config config) {
    static tiny_answer alone[REQUESTS], together[REQUESTS];
    engine *e = open_with(config);
    tiny_answer_alone(e, &crowd, alone);
    tiny_answer_together(e, &crowd, 0, together);
    assert_memory_equal(alone, together, sizeof alone);
    tiny_answer_together(e, &crowd, 5, together);
    assert_memory_equal(alone, together, sizeof alone);
    engine_close(e);
    config.max_seqs = config.step_tokens = 13;
    e = open_with(config);
    tiny_answer_together(e, &crowd, 0, together);
    assert_memory_equal(alone, together, sizeof alone);
    engine_close(e);
}

static void company_changes_no_bit(void **state) {
    (void)state;
    for (uint32_t tp = 2; tp <= 4; tp += 2) {
        check_company((model_config){.device = DEVICE_REF, .tp = tp});
        if (!has_cpu()) continue;
        check_company((model_config){.device = DEVICE_CPU, .tp = tp});
        check_company((model_config){.device = DEVICE_CPU, .tp = tp, .activations = ACT_INT8});
    }
}

/* ---- coming and going ---- */

/* Frames for two or three: whoever comes takes the place of another on all ranks. */
static void adapters_that_do_not_fit_take_turns_on_all_ranks(void **state) {
    (void)state;
    static tiny_answer wanted[REQUESTS], seen[REQUESTS];
    for (uint32_t tp = 2; tp <= 4; tp += 2) {
        model_config config = {.device = DEVICE_REF, .tp = tp, .max_seqs = 4};
        engine *e = open_with(config);
        tiny_answer_alone(e, &crowd, wanted);
        engine_close(e);
        config.kv_memory = tp == 2 ? 1500000 : 2500000;
        e = open_with(config);
        for (int round = 0; round < 5; round++) {
            tiny_answer_together(e, &crowd, round % 2 ? 7 : 0, seen);
            assert_memory_equal(wanted, seen, sizeof wanted);
        }
        adapters_stats stats;
        adapters_read_stats(engine_adapters(e), &stats);
        assert_true(stats.evictions > ADAPTERS);
        assert_int_equal(stats.failures, 0);
        engine_close(e);
    }
}

/* Loaded, unloaded and loaded again as another, while requests of others run. */
static void names_change_their_adapter_under_traffic(void **state) {
    (void)state;
    static tiny_answer wanted[REQUESTS];
    tiny_answer seen;
    esp_error err = {0};
    engine *e = open_with((model_config){.device = DEVICE_REF, .tp = 2});
    tiny_answer_alone(e, &crowd, wanted);
    for (uint32_t round = 0; round < 40; round++) {
        uint32_t i = round % REQUESTS;
        request *other = make_request(e, i, adapter_of(i));
        tiny_submit(e, other);
        engine_step(e);
        uint32_t which = round % 3;
        if (adapters_load(engine_adapters(e), "moving", files.folders[which], NULL, &err) != ESP_OK)
            fail_msg("%s", err.message);
        adapter *ad = NULL;
        assert_int_equal(adapters_find(engine_adapters(e), "moving", &ad, &err), ESP_OK);
        /* request `which` as it was through the adapter of that folder */
        request *own = NULL;
        for (uint32_t k = 0; k < REQUESTS && !own; k++) {
            if (adapter_of(k) != (int)which) continue;
            own = make_request(e, k, BASE);
            own->adapter = ad;
            own->adapters = engine_adapters(e);
            tiny_submit(e, own);
            tiny_wait(e, own);
            tiny_keep(own, &seen);
            assert_memory_equal(&seen, &wanted[k], sizeof seen);
        }
        tiny_wait(e, other);
        tiny_keep(other, &seen);
        assert_memory_equal(&seen, &wanted[i], sizeof seen);
        if (round % 2)
            assert_int_equal(adapters_unload(engine_adapters(e), "moving",
                                             round % 4 == 1 ? ADAPTER_WAIT : ADAPTER_END, &err),
                             ESP_OK);
    }
    engine_close(e);
}

/* ---- a rank without room ---- */

static pthread_t planner; /* whose thread is rank 0's */
static _Atomic int packs_left;

/* Of matrices, on the other ranks. */
static esp_code pack_fails(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                           esp_error *err) {
    if (!pthread_equal(pthread_self(), planner) && atomic_fetch_sub(&packs_left, 1) <= 0)
        return esp_fail(err, ESP_EXHAUSTED, "device 1 is full");
    return kern_ref.pack(dev, desc, out, err);
}

/* One adapter fails with the rank's sentence; all else goes on. */
static void a_rank_that_has_no_room_for_an_adapter_fails_that_adapter(void **state) {
    (void)state;
    kern_ops ops = kern_ref;
    ops.pack = pack_fails;
    planner = pthread_self();
    atomic_store(&packs_left, 1 << 20);
    model_config config = {.device = DEVICE_REF, .tp = 2, .ops = &ops};
    config.adapters.count = 1; /* whose matrices come later */
    config.adapters.at[0] = files.options[0];
    engine *e = tiny_open(model_path, config);
    esp_error err = {0};
    if (adapters_load(engine_adapters(e), "a3", files.folders[3], NULL, &err) != ESP_OK)
        fail_msg("%s", err.message);
    atomic_store(&packs_left, 1); /* the embedding, not the output */
    request *fails = make_request(e, 1, 3), *runs = make_request(e, 2, 0);
    tiny_submit(e, fails);
    tiny_submit(e, runs);
    tiny_wait(e, fails);
    tiny_wait(e, runs);
    assert_int_equal(fails->finish, FINISH_ERROR);
    if (!strstr(fails->error.message, "device 1 is full")) fail_msg("%s", fails->error.message);
    assert_int_equal(runs->finish, FINISH_LENGTH);
    request_unref(fails);
    request_unref(runs);
    engine_close(e);
}

/* ---- a rank that packs slowly ---- */

static _Atomic uint32_t slow_us; /* so long the next matrix takes the other ranks */

static esp_code pack_slowly(kern_device *dev, const kern_matrix_desc *desc, kern_matrix **out,
                            esp_error *err) {
    if (!pthread_equal(pthread_self(), planner)) {
        uint32_t us = atomic_exchange(&slow_us, 0);
        if (us) usleep(us);
    }
    return kern_ref.pack(dev, desc, out, err);
}

/* Longer than ranks wait for each other in a step, which is so many seconds. */
static bool answers_beside_a_slow_pack(uint32_t seconds, esp_error *err) {
    kern_ops ops = kern_ref;
    ops.pack = pack_slowly;
    planner = pthread_self();
    atomic_store(&slow_us, 0);
    engine *e = open_with((model_config){
        .device = DEVICE_REF, .tp = 2, .ops = &ops, .rank_patience_seconds = (float)seconds});
    atomic_store(&slow_us, seconds * 1000000 + 500000);
    request *r = make_request(e, 1, 3);
    tiny_submit(e, r);
    tiny_wait(e, r);
    bool answered = r->finish == FINISH_LENGTH;
    *err = r->error;
    if (answered) assert_int_equal(atomic_load(&slow_us), 0);
    request_unref(r);
    engine_close(e);
    return answered;
}

/* On a busy machine any step may take a rank a second, so that it is tried again with more patience. */
static void a_matrix_may_take_longer_to_pack_than_a_step(void **state) {
    (void)state;
    enum { MOST_SECONDS = 32 };
    esp_error err = {0};
    for (uint32_t seconds = 1; !answers_beside_a_slow_pack(seconds, &err); seconds *= 2)
        if (seconds == MOST_SECONDS) fail_msg("%s", err.message);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_ref_every_kind_answers_as_on_one_rank),
        cmocka_unit_test(on_cpu_every_kind_answers_as_on_one_rank),
        cmocka_unit_test(each_adapter_answers_as_on_one_rank),
        cmocka_unit_test(company_changes_no_bit),
        cmocka_unit_test(adapters_that_do_not_fit_take_turns_on_all_ranks),
        cmocka_unit_test(names_change_their_adapter_under_traffic),
        cmocka_unit_test(a_rank_that_has_no_room_for_an_adapter_fails_that_adapter),
        cmocka_unit_test(a_matrix_may_take_longer_to_pack_than_a_step),
    };
    return cmocka_run_group_tests(tests, make_files, drop_files);
}
