/* model.h - an opened model: spec, weights packed on a device, tokenizer data, forward pass.
 *
 *   model_file_open reads a file (gguf.c) or a folder (model_folder.c), a family file fills the spec
 *                   (family_*.c)
 *   model_open      packs the weights by role (checkpoint.c, weights.c)
 *   model_forward   one step batch through the layers (forward.c)
 *
 * Thread  open and forward on the engine thread; the tokenizer and the description from any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_H
#define ESPALIER_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "cluster/comm.h"
#include "engine/base/batch.h"
#include "engine/base/status.h"
#include "engine/model/cache/pack_names.h"
#include "engine/model/checkpoint.h"
#include "engine/model/page_groups.h"
#include "engine/model/shard.h"
#include "engine/model/spec.h"
#include "engine/text/tokenizer.h"
#include "kernels/kernels.h"

/* What a GGUF file or a Hugging Face folder says before any weight is packed: enough for tokenize,
 * inspect and render. */
typedef struct model_file model_file;

/* path is that of a folder, of a GGUF file, or of the first one of a split model. */
ESP_CHECKED esp_code model_file_open(model_file **out, const char *path, esp_error *err);
/* The same over memory that the caller keeps (tests, fuzzing). */
ESP_CHECKED esp_code model_file_open_memory(model_file **out, const void *bytes, size_t count,
                                            const char *name, esp_error *err);
void model_file_close(model_file *file);
/* Last component of its path, printable. */
const char *model_file_name(const model_file *file);
/* Its tensors by role (checkpoint.h). */
const checkpoint *model_file_weights(const model_file *file);
const model_spec *model_file_spec(const model_file *file);
/* Opens the tokenizer described by the file. */
ESP_CHECKED esp_code model_file_tokenizer(const model_file *file, tokenizer **out, esp_error *err);
/* Chat template source, or NULL; bytes set. */
const char *model_file_template(const model_file *file, size_t *bytes);
/* The template for conversations with tools, of models that publish two; or NULL. */
const char *model_file_tool_template(const model_file *file, size_t *bytes);
/* Opens both, with the tokenizer's bos and eos (engine/text/template.h). ESP_UNIMPLEMENTED where the
 * model has none; else template_open's errors. */
struct chat_template;
ESP_CHECKED esp_code model_file_chat(const model_file *file, const tokenizer *tok,
                                     struct chat_template **out, esp_error *err);
/* "xxh3-128:<32 hex>" of all files that make the model (model_digest.h); computed on first call (reads
 * every byte). */
const char *model_file_digest(model_file *file);
/* Of its files as they lay before they were opened (pack_names.h). */
pack_identity model_file_identity(const model_file *file);
/* The JSON object that `espalier inspect` prints (malloc'd; the caller frees). The numeric profile is not
 * a fact of the file: the command parses this text and adds `profile`. */
char *model_file_describe(model_file *file);

/* What is done about packs, files of packed weights (cache/pack_cache.h). */
typedef enum model_packs {
    PACKS_OFF,
    PACKS_USE,           /* one that is there is used */
    PACKS_KEEP_IF_WORTH, /* else one is written, if packing took long */
    PACKS_KEEP,          /* else one is written */
} model_packs;

typedef struct model_options {
    const kern_ops *ops;
    kern_device *dev;      /* borrowed */
    uint32_t tokens_max;   /* T of the largest batch */
    uint32_t rows_max;     /* R of the largest batch */
    uint32_t seqs_max;     /* S of the largest batch; 0: tokens_max */
    bool no_adapters;      /* no step has one */
    uint32_t context_max;  /* positions for which rope is prepared */
    bool keep_pages;       /* window layers keep all their pages: one page group */
    /* --quantize: 16- and 32-bit matrices become DT_Q8_0 or DT_Q4_K. */
    bool quantize;
    esp_dtype quantize_to;
    model_packs packs;
    bool packs_behind;        /* written while the model already serves */
    const char *model_path;   /* with packs */
    const char *pack_folder;  /* where they lie; NULL: beside the model */
    const char *cache_folder; /* or here, where nothing can be written there; NULL: nowhere */
    struct thread_pool *pool; /* with quantize, with packs */
    /* This rank among those that share the model; borrowed, moves the device's memory. NULL: it is the only
     * one. */
    comm *comm;
    /* Called while weights are packed, for a progress bar; NULL for none. */
    void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_arg;
} model_options;

typedef struct model model;

/* Packs the weights, or maps them from a pack; the file may be closed afterwards. */
ESP_CHECKED esp_code model_open(model **out, model_file *file, const model_options *options,
                                esp_error *err);
void model_close(model *m);
const model_spec *model_get_spec(const model *m);   /* of the whole model */
const model_shard *model_get_shard(const model *m); /* all-zero: there is one rank */
size_t model_weight_bytes(const model *m); /* packed */

/* Page groups of this model, and the shape of their pages. */
const page_groups *model_page_groups(const model *m);
const kern_kv_shape *model_kv_shape(const model *m);

/* Linears of a layer that an adapter may touch: ROLE_QKV to ROLE_DOWN, in this order. */
enum { MODEL_ADAPTER_LINEARS = ROLE_DOWN - ROLE_QKV + 1 };

/* What the forward pass reads of one adapter; constant from model_forward until its batch's logits are
 * taken. All-zero: it changes nothing. */
typedef struct model_adapter {
    /* [role - ROLE_QKV][layer]; NULL, an entry or the array: untouched. */
    const kern_lora *const *linears[MODEL_ADAPTER_LINEARS];
    const kern_lora *head; /* the update of the output matrix, or NULL */
    /* [V,H] instead of the base's own, or NULL; output also where the base's is its embedding. */
    const kern_matrix *embedding, *output;
    /* [labels,H] of a classifier: its rows have the labels' logits instead of the vocabulary's; or NULL. */
    const kern_matrix *score;
    /* Rows of the output, of all ranks together, where it adds tokens to the base's; else 0. */
    uint32_t vocab;
} model_adapter;

/* Whether an update is of the matrices that this rank has at that place, as forward asserts; layer < layers, and not
 * read of ROLE_HEAD. vocab: model_adapter's. */
bool model_takes_update(const model *m, kern_role role, uint32_t layer, const kern_lora *lora,
                        uint32_t vocab);

/* Most tokens that an adapter adds to its base's; sizes what holds logits. */
enum { MODEL_ADDED_TOKENS_MAX = 1024 };

/* One row of logits. */
typedef struct logits_row {
    const float *at; /* [vocab] */
    uint32_t vocab;  /* the base's; or, of an adapter that adds tokens, more */
} logits_row;

/* Most rows whose logits are computed at once; bounds the logits buffer. */
enum { MODEL_LOGITS_ROWS = 64 };

/* Runs the batch through all layers; a device fault may be told only by what is called for its rows. adapters: what batch->seq_adapter indexes; NULL when no sequence has
 * one. Sequences of one adapter that stand side by side are computed as one segment: who orders them so
 * saves time; the results are the same. arena is the pages' memory (kern_ops.alloc). Allocates nothing. */
ESP_CHECKED esp_code model_forward(model *m, const step_batch *batch,
                                   const model_adapter *const *adapters, void *arena,
                                   esp_error *err);

/* Logits of rows [first, first + count) of the batch last run, count <= MODEL_LOGITS_ROWS, into rows [count]:
 * float32 in host memory of the model's, valid until the next call; rows of equal width that are neighbours
 * lie one behind the other. A row of a sequence whose adapter has a score head begins with the labels'
 * logits; the rest of it means nothing. Of several ranks each calls it alike; rank 0 alone gets them. */
ESP_CHECKED esp_code model_logits(model *m, uint32_t first, uint32_t count, logits_row *rows,
                                  esp_error *err);

/* The same rows' tokens, of a device that runs beside the host (kern_ops.beside): model_pick has it pick all rows of the
 * batch last run, piece by piece, and waits for nothing; rows are read before it returns. */
ESP_CHECKED esp_code model_pick(model *m, uint32_t first, uint32_t count, sample_row *rows,
                                esp_error *err);
/* Waits until the oldest batch that was picked and not taken, of step_rows rows, has its tokens, and gives those of
 * rows [first, first + count), piece by piece. At most two batches are picked and not taken. */
ESP_CHECKED esp_code model_picked(model *m, uint32_t step_rows, uint32_t first, uint32_t count,
                                  sample_row *rows, esp_error *err);

/* The vectors of the batch last run, by a model whose spec says how to pool: row i of the batch's rows,
 * *rows [row_count, hidden] float32 in host memory of the model's, valid until the next call. */
ESP_CHECKED esp_code model_pooled(model *m, const float **rows, esp_error *err);

#endif
