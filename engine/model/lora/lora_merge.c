/* lora_merge.c - the folder of a merged checkpoint: made aside, opened as a model, renamed. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/lora/lora_merge.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/model/format/folder_files.h"
#include "engine/model/format/model_folder.h"
#include "engine/model/lora/lora_merge_inner.h"

/* Beside config.json and the weights: tokenizer, template, how a generation goes. */
static const char *const COPIED[] = {
    "added_tokens.json", "chat_template.jinja",     "chat_template.json", "generation_config.json",
    "merges.txt",        "special_tokens_map.json", "tekken.json",        "tokenizer.json",
    "tokenizer.model",   "tokenizer_config.json",   "vocab.json"};

static esp_code fail_system(const char *what, const char *path, esp_error *err) {
    char shown[96];
    int number = errno;
    file_show_name(shown, sizeof shown, path);
    esp_code code = number == ENOSPC || number == EDQUOT                     ? ESP_EXHAUSTED
                    : number == EACCES || number == EPERM || number == EROFS ? ESP_DENIED
                                                                             : ESP_INVALID;
    return esp_fail_field(err, code, "--out", "%s: cannot %s: %s", shown, what, strerror(number));
}

static esp_code join(char out[PATH_MAX], const char *folder, const char *name, esp_error *err) {
    if (snprintf(out, PATH_MAX, "%s/%s", folder, name) < PATH_MAX) return ESP_OK;
    return esp_fail_field(err, ESP_INVALID, "--out", "the path of the folder is too long");
}

/* ---- files ---- */

typedef esp_code (*file_writer)(const void *arg, FILE *file, esp_error *err);

static esp_code write_file(const char *folder, const char *name, file_writer writer,
                           const void *arg, esp_error *err) {
    char path[PATH_MAX];
    esp_code code = join(path, folder, name, err);
    if (code) return code;
    FILE *file = fopen(path, "wbx");
    if (!file) return fail_system("make the file", path, err);
    code = writer(arg, file, err);
    if (!code && (ferror(file) || fflush(file) != 0 || fsync(fileno(file)) != 0))
        code = fail_system("write", path, err);
    if (fclose(file) != 0 && !code) code = fail_system("write", path, err);
    return code;
}

static esp_code write_view(const void *arg, FILE *file, esp_error *err) {
    const file_view *view = arg;
    (void)err;
    fwrite(view->bytes, 1, view->count, file);
    return ESP_OK;
}

static esp_code write_tensors(const void *arg, FILE *file, esp_error *err) {
    return lora_merge_tensors(arg, file, err);
}

static esp_code write_config(const lora_merge_run *run, const char *folder, esp_error *err) {
    char *text;
    esp_code code = lora_merge_config(run, &text, err);
    if (code) return code;
    file_view view = {.bytes = (const uint8_t *)text, .count = strlen(text)};
    code = write_file(folder, "config.json", write_view, &view, err);
    free(text);
    return code;
}

static bool has_tokenizer(const folder_place *place) {
    return folder_has(place, "tokenizer.json") || folder_has(place, "tokenizer.model") ||
           folder_has(place, "tekken.json");
}

static esp_code copy_files(const char *from, const char *folder, bool *reads_text, esp_error *err) {
    folder_place place;
    esp_code code = folder_place_find(&place, from, err);
    for (size_t i = 0; i < sizeof COPIED / sizeof *COPIED && !code; i++) {
        char path[PATH_MAX];
        file_view view = {0};
        if (!folder_has(&place, COPIED[i])) continue;
        code = folder_file_find(&place, COPIED[i], path, err);
        if (!code) code = file_map(&view, path, "a tokenizer's file", err);
        if (!code) code = write_file(folder, COPIED[i], write_view, &view, err);
        file_unmap(&view);
    }
    *reads_text = !code && has_tokenizer(&place);
    return code;
}

/* Added tokens come with a tokenizer that knows them. */
static esp_code copy_tokenizer(const lora_merge_run *run, const char *folder, bool *reads_text,
                               esp_error *err) {
    const lora_merge_options *o = run->options;
    folder_place place;
    *reads_text = false;
    if (model_folder_is(o->adapter_path) && !folder_place_find(&place, o->adapter_path, NULL) &&
        has_tokenizer(&place))
        return copy_files(o->adapter_path, folder, reads_text, err);
    return model_folder_is(o->base_path) ? copy_files(o->base_path, folder, reads_text, err)
                                         : ESP_OK;
}

/* ---- the folder ---- */

static void remove_folder(const char *folder) {
    DIR *dir = opendir(folder);
    char path[PATH_MAX];
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (entry->d_name[0] != '.' && !join(path, folder, entry->d_name, NULL)) unlink(path);
    if (dir) closedir(dir);
    rmdir(folder);
}

static esp_code sync_folder(const char *folder, esp_error *err) {
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return fail_system("open the folder", folder, err);
    esp_code code = fsync(fd) == 0 ? ESP_OK : fail_system("write", folder, err);
    close(fd);
    return code;
}

/* What has been written reads as a model. */
static esp_code open_again(const char *folder, esp_error *err) {
    model_file *file = NULL;
    esp_error why = {0};
    esp_code code = model_file_open(&file, folder, &why);
    model_file_close(file);
    return code ? esp_fail(err, ESP_INTERNAL, "the merged model does not open: %s", why.message)
                : ESP_OK;
}

static esp_code fill_folder(const lora_merge_run *run, const char *folder, bool *reads_text,
                            esp_error *err) {
    esp_code code = write_config(run, folder, err);
    if (!code) code = copy_tokenizer(run, folder, reads_text, err);
    if (!code) code = write_file(folder, "model.safetensors", write_tensors, run, err);
    if (!code) code = open_again(folder, err);
    return code ? code : sync_folder(folder, err);
}

/* The name of `out` without slashes at its end, and that of the folder around it. */
static esp_code split_out(const char *out, char path[PATH_MAX], char around[PATH_MAX],
                          esp_error *err) {
    size_t bytes = strlen(out);
    while (bytes > 1 && out[bytes - 1] == '/')
        bytes--;
    if (bytes == 0 || bytes + 32 >= PATH_MAX)
        return esp_fail_field(err, ESP_INVALID, "--out", "wanted the path of a folder to make");
    snprintf(path, PATH_MAX, "%.*s", (int)bytes, out);
    const char *slash = strrchr(path, '/');
    snprintf(around, PATH_MAX, "%.*s", slash > path ? (int)(slash - path) : 1, slash ? path : ".");
    return ESP_OK;
}

static esp_code make_folder(const lora_merge_run *run, const char *path, const char *around,
                            bool *reads_text, esp_error *err) {
    char folder[PATH_MAX];
    struct stat status;
    if (lstat(path, &status) == 0)
        return esp_fail_field(err, ESP_EXISTS, "--out",
                              "something lies there already; wanted the path of a folder to make");
    snprintf(folder, sizeof folder, "%.*s.XXXXXX", PATH_MAX - 16, path);
    if (!mkdtemp(folder)) return fail_system("make a folder beside it", path, err);
    esp_code code = chmod(folder, 0755) ? fail_system("make", folder, err)
                                        : fill_folder(run, folder, reads_text, err);
    if (!code && rename(folder, path) != 0) code = fail_system("rename to", path, err);
    if (code)
        remove_folder(folder);
    else
        code = sync_folder(around, err);
    return code;
}

esp_code lora_merge(const model_file *base, const lora_file *adapter,
                    const lora_merge_options *options, bool *reads_text, esp_error *err) {
    char path[PATH_MAX], around[PATH_MAX];
    uint32_t grown = adapter->facts.whole_rows[LORA_EMBEDDING];
    lora_merge_run run = {.base = model_file_weights(base),
                          .adapter = adapter,
                          .options = options,
                          .untied = lora_merge_unties(adapter)};
    run.vocab = grown ? grown : run.base->spec.vocab;
    run.family = run.base->family;
    if (run.family == &family_llama && run.base->spec.window) run.family = &family_mistral;
    *reads_text = false;
    ESP_ASSERT(adapter->base == run.base);
    esp_code code = split_out(options->out, path, around, err);
    if (!code) code = lora_merge_check(&run, err);
    return code ? code : make_folder(&run, path, around, reads_text, err);
}
