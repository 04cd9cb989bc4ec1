/* store_inner.h - what the store's sources share (private to engine/adapters/store*.c).
 *
 * The disk is touched through store_disk.c alone: every path is one component in one of the folders
 * that store_open holds open, or "<hex>/<file>", and no link is followed below the root.
 *
 *   a change    store_lock, write what is new aside, rename, flush the folder, store_unlock
 *   unsure      a digest is marked before its blob, or the name that drops it, changes; the mark goes
 *               when the blob surely has a name or is gone. What is marked at store_open is judged
 *               by reading all names. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_STORE_INNER_H
#define ESPALIER_STORE_INNER_H

#include <jansson.h>
#include <pthread.h>
#include <sys/types.h>

#include "engine/adapters/store.h"

#define STORE_MANIFEST_FILE "manifest.json"

typedef enum store_folder {
    FOLDER_BLOBS, /* blobs/sha256 */
    FOLDER_NAMES,
    FOLDER_STAGE,
    FOLDER_UNSURE,
    STORE_FOLDERS
} store_folder;

typedef struct store_holds store_holds;

struct adapter_store {
    char root[PATH_MAX]; /* absolute, without links */
    store_options options;
    int root_fd;
    int folders[STORE_FOLDERS];
    store_holds *holds;
};

enum {
    STORE_ID_CHARS = STORE_NAME_MAX + 18, /* what lies in stage/: a name, '.', 16 digits, NUL */
    STORE_NAME_FILE_CHARS = STORE_NAME_MAX + sizeof ".json",
    STORE_BLOB_PATH_CHARS = SHA256_HEX_CHARS + 40, /* "<hex>/<file>" */
    STORE_JSON_BYTES_MAX = 1 << 19,                /* of a manifest or a name's file */
};

/* ---- store_disk.c: the only system calls ---- */

/* A step that may be made to fail; false with errno set. */
bool store_step(const adapter_store *store, const char *step);
/* Sentence of errno: "NAME: cannot DOING: ...". */
ESP_CHECKED esp_code store_fail(esp_error *err, const char *name, const char *doing);

/* open below a folder's descriptor, links refused; -1 with errno. */
int store_open_at(const adapter_store *store, int folder, const char *path, int flags);
/* All of a regular file of at most STORE_JSON_BYTES_MAX; *out is malloc'd. */
ESP_CHECKED esp_code store_read(const adapter_store *store, store_folder folder, const char *path,
                                char **out, size_t *count, esp_error *err);
/* A new file, written and flushed. */
ESP_CHECKED esp_code store_write(const adapter_store *store, int folder, const char *name,
                                 const void *bytes, size_t count, esp_error *err);
ESP_CHECKED esp_code store_write_all(const adapter_store *store, int fd, const void *bytes,
                                     size_t count, const char *name, esp_error *err);
ESP_CHECKED esp_code store_sync(const adapter_store *store, int fd, const char *name,
                                esp_error *err);
/* From stage/ to a folder, which is flushed. exchange: what lies there comes to stage/ for it. */
ESP_CHECKED esp_code store_publish(const adapter_store *store, const char *id, store_folder folder,
                                   const char *name, bool exchange, esp_error *err);
ESP_CHECKED esp_code store_unlink(const adapter_store *store, store_folder folder, const char *name,
                                  esp_error *err);
/* A folder of stage/ and the files in it, or a file there. What cannot go stays for the next sweep. */
void store_discard(const adapter_store *store, const char *id);
/* A new one; the name is what sentences about files there begin with. */
void store_make_id(char out[STORE_ID_CHARS], const char *name);

/* The next name in an open folder, "." and ".." left out; NULL at the end. */
struct store_walk;
typedef struct store_walk store_walk;
store_walk *store_walk_open(const adapter_store *store, int folder);
const char *store_walk_next(store_walk *walk);
void store_walk_close(store_walk *walk);

/* Exclusive, over all processes; waits. */
ESP_CHECKED esp_code store_lock(const adapter_store *store, int *lock, esp_error *err);
void store_unlock(int lock);

/* ---- store_name.c: references ---- */

typedef struct store_reference {
    char name[STORE_NAME_MAX + 1];
    uint32_t version;                  /* 0: none is given */
    char prefix[SHA256_HEX_CHARS + 1]; /* of the digest's hex; "": none is given */
} store_reference;
ESP_CHECKED esp_code store_parse_reference(const char *text, store_reference *out, esp_error *err);
/* The hex of a whole "sha256:<hex>", or NULL. */
const char *store_hex_of(const char *digest);

/* ---- store_versions.c: names/<name>.json ---- */

void store_name_file(char out[STORE_NAME_FILE_CHARS], const char *name);
/* Of a file's bytes; store_name_free, also after a failure. */
ESP_CHECKED esp_code store_parse_name(const char *name, const void *bytes, size_t count,
                                      store_name *out, esp_error *err);
/* In place of what was there. Under the lock. */
ESP_CHECKED esp_code store_write_name(const adapter_store *store, const store_name *name,
                                      esp_error *err);
/* The version that is meant; ESP_NOT_FOUND, or ESP_INVALID where several are. */
ESP_CHECKED esp_code store_find_version(const store_name *name, const store_reference *reference,
                                        const store_version **out, esp_error *err);

/* ---- store_manifest.c: manifest.json ---- */

/* Of a file's bytes: the digest is that of the files it lists. */
ESP_CHECKED esp_code store_parse_manifest(const void *bytes, size_t count, store_manifest *out,
                                          esp_error *err);
char *store_print_manifest(const store_manifest *manifest); /* malloc'd */
/* "2026-11-21T10:00:00Z", now */
void store_print_time(char out[STORE_TIME_CHARS]);

/* ---- store.c ---- */

ESP_CHECKED esp_code store_fill_ref(const adapter_store *store, const store_name *name,
                                    const store_version *version, store_ref *out, esp_error *err);

/* ---- store_facts.c ---- */

/* What an adapter's files, at the path of a folder or of a GGUF file, say that they are. What can be
 * refused without a base is refused. */
ESP_CHECKED esp_code store_read_facts(const char *path, store_manifest *out, esp_error *err);

/* ---- store_sweep.c ---- */

/* Marks a digest's blob as one that may lose, or not get, its name. Under the lock. */
ESP_CHECKED esp_code store_mark(const adapter_store *store, const char *hex, esp_error *err);
void store_unmark(const adapter_store *store, const char *hex);
/* Judges what is marked: a blob without a name goes, unless it is held. Under the lock. */
void store_settle(const adapter_store *store);
/* What a crash has left: store_settle, and stages that nobody makes any more. */
void store_sweep(const adapter_store *store);

/* ---- store_holds.c ---- */

store_holds *store_holds_open(const adapter_store *store);
void store_holds_close(store_holds *holds);
/* Keeps a blob from being held until store_unguard: -1 when it is held. */
int store_guard(const adapter_store *store, const char *hex);
void store_unguard(int guard);

/* ---- store_list.c ---- */

/* Bytes of all blobs' files. */
uint64_t store_bytes(const adapter_store *store);

#endif
