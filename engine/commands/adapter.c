/* adapter.c - espalier adapter COMMAND: finds the command; what all of them need. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/commands/adapter.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "engine/config.h"

static const struct {
    const char *name;
    esp_code (*run)(int argc, char **argv, esp_error *err);
    const char *arguments, *summary;
} commands[] = {
    {"import", adapter_import, "DIR --name NAME", "copy an adapter into the store"},
    {"list", adapter_list, "", "names, versions, sizes"},
    {"show", adapter_show, "NAME", "all about one: versions, ranks, targets, files"},
    {"alias", adapter_alias, "NAME VERSION", "make the bare name mean that version"},
    {"remove", adapter_remove, "NAME[@VERSION]", "take a version, or a name with all, away"},
    {"merge", adapter_merge, "", "write base and adapter as one plain checkpoint"},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void help(void) {
    printf("LoRA adapters by name: a store on disk that servers load from.\n\n"
           "usage: espalier adapter COMMAND [options]\n\n");
    for (int i = 0; i < COMMANDS; i++)
        printf("  %-8s%-18s%s\n", commands[i].name, commands[i].arguments, commands[i].summary);
    printf(
        "\nAn import is a new version of its name: intents@1, intents@2, ... The bare name means "
        "the\nversion that its alias says, the last import unless told otherwise; "
        "intents@sha256:1f0c...\nnames a version by its content (12 digits or more).\n\n"
        "examples:\n"
        "  espalier adapter import ./banking77-smollm2-r8 --name intents --base m.gguf\n"
        "  espalier adapter list\n"
        "  espalier adapter alias intents 1\n"
        "  espalier adapter remove intents@2\n"
        "  espalier adapter merge --model base/ --adapter intents-r8/ --out merged/\n\n"
        "espalier adapter COMMAND --help tells a command's options.\n");
}

esp_code command_adapter(int argc, char **argv, esp_error *err) {
    if (argc == 0 || !strcmp(argv[0], "--help") || !strcmp(argv[0], "-h")) {
        help();
        return ESP_OK;
    }
    for (int i = 0; i < COMMANDS; i++)
        if (!strcmp(argv[0], commands[i].name)) return commands[i].run(argc - 1, argv + 1, err);
    return esp_fail(
        err, ESP_OUT_OF_RANGE,
        "unknown command \"%s\"; wanted import, list, show, alias, remove or merge (espalier "
        "adapter --help)",
        argv[0]);
}

/* ---- the store ---- */

static const flag flags[] = {
    {.name = "store",
     .kind = FLAG_TEXT,
     .offset = offsetof(store_place, path),
     .placeholder = "DIR",
     .help = "the store; default $XDG_DATA_HOME/espalier/adapters, else "
             "~/.local/share/espalier/adapters"},
};
const flag_table store_flags = {
    .title = "Store", .flags = flags, .count = sizeof flags / sizeof *flags};

esp_code open_store(const store_place *place, bool create, adapter_store **out, esp_error *err) {
    char folder[PATH_MAX];
    const char *root = place->path;
    *out = NULL;
    if (!root) root = config_adapter_store(folder, sizeof folder);
    if (!root)
        return esp_fail_field(
            err, ESP_OUT_OF_RANGE, "--store",
            "neither XDG_DATA_HOME nor HOME says where the store is; give --store "
            "DIR");
    return store_open(out, &(store_options){.root = root, .create = create}, err);
}

/* ---- printing ---- */

size_text show_size(uint64_t bytes) {
    size_text out;
    if (bytes < 1000000)
        snprintf(out.text, sizeof out.text, "%.1f kB", (double)bytes * 1e-3);
    else if (bytes < 1000000000)
        snprintf(out.text, sizeof out.text, "%.1f MB", (double)bytes * 1e-6);
    else
        snprintf(out.text, sizeof out.text, "%.1f GB", (double)bytes * 1e-9);
    return out;
}

rank_text show_ranks(const store_manifest *m) {
    rank_text out;
    if (m->rank_max == 0)
        snprintf(out.text, sizeof out.text, "none");
    else if (m->rank_min == m->rank_max)
        snprintf(out.text, sizeof out.text, "%u", m->rank_max);
    else
        snprintf(out.text, sizeof out.text, "%u-%u", m->rank_min, m->rank_max);
    return out;
}

json_t *describe_version(const char *name, const store_version *version, const store_manifest *m) {
    json_t *files = json_array();
    for (uint32_t i = 0; i < m->file_count; i++)
        json_array_append_new(files, json_pack("{s:s,s:I,s:s}", "name", m->files[i].name, "bytes",
                                               (json_int_t)m->files[i].bytes, "sha256",
                                               m->files[i].sha256));
    json_t *root =
        json_pack("{s:s,s:I,s:s,s:s,s:I,s:I,s:I,s:I,s:s,s:s,s:o}", "name", name, "version",
                  (json_int_t)version->version, "digest", version->digest, "imported",
                  version->imported, "bytes", (json_int_t)m->bytes, "parameters",
                  (json_int_t)m->parameters, "rank_min", (json_int_t)m->rank_min, "rank_max",
                  (json_int_t)m->rank_max, "targets", m->targets, "base", m->base, "files", files);
    ESP_ASSERT(root);
    return root;
}

void print_json(json_t *root) {
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}
