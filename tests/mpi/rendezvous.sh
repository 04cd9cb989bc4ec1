#!/usr/bin/env bash
# rendezvous.sh - ranks that are processes of their own and meet at an address: the tokens of --tp in one process,
# through an adapter too; and what is refused.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
build="${ESPALIER_BUILD:-$here/../../build/release}"
espalier="$build/espalier" vectors="$here/../vectors"
work="$(mktemp -d)"
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

generate() {
    timeout 60 "$espalier" generate --model "$vectors/families/qwen3.gguf" --device ref --ids 5,6,7,8,9 --max-tokens 16 \
        --ignore-eos --temperature 0 --json "$@" | sed 's/"seed":[0-9]*//'
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# The others are started first; options go to all of them.
together() {
    local ranks="$1" at rank
    shift
    at="127.0.0.1:$(free_port)"
    others=()
    for ((rank = ranks - 1; rank > 0; rank--)); do
        timeout 60 "$espalier" generate --model "$vectors/families/qwen3.gguf" --device ref --ids 5 --tp "$ranks" \
            --rendezvous "$at" --rank "$rank" "$@" >"$work/other$rank" 2>"$work/log$rank" &
        others+=($!)
    done
    generate --tp "$ranks" --rendezvous "$at" "$@"
    for pid in "${others[@]}"; do wait "$pid" || die "another rank failed"; done
    others=()
}

for ranks in 2 4; do
    for through in "" "p=$vectors/lora/qwen3-patterns"; do
        with=()
        [ -z "$through" ] || with=(--adapter "$through")
        generate --tp "$ranks" "${with[@]}" >"$work/threads"
        together "$ranks" "${with[@]}" >"$work/processes"
        grep -q "tp=$ranks," "$work/processes" || die "the profile says nothing of the ranks"
        cmp -s "$work/threads" "$work/processes" || die "other tokens at $ranks ranks"
    done
done
if "$espalier" generate --model "$vectors/families/qwen3.gguf" --ids 5 --rank 1 --tp 2 2>"$work/err"; then die "--rank alone"; fi
grep -q "goes with --rendezvous" "$work/err" || die "no sentence for --rank alone"
if "$espalier" generate --model "$vectors/families/qwen3.gguf" --ids 5 --tp 2 --rendezvous x:1 --rank 2 2>"$work/err"; then die "--rank 2 of 2"; fi
grep -q "the last is 1" "$work/err" || die "no sentence for --rank 2 of 2"
echo "ranks that meet at an address: ok"
