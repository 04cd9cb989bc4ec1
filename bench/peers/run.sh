#!/usr/bin/env bash
# run.sh - Espalier beside llama.cpp and vLLM's CPU build: installs them into the cache, then measures every bar.
#
#   bench/peers/run.sh [--case NAME,...] [--rounds 5] [--threads 2] [--peers llama.cpp,vllm] [--int8] [--json] [--out FILE]
#
# Builds the release preset and the load client, fetches the models, builds llama.cpp (15 minutes the first time) and
# installs vLLM (3 GB). A peer that can't be had is told in one line and left out. `--help` lists the cases. All of
# them, five rounds: about an hour on 2 cores, to be left alone by everything else. Exit 1: a bar was missed.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/lib.sh
. "$HERE/../../scripts/lib.sh"

PEERS=llama.cpp,vllm
PYTHON="$CACHE/peers/venv/bin/python"

# value_of FLAG ARGUMENT...: what stands behind the flag.
value_of() {
    local flag="$1" before=
    shift
    for argument in "$@"; do
        [ "$before" != "$flag" ] || echo "$argument"
        before="$argument"
    done
}

wants() { [[ ",$PEERS," == *",$1,"* ]]; }

skip() { printf 'skipped: %s\n' "$*" >&2; }

build_ours() {
    if ! grep -qs '^ESPALIER_TESTS:BOOL=ON' "$ROOT/build/release/CMakeCache.txt"; then
        configure_preset release -DESPALIER_TESTS=ON
    fi
    build_preset release espalier load_client
}

# The reference of the quality cases.
install_numpy() {
    venv_python "$CACHE/peers/venv"
    "$PYTHON" -c 'import numpy, gguf' 2>/dev/null ||
        logged peers-numpy "$CACHE/peers/venv/bin/pip" install --disable-pip-version-check numpy==2.4.6 gguf==0.19.0 ||
        { skip "quality cases and vllm: numpy and gguf could not be installed (see build/logs/peers-numpy.log)"; PYTHON=; }
}

make_bf16() {
    local folder="$CACHE/peers/${MODEL_FILE%.gguf}-bf16"
    [ -d "$folder" ] || logged peers-bf16 "$PYTHON" "$HERE/hf_folder.py" "$MODEL" "$folder" || return 1
    echo "$folder"
}

main() {
    local given llama= vllm= bf16=
    given="$(value_of --peers "$@")"
    PEERS="${given:-$PEERS}"
    install_packages build server fetch test >&2
    build_ours >&2
    fetch_model >&2 || fail "the model could not be downloaded (see build/logs/fetch-model.log)"
    "$ROOT/scripts/fetch_models.sh" >&2
    mkdir -p "$CACHE/peers" "$LOGS"
    install_numpy
    if wants llama.cpp; then
        llama="$("$HERE/build_llama_cpp.sh")" || skip "llama.cpp: see above"
    fi
    if wants vllm && [ -n "$PYTHON" ]; then
        vllm="$("$HERE/install_vllm.sh")" || skip "vllm: see above"
        [ -z "$vllm" ] || bf16="$(make_bf16)" || { skip "vllm: no bf16 folder (see build/logs/peers-bf16.log)"; vllm=; }
    fi
    exec python3 "$HERE/run.py" --cache "$CACHE" --espalier "$ROOT/build/release/espalier" \
        --client "$ROOT/build/release/bench/load_client" --llama "$llama" --vllm "$vllm" --bf16 "$bf16" --numpy "$PYTHON" "$@"
}

main "$@"
