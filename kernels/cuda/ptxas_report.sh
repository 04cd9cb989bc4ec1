#!/usr/bin/env bash
# ptxas_report.sh FILE NVCC...: runs nvcc with what ptxas says (-Xptxas=-v) in FILE; on failure it is shown.
# SPDX-License-Identifier: Apache-2.0
set -u
report="$1"
shift
if "$@" 2>"$report"; then
    exit 0
fi
status=$?
grep -v '^ptxas info' "$report" >&2
exit "$status"
