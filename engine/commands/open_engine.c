/* open_engine.c - a command's engine, alone or as one of the ranks that mpirun started. */
// SPDX-License-Identifier: Apache-2.0
#include "cluster/comm_mpi.h"
#include "engine/commands/commands.h"

/* The engine closes the comm. */
static esp_code join_mpi(model_config *c, esp_error *err) {
    uint32_t wanted = c->tp;
    esp_code code = comm_mpi_open(&c->comm, err);
    if (code != ESP_OK) return code;
    c->closes_comm = true;
    if (wanted && wanted != c->comm->size) {
        code =
            esp_fail_field(err, ESP_OUT_OF_RANGE, "--tp",
                           "--tp %u: mpirun started %u ranks; leave --tp away or make them equal",
                           wanted, c->comm->size);
        comm_close(c->comm);
    }
    return code;
}

esp_code open_engine(engine **out, const model_config *config,
                     void (*progress)(void *, uint64_t, uint64_t), void *progress_arg,
                     esp_error *err) {
    model_config c = *config;
    *out = NULL;
    esp_code code = config_under_mpi() ? join_mpi(&c, err) : ESP_OK;
    if (code != ESP_OK) return code;
    bool follows = c.comm && c.comm->rank > 0;
    if (follows) progress = NULL;
    code = engine_open(out, &c, progress, progress_arg, err);
    if (code != ESP_OK || !follows) return code;
    code = engine_follow(*out, err);
    engine_close(*out);
    *out = NULL;
    return code;
}
