/* http_posts.c - a queue and its thread. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/http_posts.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>

#include "engine/base/mem.h"
#include "engine/base/queue.h"

/* From its headers to the end of its request. The worker has it between push and resume. */
typedef struct post {
    struct MHD_Connection *connection;
    char *path;
    char *body;
    size_t bytes;
    bool too_long;
    _Atomic bool done; /* out is the answer */
    http_answer out;
} post;

struct http_posts {
    http_source source;
    int wake;
    queue *work; /* suspended posts */
    signal_word news;
    pthread_mutex_t lock; /* stop; pushes before it are worked off */
    bool stop;
    pthread_t thread;
    bool started;
};

/* ---- answers ---- */

static enum MHD_Result refuse(struct MHD_Connection *connection, unsigned status,
                              const char *sentence) {
    return http_respond(connection, status, "text/plain; charset=utf-8",
                        (char *)(uintptr_t)sentence, strlen(sentence), MHD_RESPMEM_PERSISTENT);
}

/* The body stays the post's: an answer that is not taken is asked for again. */
static enum MHD_Result answer(const post *p) {
    return http_respond(p->connection, p->out.status,
                        p->out.json ? "application/json" : "text/plain; charset=utf-8", p->out.body,
                        strlen(p->out.body), MHD_RESPMEM_MUST_COPY);
}

/* ---- the worker ---- */

static void work(http_posts *all, post *p) {
    http_post in = {.path = p->path, .body = p->body, .bytes = p->bytes};
    all->source.post(all->source.arg, &in, &p->out);
    ESP_ASSERT(p->out.body && p->out.status);
    atomic_store(&p->done, true);
    MHD_resume_connection(p->connection); /* the post is the listener's again */
    (void)eventfd_write(all->wake, 1);
}

/* Queued posts are worked off before it stops. */
static void *run(void *arg) {
    http_posts *all = arg;
    for (;;) {
        uint32_t seen = signal_seen(&all->news);
        pthread_mutex_lock(&all->lock);
        bool stop = all->stop;
        pthread_mutex_unlock(&all->lock);
        post *p = queue_pop(all->work);
        if (p)
            work(all, p);
        else if (stop)
            return NULL;
        else
            signal_wait(&all->news, seen, -1);
    }
}

esp_code http_posts_open(http_posts **out, const http_source *source, int wake, esp_error *err) {
    http_posts *all = mem_new(1, sizeof *all);
    *out = all;
    all->source = *source;
    all->wake = wake;
    all->work = queue_open(HTTP_POSTS_MAX);
    pthread_mutex_init(&all->lock, NULL);
    if (pthread_create(&all->thread, NULL, run, all))
        return esp_fail(err, ESP_EXHAUSTED,
                        "serve: cannot start a thread; raise the limit of threads");
    pthread_setname_np(all->thread, "http-post");
    all->started = true;
    return ESP_OK;
}

void http_posts_stop(http_posts *all) {
    if (!all || !all->started) return;
    pthread_mutex_lock(&all->lock);
    all->stop = true;
    pthread_mutex_unlock(&all->lock);
    signal_wake(&all->news);
    pthread_join(all->thread, NULL);
    all->started = false;
}

void http_posts_close(http_posts *all) {
    if (!all) return;
    queue_close(all->work);
    pthread_mutex_destroy(&all->lock);
    free(all);
}

/* ---- one connection; the listener's thread ---- */

static const char *header(struct MHD_Connection *connection, const char *name) {
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

/* Parameters ("; charset=utf-8") aside. */
static bool is_json(const char *type) {
    static const char wanted[] = "application/json";
    size_t bytes = sizeof wanted - 1;
    return type && !strncasecmp(type, wanted, bytes) && strchr("; \t", type[bytes]);
}

static enum MHD_Result begin(http_posts *all, struct MHD_Connection *connection, const char *path,
                             void **state) {
    const char *token = header(connection, MHD_HTTP_HEADER_AUTHORIZATION);
    if (!all->source.authorise(all->source.arg, token, token ? strlen(token) : 0))
        return refuse(connection, MHD_HTTP_UNAUTHORIZED,
                      "a token is wanted: send the header Authorization: Bearer TOKEN\n");
    if (!is_json(header(connection, MHD_HTTP_HEADER_CONTENT_TYPE)))
        return refuse(connection, MHD_HTTP_UNSUPPORTED_MEDIA_TYPE,
                      "the header Content-Type: application/json is wanted\n");
    post *p = mem_new(1, sizeof *p);
    p->connection = connection;
    p->path = mem_copy_text(path, strlen(path));
    p->body = mem_new(1, 1);
    *state = p;
    return MHD_YES;
}

static void add(post *p, const char *bytes, size_t count) {
    if (count > HTTP_BODY_MAX - p->bytes) p->too_long = true;
    if (p->too_long) return;
    p->body = mem_resize(p->body, p->bytes + count + 1, 1);
    memcpy(p->body + p->bytes, bytes, count);
    p->bytes += count;
    p->body[p->bytes] = '\0';
}

static bool push(http_posts *all, post *p) {
    pthread_mutex_lock(&all->lock);
    bool pushed = !all->stop && queue_push(all->work, p);
    pthread_mutex_unlock(&all->lock);
    if (pushed) signal_wake(&all->news);
    return pushed;
}

/* Suspended before it is in the queue: the worker may be done at once. */
static enum MHD_Result submit(http_posts *all, post *p) {
    MHD_suspend_connection(p->connection);
    if (push(all, p)) return MHD_YES;
    static const char busy[] = "as many posts wait as this server keeps; try again\n";
    p->out = (http_answer){.status = MHD_HTTP_SERVICE_UNAVAILABLE,
                           .body = mem_copy_text(busy, sizeof busy - 1)};
    atomic_store(&p->done, true);
    MHD_resume_connection(p->connection);
    return MHD_YES;
}

enum MHD_Result http_posts_take(http_posts *all, struct MHD_Connection *connection,
                                const char *path, const char *upload, size_t *upload_bytes,
                                void **state) {
    post *p = *state;
    if (!p) return begin(all, connection, path, state);
    if (*upload_bytes) {
        add(p, upload, *upload_bytes);
        *upload_bytes = 0;
        return MHD_YES;
    }
    if (p->too_long)
        return refuse(connection, MHD_HTTP_CONTENT_TOO_LARGE, "the body is over 65536 bytes\n");
    return atomic_load(&p->done) ? answer(p) : submit(all, p);
}

void http_posts_forget(void *state) {
    post *p = state;
    if (!p) return;
    free(p->path);
    free(p->body);
    free(p->out.body);
    free(p);
}
