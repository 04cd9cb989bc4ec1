/* test_comm_mpi.c - collectives between processes: `mpirun -n N test_comm_mpi HOW [SECONDS]`.
 *
 *   cases  what every backend must do (comm_cases.h); the sums have the bits of threads
 *   late   rank 1 stays away: the others are told who within their patience, which is so many seconds
 *   dead   rank 1 is killed: the others are told, however long they would wait; they stay as long as that for each other */
// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "cluster/comm_mpi.h"
#include "engine/base/clock.h"
#include "tests/unit/comm_cases.h"

static int fail(const comm *c, const char *what) {
    fprintf(stderr, "rank %u of %u: %s\n", c->rank, c->size, what);
    return 1;
}

static int run_cases(comm *c) {
    c->patience_us = COMM_FOR_EVER;
    uint32_t wrong = case_run(c);
    printf("rank %u of %u: %u wrong\n", c->rank, c->size, wrong);
    return wrong ? fail(c, "bytes or bits are wrong") : 0;
}

/* The others wait for rank 1 and hear of it. */
static int hear_of_it(comm *c, int64_t patience_us, const char *words) {
    uint32_t word = 0, all[COMM_RANKS_MAX];
    esp_error err = {0};
    int64_t began_us = clock_now_us();
    c->patience_us = patience_us;
    comm_all_gather(c, &word, all, sizeof word);
    if (comm_check(c, &err) != ESP_UNAVAILABLE) return fail(c, "nothing was noticed");
    printf("rank %u of %u after %.1f s: %s\n", c->rank, c->size,
           (double)(clock_now_us() - began_us) * 1e-6, err.message);
    if (!strstr(err.message, words) || !strstr(err.message, "rank 1 of"))
        return fail(c, "the sentence says something else");
    comm_broadcast(c, &word, sizeof word); /* does nothing, at once */
    return 0;
}

/* From where all of them have met; rank 1 stays for so long that nobody hears of its end instead. */
static int run_late(comm *c, int seconds) {
    char words[64];
    uint32_t word = 0, all[COMM_RANKS_MAX];
    snprintf(words, sizeof words, "did not come within %d.0 s", seconds);
    c->patience_us = COMM_FOR_EVER;
    comm_all_gather(c, &word, all, sizeof word);
    if (c->rank != 1) return hear_of_it(c, seconds * INT64_C(1000000), words);
    nanosleep(&(struct timespec){.tv_sec = 4 * seconds}, NULL);
    return 0;
}

/* Who heard of it stays: else its own end would be what a slower one hears of. */
static int run_dead(comm *c, int seconds) {
    if (c->rank == 1) kill(getpid(), SIGKILL);
    int status = hear_of_it(c, COMM_FOR_EVER, "has ended");
    nanosleep(&(struct timespec){.tv_sec = seconds}, NULL);
    return status;
}

int main(int argc, char **argv) {
    comm *c = NULL;
    esp_error err = {0};
    const char *how = argc > 1 ? argv[1] : "";
    int seconds = argc > 2 ? atoi(argv[2]) : 2;
    if (comm_mpi_open(&c, &err) != ESP_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    int status = !strcmp(how, "cases")  ? run_cases(c)
                 : !strcmp(how, "late") ? run_late(c, seconds)
                 : !strcmp(how, "dead") ? run_dead(c, seconds)
                                        : fail(c, "cases, late or dead?");
    /* Not closed where a rank is missing: the end of MPI waits for all. */
    if (!strcmp(how, "cases")) comm_close(c);
    fflush(stdout);
    _exit(status);
}
