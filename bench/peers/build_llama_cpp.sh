#!/usr/bin/env bash
# build_llama_cpp.sh - the fair llama.cpp: a native clang build of the sources inside a pinned PyPI sdist.
#
# A prebuilt wheel is made for old processors, and gcc 12 miscompiles llama.cpp's AMX set-up (SIGILL), so
# neither would be a fair peer. clang 14 knows AMX under older macro names, so those that the sources ask for
# are given by hand where the processor has it. Nothing is installed: all stays in the cache folder.
#
# Usage  build_llama_cpp.sh [--jobs N]     prints the folder of its programs (TARGETS below)
# Takes  about 15 minutes on 2 cores; a finished build is found again in no time.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

VERSION=0.3.36
SHA256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
CACHE="${ESPALIER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/espalier}/peers"
SOURCE="$CACHE/llama_cpp_python-$VERSION/vendor/llama.cpp"
BUILD="$CACHE/llama.cpp-$VERSION-clang"
TARGETS=(llama-bench llama-batched-bench llama-server llama-perplexity)
JOBS="$(nproc)"
[ "${1:-}" != --jobs ] || JOBS="$2"

fail() {
    echo "build_llama_cpp.sh: $*" >&2
    exit 1
}

fetch_source() {
    local sdist="$CACHE/llama_cpp_python-$VERSION.tar.gz"
    if [ ! -f "$sdist" ]; then
        # A venv of its own: the system's pip may be absent, and `pip download` of an sdist asks its
        # build back end for metadata.
        [ -x "$CACHE/venv/bin/pip" ] || python3 -m venv "$CACHE/venv" >&2 ||
            fail "python3 -m venv failed; install python3-venv"
        "$CACHE/venv/bin/pip" download --quiet --no-deps --no-binary llama-cpp-python \
            --dest "$CACHE" "llama-cpp-python==$VERSION" >&2 ||
            fail "the sdist of llama-cpp-python $VERSION could not be downloaded; is a registry reachable?"
    fi
    echo "$SHA256  $sdist" | sha256sum --check --quiet >&2 ||
        fail "$sdist has another hash than expected; remove it and run again"
    tar xzf "$sdist" -C "$CACHE"
}

all_built() {
    local target
    for target in "${TARGETS[@]}"; do
        [ -x "$BUILD/bin/$target" ] || return 1
    done
}

amx_flags() {
    local macros
    macros="$(clang -march=native -dM -E -x c /dev/null)"
    if grep -q __AMXINT8__ <<<"$macros" && ! grep -q __AMX_INT8__ <<<"$macros"; then
        echo "-D__AMX_INT8__=1 -D__AMX_TILE__=1"
    fi
}

mkdir -p "$CACHE"
if ! all_built; then
    for tool in clang clang++ cmake ninja; do
        command -v "$tool" >/dev/null || fail "$tool is missing; apt-get install clang cmake ninja-build"
    done
    [ -d "$SOURCE" ] || fetch_source
    cmake -S "$SOURCE" -B "$BUILD" -G Ninja -DCMAKE_BUILD_TYPE=Release \
        -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DBUILD_SHARED_LIBS=OFF \
        -DCMAKE_C_FLAGS="$(amx_flags)" -DCMAKE_CXX_FLAGS="$(amx_flags)" -DGGML_NATIVE=ON -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
        -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_APP=OFF >"$BUILD.log" 2>&1 ||
        fail "cmake failed; see $BUILD.log"
    echo "building llama.cpp $VERSION with $JOBS jobs (log: $BUILD.log)" >&2
    nice -n 19 ninja -C "$BUILD" -j "$JOBS" "${TARGETS[@]}" >>"$BUILD.log" 2>&1 ||
        fail "the build failed; see $BUILD.log"
fi
echo "$BUILD/bin"
