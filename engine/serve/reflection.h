/* reflection.h - grpc.reflection: which services there are, and their descriptors.
 *
 * Thread  read-only after open: any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_REFLECTION_H
#define ESPALIER_REFLECTION_H

#include "proto/rpc.h"

typedef struct reflection reflection;

reflection *reflection_open(void); /* over the descriptors built into the program */
void reflection_close(reflection *r);
/* The first service's index is 0; NULL past the last. */
const char *reflection_service(const reflection *r, uint32_t index);
/* Handler of v1 and v1alpha: their messages are the same. */
void reflection_answer(const reflection *r, rpc_call *call, const ProtobufCMessage *message);

#endif
