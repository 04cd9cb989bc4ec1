/* replay.c - a closed loop of recorded requests through an engine. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/record/replay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

/* Whoever was cut off is replayed as far as he came. */
static bool was_cut(const record *r) {
    return r->finish != FINISH_STOP && r->finish != FINISH_LENGTH;
}

/* "name@version" of the loaded adapter of this content. */
static bool find_loaded(adapters *all, const char *digest, char out[REQUEST_ADAPTER_LABEL_BYTES]) {
    adapter_info *list;
    size_t count, i;
    adapters_list(all, &list, &count);
    for (i = 0; i < count && strcmp(list[i].digest, digest) != 0; i++)
        continue;
    bool found = i < count;
    if (found)
        snprintf(out, REQUEST_ADAPTER_LABEL_BYTES, "%s@%u", list[i].name, list[i].version);
    free(list);
    return found;
}

/* By its content, whatever it is called now; or in the store, by its name and content. */
static esp_code find_adapter(const engine *e, const record *r, adapter **out, esp_error *err) {
    adapters *all = engine_adapters(e);
    char label[REQUEST_ADAPTER_LABEL_BYTES], stored[STORE_REFERENCE_MAX + 1], shown[200];
    *out = NULL;
    if (!r->adapter[0]) return ESP_OK;
    if (all && find_loaded(all, r->adapter_digest, label))
        return adapters_find(all, label, out, err);
    snprintf(stored, sizeof stored, "%.*s@%s", (int)strcspn(r->adapter, "@"), r->adapter,
             r->adapter_digest);
    if (all && adapters_find(all, stored, out, NULL) == ESP_OK) return ESP_OK;
    esp_show(shown, sizeof shown, r->adapter, strlen(r->adapter));
    return esp_fail_field(err, ESP_PRECONDITION, "--adapter",
                          "it was answered through the adapter \"%s\", %.22s...; give it with "
                          "--adapter DIR or --adapter-store",
                          shown, r->adapter_digest);
}

static esp_code make_request(const engine *e, const record *r, request **out, esp_error *err) {
    request_options o = r->options;
    o.row_digests = true;
    o.adapters = engine_adapters(e);
    if (was_cut(r)) o.output_max = r->count;
    esp_code code = find_adapter(e, r, &o.adapter, err);
    if (code == ESP_OK) code = adapters_read_tokens(o.adapters, o.adapter, err);
    if (code == ESP_OK) code = request_new(out, &o, engine_vocab(e, o.adapter), err);
    if (code != ESP_OK) adapter_release(o.adapters, o.adapter);
    return code;
}

/* ---- before anything runs ---- */

static esp_code check_origin(const char *name, const char *what, const char *recorded,
                             const char *here, esp_error *err) {
    if (!strcmp(recorded, here)) return ESP_OK;
    char shown[PROFILE_BYTES_MAX];
    esp_show(shown, sizeof shown, recorded, strlen(recorded));
    return esp_fail_field(err, ESP_PRECONDITION, what,
                          "%s was recorded with the %s %s; this engine has %s: equal bits are "
                          "promised where both are equal",
                          name, what, shown, here);
}

static esp_code check_record(const engine *e, const record *r, const char *name, esp_error *err) {
    if (r->count == 0) return ESP_OK;
    request *made = NULL;
    esp_error why = {0};
    esp_code code = make_request(e, r, &made, &why);
    request_unref(made);
    if (code == ESP_OK) return ESP_OK;
    return esp_fail_field(err, code, why.field, "%s: line %u: %s", name, r->line, why.message);
}

esp_code replay_check(const engine *e, const recording *recorded, const char *name,
                      esp_error *err) {
    esp_code code =
        check_origin(name, "numeric profile", recorded->profile, engine_profile(e), err);
    if (code == ESP_OK)
        code = check_origin(name, "model digest", recorded->digest, engine_digest(e), err);
    for (uint32_t i = 0; i < recorded->count && code == ESP_OK; i++)
        code = check_record(e, &recorded->records[i], name, err);
    return code;
}

/* ---- one request's bits ---- */

static bool ended_alike(const record *was, const request *is) {
    if (is->published != was->count) return false;
    return was_cut(was) ? is->finish != FINISH_ERROR : is->finish == was->finish;
}

static replay_outcome compare(const record *was, const request *is) {
    replay_outcome out = {.count = is->published, .finish = is->finish};
    const int32_t *ids = is->tokens + is->prompt_count;
    uint32_t both = was->count < is->published ? was->count : is->published;
    while (out.token < both && was->ids[out.token] == ids[out.token] &&
           was->rows[out.token] == is->row_digests[out.token])
        out.token++;
    out.id = out.token < is->published ? ids[out.token] : -1;
    if (out.token < both)
        out.verdict = was->ids[out.token] == out.id ? REPLAY_LOGITS : REPLAY_TOKEN;
    else
        out.verdict = ended_alike(was, is) ? REPLAY_SAME : REPLAY_END;
    return out;
}

/* ---- the loop ---- */

typedef struct replay_loop {
    engine *e;
    const recording *recorded;
    const replay_options *options;
    replay_outcome *outcomes;
    uint32_t *order; /* [recorded->count] */
    struct {
        request *r; /* NULL: free */
        uint32_t index;
    } * seats; /* [options->concurrency] */
    uint32_t sent, done;
} replay_loop;

/* Fisher and Yates' shuffle, of the same noise each time. */
static void shuffle(uint32_t *order, uint32_t count, uint32_t seed) {
    const uint32_t key[2] = {seed, 0};
    for (uint32_t i = 0; i < count; i++)
        order[i] = i;
    for (uint32_t i = count; i > 1; i--) {
        uint32_t counter[4] = {i}, word[4];
        philox(counter, key, word);
        uint32_t other = word[0] % i, moved = order[i - 1];
        order[i - 1] = order[other];
        order[other] = moved;
    }
}

/* Sits the next one down that has something to compare; none when all were sent. */
static esp_code send_next(replay_loop *l, uint32_t seat, esp_error *err) {
    while (l->sent < l->recorded->count) {
        uint32_t index = l->order[l->sent++];
        const record *r = &l->recorded->records[index];
        if (r->count == 0) {
            l->outcomes[index] = (replay_outcome){.verdict = REPLAY_NOTHING, .id = -1};
            l->done++;
            continue;
        }
        esp_code code = make_request(l->e, r, &l->seats[seat].r, err);
        l->seats[seat].index = index;
        return code == ESP_OK ? engine_submit(l->e, l->seats[seat].r, err) : code;
    }
    return ESP_OK;
}

static esp_code fill_seats(replay_loop *l, esp_error *err) {
    esp_code code = ESP_OK;
    for (uint32_t i = 0; i < l->options->concurrency && code == ESP_OK; i++)
        if (!l->seats[i].r) code = send_next(l, i, err);
    return code;
}

static void take_answers(replay_loop *l) {
    for (uint32_t i = 0; i < l->options->concurrency; i++) {
        request *r = l->seats[i].r;
        if (!r || !atomic_load(&r->done)) continue;
        uint32_t index = l->seats[i].index;
        l->outcomes[index] = compare(&l->recorded->records[index], r);
        l->seats[i].r = NULL;
        l->done++;
        request_unref(r);
    }
}

/* An engine that broke answers nothing any more. */
static esp_code check_engine(const engine *e, esp_error *err) {
    engine_stats stats;
    engine_read_stats(e, &stats);
    if (!stats.broken) return ESP_OK;
    return esp_fail(err, ESP_UNAVAILABLE, "the device failed while requests were replayed");
}

static esp_code run(replay_loop *l, esp_error *err) {
    esp_code code = ESP_OK;
    while (l->done < l->recorded->count && code == ESP_OK) {
        code = fill_seats(l, err);
        if (code != ESP_OK) break;
        engine_step_or_wait(l->e);
        take_answers(l);
        if (l->options->progress)
            l->options->progress(l->options->progress_arg, l->done, l->recorded->count);
        code = check_engine(l->e, err);
    }
    return code;
}

esp_code replay_run(engine *e, const recording *recorded, const replay_options *options,
                    replay_outcome *outcomes, esp_error *err) {
    ESP_ASSERT(e && recorded->count && options->concurrency && outcomes);
    replay_loop l = {.e = e, .recorded = recorded, .options = options, .outcomes = outcomes};
    l.order = mem_new(recorded->count, sizeof *l.order);
    l.seats = mem_new(options->concurrency, sizeof *l.seats);
    shuffle(l.order, recorded->count, options->concurrency);
    esp_code code = run(&l, err);
    for (uint32_t i = 0; i < options->concurrency; i++)
        if (l.seats[i].r) {
            engine_cancel(e, l.seats[i].r);
            request_unref(l.seats[i].r);
        }
    free(l.order);
    free(l.seats);
    return code;
}
