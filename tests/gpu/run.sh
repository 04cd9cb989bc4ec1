#!/usr/bin/env bash
# run.sh - every test of the CUDA backend on this machine's device: tests/cuda, which elsewhere runs emulated.
#
#   tests/gpu/run.sh [--programs FOLDER] [NAME...]     builds (or takes FOLDER's programs), runs, prints a table
#   tests/gpu/run.sh --pack FOLDER                     builds for all architectures, fills FOLDER, runs nothing
#
# NAME: only tests whose name has it. Exit 0: all passed; 1: some failed; 77: there is no device. Results go to
# bench/results/tests-<device>-<date>.json (ESPALIER_GPU_RESULTS: another folder). What is needed: scripts/gpu_lib.sh.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
# shellcheck source=scripts/gpu_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/gpu_lib.sh"

PACK=
NAMES=()
LIMIT_S=600

usage() { sed -n '2,/^# SPDX/{/^# SPDX/d;s/^# \{0,1\}//;p}' "$0"; }

parse_flags() {
    while [ $# -gt 0 ]; do
        case "$1" in
        --programs | --pack)
            [ $# -ge 2 ] || fail "$1 wants a folder after it"
            if [ "$1" = --pack ]; then PACK="$2"; else PROGRAMS="$(cd "$2" && pwd)" || exit 1; fi
            shift
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        -*) fail "unknown argument $1; see --help" ;;
        *) NAMES+=("$1") ;;
        esac
        shift
    done
}

is_wanted() {
    local name
    [ "${#NAMES[@]}" -gt 0 ] || return 0
    for name in "${NAMES[@]}"; do
        case "$1" in *"$name"*) return 0 ;; esac
    done
    return 1
}

# run_test PROGRAM LOG: prints a verdict: passed, failed, skipped or late.
run_test() {
    local status=0
    (cd "$ROOT" && timeout "$LIMIT_S" "$1") >"$2" 2>&1 || status=$?
    case "$status" in
    0) echo passed ;;
    77) echo skipped ;;
    124) echo late ;;
    *) echo failed ;;
    esac
}

run_all() {
    local logs="$ROOT/build/gpu-tests" program name verdict began cases rows=() bad=0 all=0
    mkdir -p "$logs"
    printf '%-34s %-8s %9s %6s\n' test verdict seconds cases
    for program in "$PROGRAMS"/test_cuda_*; do
        name="$(basename "$program")"
        is_wanted "$name" || continue
        began="$(date +%s.%N)"
        verdict="$(run_test "$program" "$logs/$name.log")"
        began="$(awk -v a="$began" -v b="$(date +%s.%N)" 'BEGIN {printf "%.2f", b - a}')"
        cases="$(sed -n 's/^cases: //p' "$logs/$name.log")" # of the kernel matrix: tests/cuda/kernel_cases.h
        all=$((all + ${cases:-0}))
        printf '%-34s %-8s %9s %6s\n' "$name" "$verdict" "$began" "$cases"
        rows+=("{\"test\":\"$name\",\"verdict\":\"$verdict\",\"seconds\":$began,\"cases\":${cases:-0}}")
        if [ "$verdict" = failed ] || [ "$verdict" = late ]; then
            bad=$((bad + 1))
            grep -E 'ERROR|LINE|FAILED|Error|assert' "$logs/$name.log" | head -n 5 | sed 's/^/    /'
        fi
    done
    [ "${#rows[@]}" -gt 0 ] || fail "no test has such a name"
    write_results "${rows[@]}"
    printf '%d tests with %d cases of kernels on %s, %d failed\n' "${#rows[@]}" "$all" "$DEVICE_NAME" "$bad"
    [ "$bad" -eq 0 ]
}

write_results() {
    local out
    out="$RESULTS/tests-$(echo "$DEVICE_NAME" | tr ' A-Z/' '-a-z-')-$(date +%F).json"
    mkdir -p "$(dirname "$out")"
    {
        printf '{"device":%s,"commit":"%s","rows":[\n' "$DEVICE" "$(git -C "$ROOT" describe --always --dirty 2>/dev/null || echo unknown)"
        (IFS=$'\n'; echo "$*") | sed '$!s/$/,/'
        printf ']}\n'
    } >"$out"
    say "results: ${out#"$ROOT/"}"
}

main() {
    parse_flags "$@"
    if [ -n "$PACK" ]; then
        build_programs "" gpu
        collect_programs "$PACK"
        say "packed: $(du -sh "$PACK" | cut -f 1) in $PACK"
        exit 0
    fi
    need_programs
    DEVICE="$(probe_device)" || exit $?
    DEVICE_NAME="$(echo "$DEVICE" | sed 's/.*"name":"\([^"]*\)".*/\1/')"
    run_all
}

main "$@"
