/* lora_inner.h - what the parts of lora_file.h share; nobody else includes it.
 *
 * A SITE is a matrix that an adapter may change, in the names of files: a fused one and its parts
 * are sites of their own, of which a layer has one or the others. A PIECE is one tensor at a site.
 *
 *   lora_peft.c, lora_gguf.c  a tensor's name -> its place; alpha and rank of a module
 *   lora_collect.c            tensors into places: none twice, none left, none missing
 *   lora_check.c              places against the base: shapes, tables, biases
 *   lora_read.c, lora_whole.c what lora_file.h gives out */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_MODEL_LORA_INNER_H
#define ESPALIER_MODEL_LORA_INNER_H

#include "engine/base/file.h"
#include "engine/model/format/safetensors.h"
#include "engine/model/lora/lora_config.h"
#include "engine/model/lora/lora_file.h"

typedef enum lora_site {
    SITE_Q,
    SITE_K,
    SITE_V,
    SITE_QKV, /* rows of q, of k, of v */
    SITE_O,
    SITE_GATE,
    SITE_UP,
    SITE_GATE_UP, /* rows of gate, of up */
    SITE_DOWN,
    SITE_LAYER_COUNT,
    SITE_OUTPUT = SITE_LAYER_COUNT, /* these: of the model */
    SITE_EMBEDDING,
    SITE_SCORE,
    SITE_POOLER, /* of an encoder, behind the states that are pooled: no vector depends on it */
    SITE_COUNT
} lora_site;

typedef enum lora_piece {
    PIECE_A,         /* [rank, cols]; of the embedding [rank, rows] */
    PIECE_B,         /* [rows, rank]; of the embedding [cols, rank] */
    PIECE_B_BIAS,    /* [rows] of the second step: scaled as the update is */
    PIECE_MAGNITUDE, /* [rows] of DoRA (arXiv:2402.09353); of the embedding [cols] */
    PIECE_BIAS,      /* [rows] instead of the base's bias */
    PIECE_WEIGHT,    /* the whole matrix, of sites of the model */
    PIECE_TOKENS,    /* [count, cols] instead of the matrix's rows of some tokens */
    PIECE_ORIGINAL, /* what stood there before the training of PIECE_WEIGHT: nothing is made with it */
    PIECE_COUNT
} lora_piece;

/* What a tensor's name says. */
typedef struct lora_place {
    uint32_t layer; /* 0 for sites of the model */
    lora_site site;
    lora_piece piece;
    model_text module; /* as patterns see it: "model.layers.0.self_attn.q_proj" */
    bool encoder;      /* a PEFT name of an encoder's module */
} lora_place;

/* All there is at one site; all-zero: nothing. */
typedef struct lora_update {
    model_text module;
    const model_tensor *piece[PIECE_COUNT];
    uint32_t rank; /* 0 without A and B */
    float scale;
} lora_update;

struct lora_file {
    lora_facts facts;
    const checkpoint *base; /* or NULL */
    bool outline;           /* no number of a tensor is read */
    lora_config config;     /* of a folder */
    char name[96];
    char base_name[128], task[48]; /* of a GGUF file */
    char **label_names;
    file_view config_view; /* of nothing in memory */
    safetensors_file *folder_tensors;
    gguf_file *gguf;
    model_text architecture; /* of a GGUF file */
    float alpha;             /* of a GGUF file */
    uint32_t layers;
    bool encoder;             /* modules are an encoder's: the base's, or the first tensor's */
    lora_update *updates;     /* [layers, SITE_LAYER_COUNT], then the sites of the model */
    /* LORA_OUTPUT is what LORA_EMBEDDING is: the base ties the two. Without ensure_weight_tying an update is the
     * embedding's alone. */
    bool output_is_embedding;
    float *embedding_factor; /* [H] DoRA: of each column, or NULL */
};

lora_update *lora_at(const lora_file *file, uint32_t layer, lora_site site);
/* "q_proj", "query" */
const char *lora_site_name(const lora_file *file, lora_site site);
/* Of the names of the file's kind, "self_attn.q_proj" behind "layers." and a number; NULL: it has no such site. */
const char *lora_site_path(const lora_file *file, lora_site site);
const char *lora_layers_name(const lora_file *file);
/* Rows of q and k lie so that neighbours turn (spec.rope_interleaved): in this adapter's files. */
bool lora_rows_interleaved(const lora_file *file);

static inline uint32_t lora_tensor_count(const lora_file *file) {
    return file->gguf ? (uint32_t)gguf_tensor_count(file->gguf)
                      : safetensors_tensors(file->folder_tensors)->count;
}
static inline const model_tensor *lora_tensor(const lora_file *file, uint32_t index) {
    return file->gguf ? gguf_tensor_at(file->gguf, index)
                      : &safetensors_tensors(file->folder_tensors)->at[index];
}

/* Fails with ESP_INVALID and "<file>: tensor <name> <sentence>". */
esp_code lora_fail_tensor(const model_tensor *tensor, esp_error *err, const char *format, ...)
    ESP_PRINTF(3, 4);

/* ---- names: lora_names.c ---- */

/* false: the name is none of an adapter's. */
bool lora_parse_peft(model_text name, lora_place *out);
/* fused_up: the architecture's ffn_up is gate and up. */
bool lora_parse_gguf(model_text name, bool fused_up, lora_place *out);

/* ---- lora_gguf.c ---- */

/* Metadata of an adapter: kind, alpha, architecture. */
ESP_CHECKED esp_code lora_read_gguf(lora_file *file, esp_error *err);

/* ---- lora_collect.c ---- */

/* Puts every tensor in its place; rank and scale of every update. */
ESP_CHECKED esp_code lora_collect(lora_file *file, esp_error *err);

/* ---- lora_check.c ---- */

/* The updates against the base's spec; with a base only. */
ESP_CHECKED esp_code lora_check(lora_file *file, esp_error *err);

/* ---- lora_base.c: rows of the base as float32 ---- */

/* The base's matrix at a site, and the row of it where the site begins: in a base that fuses what
 * the adapter does not, and the other way round, a part of it. */
typedef struct lora_base_rows {
    checkpoint_matrix matrix;
    uint32_t first;
} lora_base_rows;

/* Shape of a site's matrix in a model of this spec. SITE_SCORE has none. */
uint32_t lora_site_rows(const model_spec *spec, lora_site site);
uint32_t lora_site_cols(const model_spec *spec, lora_site site);
/* Of q, k, v, o, gate, up, down, lm_head, embed_tokens: no fused site. */
ESP_CHECKED esp_code lora_base_find(const checkpoint *base, uint32_t layer, lora_site site,
                                    lora_base_rows *out, esp_error *err);
/* out: [count, cols]. *rows is checkpoint_read_rows's scratch. */
ESP_CHECKED esp_code lora_base_read(const checkpoint *base, const lora_base_rows *from,
                                    uint32_t first, uint32_t count, void **rows, float *out,
                                    esp_error *err);
/* The base's bias at a site, [rows] malloc'd; NULL: it has none. */
ESP_CHECKED esp_code lora_base_bias(const checkpoint *base, uint32_t layer, lora_site site,
                                    float **out, esp_error *err);

/* ---- lora_read.c ---- */

/* All of a tensor. */
void lora_floats(const model_tensor *tensor, float *out);
/* row += factor * a; cols is a multiple of 4 */
void lora_add_scaled(float *row, const float *a, float factor, uint32_t cols);
/* Room for count floats in a scratch. */
float *lora_room(lora_scratch *scratch, size_t count);

/* ---- lora_tokens.c: rows of single tokens ---- */

/* Their ids, as the config lists them; NULL: none at this site. */
const json_t *lora_token_ids(const lora_file *file, lora_site site);
/* The tensor against its ids: as many, each once, and all that lie at or behind row `there`, up to the last.
 * *rows: there, or more. */
ESP_CHECKED esp_code lora_check_tokens(const lora_file *file, lora_site site, uint64_t there,
                                       uint64_t *rows, esp_error *err);
/* Puts those of rows [first, first + count) where they belong in out [count, cols]. */
void lora_put_tokens(const lora_file *file, lora_site site, uint32_t first, uint32_t count,
                     float *out);

/* ---- lora_whole.c ---- */

/* [H] factors of a DoRA update of the embedding. */
ESP_CHECKED esp_code lora_embedding_factor(lora_file *file, esp_error *err);
/* Drops whole matrices that are the base's own, bit for bit. */
ESP_CHECKED esp_code lora_drop_copies(lora_file *file, esp_error *err);
/* Rows [first, first + count) of the matrix that an update of lm_head goes on top of. */
ESP_CHECKED esp_code lora_head_rows(const lora_file *file, uint32_t first, uint32_t count,
                                    void **rows, float *out, esp_error *err);

#endif
