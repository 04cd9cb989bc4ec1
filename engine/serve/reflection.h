/* reflection.h - grpc.reflection: which services there are, and their descriptors.
 *
 * Thread  read-only after open: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_REFLECTION_H
#define ESPALIER_REFLECTION_H

#include "proto/rpc.h"

typedef struct reflection reflection;

/* Over the descriptors built into the program, but for those of the file `except` ("espalier/v1/control.proto"):
 * another listener's. NULL: all. */
reflection *reflection_open(const char *except);
void reflection_close(reflection *r);
/* The first service's index is 0; NULL past the last. */
const char *reflection_service(const reflection *r, uint32_t index);
/* Handler of v1 and v1alpha: their messages are the same. */
void reflection_answer(const reflection *r, rpc_call *call, const ProtobufCMessage *message);

#endif
