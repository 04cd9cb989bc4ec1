/* recorder.c - a queue of finished requests, and the thread that writes their lines. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/record/recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/record/record.h"

enum { WAIT_US = 1000000, SAY_LOSS_US = 10000000 };

struct recorder {
    const engine *e;
    int fd;
    queue *waiting;
    signal_word signal;
    _Atomic bool stop;
    _Atomic uint64_t written, lost;
    pthread_t thread;
    bool started;

    /* The thread's. */
    bool torn;     /* the file's last line has no end */
    int why;       /* errno of the last write that failed; 0: the queue was full */
    uint64_t said; /* lost records that the log knows of */
    int64_t said_us;
};

/* ---- the thread ---- */

static void lose(recorder *r, int why) {
    r->why = why;
    atomic_fetch_add_explicit(&r->lost, 1, memory_order_relaxed);
}

/* A line that did not fit is taken back, or closed by the next one's beginning. */
static void take_back(recorder *r, size_t bytes) {
    off_t end = lseek(r->fd, 0, SEEK_END);
    r->torn = end < (off_t)bytes || ftruncate(r->fd, end - (off_t)bytes) != 0;
}

static void append(recorder *r, const char *line, size_t bytes) {
    if (r->torn && write(r->fd, "\n", 1) != 1) {
        lose(r, errno);
        return;
    }
    r->torn = false;
    ssize_t put;
    do
        put = write(r->fd, line, bytes);
    while (put < 0 && errno == EINTR);
    if (put == (ssize_t)bytes) {
        atomic_fetch_add_explicit(&r->written, 1, memory_order_relaxed);
        return;
    }
    lose(r, put < 0 ? errno : ENOSPC); /* less than all of it: no room for the rest */
    if (put > 0) take_back(r, (size_t)put);
}

static void write_request(recorder *r, const request *done) {
    char *line = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&line, &bytes);
    ESP_ASSERT(out);
    record_write(out, r->e, done);
    ESP_ASSERT(fclose(out) == 0);
    append(r, line, bytes);
    free(line);
}

static void say_loss(recorder *r, bool last) {
    uint64_t lost = atomic_load_explicit(&r->lost, memory_order_relaxed);
    int64_t now_us = clock_now_us();
    if (lost == r->said || (r->said && !last && now_us - r->said_us < SAY_LOSS_US)) return;
    log_event(LOG_ERROR, "records_lost", "lost=%" PRIu64 " written=%" PRIu64 " reason=\"%s\"", lost,
              atomic_load_explicit(&r->written, memory_order_relaxed),
              r->why ? strerror(r->why) : "more requests ended than could be written");
    r->said = lost;
    r->said_us = now_us;
    r->why = 0;
}

static void write_waiting(recorder *r) {
    for (request *done; (done = queue_pop(r->waiting)); request_unref(done))
        write_request(r, done);
}

/* A file that grows over the process's limit is an error like a full disk, not the end. */
static void block_size_signal(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void *run(void *arg) {
    recorder *r = arg;
    bool stop;
    block_size_signal();
    do {
        uint32_t seen = signal_seen(&r->signal);
        stop = atomic_load(&r->stop); /* before the queue: what came before the end is written */
        write_waiting(r);
        say_loss(r, stop);
        if (!stop) signal_wait(&r->signal, seen, WAIT_US);
    } while (!stop);
    return NULL;
}

/* ---- the door ---- */

static esp_code fail_open(const char *path, esp_error *err) {
    char shown[256];
    int number = errno;
    file_show_path(shown, sizeof shown, path);
    return esp_fail_field(err, number == ENOENT ? ESP_NOT_FOUND : ESP_DENIED, "--record",
                          "--record %s: cannot be written: %s", shown, strerror(number));
}

/* A file that was there may be another one's, or in use. */
static esp_code look_at_file(int fd, const char *path, esp_error *err) {
    struct stat status;
    char shown[256];
    if (fstat(fd, &status) != 0) return fail_open(path, err);
    file_show_path(shown, sizeof shown, path);
    if (!S_ISREG(status.st_mode))
        return esp_fail_field(err, ESP_INVALID, "--record", "--record %s: not a regular file",
                              shown);
    if (status.st_mode & (S_IRWXG | S_IRWXO))
        return esp_fail_field(err, ESP_DENIED, "--record",
                              "--record %s: others may read or write it, and it will hold what "
                              "clients send; chmod 600 it or name another file",
                              shown);
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return ESP_OK;
    return esp_fail_field(err, ESP_UNAVAILABLE, "--record",
                          "--record %s: another process records there; name another file", shown);
}

/* O_NONBLOCK: opening a pipe must not wait for its reader; it is refused. */
static esp_code open_file(const char *path, int *fd, esp_error *err) {
    *fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);
    return *fd < 0 ? fail_open(path, err) : look_at_file(*fd, path, err);
}

/* It may end in the middle of a line. */
static bool is_torn(int fd) {
    char last;
    off_t end = lseek(fd, 0, SEEK_END);
    return end > 0 && (pread(fd, &last, 1, end - 1) != 1 || last != '\n');
}

esp_code recorder_check(const char *path, esp_error *err) {
    int fd;
    esp_code code = open_file(path, &fd, err);
    if (fd >= 0) close(fd);
    return code;
}

static esp_code start(recorder *r, esp_error *err) {
    int failed = pthread_create(&r->thread, NULL, run, r);
    if (failed)
        return esp_fail(err, ESP_EXHAUSTED, "--record: cannot start a thread: %s",
                        strerror(failed));
    pthread_setname_np(r->thread, "recorder");
    r->started = true;
    return ESP_OK;
}

esp_code recorder_open(recorder **out, const char *path, const engine *e, esp_error *err) {
    ESP_ASSERT(out && path && e && engine_digest(e)[0]);
    recorder *r = mem_new(1, sizeof *r);
    *out = r;
    r->e = e;
    r->waiting = queue_open(RECORDER_WAITING_MAX);
    esp_code code = open_file(path, &r->fd, err);
    if (code != ESP_OK) return code;
    r->torn = is_torn(r->fd);
    return start(r, err);
}

void recorder_take(recorder *r, request *done) {
    ESP_ASSERT(atomic_load_explicit(&done->done, memory_order_acquire));
    if (done->embedding_width) return;
    request_ref(done);
    if (!queue_push(r->waiting, done)) {
        request_unref(done);
        atomic_fetch_add_explicit(&r->lost, 1, memory_order_relaxed);
    }
    signal_wake(&r->signal);
}

void recorder_read_stats(const recorder *r, record_stats *out) {
    out->written = atomic_load_explicit(&r->written, memory_order_relaxed);
    out->lost = atomic_load_explicit(&r->lost, memory_order_relaxed);
}

uint64_t recorder_close(recorder *r) {
    if (!r) return 0;
    atomic_store(&r->stop, true);
    signal_wake(&r->signal);
    if (r->started) pthread_join(r->thread, NULL);
    uint64_t lost = atomic_load(&r->lost);
    if (r->fd >= 0) close(r->fd);
    queue_close(r->waiting);
    free(r);
    return lost;
}
