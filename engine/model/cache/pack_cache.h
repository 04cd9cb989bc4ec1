/* pack_cache.h - the pack of a model: used when it is the model's, else made anew.
 *
 * A pack is the model's when its key says so: it was made of this content, for this layout, by this
 * version. To tell that without reading the whole model, the pack keeps what names, inodes, sizes
 * and times of the files were (pack_names.h); only when these have changed is the model's content
 * hashed again, and if it is the same, the pack gets the new ones. They are taken before the files
 * are mapped and must be the same behind: of a file that was exchanged meanwhile no pack is kept.
 * What the pack itself holds is hashed at every start, all of it.
 *
 * Nothing here fails a start: a pack that cannot be read or written costs one log line.
 *
 * Thread  one; what it keeps is written by a thread of its own or by the caller's. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_PACK_CACHE_H
#define ESPALIER_MODEL_PACK_CACHE_H

#include "engine/model/cache/pack_file.h"
#include "engine/model/cache/pack_names.h"
#include "engine/model/format/model_digest.h"

typedef struct pack_cache pack_cache;

typedef struct pack_cache_options {
    const char *model_path; /* file or folder */
    pack_identity identity; /* of it before it was mapped */
    const char *format;     /* "q8_0"; "": weights as in the files */
    const char *layout;     /* of the device */
    const char *folder;     /* where packs lie, and nowhere else; NULL: beside the model */
    const char *spare;      /* or here, where that cannot be written; NULL: nowhere */
    struct thread_pool *pool;
    /* The digest of the content that lies at the path now; false: it cannot be read. Slow; called
     * at most once here and once by the keeping thread. */
    bool (*digest)(const char *model_path, char out[MODEL_DIGEST_CHARS]);
} pack_cache_options;

/* Looks for the pack. format and layout outlive the cache; paths are copied. Never NULL. */
pack_cache *pack_cache_open(const pack_cache_options *options);

/* Whether a pack was found. */
bool pack_cache_was_found(const pack_cache *cache);

/* The image of a matrix, if a pack was found and has it; valid until pack_cache_close. */
bool pack_cache_find(const pack_cache *cache, pack_place place, kern_image *out);

/* A matrix that was packed here. */
typedef struct pack_item {
    pack_place place;
    kern_image image;
} pack_item;

/* Writes a new pack of these; their bytes stay until pack_cache_stop. behind: by a thread that is given
 * up there (pack_keeper.h); else before this returns. */
void pack_cache_keep(pack_cache *cache, const pack_item *items, uint32_t count, bool behind);

/* Gives up what is still being written: the items' bytes may go. NULL is fine. */
void pack_cache_stop(pack_cache *cache);

/* Stops, and unmaps the pack: matrices over its images are closed before. NULL is fine. */
void pack_cache_close(pack_cache *cache);

#endif
