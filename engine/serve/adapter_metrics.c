/* adapter_metrics.c - a table of names by traffic, and the sums of those that are shown. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/adapter_metrics.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/serve/exposition.h"

enum {
    HALVE_US = 600000000,
    SLOTS = 2 * ADAPTER_METRICS_TRACKED, /* of the hash table: a power of two */
    OTHER = ADAPTER_METRICS_SHOWN,       /* index of the sums of all that are not shown */
};
static const char other[] = "other";

/* A number that something else counts since an adapter is known, as one that never falls here. late: the
 * name took another's place, and what it had before is in "other". */
typedef struct followed {
    bool seen, late;
    uint64_t last, sum;
} followed;

typedef struct sums {
    char name[STORE_NAME_MAX + 1];
    uint64_t weight; /* recent tokens */
    uint64_t requests, errors, prompt_tokens, output_tokens;
    histogram ttft, itl;
    followed loads, evictions;
} sums;

typedef struct tracked {
    char name[STORE_NAME_MAX + 1];
    uint64_t weight; /* of one that is not shown */
} tracked;

/* What a page tells: [count], the last of which is "other". */
typedef struct rows {
    uint32_t count;
    sums at[ADAPTER_METRICS_SHOWN + 1];
} rows;

struct adapter_metrics {
    pthread_mutex_t lock;
    sums at[ADAPTER_METRICS_SHOWN + 1];
    uint32_t shown;
    tracked *slots[SLOTS];
    uint32_t tracked_count;
    int64_t halved_us;
};

adapter_metrics *adapter_metrics_open(void) {
    adapter_metrics *m = mem_new(1, sizeof *m);
    pthread_mutex_init(&m->lock, NULL);
    snprintf(m->at[OTHER].name, sizeof m->at[OTHER].name, "%s", other);
    return m;
}

static void forget_all(adapter_metrics *m) {
    for (uint32_t i = 0; i < SLOTS; i++) {
        free(m->slots[i]);
        m->slots[i] = NULL;
    }
    m->tracked_count = 0;
}

void adapter_metrics_close(adapter_metrics *m) {
    if (!m) return;
    forget_all(m);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* ---- names by traffic; under the lock ---- */

/* Fowler, Noll and Vo's FNV-1a. */
static uint32_t hash(const char *name) {
    uint32_t h = 2166136261u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 16777619u;
    return h;
}

/* The name's slot, or the empty one where it would be. */
static tracked **find(adapter_metrics *m, const char *name) {
    uint32_t i = hash(name) % SLOTS;
    while (m->slots[i] && strcmp(m->slots[i]->name, name) != 0)
        i = (i + 1) % SLOTS;
    return &m->slots[i];
}

/* NULL: there are as many as are kept track of. */
static tracked *track(adapter_metrics *m, const char *name) {
    tracked **slot = find(m, name);
    if (*slot || m->tracked_count == ADAPTER_METRICS_TRACKED) return *slot;
    *slot = mem_new(1, sizeof **slot);
    snprintf((*slot)->name, sizeof(*slot)->name, "%s", name);
    m->tracked_count++;
    return *slot;
}

/* Names without recent traffic are forgotten. */
static void halve(adapter_metrics *m) {
    tracked **kept = mem_new(m->tracked_count + 1, sizeof *kept);
    uint32_t count = 0;
    for (uint32_t i = 0; i < SLOTS; i++) {
        tracked *t = m->slots[i];
        if (t && (t->weight /= 2))
            kept[count++] = t;
        else
            free(t);
        m->slots[i] = NULL;
    }
    for (uint32_t i = 0; i < count; i++)
        *find(m, kept[i]->name) = kept[i];
    m->tracked_count = count;
    for (uint32_t i = 0; i < m->shown; i++)
        m->at[i].weight /= 2;
    free(kept);
}

static uint32_t find_shown(const adapter_metrics *m, const char *name) {
    uint32_t i = 0;
    while (i < m->shown && strcmp(m->at[i].name, name) != 0)
        i++;
    return i < m->shown ? i : OTHER;
}

static uint32_t least_shown(const adapter_metrics *m) {
    uint32_t least = 0;
    for (uint32_t i = 1; i < m->shown; i++)
        if (m->at[i].weight < m->at[least].weight) least = i;
    return least;
}

/* Begins a name's series, with the traffic it had. */
static uint32_t show(adapter_metrics *m, uint32_t index, const char *name, uint64_t weight,
                     bool late) {
    m->at[index] = (sums){.weight = weight, .loads.late = late, .evictions.late = late};
    snprintf(m->at[index].name, sizeof m->at[index].name, "%s", name);
    return index;
}

/* Where a request of so many tokens is counted. */
static uint32_t place_of(adapter_metrics *m, const char *name, uint64_t weight) {
    if (!strcmp(name, other)) return OTHER;
    uint32_t i = find_shown(m, name);
    if (i != OTHER) return i;
    if (m->shown < ADAPTER_METRICS_SHOWN) return show(m, m->shown++, name, 0, false);
    tracked *t = track(m, name);
    if (!t) return OTHER;
    uint32_t least = least_shown(m);
    if (t->weight + weight <= 2 * m->at[least].weight) {
        t->weight += weight;
        return OTHER;
    }
    /* They change places: the one in the table becomes the one that was shown. */
    uint64_t had = t->weight;
    t->weight = 0;
    tracked *loser = track(m, m->at[least].name);
    if (loser) loser->weight = m->at[least].weight;
    return show(m, least, name, had, true);
}

/* ---- counting ---- */

static void add_latencies(sums *s, const request *r) {
    uint64_t gaps = 0;
    if (!r->first_token_us) return;
    int64_t first_us = r->first_token_us - r->submitted_us;
    s->ttft.count[histogram_bucket(first_us)]++;
    s->ttft.sum += (double)first_us * 1e-6;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        s->itl.count[i] += r->itl_count[i];
        gaps += r->itl_count[i];
    }
    if (gaps) s->itl.sum += (double)(r->last_token_us - r->first_token_us) * 1e-6;
}

void adapter_metrics_count(adapter_metrics *m, const request *r, int64_t now_us) {
    if (!r->by.name[0]) return;
    uint32_t output = atomic_load_explicit(&r->published, memory_order_acquire);
    uint64_t tokens = (uint64_t)r->prompt_count + output;
    pthread_mutex_lock(&m->lock);
    if (now_us - m->halved_us >= HALVE_US) {
        halve(m);
        m->halved_us = now_us;
    }
    sums *s = &m->at[place_of(m, r->by.name, tokens)];
    s->weight += tokens;
    s->requests++;
    s->errors += r->finish == FINISH_ERROR || r->finish == FINISH_DEADLINE;
    if (r->scheduled_us) s->prompt_tokens += r->prompt_count;
    s->output_tokens += output;
    add_latencies(s, r);
    pthread_mutex_unlock(&m->lock);
}

/* ---- the page ---- */

/* now: the other's count at this moment, which falls when one of the name's versions goes. What the rest of
 * them have had may be new or not: no name has more than `uncounted`, what no series has yet of all names
 * together. */
static void follow(followed *f, uint64_t now, uint64_t *uncounted) {
    uint64_t more = now >= f->last ? now - f->last : now;
    if (!f->seen && f->late) more = 0;
    if (more > *uncounted) more = *uncounted;
    *uncounted -= more;
    f->sum += more;
    f->seen = true;
    f->last = now;
}

static followed *followed_at(sums *s, size_t offset) {
    return (followed *)(void *)((char *)s + offset);
}

/* First those that were seen before and have more now, which is theirs; then those that fell; last the new. */
static int turn_of(const followed *f, uint64_t now) { return !f->seen ? 2 : now < f->last; }

static void follow_all(adapter_metrics *m, size_t offset, const uint64_t *now, uint64_t all) {
    followed *rest = followed_at(&m->at[OTHER], offset);
    uint64_t counted = rest->sum;
    for (uint32_t i = 0; i < m->shown; i++)
        counted += followed_at(&m->at[i], offset)->sum;
    uint64_t uncounted = all > counted ? all - counted : 0;
    int turns[ADAPTER_METRICS_SHOWN];
    for (uint32_t i = 0; i < m->shown; i++)
        turns[i] = turn_of(followed_at(&m->at[i], offset), now[i]);
    for (int turn = 0; turn <= 2; turn++)
        for (uint32_t i = 0; i < m->shown; i++)
            if (turns[i] == turn) follow(followed_at(&m->at[i], offset), now[i], &uncounted);
    rest->sum += uncounted;
}

static void follow_moves(adapter_metrics *m, const adapter_info *infos, size_t count,
                         const adapters_stats *stats) {
    uint64_t loads[ADAPTER_METRICS_SHOWN] = {0}, evictions[ADAPTER_METRICS_SHOWN] = {0};
    for (uint32_t i = 0; i < m->shown; i++)
        for (size_t k = 0; k < count; k++) {
            if (strcmp(infos[k].name, m->at[i].name) != 0) continue;
            loads[i] += infos[k].loads;
            evictions[i] += infos[k].evictions;
        }
    follow_all(m, offsetof(sums, loads), loads, stats->loads);
    follow_all(m, offsetof(sums, evictions), evictions, stats->evictions);
}

/* Copied, so that no answer that is counted waits until a page is written. */
static void read_rows(adapter_metrics *m, rows *out, const adapter_info *infos, size_t count,
                      const adapters_stats *stats) {
    pthread_mutex_lock(&m->lock);
    follow_moves(m, infos, count, stats);
    memcpy(out->at, m->at, m->shown * sizeof *m->at);
    out->at[m->shown] = m->at[OTHER];
    out->count = m->shown + 1;
    pthread_mutex_unlock(&m->lock);
}

static void write_counter(const rows *all, FILE *out, const char *name, const char *help,
                          size_t offset) {
    exposition_head(out, name, "counter", help);
    for (uint32_t i = 0; i < all->count; i++) {
        uint64_t value;
        memcpy(&value, (const char *)&all->at[i] + offset, sizeof value);
        fprintf(out, "espalier_%s{", name);
        exposition_label(out, "adapter", all->at[i].name);
        fprintf(out, "} %" PRIu64 "\n", value);
    }
}

static void write_latencies(const rows *all, FILE *out, const char *name, const char *help,
                            size_t offset) {
    exposition_head(out, name, "histogram", help);
    for (uint32_t i = 0; i < all->count; i++)
        exposition_histogram(out, name, "adapter", all->at[i].name,
                             (const histogram *)(const void *)((const char *)&all->at[i] + offset));
}

/* The best of its versions. */
static void write_tiers(const rows *all, FILE *out, const adapter_info *infos, size_t count) {
    exposition_head(out, "adapter_tier", "gauge",
                    "Where an adapter is: 0 in its files, 1 in memory, 2 on the device.");
    for (uint32_t i = 0; i + 1 < all->count; i++) {
        int best = -1;
        for (size_t k = 0; k < count; k++)
            if (!strcmp(infos[k].name, all->at[i].name) && (int)infos[k].tier > best)
                best = (int)infos[k].tier;
        if (best < 0) continue; /* unloaded */
        fputs("espalier_adapter_tier{", out);
        exposition_label(out, "adapter", all->at[i].name);
        fprintf(out, "} %d\n", best);
    }
}

static void write_stats(FILE *out, const adapters_stats *s) {
    exposition_head(out, "adapters", "gauge", "Adapters that are known, by where they are.");
    fprintf(out,
            "espalier_adapters{tier=\"disk\"} %u\nespalier_adapters{tier=\"host\"} %u\n"
            "espalier_adapters{tier=\"device\"} %u\n",
            s->known - s->host - s->device, s->host, s->device);
    exposition_head(out, "adapters_pinned", "gauge", "Adapters that are pinned.");
    fprintf(out, "espalier_adapters_pinned %u\n", s->pinned);
    exposition_head(out, "adapter_memory_bytes", "gauge", "Memory that packed adapters take.");
    fprintf(out, "espalier_adapter_memory_bytes %" PRIu64 "\n", s->host_bytes);
    exposition_head(out, "adapter_frames", "gauge",
                    "Frames of the attention memory that adapters hold.");
    fprintf(out, "espalier_adapter_frames %u\n", s->frames);
    exposition_head(out, "adapter_failures_total", "counter", "Adapters that could not be read.");
    fprintf(out, "espalier_adapter_failures_total %" PRIu64 "\n", s->failures);
}

void adapter_metrics_write(adapter_metrics *m, FILE *out, const adapter_info *infos, size_t count,
                           const adapters_stats *stats) {
    rows *all = mem_new(1, sizeof *all);
    read_rows(m, all, infos, count, stats);
    write_stats(out, stats);
    write_counter(all, out, "adapter_requests_total", "Requests that ended, by adapter.",
                  offsetof(sums, requests));
    write_counter(all, out, "adapter_errors_total",
                  "Of these, those that failed or ran out of time.", offsetof(sums, errors));
    write_counter(all, out, "adapter_prompt_tokens_total", "Prompt tokens of ended requests.",
                  offsetof(sums, prompt_tokens));
    write_counter(all, out, "adapter_output_tokens_total", "Output tokens of ended requests.",
                  offsetof(sums, output_tokens));
    write_counter(all, out, "adapter_loads_total", "Moves to the device.",
                  offsetof(sums, loads) + offsetof(followed, sum));
    write_counter(all, out, "adapter_evictions_total", "Moves off the device.",
                  offsetof(sums, evictions) + offsetof(followed, sum));
    write_tiers(all, out, infos, count);
    write_latencies(all, out, "adapter_time_to_first_token_seconds", "Submission to first token.",
                    offsetof(sums, ttft));
    write_latencies(all, out, "adapter_inter_token_latency_seconds",
                    "One token to the next of a request.", offsetof(sums, itl));
    free(all);
}
