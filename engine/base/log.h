/* log.h - one logfmt line per event on stderr: ts=... level=info event=model_loaded key=value ...
 *
 * Thread  any; a line is written by one write(2). Never called by the decode step.
 * Values with spaces are quoted by the caller's format ("reason=\"%s\""). Prompts and answers are
 * never logged. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_LOG_H
#define ESPALIER_BASE_LOG_H

#include "engine/base/status.h"

typedef enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_OFF } log_level;

/* Lines below this level are dropped; the default is LOG_INFO. Set once at start. */
void log_set_level(log_level level);

/* log_event(LOG_INFO, "serving", "grpc=%s models=%u", address, count) */
void log_event(log_level level, const char *event, const char *format, ...) ESP_PRINTF(3, 4);

#endif
