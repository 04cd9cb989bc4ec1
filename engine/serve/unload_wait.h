/* unload_wait.h - calls that are answered when the last user of an unloaded adapter has ended.
 *
 * A thread looks at the list of adapters while such calls wait, and sleeps otherwise. A caller who
 * leaves is forgotten; the unload goes on.
 *
 * Thread   any.
 * Locks    a call's events > the list's > the call's own. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_UNLOAD_WAIT_H
#define ESPALIER_UNLOAD_WAIT_H

#include "engine/adapters/adapter_group.h"
#include "proto/rpc.h"

typedef struct unload_waits unload_waits;

ESP_CHECKED esp_code unload_waits_open(unload_waits **out, adapter_group *from, esp_error *err);
void unload_waits_close(unload_waits *all); /* its calls are over; NULL is fine */

/* Finishes the call with answer, which is static, once no version that the reference names is leaving with
 * users. */
void unload_wait(unload_waits *all, rpc_call *call, const char *reference,
                 const ProtobufCMessage *answer);

/* Whether a reference is this version's: "name" is that of all its versions. */
bool adapter_is_named(const adapter_info *info, const char *reference);

#endif
