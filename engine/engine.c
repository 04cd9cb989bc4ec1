/* engine.c - opens and closes an engine, runs its thread, tells how it does. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/comm_nccl.h"
#include "engine/base/check.h"
#include "engine/base/least.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/device.h"
#include "engine/engine_parts.h"
#include "engine/model/format/model_folder.h"
#include "kernels/op_timer.h"

enum { MAX_SEQS_DEFAULT = 256, CONTEXT_DEFAULT = 8192 };
enum { STEP_TOKENS_DEFAULT = 512, STEP_TOKENS_CUDA = 2048 };
enum { PREFILL_CHUNK_TILES = 384, PREFILL_CHUNK_DEFAULT = 192 };
/* Who lives though nothing can be done waits for an adapter, whose frames or whose own deadline come with
 * time alone. */
enum { IDLE_WAIT_US = 1000000, LIVE_WAIT_US = 20000 };

/* ---- defaults that need the model ---- */

/* 0: what answers leave. Without tiles a prompt's token takes several times as long. */
static uint32_t default_chunk(const model_config *c) {
    if (c->device == DEVICE_CUDA) return 0;
    kern_level level = device_level(c);
    if (c->device == DEVICE_CPU && level == LEVEL_AUTO) level = kern_cpu_best_level();
    return level == LEVEL_AMX ? PREFILL_CHUNK_TILES : PREFILL_CHUNK_DEFAULT;
}

static esp_code resolve_limits(engine *e, const model_spec *spec, esp_error *err) {
    model_config *c = &e->config;
    bool cuda = c->device == DEVICE_CUDA, step_tokens_given = c->step_tokens > 0;
    uint32_t input_max = spec->input_max ? spec->input_max : spec->context;
    if (!c->max_context) c->max_context = least(input_max, CONTEXT_DEFAULT);
    if (!c->step_tokens) c->step_tokens = cuda ? STEP_TOKENS_CUDA : STEP_TOKENS_DEFAULT;
    if (!c->prefill_chunk) c->prefill_chunk = default_chunk(c);
    if (spec_runs_whole(spec) && !step_tokens_given)
        c->step_tokens = most(c->step_tokens, c->max_context);
    if (!c->max_seqs) c->max_seqs = least(MAX_SEQS_DEFAULT, c->step_tokens);
    if (c->max_seqs > c->step_tokens)
        return esp_fail_field(err, ESP_INVALID, "--max-seqs",
                              "--max-seqs %u is over --step-tokens %u: each running sequence "
                              "needs a token of every step",
                              c->max_seqs, c->step_tokens);
    if (c->max_context > spec->context)
        return esp_fail_field(err, ESP_INVALID, "--max-context",
                              "--max-context %u: the model was trained for %u", c->max_context,
                              spec->context);
    if (spec_runs_whole(spec) && c->step_tokens < c->max_context)
        return esp_fail_field(err, ESP_INVALID, "--step-tokens",
                              "--step-tokens %u: this model computes a text in one step, which "
                              "must hold the %u tokens of --max-context; raise the first or lower "
                              "the second",
                              c->step_tokens, c->max_context);
    if (!c->waiting_max) c->waiting_max = LIMIT_WAITING_DEFAULT;
    e->live_max = c->waiting_max + c->max_seqs;
    return ESP_OK;
}

/* ---- ranks ---- */

/* Who this engine computes with. Threads are shared between ranks of one process. */
static esp_code join_ranks(engine *e, esp_error *err) {
    model_config *c = &e->config;
    if (c->comm) c->tp = c->comm->size * most(c->local_ranks, 1);
    if (c->tp <= 1) return ESP_OK;
    uint32_t here = c->comm ? most(c->local_ranks, 1) : c->tp;
    esp_code code = ESP_OK;
    if (here == 1) {
        e->comm = c->comm;
    } else {
        c->threads = most((c->threads ? c->threads : pool_default_threads()) / here, 1);
        code = ranks_start(&e->ranks, c, here, &e->comm, err);
    }
    if (code == ESP_OK) e->comm->patience_us = COMM_FOR_EVER; /* until all have loaded */
    return code;
}

/* Of a comm that has failed: its own. */
static uint32_t least_of_ranks(void *arg, uint32_t own) {
    engine *e = arg;
    uint32_t all[COMM_RANKS_MAX];
    for (uint32_t rank = 0; rank < COMM_RANKS_MAX; rank++)
        all[rank] = own;
    comm_all_gather(e->comm, &own, all, sizeof own);
    for (uint32_t rank = 0; rank < e->comm->size; rank++)
        own = least(own, all[rank]);
    return own;
}

/* Who times the ops calls them all, and so do the others then. */
static void agree_on_replay(engine *e) {
    bool replay = !e->config.no_replay && !e->config.op_timer;
    if (e->comm) e->config.no_replay = !least_of_ranks(e, replay);
}

/* What the others think, where there are others. */
static esp_code agree(engine *e, esp_code code, esp_error *err) {
    return e->comm ? comm_agree(e->comm, code, err) : code;
}

/* Packed parts of adapters go from rank to rank, and sums of all are one answer: where ranks are processes, on
 * hosts of other processors perhaps, all have to compute alike. */
static esp_code check_alike(engine *e, esp_error *err) {
    char layout[PROFILE_BYTES_MAX] = "", of_all[COMM_RANKS_MAX * PROFILE_BYTES_MAX] = "";
    if (!e->comm) return ESP_OK;
    snprintf(layout, sizeof layout, "%s", e->profile);
    comm_all_gather(e->comm, layout, of_all, sizeof layout);
    for (uint32_t rank = 1; rank < e->comm->size; rank++) {
        const char *other = of_all + (size_t)rank * PROFILE_BYTES_MAX;
        if (memcmp(of_all, other, PROFILE_BYTES_MAX) != 0)
            return esp_fail(err, ESP_PRECONDITION,
                            "rank 0 computes as \"%s\" and rank %u as \"%s\"; start all ranks "
                            "with the same options, and %s",
                            of_all, rank, other,
                            e->config.device == DEVICE_CUDA
                                ? "on GPUs of one kind"
                                : "with --device cpu:avx2 where processors differ");
    }
    return ESP_OK;
}

/* What could not be split is no mistake, but whoever waits for a gain should know. */
static void tell_shards(const engine *e) {
    const model_shard *s = model_get_shard(e->model);
    if (!e->comm || !engine_leads(e) || (s->attention && s->mlp)) return;
    log_event(LOG_WARN, "rank_computes_all", "part=%s ranks=%u reason=\"%s\"",
              s->attention ? "mlp" : "attention", s->ranks,
              "it cannot be shared out in whole heads and blocks");
}

/* What moves memory of the device: that between hosts' threads or processes, unless it is a GPU's. */
static esp_code open_device_comm(engine *e, esp_error *err) {
    e->device_comm = e->comm;
    if (e->config.device != DEVICE_CUDA) return ESP_OK;
    esp_code code = comm_nccl_open(&e->device_comm, e->comm, e->dev, err);
    if (code == ESP_OK) e->device_comm->patience_us = engine_rank_patience_us(e);
    return code;
}

static esp_code open_device(engine *e, esp_error *err) {
    esp_code code = pool_open(&e->pool, e->config.threads, err);
    if (code != ESP_OK) return code;
    e->ops = e->config.ops ? e->config.ops : device_ops(e->config.device);
    e->opened_with =
        (kern_options){.pool = e->pool,
                       .level = device_level(&e->config),
                       .index = device_of_rank(&e->config, e->comm ? e->comm->local_rank : 0),
                       .kv_dtype = e->config.kv_dtype,
                       .activations = e->config.activations,
                       .tokens_max = e->config.step_tokens,
                       .no_replay = e->config.no_replay,
                       .least = e->comm ? least_of_ranks : NULL,
                       .least_arg = e};
    code = e->ops->open(&e->dev, &e->opened_with, err);
    if (code != ESP_OK) return code;
    profile_print(e->ops, e->dev, engine_rank_count(e),
                  e->config.quantize_given ? &e->config.quantize : NULL, e->profile);
    if (e->comm) code = open_device_comm(e, err);
    if (code != ESP_OK) return code;
    if (e->config.op_timer) op_timer_wrap(e->config.op_timer, &e->ops, &e->dev);
    return ESP_OK;
}

static esp_code open_scheduler(engine *e, esp_error *err) {
    const page_groups *groups = model_page_groups(e->model);
    sched_options o = {.seqs_max = e->config.max_seqs,
                       .waiting_max = e->live_max,
                       .step_tokens = e->config.step_tokens,
                       .prefill_chunk = e->config.prefill_chunk,
                       .context_max = e->config.max_context,
                       .short_context = spec_short_context(model_get_spec(e->model)),
                       .kv = {.page_count = e->page_count, .group_count = groups->count}};
    memcpy(o.kv.windows, groups->windows, sizeof o.kv.windows);
    return sched_open(&e->sched, &o, err);
}

static void take_batch(engine *e) {
    uint32_t t = e->config.step_tokens, s = e->config.max_seqs;
    step_batch *b = &e->batch;
    b->group_count = model_page_groups(e->model)->count;
    b->table_stride = (e->config.max_context + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    b->ids = mem_new(t, sizeof *b->ids);
    b->positions = mem_new(t, sizeof *b->positions);
    b->token_seq = mem_new(t, sizeof *b->token_seq);
    b->seq_first = mem_new(s, sizeof *b->seq_first);
    b->seq_tokens = mem_new(s, sizeof *b->seq_tokens);
    b->seq_cached = mem_new(s, sizeof *b->seq_cached);
    b->seq_adapter = mem_new(s, sizeof *b->seq_adapter);
    b->seq_long = mem_new(s, sizeof *b->seq_long);
    b->tables = mem_new((size_t)b->group_count * s * b->table_stride, sizeof *b->tables);
    b->rows = mem_new(e->rows_max, sizeof *b->rows);
    e->step_adapters = mem_new(s, sizeof *e->step_adapters);
    e->step_ids = mem_new(s, sizeof *e->step_ids);
    adapter_order_open(&e->order, s);
    engine_take_flights(e);
    e->lead = e->ops->beside && !e->comm && !e->config.no_lead;
    if (e->comm) ranks_take_message(e);
}

/* ---- open and close ---- */

static void set_name(engine *e, const model_file *file) {
    const char *slash = strrchr(e->model_path, '/'), *own = slash ? slash + 1 : e->model_path;
    if (model_folder_is(e->model_path)) own = model_file_name(file); /* of ".", too */
    snprintf(e->name, sizeof e->name, "%s", e->config.name ? e->config.name : own);
    if (e->config.name) return;
    size_t length = strlen(e->name);
    if (length > 5 && !strcmp(e->name + length - 5, ".gguf")) e->name[length - 5] = 0;
}

/* Symbolic links stay: a name may tell more than what it leads to. */
static void set_absolute_path(engine *e) {
    char folder[PATH_MAX], whole[2 * PATH_MAX + 2];
    const char *path = e->model_path;
    if (path[0] != '/' && getcwd(folder, sizeof folder)) {
        snprintf(whole, sizeof whole, "%s/%.*s", folder, PATH_MAX, path);
        path = whole;
    }
    e->absolute_path = mem_copy_text(path, strlen(path));
}

static esp_code open_text(engine *e, const model_file *file, esp_error *err) {
    esp_code code = model_file_tokenizer(file, &e->tok, err);
    if (code != ESP_OK) return code;
    /* Without a template all but chat messages works, so a refusal is kept, not returned. */
    if (model_file_chat(file, e->tok, &e->template, &e->template_why) != ESP_OK) e->template = NULL;
    return ESP_OK;
}

/* --quantize and --pack. A model that will serve for long is started again some day: its pack is kept
 * where that pays. Other commands leave no file behind that nobody asked for. */
static void ask_for_weights(const engine *e, model_options *o, char *folder, size_t bytes) {
    const model_config *c = &e->config;
    bool asked = c->pack && strcmp(c->pack, "auto") != 0, off = asked && !strcmp(c->pack, "off");
    o->quantize = c->quantize_given;
    o->quantize_to = c->quantize;
    o->pool = e->pool;
    o->packs = off                          ? PACKS_OFF
               : c->replica                 ? PACKS_USE /* the first one keeps it */
               : asked || c->quantize_given ? PACKS_KEEP
               : c->serves                  ? PACKS_KEEP_IF_WORTH
                                            : PACKS_USE;
    o->packs_behind = c->serves;
    o->model_path = e->model_path;
    o->pack_folder = asked ? c->pack : NULL;
    o->cache_folder = config_cache_folder(folder, bytes);
}

/* Device and weights: what each rank does for itself. */
static esp_code load_model(engine *e, model_file *file,
                           void (*progress)(void *, uint64_t, uint64_t), void *progress_arg,
                           esp_error *err) {
    esp_code code = open_device(e, err);
    if (code != ESP_OK) return code;
    model_options o = {.ops = e->ops,
                       .dev = e->dev,
                       .comm = e->device_comm,
                       .tokens_max = e->config.step_tokens,
                       .rows_max = e->rows_max,
                       .seqs_max = e->config.max_seqs,
                       .no_adapters = !engine_takes_adapters(e),
                       .context_max = e->config.max_context,
                       .keep_pages = e->config.keep_pages,
                       .progress = progress,
                       .progress_arg = progress_arg};
    char cache_folder[PATH_MAX];
    ask_for_weights(e, &o, cache_folder, sizeof cache_folder);
    return model_open(&e->model, file, &o, err);
}

static esp_code open_model(engine *e, model_file *file,
                           void (*progress)(void *, uint64_t, uint64_t), void *progress_arg,
                           esp_error *err) {
    const model_spec *spec = model_file_spec(file);
    esp_code code = device_choose(&e->config, err);
    if (code == ESP_OK) code = resolve_limits(e, spec, err);
    if (code == ESP_OK) code = join_ranks(e, err);
    if (code != ESP_OK) return code;
    agree_on_replay(e);
    e->rows_max = most(e->config.max_seqs, MODEL_LOGITS_ROWS);
    if (engine_leads(e)) code = open_text(e, file, err);
    if (code == ESP_OK) code = load_model(e, file, progress, progress_arg, err);
    if ((code = agree(e, code, err)) != ESP_OK) return code;
    if ((code = agree(e, check_alike(e, err), err)) != ESP_OK) return code;
    tell_shards(e);
    e->model_vocab = spec->vocab;
    code = engine_take_pages(e, err);
    if ((code = agree(e, code, err)) != ESP_OK) return code;
    take_batch(e);
    if (!engine_leads(e)) {
        engine_open_followed(e);
        return ESP_OK;
    }
    if (e->comm) e->comm->patience_us = engine_rank_patience_us(e);
    code = open_scheduler(e, err);
    if (code == ESP_OK && !engine_embeds(e))
        code =
            sample_rows_open(&e->sampling, e->pool, engine_widest_vocab(e), MODEL_LOGITS_ROWS, err);
    return code;
}

esp_code engine_open(engine **out, const model_config *config,
                     void (*progress)(void *, uint64_t, uint64_t), void *progress_arg,
                     esp_error *err) {
    ESP_ASSERT(out && config && config->model_path);
    engine *e = mem_new(1, sizeof *e);
    e->config = *config;
    e->model_path = mem_copy_text(config->model_path, strlen(config->model_path));
    e->config.model_path = e->model_path;
    set_absolute_path(e);
    model_file *file = NULL;
    esp_code code = model_file_open(&file, e->model_path, err);
    if (code == ESP_OK) set_name(e, file);
    if (code == ESP_OK) code = open_model(e, file, progress, progress_arg, err);
    if (code == ESP_OK && config->digest)
        snprintf(e->digest, sizeof e->digest, "%s", model_file_digest(file));
    if (code == ESP_OK && engine_leads(e)) code = engine_open_adapters(e, &file, err);
    model_file_close(file); /* the mapping goes: weights and tokenizer are copies */
    if (code != ESP_OK) {
        esp_error why = {.code = code};
        if (e->comm) comm_abort(e->comm, err ? err : &why);
        engine_close(e);
        return code;
    }
    e->config.name = e->name;
    e->tells = &e->news_signal;
    e->inbox = queue_open(e->live_max);
    e->cancels = queue_open(e->live_max);
    /* Twice: a request whose end was seen early gives its place back and is told once more. */
    e->news = queue_open(2 * e->live_max);
    *out = e;
    return ESP_OK;
}

static void drop_queue(queue *q) {
    if (!q) return;
    for (request *r; (r = queue_pop(q));)
        request_unref(r);
    queue_close(q);
}

/* Everyone who still lives is told that the engine goes. */
static void end_all(engine *e) {
    if (!e->inbox || !engine_leads(e)) return;
    atomic_store(&e->stopping, true);
    engine_cancel_all(e);
    while (engine_step(e))
        continue;
    ESP_ASSERT(!e->live);
}

void engine_close(engine *e) {
    if (!e) return;
    if (e->started) {
        atomic_store(&e->stopping, true);
        signal_wake(&e->inbox_signal);
        pthread_join(e->thread, NULL);
    }
    end_all(e);
    if (e->comm && engine_leads(e) && e->inbox) ranks_stop(e);
    ranks_close(e->ranks);
    if (e->config.closes_comm) comm_close(e->config.comm);
    drop_queue(e->inbox);
    drop_queue(e->cancels);
    drop_queue(e->news);
    step_batch *b = &e->batch;
    void *arrays[] = {b->ids,        b->positions,     b->token_seq, b->seq_first, b->seq_tokens,
                      b->seq_cached, b->seq_adapter,   b->seq_long,  b->tables,    b->rows,
                      e->step_ids,   e->step_adapters, e->message,   e->shards};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    engine_give_flights(e);
    adapter_order_close(&e->order);
    sample_rows_close(e->sampling);
    adapters_close(e->adapters);
    adapter_follower_close(e->followed);
    store_close(e->store);
    sched_close(e->sched);
    if (e->arena) e->ops->release(e->dev, e->arena, e->arena_bytes);
    model_close(e->model);
    model_file_close(e->file);
    if (e->device_comm && e->device_comm != e->comm) comm_close(e->device_comm);
    if (e->ops) e->ops->close(e->dev);
    pool_close(e->pool);
    template_close(e->template);
    tok_close(e->tok);
    free(e->model_path);
    free(e->absolute_path);
    free(e);
}

/* ---- the engine's own thread ---- */

void engine_step_or_wait(engine *e) {
    uint32_t seen = signal_seen(&e->inbox_signal);
    if (!engine_step(e) && e->live) signal_wait(&e->inbox_signal, seen, LIVE_WAIT_US);
}

static void *run(void *arg) {
    engine *e = arg;
    pool_settle(e->pool);
    while (!atomic_load_explicit(&e->stopping, memory_order_acquire)) {
        uint32_t seen = signal_seen(&e->inbox_signal);
        if (!engine_step(e))
            signal_wait(&e->inbox_signal, seen, e->live ? LIVE_WAIT_US : IDLE_WAIT_US);
    }
    return NULL;
}

esp_code engine_start(engine *e, esp_error *err) {
    ESP_ASSERT(!e->started);
    int failed = pthread_create(&e->thread, NULL, run, e);
    if (failed)
        return esp_fail(err, ESP_EXHAUSTED, "engine: cannot start its thread: %s",
                        strerror(failed));
    pthread_setname_np(e->thread, "engine");
    e->started = true;
    return ESP_OK;
}

/* ---- what it tells ---- */

const model_spec *engine_spec(const engine *e) { return model_get_spec(e->model); }
const tokenizer *engine_tokenizer(const engine *e) { return e->tok; }
const char *engine_name(const engine *e) { return e->name; }
const char *engine_profile(const engine *e) { return e->profile; }
const char *engine_path(const engine *e) { return e->absolute_path; }
const char *engine_digest(const engine *e) { return e->digest; }
adapters *engine_adapters(const engine *e) { return e->adapters; }
uint32_t engine_vocab(const engine *e, const adapter *ad) {
    return ad && adapter_vocab(ad) ? adapter_vocab(ad) : e->model_vocab;
}
const tokenizer *engine_tokenizer_of(const engine *e, const adapter *ad) {
    return ad && adapter_tokenizer(ad) ? adapter_tokenizer(ad) : e->tok;
}
adapter_store *engine_adapter_store(const engine *e) { return e->store; }
uint32_t engine_context_max(const engine *e) { return e->config.max_context; }
bool engine_embeds(const engine *e) { return model_get_spec(e->model)->pooling != POOLING_NONE; }
size_t engine_weight_bytes(const engine *e) { return model_weight_bytes(e->model); }
model_cost engine_cost(const engine *e) { return model_cost_of(e->model); }

const chat_template *engine_template(const engine *e, const esp_error **why) {
    if (why) *why = &e->template_why;
    return e->template;
}

static void read_histogram(const atomic_histogram *from, histogram *to) {
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        to->count[i] = atomic_load_explicit(&from->count[i], memory_order_relaxed);
    to->sum = (double)atomic_load_explicit(&from->sum_us, memory_order_relaxed) * 1e-6;
}

void engine_read_stats(const engine *e, engine_stats *out) {
    const engine_counters *c = &e->counters;
    /* Before what is counted, which the engine writes before these; of them the last that it writes first. */
    uint32_t waiting = atomic_load(&c->waiting);
    uint32_t running = atomic_load(&c->running);
    uint32_t pages_used = atomic_load(&c->pages_used);
    *out = (engine_stats){
        .live = atomic_load(&e->live_count),
        .waiting = waiting,
        .running = running,
        .pages_used = pages_used,
        .pages_total = e->page_count,
        .requests_total = atomic_load(&c->requests),
        .prompt_tokens_total = atomic_load(&c->prompt_tokens),
        .output_tokens_total = atomic_load(&c->output_tokens),
        .preemptions_total = atomic_load(&c->preemptions),
        .steps_total = atomic_load(&c->steps),
        .steps_ahead_total = atomic_load(&c->steps_ahead),
        .step_tokens_total = atomic_load(&c->step_tokens),
        .embeddings_total = atomic_load(&c->embeddings),
        .last_step_us = atomic_load(&c->step_ended_us),
        .step_running = atomic_load(&c->step_running),
        .step_began_us = atomic_load(&c->step_began_us),
        .draining = atomic_load(&e->draining),
        .broken = atomic_load(&c->broken),
    };
    for (uint32_t i = 0; i <= FINISH_ERROR; i++)
        out->finished_total[i] = atomic_load(&c->finished[i]);
    read_histogram(&c->ttft, &out->ttft);
    read_histogram(&c->itl, &out->itl);
    read_histogram(&c->e2e, &out->e2e);
}

uint32_t engine_live(const engine *e) {
    return atomic_load_explicit(&e->live_count, memory_order_relaxed);
}

bool engine_broken(const engine *e) {
    return atomic_load_explicit(&e->counters.broken, memory_order_relaxed);
}

bool engine_preempt_newest(engine *e) {
    engine_settle(e);
    return sched_preempt_newest(e->sched);
}
void engine_check(const engine *e) { sched_check(e->sched); }
