/* control_parts.h - what the files of the Control service share; not for outsiders. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CONTROL_PARTS_H
#define ESPALIER_CONTROL_PARTS_H

#include "engine/serve/control.h"
#include "engine/serve/unload_wait.h"
#include "espalier/v1/control.pb-c.h"

struct control {
    adapter_group *adapters;
    adapter_store *store; /* or NULL */
    unload_waits *waits;
};

/* control.c: what a reference means now; false: it is not known. */
ESP_CHECKED bool control_find(control *c, const char *reference, adapter_info *out);
/* An adapter as a message. Its texts are info's. */
void control_describe(Espalier__V1__Adapter *out, const adapter_info *info);

#endif
