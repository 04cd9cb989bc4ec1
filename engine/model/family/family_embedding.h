/* family_embedding.h - how a model that embeds makes one vector of a text: the keys that GGUF files
 * have for it, under any architecture. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_FAMILY_EMBEDDING_H
#define ESPALIER_MODEL_FAMILY_EMBEDDING_H

#include "engine/model/format/gguf.h"
#include "engine/model/spec.h"

/* ARCH.pooling_type (0 none, 1 mean, 2 cls, 3 last) and ARCH.normalize_embeddings into spec->pooling
 * and spec->normalise. An encoder must have the first; a decoder without it generates. Without the
 * second a pooled vector is normalised: what the format's own server does. Ranking models (4) are
 * refused. */
ESP_CHECKED esp_code embedding_read_keys(const gguf_file *file, const char *architecture,
                                         model_spec *spec, esp_error *err);

#endif
