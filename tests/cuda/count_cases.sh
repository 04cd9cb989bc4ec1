#!/usr/bin/env bash
# count_cases.sh - how many cases the kernel matrix has: what the programs of tests/cuda wrote (kernel_cases.h).
# usage: count_cases.sh FOLDER LEAST    exit 1 if there are fewer than LEAST in FOLDER's files *.cases.
#        count_cases.sh --test          does it add up?
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

count_in() {
    local folder="$1" least="$2" sum
    sum=$(cat "$folder"/*.cases | awk '{ sum += $1 } END { print sum + 0 }')
    for file in "$folder"/*.cases; do
        printf '%-28s %5d\n' "$(basename "$file" .cases)" "$(cat "$file")"
    done
    printf '%-28s %5d, at least %d are wanted\n' "all" "$sum" "$least"
    [ "$sum" -ge "$least" ]
}

test_itself() {
    local folder
    folder=$(mktemp -d)
    trap "rm -rf '$folder'" EXIT
    echo 250 >"$folder/one.cases"
    echo 150 >"$folder/two.cases"
    count_in "$folder" 400
    ! count_in "$folder" 401
}

if [[ ${1:-} == --test ]]; then
    test_itself
else
    count_in "$@"
fi
