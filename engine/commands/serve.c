/* serve.c - espalier serve: one model behind its listeners until a signal says stop. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/commands/commands.h"
#include "engine/commands/progress.h"
#include "engine/config.h"

static const flag_command command = {
    .name = "serve",
    .summary =
        "Serves a model over gRPC until SIGTERM or Ctrl-C; running streams then finish first.",
    .usage = "--model PATH [options]",
    .examples =
        "  espalier serve --model m.gguf\n"
        "  espalier serve --model m.gguf --grpc 0.0.0.0:8470 --tls-cert c.pem --tls-key k.pem "
        "--token-file tokens\n"
        "  espalier serve --config serve.yaml --max-seqs 64\n"
        "  espalier serve --model m.gguf --device cuda --tp 2 --replicas 4\n",
    .config_file = true,
    .part = {{&config_model_flags, offsetof(serve_config, model)}, {&config_serve_flags, 0}},
};

#ifdef ESPALIER_SERVER
#include "engine/record/recorder.h"
#include "engine/serve/serve.h"

/* Under mpirun this process is one rank of one replica; of another rank than 0 nothing is left to serve. */
static esp_code open_replicas(replicas **out, const model_config *config, uint32_t count,
                              progress *bar, esp_error *err) {
    engine *e = NULL;
    bool apart = config_under_mpi() || config->rendezvous || config->rank_last;
    if (!apart) return replicas_open(out, config, count, progress_step, bar, err);
    esp_code code = open_engine(&e, config, progress_step, bar, err);
    if (code == ESP_OK && e) *out = replicas_around(e);
    return code;
}

static esp_code serve(const serve_config *config, esp_error *err) {
    esp_code code = config_serve_check(config, err);
    if (code == ESP_OK) code = serve_check(config, err);
    if (code == ESP_OK && config->record) code = recorder_check(config->record, err);
    if (code != ESP_OK) return code;
    replicas *all = NULL;
    model_config wanted = config->model;
    wanted.digest = config->record != NULL;
    progress bar = progress_begin("loading", "GB");
    code = open_replicas(&all, &wanted, config->replicas, &bar, err);
    progress_end(&bar);
    if (code == ESP_OK && all) code = serve_run(all, config, err);
    replicas_close(all);
    return code;
}
#else
static void serve_block_signals(void) {}

static esp_code serve(const serve_config *config, esp_error *err) {
    (void)config;
    return esp_fail(err, ESP_UNIMPLEMENTED,
                    "this build has no server; configure it with -DESPALIER_SERVER=ON");
}
#endif

esp_code command_serve(int argc, char **argv, esp_error *err) {
    serve_block_signals(); /* before any thread is made: all of them inherit the mask */
    serve_config config;
    flag_values values = {{0}};
    bool help = false;
    config_serve_defaults(&config);
    esp_code code = flags_parse(&command, argc, argv, &config, &values, &help, err);
    if (help)
        flags_help(&command, stdout);
    else if (code == ESP_OK)
        code = serve(&config, err);
    flag_values_free(&values);
    return code;
}
