#!/usr/bin/env bash
# gpu.sh - what the CUDA backend reaches on this machine's device, beside its bars and beside PyTorch where that is.
#
#   bench/gpu.sh [--programs FOLDER] [--cold-start FOLDER] [--no-torch] [PART...]    parts of bench_gpu; all by default
#
# Builds as tests/gpu/run.sh does (or takes FOLDER's programs), runs bench_gpu, bench/gpu/torch_rows.py where python3
# can import torch, and with --cold-start (a folder on a disk with 20 GB) an 8B checkpoint from the page cache to its
# first token. Ends with a table, writes bench/results/<device>-<date>.json. Exit 0: every bar met; 1: not; 77: no
# device. Nothing is downloaded.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
# shellcheck source=scripts/gpu_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/gpu_lib.sh"

COLD=
TORCH=true
PARTS=()

usage() { sed -n '2,/^# SPDX/{/^# SPDX/d;s/^# \{0,1\}//;p}' "$0"; }

parse_flags() {
    while [ $# -gt 0 ]; do
        case "$1" in
        --programs | --cold-start)
            [ $# -ge 2 ] || fail "$1 wants a folder after it"
            if [ "$1" = --cold-start ]; then COLD="$2"; else PROGRAMS="$(cd "$2" && pwd)" || exit 1; fi
            shift
            ;;
        --no-torch) TORCH=false ;;
        -h | --help)
            usage
            exit 0
            ;;
        -*) fail "unknown argument $1; see --help" ;;
        *) PARTS+=("$1") ;;
        esac
        shift
    done
}

# Seconds from the command to its first token, the files being in the page cache.
cold_start() {
    local model="$COLD/llama-3.1-8b-random" began
    [ -e "$model" ] || "$PROGRAMS/espalier" make-weights --shape llama-3.1-8b --out "$model" >&2
    cat "$model"/*.safetensors >/dev/null
    began="$(date +%s.%N)"
    "$PROGRAMS/espalier" generate --model "$model" --device cuda --ids 1,2,3 --max-tokens 1 --ignore-eos --json >&2 ||
        return 1
    awk -v a="$began" -v b="$(date +%s.%N)" 'BEGIN {s = b - a
        printf "{\"bench\":\"cold start\",\"of\":\"llama-3.1-8b\",\"format\":\"BF16\",\"us\":%.0f,\"value\":%.2f,", s * 1e6, s
        printf "\"unit\":\"s to the first token\",\"at_most\":5,\"met\":%s}\n", s <= 5 ? "true" : "false"}'
}

# report ROWS: the table, and whether all bars are met. What was measured is not lost for want of an interpreter.
report() {
    if command -v python3 >/dev/null; then
        python3 "$ROOT/bench/gpu/report.py" --results "$RESULTS" "$1"
        return
    fi
    say "no table: there is no python3; rows: ${1#"$ROOT"/}"
    ! grep '"met":false' "$1" >&2
}

main() {
    local rows="$ROOT/build/gpu-bench.jsonl" whole=true
    parse_flags "$@"
    need_programs
    probe_device >/dev/null
    mkdir -p "$ROOT/build"
    say "measuring (minutes)"
    "$PROGRAMS/bench_gpu" "${PARTS[@]}" | tee "$rows" >&2 || whole=false
    grep -q '"bench":"device"' "$rows" || fail "bench_gpu ended before it measured anything, see above"
    if [ -n "$COLD" ]; then
        cold_start >>"$rows" || whole=false
    fi
    if $TORCH && python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
        say "measuring PyTorch"
        python3 "$ROOT/bench/gpu/torch_rows.py" >>"$rows" || say "PyTorch: not measured, see above"
    else
        say "PyTorch: not measured (--no-torch, or python3 cannot import torch with CUDA)"
    fi
    report "$rows" || exit 1
    $whole || fail "the table has what was measured: something ended early, see above"
}

main "$@"
