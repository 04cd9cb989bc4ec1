#!/usr/bin/env bash
# install_vllm.sh - vLLM's CPU build in a venv of the cache folder, every package of a pinned version.
#
# PyPI has torch for GPUs only: its CUDA libraries are asked for when torch is loaded, though nothing of theirs
# runs. So this takes 3 GB of downloads and 6 GB of disk. tcmalloc, which the build's own notes preload, comes out of
# Debian's package; nothing is installed outside the cache.
#
# Usage  install_vllm.sh     prints the venv; a finished one is found again in no time
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
REQUIREMENTS="$HERE/requirements-vllm.txt"
CACHE="${ESPALIER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/espalier}/peers"
VENV="$CACHE/vllm"
LOG="$CACHE/vllm.log"
DISK_GB=10

fail() {
    echo "install_vllm.sh: $*" >&2
    exit 1
}

fetch_tcmalloc() {
    local folder="$CACHE/tcmalloc"
    rm -rf "$folder"
    mkdir -p "$folder"
    (cd "$folder" && apt-get -q download libtcmalloc-minimal4 && dpkg-deb -x ./*.deb .) >>"$LOG" 2>&1 ||
        fail "apt-get download libtcmalloc-minimal4 failed (see $LOG): run apt-get update first"
    cp -L "$folder"/usr/lib/*/libtcmalloc_minimal.so.4 "$VENV/lib/"
}

install() {
    local free
    free="$(df --output=avail -BG "$CACHE" | tail -n 1 | tr -dc 0-9)"
    [ "$free" -ge "$DISK_GB" ] || fail "$CACHE has $free GB free; wanted $DISK_GB"
    echo "installing vLLM's CPU build into $VENV: 3 GB to download (log: $LOG)" >&2
    rm -rf "$VENV"
    python3 -m venv "$VENV" >"$LOG" 2>&1 || fail "python3 -m venv failed (see $LOG): install python3-venv"
    # Every package is named: --no-deps keeps pip from adding GPU compilers and torch's second build.
    "$VENV/bin/pip" install --disable-pip-version-check --no-deps --progress-bar off -r "$REQUIREMENTS" >>"$LOG" 2>&1 ||
        fail "pip failed (see $LOG): is a registry reachable, and is this Python 3.11 on x86-64?"
    fetch_tcmalloc
    "$VENV/bin/python" -c 'import vllm' >>"$LOG" 2>&1 || fail "vllm cannot be loaded (see $LOG)"
}

mkdir -p "$CACHE"
wanted="$(python3 --version) $(sha256sum <"$REQUIREMENTS")"
if [ "$(cat "$VENV/.stamp" 2>/dev/null)" != "$wanted" ]; then
    install
    echo "$wanted" >"$VENV/.stamp"
fi
echo "$VENV"
