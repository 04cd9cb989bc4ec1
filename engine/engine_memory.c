/* engine_memory.c - how much memory an engine takes for pages of keys and values, and for adapters, which share them. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/least.h"
#include "engine/base/mem.h"
#include "engine/engine_parts.h"

enum { KV_TOKENS_PER_SEQ_DEFAULT = 2048 };
#define ADAPTER_MEMORY_DEFAULT ((uint64_t)4 << 30)
#define ADAPTER_ROOM_BYTES ((uint64_t)512 << 20) /* of the arena, without --adapter-memory */

/* Most pages that max_seqs sequences of that many tokens hold, when the tokens of one step are spread
 * over them or all one sequence's. */
static uint64_t pages_wanted(const engine *e, uint32_t tokens) {
    const page_groups *groups = model_page_groups(e->model);
    const model_config *c = &e->config;
    uint64_t pages = 0;
    for (uint32_t g = 0; g < groups->count; g++) {
        uint64_t decoding = kv_group_pages(groups->windows[g], 1, tokens);
        uint64_t prefilling = kv_group_pages(groups->windows[g], c->step_tokens, tokens);
        pages += (c->max_seqs - 1) * decoding + prefilling;
    }
    return pages;
}

/* Engines that share the host's memory. */
static uint64_t sharers(const model_config *c) { return c->replicas ? c->replicas : 1; }

uint64_t engine_adapter_memory(const engine *e) {
    const model_config *c = &e->config;
    uint64_t tenth = mem_available() / 10;
    if (c->adapter_memory) return c->adapter_memory / sharers(c);
    return (tenth < ADAPTER_MEMORY_DEFAULT ? tenth : ADAPTER_MEMORY_DEFAULT) / sharers(c);
}

static uint64_t arena_for_adapters(const engine *e) {
    if (!engine_takes_adapters(e)) return 0;
    if (e->config.adapter_memory) return e->config.adapter_memory;
    uint64_t memory = engine_adapter_memory(e);
    return memory < ADAPTER_ROOM_BYTES ? memory : ADAPTER_ROOM_BYTES;
}

/* Pages of so many tokens a sequence, and frames for adapters, which hold half of all at most
 * (adapters.h). Frames that nobody uses take no memory. */
static uint64_t frames_wanted(const engine *e, uint32_t tokens, uint64_t frame_bytes) {
    uint64_t pages = pages_wanted(e, tokens);
    uint64_t room = arena_for_adapters(e) / frame_bytes;
    return pages > room ? pages + room : 2 * room;
}

/* What --gpu-memory-utilization leaves, now that weights and workspace are taken. */
static uint64_t memory_left(const engine *e, const kern_memory *memory) {
    float part = e->config.gpu_memory_utilization;
    uint64_t ours = (uint64_t)((double)memory->total * (double)(part > 0 ? part : 0.9f));
    uint64_t used = memory->total - memory->free;
    return ours > used ? ours - used : 0;
}

/* --kv-memory; or what the device has left; or, in memory that is shared with others, min(25% of what is
 * available, what max_seqs sequences of 2,048 tokens need, and adapters). Replicas share the host's. */
static uint64_t kv_memory_wanted(const engine *e, uint64_t frame_bytes) {
    const model_config *c = &e->config;
    kern_memory memory;
    e->ops->memory(e->dev, &memory);
    if (c->kv_memory) return c->kv_memory / (memory.shared ? sharers(c) : 1);
    if (!memory.shared) return memory_left(e, &memory);
    uint32_t tokens = least(c->max_context, KV_TOKENS_PER_SEQ_DEFAULT);
    uint64_t need = frames_wanted(e, tokens, frame_bytes) * frame_bytes;
    uint64_t quarter = memory.free / 4 / sharers(c);
    return need < quarter ? need : quarter;
}

static uint64_t own_frame_bytes(const engine *e) {
    return e->ops->frame_bytes(e->dev, model_kv_shape(e->model));
}

/* Of a frame in that memory: its part on each rank, where they share one. */
static uint64_t whole_frame_bytes(const engine *e) {
    kern_memory memory;
    e->ops->memory(e->dev, &memory);
    return own_frame_bytes(e) * (memory.shared ? engine_rank_count(e) : 1);
}

static esp_code plan_pages(engine *e, esp_error *err) {
    const page_groups *groups = model_page_groups(e->model);
    uint64_t frame = whole_frame_bytes(e);
    if (e->config.page_count) {
        e->page_count = e->config.page_count;
        return ESP_OK;
    }
    uint64_t memory = kv_memory_wanted(e, frame), pages = memory / frame;
    uint64_t useful = frames_wanted(e, e->config.max_context, frame);
    uint64_t fewest = 2ull * groups->count;
    if (pages > useful) pages = useful;
    if (pages < fewest && !e->config.kv_memory && e->config.device == DEVICE_CUDA)
        return esp_fail_field(err, ESP_EXHAUSTED, "--gpu-memory-utilization",
                              "%llu bytes of the device's memory are left for keys and values, and "
                              "at least %llu are needed; raise --gpu-memory-utilization, or lower "
                              "--step-tokens",
                              (unsigned long long)memory, (unsigned long long)(fewest * frame));
    if (pages < fewest)
        return esp_fail_field(err, ESP_INVALID, "--kv-memory",
                              "--kv-memory %llu: a page of this model takes %llu bytes and at "
                              "least %llu are needed",
                              (unsigned long long)memory, (unsigned long long)frame,
                              (unsigned long long)fewest);
    e->page_count = (uint32_t)pages;
    return ESP_OK;
}

esp_code engine_take_pages(engine *e, esp_error *err) {
    esp_code code = engine_leads(e) ? plan_pages(e, err) : ESP_OK;
    if (e->comm) comm_broadcast(e->comm, &e->page_count, sizeof e->page_count);
    if (code != ESP_OK || !e->page_count) return code; /* the latter: rank 0 says why */
    e->arena_bytes = e->page_count * own_frame_bytes(e);
    return e->ops->alloc(e->dev, e->arena_bytes, &e->arena, err);
}
