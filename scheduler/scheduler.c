/* scheduler.c - the life of a sequence: submitted, admitted, preempted, ended. */
// SPDX-License-Identifier: Apache-2.0
#include "scheduler/scheduler.h"

#include <stdlib.h>

#include "engine/base/mem.h"
#include "scheduler/state.h"

enum { SLOTS_MAX = 1 << 24, RETRY_DEFAULT_MS = 1000, RETRY_MIN_MS = 10, RETRY_MAX_MS = 60000 };

static esp_code check_options(const sched_options *o, esp_error *err) {
    const struct {
        const char *flag;
        uint32_t value;
    } wanted[] = {{"--max-seqs", o->seqs_max},
                  {"--max-waiting", o->waiting_max},
                  {"--step-tokens", o->step_tokens},
                  {"--max-context", o->context_max}};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        if (wanted[i].value == 0)
            return esp_fail_field(err, ESP_INVALID, wanted[i].flag, "%s is 0, at least 1 is wanted",
                                  wanted[i].flag);
    if ((uint64_t)o->seqs_max + o->waiting_max > SLOTS_MAX)
        return esp_fail_field(err, ESP_INVALID, "--max-seqs",
                              "%u running and %u waiting sequences wanted, %u together is the most",
                              o->seqs_max, o->waiting_max, (unsigned)SLOTS_MAX);
    return ESP_OK;
}

static void make_slots(scheduler *s) {
    s->slot_count = s->options.seqs_max + s->options.waiting_max;
    s->sequences = mem_new(s->slot_count, sizeof *s->sequences);
    list_init(&s->free);
    list_init(&s->running);
    list_init(&s->leaving);
    list_init(&s->preempted);
    list_init(&s->parked);
    for (uint32_t slot = 0; slot < s->slot_count; slot++) {
        sequence *seq = &s->sequences[slot];
        seq->generation = 1; /* an all-zero handle is nobody's */
        seq->heap_index[HEAP_WAITING] = seq->heap_index[HEAP_DEADLINE] = NO_SLOT;
        seq->cancel_index = NO_SLOT;
        list_push_tail(s, &s->free, slot);
    }
}

static void make_queues(scheduler *s) {
    s->waiting = (slot_heap){.kind = HEAP_WAITING};
    s->deadlines = (slot_heap){.kind = HEAP_DEADLINE};
    s->waiting.slots = mem_new(s->slot_count, sizeof(uint32_t));
    s->deadlines.slots = mem_new(s->slot_count, sizeof(uint32_t));
    s->cancelled = mem_new(s->slot_count, sizeof *s->cancelled);
    s->dropped = mem_new(s->slot_count, sizeof *s->dropped);
    s->work = mem_new(s->options.seqs_max, sizeof *s->work);
    s->tables_free = mem_new(s->options.seqs_max, sizeof *s->tables_free);
    s->tables_free_count = s->options.seqs_max;
    for (uint32_t i = 0; i < s->options.seqs_max; i++)
        s->tables_free[i] = s->options.seqs_max - 1 - i;
}

esp_code sched_open(scheduler **out, const sched_options *options, esp_error *err) {
    ESP_ASSERT(out && options);
    *out = NULL;
    esp_code code = check_options(options, err);
    if (code) return code;
    scheduler *s = mem_new(1, sizeof *s);
    s->options = *options;
    s->options.kv.table_count = options->seqs_max;
    s->options.kv.step_tokens = options->step_tokens;
    s->options.kv.table_pages_max = (options->context_max - 1) / KV_PAGE_TOKENS + 1;
    code = kv_open(&s->kv, &s->options.kv, err);
    if (code) {
        sched_close(s);
        return code;
    }
    make_slots(s);
    make_queues(s);
    *out = s;
    return ESP_OK;
}

void sched_close(scheduler *s) {
    if (!s) return;
    kv_close(s->kv);
    free(s->sequences);
    free(s->waiting.slots);
    free(s->deadlines.slots);
    free(s->cancelled);
    free(s->dropped);
    free(s->work);
    free(s->tables_free);
    free(s);
}

sched_seq seq_handle(const scheduler *s, uint32_t slot) {
    return (sched_seq){slot, s->sequences[slot].generation};
}

uint32_t seq_slot(const scheduler *s, sched_seq seq) {
    if (seq.slot >= s->slot_count) return NO_SLOT;
    const sequence *q = &s->sequences[seq.slot];
    bool lives = q->state != SEQ_FREE && q->state != SEQ_LEAVING;
    return lives && q->generation == seq.generation ? seq.slot : NO_SLOT;
}

static uint32_t tokens_max(const sequence *q) {
    return q->request.prompt_tokens + q->request.output_max;
}

uint32_t seq_prefill_tokens(const sequence *q) {
    return q->known < tokens_max(q) ? q->known + 1 : q->known;
}

bool seq_admit(scheduler *s, uint32_t slot) {
    sequence *q = &s->sequences[slot];
    ESP_ASSERT(q->state == SEQ_WAITING && s->tables_free_count > 0);
    kv_table table = s->tables_free[s->tables_free_count - 1];
    while (kv_reserve(s->kv, table, seq_prefill_tokens(q)) != ESP_OK)
        if (!seq_shed(s, q, s->running.count > 0 ? SHED_UNWANTED : SHED_PINNED)) return false;
    s->tables_free_count--;
    waiting_remove(s, slot);
    q->table = table;
    q->state = SEQ_RUNNING;
    list_push_tail(s, &s->running, slot);
    s->admitted_total++;
    return true;
}

static void drop_pages(scheduler *s, sequence *q) {
    seq_let_go(s, q);
    kv_release(s->kv, q->table);
    s->tables_free[s->tables_free_count++] = q->table;
    q->cached = q->planned = 0;
}

void seq_preempt(scheduler *s, uint32_t slot) {
    sequence *q = &s->sequences[slot];
    ESP_ASSERT(q->state == SEQ_RUNNING && s->running.tail == slot && q->flights == 0);
    list_remove(s, &s->running, slot);
    drop_pages(s, q);
    q->state = SEQ_WAITING;
    list_push_head(s, &s->preempted, slot);
    s->preemptions_total++;
}

static void forget_cancel(scheduler *s, sequence *q) {
    uint32_t last = s->cancelled[--s->cancelled_count];
    s->cancelled[q->cancel_index] = last;
    s->sequences[last].cancel_index = q->cancel_index;
    q->cancel_index = NO_SLOT;
}

static void free_slot(scheduler *s, uint32_t slot) {
    sequence *q = &s->sequences[slot];
    q->state = SEQ_FREE;
    if (++q->generation == 0) q->generation = 1;
    list_push_tail(s, &s->free, slot);
}

void seq_gone(scheduler *s, uint32_t slot) {
    sequence *q = &s->sequences[slot];
    ESP_ASSERT(q->state == SEQ_LEAVING && q->flights == 0);
    list_remove(s, &s->leaving, slot);
    drop_pages(s, q);
    free_slot(s, slot);
}

static void leave(scheduler *s, uint32_t slot) {
    sequence *q = &s->sequences[slot];
    list_remove(s, &s->running, slot);
    q->state = SEQ_LEAVING;
    q->planned = 0;
    list_push_tail(s, &s->leaving, slot);
    if (q->flights == 0) seq_gone(s, slot);
}

void seq_end(scheduler *s, uint32_t slot) {
    sequence *q = &s->sequences[slot];
    ESP_ASSERT(q->state != SEQ_FREE && q->state != SEQ_LEAVING);
    if (q->heap_index[HEAP_DEADLINE] != NO_SLOT) heap_remove(s, &s->deadlines, slot);
    if (q->cancel_index != NO_SLOT) forget_cancel(s, q);
    if (q->state == SEQ_RUNNING) {
        leave(s, slot);
        return;
    }
    waiting_remove(s, slot);
    free_slot(s, slot);
}

static esp_code check_context(const scheduler *s, const sched_request *r, esp_error *err) {
    uint32_t context = s->options.context_max;
    if (r->prompt_only && r->prompt_tokens > context)
        return esp_fail_field(err, ESP_INVALID, "prompt",
                              "the input has %u tokens, a sequence may have %u; shorten it or "
                              "raise --max-context",
                              r->prompt_tokens, context);
    if (r->whole && r->prompt_tokens > s->options.step_tokens)
        return esp_fail_field(err, ESP_INVALID, "prompt",
                              "the input has %u tokens and is computed in one step of at most %u; "
                              "shorten it or raise --step-tokens",
                              r->prompt_tokens, s->options.step_tokens);
    if (!r->prompt_only && r->prompt_tokens >= context)
        return esp_fail_field(err, ESP_INVALID, "prompt",
                              "the prompt has %u tokens, a sequence may have %u with at least one "
                              "of output; shorten it or raise --max-context",
                              r->prompt_tokens, context);
    if ((uint64_t)r->prompt_tokens + r->output_max > context)
        return esp_fail_field(err, ESP_INVALID, "max_tokens",
                              "%u prompt tokens plus max_tokens %u exceed the context of %u "
                              "tokens; ask for at most %u or raise --max-context",
                              r->prompt_tokens, r->output_max, context, context - r->prompt_tokens);
    return ESP_OK;
}

/* Pages that adapters have for good beside such a sequence: its own and the pinned ones. */
static uint64_t adapter_pages(const scheduler *s, const sched_request *r) {
    const sched_adapters *a = &s->adapters;
    if (!a->hold) return 0;
    uint64_t own = r->adapter ? a->frames(a->arg, r->adapter) : 0;
    return own + a->pinned(a->arg, r->adapter);
}

static esp_code check_pages(const scheduler *s, const sched_request *r, esp_error *err) {
    uint32_t pages = kv_page_count(s->kv), tokens = r->prompt_tokens + r->output_max;
    uint64_t needed = kv_pages_for(s->kv, tokens), adapters = adapter_pages(s, r);
    if (needed + adapters <= pages) return ESP_OK;
    if (needed <= pages)
        return esp_fail_field(err, ESP_INVALID, "max_tokens",
                              "%u prompt tokens plus max_tokens %u need %llu pages of the KV cache, "
                              "which has %u, of them %llu for its adapter and pinned ones; ask for "
                              "less, unpin adapters or raise --kv-memory",
                              r->prompt_tokens, r->output_max, (unsigned long long)needed, pages,
                              (unsigned long long)adapters);
    bool prompt = r->prompt_only || kv_pages_for(s->kv, r->prompt_tokens + 1) > pages;
    return esp_fail_field(err, ESP_INVALID, prompt ? "prompt" : "max_tokens",
                          "%u prompt tokens plus max_tokens %u need %llu pages of the KV cache, "
                          "which has %u; ask for less or raise --kv-memory",
                          r->prompt_tokens, r->output_max, (unsigned long long)needed, pages);
}

static esp_code check_request(const scheduler *s, const sched_request *r, esp_error *err) {
    if (r->prompt_tokens == 0)
        return esp_fail_field(err, ESP_INVALID, "prompt",
                              "the prompt has no tokens, at least 1 is wanted");
    ESP_ASSERT(r->prompt_only ? r->output_max == 0 : !r->whole);
    ESP_ASSERT(!r->adapter || s->adapters.hold);
    if (r->output_max == 0 && !r->prompt_only)
        return esp_fail_field(err, ESP_INVALID, "max_tokens",
                              "max_tokens is 0, at least 1 is wanted");
    esp_code code = check_context(s, r, err);
    return code ? code : check_pages(s, r, err);
}

/* How long until an eighth of those who wait have been served, at the recent pace. A stall since
 * the last finish counts, so that the hint grows while nothing moves. */
static uint32_t retry_ms(const scheduler *s, int64_t now_us) {
    if (s->last_finish_us == 0) return RETRY_DEFAULT_MS;
    int64_t gap_us = s->finish_gap_us, stall_us = now_us - s->last_finish_us;
    if (stall_us > gap_us) gap_us = stall_us;
    const int64_t most_us = (int64_t)RETRY_MAX_MS * 1000;
    if (gap_us > most_us) gap_us = most_us;
    int64_t ms = gap_us * (waiting_count(s) / 8 + 1) / 1000;
    return (uint32_t)(ms < RETRY_MIN_MS ? RETRY_MIN_MS : ms > RETRY_MAX_MS ? RETRY_MAX_MS : ms);
}

static esp_code refuse_full(const scheduler *s, int64_t now_us, esp_error *err) {
    uint32_t wait = retry_ms(s, now_us);
    esp_fail(err, ESP_EXHAUSTED,
             "%u requests wait already, which is the most; try again in %u ms or raise "
             "--max-waiting",
             waiting_count(s), wait);
    if (err) err->retry_ms = wait;
    return ESP_EXHAUSTED;
}

esp_code sched_submit(scheduler *s, int64_t now_us, const sched_request *request, sched_seq *out,
                      esp_error *err) {
    esp_code code = check_request(s, request, err);
    if (code) return code;
    if (waiting_count(s) >= s->options.waiting_max) return refuse_full(s, now_us, err);
    uint32_t slot = s->free.head;
    ESP_ASSERT(slot != NO_SLOT); /* running and leaving <= seqs_max, waiting < waiting_max */
    list_remove(s, &s->free, slot);
    sequence *q = &s->sequences[slot];
    q->request = *request;
    q->state = SEQ_WAITING;
    q->arrival = s->arrivals++;
    q->known = request->prompt_tokens;
    q->cached = q->planned = q->flights = 0;
    q->parked_us = 0;
    heap_push(s, &s->waiting, slot);
    if (request->deadline_us) heap_push(s, &s->deadlines, slot);
    *out = seq_handle(s, slot);
    return ESP_OK;
}

bool seq_outgrown(const scheduler *s, const sequence *q) {
    return s->options.short_context > 0 && q->known > s->options.short_context;
}

void sched_append(scheduler *s, sched_seq seq) {
    uint32_t slot = seq_slot(s, seq);
    ESP_ASSERT(slot != NO_SLOT);
    sequence *q = &s->sequences[slot];
    /* A sequence preempted after its row was computed still owns the token it was given. */
    bool waits = q->state == SEQ_WAITING && q->heap_index[HEAP_WAITING] == NO_SLOT;
    ESP_ASSERT(waits || (q->state == SEQ_RUNNING && q->cached == q->known));
    ESP_ASSERT(q->known < tokens_max(q));
    bool before = seq_outgrown(s, q);
    q->known++;
    if (before || !seq_outgrown(s, q) || q->state != SEQ_RUNNING) return;
    q->cached = 0;
    kv_slide(s->kv, q->table, 0);
}

static void note_finish(scheduler *s, int64_t now_us) {
    if (s->last_finish_us != 0) {
        int64_t gap_us = now_us > s->last_finish_us ? now_us - s->last_finish_us : 0;
        s->finish_gap_us = s->finish_gap_us == 0 ? gap_us : (7 * s->finish_gap_us + gap_us) / 8;
    }
    s->last_finish_us = now_us;
}

void sched_finish(scheduler *s, int64_t now_us, sched_seq seq) {
    uint32_t slot = seq_slot(s, seq);
    ESP_ASSERT(slot != NO_SLOT);
    seq_end(s, slot);
    note_finish(s, now_us);
}

void sched_cancel(scheduler *s, sched_seq seq) {
    uint32_t slot = seq_slot(s, seq);
    if (slot == NO_SLOT || s->sequences[slot].cancel_index != NO_SLOT) return;
    s->sequences[slot].cancel_index = s->cancelled_count;
    s->cancelled[s->cancelled_count++] = slot;
}

bool sched_preempt_newest(scheduler *s) {
    if (s->running.count == 0) return false;
    seq_preempt(s, s->running.tail);
    return true;
}

void sched_read_stats(const scheduler *s, sched_stats *out) {
    *out = (sched_stats){
        .waiting = waiting_count(s),
        .running = s->running.count,
        .parked = s->parked.count,
        .pages_free = kv_free_count(s->kv),
        .pages_total = kv_page_count(s->kv),
        .preemptions_total = s->preemptions_total,
        .admitted_total = s->admitted_total,
    };
}

const kv_cache *sched_kv(const scheduler *s) { return s->kv; }

bool sched_idle(const scheduler *s) {
    return s->running.count + s->leaving.count == 0 && waiting_count(s) == 0;
}
