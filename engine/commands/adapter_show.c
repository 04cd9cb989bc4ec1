/* adapter_show.c - espalier adapter list and show: what the store holds. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "engine/commands/adapter.h"

/* ---- list ---- */

typedef struct list_options {
    bool json;
    store_place store;
} list_options;

static const flag list_flags[] = {
    {.name = "json",
     .kind = FLAG_SWITCH,
     .offset = offsetof(list_options, json),
     .help = "an array of objects, each the version that the name means"},
};
static const flag_table list_table = {
    .title = "List", .flags = list_flags, .count = sizeof list_flags / sizeof *list_flags};

static const flag_command list_command = {
    .name = "adapter list",
    .summary = "The names in the store, and of each the version that the bare name means.",
    .usage = "[--json] [--store DIR]",
    .examples = "  espalier adapter list\n"
                "  espalier adapter list --json | jq -r '.[].name'\n",
    .part = {{&list_table, 0}, {&store_flags, offsetof(list_options, store)}},
};

static const store_version *version_of(const store_name *name, uint32_t version) {
    for (uint32_t i = 0; i < name->count; i++)
        if (name->versions[i].version == version) return &name->versions[i];
    return NULL;
}

static void print_row(const store_name *name, const store_version *v, const store_manifest *m,
                      int width) {
    printf("%-*s %8u %9u %7s %10s  %.19s  %s\n", width, name->name, v->version, name->count,
           show_ranks(m).text, show_size(m->bytes).text, v->digest, m->base);
}

/* A manifest that cannot be read is told in its row: "error". */
static json_t *list_row(const store_name *name, const store_version *v, const store_manifest *m,
                        const esp_error *wrong) {
    json_t *row = describe_version(name->name, v, m);
    json_object_set_new(row, "versions", json_integer(name->count));
    if (wrong->code != ESP_OK) json_object_set_new(row, "error", json_string(wrong->message));
    return row;
}

static int widest(const store_list *list) {
    size_t most = strlen("NAME");
    for (uint32_t i = 0; i < list->count; i++)
        if (strlen(list->at[i].name) > most) most = strlen(list->at[i].name);
    return (int)most;
}

/* The first damaged one is what the command ends with, after all have been listed. */
static esp_code print_list(adapter_store *store, const store_list *list, bool json,
                           esp_error *err) {
    int width = widest(list);
    json_t *rows = json ? json_array() : NULL;
    if (!json && list->count)
        printf("%-*s %8s %9s %7s %10s  %-19s  %s\n", width, "NAME", "VERSION", "VERSIONS", "RANK",
               "SIZE", "DIGEST", "BASE");
    for (uint32_t i = 0; i < list->count; i++) {
        const store_name *name = &list->at[i];
        const store_version *v = version_of(name, name->alias);
        store_manifest m;
        esp_error wrong = {0};
        esp_code code = store_read_manifest(store, v->digest, &m, &wrong);
        if (code != ESP_OK) m = (store_manifest){0};
        if (code != ESP_OK && err->code == ESP_OK)
            (void)!esp_fail(err, code, "%s: %s", name->name, wrong.message);
        if (json)
            json_array_append_new(rows, list_row(name, v, &m, &wrong));
        else
            print_row(name, v, &m, width);
    }
    if (json) print_json(rows);
    return err->code;
}

esp_code adapter_list(int argc, char **argv, esp_error *err) {
    list_options o = {0};
    bool go;
    adapter_store *store;
    esp_code code = command_options(&list_command, argc, argv, &o, &go, err);
    if (!go) return code;
    code = open_store(&o.store, false, &store, err);
    if (code != ESP_OK) return code;
    store_list list;
    code = store_read_list(store, &list, err);
    if (code == ESP_OK) code = print_list(store, &list, o.json, err);
    store_list_free(&list);
    store_close(store);
    return code;
}

/* ---- show ---- */

typedef struct show_options {
    const char *reference;
    bool json, verify;
    store_place store;
} show_options;

static const flag show_flags[] = {
    {.name = "verify",
     .kind = FLAG_SWITCH,
     .offset = offsetof(show_options, verify),
     .help = "read every byte and compare it with what was imported"},
    {.name = "json",
     .kind = FLAG_SWITCH,
     .offset = offsetof(show_options, json),
     .help = "a JSON object"},
};
static const flag_table show_table = {
    .title = "Show", .flags = show_flags, .count = sizeof show_flags / sizeof *show_flags};

static const flag_command show_command = {
    .name = "adapter show",
    .summary = "All about one version, the one that the bare name means unless another is said,\n"
               "and which other versions there are.",
    .usage = "NAME[@VERSION] [--verify] [--json] [--store DIR]",
    .examples = "  espalier adapter show intents\n"
                "  espalier adapter show intents@2 --verify\n"
                "  espalier adapter show intents@sha256:1f0c3a5577b0 --json\n",
    .positional = "NAME",
    .positional_offset = offsetof(show_options, reference),
    .positional_required = true,
    .part = {{&show_table, 0}, {&store_flags, offsetof(show_options, store)}},
};

static void print_versions(const store_name *name) {
    printf("versions\n");
    for (uint32_t i = 0; i < name->count; i++) {
        const store_version *v = &name->versions[i];
        printf("  %-8u %s  %s%s\n", v->version, v->imported, v->digest,
               v->version == name->alias ? "  <- the bare name" : "");
    }
}

static void print_shown(const store_ref *ref, const store_manifest *m, const store_name *name) {
    printf("name        %s@%u\ndigest      %s\nimported    %s\nbase        %s\n", ref->name,
           ref->version, ref->digest, ref->imported, m->base[0] ? m->base : "(not recorded)");
    printf(
        "rank        %s\ntargets     %s\nparameters  %llu\nsize        %s\npath        %s\nfiles\n",
        show_ranks(m).text, m->targets[0] ? m->targets : "none", (unsigned long long)m->parameters,
        show_size(m->bytes).text, ref->path);
    for (uint32_t i = 0; i < m->file_count; i++)
        printf("  %-26s %12llu  sha256:%s\n", m->files[i].name,
               (unsigned long long)m->files[i].bytes, m->files[i].sha256);
    print_versions(name);
}

static json_t *show_object(const store_ref *ref, const store_manifest *m, const store_name *name) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < name->count; i++)
        json_array_append_new(list, json_pack("{s:I,s:s,s:s}", "version",
                                              (json_int_t)name->versions[i].version, "digest",
                                              name->versions[i].digest, "imported",
                                              name->versions[i].imported));
    json_t *root = describe_version(ref->name, version_of(name, ref->version), m);
    json_object_set_new(root, "alias", json_integer(name->alias));
    json_object_set_new(root, "path", json_string(ref->path));
    json_object_set_new(root, "versions", list);
    return root;
}

static esp_code show(adapter_store *store, const show_options *o, store_name *name,
                     esp_error *err) {
    store_ref ref;
    store_manifest m;
    esp_code code = store_resolve(store, o->reference, &ref, err);
    if (code == ESP_OK) code = store_read_manifest(store, ref.digest, &m, err);
    if (code == ESP_OK && o->verify) code = store_verify(store, ref.digest, err);
    if (code == ESP_OK) code = store_read_name(store, ref.name, name, err);
    if (code != ESP_OK) return code;
    if (!version_of(name, ref.version))
        return esp_fail(err, ESP_NOT_FOUND, "%s@%u was removed just now", ref.name, ref.version);
    if (o->json)
        print_json(show_object(&ref, &m, name));
    else
        print_shown(&ref, &m, name);
    return ESP_OK;
}

esp_code adapter_show(int argc, char **argv, esp_error *err) {
    show_options o = {0};
    bool go;
    adapter_store *store;
    esp_code code = command_options(&show_command, argc, argv, &o, &go, err);
    if (!go) return code;
    code = open_store(&o.store, false, &store, err);
    if (code != ESP_OK) return code;
    store_name name = {0};
    code = show(store, &o, &name, err);
    store_name_free(&name);
    store_close(store);
    return code;
}
