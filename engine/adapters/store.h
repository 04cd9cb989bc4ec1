/* store.h - adapters on disk: files by their content, and names that point at them.
 *
 *   ROOT/blobs/sha256/<hex>/  adapter_config.json + adapter_model.safetensors (+ config.json), or
 *                             adapter.gguf; manifest.json: what they are. Never changed.
 *   ROOT/names/<name>.json    the name's versions (number -> digest) and its alias: the version that
 *                             the bare name means. Replaced as a whole, by one rename.
 *   ROOT/stage/<id>/          an import under way, locked by who makes it
 *   ROOT/unsure/<hex>         a blob that may be no name's; looked at by the next open
 *   ROOT/lock, ROOT/held      locks: of every change; of blobs in use
 *
 * A reference is "name" (what its alias says), "name@3", or "name@sha256:<hex>", where the hex may be
 * a prefix of at least STORE_PREFIX_MIN digits that only one of the name's versions has.
 *
 * What is written is flushed before it is named, so a crash at any point leaves the store as it was
 * before or as it is after; what the crash left over, the next store_open clears away.
 *
 * Thread   any, and any number of processes: a change takes the store's lock (flock), a reader
 *          takes none. A stage belongs to one thread at a time.
 * Errors   ESP_NOT_FOUND: no such name, version or store. ESP_INVALID: what was given cannot be an
 *          adapter, a name or a reference; or a file of the store is damaged. ESP_EXHAUSTED: the disk,
 *          or the store's limit, is full. ESP_PRECONDITION: as said below. Sentences name adapters,
 *          files by their last component, and no path of the host but for the root in store_open. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_STORE_H
#define ESPALIER_STORE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/model/format/adapter_digest.h"

enum {
    STORE_NAME_MAX = 128,      /* bytes of a name */
    STORE_REFERENCE_MAX = 256, /* bytes of "name@sha256:..." */
    STORE_PREFIX_MIN = 12,     /* digits of a digest that a reference must give */
    STORE_VERSIONS_MAX = 1024, /* of one name at a time */
    STORE_TARGETS_MAX = 512,   /* bytes of a list of targets */
    STORE_BASE_MAX = 256,      /* bytes of a base model's recorded name */
    STORE_TIME_CHARS = 24,     /* "2026-11-21T10:00:00Z" and a NUL, with room */
    STORE_CONFIG_BYTES_MAX = 1 << 20,
    STORE_TOKENS_BYTES_MAX = 64 << 20, /* of a tokenizer's file */
};
/* Of one adapter's tensors, unless the options say less. */
#define STORE_ADAPTER_BYTES_MAX ((uint64_t)16 << 30)

typedef struct adapter_store adapter_store;

/* For tests: called before each step that changes the disk, with its name ("open", "write", "sync",
 * "rename", ...). An errno that it returns is what the step fails with; it may also end the process. */
typedef int (*store_step_hook)(void *arg, const char *step);

typedef struct store_options {
    const char *root;           /* config_adapter_store (engine/config.h), or the operator's */
    bool create;                /* make it when it is not there; otherwise ESP_NOT_FOUND */
    uint64_t bytes_max;         /* of all blobs together; 0: what the disk holds */
    uint64_t adapter_bytes_max; /* of one adapter; 0: STORE_ADAPTER_BYTES_MAX */
    bool flush_late;      /* the disk is waited for in store_close alone: for a store that can be
                                 * made again, where a crash may leave half a one */
    store_step_hook hook; /* NULL: none */
    void *hook_arg;
} store_options;

/* Also clears away what a crash has left, where this process may write. */
ESP_CHECKED esp_code store_open(adapter_store **out, const store_options *options, esp_error *err);
/* Stages are closed and held blobs let go before. */
void store_close(adapter_store *store);

/* ---- names ---- */

/* A name is [a-z0-9][a-z0-9._-]*, at most STORE_NAME_MAX bytes, without "..", and does not end in '.'.
 * The bytes may hold anything, NUL too. */
ESP_CHECKED esp_code store_check_name(const char *name, size_t bytes, esp_error *err);

/* One version of a name. */
typedef struct store_ref {
    char name[STORE_NAME_MAX + 1];
    uint32_t version; /* from 1 */
    char digest[ADAPTER_DIGEST_CHARS];
    char imported[STORE_TIME_CHARS]; /* UTC */
    char path[PATH_MAX]; /* the blob's folder, or its adapter.gguf: for lora_file_open */
} store_ref;

/* Reads one small file, whatever the number of names. */
ESP_CHECKED esp_code store_resolve(adapter_store *store, const char *reference, store_ref *out,
                                   esp_error *err);

/* ---- blobs in use ----
 * A blob that is held stays on the disk although its last name is removed, until the last holder lets
 * go (and a store is opened, or something is removed, afterwards). Held is by digest, any number of
 * times; the end of the process lets go. No descriptor is kept for it. */
ESP_CHECKED esp_code store_hold(adapter_store *store, const char *digest, esp_error *err);
void store_let_go(adapter_store *store, const char *digest);

/* ---- importing ---- */

/* Called with the staged files, whole and structurally sound, before they get a name: what it refuses
 * is not imported. path is as in store_ref. */
typedef esp_code (*store_check)(void *arg, const char *path, esp_error *err);

typedef struct store_import_options {
    const char *name;   /* store_check_name */
    const char *digest; /* what it must be, "sha256:<64 hex>", or NULL */
    bool keep_alias; /* the bare name goes on meaning what it did; not for a name's first version */
    store_check check; /* NULL: structure only */
    void *check_arg;
} store_import_options;

/* Copies a PEFT folder or a .gguf file into the store as the name's next version and, unless
 * keep_alias, moves the alias there. A version of that name with the same content is found again
 * instead of made again. The folder is the operator's: links in it are followed, other files are
 * left where they are. *out may be NULL. */
ESP_CHECKED esp_code store_import(adapter_store *store, const char *path,
                                  const store_import_options *options, store_ref *out,
                                  esp_error *err);

/* The same for an adapter that arrives in pieces: begin, then for each file store_stage_file and any
 * number of writes, then commit. store_stage_close at any point leaves nothing behind. */
typedef struct store_stage store_stage;

ESP_CHECKED esp_code store_stage_begin(adapter_store *store, const store_import_options *options,
                                       store_stage **out, esp_error *err);
/* Begins the next file: one of ADAPTER_CONFIG_FILE, ADAPTER_TENSORS_FILE, ADAPTER_LABELS_FILE,
 * ADAPTER_TOKEN_FILE, or ADAPTER_GGUF_FILE; of exactly that many bytes. Refused at once where that is more than a limit or what the disk has. */
ESP_CHECKED esp_code store_stage_file(store_stage *stage, const char *name, uint64_t bytes,
                                      esp_error *err);
ESP_CHECKED esp_code store_stage_write(store_stage *stage, const void *bytes, size_t count,
                                       esp_error *err);
/* Checks and names it. Whatever the result, the stage is then only to be closed. */
ESP_CHECKED esp_code store_stage_commit(store_stage *stage, store_ref *out, esp_error *err);
void store_stage_close(store_stage *stage); /* NULL is allowed */

/* ---- looking and changing ---- */

typedef struct store_file {
    char name[32];
    uint64_t bytes;
    char sha256[SHA256_HEX_CHARS + 1];
} store_file;

/* What a blob's manifest.json says. */
typedef struct store_manifest {
    char digest[ADAPTER_DIGEST_CHARS];
    char imported[STORE_TIME_CHARS]; /* when the content first came */
    store_file files[ADAPTER_FILES_MAX];
    uint32_t file_count;
    uint64_t bytes;                  /* of the files */
    uint64_t parameters;             /* elements of all tensors */
    uint32_t rank_min, rank_max;     /* over the tensors; 0: it has no low-rank part */
    char targets[STORE_TARGETS_MAX]; /* "q_proj, v_proj": module names, sorted */
    char base[STORE_BASE_MAX];       /* the base model's name as the adapter records it; "" */
} store_manifest;

ESP_CHECKED esp_code store_read_manifest(adapter_store *store, const char *digest,
                                         store_manifest *out, esp_error *err);

/* Reads every byte of a blob and compares: ESP_DATA_LOSS names the file that is not what it was. */
ESP_CHECKED esp_code store_verify(adapter_store *store, const char *digest, esp_error *err);

typedef struct store_version {
    uint32_t version;
    char digest[ADAPTER_DIGEST_CHARS];
    char imported[STORE_TIME_CHARS];
} store_version;

typedef struct store_name {
    char name[STORE_NAME_MAX + 1];
    uint32_t alias;          /* a version */
    store_version *versions; /* ascending */
    uint32_t count;          /* > 0 */
    uint32_t next;           /* number of the version to come: none is given twice */
} store_name;

typedef struct store_list {
    store_name *at; /* by name */
    uint32_t count;
} store_list;

/* All names; opens one file for each. */
ESP_CHECKED esp_code store_read_list(adapter_store *store, store_list *out, esp_error *err);
/* One name. */
ESP_CHECKED esp_code store_read_name(adapter_store *store, const char *name, store_name *out,
                                     esp_error *err);
void store_list_free(store_list *list);
void store_name_free(store_name *name);

/* Makes the bare name mean that version. */
ESP_CHECKED esp_code store_set_alias(adapter_store *store, const char *name, uint32_t version,
                                     esp_error *err);

/* "name": the name with all its versions. "name@3", "name@sha256:...": that version; not the one that
 * the alias means while there are others (ESP_PRECONDITION). A blob without a name goes as well, now or
 * when its holders let go. *versions is how many went; may be NULL. */
ESP_CHECKED esp_code store_remove(adapter_store *store, const char *reference, uint32_t *versions,
                                  esp_error *err);

#endif
