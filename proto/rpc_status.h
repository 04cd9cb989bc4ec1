/* rpc_status.h - esp_error <-> google.rpc.Status, the bytes of "grpc-status-details-bin". */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_RPC_STATUS_H
#define ESPALIER_RPC_STATUS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

/* Bytes that rpc_status_pack may write. */
enum { RPC_STATUS_BYTES_MAX = 2048 };

/* ErrorInfo always; BadRequest when a field is named; RetryInfo when retry_ms > 0. Returns the
 * bytes written. */
size_t rpc_status_pack(const esp_error *error, uint8_t out[RPC_STATUS_BYTES_MAX]);

/* Fills field and retry_ms from details that another server sent; leaves them alone when there are
 * none. */
void rpc_status_read(const uint8_t *bytes, size_t count, esp_error *error);

#endif
