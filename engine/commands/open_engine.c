/* open_engine.c - a command's engine, alone or as one of the processes that mpirun started, or that meet at an address,
 * with a rank or several each. */
// SPDX-License-Identifier: Apache-2.0
#include "cluster/comm_mpi.h"
#include "cluster/comm_tcp.h"
#include "engine/commands/commands.h"

static esp_code join_mpi(model_config *c, esp_error *err) {
    uint32_t wanted = c->tp;
    esp_code code = comm_mpi_open(&c->comm, err);
    if (code != ESP_OK) return code;
    if (wanted % c->comm->size == 0) {
        c->local_ranks = wanted / c->comm->size;
        return ESP_OK;
    }
    code = esp_fail_field(err, ESP_OUT_OF_RANGE, "--tp",
                          "--tp %u: mpirun started %u processes, which have as many ranks each; "
                          "leave --tp away for one each, or give a multiple of %u",
                          wanted, c->comm->size, c->comm->size);
    comm_close(c->comm);
    return code;
}

/* Processes of `each` ranks, those of this one from --rank on. */
static esp_code check_share(const model_config *c, uint32_t each, esp_error *err) {
    if (c->tp % each)
        return esp_fail_field(err, ESP_OUT_OF_RANGE, "--rank",
                              "--rank %u-%u: --tp %u ranks are not shared out in processes of %u; "
                              "give each process as many, in a number that divides --tp",
                              c->rank, c->rank_last, c->tp, each);
    if (c->rank % each)
        return esp_fail_field(err, ESP_OUT_OF_RANGE, "--rank",
                              "--rank %u-%u: processes of %u ranks have 0-%u, %u-%u and so on",
                              c->rank, c->rank_last, each, each - 1, each, 2 * each - 1);
    return ESP_OK;
}

static esp_code join_at_address(model_config *c, esp_error *err) {
    if (c->tp < 2)
        return esp_fail_field(err, ESP_OUT_OF_RANGE, "--tp",
                              "--rendezvous is for several ranks: say with --tp N how many");
    if (c->rank_last >= c->tp)
        return esp_fail_field(err, ESP_OUT_OF_RANGE, "--rank",
                              "--rank %u: of --tp %u ranks the last is %u", c->rank_last, c->tp,
                              c->tp - 1);
    uint32_t each = c->rank_last - c->rank + 1;
    esp_code code = check_share(c, each, err);
    if (code != ESP_OK) return code;
    c->local_ranks = each;
    return comm_tcp_open(
        &c->comm,
        &(comm_tcp_options){
            .address = c->rendezvous, .rank = c->rank / each, .size = c->tp / each, .each = each},
        err);
}

/* The other processes, where there are some; the engine closes the comm. */
static esp_code join(model_config *c, esp_error *err) {
    esp_code code = ESP_OK;
    if (c->rank_last && !c->rendezvous)
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
    bool follows = c.comm && c.comm->rank > 0; /* all ranks of this process do */
    if (follows) progress = NULL;
    code = engine_open(out, &c, progress, progress_arg, err);
    if (code != ESP_OK || !follows) return code;
    code = engine_follow(*out, err);
    engine_close(*out);
    *out = NULL;
    return code;
}
