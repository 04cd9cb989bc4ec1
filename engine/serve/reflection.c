/* reflection.c - an index of symbols over the descriptor set, searched in order: there are some
 * fifty. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/serve/reflection.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "internal/descriptor_names.pb-c.h"
#include "proto/descriptors.h"

typedef struct symbol {
    char *name; /* "espalier.v1.Inference.Generate" */
    uint32_t file;
    bool service;
} symbol;

struct reflection {
    Espalier__Internal__FileSet *set;
    uint32_t file_count;
    Espalier__Internal__FileNames **files;
    uint32_t symbol_count;
    symbol *symbols;
};

/* ---- the index ---- */

/* Returns the full name, kept by the index. */
static const char *add_symbol(reflection *r, uint32_t file, const char *scope, const char *name,
                              bool service) {
    char *full;
    int bytes = asprintf(&full, "%s%s%s", scope, *scope ? "." : "", name);
    ESP_ASSERT(bytes > 0);
    r->symbols = mem_resize(r->symbols, r->symbol_count + 1, sizeof *r->symbols);
    r->symbols[r->symbol_count++] = (symbol){.name = full, .file = file, .service = service};
    return full;
}

static void add_names(reflection *r, uint32_t file, const char *scope,
                      Espalier__Internal__PlainName **names, size_t count) {
    for (size_t i = 0; i < count; i++)
        add_symbol(r, file, scope, names[i]->name, false);
}

/* Recursion as deep as our own .proto files nest. */
static void add_message(reflection *r, uint32_t file, const char *scope,
                        const Espalier__Internal__MessageNames *m) {
    const char *name = add_symbol(r, file, scope, m->name, false);
    add_names(r, file, name, m->enum_type, m->n_enum_type);
    for (size_t i = 0; i < m->n_nested_type; i++)
        add_message(r, file, name, m->nested_type[i]);
}

static void add_file(reflection *r, uint32_t file) {
    const Espalier__Internal__FileNames *f = r->files[file];
    const char *package = f->package ? f->package : "";
    add_names(r, file, package, f->enum_type, f->n_enum_type);
    for (size_t i = 0; i < f->n_message_type; i++)
        add_message(r, file, package, f->message_type[i]);
    for (size_t i = 0; i < f->n_service; i++) {
        const char *name = add_symbol(r, file, package, f->service[i]->name, true);
        add_names(r, file, name, f->service[i]->method, f->service[i]->n_method);
    }
}

reflection *reflection_open(const char *except) {
    reflection *r = mem_new(1, sizeof *r);
    r->set = espalier__internal__file_set__unpack(NULL, descriptor_set_bytes, descriptor_set);
    ESP_ASSERT(r->set);
    r->file_count = (uint32_t)r->set->n_file;
    r->files = mem_new(r->file_count, sizeof *r->files);
    for (uint32_t i = 0; i < r->file_count; i++) {
        r->files[i] =
            espalier__internal__file_names__unpack(NULL, r->set->file[i].len, r->set->file[i].data);
        ESP_ASSERT(r->files[i] && r->files[i]->name);
        if (!except || strcmp(r->files[i]->name, except) != 0)
            add_file(r, i);
        else
            r->files[i]->name[0] = '\0'; /* found by nobody */
    }
    return r;
}

void reflection_close(reflection *r) {
    if (!r) return;
    for (uint32_t i = 0; i < r->symbol_count; i++)
        free(r->symbols[i].name);
    for (uint32_t i = 0; i < r->file_count; i++)
        espalier__internal__file_names__free_unpacked(r->files[i], NULL);
    espalier__internal__file_set__free_unpacked(r->set, NULL);
    free(r->symbols);
    free(r->files);
    free(r);
}

const char *reflection_service(const reflection *r, uint32_t index) {
    for (uint32_t i = 0; i < r->symbol_count; i++)
        if (r->symbols[i].service && index-- == 0) return r->symbols[i].name;
    return NULL;
}

static int64_t find_file(const reflection *r, const char *name) {
    for (uint32_t i = 0; i < r->file_count; i++)
        if (!strcmp(r->files[i]->name, name)) return i;
    return -1;
}

static int64_t find_symbol(const reflection *r, const char *name) {
    for (uint32_t i = 0; i < r->symbol_count; i++)
        if (!strcmp(r->symbols[i].name, name)) return r->symbols[i].file;
    return -1;
}

/* ---- answers ---- */

typedef Grpc__Reflection__V1__ServerReflectionRequest question;
typedef Grpc__Reflection__V1__ServerReflectionResponse answer;
#define ASKED(name) GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##name
#define GIVEN(name) GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##name

static void send_services(const reflection *r, rpc_call *call, answer *a) {
    enum { SERVICES_MAX = 32 };
    Grpc__Reflection__V1__ServiceResponse one[SERVICES_MAX], *all[SERVICES_MAX];
    Grpc__Reflection__V1__ListServiceResponse list =
        GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    const char *name;
    for (;
         list.n_service < SERVICES_MAX && (name = reflection_service(r, (uint32_t)list.n_service));
         list.n_service++) {
        grpc__reflection__v1__service_response__init(&one[list.n_service]);
        one[list.n_service].name = (char *)name;
        all[list.n_service] = &one[list.n_service];
    }
    list.service = all;
    a->message_response_case = GIVEN(LIST_SERVICES_RESPONSE);
    a->list_services_response = &list;
    rpc_send(call, &a->base);
}

/* The file, then what it imports, each once. */
static void collect(const reflection *r, uint32_t file, bool *seen, ProtobufCBinaryData *out,
                    size_t *count) {
    if (seen[file]) return;
    seen[file] = true;
    out[(*count)++] = r->set->file[file];
    for (size_t i = 0; i < r->files[file]->n_dependency; i++) {
        int64_t import = find_file(r, r->files[file]->dependency[i]);
        if (import >= 0) collect(r, (uint32_t)import, seen, out, count);
    }
}

static void send_file(const reflection *r, rpc_call *call, answer *a, uint32_t file) {
    Grpc__Reflection__V1__FileDescriptorResponse found =
        GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    bool *seen = mem_new(r->file_count, sizeof *seen);
    found.file_descriptor_proto = mem_new(r->file_count, sizeof *found.file_descriptor_proto);
    collect(r, file, seen, found.file_descriptor_proto, &found.n_file_descriptor_proto);
    a->message_response_case = GIVEN(FILE_DESCRIPTOR_RESPONSE);
    a->file_descriptor_response = &found;
    rpc_send(call, &a->base);
    free(found.file_descriptor_proto);
    free(seen);
}

static void send_not_found(rpc_call *call, answer *a) {
    Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    error.error_code = ESP_NOT_FOUND;
    error.error_message = (char *)"not found";
    a->message_response_case = GIVEN(ERROR_RESPONSE);
    a->error_response = &error;
    rpc_send(call, &a->base);
}

void reflection_answer(const reflection *r, rpc_call *call, const ProtobufCMessage *message) {
    const question *q = (const void *)message;
    answer a = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    int64_t file = -1;
    a.valid_host = q->host;
    a.original_request = (question *)(uintptr_t)q;
    if (q->message_request_case == ASKED(LIST_SERVICES)) {
        send_services(r, call, &a);
        return;
    }
    if (q->message_request_case == ASKED(FILE_BY_FILENAME))
        file = find_file(r, q->file_by_filename);
    if (q->message_request_case == ASKED(FILE_CONTAINING_SYMBOL))
        file = find_symbol(r, q->file_containing_symbol);
    if (file >= 0)
        send_file(r, call, &a, (uint32_t)file);
    else
        send_not_found(call, &a);
}
