#!/usr/bin/env bash
# check.sh - every timed bar of the project, measured on this machine: bar, measured value, verdict.
#
#   bench/check.sh [--quick] [--builds] | [--load] [--limits] | --soak [--minutes N] | --lora [--case NAME,...]
#
# --quick leaves the side-by-side run with llama.cpp out; it is also left out, and said so, until
# bench/peers/build_llama_cpp.sh has built it. --builds times a build from clean of each preset too (minutes).
# --load measures cold starts alone, with a checkpoint of 2.5 GB that the first run makes in the cache folder.
# --limits measures decode beside the read bandwidth, and prefill of that checkpoint beside the matrix rate, alone.
# --soak is bench/soak.py: a server under load for 15 minutes, or N. --lora is bench/bench_lora.py: the bars of adapters.
# Exit 1 when a bar is missed. Run it on a quiet machine: figures of a busy one say nothing.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
CACHE="${ESPALIER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/espalier}"
PYTHON="${ESPALIER_TEST_PYTHON:-$CACHE/venv-tests/bin/python}"
if [ ! -x "$PYTHON" ] || [ ! -x "$ROOT/build/release/espalier" ]; then
    echo "check.sh: the release build or the test client is missing: run scripts/test.sh --release-only first" >&2
    exit 1
fi
if [ "${1:-}" = --soak ]; then
    shift
    exec "$PYTHON" "$ROOT/bench/soak.py" "$@"
fi
if [ "${1:-}" = --lora ]; then
    shift
    exec "$PYTHON" "$ROOT/bench/bench_lora.py" "$@"
fi
exec "$PYTHON" "$ROOT/bench/check.py" "$@"
