#!/usr/bin/env bash
# quickstart.sh - from a fresh Debian 12 machine to a streamed answer, and a server that stays.
#
#   ./scripts/quickstart.sh [--once] [--grpc HOST:PORT] [--http HOST:PORT]
#
# Installs the packages it needs, builds the release preset, brings a small model, serves it on the loopback
# address and asks it one question through the public API; then serves until Ctrl-C. --once stops after the
# answer. ESPALIER_GRPC and ESPALIER_HTTP say the same as the flags; ESPALIER_CACHE moves the model's folder.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

GRPC="${ESPALIER_GRPC:-127.0.0.1:8470}"
HTTP="${ESPALIER_HTTP:-127.0.0.1:8471}"
ONCE=false
ESPALIER="$ROOT/build/release/espalier"
SERVE_LOG="$LOGS/serve.log"
SERVER=

usage() { sed -n '2,/^# SPDX/{/^# SPDX/d;s/^# \{0,1\}//;p}' "$0"; }

parse_flags() {
    while [ $# -gt 0 ]; do
        case "$1" in
        --once) ONCE=true ;;
        --grpc | --http)
            [ $# -ge 2 ] || fail "$1 wants HOST:PORT after it"
            if [ "$1" = --grpc ]; then GRPC="$2"; else HTTP="$2"; fi
            shift
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) fail "unknown argument $1; see --help" ;;
        esac
        shift
    done
}

# port_is_free FLAG HOST:PORT: or a sentence. Asked first, so that nobody waits for a build to hear it.
port_is_free() {
    local host="${2%:*}" port="${2##*:}"
    [[ "$2" == *:* && "$port" =~ ^[0-9]+$ && "$port" -ge 1 && "$port" -le 65535 ]] ||
        fail "--$1 $2 is not HOST:PORT with a port from 1 to 65535"
    # Debian's bash opens a connection through /dev/tcp; success means that someone listens there.
    if (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; then
        fail "$2 is in use: stop the program that listens there, or choose another port with --$1 HOST:PORT (or ESPALIER_${1^^})"
    fi
}

build_server() {
    # Tests are left out of a tree that is new, and CUDA kernels, which take minutes, where no device is; a
    # tree that scripts/test.sh made keeps them.
    if [ ! -f "$ROOT/build/release/CMakeCache.txt" ]; then
        configure_preset release -DESPALIER_TESTS=OFF "-DESPALIER_CUDA=$([ -e /dev/nvidia0 ] && echo AUTO || echo OFF)"
    elif [ ! -f "$ROOT/build/release/build.ninja" ]; then
        configure_preset release
    fi
    build_preset release espalier
}

start_server() {
    mkdir -p "$LOGS"
    # A session of its own: the terminal's Ctrl-C reaches only this script, which then asks for a drain once.
    setsid "$ESPALIER" serve --model "$MODEL" --grpc "$GRPC" --http "$HTTP" >"$SERVE_LOG" 2>&1 &
    SERVER=$!
    trap 'stop_server 143' TERM HUP
    trap 'stop_server 0' INT
    trap 'kill -TERM "$SERVER" 2>/dev/null || true' EXIT
    if ! wait_until_serving || ! kill -0 "$SERVER" 2>/dev/null; then
        tail -n 3 "$SERVE_LOG" >&2
        fail "the server did not come up at $GRPC: its log is build/logs/serve.log"
    fi
}

# Five minutes, for a busy machine; in turns, so that one that has ended is told soon.
wait_until_serving() {
    local turn
    for ((turn = 0; turn < 100; turn++)); do
        kill -0 "$SERVER" 2>/dev/null || return 1
        if "$ESPALIER" health "$GRPC" --wait 3 >/dev/null 2>&1; then return 0; fi
    done
    return 1
}

# stop_server CODE: drains; CODE when the server ended well, else the server's own.
stop_server() {
    trap - EXIT
    trap 'kill -TERM "$SERVER" 2>/dev/null || true' INT TERM HUP
    kill -TERM "$SERVER" 2>/dev/null || true
    wait_for_server || exit $?
    exit "$1"
}

# A signal ends bash's wait early, so wait until the process is really gone.
wait_for_server() {
    local code=0
    while :; do
        code=0
        wait "$SERVER" || code=$?
        kill -0 "$SERVER" 2>/dev/null || return "$code"
    done
}

ask() {
    say "asking through the gRPC API: espalier chat $GRPC --prompt ..."
    "$ESPALIER" chat "$GRPC" --prompt "In one sentence: what is an espalier in a garden?" --stats ||
        fail "no answer came from $GRPC: the server's log is build/logs/serve.log"
}

tell_how_to_go_on() {
    cat <<TEXT

== The server runs. From another terminal:
   ${ESPALIER#"$PWD/"} chat $GRPC      a chat in the terminal
   curl http://$HTTP/metrics           figures for Prometheus
   proto/espalier/v1/inference.proto             the API; every gRPC client works, for example Python:

     python3 -m venv /tmp/venv && /tmp/venv/bin/pip install grpcio-tools
     /tmp/venv/bin/python - <<'PY'
     import grpc
     inference_pb2, inference_pb2_grpc = grpc.protos_and_services("proto/espalier/v1/inference.proto")
     stub = inference_pb2_grpc.InferenceStub(grpc.insecure_channel("$GRPC"))
     request = inference_pb2.GenerateRequest(prompt="The capital of France is", max_tokens=16)
     for message in stub.Generate(request):
         print(message.text, end="", flush=True)
     PY

== Ctrl-C drains and stops it.
TEXT
}

main() {
    parse_flags "$@"
    port_is_free grpc "$GRPC"
    [ "$HTTP" = off ] || port_is_free http "$HTTP"
    install_packages build server fetch
    build_server
    fetch_model ||
        fail "the model could not be downloaded (see build/logs/fetch-model.log): pip found no registry; set PIP_INDEX_URL, or put $MODEL_FILE into $CACHE/models/"
    say "starting the server (log: build/logs/serve.log)"
    start_server
    ask
    if $ONCE; then
        stop_server 0
    fi
    tell_how_to_go_on
    wait_for_server || fail "the server ended by itself: its log is build/logs/serve.log"
}

main "$@"
