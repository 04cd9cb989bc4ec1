/* config.c - the options of models and of the server, one row each. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/config.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/pool.h"

static const flag_choice devices[] = {
    {.word = "auto", .value = DEVICE_AUTO},
    {.word = "ref", .value = DEVICE_REF},
    {.word = "cpu", .value = DEVICE_CPU},
    {.word = "cpu:avx2", .value = DEVICE_CPU, .also = LEVEL_AVX2},
    {.word = "cpu:avx512", .value = DEVICE_CPU, .also = LEVEL_AVX512},
    {.word = "cpu:amx", .value = DEVICE_CPU, .also = LEVEL_AMX},
    {.word = "cuda", .value = DEVICE_CUDA},
    {.word = "cuda:", .value = DEVICE_CUDA},
    {0},
};

static const flag_choice kv_dtypes[] = {
    {.word = "bf16", .value = DT_BF16},
    {.word = "f32", .value = DT_F32},
    {.word = "int8", .value = DT_KV_INT8},
    {0},
};

static const flag_choice activations[] = {
    {.word = "bf16", .value = ACT_BF16},
    {.word = "int8", .value = ACT_INT8},
    {0},
};

static const flag_choice quantize_dtypes[] = {
    {.word = "q8_0", .value = DT_Q8_0},
    {.word = "q4_k", .value = DT_Q4_K},
    {0},
};

#define MODEL_FIELD(field) .offset = offsetof(model_config, field)

static const flag file_flags[] = {
    {.name = "model",
     .kind = FLAG_TEXT,
     MODEL_FIELD(model_path),
     .placeholder = "PATH",
     .required = true,
     .help = "the model: a GGUF file or a Hugging Face folder"},
};
const flag_table config_file_flags = {
    .title = "Model", .flags = file_flags, .count = sizeof file_flags / sizeof *file_flags};

static const flag model_flags[] = {
    {.name = "model",
     .kind = FLAG_TEXT,
     MODEL_FIELD(model_path),
     .placeholder = "PATH",
     .required = true,
     .help = "the model: a GGUF file or a Hugging Face folder"},
    {.name = "device",
     .kind = FLAG_CHOICE,
     MODEL_FIELD(device),
     .also_offset = offsetof(model_config, level),
     .number_offset = offsetof(model_config, device_index),
     .most = LIMIT_DEVICES_MAX - 1,
     .choices = devices,
     .placeholder = "NAME",
     .help =
         "auto, ref, cpu, cpu:avx2, cpu:avx512, cpu:amx, cuda or cuda:N; ref is plain float32, "
         "slow "
         "and exact; default auto: cuda where there is a device, else the best the processor has"},
    {.name = "threads",
     .kind = FLAG_U32,
     MODEL_FIELD(threads),
     .most = POOL_THREADS_MAX,
     .placeholder = "N",
     .help = "worker threads; default: one for each core this process may use. Answers do not "
             "depend on it"},
    {.name = "kv-dtype",
     .kind = FLAG_CHOICE,
     MODEL_FIELD(kv_dtype),
     .given_offset = offsetof(model_config, kv_dtype_given),
     .choices = kv_dtypes,
     .placeholder = "TYPE",
     .help = "bf16, f32 (cpu) or int8 (cuda: a byte an element and a scale a token and head, half "
             "the memory), how keys and values are kept; default bf16. ref: f32 or int8"},
    {.name = "kv-memory",
     .kind = FLAG_BYTES,
     MODEL_FIELD(kv_memory),
     .placeholder = "BYTES",
     .help = "memory for keys and values, as in 512M or 4G; default: what --max-seqs sequences of "
             "2,048 tokens need, at most a quarter of the available memory; on cuda what "
             "--gpu-memory-utilization leaves"},
    {.name = "max-seqs",
     .kind = FLAG_U32,
     MODEL_FIELD(max_seqs),
     .most = LIMIT_MAX_SEQS_MAX,
     .placeholder = "N",
     .help = "most sequences computed together; default 256"},
    {.name = "max-context",
     .kind = FLAG_U32,
     MODEL_FIELD(max_context),
     .most = LIMIT_CONTEXT_MAX,
     .placeholder = "N",
     .help = "most tokens of one sequence, prompt and answer; default: the model's, at most 8,192"},
    {.name = "step-tokens",
     .kind = FLAG_U32,
     MODEL_FIELD(step_tokens),
     .most = LIMIT_STEP_TOKENS_MAX,
     .placeholder = "N",
     .help = "most tokens computed in one step; default 512, on cuda 2,048, or what the longest "
             "text of an encoder has"},
    {.name = "prefill-chunk",
     .kind = FLAG_U32,
     MODEL_FIELD(prefill_chunk),
     .most = LIMIT_STEP_TOKENS_MAX,
     .placeholder = "N",
     .help = "most tokens of prompts in a step that extends answers, too: fewer, and answers come "
             "more evenly; more, and prompts are done sooner; default 384 with AMX, 192 on other "
             "processors, on cuda --step-tokens"},
    {.name = "activations",
     .kind = FLAG_CHOICE,
     MODEL_FIELD(activations),
     .choices = activations,
     .placeholder = "TYPE",
     .help = "bf16 or int8, what a layer's inputs are rounded to on cpu before they meet quantised "
             "weights; default bf16, the exact one"},
    {.name = "quantize",
     .kind = FLAG_CHOICE,
     MODEL_FIELD(quantize),
     .given_offset = offsetof(model_config, quantize_given),
     .choices = quantize_dtypes,
     .placeholder = "TYPE",
     .help = "q8_0 or q4_k, what 16- and 32-bit matrices become; the result is kept (--pack)"},
    {.name = "pack",
     .kind = FLAG_TEXT,
     MODEL_FIELD(pack),
     .placeholder = "auto|off|DIR",
     .help =
         "packed weights in a file that the next start maps: auto beside the model, used by all "
         "commands and written by serve where packing took half a second, or with --quantize; "
         "off; or always, in DIR; default auto"},
    {.name = "adapter",
     .kind = FLAG_LIST,
     MODEL_FIELD(adapters),
     .placeholder = "[NAME=]DIR",
     .help = "a LoRA adapter of this model, a PEFT folder or a GGUF file, and what it is called; "
             "default: the folder's name; serve, bench and replay take any number"},
    {.name = "adapter-store",
     .kind = FLAG_TEXT,
     MODEL_FIELD(adapter_store),
     .placeholder = "DIR",
     .help = "adapters imported by espalier adapter, found by name when they are asked for"},
    {.name = "allow-other-base",
     .kind = FLAG_SWITCH,
     MODEL_FIELD(allow_other_base),
     .help = "take adapters, too, that were trained on a model of another name than this one's"},
    {.name = "adapter-memory",
     .kind = FLAG_BYTES,
     MODEL_FIELD(adapter_memory),
     .placeholder = "BYTES",
     .help = "memory for packed adapters beside those in use, as in 512M or 4G; default: a tenth "
             "of what is available, at most 4G"},
    {.name = "tp",
     .kind = FLAG_U32,
     MODEL_FIELD(tp),
     .most = COMM_RANKS_MAX,
     .placeholder = "N",
     .help = "ranks that share the model, each with a part of its weights (tensor parallel); "
             "default 1; under mpirun one for each process, or a multiple"},
    {.name = "rendezvous",
     .kind = FLAG_TEXT,
     MODEL_FIELD(rendezvous),
     .placeholder = "HOST:PORT",
     .help =
         "where the ranks of --tp meet that are processes of one or several hosts: an address of "
         "rank 0's, in a private network; each has its own --rank"},
    {.name = "rank",
     .kind = FLAG_SPAN,
     MODEL_FIELD(rank),
     .number_offset = offsetof(model_config, rank_last),
     .most = COMM_RANKS_MAX - 1,
     .placeholder = "R|R-R",
     .help =
         "with --rendezvous, which of the --tp N ranks this process is, from 0: one, or as many "
         "as in each other process, as in 4-7, on a GPU each; default 0"},
    {.name = "rank-patience",
     .kind = FLAG_F32,
     MODEL_FIELD(rank_patience_seconds),
     .least = 0.1,
     .most = 86400,
     .placeholder = "SECONDS",
     .help = "how long ranks that compute wait for each other; who is silent for longer ends the "
             "replica; more where they share a busy machine, though health tells of a step of over "
             "10 seconds; default 5"},
    {.name = "gpu-memory-utilization",
     .kind = FLAG_F32,
     MODEL_FIELD(gpu_memory_utilization),
     .least = 0.01,
     .most = 1,
     .placeholder = "F",
     .help =
         "on cuda, the part of the device's memory that may be full, others' use included: keys "
         "and values get what weights and workspace leave of it; default 0.9"},
};
const flag_table config_model_flags = {.title = "Model and device",
                                       .flags = model_flags,
                                       .count = sizeof model_flags / sizeof *model_flags};

#define SERVE_FIELD(field) .offset = offsetof(serve_config, field)

static const flag serve_flags[] = {
    {.name = "name",
     .kind = FLAG_TEXT,
     SERVE_FIELD(model.name),
     .placeholder = "NAME",
     .help = "what clients call the model; default: the file's name without .gguf"},
    {.name = "grpc",
     .kind = FLAG_TEXT,
     SERVE_FIELD(grpc),
     .placeholder = "HOST:PORT",
     .help = "gRPC listener; default 127.0.0.1:8470"},
    {.name = "http",
     .kind = FLAG_TEXT,
     SERVE_FIELD(http),
     .placeholder = "HOST:PORT",
     .help = "listener of /metrics, /healthz and /readyz, or \"off\"; default 127.0.0.1:8471"},
    {.name = "tls-cert",
     .kind = FLAG_TEXT,
     SERVE_FIELD(tls_cert),
     .placeholder = "FILE",
     .help = "certificate chain, PEM; with --tls-key"},
    {.name = "tls-key",
     .kind = FLAG_TEXT,
     SERVE_FIELD(tls_key),
     .placeholder = "FILE",
     .help = "its private key, PEM"},
    {.name = "client-ca",
     .kind = FLAG_TEXT,
     SERVE_FIELD(client_ca),
     .placeholder = "FILE",
     .help = "clients must show a certificate signed by one of these roots, PEM"},
    {.name = "token-file",
     .kind = FLAG_TEXT,
     SERVE_FIELD(token_file),
     .placeholder = "FILE",
     .help = "clients must show one of these bearer tokens, one a line"},
    {.name = "control",
     .kind = FLAG_TEXT,
     SERVE_FIELD(control),
     .placeholder = "HOST:PORT",
     .help =
         "gRPC listener of the Control service, which loads, lists and unloads adapters; default: "
         "none"},
    {.name = "control-token-file",
     .kind = FLAG_TEXT,
     SERVE_FIELD(control_token_file),
     .placeholder = "FILE",
     .help = "who manages adapters must show one of these bearer tokens, one a line"},
    {.name = "http-adapters",
     .kind = FLAG_SWITCH,
     SERVE_FIELD(http_adapters),
     .help = "the HTTP listener takes POST /v1/load_lora_adapter and /v1/unload_lora_adapter"},
    {.name = "record",
     .kind = FLAG_TEXT,
     SERVE_FIELD(record),
     .placeholder = "FILE",
     .help = "append each finished request to this file, one JSON object a line, for espalier "
             "replay; it holds token ids of clients, so only its owner may read it"},
    {.name = "insecure",
     .kind = FLAG_SWITCH,
     SERVE_FIELD(insecure),
     .help = "allow a listener that other machines reach without TLS"},
    {.name = "grace",
     .kind = FLAG_U32,
     SERVE_FIELD(grace_seconds),
     .most = 86400,
     .placeholder = "SECONDS",
     .help = "how long running streams may go on after SIGTERM; default 30"},
    {.name = "max-waiting",
     .kind = FLAG_U32,
     SERVE_FIELD(model.waiting_max),
     .most = 1 << 20,
     .placeholder = "N",
     .help = "most requests in queue; one more is refused at once; default 1,024"},
    {.name = "slow-reader-bytes",
     .kind = FLAG_U32,
     SERVE_FIELD(slow_reader_bytes),
     .least = 4096,
     .most = 2 << 20, /* a message of it stays below the 4 MiB that clients take by default */
     .placeholder = "BYTES",
     .help = "a stream with more unsent text than this is cut; default 262144"},
    {.name = "replicas",
     .kind = FLAG_U32,
     SERVE_FIELD(replicas),
     .most = LIMIT_REPLICAS_MAX,
     .placeholder = "N",
     .help = "copies of the model, each with --tp ranks, that share the requests (data parallel); "
             "default 1"},
};
const flag_table config_serve_flags = {
    .title = "Server", .flags = serve_flags, .count = sizeof serve_flags / sizeof *serve_flags};

void config_serve_defaults(serve_config *config) {
    *config = (serve_config){.model.serves = true,
                             .grpc = "127.0.0.1:8470",
                             .http = "127.0.0.1:8471",
                             .grace_seconds = 30,
                             .slow_reader_bytes = 256 << 10};
}

esp_code config_serve_check(const serve_config *c, esp_error *err) {
    if (!c->tls_cert != !c->tls_key)
        return esp_fail_field(err, ESP_OUT_OF_RANGE, c->tls_cert ? "--tls-key" : "--tls-cert",
                              "--tls-cert and --tls-key go together; %s is missing",
                              c->tls_cert ? "--tls-key" : "--tls-cert");
    if ((c->control || c->http_adapters) && c->token_file && !c->control_token_file)
        return esp_fail_field(err, ESP_OUT_OF_RANGE, "--control-token-file",
                              "--control-token-file is missing: with --token-file, who manages "
                              "adapters must show a token too");
    if (c->control_token_file && !c->control && !c->http_adapters)
        return esp_fail_field(err, ESP_OUT_OF_RANGE, "--control-token-file",
                              "--control-token-file needs --control or --http-adapters");
    if (c->http_adapters && c->http && !strcmp(c->http, "off"))
        return esp_fail_field(err, ESP_OUT_OF_RANGE, "--http-adapters",
                              "--http-adapters needs the HTTP listener: give --http HOST:PORT");
    if (c->client_ca && !c->tls_cert)
        return esp_fail_field(err, ESP_OUT_OF_RANGE, "--client-ca",
                              "--client-ca needs TLS: give --tls-cert and --tls-key too");
    return config_replicas_check(&c->model, c->replicas, err);
}

esp_code config_replicas_check(const model_config *c, uint32_t replicas, esp_error *err) {
    if (replicas <= 1 || (!config_under_mpi() && !c->rendezvous)) return ESP_OK;
    return esp_fail_field(err, ESP_OUT_OF_RANGE, "--replicas",
                          "--replicas %u does not go with %s: its processes are the ranks of one "
                          "replica; start one for each replica",
                          replicas, c->rendezvous ? "--rendezvous" : "mpirun");
}

/* What a name may hold; everything else becomes '-'. */
static char name_char(char c) {
    if (c >= 'A' && c <= 'Z') return (char)(c - 'A' + 'a');
    bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_';
    return plain ? c : '-';
}

/* "some/Folder/" -> "folder". */
static void name_of_path(const char *path, char name[CONFIG_ADAPTER_NAME_BYTES]) {
    size_t end = strlen(path), begin, used = 0;
    while (end > 1 && path[end - 1] == '/')
        end--;
    for (begin = end; begin > 0 && path[begin - 1] != '/';)
        begin--;
    while (begin < end && (name_char(path[begin]) == '-' || path[begin] == '.'))
        begin++;
    for (; begin < end && used < CONFIG_ADAPTER_NAME_BYTES - 1; begin++)
        name[used++] = name_char(path[begin]);
    while (used > 0 && (name[used - 1] == '.' || name[used - 1] == '-'))
        used--;
    name[used] = 0;
    if (!used) snprintf(name, CONFIG_ADAPTER_NAME_BYTES, "adapter");
}

esp_code config_adapter(const char *text, char name[CONFIG_ADAPTER_NAME_BYTES], const char **path,
                        esp_error *err) {
    const char *equals = strchr(text, '='), *slash = strchr(text, '/');
    bool named = equals && (!slash || equals < slash); /* "./a=b" is a path */
    size_t bytes = named ? (size_t)(equals - text) : 0;
    *path = named ? equals + 1 : text;
    if (!**path || (named && (bytes == 0 || bytes >= CONFIG_ADAPTER_NAME_BYTES)))
        return esp_fail_field(err, ESP_OUT_OF_RANGE, "--adapter",
                              "--adapter \"%.150s\": wanted NAME=DIR, NAME of 1 to %d bytes", text,
                              CONFIG_ADAPTER_NAME_BYTES - 1);
    if (named)
        snprintf(name, CONFIG_ADAPTER_NAME_BYTES, "%.*s", (int)bytes, text);
    else
        name_of_path(text, name);
    return ESP_OK;
}

/* $variable/tail, or else $HOME/otherwise/tail. */
static const char *user_folder(char *out, size_t bytes, const char *variable, const char *otherwise,
                               const char *tail) {
    const char *folder = getenv(variable), *home = getenv("HOME");
    int used = -1;
    if (folder && folder[0] == '/')
        used = snprintf(out, bytes, "%s/%s", folder, tail);
    else if (home && home[0] == '/')
        used = snprintf(out, bytes, "%s/%s/%s", home, otherwise, tail);
    return used > 0 && (size_t)used < bytes ? out : NULL;
}

const char *config_cache_folder(char *out, size_t bytes) {
    return user_folder(out, bytes, "XDG_CACHE_HOME", ".cache", "espalier");
}

const char *config_adapter_store(char *out, size_t bytes) {
    return user_folder(out, bytes, "XDG_DATA_HOME", ".local/share", "espalier/adapters");
}

/* Open MPI's name of how many there are, and that of MPICH and its kin. */
bool config_under_mpi(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *size = getenv(names[i]);
        if (size && strtoul(size, NULL, 10) > 1) return true;
    }
    return false;
}
