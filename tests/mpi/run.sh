#!/usr/bin/env bash
# run.sh HOW RANKS - one test of ranks as processes; exit 77 (ctest: skipped) where MPI is not there.
#
#   cases late dead    test_comm_mpi HOW under mpirun
#   generate           the tokens and the profile of mpirun are those of --tp
#   adapter            the same through an adapter
#   nodes              the same of processes with two ranks each
#   serve serve_dead   a server of two processes answers; and ends with a sentence when one is killed
#   nodes_dead         the same of processes with two ranks each
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
how="$1" ranks="$2"
build="${ESPALIER_BUILD:-$here/../../build/release}"
espalier="$build/espalier" model="$here/../vectors/families/qwen3.gguf"
device=ref
work="$(mktemp -d)"
server=
cleanup() {
    if [ -n "$server" ]; then
        pkill -KILL -P "$server" 2>/dev/null || true
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap cleanup EXIT
through=() serve_more=()

if ! command -v mpirun >/dev/null || [ ! -e "$build/libespalier_mpi.so" ]; then
    echo "skipped: MPI is not installed"
    exit 77
fi
# A container's only user may be root, and a small machine has fewer cores than ranks. Ranks here are neighbours.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl=self,vader OMPI_MCA_btl_vader_single_copy_mechanism=none
# Ranks of a busy machine wait for each other as long as a test may hang.
patience=240
mpi() { timeout "$patience" mpirun --bind-to none "$@"; }

die() {
    echo "run.sh: $*" >&2
    cat "$work"/* >&2 2>/dev/null || true
    exit 1
}

generate() {
    "$espalier" generate --model "$model" --ids 5,6,7,8,9 --max-tokens 24 --ignore-eos --temperature 0 --json \
        --device "$device" --rank-patience "$patience" "${through[@]}" "$@"
}

# Waits for a word in a file.
wait_for() {
    local end=$((SECONDS + patience))
    until grep -q "$1" "$2" 2>/dev/null; do
        [ $SECONDS -lt $end ] || die "no \"$1\" in $patience s"
        sleep 0.1
    done
}

start_server() {
    # Recovery: mpirun leaves the others alone when one dies, so that what they do is seen.
    mpirun --bind-to none "$@" -n "$ranks" "$espalier" serve --model "$model" --device "$device" --grpc 127.0.0.1:0 --http off \
        --rank-patience "$patience" "${serve_more[@]}" >"$work/out" 2>"$work/log" &
    server=$!
    wait_for event=serving "$work/log"
    port="$(sed -n 's/.*grpc=127.0.0.1:\([0-9]*\).*/\1/p' "$work/log")"
}

# The process of a rank of the server.
rank_pid() {
    local pid
    for pid in $(pgrep -P "$server" -x espalier); do
        if tr '\0' '\n' <"/proc/$pid/environ" | grep -qx "OMPI_COMM_WORLD_RANK=$1"; then echo "$pid"; fi
    done
}

# The end of MPI waits for all ranks, so it is left out and mpirun itself fails; the others' own verdicts count.
ranks_notice() {
    mpi --enable-recovery -n "$ranks" "$build/test_comm_mpi" "$how" "$1" >"$work/out" 2>"$work/log" || true
    cat "$work/out"
    [ "$(grep -c "^rank .*rank 1 of" "$work/out")" = $((ranks - 1)) ] && ! grep "^rank . of .: [a-z]" "$work/log"
}

case "$how" in
cases) mpi -n "$ranks" "$build/test_comm_mpi" cases ;;
late | dead)
    # On a busy machine somebody else may be late, too; then once more, with more patience.
    ranks_notice 2 || ranks_notice 8 || ranks_notice 32 || die "not all others noticed, or a verdict was bad"
    ;;
generate | adapter | nodes)
    if [ "$how" = generate ]; then device=auto; else through=(--adapter "p=$here/../vectors/lora/qwen3-patterns"); fi
    processes="$ranks" more=()
    if [ "$how" = nodes ]; then ranks=$((2 * processes)) more=(--tp $((2 * processes))); fi
    generate --tp "$ranks" >"$work/threads"
    mpi -n "$processes" "$espalier" generate "${more[@]}" --model "$model" --ids 5,6,7,8,9 --max-tokens 24 --ignore-eos \
        --temperature 0 --json --device "$device" --rank-patience "$patience" "${through[@]}" >"$work/processes"
    cat "$work/processes"
    grep -q "tp=$ranks," "$work/processes" || die "the profile says nothing of the ranks"
    [ "$how" = generate ] || grep -q '"adapter":"p@1"' "$work/processes" || die "not through the adapter"
    [ "$(sed 's/"seed":[0-9]*//' "$work/threads")" = "$(sed 's/"seed":[0-9]*//' "$work/processes")" ] || die "other tokens"
    ;;
serve)
    chats="${ESPALIER_MODEL:-$HOME/.cache/espalier/models/SmolLM2-135M-Instruct.Q4_1.gguf}"
    [ -e "$chats" ] || { echo "skipped: not downloaded: $chats" && exit 77; }
    model="$chats" device=auto
    start_server
    "$espalier" health "127.0.0.1:$port" --wait "$patience" | grep -q SERVING || die "not serving"
    "$espalier" chat "127.0.0.1:$port" --prompt "What is the capital of France?" --max-tokens 12 >"$work/answer" 2>"$work/chat" || die "no answer"
    cat "$work/answer"
    grep -q Paris "$work/answer" || die "another answer"
    kill -TERM "$(rank_pid 0)"
    wait "$server" || die "it did not end well"
    server=
    grep -q event=drained "$work/log" || die "it did not drain"
    ;;
serve_dead | nodes_dead)
    name="rank 1 of 2"
    if [ "$how" = nodes_dead ]; then serve_more=(--tp 4) name="the process of ranks 2 to 3 of 4"; fi
    start_server --enable-recovery
    kill -KILL "$(rank_pid 1)"
    wait_for "$name .* has ended" "$work/log"
    grep event=engine_broken "$work/log"
    ;;
*) die "no test is called $how" ;;
esac
