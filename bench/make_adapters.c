/* make_adapters.c - many random LoRA adapters straight into a store: names "lora-0000", "lora-0001", ...
 * Everything follows from the seed and the number, so the digests are the same on every machine; no two
 * are equal. Matrices are bf16: A with rows of about length 1, B --strength times smaller than that, so
 * that the base's answers change and stay numbers.
 *
 *   make_adapters --model m.gguf --count 2000 --rank 8 --targets q,v --seed 1 --store DIR
 *
 * Prints one JSON row. */
// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/adapters/store.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/flags.h"
#include "engine/model/lora/lora_file.h"
#include "engine/model/model.h"

enum { RANKS_MAX = 16, COUNT_MAX = 100000, RANK_MAX = 512 };

typedef struct options {
    const char *model, *store, *ranks, *targets, *name;
    uint32_t count;
    uint64_t seed;
    float strength;
} options;

#define FIELD(field) .offset = offsetof(options, field)
static const flag flags[] = {
    {.name = "model",
     .kind = FLAG_TEXT,
     FIELD(model),
     .required = true,
     .placeholder = "PATH",
     .help = "the base, whose shape they have"},
    {.name = "store",
     .kind = FLAG_TEXT,
     FIELD(store),
     .required = true,
     .placeholder = "DIR",
     .help = "where they go"},
    {.name = "count",
     .kind = FLAG_U32,
     FIELD(count),
     .least = 1,
     .most = COUNT_MAX,
     .placeholder = "N",
     .help = "how many; default 8"},
    {.name = "rank",
     .kind = FLAG_TEXT,
     FIELD(ranks),
     .placeholder = "R,...",
     .help = "rank of each, in turn where there are several: 8,16,64; default 8"},
    {.name = "targets",
     .kind = FLAG_TEXT,
     FIELD(targets),
     .placeholder = "LIST",
     .help = "of q,k,v,o,gate,up,down, or all; default q,v"},
    {.name = "name",
     .kind = FLAG_TEXT,
     FIELD(name),
     .placeholder = "NAME",
     .help = "what their names begin with; default lora"},
    {.name = "seed", .kind = FLAG_U64, FIELD(seed), .placeholder = "N", .help = "default 1"},
    {.name = "strength",
     .kind = FLAG_F32,
     FIELD(strength),
     .least = 0,
     .most = 100,
     .placeholder = "F",
     .help = "how much they change the base; default 0.05"},
};
static const flag_table table = {
    .title = "Options", .flags = flags, .count = sizeof flags / sizeof *flags};
static const flag_command command = {
    .name = "make_adapters",
    .summary =
        "Makes random LoRA adapters in a store (a program of bench/, no command of espalier).",
    .usage = "--model PATH --store DIR [options]",
    .examples =
        "  make_adapters --model m.gguf --count 2000 --rank 8 --targets q,v --store DIR\n"
        "  make_adapters --model m.gguf --count 16 --rank 8,16,32,64 --targets all --store DIR\n",
    .part = {{&table, 0}},
};

/* ---- what is made ---- */

typedef struct target {
    const char *word, *module;
    uint32_t rows, cols;
    bool chosen;
} target;

enum { TARGETS = 7 };

typedef struct maker {
    const options *o;
    model_file *file;
    const model_spec *spec;
    adapter_store *store;
    target targets[TARGETS];
    uint32_t ranks[RANKS_MAX], rank_count;
    uint64_t bytes; /* of tensors, all adapters */
} maker;

static void set_targets(maker *m) {
    const model_spec *s = m->spec;
    uint32_t q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    const target all[TARGETS] = {{"q", "self_attn.q_proj", q, s->hidden, false},
                                 {"k", "self_attn.k_proj", kv, s->hidden, false},
                                 {"v", "self_attn.v_proj", kv, s->hidden, false},
                                 {"o", "self_attn.o_proj", s->hidden, q, false},
                                 {"gate", "mlp.gate_proj", s->intermediate, s->hidden, false},
                                 {"up", "mlp.up_proj", s->intermediate, s->hidden, false},
                                 {"down", "mlp.down_proj", s->hidden, s->intermediate, false}};
    memcpy(m->targets, all, sizeof all);
}

static bool choose(maker *m, const char *word, size_t bytes) {
    bool all = bytes == 3 && !memcmp(word, "all", 3), found = all;
    for (int i = 0; i < TARGETS; i++) {
        target *t = &m->targets[i];
        bool same = strlen(t->word) == bytes && !memcmp(t->word, word, bytes);
        t->chosen |= all || same;
        found |= same;
    }
    return found;
}

static esp_code read_targets(maker *m, esp_error *err) {
    for (const char *word = m->o->targets;;) {
        size_t bytes = strcspn(word, ",");
        if (!choose(m, word, bytes))
            return esp_fail(err, ESP_OUT_OF_RANGE,
                            "--targets is \"%s\"; wanted q, k, v, o, gate, up, down, or all",
                            m->o->targets);
        if (!word[bytes]) return ESP_OK;
        word += bytes + 1;
    }
}

static esp_code read_ranks(maker *m, esp_error *err) {
    char *end;
    for (const char *word = m->o->ranks; m->rank_count < RANKS_MAX; word = end + 1) {
        unsigned long rank = strtoul(word, &end, 10);
        if (end == word || rank == 0 || rank > RANK_MAX) break;
        m->ranks[m->rank_count++] = (uint32_t)rank;
        if (!*end) return ESP_OK;
        if (*end != ',') break;
    }
    return esp_fail(err, ESP_OUT_OF_RANGE, "--rank is \"%s\"; wanted 1 to %d ranks from 1 to %d",
                    m->o->ranks, RANKS_MAX, RANK_MAX);
}

/* ---- one adapter ---- */

/* splitmix64: a stream of random words for each adapter. */
static uint64_t next_word(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Uniform in [-most, most), cut to bf16: the upper half of a float. */
static void fill(uint8_t *out, uint64_t count, float most, uint64_t *state) {
    uint64_t word = 0;
    for (uint64_t i = 0; i < count; i++, word >>= 16) {
        if (i % 4 == 0) word = next_word(state);
        float value = (float)(int16_t)(uint16_t)word * (most / 32768.0f);
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        out[2 * i] = (uint8_t)(bits >> 16);
        out[2 * i + 1] = (uint8_t)(bits >> 24);
    }
}

typedef struct tensor_file {
    char *bytes;
    size_t count;
} tensor_file;

static void put_entry(FILE *out, uint32_t layer, const target *t, const char *piece, uint32_t rows,
                      uint32_t cols, uint64_t *at) {
    uint64_t end = *at + 2ull * rows * cols;
    fprintf(out,
            "%s\"base_model.model.model.layers.%u.%s.%s.weight\":{\"dtype\":\"BF16\",\"shape\":[%u,"
            "%u],\"data_offsets\":[%llu,%llu]}",
            *at ? "," : "", layer, t->module, piece, rows, cols, (unsigned long long)*at,
            (unsigned long long)end);
    *at = end;
}

/* The JSON header, padded to 8 bytes; *data is what follows it. */
static tensor_file make_header(const maker *m, uint32_t rank, uint64_t *data) {
    tensor_file header;
    FILE *out = open_memstream(&header.bytes, &header.count);
    ESP_ASSERT(out);
    *data = 0;
    fputc('{', out);
    for (uint32_t layer = 0; layer < m->spec->layers; layer++)
        for (int i = 0; i < TARGETS; i++) {
            const target *t = &m->targets[i];
            if (!t->chosen) continue;
            put_entry(out, layer, t, "lora_A", rank, t->cols, data);
            put_entry(out, layer, t, "lora_B", t->rows, rank, data);
        }
    fputc('}', out);
    while (ftell(out) % 8)
        fputc(' ', out);
    ESP_ASSERT(fclose(out) == 0);
    return header;
}

static void fill_all(const maker *m, uint32_t rank, uint8_t *at, uint64_t *state) {
    for (uint32_t layer = 0; layer < m->spec->layers; layer++)
        for (int i = 0; i < TARGETS; i++) {
            const target *t = &m->targets[i];
            if (!t->chosen) continue;
            uint64_t a = (uint64_t)rank * t->cols, b = (uint64_t)rank * t->rows;
            fill(at, a, sqrtf(3.0f / (float)t->cols), state);
            fill(at + 2 * a, b, m->o->strength * sqrtf(3.0f / (float)rank), state);
            at += 2 * (a + b);
        }
}

static tensor_file make_tensors(const maker *m, uint32_t rank, uint64_t state) {
    uint64_t data;
    tensor_file header = make_header(m, rank, &data), file = {.count = 8 + header.count + data};
    file.bytes = mem_new(file.count, 1);
    for (int i = 0; i < 8; i++)
        file.bytes[i] = (char)((uint64_t)header.count >> 8 * i);
    memcpy(file.bytes + 8, header.bytes, header.count);
    fill_all(m, rank, (uint8_t *)file.bytes + 8 + header.count, &state);
    free(header.bytes);
    return file;
}

static tensor_file make_config(const maker *m, uint32_t rank) {
    tensor_file config;
    FILE *out = open_memstream(&config.bytes, &config.count);
    ESP_ASSERT(out);
    fprintf(
        out,
        "{\"peft_type\": \"LORA\", \"task_type\": \"CAUSAL_LM\", \"bias\": \"none\", \"r\": %u, "
        "\"lora_alpha\": %u, \"base_model_name_or_path\": \"%s\", \"target_modules\": [",
        rank, 2 * rank, model_file_name(m->file));
    bool first = true;
    for (int i = 0; i < TARGETS; i++) {
        if (!m->targets[i].chosen) continue;
        fprintf(out, "%s\"%s\"", first ? "" : ", ", strchr(m->targets[i].module, '.') + 1);
        first = false;
    }
    fprintf(out, "]}\n");
    ESP_ASSERT(fclose(out) == 0);
    return config;
}

/* ---- into the store ---- */

static esp_code check(void *arg, const char *path, esp_error *err) {
    lora_file *file;
    esp_code code = lora_file_open(&file, path, model_file_weights(arg), err);
    lora_file_close(file);
    return code;
}

static esp_code put_file(store_stage *stage, const char *name, const tensor_file *file,
                         esp_error *err) {
    esp_code code = store_stage_file(stage, name, file->count, err);
    return code == ESP_OK ? store_stage_write(stage, file->bytes, file->count, err) : code;
}

/* The first is held against the base: the others have its shape. */
static esp_code make_one(maker *m, uint32_t index, esp_error *err) {
    char name[STORE_NAME_MAX + 1];
    snprintf(name, sizeof name, "%.100s-%04u", m->o->name, index);
    uint32_t rank = m->ranks[index % m->rank_count];
    store_import_options how = {
        .name = name, .check = index < m->rank_count ? check : NULL, .check_arg = m->file};
    store_stage *stage;
    esp_code code = store_stage_begin(m->store, &how, &stage, err);
    if (code != ESP_OK) return code;
    tensor_file config = make_config(m, rank);
    tensor_file tensors = make_tensors(m, rank, m->o->seed << 32 ^ index);
    code = put_file(stage, ADAPTER_CONFIG_FILE, &config, err);
    if (code == ESP_OK) code = put_file(stage, ADAPTER_TENSORS_FILE, &tensors, err);
    if (code == ESP_OK) code = store_stage_commit(stage, NULL, err);
    m->bytes += tensors.count;
    store_stage_close(stage);
    free(config.bytes);
    free(tensors.bytes);
    return code;
}

static esp_code make_all(maker *m, esp_error *err) {
    int64_t began = clock_now_us();
    esp_code code = read_ranks(m, err);
    if (code == ESP_OK) code = model_file_open(&m->file, m->o->model, err);
    if (code != ESP_OK) return code;
    m->spec = model_file_spec(m->file);
    set_targets(m);
    code = read_targets(m, err);
    if (code == ESP_OK)
        code = store_open(&m->store,
                          &(store_options){.root = m->o->store, .create = true, .flush_late = true},
                          err);
    for (uint32_t i = 0; code == ESP_OK && i < m->o->count; i++)
        code = make_one(m, i, err);
    if (code == ESP_OK)
        printf("{\"adapters\": %u, \"bytes_each\": %llu, \"seconds\": %.1f}\n", m->o->count,
               (unsigned long long)(m->bytes / m->o->count),
               (double)(clock_now_us() - began) * 1e-6);
    return code;
}

int main(int argc, char **argv) {
    options o = {
        .ranks = "8", .targets = "q,v", .name = "lora", .count = 8, .seed = 1, .strength = 0.05f};
    flag_values values = {{0}};
    esp_error err = {0};
    bool help = false;
    esp_code code = flags_parse(&command, argc - 1, argv + 1, &o, &values, &help, &err);
    if (help) return flags_help(&command, stdout), 0;
    maker m = {.o = &o};
    if (code == ESP_OK) code = make_all(&m, &err);
    if (code != ESP_OK) fprintf(stderr, "make_adapters: %s\n", err.message);
    store_close(m.store);
    model_file_close(m.file);
    return esp_exit_status(code);
}
