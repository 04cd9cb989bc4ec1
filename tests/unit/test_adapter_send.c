/* test_adapter_send.c - an adapter's way to another rank: how much goes between two steps, and what that rank makes of
 * messages that cannot be. Rank 0's comm is watched, and changes what it sends when it is told to. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <assert.h>

#include <cmocka.h>

#include "engine/adapters/adapter_image_inner.h"
#include "engine/adapters/adapter_message.h"
#include "engine/adapters/image_tables.h"
#include "engine/step_message.h"
#include "tests/unit/rank_kl.h"
#include "tests/unit/tiny_adapter.h"
#include "tests/unit/tiny_nodes.h"

enum { CONTEXT = 1024, PROMPT = 9, CHUNK = ADAPTER_MESSAGE_CHUNK };

/* Its embedding takes three chunks of F32, half of its output two. */
static const tiny_llama_options LARGE = {.layers = 1,
                                         .hidden = 512,
                                         .heads = 8,
                                         .kv_heads = 4,
                                         .head_dim = 64,
                                         .intermediate = 512,
                                         .vocab = 10000,
                                         .context = CONTEXT,
                                         .dtype = DT_Q8_0,
                                         .seed = 3};
static const tiny_llama_options SMALL = {.layers = 2,
                                         .hidden = 128,
                                         .heads = 8,
                                         .kv_heads = 4,
                                         .head_dim = 32,
                                         .intermediate = 288,
                                         .vocab = 320,
                                         .context = 256,
                                         .dtype = DT_Q8_0,
                                         .seed = 21};

/* ---- rank 0's comm ---- */

/* What becomes of a message about an adapter, or of the tables behind it. */
typedef void change_fn(adapter_message *m, void *tables);

typedef struct watch {
    comm head;
    comm *inner;
    change_fn *change;       /* NULL: nothing is changed */
    uint64_t since_step;     /* bytes of adapters since a step was sent */
    uint64_t most, all;      /* of since_step; of all of it */
    uint32_t parts;          /* steps before which there was some */
    adapter_message message; /* the last one */
    char *room;
} watch;

static void before(watch *w) { w->inner->patience_us = w->head.patience_us; }
static void watch_close(comm *c) { comm_close(((watch *)c)->inner); }
static void watch_abort(comm *c, const esp_error *why) { comm_abort(((watch *)c)->inner, why); }
static esp_code watch_check(comm *c, esp_error *err) {
    return comm_check(((watch *)c)->inner, err);
}

static void watch_gather(comm *c, const void *in, void *out, size_t bytes) {
    before((watch *)c);
    comm_all_gather(((watch *)c)->inner, in, out, bytes);
}

static void note_step(watch *w) {
    w->most = w->since_step > w->most ? w->since_step : w->most;
    w->parts += w->since_step > 0;
    w->since_step = 0;
}

static void watch_broadcast(comm *c, void *at, size_t bytes) {
    watch *w = (watch *)c;
    static_assert(sizeof(adapter_message) != sizeof(step_header), "told apart by their sizes");
    before(w);
    if (bytes == sizeof(step_header) && ((step_header *)at)->kind == STEP_RUN) note_step(w);
    if (bytes == sizeof w->message) {
        memcpy(&w->message, at, bytes);
        if (w->change) w->change(&w->message, NULL);
        at = &w->message;
    }
    comm_broadcast(w->inner, at, bytes);
}

static void watch_exchange(comm *c, const comm_part *parts) {
    watch *w = (watch *)c;
    comm_part own[COMM_RANKS_MAX];
    before(w);
    memcpy(own, parts, c->size * sizeof *own);
    bool sends = parts[1].send_bytes && !parts[1].receive_bytes && w->message.kind;
    if (sends && w->message.kind == ADAPTER_TABLES && w->change) {
        w->room = mem_resize(w->room, parts[1].send_bytes, 1);
        memcpy(w->room, parts[1].send, parts[1].send_bytes);
        w->change(&w->message, w->room);
        own[1].send = w->room;
    }
    if (sends) w->since_step += own[1].send_bytes, w->all += own[1].send_bytes;
    comm_exchange(w->inner, own);
}

static const comm_ops watch_ops = {
    .name = "watch",
    .close = watch_close,
    .all_gather = watch_gather,
    .exchange = watch_exchange,
    .broadcast = watch_broadcast,
    .abort = watch_abort,
    .check = watch_check,
};

/* ---- engines ---- */

typedef struct pair {
    char path[64], folder[TA_PATH_BYTES], name[TA_PATH_BYTES + 8];
    watch watch;
    tiny_node other;
    engine *e;
} pair;

static model_config config_of(pair *p) {
    model_config c = {.model_path = p->path,
                      .device = DEVICE_REF,
                      .threads = 1,
                      .max_seqs = 4,
                      .max_context = 256,
                      .kv_memory = 64 << 20,
                      .rank_patience_seconds = HANG_SECONDS};
    c.adapters = (flag_list){.at = {p->name}, .count = 1};
    return c;
}

static void open_files(pair *p, const tiny_llama_options *shape) {
    *p = (pair){.path = "/tmp/espalier-send-XXXXXX"};
    tiny_write(p->path, shape);
    tiny_adapter_write(
        p->folder,
        &(tiny_adapter_options){
            .base = shape, .rank = 4, .targets = TA_ALL, .wholes = true, .std = 0.02f, .seed = 5});
    snprintf(p->name, sizeof p->name, "a=%s", p->folder);
}

static void open_pair(pair *p, const tiny_llama_options *shape, change_fn *change) {
    comm *ends[2];
    esp_error err = {0};
    open_files(p, shape);
    comm_local_open(ends, 2);
    p->watch = (watch){.head = *ends[0], .inner = ends[0], .change = change};
    p->watch.head.ops = &watch_ops;
    p->other.config = config_of(p);
    p->other.config.comm = ends[1];
    p->other.config.closes_comm = true;
    ESP_ASSERT(pthread_create(&p->other.thread, NULL, tiny_node_run, &p->other) == 0);
    model_config c = config_of(p);
    c.comm = &p->watch.head;
    c.closes_comm = true;
    if (engine_open(&p->e, &c, NULL, NULL, &err) != ESP_OK) fail_msg("%s", err.message);
}

static void close_pair(pair *p) {
    engine_close(p->e);
    pthread_join(p->other.thread, NULL);
    free(p->watch.room);
    tiny_adapter_remove(p->folder);
    unlink(p->path);
}

static adapter *find(engine *e) {
    adapter *ad = NULL;
    if (adapters_find(engine_adapters(e), "a", &ad, NULL) != ESP_OK) fail();
    return ad;
}

static request *make_request(engine *e, bool adapted, uint32_t output) {
    int32_t ids[PROMPT];
    request *r = NULL;
    for (int i = 0; i < PROMPT; i++)
        ids[i] = 5 + 7 * i;
    request_options o = {.prompt = ids,
                         .prompt_count = PROMPT,
                         .output_max = output,
                         .ignore_eos = true,
                         .adapters = engine_adapters(e),
                         .adapter = adapted ? find(e) : NULL};
    if (request_new(&r, &o, engine_spec(e)->vocab, NULL) != ESP_OK) fail();
    return r;
}

/* ---- pieces ---- */

/* The base is answered all the while. */
static void a_whole_matrix_goes_in_chunks_with_steps_between(void **state) {
    (void)state;
    static pair p;
    int32_t ids[PROMPT];
    rank_rows one, two;
    open_pair(&p, &LARGE, NULL);
    request *base = make_request(p.e, false, 240), *r = make_request(p.e, true, 2);
    tiny_submit(p.e, base);
    tiny_submit(p.e, r);
    while (!atomic_load(&r->done))
        engine_step_or_wait(p.e);
    assert_int_equal(r->finish, FINISH_LENGTH);
    uint64_t whole = (uint64_t)LARGE.vocab * LARGE.hidden * sizeof(float);
    assert_true(p.watch.all >= whole + whole / 2);
    assert_true(p.watch.most <= 2 * CHUNK);
    assert_true(p.watch.parts >= 4);
    engine_cancel(p.e, base);
    while (!atomic_load(&base->done))
        engine_step_or_wait(p.e);
    request_unref(base);
    request_unref(r);
    /* And what came is what was sent. */
    for (int i = 0; i < PROMPT; i++)
        ids[i] = 9000 + 100 * i;
    adapter *ad = find(p.e);
    if (rank_read_rows(p.e, ad, ids, PROMPT, &two, NULL) != ESP_OK) fail();
    adapter_release(engine_adapters(p.e), ad);
    engine *alone = tiny_open(p.path, config_of(&p));
    ad = find(alone);
    if (rank_read_rows(alone, ad, ids, PROMPT, &one, NULL) != ESP_OK) fail();
    adapter_release(engine_adapters(alone), ad);
    engine_close(alone);
    assert_true(rank_kl(&one, &two).worst <= 1e-9);
    free(one.at);
    free(two.at);
    close_pair(&p);
}

/* ---- messages that cannot be ---- */

static bool is_whole(const adapter_message *m) { return m->kind == ADAPTER_WHOLE; }

static void another_kind(adapter_message *m, void *tables) {
    if (!tables && m->kind == ADAPTER_FRAME) m->kind = 9;
}
static void another_id(adapter_message *m, void *tables) {
    if (!tables && m->kind == ADAPTER_FRAME) m->id = UINT32_MAX;
}
static void a_frame_beyond(adapter_message *m, void *tables) {
    if (!tables && m->kind == ADAPTER_FRAME) m->index += 1000;
}
static void a_later_chunk(adapter_message *m, void *tables) {
    if (!tables && is_whole(m)) m->at += CHUNK;
}
static void a_matrix_of_scores(adapter_message *m, void *tables) {
    if (!tables && is_whole(m)) m->index = IMAGE_SCORE;
}
static void fewer_rows(adapter_message *m, void *tables) {
    if (!tables && is_whole(m)) m->bytes[1] -= m->cols * sizeof(float);
}
static void more_rows(adapter_message *m, void *tables) {
    if (!tables && is_whole(m)) m->bytes[1] += m->cols * sizeof(float);
}
static void other_columns(adapter_message *m, void *tables) {
    if (!tables && is_whole(m)) m->cols /= 2;
}
static void the_same_matrix_again(adapter_message *m, void *tables) {
    if (!tables && is_whole(m)) m->index = IMAGE_EMBEDDING;
}

/* The replica ends, with a sentence, on both. */
static void expect_end(change_fn *change, const char *words) {
    static pair p;
    open_pair(&p, &SMALL, change);
    request *r = make_request(p.e, true, 2);
    tiny_submit(p.e, r);
    while (!atomic_load(&r->done))
        engine_step_or_wait(p.e);
    assert_int_equal(r->finish, FINISH_ERROR);
    if (!strstr(r->error.message, words)) fail_msg("\"%s\"", r->error.message);
    request_unref(r);
    close_pair(&p);
    assert_int_not_equal(p.other.code, ESP_OK);
    if (!strstr(p.other.err.message, words)) fail_msg("\"%s\"", p.other.err.message);
}

static void a_message_that_cannot_be_ends_the_replica_with_a_sentence(void **state) {
    (void)state;
    expect_end(another_kind, "rank 1 was sent a message that cannot be");
    expect_end(another_id, "rank 1 was sent an adapter that cannot be");
    expect_end(a_frame_beyond, "rank 1 was sent a frame that cannot be");
    expect_end(a_later_chunk, "rank 1 was sent a matrix that cannot be");
    expect_end(a_matrix_of_scores, "rank 1 was sent a matrix that cannot be");
    expect_end(fewer_rows, "rank 1 was sent a matrix that cannot be");
    expect_end(more_rows, "rank 1 was sent a matrix that cannot be");
    expect_end(other_columns, "rank 1 was sent a matrix that cannot be");
    expect_end(the_same_matrix_again, "rank 1 was sent a matrix that cannot be");
}

static kern_lora *first_update(void *tables) {
    return &((image_linear *)(void *)((char *)tables + sizeof(image_tables_head)))->lora;
}

/* As many bytes of pieces, of another matrix: what only the model can tell. */
static void rows_of_another_matrix(adapter_message *m, void *tables) {
    (void)m;
    if (tables) first_update(tables)->part[0].rows -= 1;
}
static void columns_of_another_matrix(adapter_message *m, void *tables) {
    (void)m;
    if (tables) first_update(tables)->cols -= 1;
}

/* The adapter fails, and the replica goes on. */
static void expect_refusal(change_fn *change) {
    static pair p;
    open_pair(&p, &SMALL, change);
    request *r = make_request(p.e, true, 2), *base = make_request(p.e, false, 2);
    tiny_submit(p.e, r);
    while (!atomic_load(&r->done))
        engine_step_or_wait(p.e);
    assert_int_equal(r->finish, FINISH_ERROR);
    if (!strstr(r->error.message, "tables are not of this model"))
        fail_msg("\"%s\"", r->error.message);
    tiny_submit(p.e, base);
    while (!atomic_load(&base->done))
        engine_step_or_wait(p.e);
    assert_int_equal(base->finish, FINISH_LENGTH);
    request_unref(r);
    request_unref(base);
    close_pair(&p);
    assert_int_equal(p.other.code, ESP_OK);
}

static void an_update_of_another_matrix_fails_its_adapter(void **state) {
    (void)state;
    expect_refusal(rows_of_another_matrix);
    expect_refusal(columns_of_another_matrix);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_matrix_goes_in_chunks_with_steps_between),
        cmocka_unit_test(a_message_that_cannot_be_ends_the_replica_with_a_sentence),
        cmocka_unit_test(an_update_of_another_matrix_fails_its_adapter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
