/* adapter_import.c - espalier adapter import: an adapter's files into the store. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "engine/adapters/adapter_words.h"
#include "engine/commands/adapter.h"
#include "engine/model/lora/lora_file.h"

typedef struct options {
    const char *path, *name, *base, *digest;
    bool keep_alias, json, allow_other_base;
    store_place store;
} options;

static const flag own_flags[] = {
    {.name = "name",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, name),
     .placeholder = "NAME",
     .required = true,
     .help = "what it is called: a-z, 0-9, '.', '_' and '-'; a name that is there gets a further "
             "version"},
    {.name = "base",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, base),
     .placeholder = "MODEL",
     .help = "the model it was trained for, a GGUF file or a folder: every tensor is held against "
             "it; without this option only what needs no base is checked, and the rest when it is "
             "loaded"},
    {.name = "allow-other-base",
     .kind = FLAG_SWITCH,
     .offset = offsetof(options, allow_other_base),
     .help = "import it although it was trained on a model of another name than --base"},
    {.name = "digest",
     .kind = FLAG_TEXT,
     .offset = offsetof(options, digest),
     .placeholder = "SHA256",
     .help = "refuse any other content than sha256:<64 digits>; see espalier adapter show"},
    {.name = "keep-alias",
     .kind = FLAG_SWITCH,
     .offset = offsetof(options, keep_alias),
     .help = "the bare name goes on meaning the version it does now"},
    {.name = "json",
     .kind = FLAG_SWITCH,
     .offset = offsetof(options, json),
     .help = "print the version as a JSON object"},
};
static const flag_table own_table = {
    .title = "Import", .flags = own_flags, .count = sizeof own_flags / sizeof *own_flags};

static const flag_command command = {
    .name = "adapter import",
    .summary = "Copies an adapter into the store, as the next version of a name: a PEFT folder\n"
               "(adapter_config.json + adapter_model.safetensors) or a GGUF file of type adapter.\n"
               "Content that the name has already is found again instead.",
    .usage = "DIR --name NAME [--base MODEL] [options]",
    .examples = "  espalier adapter import ./intents-r8 --name intents --base m.gguf\n"
                "  espalier adapter import lora.gguf --name tone --keep-alias\n",
    .positional = "DIR",
    .positional_offset = offsetof(options, path),
    .positional_required = true,
    .part = {{&own_table, 0}, {&store_flags, offsetof(options, store)}},
};

/* Against the base, as a server would. */
typedef struct against {
    const model_file *base;
    bool allow_other;
} against;

/* The base's tokens and the adapter's; a base without a tokenizer is served by nobody. */
static esp_code check_words(const against *a, const lora_facts *facts, const char *path,
                            esp_error *err) {
    tokenizer *tok = NULL;
    adapter_words words = {0};
    if (!facts->tables || model_file_tokenizer(a->base, &tok, NULL) != ESP_OK) tok = NULL;
    esp_code code = adapter_words_open(&words, facts, path, model_file_spec(a->base), tok, err);
    adapter_words_close(&words);
    tok_close(tok);
    return code;
}

static esp_code check_against(void *arg, const char *path, esp_error *err) {
    lora_file *file;
    const against *a = arg;
    esp_code code = lora_file_open(&file, path, model_file_weights(a->base), err);
    if (code == ESP_OK) code = lora_file_refuse_other(file, a->allow_other, err);
    if (code == ESP_OK) code = check_words(a, lora_file_facts(file), path, err);
    if (code == ESP_OK && lora_file_facts(file)->warning[0])
        fprintf(stderr, "espalier adapter: %s\n", lora_file_facts(file)->warning);
    lora_file_close(file);
    return code;
}

static esp_code print_imported(adapter_store *store, const store_ref *ref, bool json,
                               esp_error *err) {
    store_manifest m;
    esp_code code = store_read_manifest(store, ref->digest, &m, err);
    if (code != ESP_OK) return code;
    if (json) {
        store_version version = {.version = ref->version};
        memcpy(version.digest, ref->digest, sizeof version.digest);
        memcpy(version.imported, ref->imported, sizeof version.imported);
        print_json(describe_version(ref->name, &version, &m));
    } else {
        printf("%s@%u  %s  rank %s on %s, %s\n", ref->name, ref->version, ref->digest,
               show_ranks(&m).text, m.targets[0] ? m.targets : "nothing", show_size(m.bytes).text);
    }
    return ESP_OK;
}

static esp_code import(const options *o, model_file *base, adapter_store *store, esp_error *err) {
    store_ref ref;
    against how_checked = {base, o->allow_other_base};
    store_import_options how = {.name = o->name,
                                .digest = o->digest,
                                .keep_alias = o->keep_alias,
                                .check = base ? check_against : NULL,
                                .check_arg = &how_checked};
    esp_code code = store_import(store, o->path, &how, &ref, err);
    return code == ESP_OK ? print_imported(store, &ref, o->json, err) : code;
}

esp_code adapter_import(int argc, char **argv, esp_error *err) {
    options o = {0};
    bool go;
    model_file *base = NULL;
    adapter_store *store = NULL;
    esp_code code = command_options(&command, argc, argv, &o, &go, err);
    if (!go) return code;
    code = store_check_name(o.name, strlen(o.name), err);
    if (code == ESP_OK && o.base) code = model_file_open(&base, o.base, err);
    if (code == ESP_OK) code = open_store(&o.store, true, &store, err);
    if (code == ESP_OK) code = import(&o, base, store, err);
    store_close(store);
    model_file_close(base);
    return code;
}
