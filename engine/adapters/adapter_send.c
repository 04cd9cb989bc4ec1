/* adapter_send.c - rank 0's side. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/adapters/adapter_send.h"

#include "engine/adapters/adapter_message.h"
#include "engine/adapters/image_tables.h"

static void send_header(adapter_sending *s, adapter_message *m) {
    s->announce(s->arg);
    comm_broadcast(s->comm, m, sizeof *m);
}

/* Where each rank's bytes lie; rank 0 sends nothing to itself. */
typedef struct rank_bytes {
    const char *at[COMM_RANKS_MAX];
} rank_bytes;

/* To every rank its own chunk; the bytes of all. */
static uint64_t send_chunk(comm *c, const adapter_message *m, const rank_bytes *from, uint64_t at) {
    comm_part parts[COMM_RANKS_MAX] = {{0}};
    uint64_t sent = 0;
    for (uint32_t rank = 1; rank < c->size; rank++) {
        sent += parts[rank].send_bytes = adapter_message_some(m->bytes[rank], at);
        if (parts[rank].send_bytes) parts[rank].send = from->at[rank] + at;
    }
    comm_exchange(c, parts);
    return sent;
}

/* In as many exchanges as the longest takes. */
static void send_bytes(comm *c, const adapter_message *m, const rank_bytes *from) {
    uint64_t most = adapter_message_most(m, c->size);
    for (uint64_t at = 0; at < most; at += ADAPTER_MESSAGE_CHUNK)
        (void)send_chunk(c, m, from, at);
}

static uint64_t bytes_of(const comm *c, const adapter_message *m) {
    uint64_t bytes = 0;
    for (uint32_t rank = 1; rank < c->size; rank++)
        bytes += m->bytes[rank];
    return bytes;
}

/* ---- the kinds ---- */

static esp_code send_tables(adapter_sending *s, esp_error *err) {
    comm *c = s->comm;
    rank_bytes from;
    adapter_message m = {.kind = ADAPTER_TABLES, .id = s->id, .frame_bytes = s->frame_bytes};
    uint32_t frames = image_frame_count(s->image);
    if (s->frames) m.places = frames;
    for (uint32_t rank = 1; rank < c->size; rank++) {
        size_t bytes;
        from.at[rank] = image_tables(image_of_rank(s->image, rank), &bytes);
        m.bytes[rank] = bytes;
    }
    send_header(s, &m);
    send_bytes(c, &m, &from);
    /* Rank 0 only reads what it broadcasts. */
    if (m.places) comm_broadcast(c, (void *)s->frames, m.places * sizeof *s->frames);
    return comm_agree(c, ESP_OK, err);
}

static uint64_t send_frame(adapter_sending *s, uint32_t frame) {
    comm *c = s->comm;
    rank_bytes from;
    adapter_message m = {.kind = ADAPTER_FRAME, .id = s->id, .index = frame};
    for (uint32_t rank = 1; rank < c->size; rank++) {
        size_t bytes;
        from.at[rank] = image_frame(image_of_rank(s->image, rank), frame, &bytes);
        m.bytes[rank] = bytes;
    }
    send_header(s, &m);
    send_bytes(c, &m, &from);
    return bytes_of(c, &m);
}

/* The next chunk; then the others pack what they got. s->at is 0 when there is none left. */
static esp_code send_whole(adapter_sending *s, image_whole which, uint64_t *sent, esp_error *err) {
    comm *c = s->comm;
    rank_bytes from;
    kern_matrix_desc rows = image_rows_of(s->image, which, 0);
    if (!rows.data) return ESP_OK;
    adapter_message m = {.kind = ADAPTER_WHOLE,
                         .id = s->id,
                         .index = which,
                         .at = s->at,
                         .dtype = (uint32_t)rows.dtype,
                         .cols = rows.cols};
    for (uint32_t rank = 1; rank < c->size; rank++) {
        kern_matrix_desc own = image_rows_of(s->image, which, rank);
        from.at[rank] = own.data;
        m.bytes[rank] = own.rows * image_row_bytes(&own);
    }
    send_header(s, &m);
    *sent += send_chunk(c, &m, &from, s->at);
    s->at += ADAPTER_MESSAGE_CHUNK;
    if (s->at < adapter_message_most(&m, c->size)) return ESP_OK;
    s->at = 0;
    return adapter_message_agree(c, ESP_OK, err);
}

/* ---- the door ---- */

esp_code adapter_send_some(adapter_sending *s, uint64_t bytes, bool *done, esp_error *err) {
    uint32_t frames = image_frame_count(s->image), items = 1 + frames + IMAGE_WHOLES;
    uint64_t sent = 0;
    esp_code code = ESP_OK;
    while (s->next < items && sent < bytes && code == ESP_OK) {
        if (s->next == 0)
            code = send_tables(s, err);
        else if (s->next <= frames)
            sent += send_frame(s, s->next - 1);
        else
            code = send_whole(s, (image_whole)(s->next - 1 - frames), &sent, err);
        if (s->at == 0) s->next++;
    }
    *done = s->next == items;
    return code;
}

void adapter_send_out(comm *c, uint32_t id) {
    adapter_message m = {.kind = ADAPTER_OUT, .id = id};
    comm_broadcast(c, &m, sizeof m);
}
