/* open_engine.c - a command's engine, alone or as one of the ranks that mpirun started, or that meet at an address. */
// SPDX-License-Identifier: Apache-2.0
#include "cluster/comm_mpi.h"
#include "cluster/comm_tcp.h"
#include "engine/commands/commands.h"

static esp_code join_mpi(model_config *c, esp_error *err) {
    uint32_t wanted = c->tp;
    esp_code code = comm_mpi_open(&c->comm, err);
    if (code != ESP_OK) return code;
    if (wanted && wanted != c->comm->size) {
        code =
            esp_fail_field(err, ESP_OUT_OF_RANGE, "--tp",
                           "--tp %u: mpirun started %u ranks; leave --tp away or make them equal",
                           wanted, c->comm->size);
        comm_close(c->comm);
    }
    return code;
}

static esp_code join_at_address(model_config *c, esp_error *err) {
    if (c->tp < 2)
        return esp_fail_field(err, ESP_OUT_OF_RANGE, "--tp",
                              "--rendezvous is for several ranks: say with --tp N how many");
    if (c->rank >= c->tp)
        return esp_fail_field(err, ESP_OUT_OF_RANGE, "--rank",
                              "--rank %u: of --tp %u ranks the last is %u", c->rank, c->tp,
                              c->tp - 1);
    return comm_tcp_open(
        &c->comm, &(comm_tcp_options){.address = c->rendezvous, .rank = c->rank, .size = c->tp},
        err);
}

/* The other processes, where there are some; the engine closes the comm. */
static esp_code join(model_config *c, esp_error *err) {
    esp_code code = ESP_OK;
    if (c->rank && !c->rendezvous)
        return esp_fail_field(err, ESP_OUT_OF_RANGE, "--rank",
                              "--rank goes with --rendezvous HOST:PORT");
    if (c->rendezvous)
        code = join_at_address(c, err);
    else if (config_under_mpi())
        code = join_mpi(c, err);
    c->closes_comm = code == ESP_OK && c->comm;
    return code;
}

esp_code open_engine(engine **out, const model_config *config,
                     void (*progress)(void *, uint64_t, uint64_t), void *progress_arg,
                     esp_error *err) {
    model_config c = *config;
    *out = NULL;
    esp_code code = join(&c, err);
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
