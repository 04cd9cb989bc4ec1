/* answer.c - builds the messages of a stream. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/answer.h"

#include <string.h>

enum { ID_BYTES = 5, LOGPROB_BYTES = 24 };

size_t answer_token_bytes(const request *r) {
    return ID_BYTES + (r->logprobs ? LOGPROB_BYTES : 0) +
           (r->top ? (size_t)LOGPROB_BYTES * r->policy.top_logprobs : 0);
}

static ProtobufCBinaryData token_bytes(const tokenizer *tok, int32_t id) {
    tok_text text = tok_bytes(tok, id);
    return (ProtobufCBinaryData){.len = text.bytes, .data = (uint8_t *)(uintptr_t)text.at};
}

static bool add_top(const answer_piece *piece, uint32_t index, Espalier__V1__TokenLogprob *out,
                    mem_arena *arena) {
    uint32_t width = piece->r->policy.top_logprobs;
    const sample_logprob *from = piece->r->top + (size_t)index * width;
    Espalier__V1__TopLogprob *top = mem_arena_take(arena, width * sizeof *top);
    out->top = mem_arena_take(arena, width * sizeof *out->top);
    if (!top || !out->top) return false;
    out->n_top = width;
    for (uint32_t i = 0; i < width; i++) {
        espalier__v1__top_logprob__init(&top[i]);
        top[i].token_id = from[i].id;
        top[i].logprob = from[i].logprob;
        top[i].token = token_bytes(piece->tok, from[i].id);
        out->top[i] = &top[i];
    }
    return true;
}

static bool add_logprobs(const answer_piece *piece, Espalier__V1__GenerateResponse *out,
                         mem_arena *arena) {
    const request *r = piece->r;
    uint32_t count = piece->end - piece->first;
    Espalier__V1__TokenLogprob *list = mem_arena_take(arena, count * sizeof *list);
    out->logprobs = mem_arena_take(arena, count * sizeof *out->logprobs);
    if (!list || !out->logprobs) return false;
    out->n_logprobs = count;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t index = piece->first + i;
        espalier__v1__token_logprob__init(&list[i]);
        list[i].token_id = r->tokens[r->prompt_count + index];
        list[i].logprob = r->logprobs[index];
        list[i].token = token_bytes(piece->tok, list[i].token_id);
        if (r->top && !add_top(piece, index, &list[i], arena)) return false;
        out->logprobs[i] = &list[i];
    }
    return true;
}

Espalier__V1__GenerateResponse *answer_build(const answer_piece *piece, mem_arena *arena) {
    const request *r = piece->r;
    Espalier__V1__GenerateResponse *out = mem_arena_take(arena, sizeof *out);
    if (!out) return NULL;
    espalier__v1__generate_response__init(out);
    if (piece->text) out->text = (char *)(uintptr_t)piece->text;
    out->n_token_ids = piece->end - piece->first;
    out->token_ids = r->tokens + r->prompt_count + piece->first;
    if (r->logprobs && out->n_token_ids && !add_logprobs(piece, out, arena)) return NULL;
    return out;
}

static uint64_t since(int64_t from_us, int64_t to_us) {
    return from_us && to_us > from_us ? (uint64_t)(to_us - from_us) : 0;
}

void answer_fill_final(answer_final *out, const request *r, const char *model,
                       const char *profile) {
    espalier__v1__final__init(&out->final);
    espalier__v1__usage__init(&out->usage);
    espalier__v1__timings__init(&out->timings);
    out->usage.prompt_tokens = r->prompt_count;
    out->usage.output_tokens = atomic_load_explicit(&r->published, memory_order_acquire);
    out->usage.cached_tokens = r->cached_tokens;
    out->timings.queue_us = since(r->submitted_us, r->scheduled_us);
    out->timings.time_to_first_token_us = since(r->submitted_us, r->first_token_us);
    out->timings.total_us = since(r->submitted_us, r->done_us);
    out->final.usage = &out->usage;
    out->final.timings = &out->timings;
    out->final.finish_reason = r->finish == FINISH_LENGTH
                                   ? ESPALIER__V1__FINISH_REASON__FINISH_REASON_LENGTH
                                   : ESPALIER__V1__FINISH_REASON__FINISH_REASON_STOP;
    out->final.seed = r->policy.seed;
    out->final.numeric_profile = (char *)(uintptr_t)profile;
    out->final.model = (char *)(uintptr_t)model;
    out->final.adapter = (char *)(uintptr_t)request_adapter_label(&r->by, out->adapter);
    out->final.adapter_digest = (char *)(uintptr_t)r->by.digest;
}
