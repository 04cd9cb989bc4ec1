/* pack_cache.h - the pack beside a model: mapped when it is the model's, else made anew.
 *
 * It lies at MODEL.FORMAT.espalier-pack or, when nothing can be written there, in a folder of caches.
 * A pack is the model's when its key says so. To tell that without reading the whole model, the pack
 * keeps what the files' names, sizes and times were (their identity); only when these have changed
 * is the model's content hashed again. The identity is taken before the files are mapped and must be
 * the same behind: of a file that was exchanged meanwhile no pack is kept.
 *
 * Nothing here fails a start: a pack that cannot be read or written costs one log line. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_PACK_CACHE_H
#define ESPALIER_MODEL_PACK_CACHE_H

#include "engine/model/cache/pack_file.h"

typedef struct pack_cache pack_cache;

typedef struct pack_cache_options {
    const char *model_path;   /* file or folder */
    uint64_t identity;        /* of it before it was mapped (pack_cache_identity) */
    const char *format;       /* "q8_0" */
    const char *layout;       /* of the backend */
    const char *cache_folder; /* made when needed; NULL: none */
    struct thread_pool *pool;
    /* The digest of the model's content: slow, asked for at most once. */
    const char *(*digest)(void *arg);
    void *digest_arg;
} pack_cache_options;

/* What changes when a file of the model does; 0: there is none. */
uint64_t pack_cache_identity(const char *model_path);

/* Looks for the pack; what the options point to outlives the cache. Never NULL. */
pack_cache *pack_cache_open(const pack_cache_options *options);

/* Whether a pack was found: it has every matrix. */
bool pack_cache_was_found(const pack_cache *cache);

/* The image of a matrix, if a pack was found and has it; valid until pack_cache_close. */
bool pack_cache_find(const pack_cache *cache, pack_place place, kern_image *out);

/* A matrix that was packed here: written to the new pack, where none was found. */
void pack_cache_add(pack_cache *cache, pack_place place, const kern_image *image);

/* The last matrix was added: the new pack, if one was begun, takes its place. */
void pack_cache_finish(pack_cache *cache);

/* Unmaps the pack: matrices over its images are closed before. NULL is fine. */
void pack_cache_close(pack_cache *cache);

#endif
