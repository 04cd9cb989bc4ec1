#!/usr/bin/env bash
# rendezvous.sh [dead] - ranks of several processes that meet at an address, one or several in each: the tokens of --tp
# in one process, through an adapter too; and what is refused. dead: a server and its ranks hear of a process that is
# killed, however long they would wait for it.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
build="${ESPALIER_BUILD:-$here/../../build/release}"
espalier="$build/espalier" vectors="$here/../vectors"
work="$(mktemp -d)"
# So long a test may hang, and ranks of a busy machine wait for each other.
patience=240
others=()
cleanup() {
    for pid in "${others[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT

die() {
    echo "rendezvous.sh: $*" >&2
    cat "$work"/* >&2 2>/dev/null || true
    exit 1
}

model="$vectors/families/qwen3.gguf"
generate() {
    timeout "$patience" "$espalier" generate --model "$model" --device ref --rank-patience "$patience" --ids 5,6,7,8,9 \
        --max-tokens 16 --ignore-eos --temperature 0 --json "$@" | sed 's/"seed":[0-9]*//'
}

# None of those that the kernel deals out, which somebody else's connection could have before rank 0 listens.
free_port() {
    local port=$((20000 + RANDOM % 12000))
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((20000 + RANDOM % 12000)); done
    echo "$port"
}

# A process's --rank: from which on, of so many each.
span() { if [ "$2" = 1 ]; then echo "$1"; else echo "$1-$(($1 + $2 - 1))"; fi; }

# So many ranks, so many a process. The others are started first; options go to all of them.
together() {
    local ranks="$1" each="$2" at rank
    shift 2
    at="127.0.0.1:$(free_port)"
    others=()
    for ((rank = ranks - each; rank > 0; rank -= each)); do
        timeout "$patience" "$espalier" generate --model "$model" --device ref --ids 5 --tp "$ranks" --rendezvous "$at" \
            --rank-patience "$patience" --rank "$(span "$rank" "$each")" "$@" >"$work/other$rank" 2>"$work/log$rank" &
        others+=($!)
    done
    generate --tp "$ranks" --rendezvous "$at" --rank "$(span 0 "$each")" "$@"
    for pid in "${others[@]}"; do wait "$pid" || die "another rank failed"; done
    others=()
}

# Starts a process of a server of four ranks, two each.
serve() {
    "$espalier" serve --model "$model" --device ref --grpc 127.0.0.1:0 --http off --tp 4 --rendezvous "$at" --rank "$1" \
        --rank-patience "$patience" >"$work/out$1" 2>"$work/log$1" &
    others+=($!)
}

wait_for() {
    local end=$((SECONDS + patience))
    until grep -q "$1" "$2" 2>/dev/null; do
        [ $SECONDS -lt $end ] || die "no \"$1\" in $patience s"
        sleep 0.1
    done
}

start_server() {
    at="127.0.0.1:$(free_port)"
    others=()
    rm -f "$work"/log* # those of the server before said "serving", too
    serve 0-1
    serve 2-3
    wait_for event=serving "$work/log0-1"
}

if [ "${1:-}" = dead ]; then
    start_server
    kill -KILL "${others[1]}"
    wait_for "the process of ranks 2 to 3 of 4 has ended" "$work/log0-1"
    kill -TERM "${others[0]}"
    wait "${others[0]}" || die "the server did not end well"
    start_server
    kill -KILL "${others[0]}"
    if wait "${others[1]}"; then die "its end was no failure"; fi
    grep -q "the process of ranks 0 to 1 of 4 has ended" "$work/log2-3" || die "no sentence in the other process"
    start_server
    kill -TERM "${others[0]}"
    wait "${others[0]}" || die "the server did not end well"
    wait "${others[1]}" || die "the other process did not end well"
    others=()
    echo "processes that are killed, and that stop: ok"
    exit 0
fi

# An engine of all processes is measured, too.
at="127.0.0.1:$(free_port)"
bench() {
    timeout "$patience" "$espalier" bench --model "$model" --device ref --concurrency 2 --prompt-tokens 8 --output-tokens 4 --json \
        --tp 4 --rendezvous "$at" --rank "$1" --rank-patience "$patience"
}
bench 2-3 >"$work/other" &
others=($!)
bench 0-1 >"$work/measured"
wait "${others[0]}" || die "the other process did not end well"
others=()
grep -q "tp=4,.*\"output_tok_s\"" "$work/measured" || die "no row of four ranks"
[ ! -s "$work/other" ] || die "the other process prints, too"

for shape in "2 1" "4 1" "4 2" "4 4"; do
    read -r ranks each <<<"$shape"
    for through in "" "p=$vectors/lora/qwen3-patterns"; do
        with=()
        [ -z "$through" ] || with=(--adapter "$through")
        generate --tp "$ranks" "${with[@]}" >"$work/threads"
        together "$ranks" "$each" "${with[@]}" >"$work/processes"
        grep -q "tp=$ranks," "$work/processes" || die "the profile says nothing of the ranks"
        cmp -s "$work/threads" "$work/processes" || die "other tokens at $ranks ranks, $each a process"
    done
done

# A sentence that must be said, then options.
refused() {
    local words="$1"
    shift
    if timeout "$patience" "$espalier" generate --model "$model" --device ref --ids 5 "$@" 2>"$work/err"; then die "taken: $*"; fi
    grep -q -- "$words" "$work/err" || die "another sentence for $*"
}
refused "goes with --rendezvous" --tp 2 --rank 1
refused "goes with --rendezvous" --tp 2 --rank 0-1
refused "the last is 1" --tp 2 --rendezvous x:1 --rank 2
refused "the last is 3" --tp 4 --rendezvous x:1 --rank 2-4
refused "not shared out in processes of 3" --tp 4 --rendezvous x:1 --rank 0-2
refused "have 0-1, 2-3 and so on" --tp 4 --rendezvous x:1 --rank 1-2

# Who comes with other ranks than the process of rank 0 is told, which goes on waiting.
at="127.0.0.1:$(free_port)"
generate --tp 4 --rendezvous "$at" --rank 0-1 >"$work/first" &
others=($!)
refused "has 2 of the ranks, and each other one must have as many" --tp 4 --rendezvous "$at" --rank 2
refused "was started with --tp 4" --tp 8 --rendezvous "$at" --rank 2-3
"$espalier" generate --model "$model" --device ref --ids 5 --tp 4 --rendezvous "$at" --rank 2-3 || die "not taken"
wait "${others[0]}" || die "it did not go on"
others=()
echo "ranks that meet at an address: ok"
