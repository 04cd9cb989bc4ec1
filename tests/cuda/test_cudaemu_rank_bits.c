/* test_cudaemu_rank_bits.c - a model has the same bits on one, two and four emulated GPUs: logits of a prompt, and of
 * requests alone and among others, op by op and in graphs.
 *
 *   Families of the synthetic shapes, made small, in bf16 and in 4 bits. Their widths can be shared by four ranks in
 *   whole blocks and parts (kern_parts). A long prompt meets the kernels of many tokens. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "emu_control.h"
#include "engine/model/synthetic/synthetic.h"
#include "tests/unit/rank_kl.h"
#include "tests/unit/tiny_engine.h"

enum { MOST = 4, PROMPT = 19, LONG_PROMPT = 261, REQUESTS = 3, OUTPUT = 3, VOCAB = 320 };

static int prepare(void **state) {
    (void)state;
    emu_set_devices(MOST);
    return 0;
}

typedef struct room {
    char path[64], model[96];
} room;

/* Of the shape's family, but small. */
static room write_model(const char *name) {
    room r = {.path = "/tmp/espalier-rank-bits-XXXXXX"};
    const synthetic_shape *known = NULL;
    assert_non_null(mkdtemp(r.path));
    snprintf(r.model, sizeof r.model, "%s/model", r.path);
    assert_int_equal(synthetic_find(name, &known, NULL), ESP_OK);
    synthetic_shape shape = *known;
    shape.layers = 2, shape.hidden = 128, shape.heads = 8, shape.kv_heads = 2;
    shape.head_dim = 128, shape.intermediate = 1024, shape.vocab = VOCAB, shape.context = 512;
    synthetic_options o = {
        .shape = &shape, .out = r.model, .seed = 11, .shard_bytes = SYNTHETIC_SHARD_BYTES};
    assert_int_equal(synthetic_write(&o, NULL), ESP_OK);
    return r;
}

static void remove_model(const room *r) {
    char command[96];
    snprintf(command, sizeof command, "rm -r '%s'", r->path);
    assert_int_equal(system(command), 0);
}

static engine *open_model(const room *r, uint32_t tp, bool four_bits, bool no_replay) {
    return tiny_open(r->model, (model_config){.device = DEVICE_CUDA,
                                              .ops = &kern_cuda,
                                              .no_replay = no_replay,
                                              .tp = tp,
                                              .rank_patience_seconds = HANG_SECONDS,
                                              .quantize_given = four_bits,
                                              .quantize = DT_Q4_K,
                                              .max_seqs = REQUESTS,
                                              .step_tokens = 288,
                                              .max_context = 320,
                                              .kv_memory = 16 << 20,
                                              .threads = 1});
}

static int32_t id_of(uint32_t text, uint32_t i) {
    return (int32_t)((text * 41 + i * 37) % 251);
}

static rank_rows read_logits(engine *e, uint32_t count) {
    int32_t ids[LONG_PROMPT];
    esp_error err = {0};
    rank_rows rows;
    for (uint32_t i = 0; i < count; i++)
        ids[i] = id_of(9, i);
    if (rank_read_rows(e, NULL, ids, count, &rows, &err) != ESP_OK) fail_msg("%s", err.message);
    return rows;
}

static request *make_request(uint32_t number) {
    int32_t ids[PROMPT];
    uint32_t count = 5 + number * 7;
    request *r = NULL;
    for (uint32_t i = 0; i < count; i++)
        ids[i] = id_of(number, i);
    request_options o = {.prompt = ids,
                         .prompt_count = count,
                         .output_max = OUTPUT,
                         .ignore_eos = true,
                         .row_digests = true};
    assert_int_equal(request_new(&r, &o, VOCAB, NULL), ESP_OK);
    return r;
}

/* What requests have: the digest of each token's logits, and the token. */
typedef struct answers {
    uint64_t digests[REQUESTS][OUTPUT];
    int32_t ids[REQUESTS][OUTPUT];
} answers;

static answers run_requests(engine *e, bool together) {
    request *all[REQUESTS];
    answers a;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        tiny_submit(e, all[i] = make_request(i));
        if (!together) tiny_finish(e, all[i]);
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        tiny_finish(e, all[i]);
        assert_int_equal(all[i]->finish, FINISH_LENGTH);
        memcpy(a.digests[i], all[i]->row_digests, sizeof a.digests[i]);
        memcpy(a.ids[i], all[i]->tokens + all[i]->prompt_count, sizeof a.ids[i]);
        request_unref(all[i]);
    }
    return a;
}

static void assert_same_rows(const rank_rows *a, const rank_rows *b, const char *name,
                             uint32_t tp) {
    for (size_t i = 0; i < (size_t)a->count * a->vocab; i++)
        if (memcmp(&a->at[i], &b->at[i], sizeof *a->at) != 0)
            fail_msg("%s: row %zu, id %zu is %a on %u GPUs, %a on one", name, i / a->vocab,
                     i % a->vocab, (double)b->at[i], tp, (double)a->at[i]);
}

static void compare(const room *r, const char *name, bool four_bits, uint32_t prompt) {
    engine *e = open_model(r, 1, four_bits, true);
    rank_rows one = read_logits(e, prompt);
    answers alone = run_requests(e, false);
    engine_close(e);
    for (uint32_t tp = 1; tp <= MOST; tp *= 2) {
        e = open_model(r, tp, four_bits, false);
        rank_rows many = read_logits(e, prompt);
        assert_same_rows(&one, &many, name, tp);
        free(many.at);
        for (int round = 0; round < 2; round++) {
            answers together = run_requests(e, round);
            assert_memory_equal(alone.digests, together.digests, sizeof alone.digests);
            assert_memory_equal(alone.ids, together.ids, sizeof alone.ids);
        }
        engine_close(e);
    }
    free(one.at);
}

static void families_have_the_same_bits(const char *const *names, size_t count, uint32_t prompt) {
    for (size_t i = 0; i < count; i++) {
        room r = write_model(names[i]);
        compare(&r, names[i], false, prompt);
        compare(&r, names[i], true, prompt);
        remove_model(&r);
    }
}

static void one_two_and_four_gpus_give_the_same_bits(void **state) {
    (void)state;
    static const char *const names[] = {"gemma-2-2b", "qwen2.5-7b", "qwen3-8b", "mistral-7b-v0.3"};
    families_have_the_same_bits(names, sizeof names / sizeof *names, PROMPT);
}

static void so_they_do_for_many_tokens_at_once(void **state) {
    (void)state;
    static const char *const names[] = {"llama-3.1-8b"};
    families_have_the_same_bits(names, 1, LONG_PROMPT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_two_and_four_gpus_give_the_same_bits),
        cmocka_unit_test(so_they_do_for_many_tokens_at_once),
    };
    return cmocka_run_group_tests(tests, prepare, NULL);
}
