/* store_stage.c - an import: files come piece by piece into a folder of their own, are checked there,
 * and get their place and name at the end. */
// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "engine/adapters/store_inner.h"
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/rename.h"

struct store_stage {
    adapter_store *store;
    store_import_options options; /* its texts are below */
    char name[STORE_NAME_MAX + 1], declared[ADAPTER_DIGEST_CHARS];
    char id[STORE_ID_CHARS];
    int folder; /* locked: we are at work; -1: none */
    int file;   /* the one that is written; -1: none */
    uint64_t written;
    sha256_sum *sum;
    bool broken; /* a step failed: it can only be closed */
    store_manifest manifest;
};

/* ---- begin ---- */

static esp_code make_folder(store_stage *stage, esp_error *err) {
    adapter_store *store = stage->store;
    int above = store->folders[FOLDER_STAGE], lock;
    esp_code code = store_lock(store, &lock, err);
    if (code != ESP_OK) return code;
    store_make_id(stage->id, stage->name);
    if (store_step(store, "mkdir") && mkdirat(above, stage->id, 0700) == 0)
        stage->folder = store_open_at(store, above, stage->id, O_RDONLY | O_DIRECTORY);
    /* Before anyone else may look at it. */
    if (stage->folder < 0 || flock(stage->folder, LOCK_EX | LOCK_NB) != 0)
        code = store_fail(err, "the adapter store", "begin an import");
    store_unlock(lock);
    return code;
}

static esp_code check_options(const store_import_options *options, esp_error *err) {
    esp_code code = store_check_name(options->name, strlen(options->name), err);
    if (code != ESP_OK || !options->digest || store_hex_of(options->digest)) return code;
    return esp_fail_field(err, ESP_INVALID, "digest",
                          "the declared digest is not \"sha256:\" and 64 hexadecimal digits");
}

esp_code store_stage_begin(adapter_store *store, const store_import_options *options,
                           store_stage **out, esp_error *err) {
    *out = NULL;
    esp_code code = check_options(options, err);
    if (code != ESP_OK) return code;
    store_stage *stage = mem_new(1, sizeof *stage);
    *stage = (store_stage){.store = store, .options = *options, .folder = -1, .file = -1};
    snprintf(stage->name, sizeof stage->name, "%s", options->name);
    if (options->digest) snprintf(stage->declared, sizeof stage->declared, "%s", options->digest);
    code = make_folder(stage, err);
    if (code == ESP_OK)
        *out = stage;
    else
        store_stage_close(stage);
    return code;
}

/* ---- files ---- */

static store_file *current(store_stage *stage) {
    ESP_ASSERT(stage->manifest.file_count > 0);
    return &stage->manifest.files[stage->manifest.file_count - 1];
}

static esp_code fail_stage(store_stage *stage, esp_code code) {
    stage->broken = code != ESP_OK;
    return code;
}

static esp_code refuse_broken(esp_error *err) {
    return esp_fail(err, ESP_PRECONDITION, "the import failed before; begin it again");
}

/* The file that was written until now is whole and on the disk. */
static esp_code end_file(store_stage *stage, esp_error *err) {
    if (stage->file < 0) return ESP_OK;
    store_file *file = current(stage);
    uint8_t hash[SHA256_BYTES];
    if (stage->written != file->bytes)
        return esp_fail_field(err, ESP_INVALID, "bytes",
                              "%s: %llu of %llu bytes came; send all of them", file->name,
                              (unsigned long long)stage->written, (unsigned long long)file->bytes);
    esp_code code = store_sync(stage->store, stage->file, file->name, err);
    if (code != ESP_OK) return code;
    close(stage->file);
    stage->file = -1;
    sha256_end(stage->sum, hash);
    sha256_close(stage->sum);
    stage->sum = NULL;
    sha256_hex(file->sha256, hash);
    return ESP_OK;
}

static bool has_file(const store_stage *stage, const char *name) {
    for (uint32_t i = 0; i < stage->manifest.file_count; i++)
        if (!strcmp(stage->manifest.files[i].name, name)) return true;
    return false;
}

/* Bytes that a file of this name may have; 0: an adapter has none of this name. */
static uint64_t most_bytes(const store_stage *stage, const char *name) {
    if (!strcmp(name, ADAPTER_CONFIG_FILE) || !strcmp(name, ADAPTER_LABELS_FILE))
        return STORE_CONFIG_BYTES_MAX;
    if (adapter_is_token_file(name)) return STORE_TOKENS_BYTES_MAX;
    if (!strcmp(name, ADAPTER_TENSORS_FILE) || !strcmp(name, ADAPTER_GGUF_FILE))
        return stage->store->options.adapter_bytes_max;
    return 0;
}

static esp_code check_file(const store_stage *stage, const char *name, uint64_t bytes,
                           esp_error *err) {
    char shown[64];
    uint64_t most = most_bytes(stage, name);
    esp_show(shown, sizeof shown, name, strlen(name));
    if (!most)
        return esp_fail_field(err, ESP_INVALID, "file",
                              "\"%s\" is no file of an adapter; wanted " ADAPTER_CONFIG_FILE
                              " and " ADAPTER_TENSORS_FILE ", or " ADAPTER_GGUF_FILE,
                              shown);
    if (has_file(stage, name) || stage->manifest.file_count == ADAPTER_FILES_MAX)
        return esp_fail_field(err, ESP_INVALID, "file", "%s came twice", shown);
    if (bytes > 0 && bytes <= most) return ESP_OK;
    return esp_fail_field(err, ESP_INVALID, "bytes", "%s has %llu bytes; wanted 1 to %llu", shown,
                          (unsigned long long)bytes, (unsigned long long)most);
}

/* Room for so many more bytes, by the store's limit. */
static esp_code check_limit(const adapter_store *store, uint64_t bytes, esp_error *err) {
    uint64_t most = store->options.bytes_max, there = most ? store_bytes(store) : 0, sum;
    if (!most || (check_add(there, bytes, &sum) && sum <= most)) return ESP_OK;
    return esp_fail(
        err, ESP_EXHAUSTED,
        "the adapter store is full: it holds %llu bytes, %llu more are too many for its "
        "limit of %llu; remove adapters or raise the limit",
        (unsigned long long)there, (unsigned long long)bytes, (unsigned long long)most);
}

/* The same by the disk, before they come. */
static esp_code check_disk(const adapter_store *store, uint64_t bytes, esp_error *err) {
    struct statvfs disk;
    if (fstatvfs(store->root_fd, &disk) != 0) return ESP_OK; /* then a write will tell */
    uint64_t room = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (bytes <= room) return ESP_OK;
    return esp_fail(
        err, ESP_EXHAUSTED,
        "the disk is full: %llu bytes are wanted where the adapter store lies, %llu are "
        "free",
        (unsigned long long)bytes, (unsigned long long)room);
}

static esp_code begin_file(store_stage *stage, const char *name, uint64_t bytes, esp_error *err) {
    esp_code code = end_file(stage, err);
    if (code == ESP_OK) code = check_file(stage, name, bytes, err);
    if (code == ESP_OK) code = check_limit(stage->store, bytes, err);
    if (code == ESP_OK) code = check_disk(stage->store, bytes, err);
    if (code != ESP_OK) return code;
    stage->file = store_open_at(stage->store, stage->folder, name, O_WRONLY | O_CREAT | O_EXCL);
    if (stage->file < 0) return store_fail(err, name, "create it");
    store_file *file = &stage->manifest.files[stage->manifest.file_count++];
    snprintf(file->name, sizeof file->name, "%s", name);
    file->bytes = bytes;
    stage->manifest.bytes += bytes;
    stage->written = 0;
    stage->sum = sha256_open();
    return ESP_OK;
}

esp_code store_stage_file(store_stage *stage, const char *name, uint64_t bytes, esp_error *err) {
    if (stage->broken) return refuse_broken(err);
    return fail_stage(stage, begin_file(stage, name, bytes, err));
}

static esp_code write_piece(store_stage *stage, const void *bytes, size_t count, esp_error *err) {
    if (stage->file < 0)
        return esp_fail_field(err, ESP_INVALID, "file", "bytes came before their file was named");
    store_file *file = current(stage);
    if (count > file->bytes - stage->written)
        return esp_fail_field(err, ESP_INVALID, "bytes",
                              "%s: more came than the declared %llu bytes", file->name,
                              (unsigned long long)file->bytes);
    sha256_add(stage->sum, bytes, count);
    stage->written += count;
    return store_write_all(stage->store, stage->file, bytes, count, file->name, err);
}

esp_code store_stage_write(store_stage *stage, const void *bytes, size_t count, esp_error *err) {
    if (stage->broken) return refuse_broken(err);
    return fail_stage(stage, write_piece(stage, bytes, count, err));
}

/* ---- commit ---- */

static esp_code check_files(const store_stage *stage, esp_error *err) {
    bool gguf = has_file(stage, ADAPTER_GGUF_FILE);
    bool peft = has_file(stage, ADAPTER_CONFIG_FILE) && has_file(stage, ADAPTER_TENSORS_FILE);
    if (gguf ? stage->manifest.file_count == 1 : peft) return ESP_OK;
    return esp_fail_field(err, ESP_INVALID, "file",
                          "an adapter is " ADAPTER_CONFIG_FILE " and " ADAPTER_TENSORS_FILE
                          ", or " ADAPTER_GGUF_FILE " alone; %u other file(s) came",
                          stage->manifest.file_count);
}

static esp_code check_digest(store_stage *stage, esp_error *err) {
    store_manifest *m = &stage->manifest;
    adapter_digest_file files[ADAPTER_FILES_MAX];
    for (uint32_t i = 0; i < m->file_count; i++) {
        files[i].name = m->files[i].name;
        ESP_ASSERT(sha256_read_hex(m->files[i].sha256, files[i].hash));
    }
    adapter_digest(m->digest, files, m->file_count);
    if (!stage->declared[0] || !strcmp(stage->declared, m->digest)) return ESP_OK;
    return esp_fail_field(
        err, ESP_INVALID, "digest",
        "the files are %s; declared was %s: they are not the ones that were meant", m->digest,
        stage->declared);
}

static esp_code check_content(store_stage *stage, esp_error *err) {
    char path[PATH_MAX];
    bool gguf = has_file(stage, ADAPTER_GGUF_FILE);
    int bytes = snprintf(path, sizeof path, "%s/stage/%s%s", stage->store->root, stage->id,
                         gguf ? "/" ADAPTER_GGUF_FILE : "");
    if (bytes >= (int)sizeof path)
        return esp_fail(err, ESP_INVALID, "the adapter store's path is too long");
    /* The base first: what is beyond it looks like a hole to who does not know it. */
    esp_code code = ESP_OK;
    if (stage->options.check) code = stage->options.check(stage->options.check_arg, path, err);
    if (code == ESP_OK) code = store_read_facts(path, &stage->manifest, err);
    if (code != ESP_OK && err) esp_rename(err, stage->id, stage->name);
    return code;
}

static esp_code put_manifest(store_stage *stage, esp_error *err) {
    store_print_time(stage->manifest.imported);
    char *text = store_print_manifest(&stage->manifest);
    esp_code code =
        store_write(stage->store, stage->folder, STORE_MANIFEST_FILE, text, strlen(text), err);
    free(text);
    return code == ESP_OK ? store_sync(stage->store, stage->folder, STORE_MANIFEST_FILE, err)
                          : code;
}

/* To its place, unless the same lies there already and is sound. */
static esp_code put_blob(store_stage *stage, esp_error *err) {
    adapter_store *store = stage->store;
    const char *digest = stage->manifest.digest, *hex = store_hex_of(digest);
    struct stat status;
    bool there = fstatat(store->folders[FOLDER_BLOBS], hex, &status, AT_SYMLINK_NOFOLLOW) == 0;
    if (there && store_verify(store, digest, NULL) == ESP_OK) return ESP_OK;
    if (!there) {
        esp_code code = check_limit(store, stage->manifest.bytes, err);
        if (code != ESP_OK) return code;
    }
    return store_publish(store, stage->id, FOLDER_BLOBS, hex, there, err);
}

static uint32_t version_with(const store_name *name, const char *digest) {
    for (uint32_t i = 0; i < name->count; i++)
        if (!strcmp(name->versions[i].digest, digest)) return i;
    return name->count;
}

/* Index of the name's version with the stage's content; a new one is the last. */
static esp_code add_version(const store_stage *stage, store_name *name, uint32_t *index,
                            esp_error *err) {
    *index = version_with(name, stage->manifest.digest);
    if (*index < name->count) return ESP_OK;
    if (name->count == STORE_VERSIONS_MAX || name->next == UINT32_MAX)
        return esp_fail_field(err, ESP_EXHAUSTED, "name",
                              "adapter \"%s\" has %u versions, as many as a name may have; remove "
                              "old ones",
                              name->name, name->count);
    name->versions = mem_resize(name->versions, name->count + 1, sizeof *name->versions);
    store_version *version = &name->versions[name->count++];
    *version = (store_version){.version = name->next++};
    memcpy(version->digest, stage->manifest.digest, sizeof version->digest);
    memcpy(version->imported, stage->manifest.imported, sizeof version->imported);
    return ESP_OK;
}

static esp_code write_name(const store_stage *stage, store_name *name, uint32_t index,
                           esp_error *err) {
    if (!name->alias || !stage->options.keep_alias) name->alias = name->versions[index].version;
    return store_write_name(stage->store, name, err);
}

/* Under the lock. */
static esp_code publish(store_stage *stage, store_name *name, store_ref *out, esp_error *err) {
    adapter_store *store = stage->store;
    uint32_t index = 0;
    esp_code code = store_read_name(store, stage->name, name, err);
    if (code == ESP_NOT_FOUND) {
        *name = (store_name){.next = 1};
        memcpy(name->name, stage->name, sizeof name->name);
        code = ESP_OK;
    }
    if (code == ESP_OK) code = add_version(stage, name, &index, err);
    if (code == ESP_OK) code = store_mark(store, store_hex_of(stage->manifest.digest), err);
    if (code == ESP_OK) code = put_blob(stage, err);
    if (code == ESP_OK) code = write_name(stage, name, index, err);
    if (code == ESP_OK) code = store_fill_ref(store, name, &name->versions[index], out, err);
    return code;
}

static esp_code commit(store_stage *stage, store_ref *out, esp_error *err) {
    int lock;
    store_name name = {0};
    esp_code code = end_file(stage, err);
    if (code == ESP_OK) code = check_files(stage, err);
    if (code == ESP_OK) code = check_digest(stage, err);
    if (code == ESP_OK) code = check_content(stage, err);
    if (code == ESP_OK) code = put_manifest(stage, err);
    if (code == ESP_OK) code = store_lock(stage->store, &lock, err);
    if (code != ESP_OK) return code;
    code = publish(stage, &name, out, err);
    if (code == ESP_OK)
        store_unmark(stage->store, store_hex_of(stage->manifest.digest));
    else
        store_settle(stage->store);
    store_unlock(lock);
    store_name_free(&name);
    return code;
}

esp_code store_stage_commit(store_stage *stage, store_ref *out, esp_error *err) {
    store_ref unused;
    if (stage->broken) return refuse_broken(err);
    esp_code code = commit(stage, out ? out : &unused, err);
    stage->broken = true;
    return code;
}

void store_stage_close(store_stage *stage) {
    if (!stage) return;
    if (stage->file >= 0) close(stage->file);
    if (stage->sum) sha256_close(stage->sum);
    if (stage->id[0]) store_discard(stage->store, stage->id);
    if (stage->folder >= 0) close(stage->folder);
    free(stage);
}
