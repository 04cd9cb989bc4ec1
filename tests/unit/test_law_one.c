/* test_law_one.c - law 1 as a property: random models, random requests, and each time the same bits
 * of every row of logits that a token is picked from, whatever the batch, the chunks, the threads
 * and the preemptions. On every kernel level of this machine, in every mode.
 *
 * The seed is printed and other each time; ESPALIER_LAW_SEED=N repeats a run. The last test plants
 * faults of the kinds that the law forbids, and wants each one found. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/random.h>

#include <assert.h>

#include <cmocka.h>

#include "engine/base/pool.h"
#include "tests/unit/tiny_engine.h"

#ifdef ESPALIER_SANITIZED
enum {
    REQUESTS = 12,
    FAMILIES_TRIED = 1,
    WAYS_TRIED = 3,
    RANDOM_WAYS = 1
}; /* instrumented: slow */
#else
enum { REQUESTS = 64, FAMILIES_TRIED = 2, WAYS_TRIED = 5, RANDOM_WAYS = 1 };
#endif
enum { OUTPUT = 6, LONG_OUTPUT = 20 }; /* the long ones of some outgrow a page */
enum { PROMPT_MAX = 100, LEAST_IDS = 3, SAFE_IDS = 250, STEPS_MAX = 1000000 };
enum { CROWD_PROMPT = KV_PAGE_TOKENS - 1 }; /* a page holds it and the first token of output */

static uint64_t seed;

static uint32_t draw(uint64_t *state, uint32_t below) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u); /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) >> 32) % below;
}

static int choose_seed(void **state) {
    (void)state;
    const char *given = getenv("ESPALIER_LAW_SEED");
    uint32_t drawn = 0;
    assert_int_equal(getrandom(&drawn, sizeof drawn, 0), sizeof drawn);
    seed = given ? strtoull(given, NULL, 10) : drawn;
    print_message("ESPALIER_LAW_SEED=%llu\n", (unsigned long long)seed);
    return 0;
}

/* ---- what is varied ---- */

typedef struct level {
    const char *name;
    device_kind device;
    kern_level level;
} level;

static const level REF = {"ref", DEVICE_REF, LEVEL_AUTO};
static const level LEVELS[] = {{"cpu:avx2", DEVICE_CPU, LEVEL_AVX2},
                               {"cpu:avx512", DEVICE_CPU, LEVEL_AVX512},
                               {"cpu:amx", DEVICE_CPU, LEVEL_AMX}};

/* A mode has bits of its own; within it the law holds. ref has but the first ones. */
typedef struct mode {
    const char *name;
    model_config config;
} mode;

static const mode MODES[] = {
    {"default", {0}},
    {"two ranks", {.tp = 2}},
    {"kv f32", {.kv_dtype = DT_F32, .kv_dtype_given = true}},
    {"int8 activations", {.activations = ACT_INT8}},
};
enum { MODE_COUNT = sizeof MODES / sizeof *MODES, REF_MODES = 2 };

/* A way to compute the same requests. */
typedef struct way {
    const char *name;
    uint32_t max_seqs, step_tokens, threads, preempt_every;
    bool few_pages;
    bool crowd; /* other requests than the mixed ones: see make_request */
} way;

static const way ALONE = {"one by one", 1, 2048, 1, 0, false, false};
static const way WAYS[] = {
    {"64 at once, whole prompts", 64, 2048, 1, 0, false, false},
    {"2 threads, few pages", 64, 200, 2, 0, true, false},
    {"2 threads, preempted each 2nd step", 64, 70, 2, 2, false, false},
    {"one token a step", 1, 1, 1, 0, false, false},
    {"chunks of 33, 7 threads", 33, 33, 7, 0, false, false},
};
enum { WAY_COUNT = sizeof WAYS / sizeof *WAYS };
static const way CROWD_ALONE = {"a crowd, one by one", 1, 2048, 1, 0, false, true};
static const way CROWD_PRESSED = {"a crowd, few pages", 64, 200, 2, 0, true, true};
static_assert((int)WAYS_TRIED <= (int)WAY_COUNT, "instrumented builds leave the last ones out");

static way draw_way(uint64_t *state) {
    static const uint32_t threads[] = {1, 2, 7};
    way w = {.name = "at random", .max_seqs = 1 + draw(state, 64)};
    w.step_tokens = w.max_seqs + draw(state, 300);
    w.threads = threads[draw(state, 3)];
    /* Who is alone has time to compute its tokens anew, and one more. */
    uint32_t anew = (PROMPT_MAX + LONG_OUTPUT) / w.step_tokens + 3;
    w.preempt_every = draw(state, 2) ? anew + draw(state, 9) : 0;
    return w;
}

/* ---- models ---- */

static const char *const FAMILIES[] = {"llama3", "qwen2", "qwen3",   "gemma3", "gemma2",
                                       "phi3",   "phi4",  "mistral", "blocks"};
enum { FAMILY_COUNT = sizeof FAMILIES / sizeof *FAMILIES };

static void draw_model(uint64_t *state, char *path) {
    static const esp_dtype dtypes[] = {DT_F32, DT_F16, DT_BF16, DT_Q8_0, DT_Q4_0, DT_Q4_1};
    uint32_t kv_heads = 1 + draw(state, 3), groups = 1 + draw(state, 4);
    tiny_llama_options o = {.layers = 1 + draw(state, 3),
                            .hidden = 32 * (2 + draw(state, 6)),
                            .heads = 2 * kv_heads * groups,
                            .kv_heads = 2 * kv_heads,
                            .head_dim = 16 * (1 + draw(state, 4)),
                            .intermediate =
                                32 * (2 + draw(state, 8)), /* a block for each of two ranks */
                            .vocab = 300 + draw(state, 200),
                            .dtype = dtypes[draw(state, sizeof dtypes / sizeof *dtypes)],
                            .seed = draw(state, UINT32_MAX),
                            .tied = draw(state, 2)};
    tiny_write(path, &o);
}

/* ---- requests ---- */

/* The same for the same number; mixed policies, and mixed lengths but in a crowd. Each of a crowd takes
 * one page at first and outgrows it, so that where many start and few pages are, some must give way. */
static request *make_request(uint32_t number, bool crowd, uint32_t context, uint32_t vocab) {
    int32_t prompt[PROMPT_MAX];
    uint64_t state = seed ^ (number * 0x2545f4914f6cdd1dull);
    uint32_t room = context - LONG_OUTPUT, most = room < PROMPT_MAX ? room : PROMPT_MAX;
    uint32_t drawn = 1 + draw(&state, most), count = crowd ? CROWD_PROMPT : drawn;
    for (uint32_t i = 0; i < count; i++)
        prompt[i] = (int32_t)(LEAST_IDS + draw(&state, SAFE_IDS));
    request_options o = {.prompt = prompt,
                         .prompt_count = count,
                         .output_max = number % 4 || crowd ? OUTPUT : LONG_OUTPUT,
                         .ignore_eos = true,
                         .row_digests = true,
                         .policy = {.temperature = draw(&state, 3) ? 0.9f : 0,
                                    .top_k = draw(&state, 3) ? 0 : 40,
                                    .top_p = draw(&state, 2) ? 0.9f : 1,
                                    .repetition_penalty = draw(&state, 3) ? 1 : 1.2f,
                                    .seed = number}};
    request *r = NULL;
    esp_error err = {0};
    if (request_new(&r, &o, vocab, &err) != ESP_OK) fail_msg("%s", err.message);
    return r;
}

typedef struct answer {
    int32_t ids[LONG_OUTPUT];
    uint64_t rows[LONG_OUTPUT]; /* digests of the logits */
} answer;

static void keep(request *r, answer *out) {
    assert_int_equal(r->finish, FINISH_LENGTH);
    assert_int_equal(r->published, r->output_max);
    memset(out, 0, sizeof *out);
    memcpy(out->ids, r->tokens + r->prompt_count, r->output_max * sizeof *out->ids);
    memcpy(out->rows, r->row_digests, r->output_max * sizeof *out->rows);
    request_unref(r);
}

/* Submits all in an order of its own and steps until they are done. */
static void answer_all(engine *e, const way *w, answer *out) {
    request *all[REQUESTS];
    uint64_t state = seed + w->step_tokens;
    uint32_t order[REQUESTS];
    for (uint32_t i = 0; i < REQUESTS; i++) {
        uint32_t at = draw(&state, i + 1);
        order[i] = order[at];
        order[at] = i;
        all[i] = make_request(i, w->crowd, engine_context_max(e), engine_spec(e)->vocab);
    }
    for (uint32_t i = 0; i < REQUESTS; i++)
        tiny_submit(e, all[order[i]]);
    for (uint32_t step = 1; engine_step(e); step++) {
        assert_true(step < STEPS_MAX);
        if (w->preempt_every && step % w->preempt_every == 0) engine_preempt_newest(e);
    }
    engine_check(e);
    for (uint32_t i = 0; i < REQUESTS; i++)
        keep(all[i], &out[i]);
}

/* ---- one way ---- */

typedef struct subject {
    const char *path;
    const level *level;
    const mode *mode;
    const kern_ops *ops; /* NULL: the device's own */
} subject;

static model_config config_of(const subject *s, const way *w) {
    model_config c = s->mode->config;
    c.model_path = s->path;
    c.device = s->level->device;
    c.level = s->level->level;
    c.ops = s->ops;
    c.threads = w->threads;
    c.max_seqs = w->max_seqs;
    c.step_tokens = w->step_tokens;
    return c;
}

/* Whether each of the requests fits alone into so many bytes. */
static bool fits(model_config c, bool crowd, uint64_t bytes) {
    engine *e = NULL;
    esp_error err = {0};
    c.kv_memory = bytes;
    esp_code code = engine_open(&e, &c, NULL, NULL, &err);
    for (uint32_t i = 0; i < REQUESTS && code == ESP_OK; i++) {
        request *r = make_request(i, crowd, engine_context_max(e), engine_spec(e)->vocab);
        code = engine_submit(e, r, &err);
        request_unref(r);
    }
    engine_close(e);
    return code == ESP_OK;
}

/* About the least memory in which the largest request fits: nothing near all of them then does. */
static uint64_t few_bytes(model_config c, bool crowd) {
    uint64_t bytes = 4096;
    while (!fits(c, crowd, bytes)) {
        assert_true(bytes < 64 << 20);
        bytes *= 2;
    }
    for (uint64_t step = bytes / 4; step >= bytes / 16; step /= 2)
        if (fits(c, crowd, bytes - step)) bytes -= step;
    return bytes;
}

/* Of the runs of a level: some there must be, or the law was not tried there. */
static uint64_t preempted_by_need, preempted_by_force;

static void run(const subject *s, const way *w, answer *out) {
    model_config c = config_of(s, w);
    if (w->few_pages) c.kv_memory = few_bytes(c, w->crowd);
    engine *e = tiny_open(s->path, c);
    answer_all(e, w, out);
    engine_stats stats;
    engine_read_stats(e, &stats);
    *(w->few_pages ? &preempted_by_need : &preempted_by_force) += stats.preemptions_total;
    assert_int_equal(stats.pages_used, 0);
    engine_close(e);
}

/* Index of the first request with other bits; REQUESTS when there is none. */
static uint32_t differing(const answer *a, const answer *b) {
    uint32_t i = 0;
    while (i < REQUESTS && memcmp(&a[i], &b[i], sizeof a[i]) == 0)
        i++;
    return i;
}

/* The first way that gives other bits than one by one does, or NULL. All ways have the same requests. */
static const way *broken_way(const subject *s, const way *ways, uint32_t count,
                             uint32_t *request_at) {
    static answer alone[REQUESTS], other[REQUESTS];
    run(s, ways[0].crowd ? &CROWD_ALONE : &ALONE, alone);
    for (uint32_t i = 0; i < count; i++) {
        run(s, &ways[i], other);
        *request_at = differing(alone, other);
        if (*request_at < REQUESTS) return &ways[i];
    }
    return NULL;
}

static void check_ways(const subject *s, const char *name, const way *ways, uint32_t count) {
    uint32_t at = 0;
    const way *broken = broken_way(s, ways, count, &at);
    if (broken)
        fail_msg("ESPALIER_LAW_SEED=%llu: %s on %s, %s: request %u has other bits %s (max-seqs %u, "
                 "step-tokens %u, threads %u, preempt %u)",
                 (unsigned long long)seed, name, s->level->name, s->mode->name, at, broken->name,
                 broken->max_seqs, broken->step_tokens, broken->threads, broken->preempt_every);
}

static void check_model(const char *path, const char *name, const level *on, const mode *in,
                        uint64_t *state) {
    way ways[WAYS_TRIED + RANDOM_WAYS];
    memcpy(ways, WAYS, WAYS_TRIED * sizeof *ways);
    for (uint32_t i = 0; i < RANDOM_WAYS; i++)
        ways[WAYS_TRIED + i] = draw_way(state);
    subject s = {.path = path, .level = on, .mode = in};
    check_ways(&s, name, ways, WAYS_TRIED + RANDOM_WAYS);
}

/* ---- a level ---- */

static void check_random(const level *on, const mode *in, uint64_t *state) {
    char path[] = "/tmp/espalier-law-XXXXXX";
    draw_model(state, path);
    check_model(path, "a random model", on, in, state);
    unlink(path);
}

/* The mixed requests may by luck never want more pages than there are; a crowd always does. */
static void check_crowd(const level *on, uint64_t *state) {
    char path[] = "/tmp/espalier-law-XXXXXX";
    draw_model(state, path);
    subject s = {.path = path, .level = on, .mode = &MODES[0]};
    preempted_by_need = 0;
    check_ways(&s, "a random model", &CROWD_PRESSED, 1);
    assert_true(preempted_by_need > 0);
    unlink(path);
}

/* Some of the families, others each time; in a mode drawn for each. */
static void check_families(const level *on, uint32_t modes, uint64_t *state) {
    uint32_t first = draw(state, FAMILY_COUNT);
    for (uint32_t i = 0; i < FAMILIES_TRIED; i++) {
        char path[1024];
        const char *name = FAMILIES[(first + i * 2) % FAMILY_COUNT];
        snprintf(path, sizeof path, "%s/tests/vectors/families/%s.gguf", TEST_SOURCE_DIR, name);
        check_model(path, name, on, &MODES[draw(state, modes)], state);
    }
}

static void check_level(const level *on) {
    uint64_t state = seed ^ on->level;
    uint32_t modes = on->device == DEVICE_REF ? REF_MODES : MODE_COUNT;
    preempted_by_need = preempted_by_force = 0;
    if (on->device == DEVICE_CPU && kern_cpu_best_level() < on->level) {
        print_message("%s: skipped, not on this machine\n", on->name);
        skip();
    }
    for (uint32_t m = 0; m < modes; m++)
        check_random(on, &MODES[m], &state);
    check_families(on, modes, &state);
    assert_true(preempted_by_force > 0);
    check_crowd(on, &state);
}

static void the_same_bits_on_ref(void **state) {
    (void)state;
    check_level(&REF);
}

static void the_same_bits_on_avx2(void **state) {
    (void)state;
    check_level(&LEVELS[0]);
}

static void the_same_bits_on_avx512(void **state) {
    (void)state;
    check_level(&LEVELS[1]);
}

static void the_same_bits_on_amx(void **state) {
    (void)state;
    check_level(&LEVELS[2]);
}

/* ---- planted faults ---- */

static uint32_t fault_threads; /* of the device opened last */

/* One unit in the last place of one value. */
static void nudge(void *values, size_t index) { ((uint32_t *)values)[index] ^= 1; }

static void linear_of_batch(kern_device *dev, const kern_linear *op) {
    kern_ref.linear(dev, op);
    if (op->token_count > 1 && op->epilogue == EPI_STORE) nudge(op->out, 0);
}

static void linear_of_threads(kern_device *dev, const kern_linear *op) {
    kern_ref.linear(dev, op);
    if (fault_threads == 7 && op->epilogue == EPI_STORE) nudge(op->out, 0);
}

static void norm_of_count(kern_device *dev, const kern_norm *op) {
    kern_ref.norm(dev, op);
    if (op->count % 16 == 3) nudge(op->out, 0);
}

/* The end of a chunk is computed otherwise than its middle. */
static void attention_of_chunks(kern_device *dev, const kern_attention *op) {
    const step_batch *b = op->batch;
    kern_ref.attention(dev, op);
    for (uint32_t s = 0; s < b->seq_count; s++)
        if (b->seq_tokens[s] > 1) {
            size_t width = (size_t)op->heads * op->kv.shape->head_dim;
            nudge(op->out, (b->seq_first[s] + b->seq_tokens[s] - 1) * width);
        }
}

static esp_code open_counting_threads(kern_device **out, const kern_options *options,
                                      esp_error *err) {
    fault_threads = pool_threads(options->pool);
    return kern_ref.open(out, options, err);
}

static void assert_found(const char *path, const char *what, const kern_ops *faulty) {
    uint32_t at = 0;
    subject s = {.path = path, .level = &REF, .mode = &MODES[0], .ops = faulty};
    const way *broken = broken_way(&s, WAYS, WAY_COUNT, &at);
    if (!broken) fail_msg("a planted fault is not found: %s", what);
    print_message("%s: found by \"%s\" at request %u\n", what, broken->name, at);
}

/* The test can fail: a wrong bit that comes with the batch, the chunks, the count or the threads. */
static void planted_faults_are_found(void **state) {
    (void)state;
    uint64_t noise = seed;
    char path[] = "/tmp/espalier-law-XXXXXX";
    draw_model(&noise, path);
    kern_ops faulty = kern_ref;
    faulty.linear = linear_of_batch;
    assert_found(path, "a product that depends on the batch", &faulty);
    faulty = kern_ref;
    faulty.norm = norm_of_count;
    assert_found(path, "a norm that depends on the count", &faulty);
    faulty = kern_ref;
    faulty.attention = attention_of_chunks;
    assert_found(path, "attention that depends on chunks", &faulty);
    faulty = kern_ref;
    faulty.open = open_counting_threads;
    faulty.linear = linear_of_threads;
    assert_found(path, "a product that depends on the threads", &faulty);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_bits_on_ref),     cmocka_unit_test(the_same_bits_on_avx2),
        cmocka_unit_test(the_same_bits_on_avx512),  cmocka_unit_test(the_same_bits_on_amx),
        cmocka_unit_test(planted_faults_are_found),
    };
    return cmocka_run_group_tests(tests, choose_seed, NULL);
}
