#!/usr/bin/env bash
# run.sh PYTEST-ARGUMENT... - pytest in the venv of scripts/test.sh; exit 77 (ctest: skipped) where that or
# the model was not downloaded. ESPALIER_BIN: the binary under test, else the release build's.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cache="${ESPALIER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/espalier}"
python="${ESPALIER_TEST_PYTHON:-$cache/venv-tests/bin/python}"
export ESPALIER_MODEL="${ESPALIER_MODEL:-$cache/models/SmolLM2-135M-Instruct.Q4_1.gguf}"
for needed in "$python" "$ESPALIER_MODEL"; do
    if [ ! -e "$needed" ]; then
        echo "skipped: not downloaded: $needed"
        exit 77
    fi
done
export PYTHONDONTWRITEBYTECODE=1
# ctest runs as many tests at once as there are processors.
export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-1}"
cd "$here"
exec "$python" -m pytest "$@"
