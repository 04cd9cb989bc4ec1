# gpu_lib.sh - what tests/gpu/run.sh and bench/gpu.sh share: programs built here for this machine's device, or a folder
# of them built elsewhere. Sourced, never run.
#
# Built here: nvcc, and the libraries of the package group `build` (scripts/packages.txt) and cmocka; no gRPC, nothing
# is downloaded. Built elsewhere: `tests/gpu/run.sh --pack FOLDER` on a machine with nvcc makes a folder of programs and
# the shared libraries they need; copy it and the source tree, then --programs FOLDER.
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
GPU_BUILD="$ROOT/build/gpu"
PROGRAMS=
RESULTS="${ESPALIER_GPU_RESULTS:-$ROOT/bench/results}"

say() { printf '== %s\n' "$*" >&2; }

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# The capability of this machine's first device, as 90; nothing without a driver.
native_arch() {
    command -v nvidia-smi >/dev/null || return 0
    nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '. '
}

# What a build takes and this machine has not, on one line. nvcc is looked for by cmake.
missing_here() {
    local name
    for name in cc cmake ninja pkg-config; do
        command -v "$name" >/dev/null || printf '%s ' "$name"
    done
    command -v pkg-config >/dev/null || return 0
    for name in jemalloc jansson libpcre2-8 libutf8proc libxxhash libcyaml libcrypto cmocka; do
        pkg-config --exists "$name" || printf '%s ' "$name"
    done
}

# The packages that have all of it.
packages_wanted() {
    awk '$1 == "build" || $2 == "libcmocka-dev" {printf "%s ", $2}' "$ROOT/scripts/packages.txt"
}

# build_programs ARCHS TARGET...: ARCHS empty: all of them. Another compiler's warnings end no build here.
build_programs() {
    local archs="$1" log="$GPU_BUILD.log" missing
    shift
    missing="$(missing_here)"
    [ -z "$missing" ] || fail "to build, this machine lacks ${missing% }: apt-get install $(packages_wanted)- or build \
elsewhere with tests/gpu/run.sh --pack FOLDER, and name that folder here with --programs"
    say "building with nvcc (log: ${log#"$ROOT"/})"
    mkdir -p "$ROOT/build"
    cmake -S "$ROOT" -B "$GPU_BUILD" -G Ninja -DCMAKE_BUILD_TYPE=Release -DESPALIER_CUDA=ON -DESPALIER_SERVER=OFF -DESPALIER_WERROR=OFF \
        ${archs:+"-DESPALIER_CUDA_ARCHS=$archs"} >"$log" 2>&1 ||
        fail "configuring failed: $(grep -m 1 -A 6 'CMake Error' "$log" | tr -s ' \n' ' ')see $log"
    cmake --build "$GPU_BUILD" --parallel "$(nproc)" --target "$@" >>"$log" 2>&1 ||
        fail "the build failed: $(grep -m 1 -E 'error|FAILED' "$log"); see $log"
}

# Sets PROGRAMS, building where no folder of programs was named.
need_programs() {
    if [ -z "$PROGRAMS" ]; then
        build_programs "$(native_arch)" gpu
        PROGRAMS="$GPU_BUILD/packed"
        collect_programs "$PROGRAMS"
    fi
    [ -x "$PROGRAMS/gpu_probe" ] || fail "$PROGRAMS has no program gpu_probe: name a folder that --pack made"
    export LD_LIBRARY_PATH="$PROGRAMS/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
}

# collect_programs FOLDER: all programs of the build into one folder, what they load into FOLDER/lib but for the
# C library's own.
collect_programs() {
    local folder="$1" library
    rm -rf "$folder"
    mkdir -p "$folder/lib"
    cp "$GPU_BUILD"/tests/gpu/gpu_probe "$GPU_BUILD"/tests/gpu/test_cuda_* "$GPU_BUILD/bench/gpu/bench_gpu" \
        "$GPU_BUILD/espalier" "$folder"
    strip "$folder"/test_cuda_* "$folder/bench_gpu" "$folder/espalier" "$folder/gpu_probe"
    for library in $(ldd "$folder"/test_cuda_* "$folder/espalier" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u); do
        case "$(basename "$library")" in
        libc.so.* | libm.so.* | libdl.so.* | librt.so.* | libpthread.so.* | ld-linux*) ;;
        *) cp -L "$library" "$folder/lib" ;;
        esac
    done
}

# The device as JSON; ends the script with 77 where there is none.
probe_device() {
    local why
    why="$("$PROGRAMS/gpu_probe" 2>&1)" || {
        say "skipped: $why"
        exit 77
    }
    echo "$why"
}
