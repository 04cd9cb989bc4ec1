/* bench_lora_kernels.c - the linears of one model shape with and without low-rank updates; one JSON row each case.
 *
 *   bench_lora_kernels [avx2|avx512|amx][:int8] [THREADS] [smollm2|llama1b] [PART OF A CASE'S NAME]
 *
 * smollm2: SmolLM2-135M in Q4_1 with a Q8_0 output matrix; llama1b: eight layers of Llama-3.2-1B's shape in bf16. Every
 * layer and adapter has matrices of its own, so that they come from where they come from in a real step. A pass is all
 * layers and the head; passes with and without updates take turns. us: the least of the passes; of_base: base's over
 * updated's; pack_mb_per_s: packed bytes, by one thread. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>

#include "engine/base/clock.h"
#include "tests/unit/kernel_lab.h"

enum { LAYERS_MAX = 30, LINEARS = 4, ADAPTERS_MAX = 16, TOKENS_MAX = 512, PIECE_MAX = 1 << 16 };
static const int64_t MEASURE_NS = 800000000;

typedef struct linear_shape {
    esp_dtype dtype;
    uint32_t rows[LINEAR_MATRICES_MAX], matrices, cols;
    kern_epilogue epilogue;
} linear_shape;

typedef struct model_shape {
    const char *name;
    uint32_t layers;
    linear_shape linear[LINEARS], head;
} model_shape;

static const model_shape models[] = {
    {"smollm2",
     30,
     {{DT_Q4_1, {576, 192, 192}, 3, 576, EPI_STORE},
      {DT_Q4_1, {576}, 1, 576, EPI_RESIDUAL},
      {DT_Q4_1, {1536, 1536}, 2, 576, EPI_SILU_MUL},
      {DT_Q4_1, {576}, 1, 1536, EPI_RESIDUAL}},
     {DT_Q8_0, {49152}, 1, 576, EPI_STORE}},
    {"llama1b",
     8,
     {{DT_BF16, {2048, 512, 512}, 3, 2048, EPI_STORE},
      {DT_BF16, {2048}, 1, 2048, EPI_RESIDUAL},
      {DT_BF16, {8192, 8192}, 2, 2048, EPI_SILU_MUL},
      {DT_BF16, {2048}, 1, 8192, EPI_RESIDUAL}},
     {DT_BF16, {64128}, 1, 2048, EPI_STORE}},
};

/* What is measured: adapters over equal shares of the tokens; ranks in turn. */
typedef struct lora_mix {
    const char *name;
    uint32_t tokens, adapters, ranks[4];
} lora_mix;

static const lora_mix mixes[] = {
    {"decode 16, 8 adapters r16", 16, 8, {16, 16, 16, 16}},
    {"decode 16, 16 adapters r8-64", 16, 16, {8, 16, 32, 64}},
    {"decode 1, 1 adapter r16", 1, 1, {16, 16, 16, 16}},
    {"prefill 512, 1 adapter r16", 512, 1, {16, 16, 16, 16}},
};
enum { MIXES = sizeof mixes / sizeof mixes[0] };

typedef struct model {
    const model_shape *shape;
    kern_linear ops[LAYERS_MAX][LINEARS], head;
    void *in, *out;
    size_t out_bytes;
} model;

static kern_linear linear_of(const lab *l, const model *m, const linear_shape *s, uint64_t seed) {
    kern_linear op = {
        .in = m->in, .out = m->out, .epilogue = s->epilogue, .matrix_count = s->matrices};
    for (uint32_t k = 0; k < s->matrices; k++) {
        esp_error err = {0};
        kern_matrix *matrix = NULL;
        uint8_t *blocks = lab_blocks(s->dtype, s->rows[k], s->cols, seed + k);
        kern_matrix_desc desc = {
            .dtype = s->dtype, .rows = s->rows[k], .cols = s->cols, .data = blocks};
        esp_code code = l->ops->pack(l->dev, &desc, &matrix, &err);
        ESP_ASSERT(code == ESP_OK);
        free(blocks);
        op.matrix[k] = matrix;
    }
    return op;
}

static void build(const lab *l, model *m, const model_shape *shape) {
    *m = (model){.shape = shape};
    m->in = lab_upload_random(l, KIND_ACT, 1, (size_t)TOKENS_MAX * 8192);
    m->out_bytes = (size_t)TOKENS_MAX * 65536 * sizeof(float);
    m->out = lab_alloc(l, m->out_bytes);
    for (uint32_t layer = 0; layer < shape->layers; layer++)
        for (uint32_t i = 0; i < LINEARS; i++)
            m->ops[layer][i] = linear_of(l, m, &shape->linear[i], layer * 16 + i * 4);
    m->head = linear_of(l, m, &shape->head, 999);
}

static void drop_linear(const lab *l, const kern_linear *op) {
    for (uint32_t k = 0; k < op->matrix_count; k++)
        l->ops->matrix_close(l->dev, (kern_matrix *)op->matrix[k]);
}

static void drop(const lab *l, const model *m) {
    for (uint32_t layer = 0; layer < m->shape->layers; layer++)
        for (uint32_t i = 0; i < LINEARS; i++)
            drop_linear(l, &m->ops[layer][i]);
    drop_linear(l, &m->head);
    lab_release(l, KIND_ACT, m->in, (size_t)TOKENS_MAX * 8192);
    l->ops->release(l->dev, m->out, m->out_bytes);
}

/* --- adapters ------------------------------------------------------------------------------- */

/* Pieces one behind the other, as frames of an arena have them. */
typedef struct piece_room {
    char *memory;
    size_t bytes, used;
} piece_room;

typedef struct adapter_set {
    kern_lora lora[LAYERS_MAX][LINEARS];
} adapter_set;

static void *const *place(const lab *l, const kern_lora_desc *desc, piece_room *room) {
    uint32_t count = l->ops->lora_pieces(l->dev, desc, PIECE_MAX, NULL);
    size_t *bytes = mem_new(count, sizeof *bytes);
    void **pieces = mem_new(count, sizeof *pieces);
    l->ops->lora_pieces(l->dev, desc, PIECE_MAX, bytes);
    for (uint32_t i = 0; i < count; i++) {
        pieces[i] = room->memory + room->used;
        room->used += (bytes[i] + 63) / 64 * 64;
    }
    ESP_ASSERT(room->used <= room->bytes);
    free(bytes);
    return pieces;
}

static void take_adapter(const lab *l, const model_shape *shape, uint32_t rank, const float *noise,
                         piece_room *room, adapter_set *out) {
    for (uint32_t layer = 0; layer < shape->layers; layer++)
        for (uint32_t i = 0; i < LINEARS; i++) {
            const linear_shape *s = &shape->linear[i];
            kern_lora_desc desc = {.cols = s->cols, .part_count = s->matrices};
            for (uint32_t k = 0; k < s->matrices; k++)
                desc.part[k] = (kern_lora_part){.rank = rank,
                                                .rows = s->rows[k],
                                                .scale = 1,
                                                .a = noise + layer + k,
                                                .b = noise + layer + k + 7};
            void *const *pieces = place(l, &desc, room);
            l->ops->lora_pack(l->dev, &desc, PIECE_MAX, pieces);
            out->lora[layer][i] = kern_lora_of(&desc, PIECE_MAX, pieces);
        }
}

static void drop_adapter(const model_shape *shape, adapter_set *set) {
    for (uint32_t layer = 0; layer < shape->layers; layer++)
        for (uint32_t i = 0; i < LINEARS; i++)
            free((void *)set->lora[layer][i].pieces);
}

/* --- measuring ------------------------------------------------------------------------------ */

/* Which update of linear i of a layer each token has; returns how many segments. */
static uint32_t segments_of(const model *m, const lora_mix *mix, const adapter_set *adapters,
                            uint32_t layer, uint32_t i, kern_lora_segment *out) {
    if (layer == m->shape->layers) return 0;
    for (uint32_t a = 0; a < mix->adapters; a++)
        out[a] = (kern_lora_segment){.first = mix->tokens * a / mix->adapters,
                                     .count = mix->tokens / mix->adapters,
                                     .lora = &adapters[a].lora[layer][i]};
    return mix->adapters;
}

/* One pass, in microseconds. */
static double pass(const lab *l, const model *m, const lora_mix *mix, const adapter_set *adapters,
                   bool updated) {
    int64_t begin = clock_now_ns();
    kern_lora_segment segments[2][ADAPTERS_MAX];
    for (uint32_t layer = 0; layer < m->shape->layers; layer++)
        for (uint32_t i = 0; i < LINEARS; i++) {
            kern_linear op = m->ops[layer][i];
            op.token_count = mix->tokens;
            op.lora = segments[0];
            op.lora_next = segments[1];
            if (updated) {
                op.lora_count = segments_of(m, mix, adapters, layer, i, segments[0]);
                op.lora_next_count = segments_of(m, mix, adapters, layer + (i + 1) / LINEARS,
                                                 (i + 1) % LINEARS, segments[1]);
            }
            l->ops->linear(l->dev, &op);
        }
    kern_linear head = m->head;
    head.token_count = mix->tokens > 64 ? 1 : mix->tokens; /* a prefill asks for one row */
    l->ops->linear(l->dev, &head);
    return (double)(clock_now_ns() - begin) / 1e3;
}

static void measure(const lab *l, const model *m, const lora_mix *mix, const float *noise) {
    static adapter_set adapters[ADAPTERS_MAX];
    piece_room room = {.bytes = (size_t)3 << 30};
    room.memory = mem_map(room.bytes);
    ESP_ASSERT(room.memory);
    int64_t packing = clock_now_ns();
    for (uint32_t a = 0; a < mix->adapters; a++)
        take_adapter(l, m->shape, mix->ranks[a % 4], noise, &room, &adapters[a]);
    packing = clock_now_ns() - packing;
    double base = 1e12, updated = 1e12;
    int64_t begin = clock_now_ns();
    for (uint32_t n = 0; n < 5 || clock_now_ns() - begin < MEASURE_NS; n++) {
        double without = pass(l, m, mix, adapters, false), with = pass(l, m, mix, adapters, true);
        if (without < base) base = without;
        if (with < updated) updated = with;
    }
    printf("{\"bench\":\"lora_kernels\",\"device\":\"%s\",\"threads\":%u,\"model\":\"%s\","
           "\"case\":\"%s\",\"adapter_mb\":%.1f,\"us\":%.1f,\"base_us\":%.1f,\"of_base\":%.3f,"
           "\"pack_mb_per_s\":%.0f}\n",
           l->ops->profile(l->dev), pool_threads(l->pool), m->shape->name, mix->name,
           (double)room.used / 1e6, updated, base, base / updated,
           (double)room.used * 1e3 / (double)packing);
    fflush(stdout);
    for (uint32_t a = 0; a < mix->adapters; a++)
        drop_adapter(m->shape, &adapters[a]);
    mem_unmap(room.memory, room.bytes);
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "auto";
    kern_level level = strncmp(name, "avx2", 4) == 0     ? LEVEL_AVX2
                       : strncmp(name, "avx512", 6) == 0 ? LEVEL_AVX512
                       : strncmp(name, "amx", 3) == 0    ? LEVEL_AMX
                                                         : LEVEL_AUTO;
    lab l = lab_open_for(strstr(name, ":int8") ? ACT_INT8 : ACT_BF16, &kern_cpu, level, DT_BF16,
                         argc > 2 ? (uint32_t)atoi(argv[2]) : 0);
    const model_shape *shape = &models[argc > 3 && strcmp(argv[3], "llama1b") == 0];
    float *noise = lab_random(5, (size_t)64 * 8192 + 64);
    static model m;
    build(&l, &m, shape);
    for (uint32_t i = 0; i < MIXES; i++)
        if (argc <= 4 || strstr(mixes[i].name, argv[4])) measure(&l, &m, &mixes[i], noise);
    drop(&l, &m);
    free(noise);
    lab_close(&l);
    return 0;
}
