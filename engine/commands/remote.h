/* remote.h - the options of commands that talk to a running server. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_REMOTE_H
#define ESPALIER_REMOTE_H

#include "engine/flags.h"
#include "engine/serve/client.h"

/* --token, --ca, --cert, --key. Of a client_options. */
extern const flag_table remote_flags;

/* The server; without it in the build, the sentence that says so. */
ESP_CHECKED esp_code remote_open(client **out, const client_options *options, esp_error *err);

#endif
