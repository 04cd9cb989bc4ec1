/* http_posts.h - posts of the HTTP listener: bodies gathered, worked off by one thread, answered; for http.c only.
 *
 *   headers --refused at once: 401, 413, 415--> answered
 *      \--> body, piece by piece --whole--> suspended, in the queue --worked off--> resumed --> answered
 *
 * A body must say that it is application/json: a page in somebody's browser cannot, unasked.
 *
 * Thread  take and forget: the listener's. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_HTTP_POSTS_H
#define ESPALIER_HTTP_POSTS_H

#include <microhttpd.h>

#include "engine/serve/http.h"

typedef struct http_posts http_posts;

/* wake is an eventfd of the caller's, written to where a connection was resumed. */
ESP_CHECKED esp_code http_posts_open(http_posts **out, const http_source *source, int wake,
                                     esp_error *err);
/* Before MHD_stop_daemon: no connection is suspended any more when it returns. NULL is fine. */
void http_posts_stop(http_posts *all);
void http_posts_close(http_posts *all); /* after it; NULL is fine */

/* One call of MHD's access handler for a post to path; *state is the connection's, NULL at first. */
enum MHD_Result http_posts_take(http_posts *all, struct MHD_Connection *connection,
                                const char *path, const char *upload, size_t *upload_bytes,
                                void **state);
/* The request is over, however it ended. */
void http_posts_forget(void *state);

/* http.c: queues an answer; body is copied or owned as mode says. */
enum MHD_Result http_respond(struct MHD_Connection *connection, unsigned status, const char *type,
                             char *body, size_t bytes, enum MHD_ResponseMemoryMode mode);

#endif
