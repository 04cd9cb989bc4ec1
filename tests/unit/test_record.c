/* test_record.c - finished requests to lines and back, the file that the recorder keeps, and replay:
 * what was recorded comes out again bit for bit, and what was changed is found. */
// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "engine/base/log.h"
#include "engine/record/recorder.h"
#include "engine/record/replay.h"
#include "tests/unit/hang.h"
#include "tests/unit/tiny_engine.h"

enum { VOCAB = 320, OUTPUT = 6, REQUESTS = 12 };

static char model_path[] = "/tmp/espalier-record-model-XXXXXX",
            folder[] = "/tmp/espalier-record-XXXXXX";
static char path[64];

static int make_files(void **state) {
    (void)state;
    tiny_write(model_path, &(tiny_llama_options){.layers = 2,
                                                 .hidden = 64,
                                                 .heads = 4,
                                                 .kv_heads = 2,
                                                 .head_dim = 16,
                                                 .intermediate = 96,
                                                 .vocab = VOCAB,
                                                 .context = 256,
                                                 .dtype = DT_Q8_0,
                                                 .seed = 3,
                                                 .tied = true});
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/requests.jsonl", folder);
    log_set_level(LOG_OFF);
    return 0;
}

static int drop_files(void **state) {
    (void)state;
    unlink(path);
    return unlink(model_path) + rmdir(folder);
}

static engine *open_engine(model_config config) {
    config.device = DEVICE_REF;
    config.digest = true;
    return tiny_open(model_path, config);
}

static const sample_bias BIAS[] = {{5, -100}, {7, 0.125f}};

/* Every field that a record has is other than its default somewhere. */
static request *make_request(uint32_t number) {
    int32_t prompt[40];
    uint32_t count = 1 + number * 7 % 40;
    for (uint32_t i = 0; i < count; i++)
        prompt[i] = (int32_t)((number * 131 + i * 17) % 256);
    const tok_text stops[] = {{"\xff\n\"", 3}, {"stop", 4}};
    request_options options = {.prompt = prompt,
                               .prompt_count = count,
                               .output_max = OUTPUT,
                               .ignore_eos = number % 2,
                               .policy = {.temperature = number % 3 ? 0.7f : 0,
                                          .top_k = number % 4 ? 20 : 0,
                                          .top_p = 0.9f,
                                          .min_p = 0.01f,
                                          .repetition_penalty = 1.1f,
                                          .presence_penalty = -0.3f,
                                          .frequency_penalty = 1.0f / 3,
                                          .seed = UINT64_MAX - number,
                                          .bias = BIAS,
                                          .bias_count = number % 3},
                               .stop = stops,
                               .stop_count = number % 3,
                               .row_digests = true};
    request *r = NULL;
    esp_error err = {0};
    if (request_new(&r, &options, VOCAB, &err) != ESP_OK) fail_msg("%s", err.message);
    return r;
}

/* All of them together, as lines in memory; free() them. */
static char *record_all(engine *e, size_t *bytes) {
    request *all[REQUESTS];
    char *text = NULL;
    FILE *out = open_memstream(&text, bytes);
    for (uint32_t i = 0; i < REQUESTS; i++)
        tiny_submit(e, all[i] = make_request(i));
    for (uint32_t i = 0; i < REQUESTS; i++) {
        tiny_finish(e, all[i]);
        record_write(out, e, all[i]);
        request_unref(all[i]);
    }
    fclose(out);
    return text;
}

static void read_back(recording *out, const char *text, size_t bytes) {
    esp_error err = {0};
    if (recording_read(out, text, bytes, "test", &err) != ESP_OK) fail_msg("%s", err.message);
}

/* ---- the line ---- */

static void assert_same_policy(const sample_policy *a, const sample_policy *b) {
    assert_int_equal(a->seed, b->seed);
    assert_int_equal(a->top_k, b->top_k);
    assert_true(a->temperature == b->temperature && a->top_p == b->top_p && a->min_p == b->min_p);
    assert_true(a->repetition_penalty == b->repetition_penalty);
    assert_true(a->presence_penalty == b->presence_penalty);
    assert_true(a->frequency_penalty == b->frequency_penalty);
    assert_int_equal(a->bias_count, b->bias_count);
    for (uint32_t i = 0; i < a->bias_count; i++)
        assert_true(a->bias[i].id == b->bias[i].id && a->bias[i].bias == b->bias[i].bias);
}

static void assert_same_request(const record *was, const request *r) {
    assert_int_equal(was->options.prompt_count, r->prompt_count);
    assert_memory_equal(was->prompt, r->tokens, r->prompt_count * sizeof *was->prompt);
    assert_int_equal(was->options.output_max, r->output_max);
    assert_int_equal(was->options.ignore_eos, r->ignore_eos);
    assert_int_equal(was->options.stop_count, r->stops.count);
    for (uint32_t i = 0; i < r->stops.count; i++) {
        assert_int_equal(was->stops[i].bytes, r->stops.bytes[i]);
        assert_memory_equal(was->stops[i].at, r->stops.text[i], r->stops.bytes[i]);
    }
    assert_same_policy(&was->options.policy, &r->policy);
    assert_int_equal(was->finish, r->finish);
    assert_int_equal(was->count, r->published);
    assert_memory_equal(was->ids, r->tokens + r->prompt_count, was->count * sizeof *was->ids);
    assert_memory_equal(was->rows, r->row_digests, was->count * sizeof *was->rows);
}

/* A seed of 64 bits, thirds in float32, stop strings that are no text: all come back as they were. */
static void a_line_says_all_of_a_request(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    for (uint32_t i = 0; i < REQUESTS; i++) {
        request *r = make_request(i);
        char *text = NULL;
        size_t bytes;
        FILE *out = open_memstream(&text, &bytes);
        tiny_submit(e, r);
        tiny_finish(e, r);
        record_write(out, e, r);
        fclose(out);
        recording back;
        read_back(&back, text, bytes);
        assert_int_equal(back.count, 1);
        assert_same_request(&back.records[0], r);
        assert_string_equal(back.profile, engine_profile(e));
        assert_string_equal(back.digest, engine_digest(e));
        assert_string_equal(back.model_path, model_path);
        recording_free(&back);
        free(text);
        request_unref(r);
    }
    engine_close(e);
}

/* One line with `from` replaced by `to` is refused, naming `field`. */
static void assert_refused(const char *text, const char *from, const char *to, esp_code wanted,
                           const char *field) {
    char *changed = malloc(strlen(text) + strlen(to) + 1);
    const char *at = strstr(text, from);
    assert_non_null(at);
    int used = sprintf(changed, "%.*s%s", (int)(at - text), text, to);
    strcpy(changed + used, at + strlen(from));
    recording back;
    esp_error err = {0};
    esp_code code = recording_read(&back, changed, strlen(changed), "test", &err);
    if (code != wanted) fail_msg("%s -> %s: %d", from, to, code);
    if (!strstr(err.message, field)) fail_msg("no \"%s\" in: %s", field, err.message);
    recording_free(&back);
    free(changed);
}

static void a_wrong_field_is_named_with_its_line(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    size_t bytes;
    char *text = record_all(e, &bytes);
    const struct {
        const char *from, *to, *field;
    } cases[] = {
        {"\"format\":\"espalier.record.v1\"", "\"format\":\"espalier.record.v9\"", "format"},
        {"\"format\":", "\"form\":", "format"},
        {"\"max_tokens\":6", "\"max_tokens\":-6", "max_tokens"},
        {"\"max_tokens\":6", "\"max_tokens\":2", "ids"},
        {"\"max_tokens\":6", "\"max_tokens\":1e9", "max_tokens"},
        {"\"seed\":\"1", "\"seed\":\"91", "seed"}, /* 2^64 and more */
        {"\"seed\":\"1", "\"seed\":\"x", "seed"},
        {"\"ignore_eos\":false", "\"ignore_eos\":0", "ignore_eos"},
        {"\"prompt\":[", "\"prompt\":[-1,", "prompt"},
        {"\"prompt\":[", "\"prompt\":[1.5,", "prompt"},
        {"\"prompt\":[", "\"prompt\":[99999999999,", "prompt"},
        {"\"stop_hex\":[]", "\"stop_hex\":[\"zz\"]", "stop_hex"},
        {"\"stop_hex\":[]", "\"stop_hex\":[\"abc\"]", "stop_hex"},
        {"\"temperature\":0", "\"temperature\":\"hot\"", "temperature"},
        {"\"temperature\":0", "\"temperature\":1e30", "temperature"},
        {"\"logit_bias\":[]", "\"logit_bias\":[[1]]", "logit_bias"},
        {"\"logit_bias\":[]", "\"logit_bias\":[[1,200]]", "logit_bias"},
        {"\"logits_xxh3\":\"", "\"logits_xxh3\":\"0", "logits_xxh3"},
        {"\"finish_reason\":\"length\"", "\"finish_reason\":\"none\"", "finish_reason"},
        {"\"ids\":[", "\"ids\":[\"a\",", "ids"},
        {"\"model\":", "\"ids\":1,\"model\":", "duplicate"},
        {"{", "[1]{", "line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(text, cases[i].from, cases[i].to, ESP_INVALID, cases[i].field);
    char *second = strchr(text, '\n');
    *second = ' '; /* two objects on a line */
    assert_refused(text, "{", "{", ESP_INVALID, "line 1");
    *second = '\n';
    assert_refused(text, "xxh3-128:", "xxh3-128:ffffffffff", ESP_INVALID, "digest"); /* too long */
    assert_refused(text, "xxh3-128:", "xxh3-129:", ESP_PRECONDITION, "line 2");
    assert_refused(text, "\"profile\":\"ref", "\"profile\":\"gpu", ESP_PRECONDITION, "line 2");
    free(text);
    engine_close(e);
}

/* A writer that was killed: what lies before and after its last line is read. */
static void a_line_without_its_end_is_left_out(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    size_t bytes;
    char *text = record_all(e, &bytes), *second = strchr(text, '\n') + 1;
    char *joined = malloc(2 * bytes + 2);
    recording back;
    for (size_t cut = 1; cut < 600; cut += 37) {
        size_t first = (size_t)(second - text);
        memcpy(joined, text, first + cut);
        read_back(&back, joined, first + cut);
        assert_true(back.count == 1 && back.cut == 1);
        recording_free(&back);
        joined[first + cut] = '\n';
        memcpy(joined + first + cut + 1, text, bytes);
        read_back(&back, joined, first + cut + 1 + bytes);
        assert_true(back.count == 1 + REQUESTS && back.cut == 1);
        assert_int_equal(back.records[1].line, 3);
        recording_free(&back);
    }
    free(joined);
    free(text);
    engine_close(e);
}

/* ---- the file ---- */

static recorder *open_recorder(const engine *e) {
    recorder *r = NULL;
    esp_error err = {0};
    if (recorder_open(&r, path, e, &err) != ESP_OK) fail_msg("%s", err.message);
    return r;
}

static void take_some(recorder *r, engine *e, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        request *some = make_request(i);
        tiny_submit(e, some);
        tiny_finish(e, some);
        recorder_take(r, some);
        request_unref(some);
    }
}

static void read_file(recording *out) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    static char text[1 << 20];
    size_t bytes = fread(text, 1, sizeof text, file);
    fclose(file);
    read_back(out, text, bytes);
}

static void lines_are_appended_to_a_file_of_its_owner(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    struct stat status;
    unlink(path);
    for (uint32_t round = 1; round <= 2; round++) {
        recorder *r = open_recorder(e);
        take_some(r, e, 3);
        assert_int_equal(recorder_close(r), 0);
        recording back;
        read_file(&back);
        assert_true(back.count == 3 * round && back.cut == 0);
        recording_free(&back);
    }
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    engine_close(e);
}

static void a_file_that_others_read_is_refused(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    recorder *r = open_recorder(e);
    recorder_close(r);
    const mode_t modes[] = {0640, 0604, 0620};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        esp_error err = {0};
        assert_int_equal(chmod(path, modes[i]), 0);
        assert_int_equal(recorder_open(&r, path, e, &err), ESP_DENIED);
        assert_non_null(strstr(err.message, "chmod 600"));
        recorder_close(r);
    }
    chmod(path, 0600);
    engine_close(e);
}

static void a_file_that_is_recorded_to_is_refused_to_others(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    recorder *r = open_recorder(e), *second = NULL;
    esp_error err = {0};
    assert_int_equal(recorder_check(path, &err), ESP_UNAVAILABLE);
    assert_int_equal(recorder_open(&second, path, e, &err), ESP_UNAVAILABLE);
    assert_non_null(strstr(err.message, "name another file"));
    recorder_close(second);
    recorder_close(r);
    assert_int_equal(recorder_check(path, &err), ESP_OK);
    engine_close(e);
}

static void what_is_no_file_is_refused(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    recorder *r = NULL;
    esp_error err = {0};
    assert_int_equal(recorder_open(&r, "/dev/null", e, &err), ESP_INVALID);
    recorder_close(r);
    assert_int_equal(recorder_open(&r, "/nowhere/at/all", e, &err), ESP_NOT_FOUND);
    assert_string_equal(err.field, "--record");
    recorder_close(r);
    engine_close(e);
}

/* The last line has no end: the next one does not join it. */
static void an_open_line_is_closed_first(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    unlink(path);
    recorder *r = open_recorder(e);
    take_some(r, e, 1);
    recorder_close(r);
    FILE *file = fopen(path, "ab");
    fputs("{\"format\":\"espal", file);
    fclose(file);
    r = open_recorder(e);
    take_some(r, e, 2);
    assert_int_equal(recorder_close(r), 0);
    recording back;
    read_file(&back);
    assert_true(back.count == 3 && back.cut == 1);
    recording_free(&back);
    engine_close(e);
}

/* The file may not grow past 4,000 bytes, as on a full disk: some lines are written whole, the others
 * are counted, and when there is room again it goes on. */
static void a_full_disk_costs_records_and_no_request(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    struct rlimit before, small;
    unlink(path);
    recorder *r = open_recorder(e);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = (struct rlimit){4000, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    take_some(r, e, REQUESTS);
    record_stats stats = {0};
    for (int i = 0; stats.written + stats.lost < REQUESTS && i < HANG_MS; i++) {
        usleep(1000);
        recorder_read_stats(r, &stats);
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_true(stats.written > 0 && stats.lost > 0);
    assert_int_equal(stats.written + stats.lost, REQUESTS);
    take_some(r, e, 1);
    assert_int_equal(recorder_close(r), stats.lost);
    recording back;
    read_file(&back);
    assert_int_equal(back.count, stats.written + 1);
    assert_int_equal(back.cut, 0);
    recording_free(&back);
    engine_close(e);
}

/* ---- replay ---- */

static void replay_into(engine *e, const recording *r, uint32_t concurrency, replay_outcome *out) {
    esp_error err = {0};
    replay_options o = {.concurrency = concurrency};
    if (replay_check(e, r, "test", &err) != ESP_OK) fail_msg("%s", err.message);
    if (replay_run(e, r, &o, out, &err) != ESP_OK) fail_msg("%s", err.message);
}

static void all_comes_out_again_in_any_company(void **state) {
    (void)state;
    engine *e = open_engine((model_config){.max_seqs = 16});
    size_t bytes;
    char *text = record_all(e, &bytes);
    recording r;
    read_back(&r, text, bytes);
    const uint32_t levels[] = {1, 2, 5, 16};
    for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
        replay_outcome out[REQUESTS];
        replay_into(e, &r, levels[l], out);
        for (uint32_t i = 0; i < REQUESTS; i++) {
            assert_int_equal(out[i].verdict, REPLAY_SAME);
            assert_int_equal(out[i].count, r.records[i].count);
        }
    }
    recording_free(&r);
    free(text);
    engine_close(e);
}

/* One bit of one digest, one id, one token too few, another end: each is found where it is. */
static void what_differs_is_found_where_it_is(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    size_t bytes;
    char *text = record_all(e, &bytes);
    recording r;
    read_back(&r, text, bytes);
    for (uint32_t i = 1; i <= 4; i++)
        assert_true(r.records[i].count >= 2 && r.records[i].finish == FINISH_LENGTH);
    r.records[1].rows[1] ^= 1ull << 63;
    r.records[2].ids[0] ^= 1;
    r.records[3].count--;
    r.records[4].finish = FINISH_STOP;
    r.records[5].count = 0;
    replay_outcome out[REQUESTS];
    replay_into(e, &r, 3, out);
    assert_int_equal(out[0].verdict, REPLAY_SAME);
    assert_true(out[1].verdict == REPLAY_LOGITS && out[1].token == 1);
    assert_true(out[2].verdict == REPLAY_TOKEN && out[2].token == 0);
    assert_int_equal(out[2].id, r.records[2].ids[0] ^ 1);
    assert_true(out[3].verdict == REPLAY_END && out[3].token == r.records[3].count);
    assert_int_equal(out[4].verdict, REPLAY_END);
    assert_int_equal(out[5].verdict, REPLAY_NOTHING);
    recording_free(&r);
    free(text);
    engine_close(e);
}

/* A client left after two tokens; they are the same two again. */
static void a_cancelled_request_is_replayed_as_far_as_it_came(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    request *left = make_request(3);
    tiny_submit(e, left);
    while (atomic_load(&left->published) < 2)
        engine_step(e);
    engine_cancel(e, left);
    tiny_finish(e, left);
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    record_write(out, e, left);
    fclose(out);
    recording r;
    read_back(&r, text, bytes);
    assert_int_equal(r.records[0].finish, FINISH_CANCELLED);
    replay_outcome outcome;
    replay_into(e, &r, 1, &outcome);
    assert_int_equal(outcome.verdict, REPLAY_SAME);
    assert_int_equal(outcome.count, 2);
    recording_free(&r);
    free(text);
    request_unref(left);
    engine_close(e);
}

static void another_model_or_profile_is_refused_naming_both(void **state) {
    (void)state;
    engine *e = open_engine((model_config){0});
    size_t bytes;
    char *text = record_all(e, &bytes);
    recording r;
    esp_error err = {0};
    read_back(&r, text, bytes);
    r.profile[0] = 'R';
    assert_int_equal(replay_check(e, &r, "test", &err), ESP_PRECONDITION);
    assert_non_null(strstr(err.message, r.profile));
    assert_non_null(strstr(err.message, engine_profile(e)));
    r.profile[0] = 'r';
    r.digest[10] ^= 1;
    assert_int_equal(replay_check(e, &r, "test", &err), ESP_PRECONDITION);
    assert_non_null(strstr(err.message, r.digest));
    assert_non_null(strstr(err.message, engine_digest(e)));
    r.digest[10] ^= 1;
    r.records[7].prompt[0] = VOCAB;
    assert_int_equal(replay_check(e, &r, "test", &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "line 8"));
    recording_free(&r);
    free(text);
    engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_says_all_of_a_request),
        cmocka_unit_test(a_wrong_field_is_named_with_its_line),
        cmocka_unit_test(a_line_without_its_end_is_left_out),
        cmocka_unit_test(lines_are_appended_to_a_file_of_its_owner),
        cmocka_unit_test(a_file_that_others_read_is_refused),
        cmocka_unit_test(a_file_that_is_recorded_to_is_refused_to_others),
        cmocka_unit_test(what_is_no_file_is_refused),
        cmocka_unit_test(an_open_line_is_closed_first),
        cmocka_unit_test(a_full_disk_costs_records_and_no_request),
        cmocka_unit_test(all_comes_out_again_in_any_company),
        cmocka_unit_test(what_differs_is_found_where_it_is),
        cmocka_unit_test(a_cancelled_request_is_replayed_as_far_as_it_came),
        cmocka_unit_test(another_model_or_profile_is_refused_naming_both),
    };
    return cmocka_run_group_tests(tests, make_files, drop_files);
}
