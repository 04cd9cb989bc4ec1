#!/usr/bin/env bash
# amx_flags.sh BUILD SOURCE COMPILER OPTION... - the kernels' unit test with the AMX sources compiled at -O2, at
# -O3 and with link-time optimisation: tile instructions whose operands the compiler is not told of work
# at one level and break at another. Only those sources, what calls them and the test are compiled
# anew (OPTIONs: as the build compiles the AMX sources, -O set aside); the rest is BUILD's. Exit 77 (ctest:
# skipped) where the processor has no AMX.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
build="$1" source="$2" compiler="$3"
shift 3
if ! grep -qw amx_bf16 /proc/cpuinfo; then
    echo "skipped: this processor has no AMX"
    exit 77
fi
cache=()
command -v ccache >/dev/null && cache=(env "CCACHE_BASEDIR=$source" CCACHE_NOHASHDIR=1 ccache)

level=() base=()
for option in "$@"; do
    case "$option" in
    -O*) ;;
    -m* | -DCPU_LEVEL*) level+=("$option") ;;
    *) level+=("$option") base+=("$option") ;;
    esac
done

compile() { # OUTPUT SOURCE OPTION...
    local out="$1" from="$2"
    shift 2
    "${cache[@]}" "$compiler" -std=gnu11 -g1 -I"$source" "$@" -c "$from" -o "$out"
}

check() { # NAME FLAG...
    local name="$1" folder="$build/amx_flags/$1" file objects=()
    shift
    rm -rf "$folder"
    mkdir -p "$folder"
    for file in "$source"/kernels/cpu/amx/*.c; do
        compile "$folder/$(basename "$file").o" "$file" "${level[@]}" "$@"
        objects+=("$folder/$(basename "$file").o")
    done
    for file in "$source"/kernels/cpu/*.c "$source/tests/unit/test_kernels.c"; do
        compile "$folder/$(basename "$file").o" "$file" "${base[@]}" "$@"
        objects+=("$folder/$(basename "$file").o")
    done
    # Ours come first, so that the archive's of the same names stay out.
    "$compiler" "$@" -o "$folder/test_kernels" "${objects[@]}" "$build/libesp_kernels.a" "$build/libesp_base.a" \
        -lcmocka -ljemalloc -lpthread -lm
    echo "== $name: $*"
    "$folder/test_kernels"
}

check o2 -O2
check o3 -O3
check lto -O3 -flto=auto
