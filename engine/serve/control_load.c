/* control_load.c - LoadAdapter: from the store, or the files of an upload into the store and then from
 * there. */
// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/serve/control_parts.h"

typedef Espalier__V1__LoadAdapterRequest load_request;

/* One upload, from its first message to RPC_CLOSED; its handler runs one at a time. */
typedef struct upload {
    rpc_call *call;     /* held */
    store_stage *stage; /* NULL: it is over */
    char name[STORE_NAME_MAX + 1], digest[ADAPTER_DIGEST_CHARS];
    struct {
        char name[32];
        uint64_t bytes;
    } file[ADAPTER_FILES_MAX];
    uint32_t file_count, next; /* next: the first that is not begun */
    uint64_t left;             /* bytes of the file under way */
} upload;

/* ---- from the store ---- */

/* name: whose alias moves there now that it is served; or NULL. */
static esp_code load(control *c, const char *reference, const char *name, adapter_info *info,
                     esp_error *err) {
    esp_code code = group_load_stored(c->adapters, reference, info, err);
    if (code != ESP_OK || !name) return code;
    code = group_set_alias(c->adapters, name, info->version, err);
    if (code != ESP_OK) return code;
    (void)!group_load_stored(c->adapters, name, NULL, NULL); /* also where it was unloaded */
    (void)!control_find(c, reference, info);
    return ESP_OK;
}

static void answer_load(control *c, rpc_call *call, const char *reference, const char *name) {
    Espalier__V1__LoadAdapterResponse answer = ESPALIER__V1__LOAD_ADAPTER_RESPONSE__INIT;
    Espalier__V1__Adapter one;
    adapter_info info;
    esp_error error = {0};
    if (load(c, reference, name, &info, &error) != ESP_OK) {
        rpc_finish(call, NULL, &error);
        return;
    }
    log_event(LOG_INFO, "adapter_loaded",
              "adapter=\"%s\" version=%u digest=%s rank=%u bytes=%" PRIu64, info.name, info.version,
              info.digest, info.rank, info.bytes);
    control_describe(&one, &info);
    answer.adapter = &one;
    rpc_finish(call, &answer.base, NULL);
}

/* ---- an upload's files ---- */

/* Begins the files that are next: an empty one is complete at once. */
static esp_code begin_files(upload *u, esp_error *err) {
    esp_code code = ESP_OK;
    while (code == ESP_OK && !u->left && u->next < u->file_count) {
        code = store_stage_file(u->stage, u->file[u->next].name, u->file[u->next].bytes, err);
        if (code == ESP_OK) u->left = u->file[u->next++].bytes;
    }
    return code;
}

static bool is_complete(const upload *u) { return !u->left && u->next == u->file_count; }

static esp_code write_chunk(upload *u, const ProtobufCBinaryData *chunk, esp_error *err) {
    const uint8_t *at = chunk->data;
    size_t bytes = chunk->len;
    esp_code code = ESP_OK;
    while (code == ESP_OK && bytes) {
        if (is_complete(u))
            return esp_fail_field(err, ESP_INVALID, "chunk",
                                  "chunk: %zu bytes more than the files were declared to have",
                                  bytes);
        size_t take = bytes < u->left ? bytes : (size_t)u->left;
        code = store_stage_write(u->stage, at, take, err);
        at += take;
        bytes -= take;
        u->left -= take;
        if (code == ESP_OK) code = begin_files(u, err);
    }
    return code;
}

/* ---- its first message ---- */

static esp_code check_upload(const Espalier__V1__AdapterUpload *in, esp_error *err) {
    if (!*in->digest)
        return esp_fail_field(err, ESP_INVALID, "upload.digest",
                              "upload.digest: an upload declares the digest of its content");
    if (strlen(in->digest) >= ADAPTER_DIGEST_CHARS)
        return esp_fail_field(err, ESP_INVALID, "upload.digest",
                              "upload.digest: wanted sha256: and 64 digits");
    if (!in->n_files || in->n_files > ADAPTER_FILES_MAX)
        return esp_fail_field(err, ESP_INVALID, "upload.files",
                              "upload.files: %zu files; wanted " ADAPTER_CONFIG_FILE
                              " and " ADAPTER_TENSORS_FILE ", or " ADAPTER_GGUF_FILE,
                              in->n_files);
    for (size_t i = 0; i < in->n_files; i++)
        if (strlen(in->files[i]->name) >= sizeof((upload *)0)->file[0].name)
            return esp_fail_field(err, ESP_INVALID, "upload.files.name",
                                  "upload.files.name: no file of an adapter has so long a name");
    return store_check_name(in->name, strlen(in->name), err);
}

/* What the store asks before anything gets a name. */
static esp_code fits_base(void *arg, const char *path, esp_error *err) {
    return group_check(((control *)arg)->adapters, path, err);
}

static esp_code begin_upload(control *c, upload *u, const Espalier__V1__AdapterUpload *in,
                             esp_error *err) {
    if (!c->store)
        return esp_fail(err, ESP_PRECONDITION,
                        "this server has no store for uploads; start it with --adapter-store DIR");
    esp_code code = check_upload(in, err);
    if (code != ESP_OK) return code;
    snprintf(u->name, sizeof u->name, "%s", in->name);
    snprintf(u->digest, sizeof u->digest, "%s", in->digest);
    u->file_count = (uint32_t)in->n_files;
    for (uint32_t i = 0; i < u->file_count; i++) {
        u->file[i].bytes = in->files[i]->bytes;
        strcpy(u->file[i].name, in->files[i]->name);
    }
    /* What was served under the name is meant by it until the new one is loaded. */
    store_import_options options = {.name = u->name,
                                    .digest = u->digest,
                                    .keep_alias = true,
                                    .check = fits_base,
                                    .check_arg = c};
    code = store_stage_begin(c->store, &options, &u->stage, err);
    return code == ESP_OK ? begin_files(u, err) : code;
}

/* ---- its life ---- */

static void close_stage(upload *u) {
    store_stage_close(u->stage);
    u->stage = NULL;
}

static void on_event(void *user, rpc_call *call, rpc_event event) {
    upload *u = user;
    if (event != RPC_CLOSED) return;
    close_stage(u);
    free(u);
    rpc_call_release(call);
}

/* Nothing is left when the caller reads the error. */
static void fail_upload(upload *u, const esp_error *error) {
    close_stage(u);
    rpc_finish(u->call, NULL, error);
}

static void commit(control *c, upload *u) {
    esp_error error = {0};
    store_ref ref;
    esp_code code = ESP_OK;
    if (!is_complete(u))
        code = esp_fail_field(&error, ESP_INVALID, "chunk",
                              "chunk: the upload ended %" PRIu64 " bytes before the end of %s",
                              u->left, u->file[u->next - 1].name);
    if (code == ESP_OK) code = store_stage_commit(u->stage, &ref, &error);
    if (code != ESP_OK) {
        fail_upload(u, &error);
        return;
    }
    close_stage(u);
    char reference[STORE_NAME_MAX + 16];
    snprintf(reference, sizeof reference, "%s@%u", ref.name, ref.version);
    answer_load(c, u->call, reference, ref.name);
}

static void take_chunk(upload *u, const load_request *in) {
    esp_error error = {0};
    esp_code code =
        in->part_case == ESPALIER__V1__LOAD_ADAPTER_REQUEST__PART_CHUNK
            ? write_chunk(u, &in->chunk, &error)
            : esp_fail(&error, ESP_INVALID, "chunk: behind `upload` there are only chunks");
    if (code == ESP_OK)
        rpc_receive(u->call);
    else
        fail_upload(u, &error);
}

static void start_upload(control *c, rpc_call *call, const Espalier__V1__AdapterUpload *in) {
    upload *u = mem_new(1, sizeof *u);
    esp_error error = {0};
    u->call = call;
    rpc_call_hold(call);
    if (!rpc_call_attach(call, on_event, u)) {
        rpc_call_release(call);
        free(u);
        return;
    }
    if (begin_upload(c, u, in, &error) == ESP_OK)
        rpc_receive(call);
    else
        fail_upload(u, &error);
}

void control_load(control *c, rpc_call *call, const ProtobufCMessage *message) {
    const load_request *in = (const void *)message;
    upload *u = rpc_call_user(call);
    esp_error error = {0};
    if (u && !in)
        commit(c, u);
    else if (u)
        take_chunk(u, in);
    else if (in->part_case == ESPALIER__V1__LOAD_ADAPTER_REQUEST__PART_STORED)
        answer_load(c, call, in->stored->adapter, NULL);
    else if (in->part_case == ESPALIER__V1__LOAD_ADAPTER_REQUEST__PART_UPLOAD)
        start_upload(c, call, in->upload);
    else {
        (void)esp_fail(&error, ESP_INVALID, "part: the first message holds `stored` or `upload`");
        rpc_finish(call, NULL, &error);
    }
}
