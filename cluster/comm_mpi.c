/* comm_mpi.c - collectives as messages between two ranks each, so that every wait is ours: it looks for what has
 * come, for the time, and for processes that ended.
 *
 * After a failure no more of MPI is called, for it may wait for a dead rank; messages that are still on their
 * way are left, and the process ends soon. */
// SPDX-License-Identifier: Apache-2.0
#include "cluster/comm_mpi.h"

#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cluster/comm_failure.h"
#include "cluster/mpi/mpi_words.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"

enum {
    MESSAGES_MAX = 4 * COMM_RANKS_MAX,
    OFFER_US = 2000, /* a step's ops follow each other faster */
    NAP_US = 200,
    LOOK_AROUND_US = 200000,
};

/* Which process a rank is; hosts and namespaces where its number means the same are equal. */
typedef struct rank_process {
    char host[64];
    uint64_t space;
    int64_t pid;
} rank_process;

/* A part of a message of one collective. */
typedef struct message {
    mpi_request request;
    uint32_t rank;
    bool done;
} message;

typedef struct mpi_comm {
    comm head;
    const mpi_words *words;
    void *object;
    rank_process processes[COMM_RANKS_MAX];
    message messages[MESSAGES_MAX];
    uint32_t message_count;
    bool knows_processes;
    int64_t looked_us; /* when it last looked for ended processes */
    comm_failure failure;
} mpi_comm;

/* ---- failing ---- */

static void mpi_abort(comm *head, const esp_error *why) {
    comm_failure_keep(&((mpi_comm *)head)->failure, why);
}

static void fail_rank(mpi_comm *c, uint32_t rank, const char *what) {
    esp_error why = {0};
    char name[COMM_RANK_NAME_BYTES];
    const rank_process *p = &c->processes[rank];
    esp_fail(&why, ESP_UNAVAILABLE, "%s (process %lld on %s) %s; the replica ends: start it again",
             comm_rank_name(&c->head, rank, name), (long long)p->pid, p->host, what);
    mpi_abort(&c->head, &why);
}

/* A process that ended and that nobody has collected yet still counts as alive; mpirun collects its own. */
static void look_around(mpi_comm *c, int64_t now_us) {
    const rank_process *own = &c->processes[c->head.rank];
    if (!c->knows_processes || now_us - c->looked_us < LOOK_AROUND_US) return;
    c->looked_us = now_us;
    for (uint32_t rank = 0; rank < c->head.size; rank++) {
        const rank_process *p = &c->processes[rank];
        bool near = p->space == own->space && !strcmp(p->host, own->host);
        if (near && kill((pid_t)p->pid, 0) != 0 && errno == ESRCH) fail_rank(c, rank, "has ended");
    }
}

static esp_code mpi_check(comm *head, esp_error *err) {
    mpi_comm *c = (mpi_comm *)head;
    if (!comm_failed(&c->failure)) look_around(c, clock_now_us());
    return comm_failure_tell(&c->failure, err);
}

/* ---- messages ---- */

/* Parts of at most MPI_WORDS_BYTES_MAX; to: sent, else received. */
static void post(mpi_comm *c, const void *to, void *from, size_t bytes, uint32_t rank) {
    for (size_t at = 0, some; at < bytes && !comm_failed(&c->failure); at += some) {
        message *m = &c->messages[c->message_count];
        some = bytes - at < MPI_WORDS_BYTES_MAX ? bytes - at : MPI_WORDS_BYTES_MAX;
        ESP_ASSERT(c->message_count < MESSAGES_MAX);
        *m = (message){.rank = rank};
        bool ok = to ? c->words->send((const char *)to + at, some, rank, &m->request)
                     : c->words->receive((char *)from + at, some, rank, &m->request);
        if (!ok) fail_rank(c, rank, "cannot be reached");
        c->message_count++;
    }
}

/* The first message that has not come; NULL: all have. */
static const message *first_open(mpi_comm *c) {
    const message *open = NULL;
    for (uint32_t i = 0; i < c->message_count; i++) {
        message *m = &c->messages[i];
        if (!m->done && !c->words->test(&m->request, &m->done)) fail_rank(c, m->rank, "is gone");
        if (!m->done && !open) open = m;
    }
    return open;
}

static void pause_a_little(int64_t waited_us) {
    if (waited_us < OFFER_US)
        sched_yield();
    else
        nanosleep(&(struct timespec){.tv_nsec = NAP_US * 1000}, NULL);
}

static void wait_for_all(mpi_comm *c) {
    int64_t began_us = clock_now_us();
    for (const message *open; !comm_failed(&c->failure) && (open = first_open(c));) {
        int64_t now_us = clock_now_us(), patience_us = c->head.patience_us;
        char late[COMM_RANK_NAME_BYTES];
        if (patience_us >= 0 && now_us - began_us > patience_us)
            fail_rank(c, open->rank, comm_late_words(&c->head, late));
        look_around(c, now_us);
        pause_a_little(now_us - began_us);
    }
    c->message_count = 0;
}

/* ---- collectives ---- */

static void mpi_exchange(comm *head, const comm_part *parts) {
    mpi_comm *c = (mpi_comm *)head;
    const comm_part *own = &parts[head->rank];
    for (uint32_t rank = 0; rank < head->size; rank++)
        if (rank != head->rank) post(c, NULL, parts[rank].receive, parts[rank].receive_bytes, rank);
    for (uint32_t rank = 0; rank < head->size; rank++)
        if (rank != head->rank) post(c, parts[rank].send, NULL, parts[rank].send_bytes, rank);
    ESP_ASSERT(own->send_bytes == own->receive_bytes);
    if (own->send_bytes) memcpy(own->receive, own->send, own->send_bytes);
    wait_for_all(c);
}

static void mpi_all_gather(comm *head, const void *in, void *out, size_t bytes) {
    comm_part parts[COMM_RANKS_MAX];
    for (uint32_t rank = 0; rank < head->size; rank++)
        parts[rank] = (comm_part){.send = in,
                                  .receive = (char *)out + rank * bytes,
                                  .send_bytes = bytes,
                                  .receive_bytes = bytes};
    mpi_exchange(head, parts);
}

static void mpi_broadcast(comm *head, void *at, size_t bytes) {
    mpi_comm *c = (mpi_comm *)head;
    if (head->rank > 0) post(c, NULL, at, bytes, 0);
    for (uint32_t rank = 1; head->rank == 0 && rank < head->size; rank++)
        post(c, at, NULL, bytes, rank);
    wait_for_all(c);
}

/* ---- open and close ---- */

static void mpi_close(comm *head) {
    mpi_comm *c = (mpi_comm *)head;
    c->words->close(!comm_failed(&c->failure));
    comm_failure_close(&c->failure);
    /* The object stays: MPI's own threads may still be in it. */
    free(c);
}

static const comm_ops mpi_ops = {
    .name = "mpi",
    .close = mpi_close,
    .all_gather = mpi_all_gather,
    .exchange = mpi_exchange,
    .broadcast = mpi_broadcast,
    .abort = mpi_abort,
    .check = mpi_check,
};

static void know_processes(mpi_comm *c) {
    rank_process own = {.pid = getpid()};
    struct stat space;
    (void)gethostname(own.host, sizeof own.host - 1);
    if (stat("/proc/self/ns/pid", &space) == 0) own.space = space.st_ino;
    mpi_all_gather(&c->head, &own, c->processes, sizeof own);
    for (uint32_t rank = 0; rank < c->head.rank; rank++)
        c->head.local_rank += !strcmp(c->processes[rank].host, own.host);
    c->knows_processes = true;
}

/* Beside the program, or in the lib folder beside its own. */
static void *load_object(esp_error *err) {
    static const char *const places[] = {"", "../lib/"};
    char self[4096], path[sizeof self + 64];
    ssize_t bytes = readlink("/proc/self/exe", self, sizeof self - 1);
    while (bytes > 0 && self[bytes - 1] != '/')
        bytes--;
    for (size_t i = 0; i < sizeof places / sizeof *places && bytes > 0; i++) {
        snprintf(path, sizeof path, "%.*s%slibespalier_mpi.so", (int)bytes, self, places[i]);
        if (access(path, R_OK) != 0) continue;
        /* MPI loads parts of its own, which look for its symbols. */
        void *object = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
        if (object) return object;
        esp_fail(err, ESP_UNAVAILABLE, "libespalier_mpi.so cannot be loaded: %s", dlerror());
        return NULL;
    }
    esp_fail(
        err, ESP_UNIMPLEMENTED,
        "mpirun started this program, and there is no libespalier_mpi.so beside it: build with "
        "-DESPALIER_MPI=ON, or use --tp without mpirun");
    return NULL;
}

static const mpi_words *load_words(void **object, esp_error *err) {
    *object = load_object(err);
    const mpi_words *words = *object ? dlsym(*object, MPI_WORDS_SYMBOL) : NULL;
    if (*object && (!words || words->version != MPI_WORDS_VERSION)) {
        esp_fail(err, ESP_UNAVAILABLE, "libespalier_mpi.so is another build's; build both again");
        return NULL;
    }
    return words;
}

esp_code comm_mpi_open(comm **out, esp_error *err) {
    esp_error why = {0};
    void *object;
    const mpi_words *words = load_words(&object, &why);
    if (!words) {
        if (err) *err = why;
        return why.code;
    }
    uint32_t rank = 0, size = 0;
    if (!words->open(&rank, &size))
        return esp_fail(err, ESP_UNAVAILABLE, "MPI did not start, or gives no safety for threads");
    if (size > COMM_RANKS_MAX)
        return esp_fail_field(err, ESP_INVALID, "--tp", "mpirun started %u ranks; %u are the most",
                              size, (unsigned)COMM_RANKS_MAX);
    mpi_comm *c = mem_new(1, sizeof *c);
    c->head = (comm){.ops = &mpi_ops,
                     .failure = &c->failure,
                     .rank = rank,
                     .size = size,
                     .patience_us = COMM_PATIENCE_US};
    c->words = words;
    c->object = object;
    comm_failure_open(&c->failure);
    know_processes(c);
    *out = &c->head;
    return ESP_OK;
}
