/* config.h - every option and limit, parsed and validated once, in one place (config.c).
 *
 * Order of strength: flag, then --config FILE (YAML, the flags' names without dashes), then
 * default. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CONFIG_H
#define ESPALIER_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "cluster/comm.h"
#include "engine/base/quant.h"
#include "engine/base/status.h"
#include "engine/flags.h"
#include "kernels/kernels.h"

/* Limits that no flag moves. */
enum {
    LIMIT_REQUEST_BYTES_MAX = 4 << 20,  /* one gRPC request message */
    LIMIT_LOGPROB_BYTES_MAX = 16 << 20, /* alternatives kept for one request */
    LIMIT_WAITING_DEFAULT = 1024,       /* requests in queue */
    LIMIT_MAX_SEQS_MAX = 4096,
    LIMIT_CONTEXT_MAX = 1 << 20,
    LIMIT_STEP_TOKENS_MAX = 65536,
    LIMIT_DEVICES_MAX = 64, /* of one kind in a machine */
    LIMIT_REPLICAS_MAX = 64,
};

typedef enum device_kind { DEVICE_AUTO, DEVICE_REF, DEVICE_CPU, DEVICE_CUDA } device_kind;

/* What every model command takes. Zero means the default. Strings are borrowed. */
typedef struct model_config {
    const char *model_path; /* --model */
    const char *name;       /* --name; default: file name without .gguf */
    device_kind device;     /* --device auto|ref|cpu[:avx2|:avx512|:amx]|cuda[:N] */
    kern_level level;
    uint32_t device_index;        /* N of cuda:N */
    float gpu_memory_utilization; /* --gpu-memory-utilization; 0: 0.9 */
    /* --kv-dtype bf16|f32|int8; read only if kv_dtype_given, else bf16; ref: f32 */
    esp_dtype kv_dtype;
    bool kv_dtype_given;
    kern_activations activations; /* --activations bf16|int8 */
    esp_dtype quantize;           /* --quantize q8_0|q4_k; read only if quantize_given */
    bool quantize_given;
    const char *pack;     /* --pack auto|off|DIR; NULL: auto */
    uint32_t threads;     /* --threads; 0: all this process may use */
    /* --kv-memory bytes; 0: min(25% of available, max_seqs x 2,048 tokens), cuda: what is left */
    uint64_t kv_memory;
    uint32_t max_seqs;    /* --max-seqs; 0: 256 */
    uint32_t max_context; /* --max-context; 0: min(the model's, 8,192) */
    uint32_t step_tokens; /* --step-tokens; 0: 512, cuda: 2,048 */
    /* --prefill-chunk; 0: 384 with tiles, 192 without, cuda: what answers leave of step_tokens */
    uint32_t prefill_chunk;
    uint32_t waiting_max; /* --max-waiting; 0: LIMIT_WAITING_DEFAULT */
    uint32_t tp;          /* --tp; 0: 1 */
    const char *rendezvous; /* --rendezvous HOST:PORT; NULL: none */
    uint32_t rank, rank_last; /* --rank, with it: those of this process */
    float rank_patience_seconds; /* --rank-patience; 0: COMM_PATIENCE_US */
    flag_list adapters;   /* --adapter: "DIR" or "NAME=DIR" each */
    const char *adapter_store; /* --adapter-store DIR; NULL: none */
    bool allow_other_base; /* --allow-other-base: an adapter of another base's name is taken, too */
    uint64_t adapter_memory;   /* --adapter-memory; 0: min(10% of available, 4 GiB) */
    bool serves;               /* lives on behind its start, as `serve` does */
    bool keep_pages;           /* tests and benches: pages behind a window are not freed */
    struct op_timer *op_timer; /* benches: times every op (kernels/op_timer.h); NULL: none */
    bool digest;               /* the model's digest is computed while it opens: engine_digest */
    const kern_ops *ops;       /* tests: a table instead of the device's; NULL: the device's */
    bool no_replay;            /* tests, benches: every step calls its ops (kern_options) */
    bool no_lead;     /* tests, benches: each step is collected before the next is planned */
    comm *comm;       /* one of tp started ranks; NULL: engine_open starts the others */
    uint32_t local_ranks; /* > 1: comm's are processes of so many ranks, which engine_open starts */
    bool closes_comm;     /* the engine does, at its end */
    /* One of several engines of this process (replicas.h), which share the host's memory. */
    uint32_t replica, replicas; /* the replica-th of so many; 0: 1 */
    const uint32_t *gpus;       /* [tp] the CUDA device of each rank; NULL: from device_index on */
    uint32_t page_count;        /* exactly so many; 0: what --kv-memory says */
} model_config;

/* What `serve` takes besides. */
typedef struct serve_config {
    model_config model;
    uint32_t replicas;                          /* --replicas; 0: 1 */
    const char *grpc;                           /* --grpc, default 127.0.0.1:8470 */
    const char *http;                           /* --http, default 127.0.0.1:8471; "off" for none */
    const char *tls_cert, *tls_key, *client_ca; /* PEM files */
    const char *token_file;                     /* one bearer token a line */
    const char *record;                         /* --record: finished requests; or NULL */
    const char *control;            /* --control: listener of the Control service; NULL: none */
    const char *control_token_file; /* its tokens; also those of --http-adapters */
    bool http_adapters;             /* --http serves the two routes that load and unload adapters */
    bool insecure;                  /* allow a non-loopback address without TLS */
    uint32_t grace_seconds;     /* --grace, default 30: how long streams may finish on SIGTERM */
    uint32_t slow_reader_bytes; /* --slow-reader-bytes, default 256 KiB unsent before a cut */
} serve_config;

/* The user's folder for things that can be made again (XDG base directories), or NULL when the
 * environment names none. out has room for bytes. */
const char *config_cache_folder(char *out, size_t bytes);
/* The same for the store of adapters (adapters/store.h), which cannot. */
const char *config_adapter_store(char *out, size_t bytes);

/* Whether mpirun started this process beside others. */
bool config_under_mpi(void);
/* ESP_OUT_OF_RANGE: so many replicas do not go with processes that are the ranks of one. */
ESP_CHECKED esp_code config_replicas_check(const model_config *config, uint32_t replicas,
                                           esp_error *err);

/* A value of --adapter: where the adapter lies (in text), and its name: what stands before "=", or else
 * made of the last part of the path. ESP_OUT_OF_RANGE when one of them is empty. */
enum { CONFIG_ADAPTER_NAME_BYTES = 129 };
ESP_CHECKED esp_code config_adapter(const char *text, char name[CONFIG_ADAPTER_NAME_BYTES],
                                    const char **path, esp_error *err);

/* --model alone, for commands that read the file but compute nothing. Of a model_config. */
extern const flag_table config_file_flags;
/* --model, --device and the sizes of an engine. Of a model_config. */
extern const flag_table config_model_flags;
/* What `espalier serve` takes besides. Of a serve_config. */
extern const flag_table config_serve_flags;

void config_serve_defaults(serve_config *config);

/* What one option alone cannot know: TLS files come in pairs. (Addresses are the server's to
 * judge.) */
ESP_CHECKED esp_code config_serve_check(const serve_config *config, esp_error *err);

#endif
