/* lora_file.h - an adapter's files, read and held against its base: low-rank updates by linear
 * (arXiv:2106.09685), whatever the files call them.
 *
 *   a folder     adapter_config.json + adapter_model.safetensors, as PEFT writes them
 *   a GGUF file  general.type "adapter", adapter.type "lora"
 *
 * Every byte is hostile. Every tensor is used, or the adapter is refused by the tensor's name; what
 * changes the arithmetic and is not computed here is refused by its key. All weights are finite.
 * Names, fused and split matrices, permuted rows of q and k: settled here, nobody else asks.
 *
 * Ownership  the base (model_file_weights of an open model_file) outlives the file: rows of it are
 *            read for DoRA and for tables that an adapter changes in part.
 * Thread     read-only once opened: any, each with a scratch of its own. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_LORA_FILE_H
#define ESPALIER_MODEL_LORA_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/model/checkpoint.h"
#include "engine/model/format/adapter_digest.h"
#include "kernels/kernels.h"

enum { LORA_TARGETS_MAX = 12 };

/* The linears of a layer as forward.c runs them; their matrices in this order. */
typedef enum lora_linear {
    LORA_QKV,     /* q, k, v */
    LORA_O,       /* o */
    LORA_GATE_UP, /* gate, up; of an encoder up alone */
    LORA_DOWN,    /* down */
    LORA_LINEARS
} lora_linear;

/* Whole matrices that an adapter brings instead of the base's, or beside them. */
typedef enum lora_whole {
    LORA_EMBEDDING, /* [V',H]: given whole, or the base's with an update added in; V' >= V */
    LORA_OUTPUT,    /* [V',H] hidden state to logits. An update of lm_head is no whole matrix:
                     * lora_file_read_head */
    LORA_SCORE,     /* [labels,H] of a sequence classifier: logits of the last token's state */
    LORA_WHOLES
} lora_whole;

/* What an adapter is; texts live as long as the file. */
typedef struct lora_facts {
    const char *name;                  /* last component of its path, printable */
    const char *format;                /* "peft", "gguf" */
    char digest[ADAPTER_DIGEST_CHARS]; /* adapter_digest.h; "" of an outline */
    /* The same with the tensors' names, types and shapes in place of their file: of what all that stands here is read
     * from. */
    char outline[ADAPTER_DIGEST_CHARS];
    const char *base_name;             /* of its base, as recorded; "" */
    const char *task;                  /* "CAUSAL_LM", "SEQ_CLS"; "" */
    uint32_t rank_min, rank_max;       /* over its updates; 0: it has none */
    float alpha;                       /* of modules without one of their own */
    bool rslora, dora;
    /* Rows of embed_tokens or lm_head come with it: then its tokenizer's files count, too. */
    bool tables;
    uint32_t updates; /* matrices of the base that are changed by an update */
    uint32_t tensors;
    uint64_t parameters, bytes;            /* of all tensors; of all its files */
    const char *targets[LORA_TARGETS_MAX]; /* "q_proj", "lm_head", ... that it changes */
    uint32_t target_count;
    uint32_t whole_rows[LORA_WHOLES]; /* 0: the adapter brings none */
    bool one_table;                   /* LORA_OUTPUT is LORA_EMBEDDING, row for row */
    const char *const *label_names;   /* [whole_rows[LORA_SCORE]], or NULL: it names none */
    /* Where its base's recorded name is no part of the name of the base at hand: a sentence for the
     * log. "": none */
    char warning[480];
    bool other_base; /* ... and what the base records of itself can be no name of the same model */
} lora_facts;

typedef struct lora_file lora_file;

/* path: of the folder or of the GGUF file. base NULL: facts alone, for those who have no model at
 * hand; then only what needs no base is checked, and nothing is read of it.
 * ESP_INVALID, ESP_NOT_FOUND or ESP_DENIED with a sentence. */
ESP_CHECKED esp_code lora_file_open(lora_file **out, const char *path, const checkpoint *base,
                                    esp_error *err);
/* The facts alone, of the files' heads: no number of a tensor is read, so it takes as long for a large adapter as for a
 * small one. Nothing but facts is asked of it. What it does not see - numbers that are not finite, content that is not
 * what a digest says - lora_file_open refuses; and tables that are the base's own count as the adapter's here. */
ESP_CHECKED esp_code lora_file_open_outline(lora_file **out, const char *path,
                                            const checkpoint *base, esp_error *err);
/* Labels and tokens are read from files that were hashed before and are opened anew: whether what lies at the file's path
 * still is what facts.outline says, asked when all of them were read. ESP_DATA_LOSS. */
ESP_CHECKED esp_code lora_file_check_outline(const lora_file *file, const char *path,
                                             esp_error *err);
/* The same as lora_file_open of two files in memory that the caller keeps (tests, fuzzing). */
ESP_CHECKED esp_code lora_file_open_memory(lora_file **out, const void *config, size_t config_bytes,
                                           const void *tensors, size_t tensor_bytes,
                                           const checkpoint *base, esp_error *err);
/* ESP_INVALID for one of another base, by what both record, unless that is allowed (--allow-other-base). */
ESP_CHECKED esp_code lora_file_refuse_other(const lora_file *file, bool allowed, esp_error *err);
void lora_file_close(lora_file *file);
const lora_facts *lora_file_facts(const lora_file *file);
/* The facts as a JSON object (malloc'd; the caller frees). */
char *lora_file_describe(const lora_file *file);

/* Whether a path is that of an adapter and not of a model: a folder with adapter_config.json, a
 * GGUF file of that type. false also for what cannot be read. */
bool lora_path_is_adapter(const char *path);
/* lora_facts.tables of a PEFT folder; false also for what cannot be read. */
bool lora_folder_has_tables(const char *path);

/* What lora_file_read fills; all-zero at first, reused from call to call. */
typedef struct lora_scratch {
    float *at;
    size_t count; /* floats */
    void *rows;   /* checkpoint_read_rows's */
} lora_scratch;
void lora_scratch_free(lora_scratch *scratch);

/* The update of one linear, in float32 arrays in the scratch, good until it is used again. A matrix
 * that is not touched has rank 0 and no arrays; *touched false: none is. part[i].rows is the base's
 * in either case. A matrix may have a bias and rank 0. Matrices fused in the adapter share one
 * array `a`.
 * Fails only where the base's rows cannot be read. */
ESP_CHECKED esp_code lora_file_read(const lora_file *file, uint32_t layer, lora_linear which,
                                    lora_scratch *scratch, kern_lora_desc *out, bool *touched,
                                    esp_error *err);
/* The same of lm_head: one matrix. */
ESP_CHECKED esp_code lora_file_read_head(const lora_file *file, lora_scratch *scratch,
                                         kern_lora_desc *out, bool *touched, esp_error *err);

/* Rows [first, first + count) of a whole matrix of facts.whole_rows[which], for kern_ops.pack: in
 * the adapter's own type where it is given whole, else float32. What desc points to lives in the
 * file or in the scratch. Take many rows at once: those of the base are unpacked for each call. */
ESP_CHECKED esp_code lora_file_read_whole(const lora_file *file, lora_whole which, uint32_t first,
                                          uint32_t count, lora_scratch *scratch,
                                          kern_matrix_desc *out, esp_error *err);

#endif
