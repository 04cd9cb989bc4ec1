/* control.h - espalier.v1.Control: the adapters of a running engine, for its operators.
 *
 * Reading, checking and packing an adapter takes a worker of the control listener, never one that
 * serves clients. An unload is answered when its last user has ended (unload_wait.h).
 *
 *   upload: first message --check, stage--> chunks --written as they come--> end --commit--> load
 *             \___________ anything wrong, or the caller gone: the stage is closed and nothing is left
 *
 * Thread   handlers: workers of the control listener. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CONTROL_H
#define ESPALIER_CONTROL_H

#include "engine/adapters/adapter_group.h"
#include "engine/adapters/store.h"
#include "proto/rpc.h"

typedef struct control control;

enum { CONTROL_PAGE_DEFAULT = 100, CONTROL_PAGE_MAX = 1000 };

/* store NULL: uploads, and what is stored, are refused. Both outlive the control. */
ESP_CHECKED esp_code control_open(control **out, adapter_group *from, adapter_store *store,
                                  esp_error *err);
void control_close(control *c); /* its calls are over; NULL is fine */

/* The handlers. */
void control_load(control *c, rpc_call *call, const ProtobufCMessage *message); /* uploads */
void control_unload(control *c, rpc_call *call, const ProtobufCMessage *message);
void control_list(control *c, rpc_call *call, const ProtobufCMessage *message);
void control_set_alias(control *c, rpc_call *call, const ProtobufCMessage *message);
void control_pin(control *c, rpc_call *call, const ProtobufCMessage *message);

#endif
