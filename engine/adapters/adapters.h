/* adapters.h - the adapters of an engine: which names there are, and where the bytes of each sit.
 *
 * One loaded version of an adapter is an `adapter`. Its update lies packed in pieces (kernels.h), in up
 * to two places besides its files:
 *
 *   DISK     its files only; a name of the store is no more than that until somebody asks for it
 *   HOST     packed in memory of our own, at most options.host_memory in all
 *   DEVICE   in frames leased from the arena of the KV cache; only from there it is computed with
 *            (without an arena the packed memory is used where it lies, and HOST is enough)
 *
 *   DISK --- read, checked, packed ---> HOST --- copied into frames ---> DEVICE
 *
 * Both moves are a loader thread's; the engine thread leases frames, gives them back, and never waits.
 * Out of a tier goes what is unused longest for its cost (residency.h), never what a running sequence
 * uses, and a pinned one only where a running sequence could not go on otherwise.
 *
 * Arena     Adapters hold at most half of the frames, pinned ones a quarter besides. For a load idle adapters go
 *           first, then free frames are taken, but for one for each running sequence and page group: a load
 *           preempts nobody. When sequences run short of pages, adapters that nobody asks for go first, then
 *           those whose requests still wait, then the newest sequence.
 * Versions  A request holds the version that adapters_find gave it until it ends. A name that is loaded
 *           again with other content means the new one from then on; the old one goes with its last user.
 * Thread    find, release, load, unload, list, pin, set_alias: any, and none of them on the engine
 *           thread but release. What stands under "the engine thread" is its alone, allocates nothing
 *           and takes no lock, but one for as long as it writes down why an adapter is broken.
 * Ranks     Of a replica of several ranks rank 0 alone has this. What it moves to the device it sends to the
 *           others as well, each its part, before any step that uses it (adapter_send.h); a copy in frames is
 *           IN only then.
 * Requests of the base (adapter NULL) meet none of this. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_ADAPTERS_H
#define ESPALIER_ADAPTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cluster/comm.h"
#include "engine/adapters/store.h"
#include "engine/base/status.h"
#include "engine/model/checkpoint.h"
#include "engine/model/shard.h"
#include "engine/text/tokenizer.h"
#include "kernels/kernels.h"
#include "scheduler/scheduler.h"

typedef struct adapters adapters; /* of one engine */
typedef struct adapter adapter;   /* one loaded version of one name; opaque, counted references */
struct model_adapter;             /* engine/model/model.h: what forward reads of it */

enum {
    ADAPTERS_MAX = 16384, /* versions that are known at once */
};

typedef enum adapter_tier { ADAPTER_DISK, ADAPTER_HOST, ADAPTER_DEVICE } adapter_tier;

typedef enum adapter_state {
    ADAPTER_LISTED,  /* a name of the store, or of a load, not read yet */
    ADAPTER_READY,   /* read and found good; the tier says where it is */
    ADAPTER_LEAVING, /* unloaded, or replaced: serves those who began with it */
    /* Its files could not be read, or are another adapter's; tried again after a while. */
    ADAPTER_BROKEN,
} adapter_state;

typedef struct adapters_options {
    const kern_ops *ops;
    kern_device *dev;
    kern_options device;    /* that dev was opened with */
    const checkpoint *base; /* the base's tensors; outlives the adapters */
    const tokenizer *tok;   /* the base's; outlives the adapters and who shares their tokenizers */
    bool allow_other_base;  /* --allow-other-base */
    /* The arena, and who leases its frames. scheduler NULL: none; packed memory is used as it is. */
    scheduler *sched;
    void *arena;
    size_t frame_bytes;
    uint32_t frame_count;
    uint64_t host_memory;      /* --adapter-memory: most bytes of packed adapters in memory */
    uint64_t bytes_per_second; /* of moves, both kinds together; 0: a default */
    adapter_store *store;      /* names that find does not know are looked up here; NULL: nowhere */
    /* The other ranks, and what each of all holds; both borrowed. NULL: there is one. announce is called by the
     * engine thread right before it sends, so that they listen. */
    comm *comm;
    const model_shard *shards; /* [comm->size] */
    void (*announce)(void *arg);
    /* Called from any thread when the engine has something to do (adapters_step). */
    void (*wake)(void *arg);
    /* Engine thread, within adapters_step: an adapter has arrived or failed, so that who waits for it
     * is looked at anew (sched_retry) ... */
    void (*arrived)(void *arg, adapter *ad);
    /* ... and: every request that uses this one ends now, with this error. */
    void (*end_users)(void *arg, adapter *ad, const esp_error *why);
    void *arg;
    /* For tests: another reader (adapter_reader.h) than that of PEFT folders and GGUF files, for a base of
     * so many layers; and no loader thread. */
    const struct adapter_reader *reader;
    uint32_t layers;
    bool by_hand;
} adapters_options;

ESP_CHECKED esp_code adapters_open(adapters **out, const adapters_options *options, esp_error *err);
/* After the engine's last step, with no request left. NULL is fine. */
void adapters_close(adapters *a);

/* ---- names ---- */

typedef struct adapter_info {
    char name[STORE_NAME_MAX + 1];
    /* The store's, or counted up from 1 with each content loaded under the name. */
    uint32_t version;
    char digest[ADAPTER_DIGEST_CHARS];
    adapter_state state;
    adapter_tier tier;
    bool current; /* what the bare name means */
    bool pinned;
    uint32_t rank; /* largest; 0 while listed */
    /* Ids below are tokens of one that adds some; 0: as many as the base has, or not known. */
    uint32_t vocab;
    uint64_t bytes; /* packed; 0 while listed */
    uint64_t file_bytes, parameters;
    uint32_t users;                      /* requests that hold it */
    uint64_t requests, loads, evictions; /* since it is known; loads: onto the device */
    int64_t last_use_us;                 /* monotonic; 0: never */
    esp_error error;                     /* of a broken one */
} adapter_info;

/* Reads the PEFT folder or GGUF file at path, checks it against the base, packs it, and gives it the
 * name; *info (NULL: not wanted) tells what came of it. Blocks: not for the engine thread.
 * The same content under the same name again changes nothing. Other content is a new version. Of two
 * loads of one name at once the second waits for the first.
 * ESP_INVALID: what is wrong with name or adapter. ESP_EXHAUSTED: larger than the memory for adapters. */
ESP_CHECKED esp_code adapters_load(adapters *a, const char *name, const char *path,
                                   adapter_info *info, esp_error *err);
/* The same from the store: ref is "name", "name@3" or "name@sha256:...". */
ESP_CHECKED esp_code adapters_load_stored(adapters *a, const char *ref, adapter_info *info,
                                          esp_error *err);
/* The same under a name that need not be the store's, which then knows nothing of it; the blob stays on the
 * disk as long as the adapter is known. version: the number of this content, where it is new; 0: the next one. */
ESP_CHECKED esp_code adapters_load_stored_as(adapters *a, const char *name, const char *ref,
                                             uint32_t version, adapter_info *info, esp_error *err);

/* Whether adapters_load would take the files at path, as it says; nothing gets a name. */
ESP_CHECKED esp_code adapters_check(adapters *a, const char *path, esp_error *err);

typedef enum adapter_unload {
    ADAPTER_WAIT, /* no new users; it goes when the last one has ended */
    ADAPTER_END,  /* its users end now, with ESP_ABORTED */
} adapter_unload;

/* A name with all its versions is not found any more from here on, also when it is in the store, until
 * it is loaded again; of "name@version" that one goes, and one of the store is read again when it is asked
 * for. Returns at once. ESP_NOT_FOUND. */
ESP_CHECKED esp_code adapters_unload(adapters *a, const char *ref, adapter_unload how,
                                     esp_error *err);

/* A reference on what "name", "name@version" or "name@sha256:<hex>" means now, loaded or in the store.
 * ESP_NOT_FOUND names a few that are known; ESP_INVALID: no possible name. */
ESP_CHECKED esp_code adapters_find(adapters *a, const char *ref, adapter **out, esp_error *err);
/* The same, also of one that is broken here: for who then asks others for it. */
ESP_CHECKED esp_code adapters_find_anyhow(adapters *a, const char *ref, adapter **out,
                                          esp_error *err);
/* A reference on that content under that name: "name@digest", which is whole (adapter_content). */
ESP_CHECKED esp_code adapters_find_content(adapters *a, const char *name, const char *digest,
                                           adapter **out, esp_error *err);
bool adapter_is_broken(const adapter *ad);
/* Any thread, the engine's too: never blocks. NULL is fine. */
void adapter_release(adapters *a, adapter *ad);

/* Constant while a reference is held. */
const char *adapter_name(const adapter *ad);
uint32_t adapter_version(const adapter *ad);
const char *adapter_content(const adapter *ad); /* "sha256:...", the digest of its content */

/* Labels of a classifier: its requests want as many scores instead of tokens. 0: it is none, or its words were not
 * read yet (adapters_read_words). */
uint32_t adapter_label_count(const adapter *ad);
/* [label_count] names, or numbers where it names none; constant while a reference is held. */
const char *const *adapter_labels(const adapter *ad);
/* Of one that adds tokens to its base's, once its words were read: ids below are its tokens; 0: as many as the base
 * has. */
uint32_t adapter_vocab(const adapter *ad);
/* The tokenizer that knows them, while a reference is held or it is shared (tok_share); NULL: the base's. */
tokenizer *adapter_tokenizer(const adapter *ad);
/* Reads the tokens and labels of one that is only listed, where that was not done yet, and none of its tensors: for
 * threads that others wait for, but the engine's. A load finds the same words or fails, and so do then all requests
 * that were made with them. One whose words cannot be read is broken. */
ESP_CHECKED esp_code adapters_read_words(adapters *a, adapter *ad, esp_error *err);
/* The same where it may have tokens of its own: before its text is made ids. ad NULL: nothing to do. */
ESP_CHECKED esp_code adapters_read_tokens(adapters *a, adapter *ad, esp_error *err);
/* It may have tokens of its own: its folder has a tokenizer's files. Known without reading them. */
bool adapter_may_have_tokens(const adapter *ad);
bool adapter_has_words(const adapter *ad);                   /* they were read */
bool adapter_same_words(const adapter *a, const adapter *b); /* ... of both, and are the same */
/* Its words are not those that others read of the same content: it is broken, unless a load has confirmed them. */
void adapters_doubt(adapters *a, adapter *ad);
/* Reads ad's words and holds them against those of `other`, which is of the same content and may be of other adapters
 * than a. ESP_ABORTED: they are not the same. */
ESP_CHECKED esp_code adapters_read_same_words(adapters *a, adapter *ad, const adapter *other,
                                              esp_error *err);

/* Pinned: stays on the device once there, and is moved there now. ESP_EXHAUSTED when pinned ones would hold
 * more than a quarter of the frames. One that is broken is not pinned: its error. */
ESP_CHECKED esp_code adapters_pin(adapters *a, const char *ref, bool pinned, esp_error *err);
/* The bare name means that version from now on; also in the store, where it is stored there. */
ESP_CHECKED esp_code adapters_set_alias(adapters *a, const char *name, uint32_t version,
                                        esp_error *err);

/* By name and version; one that was unloaded and still serves comes behind the one that was loaded again under its
 * number; by content. For qsort. */
int adapter_info_order(const void *x, const void *y);
/* All that can be had or are in use, in that order: *out is malloc'd, the caller's. */
void adapters_list(adapters *a, adapter_info **out, size_t *count);
void adapter_read_info(adapters *a, const adapter *ad, adapter_info *out);
/* Where that content is under that name; ADAPTER_DISK also where it is not known. Asks for nothing. */
adapter_tier adapters_tier(adapters *a, const char *name, const char *digest);

typedef struct adapters_stats {
    /* Adapters; also those that are over, which no list shows, until they are freed. */
    uint32_t known, host, device, pinned;
    uint64_t host_bytes;
    uint32_t frames; /* leased */
    uint64_t loads, evictions, failures;
} adapters_stats;
/* Both of one moment: what the list's adapters have of loads and evictions is in the sums. So is what those had that
 * it does not show, freed or over: no sum ever falls. */
void adapters_look(adapters *a, adapter_info **out, size_t *count, adapters_stats *stats);
void adapters_read_stats(adapters *a, adapters_stats *out); /* tests only: without the list */

/* ---- the engine thread ---- */

/* What the loader and others have done since; calls arrived and end_users. One atomic load when that is
 * nothing. Before sched_step. */
void adapters_step(adapters *a, int64_t now_us);
/* Whether adapters_step would neither hear of anything nor ask for frames. */
bool adapters_are_still(const adapters *a);

/* What the scheduler calls (sched_adapters of scheduler.h; the adapter is sched_request.adapter). */
sched_adapters adapters_for_scheduler(adapters *a);

/* What forward reads, of an adapter that a planned sequence uses. */
const struct model_adapter *adapter_resident(const adapter *ad);
/* What the other ranks call it as long as it is resident. */
uint32_t adapter_rank_id(const adapter *ad);

/* Why requests of it failed: the error of a broken one. Fills *err (NULL is allowed) and returns its code, never
 * ESP_OK. */
esp_code adapter_error(const adapter *ad, esp_error *err);

#endif
