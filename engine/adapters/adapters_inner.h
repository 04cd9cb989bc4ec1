/* adapters_inner.h - the inside of residency, shared by its files; nobody else includes it.
 *
 * Three parties, and what belongs to whom:
 *
 *   callers         names and versions, under `lock`
 *   loader thread   reads, copies, frees; images, under `lock`
 *   engine thread   frames, holds, who is moved next (turn_state): its alone, without a lock
 *
 * Loader and engine talk by posts: bits set in an adapter, and the adapter queued once while any are set.
 *
 *                engine                                        loader
 *   OUT      hold: nobody has it -> WANTED
 *   WANTED   at most MOVES_MAX at once ----- FOR_LOADER_READ --> reads it, if its image is not home
 *   READING                             <-- FOR_ENGINE_HOME --
 *   LEASING  leases frames ------------------ FOR_LOADER_COPY --> copies
 *   COPYING                             <-- FOR_ENGINE_COPIED --
 *  (SENDING  some of it a step ------------ FOR_LOADER_SENT -->)
 *   IN       evicted: frames back ----------- FOR_LOADER_OUT --> forgets what no tier holds
 *
 * From the post of HOME to the one of COPIED or OUT the image is `busy`: it stays home. SENDING is there where other
 * ranks are; then the image is busy until SENT.
 *
 * An adapter that is leaving and has no users is reaped: the loader takes it out of the names and posts
 * FOR_ENGINE_REAP, the engine lets go of it and posts FOR_LOADER_REAPED, and it is freed. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ADAPTERS_INNER_H
#define ESPALIER_ADAPTERS_INNER_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/adapters/adapter_image.h"
#include "engine/adapters/adapter_reader.h"
#include "engine/adapters/adapter_send.h"
#include "engine/adapters/adapters.h"
#include "engine/adapters/residency.h"
#include "engine/base/queue.h"

enum {
    MOVES_MAX = 4, /* adapters on their way to the device at once */
    NAME_BUCKETS = 4096,
    NAMES_TOLD = 3,          /* in the sentence about an unknown name */
    BROKEN_FOR_US = 5000000, /* how long one that could not be read is not read again */
    KEPT_US = 500000,        /* how long one that came is kept for those who asked for it */
    AGAIN_US = 2000,         /* how long a read without room in memory is put off */
    SEND_BYTES = 4 << 20,    /* to other ranks between two steps, and what is left of an item */
};
#define USERS_LEAVING 0x80000000u

enum {
    FOR_LOADER_READ = 1,
    FOR_LOADER_COPY = 2,
    FOR_LOADER_OUT = 4,
    FOR_LOADER_REAP = 8,
    FOR_LOADER_REAPED = 16,
    FOR_LOADER_SENT = 32
};
enum {
    FOR_ENGINE_HOME = 1,
    FOR_ENGINE_FAILED = 4,
    FOR_ENGINE_COPIED = 8,
    FOR_ENGINE_REAP = 16,
    FOR_ENGINE_END = 32,
    FOR_ENGINE_PIN = 64
};

typedef enum turn_state {
    TURN_OUT,
    TURN_WANTED,
    TURN_READING,
    TURN_LEASING,
    TURN_COPYING,
    TURN_SENDING,
    TURN_IN
} turn_state;

struct adapter_entry;

struct adapter {
    adapters *owner;
    char name[STORE_NAME_MAX + 1], digest[ADAPTER_DIGEST_CHARS];
    uint32_t version;
    char *path;      /* of its files; under the lock */
    bool stored;     /* in the store, whose blob is held */
    bool holds_blob; /* read from the store under a name of its own: holds its blob all the same */

    /* Any thread. */
    _Atomic uint32_t users; /* references that find gave, and USERS_LEAVING: no more are given */
    _Atomic bool ended;     /* nobody runs with it any more */
    _Atomic bool pinned, broken;
    _Atomic uint32_t for_loader, for_engine; /* posts */
    _Atomic uint32_t frame_count;            /* that it takes; 0: not known yet */
    _Atomic uint64_t requests, loads, evictions;
    _Atomic int64_t last_use_us;
    _Atomic bool on_device; /* from the lease on */
    bool has_tokens;        /* its folder may have a tokenizer's files; constant */
    _Atomic bool has_words; /* they were read, alone or with all else */
    adapter_words words;    /* written before has_words, and constant from there on */

    /* Under the lock. */
    struct adapter_entry *entry; /* NULL: out of the names */
    adapter *next_version;
    adapter_image *image;  /* NULL: on disk */
    bool busy;             /* see above */
    adapter_facts facts;   /* once read */
    bool read;             /* it was, at least once */
    uint64_t packed_bytes; /* once read */
    residency_use host_use;
    uint64_t home_used; /* count of uses of all when it was used last */
    uint32_t home_at;   /* place in adapters.homes, from 1; 0: it has no memory of its own */

    /* Written before `broken` is set, by whoever sets it first, under why_lock; constant from there on. */
    esp_error error;
    int64_t broken_us;

    /* The engine thread's. */
    turn_state turn;
    /* It came or was held lately: not evicted from under those who ask for it. */
    int64_t kept_until_us;
    bool gone; /* to be reaped */
    uint32_t holds;
    uint32_t *frames;  /* [frame_count] leased ones; memory is taken by the loader, once */
    uint32_t in_index; /* in adapters.in */
    uint32_t rank_id;  /* while it is being sent or in */
    adapter *next_in_line;
    residency_use device_use;
};

/* A name and its versions, the newest first. */
typedef struct adapter_entry {
    char name[STORE_NAME_MAX + 1];
    struct adapter_entry *next; /* in its bucket */
    adapter *versions, *current;
    uint32_t last_version;
    bool unloaded; /* not found, in the store either, until it is loaded */
    bool loading;  /* somebody loads it */
} adapter_entry;

typedef struct adapter_line { /* first in, first out, through next_in_line */
    adapter *head, *tail;
} adapter_line;

struct adapters {
    adapters_options options;
    bool in_place;      /* no arena */
    file_reader *files; /* NULL: options.reader is another's */
    const adapter_reader *reader;
    uint32_t layers, vocab; /* of the base */
    size_t frame_bytes;
    uint32_t frames_max; /* of one adapter and of all together */

    pthread_mutex_t lock;
    /* Held while an error is written down and no longer, for the engine thread takes it, too, where it breaks an adapter
     * (another rank has no room for one). The inner one of the two. */
    pthread_mutex_t why_lock;
    pthread_cond_t changed; /* a load has ended, or memory was given back */
    adapter_entry *names[NAME_BUCKETS];
    adapter *unnamed;       /* out of the names, on their way to be freed; through next_version */
    uint32_t adapter_count; /* with the unnamed: the queues hold as many as there may be */
    uint32_t building, busy_count;
    adapter **homes; /* [home_count] with memory of their own: a heap by worth (adapter_homes.c) */
    uint32_t home_count;
    uint64_t homes_used;
    _Atomic uint64_t host_bytes; /* grows under the lock */
    residency_level host_level;

    /* Between engine and loader. */
    queue *for_loader, *for_engine;
    signal_word loader_signal;
    _Atomic bool stopping;
    pthread_t thread;
    bool started;
    int64_t next_move_us; /* the loader's: not before */
    uint64_t read_bytes;  /* the loader's: what the image that it reads has asked for */
    bool read_waits; /* the loader's: that one found no room, and would have with nobody else */
    uint64_t freed_loads, freed_evictions; /* of those that are no more; under the lock */
    _Atomic uint64_t failures;
    _Atomic uint32_t pinned_frames, leased_frames; /* the latter as the engine thread last said */

    /* The engine thread's. */
    adapter **in; /* [in_count] resident ones */
    uint32_t in_count, moving, leased;
    int64_t now_us; /* of this step */
    adapter_line wanted, leasing, sending;
    adapter_sending sent; /* of the first that is being sent */
    uint32_t *ids;        /* [id_count] that no adapter has, of several ranks; else NULL */
    uint32_t id_count;
    residency_level device_level;
};

/* adapters.c */
void post_loader(adapters *a, adapter *ad, uint32_t bits); /* any thread; never blocks */
void post_engine(adapters *a, adapter *ad, uint32_t bits);
/* Under the lock: nobody finds it any more, and it goes with its last user. */
void adapter_leave(adapters *a, adapter *ad);
void adapter_unpin(adapters *a, adapter *ad);
static inline bool adapter_is_leaving(const adapter *ad) {
    return (atomic_load_explicit(&ad->users, memory_order_acquire) & USERS_LEAVING) != 0;
}
static inline uint32_t adapter_users(const adapter *ad) {
    return atomic_load_explicit(&ad->users, memory_order_acquire) & ~USERS_LEAVING;
}

void give_reference(adapter *ad); /* under the lock, of one that is not leaving */
/* It cannot be had, and is not tried again for BROKEN_FOR_US. Any thread, under the lock or not; who breaks one for
 * its words decides that and does it under the lock, where no load comes between. */
void adapter_break(adapters *a, adapter *ad, const esp_error *why);

/* adapter_find.c */
typedef struct name_ref {
    char name[STORE_NAME_MAX + 1];
    uint32_t version;                  /* 0: not said */
    char digest[ADAPTER_DIGEST_CHARS]; /* "": not said; may be cut */
} name_ref;
esp_code ref_parse(const char *text, name_ref *out, esp_error *err);
bool ref_is_bare(const name_ref *ref);                      /* the name alone */
adapter *ref_known(const adapters *a, const name_ref *ref); /* under the lock; NULL: unknown here */
bool names_are_blocked(const adapters *a, const char *name); /* under the lock: it was unloaded */
/* Give a reference. loads: also on a name of the store that was unloaded. */
esp_code find_reference(adapters *a, const char *text, adapter **out, esp_error *err);
esp_code find_stored(adapters *a, const char *text, bool bare, bool loads, adapter **out,
                     esp_error *err);

/* adapter_homes.c; all under the lock. */
/* Its memory, new or not, is used: it is worth more. */
void homes_note(adapters *a, adapter *ad);
void homes_leave(adapters *a, adapter *ad); /* one that is not there stays out */
/* The least worth keeping of those that may go; NULL: none may. */
adapter *homes_least(const adapters *a, bool (*may_go)(const adapter *));

/* adapter_list.c: under the lock. */
void list_info(const adapter *ad, adapter_info *out);

/* adapter_names.c; all under the lock. */
adapter_entry *names_find(const adapters *a, const char *name);
adapter_entry *names_take(adapters *a, const char *name); /* made when it is not there */
void names_settle(adapters *a, adapter_entry *entry);     /* gone when it says nothing */
adapter *names_version(const adapter_entry *entry, uint32_t version);
/* By "sha256:" and the whole digest or its first digits. */
adapter *names_digest(const adapter_entry *entry, const char *digest);
adapter *names_add(adapters *a, adapter_entry *entry, uint32_t version, const char *digest,
                   const char *path);
void names_remove(adapters *a, adapter *ad); /* the entry too, with its last version */
esp_code names_unknown(const adapters *a, const char *ref, esp_error *err);

/* adapter_loader.c */
/* Reads the files at path into a new image. patient: waits a while for memory that others have. */
esp_code loader_read(adapters *a, const char *path, bool patient, adapter_image **out,
                     adapter_facts *facts, esp_error *err);
/* Under the lock: whether what was read is what its digest says, and what its words were read from; and nobody found it
 * broken meanwhile. */
esp_code loader_check(const adapter *ad, const adapter_image *image, const adapter_facts *facts,
                      esp_error *err);
esp_code fail_other_words(esp_error *err);
/* What a reader should know of an adapter that was taken all the same, to the log. */
void loader_warn(const char *name, const adapter_facts *facts);
/* Under the lock: the words are the adapter's, which had none. */
void adapter_take_words(adapter *ad, const adapter_words *words);
/* Under the lock: the image is the adapter's, unless it has one already. */
void loader_install(adapters *a, adapter *ad, adapter_image *image, const adapter_facts *facts);
bool loader_turn(adapters *a); /* one post; false: none waited. The thread's loop, and a test's */
esp_code loader_start(adapters *a, esp_error *err);
void loader_stop(adapters *a);
void adapter_free(adapters *a, adapter *ad); /* one of the unnamed */
/* It cannot be brought; whoever moves it calls this once. */
void loader_fail(adapters *a, adapter *ad, const esp_error *why);
/* A sentence about the files of a blob calls them as their reader does: "name@version". */
void adapter_name_blob(const adapter *ad, esp_error *err);

/* adapter_turns.c */
void turns_let_go(adapters *a, adapter *ad); /* at the end: its frames go back */

#endif
