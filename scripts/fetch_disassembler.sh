#!/usr/bin/env bash
# fetch_disassembler.sh - NVIDIA's disassembler, for the test that looks at kernels' instructions; 77 when no registry has it.
#
# The CUDA toolkit's own may be missing; PyPI has it in two wheels. They go into a venv under the cache, once.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

VENV="$CACHE/venv-sass"
WHEELS=(nvidia-cuda-cuobjdump==13.4.92 nvidia-cuda-nvdisasm==13.5.37)

[ "$(cat "$VENV/.stamp" 2>/dev/null)" != "${WHEELS[*]}" ] || exit 0
rm -rf "$VENV"
venv_python "$VENV"
if ! logged venv-sass "$VENV/bin/pip" install --disable-pip-version-check --no-deps --only-binary=:all: "${WHEELS[@]}"; then
    rm -rf "$VENV"
    exit 77
fi
echo "${WHEELS[*]}" >"$VENV/.stamp"
