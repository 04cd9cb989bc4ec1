#!/usr/bin/env bash
# What a kernel file may not say, or it could not be run by the emulator as the device runs it:
# PTX and launches belong to kernels/cuda/cu.h and its two halves, shared memory to CU_SHARED.
# usage: kernel_rules.sh FOLDER...    exit 1 and the lines, if there are any.
#        kernel_rules.sh --test       does it find what it looks for?
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

rules='\basm\b|__asm__|<<<|__shared__|__activemask|atomicAdd\(\(?float|#include *<(cuda_runtime\.h|cuda_fp|cuda_bf|cuda/|mma|cooperative|cub|cutlass|thrust|nv)'

# Comments are not code: a line comment, and block comments of whole lines.
code_of() {
    sed -E 's://.*$::; s:/\*[^*]*\*/::g' "$1" | awk '
        /\/\*/ { sub(/\/\*.*/, ""); print; inside = 1; next }
        inside { if (sub(/.*\*\//, "")) inside = 0; else $0 = "" }
        { print }'
}

# A kernel that does not say how many threads its blocks have gets registers for any number, and a launch of 1,024 may
# find too few: lines with a __global__ and no bounds behind it.
unbounded_in() {
    code_of "$1" | tr '\n' ' ' | grep -oE '__global__[^;{]*[;{]' | grep -v '__launch_bounds__'
}

broken_in() {
    local status=0 file found
    while IFS= read -r file; do
        case "$(basename "$file")" in
        cu.h | cu_ptx.h | cu_twin.h) continue ;;
        esac
        if found=$(code_of "$file" | grep -nE "$rules"); then
            echo "$found" | sed "s|^|$file:|" >&2
            status=1
        fi
        case "$file" in *tests/cuda/*) continue ;; esac # launched by tests alone, with few threads
        if found=$(unbounded_in "$file"); then
            echo "$found" | sed "s|^|$file: no __launch_bounds__: |" >&2
            status=1
        fi
    done < <(find "$@" -name '*.cu' -o -name '*.cuh' -o -name 'cuda_*.h' | sort)
    return $status
}

# Each broken line alone is found; the same in a comment, and what is allowed, is not.
test_itself() {
    local folder line
    folder=$(mktemp -d)
    trap "rm -rf '$folder'" EXIT
    while IFS= read -r line; do
        echo "$line" >"$folder/one.cu"
        if broken_in "$folder" 2>/dev/null; then
            echo "not found: $line" >&2
            return 1
        fi
    done <<'END'
    asm volatile("bar.sync 0;");
    kernel<<<1, 32>>>(p);
    __shared__ float s[32];
    unsigned m = __activemask();
#include <cuda_fp16.h>
#include <cooperative_groups.h>
    __global__ void kernel(float *p) { *p = 1; }
END
    printf '%s\n' '// asm' '/* __shared__' ' * <<< */' '#include <cuda_runtime_api.h>' \
        'CU_SHARED(float, s, [32]); int plasma = 0;' '__global__ void __launch_bounds__(32)' 'k(int *p) {' >"$folder/one.cu"
    broken_in "$folder"
}

if [[ ${1:-} == --test ]]; then
    test_itself
else
    broken_in "$@"
fi
