/* adapter_reader.c - reads PEFT folders and GGUF adapters into images. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/adapters/adapter_reader.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "engine/model/lora/lora_file.h"

struct file_reader {
    adapter_reader door;
    file_reader_options options;
    pthread_mutex_t lock; /* of the packer */
    thread_pool *pool;
    kern_device *packer; /* NULL: not needed yet */
};

static esp_code open_packer(file_reader *reader, esp_error *err) {
    if (reader->packer) return ESP_OK;
    esp_code code = reader->pool ? ESP_OK : pool_open(&reader->pool, 1, err);
    if (code != ESP_OK) return code;
    kern_options o = reader->options.device;
    o.pool = reader->pool;
    o.tokens_max = 1;
    return reader->options.ops->open(&reader->packer, &o, err);
}

/* Another device computes with the matrix: it is whole once the packer has been waited for. */
static esp_code wait_for_packer(file_reader *reader, kern_matrix **matrix, esp_error *err) {
    const kern_ops *ops = reader->options.ops;
    esp_code code = ops->sync(reader->packer, err);
    if (code == ESP_OK) return ESP_OK;
    ops->matrix_close(reader->packer, *matrix);
    *matrix = NULL;
    return code;
}

static esp_code pack_whole(file_reader *reader, const kern_matrix_desc *desc, kern_matrix **out,
                           esp_error *err) {
    pthread_mutex_lock(&reader->lock);
    esp_code code = open_packer(reader, err);
    if (code == ESP_OK) code = reader->options.ops->pack(reader->packer, desc, out, err);
    if (code == ESP_OK) code = wait_for_packer(reader, out, err);
    pthread_mutex_unlock(&reader->lock);
    return code;
}

static void close_whole(void *arg, kern_matrix *matrix) {
    file_reader *reader = arg;
    pthread_mutex_lock(&reader->lock);
    reader->options.ops->matrix_close(reader->packer, matrix);
    pthread_mutex_unlock(&reader->lock);
}

/* What this rank computes with: of an output matrix its rows of the vocabulary. */
static shard_range own_rows(const file_reader *reader, lora_whole which, uint32_t rows) {
    const model_shard *shards = reader->options.shards;
    bool cut = shards && which == LORA_OUTPUT;
    return cut ? shard_vocab(&shards[0], rows, 0) : (shard_range){0, rows};
}

/* The rows of the others, to be sent. */
static esp_code keep_rows(const file_reader *reader, const lora_file *file, lora_whole from,
                          image_whole to, lora_scratch *scratch, adapter_image *image,
                          esp_error *err) {
    kern_matrix_desc desc;
    if (!reader->options.shards || from == LORA_SCORE) return ESP_OK;
    uint32_t rows = lora_file_facts(file)->whole_rows[from];
    esp_code code = lora_file_read_whole(file, from, 0, rows, scratch, &desc, err);
    return code == ESP_OK ? image_add_rows(image, to, &desc, err) : code;
}

/* Where a matrix of the files goes. */
typedef struct whole_way {
    lora_whole from;
    image_whole to;
} whole_way;

static esp_code read_whole(file_reader *reader, const lora_file *file, whole_way way,
                           lora_scratch *scratch, adapter_image *image, esp_error *err) {
    shard_range rows = own_rows(reader, way.from, lora_file_facts(file)->whole_rows[way.from]);
    kern_matrix_desc desc;
    kern_matrix *matrix = NULL;
    esp_code code =
        lora_file_read_whole(file, way.from, rows.first, rows.count, scratch, &desc, err);
    if (code == ESP_OK) code = pack_whole(reader, &desc, &matrix, err);
    if (code == ESP_OK)
        code = image_add_whole(image, way.to, matrix, (image_closer){close_whole, reader}, err);
    return code == ESP_OK ? keep_rows(reader, file, way.from, way.to, scratch, image, err) : code;
}

static esp_code read_wholes(file_reader *reader, const lora_file *file, lora_scratch *scratch,
                            adapter_image *image, esp_error *err) {
    static const whole_way ways[] = {
        {LORA_EMBEDDING, IMAGE_EMBEDDING}, {LORA_OUTPUT, IMAGE_OUTPUT}, {LORA_SCORE, IMAGE_SCORE}};
    const lora_facts *facts = lora_file_facts(file);
    esp_code code = ESP_OK;
    for (size_t i = 0; i < sizeof ways / sizeof *ways && code == ESP_OK; i++) {
        bool output = ways[i].from == LORA_OUTPUT;
        if (facts->whole_rows[ways[i].from] == 0) continue;
        if (output && facts->whole_rows[LORA_SCORE]) continue; /* a classifier has its labels */
        if (output && facts->one_table && !reader->options.shards)
            image_share_embedding(image);
        else
            code = read_whole(reader, file, ways[i], scratch, image, err);
    }
    return code;
}

static esp_code read_layer(const lora_file *file, uint32_t layer, lora_scratch *scratch,
                           adapter_image *image, esp_error *err) {
    static const kern_role roles[LORA_LINEARS] = {[LORA_QKV] = ROLE_QKV,
                                                  [LORA_O] = ROLE_ATTENTION_OUT,
                                                  [LORA_GATE_UP] = ROLE_GATE_UP,
                                                  [LORA_DOWN] = ROLE_DOWN};
    for (uint32_t which = 0; which < LORA_LINEARS; which++) {
        kern_lora_desc desc;
        bool touched = false;
        esp_code code = lora_file_read(file, layer, which, scratch, &desc, &touched, err);
        if (code == ESP_OK && touched) code = image_add(image, roles[which], layer, &desc, err);
        if (code != ESP_OK) return code;
    }
    return ESP_OK;
}

static esp_code read_head(const lora_file *file, lora_scratch *scratch, adapter_image *image,
                          esp_error *err) {
    kern_lora_desc desc;
    bool touched = false;
    esp_code code = lora_file_read_head(file, scratch, &desc, &touched, err);
    return code == ESP_OK && touched ? image_add(image, ROLE_HEAD, 0, &desc, err) : code;
}

/* Its logits take a row of those of the vocabulary. */
static esp_code check_score(const file_reader *reader, const lora_facts *facts, esp_error *err) {
    const model_spec *spec = &reader->options.base->spec;
    uint32_t labels = facts->whole_rows[LORA_SCORE];
    if (labels && spec->pooling != POOLING_NONE)
        return esp_fail(err, ESP_UNIMPLEMENTED,
                        "%s: it is a classifier, and its base embeds; wanted a base that generates",
                        facts->name);
    if (labels && strcmp(facts->task, "SEQ_CLS") != 0)
        return esp_fail(err, ESP_UNIMPLEMENTED,
                        "%s: it has a score head, and its task_type is \"%s\"; wanted \"SEQ_CLS\", "
                        "which classifies whole texts",
                        facts->name, facts->task);
    uint32_t most = own_rows(reader, LORA_OUTPUT, spec->vocab).count;
    if (labels <= most) return ESP_OK;
    return esp_fail(err, ESP_UNIMPLEMENTED,
                    "%s: it has %u labels; wanted no more than a rank has tokens of the base, %u",
                    facts->name, labels, most);
}

/* How many logits a row has where those are more than the base's; else 0. A classifier has its labels'. */
static uint32_t added_vocab(const file_reader *reader, const lora_facts *facts) {
    uint32_t rows = facts->whole_rows[LORA_SCORE] ? 0 : facts->whole_rows[LORA_OUTPUT];
    return rows > reader->options.base->spec.vocab ? rows : 0;
}

/* Its tokens and labels, of the files that its digests are of. What is read and not served is refused. */
static esp_code open_words(const file_reader *reader, const lora_file *file, const char *path,
                           adapter_words *out, esp_error *err) {
    const file_reader_options *o = &reader->options;
    const lora_facts *facts = lora_file_facts(file);
    esp_code code = lora_file_refuse_other(file, o->allow_other_base, err);
    if (code == ESP_OK) code = check_score(reader, facts, err);
    if (code == ESP_OK) code = adapter_words_open(out, facts, path, &o->base->spec, o->tok, err);
    if (code != ESP_OK) return code;
    code = lora_file_check_outline(file, path, err);
    if (code != ESP_OK) adapter_words_close(out);
    return code;
}

static esp_code read_words(const adapter_reader *door, const char *path, adapter_words *out,
                           esp_error *err) {
    const file_reader *reader = door->arg;
    lora_file *file = NULL;
    esp_code code = lora_file_open_outline(&file, path, reader->options.base, err);
    if (code == ESP_OK) code = open_words(reader, file, path, out, err);
    lora_file_close(file);
    return code;
}

static esp_code add_words(const file_reader *reader, const lora_file *file, const char *path,
                          adapter_image *image, esp_error *err) {
    adapter_words words;
    uint32_t vocab = added_vocab(reader, lora_file_facts(file));
    esp_code code = open_words(reader, file, path, &words, err);
    if (code != ESP_OK) return code;
    image_set_words(image, &words);
    if (vocab) image_set_vocab(image, vocab);
    return ESP_OK;
}

static esp_code read_file(const adapter_reader *door, const char *path, adapter_image *image,
                          adapter_facts *facts, esp_error *err) {
    file_reader *reader = door->arg;
    lora_file *file = NULL;
    esp_code code = lora_file_open(&file, path, reader->options.base, err);
    if (code != ESP_OK) return code;
    const lora_facts *known = lora_file_facts(file);
    *facts = (adapter_facts){
        .rank = known->rank_max, .parameters = known->parameters, .file_bytes = known->bytes};
    memcpy(facts->digest, known->digest, sizeof facts->digest);
    memcpy(facts->warning, known->warning, sizeof facts->warning);
    lora_scratch scratch = {0};
    code = add_words(reader, file, path, image, err);
    for (uint32_t layer = 0; code == ESP_OK && layer < reader->options.base->spec.layers; layer++)
        code = read_layer(file, layer, &scratch, image, err);
    if (code == ESP_OK) code = read_head(file, &scratch, image, err);
    if (code == ESP_OK) code = read_wholes(reader, file, &scratch, image, err);
    if (code == ESP_OK) image_finish(image);
    lora_scratch_free(&scratch);
    lora_file_close(file);
    return code;
}

file_reader *file_reader_open(const file_reader_options *options) {
    file_reader *reader = mem_new(1, sizeof *reader);
    reader->options = *options;
    reader->door = (adapter_reader){.read = read_file, .read_words = read_words, .arg = reader};
    pthread_mutex_init(&reader->lock, NULL);
    return reader;
}

void file_reader_close(file_reader *reader) {
    if (!reader) return;
    if (reader->packer) reader->options.ops->close(reader->packer);
    pool_close(reader->pool);
    pthread_mutex_destroy(&reader->lock);
    free(reader);
}

const adapter_reader *file_reader_door(file_reader *reader) { return &reader->door; }
