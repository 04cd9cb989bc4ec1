/* test_engine_adapters.c - requests through adapters: each gives what it gives alone, whoever else is in
 * the batch; a batch of the base alone runs as if there were none; and an adapter is let go when its
 * request ends, however that is. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "tests/unit/tiny_adapters.h"

enum { ADAPTERS = 8, REQUESTS = 16, OUTPUT = 10, VOCAB = 320, PROMPT_IDS = 256 };

static const tiny_llama_options MODEL = {.layers = 3,
                                         .hidden = 96,
                                         .heads = 6,
                                         .kv_heads = 2,
                                         .head_dim = 16,
                                         .intermediate = 160,
                                         .vocab = VOCAB,
                                         .context = 512,
                                         .dtype = DT_Q4_1,
                                         .seed = 7,
                                         .tied = true};

static char model_path[] = "/tmp/espalier-test-XXXXXX";
static tiny_adapters files;

/* Ranks from 1 to 33; on all linears, on q and v, or on the MLP alone; two with an embedding and an output
 * of their own. */
static int make_files(void **state) {
    (void)state;
    static const unsigned targets[] = {TA_ALL, TA_Q | TA_V, TA_GATE | TA_UP | TA_DOWN};
    static const uint32_t ranks[ADAPTERS] = {8, 16, 1, 33, 4, 8, 17, 2};
    tiny_write(model_path, &MODEL);
    for (uint32_t i = 0; i < ADAPTERS; i++) {
        tiny_adapters_add(&files, &(tiny_adapter_options){.base = &MODEL,
                                                          .rank = ranks[i],
                                                          .targets = targets[i % 3],
                                                          .wholes = i % 4 == 3,
                                                          .seed = 100 + i});
    }
    return 0;
}

static int drop_files(void **state) {
    (void)state;
    tiny_adapters_remove(&files);
    return unlink(model_path);
}

static engine *open_with(model_config config, uint32_t adapters_wanted) {
    return tiny_open_with(model_path, &files, adapters_wanted, config);
}

/* Mixed lengths and policies, the same for the same number. */
static request *make_request(engine *e, uint32_t number, int which) {
    int32_t prompt[64];
    uint32_t count = 1 + number * 7 % 50, noise = number * 2654435761u + 1;
    for (uint32_t i = 0; i < count; i++) {
        noise = noise * 1664525u + 1013904223u;
        prompt[i] = (int32_t)((noise >> 8) % PROMPT_IDS);
    }
    request_options o = {.prompt = prompt,
                         .prompt_count = count,
                         .output_max = OUTPUT,
                         .ignore_eos = true,
                         .row_digests = true,
                         .adapters = engine_adapters(e),
                         .adapter = tiny_find(e, which),
                         .policy = {.temperature = number % 3 ? 0.8f : 0, .seed = number}};
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

static uint32_t users(engine *e) {
    adapter_info *list;
    size_t count;
    uint32_t all = 0;
    adapters_list(engine_adapters(e), &list, &count);
    for (size_t i = 0; i < count; i++)
        all += list[i].users;
    free(list);
    return all;
}

/* ---- law 1 ---- */

static void check_company(model_config config) {
    static tiny_answer alone[REQUESTS], other[REQUESTS];
    engine *e = open_with(config, ADAPTERS);
    tiny_answer_alone(e, &crowd, alone);
    tiny_answer_together(e, &crowd, 0, other);
    tiny_assert_same(&crowd, alone, other, "all at once");
    tiny_answer_together(e, &crowd, 3, other);
    tiny_assert_same(&crowd, alone, other, "preempted");
    engine_stats stats;
    engine_read_stats(e, &stats);
    assert_true(stats.preemptions_total > 0);
    assert_int_equal(users(e), 0);
    engine_close(e);
    config.threads = 3;
    config.max_seqs = config.step_tokens = 13;
    e = open_with(config, ADAPTERS);
    tiny_answer_together(e, &crowd, 0, other);
    tiny_assert_same(&crowd, alone, other, "3 threads, chunks of 13");
    engine_close(e);
}

static void on_ref_company_changes_no_bit(void **state) {
    (void)state;
    check_company((model_config){.device = DEVICE_REF});
}

static void check_level(kern_level level) {
    if (kern_cpu_best_level() < level) skip();
    check_company((model_config){.device = DEVICE_CPU, .level = level});
    check_company((model_config){.device = DEVICE_CPU, .level = level, .activations = ACT_INT8});
}

static void on_avx2_company_changes_no_bit(void **state) {
    (void)state;
    check_level(LEVEL_AVX2);
}

static void on_avx512_company_changes_no_bit(void **state) {
    (void)state;
    check_level(LEVEL_AVX512);
}

static void on_amx_company_changes_no_bit(void **state) {
    (void)state;
    check_level(LEVEL_AMX);
}

/* The tests above could be passed by adapters that do nothing. */
static void each_adapter_gives_an_answer_of_its_own(void **state) {
    (void)state;
    engine *e = open_with((model_config){0}, ADAPTERS);
    tiny_answer all[ADAPTERS + 1];
    for (int i = BASE; i < ADAPTERS; i++) {
        request *r = make_request(e, 6, i);
        tiny_run(e, r);
        tiny_keep(r, &all[i + 1]);
    }
    for (int i = 0; i <= ADAPTERS; i++)
        for (int j = 0; j < i; j++)
            assert_int_not_equal(all[i].rows[0], all[j].rows[0]);
    engine_close(e);
}

/* ---- the base alone ---- */

enum { TRACE_MAX = 1 << 16 };
static struct traced {
    char op[12];
    uint32_t count, rows, role, lora;
} trace[TRACE_MAX];
static uint32_t traced;

static void note(const char *op, uint32_t count, uint32_t rows, uint32_t role, uint32_t lora) {
    assert_true(traced < TRACE_MAX);
    struct traced *t = &trace[traced++];
    memset(t, 0, sizeof *t);
    snprintf(t->op, sizeof t->op, "%s", op);
    t->count = count, t->rows = rows, t->role = role, t->lora = lora;
}

static void note_embed(kern_device *dev, const kern_embed *op) {
    note("embed", op->token_count, 0, 0, 0);
    kern_ref.embed(dev, op);
}
static void note_norm(kern_device *dev, const kern_norm *op) {
    note("norm", op->count, op->rows != NULL, op->residual, 0);
    kern_ref.norm(dev, op);
}
static void note_linear(kern_device *dev, const kern_linear *op) {
    note("linear", op->token_count, op->epilogue, op->role, op->lora_count + op->lora_next_count);
    kern_ref.linear(dev, op);
}
static void note_rope(kern_device *dev, const kern_rope_store *op) {
    note("rope", op->batch->token_count, op->batch->row_count, 0, 0);
    kern_ref.rope_store(dev, op);
}
static void note_attention(kern_device *dev, const kern_attention *op) {
    note("attention", op->batch->seq_count, op->batch->row_count, 0, 0);
    kern_ref.attention(dev, op);
}

/* Runs the base's requests with so many adapters loaded; the number of ops and their trace. */
static uint32_t trace_base(uint32_t loaded, struct traced *out) {
    kern_ops noting = kern_ref;
    noting.embed = note_embed;
    noting.norm = note_norm;
    noting.linear = note_linear;
    noting.rope_store = note_rope;
    noting.attention = note_attention;
    engine *e = open_with((model_config){.device = DEVICE_REF, .ops = &noting}, loaded);
    request *all[REQUESTS];
    traced = 0;
    for (uint32_t i = 0; i < REQUESTS; i++)
        tiny_submit(e, all[i] = make_request(e, i, BASE));
    while (engine_step(e))
        continue;
    for (uint32_t i = 0; i < REQUESTS; i++)
        request_unref(all[i]);
    engine_close(e);
    memcpy(out, trace, traced * sizeof *trace);
    return traced;
}

static void a_batch_of_the_base_calls_what_it_calls_without_adapters(void **state) {
    (void)state;
    static struct traced without[TRACE_MAX], with[TRACE_MAX];
    uint32_t count = trace_base(0, without);
    assert_true(count > 100);
    assert_int_equal(trace_base(ADAPTERS, with), count);
    assert_memory_equal(without, with, count * sizeof *with);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(with[i].lora, 0);
}

/* Adapters and base in mid-decode: malloc is not called by a step. */
static void a_decode_step_with_adapters_allocates_nothing(void **state) {
    (void)state;
    engine *e = open_with((model_config){0}, ADAPTERS);
    request *all[REQUESTS];
    for (int which = 0; which < ADAPTERS;
         which++) { /* brought, so that nobody below waits for one */
        request *r = make_request(e, 0, which);
        tiny_run(e, r);
        request_unref(r);
    }
    for (uint32_t i = 0; i < REQUESTS; i++)
        tiny_submit(e, all[i] = make_request(e, i, adapter_of(i)));
    for (uint32_t i = 0; i < REQUESTS; i++)
        while (all[i]->published < 2)
            engine_step_or_wait(e);
    uint64_t before = mem_thread_allocated();
    for (int i = 0; i < 4; i++)
        engine_step(e);
    assert_int_equal(mem_thread_allocated() - before, 0);
    assert_false(all[REQUESTS - 1]->done);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        tiny_finish(e, all[i]);
        request_unref(all[i]);
    }
    engine_close(e);
}

/* ---- waiting ---- */

/* Nobody goes past a preempted sequence, so that nothing runs while its adapter is brought again: the
 * loop sleeps until then. */
static void the_loop_sleeps_while_a_preempted_one_waits_for_its_adapter(void **state) {
    (void)state;
    engine *e = open_with((model_config){0}, 2);
    request *ours = make_request(e, 1, 0), *behind = make_request(e, 4, BASE);
    tiny_submit(e, ours);
    while (ours->published < 2)
        engine_step_or_wait(e);
    sched_adapters how = adapters_for_scheduler(engine_adapters(e));
    assert_true(engine_preempt_newest(e));
    assert_true(how.shed(how.arg, SHED_WANTED, NULL));
    tiny_submit(e, behind);
    assert_false(engine_step(e));
    assert_int_equal(ours->published, 2);
    while (!atomic_load(&ours->done) || !atomic_load(&behind->done))
        engine_step_or_wait(e);
    assert_int_equal(ours->finish, FINISH_LENGTH);
    assert_int_equal(behind->finish, FINISH_LENGTH);
    request_unref(ours);
    request_unref(behind);
    engine_close(e);
}

/* What has ended may have had the frames for which an adapter waits: the loop looks before it sleeps. */
static void the_loop_goes_on_after_an_end_though_all_others_wait_for_adapters(void **state) {
    (void)state;
    engine *e = open_with((model_config){0}, 1);
    request *ends = make_request(e, 4, BASE), *waits = make_request(e, 1, 0);
    tiny_submit(e, ends);
    while (ends->published < OUTPUT - 1)
        engine_step_or_wait(e);
    tiny_submit(e, waits);
    assert_true(engine_step(e));
    assert_true(atomic_load(&ends->done));
    assert_int_equal(waits->published, 0);
    while (!atomic_load(&waits->done))
        engine_step_or_wait(e);
    assert_int_equal(waits->finish, FINISH_LENGTH);
    request_unref(ends);
    request_unref(waits);
    engine_close(e);
}

/* ---- ends ---- */

static void an_adapter_is_let_go_when_its_request_ends(void **state) {
    (void)state;
    engine *e = open_with((model_config){0}, 2);
    request *ends = make_request(e, 1, 0), *cancelled = make_request(e, 2, 1);
    assert_int_equal(users(e), 2);
    tiny_submit(e, ends);
    tiny_submit(e, cancelled);
    while (cancelled->published < 2)
        engine_step_or_wait(e);
    engine_cancel(e, cancelled);
    tiny_finish(e, cancelled);
    tiny_finish(e, ends);
    assert_int_equal(users(e), 0);
    /* What a request went through is known beyond its end. */
    char label[REQUEST_ADAPTER_LABEL_BYTES];
    assert_string_equal(request_adapter_label(&ends->by, label), "a0@1");
    assert_int_equal(strncmp(ends->by.digest, "sha256:", 7), 0);
    request_unref(ends);
    request_unref(cancelled);
    engine_close(e);
}

static void a_request_that_never_ran_lets_its_adapter_go(void **state) {
    (void)state;
    engine *e = open_with((model_config){.max_context = 48}, 1);
    esp_error err = {0};
    request *late = make_request(e, 3, 0), *never = make_request(e, 1, 0);
    request *large = make_request(e, 7, 0); /* 50 tokens */
    late->deadline_us = clock_now_us() - 1;
    tiny_submit(e, late);
    engine_step(e);
    assert_int_equal(late->finish, FINISH_DEADLINE);
    assert_int_not_equal(engine_submit(e, large, &err), ESP_OK);
    request_unref(large);
    request_unref(never);
    assert_int_equal(users(e), 0);
    request_unref(late);
    engine_close(e);
}

/* An adapter that is taken away with ADAPTER_END ends its users, and nobody else. */
static void unloading_ends_users_and_no_others(void **state) {
    (void)state;
    engine *e = open_with((model_config){0}, 2);
    request *ours = make_request(e, 1, 0), *other = make_request(e, 2, 1);
    request *base = make_request(e, 4, BASE);
    esp_error err = {0};
    tiny_submit(e, ours);
    tiny_submit(e, other);
    tiny_submit(e, base);
    while (ours->published < 2)
        engine_step_or_wait(e);
    assert_int_equal(adapters_unload(engine_adapters(e), "a0", ADAPTER_END, &err), ESP_OK);
    tiny_finish(e, ours);
    assert_int_equal(ours->finish, FINISH_ERROR);
    assert_int_equal(ours->error.code, ESP_ABORTED);
    tiny_finish(e, other);
    tiny_finish(e, base);
    assert_int_equal(other->finish, FINISH_LENGTH);
    assert_int_equal(base->finish, FINISH_LENGTH);
    assert_int_equal(users(e), 0);
    request_unref(ours);
    request_unref(other);
    request_unref(base);
    engine_close(e);
}

/* A name that is loaded again means the new content; who runs ends on the old. */
static void a_request_ends_on_the_version_it_began_with(void **state) {
    (void)state;
    engine *e = open_with((model_config){0}, 1);
    tiny_answer before, during, after, other;
    esp_error err = {0};
    request *r = make_request(e, 5, 0);
    tiny_run(e, r);
    tiny_keep(r, &before);
    r = make_request(e, 5, 0);
    tiny_submit(e, r);
    while (r->published < 2)
        engine_step_or_wait(e);
    if (adapters_load(engine_adapters(e), "a0", files.folders[3], NULL, &err) != ESP_OK)
        fail_msg("%s", err.message);
    request *second = make_request(e, 5, 0);
    assert_int_equal(second->by.version, 2);
    tiny_run(e, second);
    tiny_keep(second, &after);
    tiny_finish(e, r);
    tiny_keep(r, &during);
    assert_memory_equal(&before, &during, sizeof before);
    assert_int_not_equal(before.rows[0], after.rows[0]);
    engine_close(e);
    e = open_with((model_config){0}, 4);
    r = make_request(e, 5, 3);
    tiny_run(e, r);
    tiny_keep(r, &other);
    assert_memory_equal(&after, &other, sizeof after);
    engine_close(e);
}

/* How large an adapter of the store is, is known when it has been read: what then turns out too large for
 * the cache is refused as it would have been at once. */
static void a_request_too_large_beside_its_adapter_is_told_so(void **state) {
    (void)state;
    enum { CONTEXT = 512, PAGES = CONTEXT / KV_PAGE_TOKENS, ENOUGH = 8 << 20 };
    char root[] = "/tmp/espalier-store-XXXXXX", clear[64];
    adapter_store *store = NULL;
    engine_stats stats;
    esp_error err = {0};
    assert_non_null(mkdtemp(root));
    assert_int_equal(store_open(&store, &(store_options){.root = root, .create = true}, &err),
                     ESP_OK);
    store_import_options import = {.name = "a1"};
    assert_int_equal(store_import(store, files.folders[1], &import, NULL, &err), ESP_OK);
    store_close(store);
    engine *e = open_with((model_config){.adapter_store = root, .kv_memory = ENOUGH}, 0);
    engine_read_stats(e, &stats);
    engine_close(e);
    uint64_t page = ENOUGH / stats.pages_total;
    model_config tight = {.adapter_store = root, .kv_memory = page * PAGES};
    e = open_with(tight, 0);
    request *r = make_request(e, 5, 1), *large = NULL;
    request_options o = {.prompt = r->tokens,
                         .prompt_count = r->prompt_count,
                         .output_max = CONTEXT - r->prompt_count,
                         .adapters = engine_adapters(e),
                         .adapter = tiny_find(e, 1)};
    assert_int_equal(request_new(&large, &o, VOCAB, &err), ESP_OK);
    tiny_run(e, large);
    assert_int_equal(large->finish, FINISH_ERROR);
    assert_int_equal(large->error.code, ESP_INVALID);
    assert_string_equal(large->error.field, "max_tokens");
    assert_non_null(strstr(large->error.message, "a1@1"));
    tiny_run(e, r);
    assert_int_equal(r->finish, FINISH_LENGTH);
    request_unref(large);
    request_unref(r);
    engine_close(e);
    snprintf(clear, sizeof clear, "rm -r %s", root);
    assert_int_equal(system(clear), 0);
}

/* ---- the logits of a prompt ---- */

typedef struct row_kept {
    uint32_t wanted;
    float row[VOCAB];
} row_kept;

static esp_code keep_row(void *arg, uint32_t position, const float *row, esp_error *err) {
    row_kept *kept = arg;
    (void)err;
    if (position == kept->wanted) memcpy(kept->row, row, sizeof kept->row);
    return ESP_OK;
}

/* The greedy token of a request is that of the prompt's last row, through the same adapter. */
static void logits_of_a_prompt_go_through_the_adapter(void **state) {
    (void)state;
    engine *e = open_with((model_config){0}, ADAPTERS);
    for (int which = BASE; which < ADAPTERS; which++) {
        request *r = make_request(e, 3, which); /* greedy */
        row_kept kept = {.wanted = r->prompt_count - 1};
        adapter *through = tiny_find(e, which);
        esp_error err = {0};
        int32_t best = 0;
        if (engine_logits(e, through, r->tokens, r->prompt_count, keep_row, &kept, &err) != ESP_OK)
            fail_msg("%s", err.message);
        adapter_release(engine_adapters(e), through);
        for (int32_t i = 1; i < VOCAB; i++)
            if (kept.row[i] > kept.row[best]) best = i;
        tiny_run(e, r);
        assert_int_equal(r->tokens[r->prompt_count], best);
        request_unref(r);
    }
    assert_int_equal(users(e), 0);
    engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_ref_company_changes_no_bit),
        cmocka_unit_test(on_avx2_company_changes_no_bit),
        cmocka_unit_test(on_avx512_company_changes_no_bit),
        cmocka_unit_test(on_amx_company_changes_no_bit),
        cmocka_unit_test(each_adapter_gives_an_answer_of_its_own),
        cmocka_unit_test(a_batch_of_the_base_calls_what_it_calls_without_adapters),
        cmocka_unit_test(a_decode_step_with_adapters_allocates_nothing),
        cmocka_unit_test(the_loop_sleeps_while_a_preempted_one_waits_for_its_adapter),
        cmocka_unit_test(the_loop_goes_on_after_an_end_though_all_others_wait_for_adapters),
        cmocka_unit_test(an_adapter_is_let_go_when_its_request_ends),
        cmocka_unit_test(a_request_that_never_ran_lets_its_adapter_go),
        cmocka_unit_test(unloading_ends_users_and_no_others),
        cmocka_unit_test(a_request_ends_on_the_version_it_began_with),
        cmocka_unit_test(a_request_too_large_beside_its_adapter_is_told_so),
        cmocka_unit_test(logits_of_a_prompt_go_through_the_adapter),
    };
    return cmocka_run_group_tests(tests, make_files, drop_files);
}
