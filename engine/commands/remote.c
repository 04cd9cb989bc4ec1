/* remote.c - reaching a running server. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/commands/remote.h"

#define FIELD(field) .offset = offsetof(client_options, field)

static const flag flags[] = {
    {.name = "token",
     .kind = FLAG_TEXT,
     FIELD(token),
     .placeholder = "TOKEN",
     .help = "bearer token, for a server with --token-file"},
    {.name = "ca",
     .kind = FLAG_TEXT,
     FIELD(ca_file),
     .placeholder = "FILE",
     .help = "use TLS and trust these roots, PEM"},
    {.name = "cert",
     .kind = FLAG_TEXT,
     FIELD(cert_file),
     .placeholder = "FILE",
     .help = "own certificate, PEM, for a server with --client-ca"},
    {.name = "key",
     .kind = FLAG_TEXT,
     FIELD(key_file),
     .placeholder = "FILE",
     .help = "its private key, PEM"},
};
const flag_table remote_flags = {
    .title = "Connection", .flags = flags, .count = sizeof flags / sizeof *flags};

#ifdef ESPALIER_SERVER
esp_code remote_open(client **out, const client_options *options, esp_error *err) {
    if (!options->cert_file != !options->key_file)
        return esp_fail(err, ESP_OUT_OF_RANGE, "--cert and --key go together; one is missing");
    if (options->cert_file && !options->ca_file)
        return esp_fail(err, ESP_OUT_OF_RANGE, "--cert needs TLS: give --ca too");
    return client_open(out, options, err);
}
#endif
